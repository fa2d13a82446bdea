//! What changes among the instance's files, as it changes.
//!
//! The kernel keeps the queue (inotify): nothing is read from it before the watcher has taken what was read last, so a
//! watcher that is too slow costs nothing here, and is told of the gap when the kernel's queue has overrun.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use landfast_core::{ErrorCode, Problem};
use landfast_files::{FileKind, encode, fault, is_temporary, stat};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use tokio::io::Interest;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use crate::file::{self, Watched};
use crate::files::Files;

/// The most directories of one watch. Each costs the kernel a kilobyte, and machines give a user as few as 8,192.
const DIRECTORIES_MAX: usize = 8_192;

/// The most files that are told of in a directory that was there before it was looked at.
const FOUND_MAX: usize = 4_096;

/// Bytes of events that are read at once: some hundreds.
const READ: usize = 16 * 1024;

/// How long the other half of a move may take: the kernel says both at once, but a reader may come in between.
const OTHER_HALF: Duration = Duration::from_millis(20);

/// Something that happened to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is there now.
    Created { path: PathBuf, is_directory: bool },
    /// Its content changes.
    Modified { path: PathBuf },
    /// It is written: whoever wrote to it has closed it, or it was put in place whole.
    Written { path: PathBuf },
    /// Its mode, owner or times changed.
    Attributes { path: PathBuf, is_directory: bool },
    /// It is not there any more.
    Removed { path: PathBuf, is_directory: bool },
    /// It has another name.
    Moved { from: PathBuf, path: PathBuf, is_directory: bool },
    /// Something happened that nobody knows any more: look again.
    Gap,
}

/// A file, a directory or a tree that is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Arc<Files>,
    queue: Watched,
    root: PathBuf,
    /// The one file in the root that is meant, if not all.
    only: Option<OsString>,
    is_recursive: bool,
    directories: HashMap<i32, PathBuf>,
    /// The first half of a move.
    leaving: Option<Leaving>,
    is_over: bool,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Leaving {
    cookie: u32,
    path: PathBuf,
    is_directory: bool,
}

/// An event as the kernel says it.
struct Raw {
    directory: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<OsString>,
}

/// What was found in a tree.
#[derive(Default)]
struct Found {
    directories: Vec<(i32, PathBuf)>,
    entries: Vec<(PathBuf, bool)>,
    /// There are more entries than that.
    is_cut: bool,
    /// Not all directories are watched.
    is_partial: bool,
}

impl Watch {
    /// Begins to watch: what happens after this returns is told.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::LimitWatches`], and what the kernel says no with.
    pub(crate) async fn open(files: &Arc<Files>, path: PathBuf, is_recursive: bool) -> Result<Self, Problem> {
        let room = files.watch()?;
        let (queue, root, only, found) = files.run(move || begin(path, is_recursive)).await?;
        let queue = file::watch(queue, Interest::READABLE).map_err(|error| fault(error, &root))?;
        Ok(Self {
            files: files.clone(),
            queue,
            root,
            is_recursive: is_recursive && only.is_none(),
            only,
            directories: found.directories.into_iter().collect(),
            leaving: None,
            is_over: false,
            _room: room,
        })
    }

    /// The next changes, in order, or none if there were none for so long; `None` once what is watched is gone.
    ///
    /// Not cancel safe: what was read and not returned is lost.
    pub(crate) async fn next(&mut self, patience: Duration) -> Option<Vec<Change>> {
        loop {
            if self.is_over {
                return None;
            }
            let mut changes = Vec::new();
            let is_patient = self.leaving.is_none();
            let read = self.read(if is_patient { patience } else { OTHER_HALF }).await;
            let is_silent = matches!(read, Ok(None));
            match read {
                Ok(Some(raws)) => {
                    for raw in raws {
                        self.take(raw, &mut changes).await;
                    }
                }
                Ok(None) => self.leave(&mut changes),
                Err(error) => {
                    tracing::error!(%error, "changes to files cannot be read");
                    self.is_over = true;
                    changes.push(Change::Gap);
                }
            }
            if !changes.is_empty() || is_silent && is_patient {
                return Some(changes);
            }
        }
    }

    /// Reads what the kernel has; nothing if it has nothing for so long.
    async fn read(&self, patience: Duration) -> rustix::io::Result<Option<Vec<Raw>>> {
        let until = Instant::now() + patience;
        loop {
            let Ok(ready) = timeout_at(until, self.queue.readable()).await else { return Ok(None) };
            let mut ready = ready.map_err(|_| Errno::BADF)?;
            match read_queue(self.queue.get_ref()) {
                Err(Errno::WOULDBLOCK) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                read => return read.map(Some),
            }
        }
    }

