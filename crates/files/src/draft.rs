//! A file that is written: beside its place under another name, and put there in one step once it is whole. Who reads
//! the old one meanwhile reads the old one, and a writer that breaks off has changed nothing.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landfast_core::{ErrorCode, Problem};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::change::make_directory;
use crate::fault::{fault, refusal};
use crate::info::{FileKind, stat};

/// How names begin that a file has only while it is written.
const TEMPORARY: &str = ".landfast-";

/// How often another name is tried where one is taken.
const TRIES: usize = 8;

/// Who may do what with a file for which nobody said.
pub(crate) const FILE_MODE: u32 = 0o644;

/// A file that is not in its place yet. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Draft {
    dir: OwnedFd,
    name: OsString,
    temporary: OsString,
    /// Until it is whole.
    file: Option<File>,
    /// For refusals.
    path: PathBuf,
    is_in_place: bool,
}

/// How a draft is put in its place.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Who may do what; `None` for what the old file says, or 0644.
    pub mode: Option<u32>,
    /// Seconds since 1970 of its last change; `None` is now.
    pub modified: Option<i64>,
    /// Whether a file that is there already stays, and this is refused.
    pub is_new: bool,
    /// The etag that the old file must have.
    pub replaces: Option<String>,
}

impl Draft {
    /// Begins a file at a path. A link there is followed: what it leads to is replaced.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::FileNotAFile`] if something else is there, and what the kernel says no with.
    pub fn at(path: &Path, makes_parents: bool) -> Result<Self, Problem> {
        let place = resolve(path)?;
        let name = place.file_name().ok_or_else(|| refusal(ErrorCode::FileNotAFile, path, &"it names a directory"))?;
        let parent = match place.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        if makes_parents {
            make_directory(parent, true, None)?;
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
        let dir = rustix::fs::openat(CWD, parent, flags, Mode::empty()).map_err(|error| fault(error, parent))?;
        Self::within(dir, name, path)
    }

    /// Begins a file in an open directory.
    pub(crate) fn within(dir: OwnedFd, name: &OsStr, path: &Path) -> Result<Self, Problem> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        for _ in 0..TRIES {
            let temporary = temporary_name();
            match rustix::fs::openat(&dir, &temporary, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => {
                    let (name, path) = (name.to_owned(), path.to_owned());
                    return Ok(Self { dir, name, temporary, file: Some(file.into()), path, is_in_place: false });
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(fault(error, path)),
            }
        }
        Err(fault(Errno::EXIST, path))
    }

    /// Writes on.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::FileNoSpace`], and what else the kernel says no with. What was in its place stays.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        match &mut self.file {
            Some(file) => file.write_all(bytes).map_err(|error| fault(error, &self.path)),
            None => Ok(()),
        }
    }

    /// Puts the file in its place, and says whether there was none.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::FileExists`] and [`ErrorCode::FileChanged`] for what `commit` demands, and what the kernel says no
    /// with. What was in its place stays.
    pub fn commit(mut self, commit: &Commit) -> Result<bool, Problem> {
        let path = self.path.clone();
        let refuse = |error: Errno| fault(error, &path);
        let old = match rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(old) => Some(old),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(refuse(error)),
        };
        self.check_old(commit)?;
        let is_file = |old: &rustix::fs::Stat| FileType::from_raw_mode(old.st_mode) == FileType::RegularFile;
        let old_mode = old.as_ref().filter(|old| is_file(old)).map(|old| old.st_mode & 0o777);
        let mode = commit.mode.or(old_mode).unwrap_or(FILE_MODE);
        // Closed before it has its name: whoever watches that name would otherwise hear of the file twice.
        if let Some(file) = self.file.take() {
            finish(&file, mode, commit.modified).map_err(refuse)?;
        }
        put(&self.dir, &self.temporary, &self.name, commit.is_new).map_err(refuse)?;
        self.is_in_place = true;
        Ok(old.is_none())
    }

    fn check_old(&self, commit: &Commit) -> Result<(), Problem> {
        let Some(wanted) = &commit.replaces else { return Ok(()) };
        match stat(&self.path, true) {
            Ok(old) if old.etag == *wanted => Ok(()),
            Ok(_) => Err(refusal(ErrorCode::FileChanged, &self.path, &"it is another than the one that was named")),
            Err(problem) if problem.code == ErrorCode::FileNotFound => {
                Err(refusal(ErrorCode::FileChanged, &self.path, &"it is not there any more"))
            }
            Err(problem) => Err(problem),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_in_place {
            // Nothing can be done about one that cannot be removed.
            let _ = rustix::fs::unlinkat(&self.dir, &self.temporary, AtFlags::empty());
        }
    }
}

