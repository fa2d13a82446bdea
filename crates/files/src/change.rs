//! Directories made, files moved and removed.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use landfast_core::{ErrorCode, Problem};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::content::Content;
use crate::draft::{Commit, Draft};
use crate::fault::{fault, refusal};
use crate::info::{FileKind, stat};

/// Who may do what with a directory for which nobody said.
pub(crate) const DIRECTORY_MODE: u32 = 0o755;

/// How a move came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// In one step.
    Renamed,
    /// As a copy on another file system, after which the first was removed.
    Copied,
}

/// Makes a directory, with those above it if `makes_parents`, and says whether it was not there.
///
/// # Errors
///
/// [`ErrorCode::FileExists`] if something else is there, and what the kernel says no with.
pub fn make_directory(path: &Path, makes_parents: bool, mode: Option<u32>) -> Result<bool, Problem> {
    if makes_parents && let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).create(parent).map_err(|error| fault(error, path))?;
    }
    match DirBuilder::new().create(path) {
        Ok(()) => {
            set_mode(path, mode.unwrap_or(DIRECTORY_MODE))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
        Err(error) => Err(fault(error, path)),
    }
}

/// Removes a file, or a link and not what it leads to.
///
/// # Errors
///
/// [`ErrorCode::FileNotAFile`] for a directory, and what the kernel says no with.
pub fn remove_file(path: &Path) -> Result<(), Problem> {
    if stat(path, false)?.kind == FileKind::Directory {
        return Err(refusal(ErrorCode::FileNotAFile, path, &"it is a directory"));
    }
    fs::remove_file(path).map_err(|error| fault(error, path))
}

/// Removes a directory that holds nothing.
///
/// # Errors
///
/// [`ErrorCode::FileNotEmpty`], and what else the kernel says no with.
pub fn remove_directory(path: &Path) -> Result<(), Problem> {
    fs::remove_dir(path).map_err(|error| fault(error, path))
}

/// Removes whatever is there and all that it holds. Links are removed, not followed, also one at the path itself.
///
/// # Errors
///
/// What the kernel says no with; then a part may be removed.
pub fn remove_tree(path: &Path) -> Result<(), Problem> {
    if path.file_name().is_none() {
        return Err(refusal(ErrorCode::FileDenied, path, &"a tree is removed by its name"));
    }
    match stat(path, false)?.kind {
        FileKind::Directory => fs::remove_dir_all(path),
        FileKind::File | FileKind::Link | FileKind::Fifo | FileKind::Socket | FileKind::Device => fs::remove_file(path),
    }
    .map_err(|error| fault(error, path))
}

/// Gives a file another name. One that is there already stays unless `overwrites`; a directory never replaces one that
/// holds something.
///
/// # Errors
///
/// [`ErrorCode::FileExists`]; [`ErrorCode::FileOtherDevice`] for a directory that would go to another file system; and
/// what the kernel says no with.
pub fn move_to(from: &Path, to: &Path, overwrites: bool) -> Result<Moved, Problem> {
    let flags = if overwrites { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
        Ok(()) => Ok(Moved::Renamed),
        // A file system that cannot refuse is asked before.
        Err(Errno::INVAL | Errno::NOSYS) if !overwrites && from != to && !to.starts_with(from) => {
            match fs::symlink_metadata(to) {
                Ok(_) => Err(fault(Errno::EXIST, to)),
                Err(_) => fs::rename(from, to).map(|()| Moved::Renamed).map_err(|error| fault(error, from)),
            }
        }
        Err(Errno::XDEV) if stat(from, false)?.kind == FileKind::File => {
            copy(from, to, overwrites)?;
            fs::remove_file(from).map_err(|error| fault(error, from))?;
            Ok(Moved::Copied)
        }
        Err(error @ (Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR)) => Err(fault(error, to)),
        Err(Errno::NOENT) if fs::symlink_metadata(from).is_ok() => Err(fault(Errno::NOENT, to)),
        Err(error) => Err(fault(error, from)),
    }
}

fn copy(from: &Path, to: &Path, overwrites: bool) -> Result<(), Problem> {
    let mut content = Content::open(from)?;
    let mut draft = Draft::at(to, false)?;
    while let Some(piece) = content.piece()? {
        draft.write(&piece)?;
    }
    let info = content.info();
    let modified = Some(info.modified.div_euclid(1000));
    draft.commit(&Commit { mode: Some(info.mode), modified, is_new: !overwrites, replaces: None }).map(drop)
}

/// Says who may do what with a file, or with what a link leads to.
///
/// # Errors
///
/// What the kernel says no with.
pub fn set_mode(path: &Path, mode: u32) -> Result<(), Problem> {
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777)).map_err(|error| fault(error, path))
}

/// Gives a file, or what a link leads to, to another owner or group.
///
/// # Errors
///
/// What the kernel says no with.
pub fn change_owner(path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<(), Problem> {
    std::os::unix::fs::chown(path, uid, gid).map_err(|error| fault(error, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_replaces_nothing_unless_it_is_asked_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), "a").unwrap();
        fs::write(path("b"), "b").unwrap();
        assert_eq!(move_to(&path("a"), &path("b"), false).unwrap_err().code, ErrorCode::FileExists);
        assert_eq!(fs::read(path("b")).unwrap(), b"b");
        move_to(&path("a"), &path("b"), true).unwrap();
        assert_eq!(fs::read(path("b")).unwrap(), b"a");
        assert_eq!(move_to(&path("a"), &path("c"), false).unwrap_err().code, ErrorCode::FileNotFound);
        let nowhere = move_to(&path("b"), &path("no/where"), false).unwrap_err();
        assert!(nowhere.code == ErrorCode::FileNotFound && nowhere.detail.contains("no/where"), "{nowhere}");
    }

    #[test]
    fn a_file_moves_to_another_file_system() {
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return };
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), other.path().join("a"));
        fs::write(&from, "content").unwrap();
        set_mode(&from, 0o600).unwrap();
        move_to(&from, &to, false).unwrap();
        assert_eq!((fs::read(&to).unwrap(), stat(&to, false).unwrap().mode), (b"content".to_vec(), 0o600));
        assert!(!from.exists());
    }

    #[test]
    fn removal_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("kept/deep")).unwrap();
        fs::create_dir_all(path("tree/deep")).unwrap();
        std::os::unix::fs::symlink("../../kept", path("tree/deep/link")).unwrap();
        std::os::unix::fs::symlink("kept", path("link")).unwrap();
        remove_tree(&path("tree")).unwrap();
        remove_tree(&path("link")).unwrap();
        assert!(path("kept/deep").exists() && !path("tree").exists() && fs::symlink_metadata(path("link")).is_err());
        assert_eq!(remove_tree(Path::new("/")).unwrap_err().code, ErrorCode::FileDenied);
        assert_eq!(remove_directory(&path("kept")).unwrap_err().code, ErrorCode::FileNotEmpty);
        assert_eq!(remove_file(&path("kept")).unwrap_err().code, ErrorCode::FileNotAFile);
    }
}
