//! Where a tree lands that somebody else made: every entry stays below one directory.
//!
//! Names are taken apart and walked from that directory's descriptor, one part at a time, and no link is ever followed:
//! neither one that came with the tree nor one that was there before. So there is no name, and no order of entries, that
//! leads out.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use landfast_core::{ErrorCode, Problem};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::DEPTH_MAX;
use crate::change::{DIRECTORY_MODE, make_directory};
use crate::draft::{Draft, put, temporary_name};
use crate::fault::{fault, refusal};

/// The most directories whose owner may not write to them, which is only said once all is in them.
const CLOSED_MAX: usize = 10_000;

/// What its owner may do with a directory that is being filled.
const OPEN: u32 = 0o700;

/// Which symbolic links a tree may bring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Links {
    /// Those that lead to somewhere within the tree.
    #[default]
    Inside,
    /// Any; they are made as they are, and not followed.
    Any,
}

/// A directory in which a tree lands.
#[derive(Debug)]
pub struct Landing {
    root: OwnedFd,
    links: Links,
    /// The directory of the last entry: the next one is most often there too.
    last: Option<(Vec<OsString>, OwnedFd)>,
    /// Directories that get their mode at the end.
    closed: Vec<(Vec<OsString>, u32)>,
}

impl Landing {
    /// Opens the directory, which is made if `makes_parents`. A link there is followed: it is the caller's word.
    ///
    /// # Errors
    ///
    /// What the kernel says no with.
    pub fn open(path: &Path, makes_parents: bool, links: Links) -> Result<Self, Problem> {
        if makes_parents {
            make_directory(path, true, None)?;
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| fault(error, path))?;
        Ok(Self { root, links, last: None, closed: Vec::new() })
    }

    /// A directory, with those above it. One that is there stays as it is.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::FileEscape`], [`ErrorCode::FileExists`] if something else is there, and what the kernel says no with.
    pub fn directory(&mut self, name: &[u8], mode: u32) -> Result<(), Problem> {
        let parts = parts(name)?;
        let Some((last, parents)) = parts.split_last() else { return Ok(()) };
        let dir = self.enter(parents, name)?;
        let refuse = |error: Errno| fault(error, &shown(name));
        match rustix::fs::mkdirat(dir, last, Mode::from_raw_mode(OPEN)) {
            Ok(()) => {}
            Err(Errno::EXIST) if kind(dir, last) == Some(FileType::Directory) => return Ok(()),
            Err(error) => return Err(refuse(error)),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let made = rustix::fs::openat(dir, last, flags, Mode::empty()).map_err(refuse)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode & 0o777 | OPEN)).map_err(refuse)?;
        if mode & OPEN != OPEN {
            if self.closed.len() == CLOSED_MAX {
                let what = format!("more than {CLOSED_MAX} directories are closed to their owner");
                return Err(refusal(ErrorCode::FileArchive, &shown(name), &what));
            }
            self.closed.push((parts, mode & 0o777));
        }
        Ok(())
    }

    /// Begins a file, which takes the place of a file or a link that is there.
    ///
    /// # Errors
    ///
    /// As [`Landing::directory`].
    pub fn file(&mut self, name: &[u8]) -> Result<Draft, Problem> {
        let parts = parts(name)?;
        let Some((last, parents)) = parts.split_last() else {
            return Err(refusal(ErrorCode::FileExists, &shown(name), &"it is the directory itself"));
        };
        let dir = self.enter(parents, name)?;
        if kind(dir, last) == Some(FileType::Directory) {
            return Err(refusal(ErrorCode::FileExists, &shown(name), &"a directory is there"));
        }
        let dir = dir.try_clone().map_err(|error| fault(error, &shown(name)))?;
        Draft::within(dir, last, &shown(name))
    }

    /// Makes a symbolic link, which takes the place of a file or a link that is there.
    ///
    /// # Errors
    ///
    /// As [`Landing::directory`]; [`ErrorCode::FileEscape`] also for where it leads.
    pub fn link(&mut self, name: &[u8], target: &[u8]) -> Result<(), Problem> {
        let parts = parts(name)?;
        let Some((last, parents)) = parts.split_last() else {
            return Err(refusal(ErrorCode::FileExists, &shown(name), &"it is the directory itself"));
        };
        if self.links == Links::Inside && !stays_inside(target, parents.len()) {
            let what = format!("it is a symbolic link to {}, which leads out of the tree", shown(target).display());
            return Err(refusal(ErrorCode::FileEscape, &shown(name), &what));
        }
        let dir = self.enter(parents, name)?;
        let refuse = |error: Errno| match error {
            Errno::ISDIR => refusal(ErrorCode::FileExists, &shown(name), &"a directory is there"),
            error => fault(error, &shown(name)),
        };
        let temporary = temporary_name();
        rustix::fs::symlinkat(OsStr::from_bytes(target), dir, &temporary).map_err(refuse)?;
        put(dir, &temporary, last, false).map_err(|error| {
            // Nothing can be done about one that cannot be removed.
            let _ = rustix::fs::unlinkat(dir, &temporary, AtFlags::empty());
            refuse(error)
        })
    }

    /// Closes the directories that their owner may not write to, the innermost first.
    ///
    /// # Errors
    ///
    /// What the kernel says no with.
    pub fn finish(mut self) -> Result<(), Problem> {
        while let Some((parts, mode)) = self.closed.pop() {
            let name = parts.join(OsStr::new("/"));
            let refuse = |error: Errno| fault(error, Path::new(&name));
            let dir = self.enter(&parts, name.as_bytes())?;
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
            let dir = rustix::fs::openat(dir, ".", flags, Mode::empty()).map_err(refuse)?;
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode)).map_err(refuse)?;
        }
        Ok(())
    }

    /// Opens a directory below, and makes what is missing on the way.
    fn enter(&mut self, parts: &[OsString], name: &[u8]) -> Result<&OwnedFd, Problem> {
        if parts.is_empty() {
            return Ok(&self.root);
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != parts) {
            let refuse = |error: std::io::Error| fault(error, &shown(name));
            let mut dir = self.root.as_fd().try_clone_to_owned().map_err(refuse)?;
            for part in parts {
                dir = step(&dir, part, name)?;
            }
            self.last = Some((parts.to_vec(), dir));
        }
        Ok(self.last.as_ref().map_or(&self.root, |(_, dir)| dir))
    }
}