    async fn take(&mut self, raw: Raw, changes: &mut Vec<Change>) {
        let is_other_half = self.leaving.as_ref().is_some_and(|leaving| leaving.cookie == raw.cookie);
        if !(is_other_half && raw.flags.contains(ReadFlags::MOVED_TO)) {
            self.leave(changes);
        }
        if raw.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            changes.push(Change::Gap);
            // What was made meanwhile is not watched yet.
            self.look(self.root.clone(), None).await;
            return;
        }
        if raw.flags.contains(ReadFlags::IGNORED) {
            self.directories.remove(&raw.directory);
            self.is_over |= self.directories.is_empty();
            return;
        }
        let Some(directory) = self.directories.get(&raw.directory).cloned() else { return };
        match raw.name {
            Some(name) => self.take_entry(directory.join(&name), &name, (raw.flags, raw.cookie), changes).await,
            None if directory == self.root && raw.flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) => {
                changes.push(Change::Removed { path: self.root.clone(), is_directory: true });
                self.is_over = true;
            }
            None => {}
        }
    }

    async fn take_entry(
        &mut self,
        path: PathBuf,
        name: &OsStr,
        (flags, cookie): (ReadFlags, u32),
        changes: &mut Vec<Change>,
    ) {
        let is_directory = flags.contains(ReadFlags::ISDIR);
        if flags.contains(ReadFlags::MOVED_FROM) {
            self.leaving = Some(Leaving { cookie, path, is_directory });
            return;
        }
        if flags.contains(ReadFlags::MOVED_TO) {
            let from = self.leaving.take().map(|leaving| leaving.path);
            return self.arrive(from, path, is_directory, changes).await;
        }
        if is_temporary(name) || !self.is_meant(&path) {
            return;
        }
        if flags.contains(ReadFlags::CREATE) {
            changes.push(Change::Created { path: path.clone(), is_directory });
            if is_directory && self.is_recursive {
                self.look(path, Some(changes)).await;
            }
        } else if flags.contains(ReadFlags::DELETE) {
            changes.push(Change::Removed { path, is_directory });
        } else if flags.contains(ReadFlags::CLOSE_WRITE) {
            changes.push(Change::Written { path });
        } else if flags.contains(ReadFlags::MODIFY) {
            changes.push(Change::Modified { path });
        } else if flags.contains(ReadFlags::ATTRIB) {
            changes.push(Change::Attributes { path, is_directory });
        }
    }

    /// The second half of a move, or all of one from elsewhere.
    async fn arrive(&mut self, from: Option<PathBuf>, path: PathBuf, is_directory: bool, changes: &mut Vec<Change>) {
        match from {
            // One that was only written beside its place has come into being whole.
            Some(from) if from.file_name().is_some_and(is_temporary) => {
                changes.extend(self.is_meant(&path).then_some(Change::Written { path }));
            }
            Some(from) => {
                for known in self.directories.values_mut() {
                    if let Ok(rest) = known.strip_prefix(&from) {
                        *known = if rest.as_os_str().is_empty() { path.clone() } else { path.join(rest) };
                    }
                }
                match (self.is_meant(&from), self.is_meant(&path)) {
                    (true, true) => changes.push(Change::Moved { from, path, is_directory }),
                    (true, false) if self.only.is_some() => changes.push(Change::Moved { from, path, is_directory }),
                    (true, false) => changes.push(Change::Removed { path: from, is_directory }),
                    (false, true) => changes.push(Change::Created { path, is_directory }),
                    (false, false) => {}
                }
            }
            None if self.is_meant(&path) => {
                changes.push(Change::Created { path: path.clone(), is_directory });
                if is_directory && self.is_recursive {
                    self.look(path, Some(changes)).await;
                }
            }
            None => {}
        }
    }

    /// What began to move has gone elsewhere.
    fn leave(&mut self, changes: &mut Vec<Change>) {
        let Some(Leaving { path, is_directory, .. }) = self.leaving.take() else { return };
        let gone: Vec<i32> =
            self.directories.iter().filter(|(_, known)| known.starts_with(&path)).map(|(id, _)| *id).collect();
        for id in gone {
            self.directories.remove(&id);
            // It may have ended by itself.
            let _ = inotify::remove_watch(self.queue.get_ref(), id);
        }
        if self.is_meant(&path) && !path.file_name().is_some_and(is_temporary) {
            changes.push(Change::Removed { path, is_directory });
        }
    }

    fn is_meant(&self, path: &Path) -> bool {
        self.only.as_deref().is_none_or(|only| path.file_name() == Some(only))
    }

    /// Watches a tree that has come to be below the root, and tells what is in it already.
    async fn look(&mut self, path: PathBuf, changes: Option<&mut Vec<Change>>) {
        if !self.is_recursive {
            return;
        }
        let Ok(queue) = self.queue.get_ref().try_clone() else { return };
        let room = DIRECTORIES_MAX.saturating_sub(self.directories.len());
        let looked = self.files.run(move || {
            let mut found = Found::default();
            add_tree(&queue, path, room, &mut found);
            Ok(found)
        });
        let Ok(found) = looked.await else { return };
        self.directories.extend(found.directories);
        let Some(changes) = changes else { return };
        if found.is_partial || found.is_cut {
            changes.push(Change::Gap);
        }
        changes.extend(found.entries.into_iter().map(|(path, is_directory)| Change::Created { path, is_directory }));
    }
}

