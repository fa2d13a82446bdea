//! The events that an instance's agent has stored and the archive does not have yet.
//!
//! The agent's directory is the instance's own to write in, so it is read with as little trust as its sockets: no link is
//! followed, and only files that are named as segments, and have the size of some, are taken.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use landfast_core::event::Segment;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, renameat, unlinkat};

use crate::identity::replace;

/// The file, which the instance does not see, with the name of the last segment that the archive has. Segments are sealed
/// in the order of their names.
const MARK: &str = "archived.json";

/// What an agent's segment has behind its name while it grows.
const OPEN: &str = ".open";

/// The most bytes of a segment: many times what an agent seals.
const SEGMENT_MAX: u64 = 16 << 20;

/// The segments in a directory.
#[derive(Debug)]
pub(crate) struct Outbox {
    events: OwnedFd,
    mark: PathBuf,
}

impl Outbox {
    /// The outbox of the instance with this directory; `None` if it has none.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn of_instance(dir: &Path) -> io::Result<Option<Self>> {
        let Some(dir_fd) = present(rustix::fs::openat(CWD, dir, directory(), Mode::empty()))? else { return Ok(None) };
        let events = present(openat2(dir_fd, "state/events", directory(), Mode::empty(), inside()))?;
        Ok(events.map(|events| Self { events, mark: dir.join(MARK) }))
    }

    /// What was put aside in a directory of the node's.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn aside(dir: &Path) -> io::Result<Option<Self>> {
        let events = present(rustix::fs::openat(CWD, dir, directory(), Mode::empty()))?;
        Ok(events.map(|events| Self { events, mark: dir.join(MARK) }))
    }

    /// When something was last added, sealed or removed.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn changed_at(&self) -> io::Result<SystemTime> {
        File::from(self.events.try_clone()?).metadata()?.modified()
    }

    /// The sealed segments that the archive does not have, oldest first.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn pending(&self) -> io::Result<Vec<Segment>> {
        let mark: Option<(u64, u64)> = fs::read(&self.mark).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let mark = mark.map(|(start, first)| Segment { start, first });
        let names = self.names()?;
        let mut pending: Vec<Segment> = names.iter().filter_map(|name| name.parse().ok()).collect();
        pending.retain(|&segment| mark.is_none_or(|mark| segment > mark));
        pending.sort_unstable();
        Ok(pending)
    }

    /// Reads a segment; `None` if it is gone, or is none.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn read(&self, segment: Segment) -> io::Result<Option<Bytes>> {
        let Some(file) = self.open(&segment.to_string(), OFlags::RDONLY)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(SEGMENT_MAX).read_to_end(&mut bytes)?;
        Ok(Some(bytes.into()))
    }

    /// Notes that the archive has everything up to this segment.
    ///
    /// # Errors
    ///
    /// The file system's; then it is copied once more.
    pub(crate) fn archived(&self, segment: Segment) -> io::Result<()> {
        replace(&self.mark, &(segment.start, segment.first))
    }

    /// Removes a segment.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn remove(&self, segment: Segment) -> io::Result<()> {
        present(unlinkat(&self.events, segment.to_string(), AtFlags::empty())).map(drop)
    }

    /// Seals what an agent that does not live any more was still writing, behind its last whole line.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn seal(&self) -> io::Result<()> {
        for name in self.names()? {
            let Some(sealed) = name.strip_suffix(OPEN) else { continue };
            if sealed.parse::<Segment>().is_err() {
                continue;
            }
            let Some(mut file) = self.open(&name, OFlags::RDWR)? else { continue };
            let mut bytes = Vec::new();
            (&mut file).take(SEGMENT_MAX).read_to_end(&mut bytes)?;
            let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            if whole == 0 {
                unlinkat(&self.events, name, AtFlags::empty())?;
                continue;
            }
            file.set_len(whole as u64)?;
            renameat(&self.events, &name, &self.events, sealed)?;
        }
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.events)? {
            names.extend(entry?.file_name().to_str().ok().map(ToOwned::to_owned));
        }
        Ok(names)
    }

    /// Opens a regular file that is not too large.
    fn open(&self, name: &str, how: OFlags) -> io::Result<Option<File>> {
        let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Some(file) = present(openat2(self.events.as_fd(), name, flags, Mode::empty(), inside()))? else {
            return Ok(None);
        };
        let stat = rustix::fs::fstat(&file)?;
        let is_one = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && u64::try_from(stat.st_size).is_ok_and(|size| size <= SEGMENT_MAX);
        Ok(is_one.then(|| File::from(file)))
    }
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn inside() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS
}

/// What is there; what is not, or is a link or a socket in the place of something else, is nothing.
fn present<T>(result: rustix::io::Result<T>) -> io::Result<Option<T>> {
    use rustix::io::Errno;
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn instance() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let events = dir.path().join("state/events");
        fs::create_dir_all(&events).unwrap();
        (dir, events)
    }

    fn segment(first: u64) -> Segment {
        Segment { start: 1_790_000_000_000, first }
    }

    #[test]
    fn only_sealed_segments_that_were_not_archived_are_pending() {
        let (dir, events) = instance();
        for name in
            [segment(1).to_string(), segment(9).to_string(), format!("{}.open", segment(12)), "start".to_owned()]
        {
            fs::write(events.join(name), "x\n").unwrap();
        }
        let outbox = Outbox::of_instance(dir.path()).unwrap().unwrap();
        assert_eq!(outbox.pending().unwrap(), [segment(1), segment(9)]);
        outbox.archived(segment(1)).unwrap();
        assert_eq!(outbox.pending().unwrap(), [segment(9)]);
        assert_eq!(outbox.read(segment(9)).unwrap().unwrap(), "x\n");
        assert_eq!(outbox.read(segment(10)).unwrap(), None);
    }

    #[test]
    fn what_a_dead_agent_was_writing_is_sealed_behind_its_last_whole_line() {
        let (dir, events) = instance();
        fs::write(events.join(format!("{}.open", segment(1))), "whole\nhal").unwrap();
        fs::write(events.join(format!("{}.open", segment(2))), "hal").unwrap();
        let outbox = Outbox::of_instance(dir.path()).unwrap().unwrap();
        outbox.seal().unwrap();
        assert_eq!(outbox.pending().unwrap(), [segment(1)]);
        assert_eq!(outbox.read(segment(1)).unwrap().unwrap(), "whole\n");
    }

    #[test]
    fn a_link_a_pipe_and_something_huge_are_no_segments() {
        let (dir, events) = instance();
        let secret = dir.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, events.join(segment(1).to_string())).unwrap();
        nix::unistd::mkfifo(&events.join(segment(2).to_string()), nix::sys::stat::Mode::S_IRWXU).unwrap();
        File::create(events.join(segment(3).to_string())).unwrap().set_len(SEGMENT_MAX + 1).unwrap();
        let outbox = Outbox::of_instance(dir.path()).unwrap().unwrap();
        for first in 1..=3 {
            assert_eq!(outbox.read(segment(first)).unwrap(), None, "{first}");
        }
        fs::remove_dir_all(&events).unwrap();
        symlink("/etc", &events).unwrap();
        assert!(Outbox::of_instance(dir.path()).unwrap().is_none());
        assert!(Outbox::of_instance(&dir.path().join("nothing")).unwrap().is_none());
    }
}
