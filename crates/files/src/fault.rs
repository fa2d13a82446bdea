//! From what the kernel says no with to a row of the error table, with the path in the detail.

use std::io;
use std::path::Path;

use landfast_core::{ErrorCode, Problem};
use rustix::io::Errno;

/// The most of a name that stands in a refusal.
const NAME_MAX: usize = 300;

/// The refusal that an error on a path becomes.
pub fn fault(error: impl Into<io::Error>, path: &Path) -> Problem {
    let error = error.into();
    let Some(errno) = Errno::from_io_error(&error) else {
        return refusal(ErrorCode::FileFailed, path, &error);
    };
    let code = match errno {
        Errno::NOENT => ErrorCode::FileNotFound,
        Errno::EXIST => ErrorCode::FileExists,
        Errno::NOTDIR => ErrorCode::FileNotADirectory,
        Errno::ISDIR => ErrorCode::FileNotAFile,
        Errno::NOTEMPTY => ErrorCode::FileNotEmpty,
        Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::BUSY | Errno::TXTBSY => ErrorCode::FileDenied,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => ErrorCode::FileNoSpace,
        Errno::XDEV => ErrorCode::FileOtherDevice,
        Errno::NAMETOOLONG | Errno::LOOP | Errno::INVAL => ErrorCode::RequestInvalid,
        Errno::MFILE | Errno::NFILE => ErrorCode::LimitInFlight,
        _ => ErrorCode::FileFailed,
    };
    refusal(code, path, &rustix_text(errno))
}

/// A refusal about a path.
pub(crate) fn refusal(code: ErrorCode, path: &Path, what: &dyn std::fmt::Display) -> Problem {
    Problem::new(code, format!("{}: {what}.", name(path)))
}

/// A path as text for people.
pub(crate) fn name(path: &Path) -> String {
    let text = path.to_string_lossy();
    match text.char_indices().nth(NAME_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// The kernel's words without the number that the standard library puts behind them.
fn rustix_text(errno: Errno) -> String {
    let text = io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_a_row_with_the_path() {
        for (errno, code) in [
            (Errno::NOENT, ErrorCode::FileNotFound),
            (Errno::NOSPC, ErrorCode::FileNoSpace),
            (Errno::DQUOT, ErrorCode::FileNoSpace),
            (Errno::ROFS, ErrorCode::FileDenied),
            (Errno::IO, ErrorCode::FileFailed),
        ] {
            assert_eq!(fault(errno, Path::new("/a")).code, code);
        }
        let problem = fault(Errno::NOENT, Path::new("/a/b"));
        assert_eq!(problem.detail, "/a/b: no such file or directory.");
    }
}