/// What is watched of each directory.
fn interest() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE
        | WatchFlags::MOVE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
        | WatchFlags::EXCL_UNLINK
}

fn begin(path: PathBuf, is_recursive: bool) -> Result<(OwnedFd, PathBuf, Option<OsString>, Found), Problem> {
    let (root, only) = match stat(&path, true)?.kind {
        FileKind::Directory => (path, None),
        // Its directory is watched: a file that is replaced is another one to the kernel.
        FileKind::File | FileKind::Link | FileKind::Fifo | FileKind::Socket | FileKind::Device => {
            let only = path.file_name().map(OsStr::to_owned);
            (path.parent().unwrap_or(Path::new("/")).to_owned(), only)
        }
    };
    let refuse = |error: Errno| match error {
        Errno::MFILE | Errno::NOSPC => {
            Problem::new(ErrorCode::LimitWatches, "The machine's user watches as many directories as it may.")
        }
        error => fault(error, &root),
    };
    let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(refuse)?;
    let mut found = Found::default();
    let id = inotify::add_watch(&queue, &root, interest()).map_err(refuse)?;
    found.directories.push((id, root.clone()));
    if is_recursive && only.is_none() {
        add_below(&queue, root.clone(), DIRECTORIES_MAX, &mut found);
        if found.is_partial {
            let detail =
                format!("There are more directories below than can be watched; {DIRECTORIES_MAX} are the most.");
            return Err(Problem::new(ErrorCode::LimitWatches, detail));
        }
    }
    Ok((queue, root, only, found))
}

/// Watches a directory and all below it, as far as there is room.
fn add_tree(queue: &OwnedFd, path: PathBuf, room: usize, found: &mut Found) {
    match inotify::add_watch(queue, &path, interest() | WatchFlags::DONT_FOLLOW) {
        Ok(id) => {
            found.directories.push((id, path.clone()));
            add_below(queue, path, room, found);
        }
        // It is gone again, or nobody may look.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
        Err(_) => found.is_partial = true,
    }
}

fn add_below(queue: &OwnedFd, path: PathBuf, room: usize, found: &mut Found) {
    let mut waiting = vec![path];
    while let Some(path) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&path) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            match found.entries.len() < FOUND_MAX {
                true => found.entries.push((path.clone(), is_directory)),
                false => found.is_cut = true,
            }
            if !is_directory {
                continue;
            }
            if found.directories.len() >= room {
                found.is_partial = true;
                return;
            }
            match inotify::add_watch(queue, &path, interest() | WatchFlags::DONT_FOLLOW) {
                Ok(id) => {
                    found.directories.push((id, path.clone()));
                    waiting.push(path);
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
                Err(_) => {
                    found.is_partial = true;
                    return;
                }
            }
        }
    }
}

/// Reads one buffer of events.
fn read_queue(queue: &OwnedFd) -> rustix::io::Result<Vec<Raw>> {
    let mut buffer = [MaybeUninit::uninit(); READ];
    let mut reader = Reader::new(queue, &mut buffer);
    let mut raws = Vec::new();
    loop {
        let event = reader.next()?;
        let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
        raws.push(Raw { directory: event.wd(), flags: event.events(), cookie: event.cookie(), name });
        if reader.is_buffer_empty() {
            return Ok(raws);
        }
    }
}

impl Serialize for Change {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let (kind, path, is_directory) = match self {
            Self::Created { path, is_directory } => ("created", path, Some(is_directory)),
            Self::Modified { path } => ("modified", path, None),
            Self::Written { path } => ("written", path, None),
            Self::Attributes { path, is_directory } => ("attributes", path, Some(is_directory)),
            Self::Removed { path, is_directory } => ("removed", path, Some(is_directory)),
            Self::Moved { path, is_directory, .. } => ("moved", path, Some(is_directory)),
            Self::Gap => {
                map.serialize_entry("type", "gap")?;
                return map.end();
            }
        };
        map.serialize_entry("type", kind)?;
        let mut write = |names: [&'static str; 2], path: &Path| {
            map.serialize_entry(names[0], &path.to_string_lossy())?;
            if path.to_str().is_none() {
                map.serialize_entry(names[1], &encode(path))?;
            }
            Ok::<_, S::Error>(())
        };
        write(["path", "path_encoded"], path)?;
        if let Self::Moved { from, .. } = self {
            write(["from", "from_encoded"], from)?;
        }
        map.serialize_entry("directory", is_directory.unwrap_or(&false))?;
        map.end()
    }
}
