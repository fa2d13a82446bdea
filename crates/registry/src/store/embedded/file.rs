//! The store's file: making it, opening it, and what its errors mean.
//!
//! The file is shared with processes that may be older, newer, killed at any moment or not ours at all, and a person may
//! move it away while it is in use. Each of these must end in an error that says so, never in two stores that both seem
//! to work.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW};

use crate::store::StoreError;

/// `Land`: tells our files from those of other programs.
const APPLICATION_ID: i32 = 0x4c61_6e64;

/// What this release writes. A newer file is refused; an older one would be migrated in [`make_schema`].
const SCHEMA_VERSION: i32 = 1;

const SCHEMA: &str = "
    CREATE TABLE records (key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease TEXT) STRICT;
    CREATE INDEX records_by_lease ON records (lease) WHERE lease IS NOT NULL;
    CREATE TABLE changes (revision INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, value BLOB) STRICT;
    CREATE TABLE leases (id TEXT NOT NULL PRIMARY KEY, boot TEXT NOT NULL, deadline INTEGER NOT NULL,
                         ttl INTEGER NOT NULL) STRICT;
";

/// How long to wait for another process's lock: many flushes of a slow disk, and half of what a caller waits for us.
const LOCK_MAX: Duration = Duration::from_secs(5);

/// How long to wait between looks at a lock: a flush takes about this long.
const LOCK_LOOK: Duration = Duration::from_millis(1);

/// The write-ahead log is cut back to this after a checkpoint: four times where SQLite checkpoints by itself.
const WAL_KEPT: u32 = 16 * 1024 * 1024;

/// The store's file and its bell.
pub(super) struct File {
    path: PathBuf,
    /// Device and inode, to notice when the file at `path` is another one.
    identity: (u64, u64),
    bell_path: PathBuf,
    bell: std::fs::File,
    /// Names the boot of this machine: the monotonic clock of another boot says nothing.
    boot: String,
}

/// A connection to the file.
pub(super) struct Db {
    pub(super) conn: Connection,
    file: Arc<File>,
    /// Whether the present transaction has added to the change log.
    pub(super) changed: bool,
}

impl File {
    /// Finds or makes the file. One process at a time does this, so that nobody sees a half-made one.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let in_words = |error: &dyn std::fmt::Display| StoreError::Unavailable(format!("{}: {error}", path.display()));
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| in_words(&error))?;
        }
        let bell_path = PathBuf::from(format!("{}.bell", path.display()));
        let bell = owner_only().create(true).truncate(false).open(&bell_path).map_err(|error| in_words(&error))?;
        lock(&bell).map_err(|error| in_words(&error))?;
        let identity = make_private(path).map_err(|error| in_words(&error))?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(|error| in_words(&error))?;
        let file = Self { path: path.to_owned(), identity, bell_path, bell, boot: boot.trim().to_owned() };
        make_schema(&file)?;
        rustix::fs::flock(&file.bell, FlockOperation::Unlock).map_err(|error| in_words(&error))?;
        Ok(file)
    }

    /// Where the bell is.
    pub(super) fn bell_path(&self) -> &Path {
        &self.bell_path
    }

    /// Wakes the watches of all processes.
    fn ring(&self) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let touch = Timestamps { last_access: now, last_modification: now };
        if let Err(error) = rustix::fs::futimens(&self.bell, &touch) {
            tracing::warn!(%error, path = %self.bell_path.display(), "cannot ring the store's bell; watches are late");
        }
    }

    /// Checks that the file we have open is still the one at its path. SQLite would go on with a file that was moved or
    /// deleted, while processes started later make a new one: two stores, each with its own truth.
    fn check_in_place(&self) -> Result<(), StoreError> {
        match std::fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => Ok(()),
            Ok(_) => Err(self.unavailable("the file was replaced while in use; restart this process")),
            Err(error) => Err(self.unavailable(&format!("the file was moved away while in use: {error}"))),
        }
    }

    fn unavailable(&self, why: &str) -> StoreError {
        StoreError::Unavailable(format!("{}: {why}", self.path.display()))
    }
}

impl Db {
    /// Opens a connection that writes.
    pub(super) fn connect(file: &Arc<File>) -> Result<Self, StoreError> {
        let conn = connect(file)?;
        Ok(Self { conn, file: file.clone(), changed: false })
    }

    /// Opens a connection that only reads.
    pub(super) fn connect_read_only(file: &Arc<File>) -> Result<Self, StoreError> {
        let db = Self::connect(file)?;
        db.conn.pragma_update(None, "query_only", true).map_err(|error| db.explain(&error))?;
        Ok(db)
    }

