//! The newest events, for any number of readers at their own pace.
//!
//! Nobody who says an event waits: the oldest makes room. A reader keeps a number, not a place in here, so a reader that
//! stalls costs nothing, and one that comes too late learns exactly what it has missed.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use super::{Category, Cursor, CursorError, Event, EventId};

/// The most events kept: minutes of a busy browser, so that a reader may be away for that long.
const EVENTS: usize = 8_192;

/// The most bytes kept. Events of the largest size would be 8 GB; ordinary ones have some hundred bytes, so this is what
/// 8,192 of 8 KiB take.
const BYTES: usize = 64 << 20;

/// The newest events of one agent.
#[derive(Debug)]
pub struct Ring {
    start: u64,
    records: VecDeque<Arc<Record>>,
    bytes: usize,
    /// The number of the next event.
    next: u64,
    most: (usize, usize),
}

/// An event as it is told, written down once for all readers.
#[derive(Debug)]
pub struct Record {
    id: EventId,
    kind: Cow<'static, str>,
    category: Category,
    /// A server-sent event: `id:`, `data:`, and the empty line.
    frame: Box<str>,
    /// Where in it the envelope stands.
    json: Range<usize>,
}

/// Events that a reader cannot have any more: from the first that is missing to the one that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first that is missing. Of an agent that is gone, nobody knows whether it ever was.
    pub from: EventId,
    /// The one that comes next.
    pub to: EventId,
}

impl Ring {
    /// An empty ring of the agent that started then.
    pub fn new(start: u64) -> Self {
        Self::with_room(start, EVENTS, BYTES)
    }

    /// An empty ring with other bounds.
    pub fn with_room(start: u64, events: usize, bytes: usize) -> Self {
        Self { start, records: VecDeque::new(), bytes: 0, next: 1, most: (events, bytes) }
    }

    /// The agent's start.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// The number of the oldest event kept; of the next one if none is.
    pub fn oldest(&self) -> u64 {
        self.records.front().map_or(self.next, |record| record.id.seq)
    }

    /// The number that the next event gets.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Takes an event in. The oldest go if there is no room, the newest never.
    pub fn push(&mut self, event: &Event, json: &str) -> &Arc<Record> {
        let record = Record::new(EventId { start: self.start, seq: self.next }, event, json);
        self.next += 1;
        self.bytes += record.frame.len();
        self.records.push_back(Arc::new(record));
        while self.records.len() > self.most.0 || self.bytes > self.most.1 && self.records.len() > 1 {
            let gone = self.records.pop_front().expect("there is more than one");
            self.bytes -= gone.frame.len();
        }
        self.records.back().expect("it was just taken in")
    }

    /// The events from this number on that are kept.
    pub fn since(&self, seq: u64) -> impl Iterator<Item = &Arc<Record>> {
        let skip = usize::try_from(seq.saturating_sub(self.oldest())).unwrap_or(usize::MAX);
        self.records.range(skip.min(self.records.len())..)
    }

    /// The number that follows a cursor, and what lies between if that is not all there.
    ///
    /// # Errors
    ///
    /// [`CursorError::NotYet`] for an id of this start that no event has.
    pub fn after(&self, cursor: Cursor) -> Result<(u64, Option<Gap>), CursorError> {
        let is_ours = match cursor.start {
            Some(start) => start == self.start,
            // A number beyond all of ours is one of an earlier start.
            None => cursor.seq < self.next,
        };
        let oldest = self.oldest();
        if !is_ours {
            let from = EventId { start: cursor.start.unwrap_or(0), seq: cursor.seq.saturating_add(1) };
            return Ok((oldest, Some(Gap { from, to: self.id(oldest) })));
        }
        let next = cursor.seq.saturating_add(1);
        if next > self.next {
            return Err(CursorError::NotYet);
        }
        Ok((next.max(oldest), (next < oldest).then(|| self.gap(next))))
    }

    /// What a reader that wants this number next has missed.
    pub(super) fn gap(&self, next: u64) -> Gap {
        Gap { from: self.id(next), to: self.id(self.oldest()) }
    }

    /// The id of a number of this start.
    pub const fn id(&self, seq: u64) -> EventId {
        EventId { start: self.start, seq }
    }
}

impl Record {
    fn new(id: EventId, event: &Event, json: &str) -> Self {
        let mut frame = String::with_capacity(json.len() + 96);
        write!(frame, "id: {id}\ndata: ").expect("a string takes everything");
        let from = frame.len();
        write!(frame, "{{\"seq\":{},\"event\":{json}}}", id.seq).expect("a string takes everything");
        let json = from..frame.len();
        frame.push_str("\n\n");
        Self { id, kind: event.kind.clone(), category: event.category, frame: frame.into(), json }
    }

    /// The event's id.
    pub const fn id(&self) -> EventId {
        self.id
    }

    /// The event's type.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What the event is about.
    pub const fn category(&self) -> Category {
        self.category
    }