fn finish(file: &File, mode: u32, modified: Option<i64>) -> rustix::io::Result<()> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    let Some(seconds) = modified else { return Ok(()) };
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })
}

/// Renames within a directory, over what is there or not.
pub(crate) fn put(dir: &OwnedFd, from: &OsStr, to: &OsStr, is_new: bool) -> rustix::io::Result<()> {
    if !is_new {
        return rustix::fs::renameat(dir, from, dir, to);
    }
    match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        // Not every file system can: a second name is refused as well where there is one, and the first is taken away.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(dir, from, dir, to, AtFlags::empty())?;
            rustix::fs::unlinkat(dir, from, AtFlags::empty())
        }
        renamed => renamed,
    }
}

/// A name that nobody else gives.
pub(crate) fn temporary_name() -> OsString {
    format!("{TEMPORARY}{:016x}", rand::random::<u64>()).into()
}

/// Whether a file has its name only while it is written.
pub fn is_temporary(name: &OsStr) -> bool {
    let rest = name.as_encoded_bytes().strip_prefix(TEMPORARY.as_bytes());
    rest.is_some_and(|rest| rest.len() == 16 && rest.iter().all(u8::is_ascii_hexdigit))
}

/// Where a file is really to be written: what a link there leads to.
fn resolve(path: &Path) -> Result<PathBuf, Problem> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path.to_owned()),
        Err(error) => return Err(fault(error, path)),
    };
    match FileKind::of(metadata.file_type()) {
        FileKind::File => Ok(path.to_owned()),
        FileKind::Link => {
            let place = fs::canonicalize(path).map_err(|error| fault(error, path))?;
            match stat(&place, false)?.kind {
                FileKind::File => Ok(place),
                kind => Err(refusal(ErrorCode::FileNotAFile, path, &format!("it leads to {}", kind.words()))),
            }
        }
        kind => Err(refusal(ErrorCode::FileNotAFile, path, &format!("it is {}", kind.words()))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    fn write(path: &Path, text: &str, commit: &Commit) -> Result<bool, Problem> {
        let mut draft = Draft::at(path, false)?;
        draft.write(text.as_bytes())?;
        draft.commit(commit)
    }

    #[test]
    fn a_draft_that_is_dropped_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        let mut draft = Draft::at(&path, false).unwrap();
        draft.write(b"new").unwrap();
        assert_eq!(names(dir.path()).len(), 2);
        drop(draft);
        assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["file".into()], b"old".to_vec()));
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_link_leads_to_what_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("file"), dir.path().join("link"));
        assert!(write(&path, "one", &Commit { mode: Some(0o751), ..Commit::default() }).unwrap());
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert!(!write(&link, "two", &Commit::default()).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o751);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn what_is_demanded_of_the_old_file_is_seen_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let new = Commit { is_new: true, ..Commit::default() };
        assert!(write(&path, "one", &new).unwrap());
        assert_eq!(write(&path, "two", &new).unwrap_err().code, ErrorCode::FileExists);
        let same = |etag: String| Commit { replaces: Some(etag), ..Commit::default() };
        let etag = stat(&path, true).unwrap().etag;
        assert!(!write(&path, "two", &same(etag.clone())).unwrap());
        assert_eq!(write(&path, "three", &same(etag)).unwrap_err().code, ErrorCode::FileChanged);
        assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["file".into()], b"two".to_vec()));
        assert_eq!(write(dir.path(), "x", &Commit::default()).unwrap_err().code, ErrorCode::FileNotAFile);
    }
}
