//! The SQL that reads.

use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, params};

use super::file::Db;
use crate::store::{Change, Entry, Listing, Revision};

/// Changes read at once: a few hundred records, so that a watch far behind does not hold the reader for long.
const CHANGES_MAX: u32 = 256;

/// Bytes of changes read at once, unless one change alone is larger.
const CHANGES_BYTES_MAX: usize = 1024 * 1024;

/// What the change log says about a prefix.
pub(super) enum History {
    /// These changes, and then none up to this revision.
    Known(Vec<Change>, Revision),
    /// It no longer reaches back that far, or the store is another one.
    Forgotten,
}

/// What has happened since the last look, for those who wait.
pub(super) struct News {
    /// The keys that changed; `None` when it cannot be told.
    pub(super) keys: Option<Vec<String>>,
    /// Where the log ends.
    pub(super) newest: Revision,
    /// When the next lease lapses, in nanoseconds of the monotonic clock; 0 for one of another boot.
    pub(super) lapse: Option<u64>,
}

impl Db {
    /// Reads one entry.
    pub(super) fn entry(&self, key: &str) -> rusqlite::Result<Option<Entry>> {
        let mut query = self.conn.prepare_cached("SELECT key, value, revision FROM records WHERE key = ?1")?;
        query.query_row([key], entry_of).optional()
    }

    /// Reads everything under a prefix.
    pub(super) fn listing(&self, prefix: &str) -> rusqlite::Result<Listing> {
        self.page(prefix, "", usize::MAX)
    }

    /// Reads the entries under a prefix that follow a key.
    pub(super) fn page(&self, prefix: &str, after: &str, limit: usize) -> rusqlite::Result<Listing> {
        let mut query = self.conn.prepare_cached(
            "SELECT key, value, revision FROM records WHERE key >= ?1 AND key < ?2 AND key > ?3 ORDER BY key LIMIT ?4",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let entries =
            query.query_map(params![prefix, end_of(prefix), after, limit], entry_of)?.collect::<Result<_, _>>()?;
        Ok(Listing { entries, revision: self.newest()? })
    }

    /// The number of the last change.
    pub(super) fn newest(&self) -> rusqlite::Result<Revision> {
        let mut query = self.conn.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'changes'")?;
        let newest = query.query_row([], |row| number(row, 0)).optional()?;
        Ok(newest.unwrap_or(0))
    }

    /// Reads what happened under a prefix after a revision.
    pub(super) fn history(&self, prefix: &str, after: Revision) -> rusqlite::Result<History> {
        let newest = self.newest()?;
        if self.is_forgotten(after, newest)? {
            return Ok(History::Forgotten);
        }
        let mut query = self.conn.prepare_cached(
            "SELECT key, value, revision FROM changes WHERE revision > ?1 AND key >= ?2 AND key < ?3 ORDER BY revision LIMIT ?4",
        )?;
        let mut rows = query.query(params![signed(after), prefix, end_of(prefix), CHANGES_MAX])?;
        let (mut changes, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let change = change_of(row)?;
            bytes += change.value.as_ref().map_or(0, Bytes::len);
            changes.push(change);
            if changes.len() == CHANGES_MAX as usize || bytes >= CHANGES_BYTES_MAX {
                let read_to = changes.last().map_or(newest, |change| change.revision);
                return Ok(History::Known(changes, read_to));
            }
        }
        Ok(History::Known(changes, newest))
    }

    /// Reads what has happened after a revision, for those who wait.
    pub(super) fn news(&self, after: Revision) -> rusqlite::Result<News> {
        let newest = self.newest()?;
        let keys = if self.is_forgotten(after, newest)? { None } else { Some(self.changed_keys(after)?) };
        let mut query = self.conn.prepare_cached("SELECT min(iif(boot = ?1, deadline, 0)) FROM leases")?;
        let lapse: Option<i64> = query.query_row([self.boot()], |row| row.get(0))?;
        Ok(News { keys, newest, lapse: lapse.map(|at| at.max(0) as u64) })
    }

    fn changed_keys(&self, after: Revision) -> rusqlite::Result<Vec<String>> {
        let mut query = self.conn.prepare_cached("SELECT DISTINCT key FROM changes WHERE revision > ?1")?;
        query.query_map([signed(after)], |row| row.get(0))?.collect()
    }

    /// Whether the log lacks a change after this revision. A revision that is yet to come is of another store: the file
    /// was restored from a backup or begun anew.
    fn is_forgotten(&self, after: Revision, newest: Revision) -> rusqlite::Result<bool> {
        let mut query = self.conn.prepare_cached("SELECT min(revision) FROM changes")?;
        let oldest: Option<i64> = query.query_row([], |row| row.get(0))?;
        let kept_from = oldest.map_or(newest + 1, |oldest| oldest as u64);
        Ok(after > newest || after + 1 < kept_from)
    }
}

/// Keys are printable ASCII, so this is greater than every key with the prefix and less than every other that follows.
fn end_of(prefix: &str) -> String {
    format!("{prefix}\x7f")
}

fn entry_of(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry { key: row.get(0)?, value: Bytes::from(row.get::<_, Vec<u8>>(1)?), revision: number(row, 2)? })
}

fn change_of(row: &Row<'_>) -> rusqlite::Result<Change> {
    let value = row.get::<_, Option<Vec<u8>>>(1)?.map(Bytes::from);
    Ok(Change { key: row.get(0)?, value, revision: number(row, 2)? })
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// SQLite's integers are signed. A revision beyond them is in the future of every store.
pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
