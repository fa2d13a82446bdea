//! The instance's events: said by whoever sees something happen, read by anybody.
//!
//! Whoever says an event is in the middle of something else, and never waits: not for a reader, not for a disk. What is
//! said goes into a ring in memory (`core::event`); everybody who wants it, the disk too, reads from there.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use landfast_core::event::{Event, EventId, Ring};
use landfast_net::clock;
use serde_json::Value;
use tokio::sync::watch;

/// The file in which the agent's start outlives it, so that the next one's is higher whatever the clock says.
const START: &str = "start";

/// What has happened, as far as it is remembered.
#[derive(Debug)]
pub(crate) struct Events {
    ring: Mutex<Ring>,
    /// The number of the next event, to wait for.
    next: watch::Sender<u64>,
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
        Ok(Arc::new(Self { ring, next: watch::Sender::new(1) }))
    }

    /// Says that something happened. Never waits.
    pub(crate) fn emit(&self, event: &Event) -> EventId {
        // Written down before the lock is taken: how long that takes depends on the event.
        let json = event.to_bounded_json();
        let id = self.ring().push(event, &json).id();
        self.next.send_replace(id.seq + 1);
        id
    }

    /// Says that something happened now.
    pub(crate) fn say(&self, kind: &'static str, data: Value) {
        self.emit(&Event::new(kind, clock::unix_micros()).with_data(data));
    }

    /// What is remembered, to look at; never across an await.
    pub(crate) fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().expect("nobody panics while holding the events")
    }
}

/// A start that is higher than every earlier one's, on disk before anybody hears of it.
fn begin(dir: &Path) -> io::Result<u64> {
    let path = dir.join(START);
    let last = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let start = EventId::next_start(clock::unix_millis(), last);
    let new = path.with_extension("new");
    fs::write(&new, start.to_string())?;
    fs::rename(&new, &path)?;
    Ok(start)
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
        fs::write(dir.path().join("events/start"), "4000000000000").unwrap();
        assert!(Events::open(dir.path()).unwrap().ring().start() > 4_000_000_000_000);
    }
}