    /// Runs `act` on one unchanging view of the store.
    pub(super) fn read<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.transaction("BEGIN", act)
    }

    /// Runs `act` as the only writer, and makes what it did durable. Ends lapsed leases first and forgets old history
    /// last, then rings.
    pub(super) fn write<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.changed = false;
        let result = self.transaction("BEGIN IMMEDIATE", |db| {
            db.end_lapsed_leases().map_err(|error| db.explain(&error))?;
            let result = act(db)?;
            if db.changed {
                db.forget_history().map_err(|error| db.explain(&error))?;
            }
            Ok(result)
        })?;
        if self.changed {
            self.file.ring();
        }
        Ok(result)
    }

    fn transaction<T>(
        &mut self,
        begin: &str,
        act: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.file.check_in_place()?;
        self.conn.execute_batch(begin).map_err(|error| self.explain(&error))?;
        let result = act(self)
            .and_then(|result| self.conn.execute_batch("COMMIT").map(|()| result).map_err(|e| self.explain(&e)));
        // Some errors end the transaction by themselves, others leave it open.
        if result.is_err()
            && !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, path = %self.file.path.display(), "cannot roll back");
        }
        result
    }

    /// The name of this boot of the machine.
    pub(super) fn boot(&self) -> &str {
        &self.file.boot
    }

    /// Says what an error of SQLite means for the caller.
    pub(super) fn explain(&self, error: &rusqlite::Error) -> StoreError {
        explain(&self.file, Some(&self.conn), error)
    }
}

fn explain(file: &File, conn: Option<&Connection>, error: &rusqlite::Error) -> StoreError {
    let text = format!("{}: {error}", file.path.display());
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt(text),
        Some(ErrorCode::DiskFull) => StoreError::Full(text),
        Some(ErrorCode::SystemIoFailure) if conn.is_some_and(ran_out_of_room) => StoreError::Full(text),
        Some(_) => StoreError::Unavailable(text),
        // Not from SQLite but from us: a column does not hold what the schema says.
        None => StoreError::Corrupt(text),
    }
}

/// Whether the last error came from a quota or limit, which SQLite reports as a failing disk.
fn ran_out_of_room(conn: &Connection) -> bool {
    matches!(Errno::from_raw(system_errno(conn)), Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)
}

#[allow(unsafe_code)]
fn system_errno(conn: &Connection) -> i32 {
    // SAFETY: the handle is that of an open connection, which outlives the call and is used by no other thread.
    unsafe { rusqlite::ffi::sqlite3_system_errno(conn.handle()) }
}

fn connect(file: &File) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(&file.path, flags).map_err(|error| explain(file, None, &error))?;
    configure(&mut conn).map_err(|error| explain(file, Some(&conn), &error))?;
    Ok(conn)
}

fn configure(conn: &mut Connection) -> rusqlite::Result<()> {
    let mut since = Instant::now();
    conn.busy_handler(Some(move |attempt| {
        if attempt == 0 {
            since = Instant::now();
        }
        thread::sleep(LOCK_LOOK);
        since.elapsed() < LOCK_MAX
    }))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cell_size_check", true)?;
    conn.pragma_update(None, "journal_size_limit", WAL_KEPT)
}

/// Gives an empty file its schema, and refuses one that is not ours or not of our time.
fn make_schema(file: &File) -> Result<(), StoreError> {
    let conn = connect(file)?;
    let said = |error: rusqlite::Error| explain(file, Some(&conn), &error);
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(said);
    let (id, version, schema) = (pragma("application_id")?, pragma("user_version")?, pragma("schema_version")?);
    match (id, version) {
        (0, 0) if schema == 0 => {
            let mode: String =
                conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(said)?;
            if mode != "wal" {
                return Err(
                    file.unavailable("this file system cannot share a store between processes; use a local disk")
                );
            }
            let marks = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};");
            conn.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} {marks} COMMIT;")).map_err(said)
        }
        (APPLICATION_ID, SCHEMA_VERSION) => Ok(()),
        (APPLICATION_ID, newer) => {
            Err(StoreError::Version(format!("{}: schema {newer}, ours is {SCHEMA_VERSION}", file.path.display())))
        }
        (other, _) => Err(StoreError::Foreign(format!("{}: application id {other:#x}", file.path.display()))),
    }
}

/// Makes the file if there is none, and takes away everybody else's access. Returns its identity.
///
/// An existing file is never opened here: closing it again would drop the locks that SQLite holds on it elsewhere in
/// this process.
fn make_private(path: &Path) -> io::Result<(u64, u64)> {
    match owner_only().create_new(true).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = std::fs::metadata(path)?;
    if found.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    Ok((found.dev(), found.ino()))
}

fn owner_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Waits for the lock that orders openers, but not for ever.
fn lock(bell: &std::fs::File) -> io::Result<()> {
    let since = Instant::now();
    loop {
        match rustix::fs::flock(bell, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if since.elapsed() < LOCK_MAX => thread::sleep(LOCK_LOOK),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::other(
                    "another process has been opening the store for too long; is it stopped?",
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
