//! Until when a node holds its lease, where its agents can read it for themselves.
//!
//! A connection that a node has handed over is the agent's, and a node that is stopped, wedged or killed cannot take it
//! back. Yet its lease lapses, and its instances may be given to others. So the node writes down until when it may serve
//! each time that is put off, in a small file, and its agents have the file's descriptor: an agent that carries anything
//! looks when the time is over, and cuts what it carries unless the node has meanwhile written a later one. Nobody has
//! to be told anything, and an agent that carries nothing is never woken. See docs/decisions/0009.
//!
//! A tenure that others may have seen end is never prolonged: the next one begins in another file. What was handed over
//! under the old one ends with it, whatever becomes of the node.
//!
//! In the file: nanoseconds of the machine's monotonic clock (u64, big-endian), and their complement, so that a reader who
//! comes in the middle of a write notices. The clock begins anew with the machine, and so do all agents.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfast_core::time::Instant;

const LENGTH: usize = 16;

/// How often a file that is being written is read again: a write is over in a microsecond.
const ATTEMPTS: u32 = 100;

/// The node's side: writes until when it may serve.
#[derive(Debug)]
pub struct TenureFile {
    path: PathBuf,
    file: File,
    /// What the file says.
    until: Option<Instant>,
    /// What is handed out.
    view: Tenure,
}

/// The agent's side: reads until when its node may serve. Clones share the descriptor.
#[derive(Clone, Debug)]
pub struct Tenure(Arc<File>);

impl TenureFile {
    /// Opens the file, or makes it. What an earlier daemon of the node wrote stays: its connections are this one's.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // Instances get this one: nobody can write through it.
        let view = Tenure(Arc::new(File::open(path)?));
        Ok(Self { path: path.to_owned(), file, until: None, view })
    }

    /// Begins another tenure: what was given out until now is not prolonged any more.
    ///
    /// # Errors
    ///
    /// The file system's; the old tenure goes on.
    pub fn begin_anew(&mut self) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        fs::remove_file(&fresh).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        let next = Self::open(&fresh)?;
        fs::rename(&fresh, &self.path)?;
        *self = Self { path: self.path.clone(), ..next };
        Ok(())
    }

    /// Writes down until when the node may serve, if that has changed.
    ///
    /// # Errors
    ///
    /// The file system's; agents then go by what was written last.
    pub fn hold_until(&mut self, until: Instant) -> io::Result<()> {
        if self.until == Some(until) {
            return Ok(());
        }
        let nanos = until.as_nanos();
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&nanos.to_be_bytes());
        bytes[8..].copy_from_slice(&(!nanos).to_be_bytes());
        self.file.write_all_at(&bytes, 0)?;
        self.until = Some(until);
        Ok(())
    }

    /// What agents are given.
    pub fn view(&self) -> Tenure {
        self.view.clone()
    }
}

impl Tenure {
    /// Until when the node may serve; the clock's zero if that cannot be read, or was never written.
    pub fn until(&self) -> Instant {
        for _ in 0..ATTEMPTS {
            let mut bytes = [0; LENGTH];
            if self.0.read_exact_at(&mut bytes, 0).is_err() {
                return Instant::ZERO;
            }
            let [nanos, complement] = [&bytes[..8], &bytes[8..]].map(|half| {
                let half: [u8; 8] = half.try_into().expect("eight bytes");
                u64::from_be_bytes(half)
            });
            if nanos == !complement {
                return Instant::from_nanos(nanos);
            }
        }
        Instant::ZERO
    }

    /// Whether both are of the same node.
    pub fn is(&self, other: &Self) -> bool {
        let [one, two] = [self, other].map(|tenure| tenure.0.metadata().map(|of| (of.dev(), of.ino())).ok());
        one.is_some() && one == two
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<OwnedFd> for Tenure {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(File::from(fd)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn a_reader_sees_each_time_that_is_written_and_the_next_daemon_goes_on_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        let mut file = TenureFile::open(&path).unwrap();
        let view = file.view();
        assert_eq!(view.until(), Instant::ZERO);
        for until in [at(5), at(70_000), at(6)] {
            file.hold_until(until).unwrap();
            assert_eq!(view.until(), until);
        }
        let mut next = TenureFile::open(&path).unwrap();
        assert!(next.view().is(&view) && next.view().until() == at(6));
        next.hold_until(at(9)).unwrap();
        assert_eq!(view.until(), at(9));
        assert!(!TenureFile::open(&dir.path().join("other")).unwrap().view().is(&view));
    }

    #[test]
    fn what_was_given_out_is_not_prolonged_once_another_tenure_has_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        let mut file = TenureFile::open(&path).unwrap();
        let old = file.view();
        file.hold_until(at(5)).unwrap();
        file.begin_anew().unwrap();
        let new = file.view();
        assert_eq!((old.until(), new.until(), old.is(&new)), (at(5), Instant::ZERO, false));
        file.hold_until(at(9)).unwrap();
        assert_eq!((old.until(), new.until()), (at(5), at(9)));
        assert!(TenureFile::open(&path).unwrap().view().is(&new), "the next daemon goes on with it");
    }

    #[test]
    fn what_is_half_written_or_unreadable_allows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        let view = TenureFile::open(&path).unwrap().view();
        for text in [&b""[..], b"12345678", b"0123456789abcdef", &[0; LENGTH]] {
            fs::write(&path, text).unwrap();
            assert_eq!(view.until(), Instant::ZERO, "{text:?}");
        }
    }

    #[test]
    fn a_view_cannot_be_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let view = TenureFile::open(&dir.path().join("lease")).unwrap().view();
        assert!(view.0.write_all_at(b"x", 0).is_err());
    }
}