/// One directory further down.
fn step(dir: &OwnedFd, part: &OsStr, name: &[u8]) -> Result<OwnedFd, Problem> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
    let open = || rustix::fs::openat(dir, part, flags, Mode::empty());
    let opened = match open() {
        Err(Errno::NOENT) => {
            match rustix::fs::mkdirat(dir, part, Mode::from_raw_mode(DIRECTORY_MODE)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(fault(error, &shown(name))),
            }
            open()
        }
        opened => opened,
    };
    opened.map_err(|error| match (error, kind(dir, part)) {
        (Errno::NOTDIR | Errno::LOOP, Some(FileType::Symlink)) => {
            let what = format!("its way passes through the symbolic link {}", part.to_string_lossy());
            refusal(ErrorCode::FileEscape, &shown(name), &what)
        }
        (error, _) => fault(error, &shown(name)),
    })
}

fn kind(dir: &OwnedFd, name: &OsStr) -> Option<FileType> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

/// Takes a name apart. Empty parts and dots mean nothing.
fn parts(name: &[u8]) -> Result<Vec<OsString>, Problem> {
    let escape = |what: &str| Err(refusal(ErrorCode::FileEscape, &shown(name), &what));
    if name.starts_with(b"/") {
        return escape("its name is absolute");
    }
    if name.contains(&0) {
        return Err(refusal(ErrorCode::FileArchive, &shown(name), &"its name holds a zero byte"));
    }
    let parts: Vec<_> = name.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return escape("its name leads upwards");
    }
    if parts.len() > DEPTH_MAX {
        let what = format!("it lies more than {DEPTH_MAX} directories deep");
        return Err(refusal(ErrorCode::FileArchive, &shown(name), &what));
    }
    Ok(parts.into_iter().map(|part| OsString::from_vec(part.to_vec())).collect())
}

/// Whether a link that lies so deep leads to somewhere within the tree. It may go up first and then only down: a name
/// that goes up after it has gone down through another link would be somewhere else than it looks.
fn stays_inside(target: &[u8], depth: usize) -> bool {
    let mut parts = target.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".").peekable();
    let mut ups = 0;
    while parts.next_if(|part| *part == b"..").is_some() {
        ups += 1;
    }
    !target.starts_with(b"/") && ups <= depth && parts.all(|part| part != b"..")
}

fn shown(name: &[u8]) -> PathBuf {
    OsStr::from_bytes(name).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside_or_do_not() {
        for (target, depth, stays) in [
            ("a", 0, true),
            ("./a/b", 0, true),
            ("../a", 1, true),
            ("../a", 0, false),
            ("..", 0, false),
            ("/etc", 3, false),
            ("a/../b", 1, false),
            ("../../a", 2, true),
            ("", 0, true),
        ] {
            assert_eq!(stays_inside(target.as_bytes(), depth), stays, "{target} at {depth}");
        }
    }
}
