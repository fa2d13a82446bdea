//! Names of files are bytes; URLs and JSON are text. A path travels with every byte that is no plain character of a URL
//! percent-encoded, so that no name is out of reach.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// What stands as it is in a query, wherever a path is put.
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Writes a path so that it can stand in a query.
pub fn encode(path: &Path) -> String {
    percent_encode(path.as_os_str().as_bytes(), &PLAIN).to_string()
}

/// Reads a path out of a query's value. As in every form, a plus is a space.
pub fn decode(text: &str) -> PathBuf {
    let text = text.replace('+', " ");
    OsString::from_vec(percent_decode_str(&text).collect()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back() {
        for name in [&b"/a b+c&d=e%41/\xff\xfe"[..], b"/plain/file-1_2.x~", "/\u{e4}\u{1f600}".as_bytes()] {
            let path = PathBuf::from(OsString::from_vec(name.to_vec()));
            let text = encode(&path);
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b"&=+#?".contains(&byte)), "{text}");
            assert_eq!(decode(&text), path);
        }
        assert_eq!(decode("/a+b%2Bc"), Path::new("/a b+c"));
    }
}
