//! The instance's events: said by whoever sees something happen, read by anybody.
//!
//! Whoever says an event is in the middle of something else, and never waits: not for a reader, not for a disk. What is
//! said goes into a ring in memory (`core::event`); everybody who wants it, the disk too, reads from there.

mod segments;
mod told;
mod writer;

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use landfast_core::event::{Event, EventId, Gap, Query, Record, Ring, Telemetry};
use landfast_net::clock;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub(crate) use segments::Stored;
use segments::{Segments, Tail};
pub(crate) use told::{CdpDisconnect, Crash, CrashPhase};

/// The file in which the agent's start outlives it, so that the next one's is higher whatever the clock says.
const START: &str = "start";

/// The file in which what the browser is watched for outlives the agent.
const TELEMETRY: &str = "telemetry.json";

/// Pages that are put together at once: each reads up to 16 MiB, on a thread of its own.
const PAGES: usize = 4;

/// What has happened, as far as it is remembered.
#[derive(Debug)]
pub(crate) struct Events {
    dir: PathBuf,
    ring: Mutex<Ring>,
    /// The number of the next event, to wait for.
    next: watch::Sender<u64>,
    telemetry: watch::Sender<Telemetry>,
    /// The number of the first event that is not on disk.
    written: AtomicU64,
    pages: Semaphore,
}

impl Events {
    /// The events of an agent that begins now.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn open(state: &Path) -> io::Result<Arc<Self>> {
        let dir = state.join("events");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let start = begin(&dir)?;
        let ring = Mutex::new(Ring::new(start));
        let telemetry = watch::Sender::new(load(&dir)?);
        let (next, written, pages) = (watch::Sender::new(1), AtomicU64::new(1), Semaphore::new(PAGES));
        Ok(Arc::new(Self { dir, ring, next, telemetry, written, pages }))
    }

    /// Says that something happened. Never waits.
    pub(crate) fn emit(&self, event: &Event) -> Arc<Record> {
        // Written down before the lock is taken: how long that takes depends on the event.
        let json = event.to_bounded_json();
        let mut ring = self.ring();
        let record = ring.push(event, &json).clone();
        // Under the lock, so that it only grows.
        self.next.send_replace(ring.next());
        record
    }

    /// Says that something happened now.
    pub(crate) fn say(&self, kind: &'static str, data: Value) {
        self.emit(&Event::new(kind, clock::unix_micros()).with_data(data));
    }

    /// Tells of new events, by the number that comes next.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }

    /// The task that brings them to disk, until `end` is cancelled and everything is there.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn writer(
        self: &Arc<Self>,
        end: CancellationToken,
    ) -> io::Result<impl Future<Output = ()> + Send + 'static> {
        let segments = Segments::open(&self.dir, self.ring().start())?;
        Ok(writer::run(self.clone(), segments, end))
    }

    /// A page of what was said. With `is_part` somebody else may have what is older.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) async fn page(&self, query: Query, is_part: bool) -> io::Result<Stored> {
        let _permit = self.pages.acquire().await.map_err(io::Error::other)?;
        let (dir, tail) = (self.dir.clone(), self.tail());
        spawn_blocking(move || segments::page(&dir, query, &tail, is_part)).await.map_err(io::Error::other)?
    }

    /// What is not on disk yet. Taken before the disk is read, so that everything is in one of both.
    fn tail(&self) -> Tail {
        let ring = self.ring();
        let (start, from) = (ring.start(), self.written.load(Ordering::Relaxed));
        let gap = (from < ring.oldest()).then(|| Gap { from: ring.id(from), to: ring.id(ring.oldest()) });
        let records: Vec<_> = ring.since(from).cloned().collect();
        drop(ring);
        let mut lines = gap.map(|gap| gap.json() + "\n").unwrap_or_default();
        for record in records {
            lines.push_str(record.json());
            lines.push('\n');
        }
        Tail { start, from, lines }
    }

    /// Everything before this number is on disk.
    fn written(&self, next: u64) {
        self.written.store(next, Ordering::Relaxed);
    }

    /// Where they are stored.
    fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the browser is to be watched for, now and from now on.
    pub(crate) fn telemetry(&self) -> watch::Receiver<Telemetry> {
        self.telemetry.subscribe()
    }

    /// Changes what the browser is watched for, for this agent and later ones.
    ///
    /// # Errors
    ///
    /// The file system's, and nothing has changed.
    pub(crate) fn configure(&self, telemetry: Telemetry) -> io::Result<()> {
        replace(&self.dir.join(TELEMETRY), &serde_json::to_vec(&telemetry)?)?;
        self.telemetry.send_if_modified(|is| std::mem::replace(is, telemetry) != telemetry);
        Ok(())
    }

    /// What is remembered, to look at; never across an await.
    pub(crate) fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().expect("nobody panics while holding the events")
    }
}

/// A start that is higher than every earlier one's, on disk before anybody hears of it.
fn begin(dir: &Path) -> io::Result<u64> {
    let path = dir.join(START);
    let last = read(&path)?.and_then(|text| text.trim().parse().ok());
    let start = EventId::next_start(clock::unix_millis(), last);
    replace(&path, start.to_string().as_bytes())?;
    Ok(start)
}

fn load(dir: &Path) -> io::Result<Telemetry> {
    let text = read(&dir.join(TELEMETRY))?.unwrap_or_default();
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_remembered_and_announced() {
        let dir = tempfile::tempdir().unwrap();
        let events = Events::open(dir.path()).unwrap();
        let next = events.next.subscribe();
        events.say("process_exit", json!({"pid": 7}));
        assert_eq!(*next.borrow(), 2);
        assert!(events.ring().since(1).next().unwrap().json().contains("\"pid\":7"));
    }

    #[test]
    fn a_later_agent_has_a_higher_start_even_if_the_clock_went_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = Events::open(dir.path()).unwrap().ring().start();
        let second = Events::open(dir.path()).unwrap().ring().start();
        assert!(second >= first + EventId::START_STEP);
        fs::write(dir.path().join("events").join(START), "4000000000000").unwrap();
        assert!(Events::open(dir.path()).unwrap().ring().start() > 4_000_000_000_000);
    }

    #[test]
    fn what_the_browser_is_watched_for_outlives_the_agent_and_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let events = Events::open(dir.path()).unwrap();
        let mut changes = events.telemetry();
        assert_eq!(*changes.borrow_and_update(), Telemetry::default());
        let wanted = Telemetry { network: true, ..Telemetry::default() };
        events.configure(wanted).unwrap();
        assert!(changes.has_changed().unwrap() && *changes.borrow_and_update() == wanted);
        events.configure(wanted).unwrap();
        assert!(!changes.has_changed().unwrap());
        assert_eq!(*Events::open(dir.path()).unwrap().telemetry().borrow(), wanted);
    }
}
