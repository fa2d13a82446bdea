//! Where a start of the browser is reached, as the browser itself has written it down.

use std::fs;
use std::io;
use std::path::Path;

/// The file in a profile in which Chromium says where its DevTools listen.
const FILE: &str = "DevToolsActivePort";

/// The DevTools of one start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DevTools {
    /// The port on the loopback.
    pub(crate) port: u16,
    /// The path of the browser's own socket, with an id of this start.
    pub(crate) path: String,
    /// What the browser calls itself, such as `Chrome/156.0.8078.79`; empty before it was asked.
    pub(crate) version: String,
}

impl DevTools {
    /// DevTools whose version is not known.
    pub(crate) fn at(port: u16, path: impl Into<String>) -> Self {
        Self { port, path: path.into(), version: String::new() }
    }

    /// Reads where the browser with this profile listens; `None` if it has not said so yet, or not all of it.
    pub(crate) fn read(profile: &Path) -> Option<Self> {
        let text = fs::read_to_string(profile.join(FILE)).ok()?;
        let (port, path) = text.split_once('\n')?;
        let path = path.trim_end();
        // The file is not written in one piece, and the id comes last: 36 characters.
        let is_whole =
            path.rsplit_once('/').is_some_and(|(before, id)| before == "/devtools/browser" && id.len() == 36);
        let port = port.parse().ok().filter(|&port| port != 0)?;
        is_whole.then(|| Self::at(port, path))
    }

    /// Takes away what an earlier start has written, so that nobody takes it for the next one's.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn clear(profile: &Path) -> io::Result<()> {
        match fs::remove_file(profile.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What it must be called in `Host`: it answers to no other name than an address, so that no page can reach it by one.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL of the browser's own socket.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}{}", self.host(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_file_is_read_and_a_cleared_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = "/devtools/browser/40605938-a932-4bd5-b6e6-5ea57319a89a";
        let text = format!("45599\n{path}");
        for end in 0..text.len() {
            fs::write(dir.path().join(FILE), &text[..end]).unwrap();
            assert_eq!(DevTools::read(dir.path()), None, "{end}");
        }
        for text in [text.clone(), format!("{text}\n")] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert_eq!(DevTools::read(dir.path()), Some(DevTools::at(45599, path)));
        }
        assert_eq!(DevTools::at(45599, path).url(), format!("ws://127.0.0.1:45599{path}"));
        DevTools::clear(dir.path()).unwrap();
        DevTools::clear(dir.path()).unwrap();
        assert_eq!(DevTools::read(dir.path()), None);
    }
}