    /// The envelope as JSON on one line.
    pub fn json(&self) -> &str {
        &self.frame[self.json.clone()]
    }

    /// The whole server-sent event.
    pub fn frame(&self) -> &str {
        &self.frame
    }
}

impl Gap {
    /// The record that says so, as JSON on one line.
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Said {
            r#type: &'static str,
            from: String,
            to: String,
        }
        let said = Said { r#type: "gap", from: self.from.to_string(), to: self.to.to_string() };
        serde_json::to_string(&said).expect("two texts are JSON")
    }

    /// The whole server-sent event. Its id leads on behind the gap.
    pub fn frame(&self) -> String {
        let last = EventId { seq: self.to.seq - 1, ..self.to };
        format!("id: {last}\ndata: {}\n\n", self.json())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_790_000_000_000;

    fn push(ring: &mut Ring, event: &Event) {
        ring.push(event, &event.to_bounded_json());
    }

    fn filled(events: u64) -> Ring {
        let mut ring = Ring::with_room(START, 10, 1 << 20);
        for ts in 1..=events {
            push(&mut ring, &Event::new("x", ts));
        }
        ring
    }

    fn id(seq: u64) -> EventId {
        EventId { start: START, seq }
    }

    #[test]
    fn the_newest_are_kept_and_numbered_without_holes() {
        let ring = filled(25);
        assert_eq!((ring.oldest(), ring.next()), (16, 26));
        assert!(ring.since(0).map(|record| record.id().seq).eq(16..=25));
        assert!(ring.since(24).map(|record| record.id().seq).eq(24..=25));
        assert_eq!(ring.since(99).count(), 0);
    }

    #[test]
    fn large_events_leave_room_for_few_but_the_newest_is_always_kept() {
        let mut ring = Ring::with_room(START, 1_000, 1_000);
        for _ in 0..50 {
            push(&mut ring, &Event::new("x".repeat(150), 1));
        }
        assert!((2..5).contains(&ring.since(0).count()));
        push(&mut ring, &Event::new("x".repeat(5_000), 1));
        assert_eq!(ring.since(0).count(), 1);
    }

    #[test]
    fn a_record_is_a_frame_whose_data_is_the_envelope() {
        let mut ring = Ring::new(START);
        let event = Event::new("process_exit", 9);
        let record = ring.push(&event, &event.to_bounded_json()).clone();
        let envelope: super::super::Envelope = serde_json::from_str(record.json()).unwrap();
        assert_eq!((envelope.seq, envelope.event), (1, event));
        assert_eq!(record.frame(), format!("id: {START}.1\ndata: {}\n\n", record.json()));
    }

    #[test]
    fn a_reader_that_was_overrun_learns_what_is_missing() {
        let ring = filled(25);
        assert_eq!(ring.after(id(20).into()), Ok((21, None)));
        assert_eq!(ring.after(id(25).into()), Ok((26, None)));
        assert_eq!(ring.after(id(15).into()), Ok((16, None)));
        let gap = Gap { from: id(4), to: id(16) };
        assert_eq!(ring.after(id(3).into()), Ok((16, Some(gap))));
        assert_eq!(ring.after(Cursor { start: None, seq: 3 }), Ok((16, Some(gap))));
        assert_eq!(gap.frame(), format!("id: {START}.15\ndata: {}\n\n", gap.json()));
        let said: serde_json::Value = serde_json::from_str(&gap.json()).unwrap();
        assert_eq!(said, serde_json::json!({"type": "gap", "from": id(4).to_string(), "to": id(16).to_string()}));
    }

    #[test]
    fn an_id_of_another_start_is_a_gap_and_never_a_wait() {
        for ring in [filled(0), filled(25)] {
            let oldest = ring.oldest();
            let old = EventId { start: START - 5, seq: 70 };
            let from = EventId { seq: 71, ..old };
            assert_eq!(ring.after(old.into()), Ok((oldest, Some(Gap { from, to: id(oldest) }))));
            let from = EventId { start: 0, seq: 71 };
            assert_eq!(ring.after(Cursor { start: None, seq: 70 }), Ok((oldest, Some(Gap { from, to: id(oldest) }))));
        }
        assert_eq!(filled(25).after(id(26).into()), Err(CursorError::NotYet));
    }

    proptest! {
        #[test]
        fn its_bounds_hold_whatever_comes(sizes in proptest::collection::vec(0usize..3_000, 1..200)) {
            let mut ring = Ring::with_room(START, 20, 10_000);
            for size in sizes {
                push(&mut ring, &Event::new("x".repeat(size), 1));
                let kept: usize = ring.since(0).map(|record| record.frame().len()).sum();
                prop_assert!(kept == ring.bytes && (kept <= 10_000 || ring.records.len() == 1));
                prop_assert!(ring.records.len() <= 20);
            }
        }
    }
}
