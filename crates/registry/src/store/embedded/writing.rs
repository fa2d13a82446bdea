//! The SQL that writes. Everything here runs inside the one writing transaction.

use std::time::Duration;

use landfast_net::{clock, secret::Secret};
use rusqlite::params;

use super::file::Db;
use super::reading::signed;
use crate::store::{Entry, Expect, LeaseId, Revision, Swap};

/// Changes kept for watches that are behind: minutes of a busy cell, and some megabytes of records.
pub(super) const HISTORY_KEPT: i64 = 10_000;

impl Db {
    /// Writes an entry if what is there is as expected. `None` if there is no such lease.
    pub(super) fn put(
        &mut self,
        key: &str,
        expect: Expect,
        value: &[u8],
        lease: Option<&LeaseId>,
    ) -> rusqlite::Result<Option<Swap>> {
        if let Some(lease) = lease
            && !self.conn.prepare_cached("SELECT 1 FROM leases WHERE id = ?1")?.exists([&lease.0])?
        {
            return Ok(None);
        }
        let found = self.entry(key)?;
        if !is_expected(found.as_ref(), expect) {
            return Ok(Some(Swap::Conflict(found)));
        }
        let revision = self.log(key, Some(value))?;
        self.conn
            .prepare_cached(
                "INSERT INTO records (key, value, revision, lease) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3, lease = ?4",
            )?
            .execute(params![key, value, signed(revision), lease.map(|lease| &lease.0)])?;
        Ok(Some(Swap::Done(revision)))
    }

    /// Deletes an entry if what is there is as expected.
    pub(super) fn delete(&mut self, key: &str, expect: Expect) -> rusqlite::Result<Swap> {
        let found = self.entry(key)?;
        if !is_expected(found.as_ref(), expect) {
            return Ok(Swap::Conflict(found));
        }
        let revision = if found.is_some() { self.remove(key)? } else { self.newest()? };
        Ok(Swap::Done(revision))
    }

    /// Makes a lease.
    pub(super) fn grant(&mut self, ttl: Duration) -> rusqlite::Result<LeaseId> {
        let lease = LeaseId(format!("lea_{}", Secret::generate().to_hex()));
        self.conn
            .prepare_cached("INSERT INTO leases (id, boot, deadline, ttl) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![lease.0, self.boot(), signed((clock::now() + ttl).as_nanos()), nanos(ttl)])?;
        Ok(lease)
    }

    /// Puts off a lease's lapse; tells whether there was such a lease. One that has lapsed was ended before this.
    pub(super) fn renew(&mut self, lease: &LeaseId) -> rusqlite::Result<bool> {
        let renewed = self
            .conn
            .prepare_cached("UPDATE leases SET deadline = ?2 + ttl WHERE id = ?1")?
            .execute(params![lease.0, signed(clock::now().as_nanos())])?;
        Ok(renewed == 1)
    }

    /// Ends a lease and deletes its keys.
    pub(super) fn end_lease(&mut self, lease: &LeaseId) -> rusqlite::Result<()> {
        let keys: Vec<String> = self
            .conn
            .prepare_cached("SELECT key FROM records WHERE lease = ?1 ORDER BY key")?
            .query_map([&lease.0], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for key in keys {
            self.remove(&key)?;
        }
        self.conn.prepare_cached("DELETE FROM leases WHERE id = ?1")?.execute([&lease.0])?;
        Ok(())
    }

    /// Ends every lease whose time is over, or whose clock is gone with another boot.
    pub(super) fn end_lapsed_leases(&mut self) -> rusqlite::Result<()> {
        let lapsed: Vec<LeaseId> = self
            .conn
            .prepare_cached("SELECT id FROM leases WHERE boot <> ?1 OR deadline <= ?2")?
            .query_map(params![self.boot(), signed(clock::now().as_nanos())], |row| row.get(0).map(LeaseId))?
            .collect::<Result<_, _>>()?;
        lapsed.iter().try_for_each(|lease| self.end_lease(lease))
    }

    /// Forgets all but the newest changes.
    pub(super) fn forget_history(&mut self) -> rusqlite::Result<()> {
        let newest = signed(self.newest()?);
        self.conn.prepare_cached("DELETE FROM changes WHERE revision <= ?1")?.execute([newest - HISTORY_KEPT])?;
        Ok(())
    }

    fn remove(&mut self, key: &str) -> rusqlite::Result<Revision> {
        let revision = self.log(key, None)?;
        self.conn.prepare_cached("DELETE FROM records WHERE key = ?1")?.execute([key])?;
        Ok(revision)
    }

    /// Adds to the change log, which numbers the change.
    fn log(&mut self, key: &str, value: Option<&[u8]>) -> rusqlite::Result<Revision> {
        self.changed = true;
        let revision = self
            .conn
            .prepare_cached("INSERT INTO changes (key, value) VALUES (?1, ?2)")?
            .insert(params![key, value])?;
        Ok(revision as u64)
    }
}

fn is_expected(found: Option<&Entry>, expect: Expect) -> bool {
    match expect {
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => found.is_some_and(|entry| entry.revision == revision),
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
