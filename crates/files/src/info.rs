//! What is known of a file without reading it, and what a directory holds.

use std::collections::BinaryHeap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use landfast_core::Problem;
use serde::{Deserialize, Serialize};

use crate::fault::fault;
use crate::path::encode;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// It has content.
    File,
    /// It holds others.
    Directory,
    /// It names another.
    Link,
    /// A pipe with a name.
    Fifo,
    /// A socket with a name.
    Socket,
    /// A device.
    Device,
}

/// What is known of a file without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its path; where that is no UTF-8, with what cannot be written replaced.
    pub path: String,
    /// Its path with percent-encoded bytes, ready for a query, where it is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_encoded: Option<String>,
    /// The last part of its path.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes of its content.
    pub size: u64,
    /// Who may do what, as in `chmod`.
    #[serde(with = "octal")]
    pub mode: u32,
    /// Unix time in milliseconds at which its content last changed.
    pub modified: i64,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Where a link leads, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Changes whenever the content may have.
    pub etag: String,
}

/// A part of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the order of their names' bytes.
    pub items: Vec<Info>,
    /// The name after which the next page begins, if there is one.
    pub next: Option<OsString>,
}

/// A mode as people write it.
mod octal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub(super) fn serialize<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        u32::from_str_radix(&text, 8).map_err(D::Error::custom)
    }
}

/// Looks at a file, or, if `follows`, at what a link leads to.
///
/// # Errors
///
/// What the kernel says no with; [`fault`] has the rows.
pub fn stat(path: &Path, follows: bool) -> Result<Info, Problem> {
    let metadata = if follows { fs::metadata(path) } else { fs::symlink_metadata(path) };
    Ok(Info::new(path, &metadata.map_err(|error| fault(error, path))?))
}

/// Up to `limit` entries of a directory whose names come after `after`. Links are not followed.
///
/// Of a directory of any size only one page is in memory; what comes and goes meanwhile may be in it or not, everything
/// else is in exactly one page.
///
/// # Errors
///
/// What the kernel says no with; [`fault`] has the rows.
pub fn list(path: &Path, after: Option<&OsStr>, limit: usize) -> Result<Page, Problem> {
    let refuse = |error| fault(error, path);
    let mut names = BinaryHeap::new();
    let mut has_more = false;
    for entry in fs::read_dir(path).map_err(refuse)? {
        let name = entry.map_err(refuse)?.file_name();
        if after.is_some_and(|after| &*name <= after) {
            continue;
        }
        names.push(name);
        if names.len() > limit {
            names.pop();
            has_more = true;
        }
    }
    let names = names.into_sorted_vec();
    let next = names.last().filter(|_| has_more).cloned();
    let infos = names.iter().filter_map(|name| stat(&path.join(name), false).ok());
    Ok(Page { items: infos.collect(), next })
}

impl Info {
    /// What a file's metadata says.
    pub(crate) fn new(path: &Path, metadata: &Metadata) -> Self {
        let text = |text: &OsStr| text.to_string_lossy().into_owned();
        let kind = FileKind::of(metadata.file_type());
        let target = (kind == FileKind::Link).then(|| fs::read_link(path).ok()).flatten();
        Self {
            path: text(path.as_os_str()),
            path_encoded: path.to_str().is_none().then(|| encode(path)),
            name: text(path.file_name().unwrap_or(path.as_os_str())),
            kind,
            size: metadata.len(),
            mode: metadata.mode() & 0o7777,
            modified: metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000,
            uid: metadata.uid(),
            gid: metadata.gid(),
            target: target.map(|target| text(target.as_os_str())),
            etag: etag(metadata),
        }
    }

    /// Its path, byte for byte.
    pub fn path(&self) -> std::path::PathBuf {
        match &self.path_encoded {
            Some(encoded) => crate::path::decode(encoded),
            None => OsStr::from_bytes(self.path.as_bytes()).into(),
        }
    }
}

/// From what changes with the content: the file that it is, its size, and the clock of its last change.
fn etag(metadata: &Metadata) -> String {
    let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    format!("\"{:x}-{:x}-{changed:x}\"", metadata.ino(), metadata.len())
}

impl FileKind {
    /// The kind that the kernel tells.
    pub(crate) fn of(kind: fs::FileType) -> Self {
        if kind.is_file() {
            Self::File
        } else if kind.is_dir() {
            Self::Directory
        } else if kind.is_symlink() {
            Self::Link
        } else if kind.is_fifo() {
            Self::Fifo
        } else if kind.is_socket() {
            Self::Socket
        } else {
            Self::Device
        }
    }

    /// With its article, for refusals.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Directory => "a directory",
            Self::Link => "a symbolic link",
            Self::Fifo => "a named pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_in_order_and_hold_everything_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut names: Vec<String> = (0..25).map(|n| format!("{}", n * 7)).collect();
        names.iter().for_each(|name| fs::write(dir.path().join(name), name).unwrap());
        names.sort();
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = list(dir.path(), after.as_deref(), 10).unwrap();
            assert!(page.items.len() <= 10);
            seen.extend(page.items.into_iter().map(|info| info.name));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, names);
        assert_eq!(list(dir.path(), None, 25).unwrap().next, None, "a page that is just full is the last");
    }

    #[test]
    fn a_link_is_told_from_what_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "12345").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let (seen, followed) = (stat(&link, false).unwrap(), stat(&link, true).unwrap());
        assert_eq!((seen.kind, seen.target.as_deref()), (FileKind::Link, Some("file")));
        assert_eq!((followed.kind, followed.size, followed.target), (FileKind::File, 5, None));
    }
}
