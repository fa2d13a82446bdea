//! A reader of the ring: a number, a filter, and what it has not been told yet.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Category, Cursor, CursorError, EventId, Gap, Record, Ring};

/// How many events that a reader does not want may go by before it is told how far it is. A tenth of the ring: whoever
/// comes back with that id is not taken for one that was overrun.
const SKIPPED_MAX: u64 = 800;

/// Which events a reader wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these types, if any are named.
    pub kinds: BTreeSet<String>,
    /// Only these categories, if any are named.
    pub categories: BTreeSet<Category>,
}

/// Somebody who reads events one after another.
#[derive(Debug)]
pub struct Reader {
    /// The number it wants next.
    at: u64,
    /// What it missed before its first event.
    gap: Option<Gap>,
    filter: Filter,
    /// How many went by since it was last told how far it is.
    skipped: u64,
}

/// What a reader gets.
#[derive(Clone, Debug)]
pub enum Item {
    /// An event.
    Event(Arc<Record>),
    /// Events that are gone.
    Gap(Gap),
    /// Nothing that it wants up to this event.
    Skipped(EventId),
}

impl Filter {
    /// Whether an event of this type and category is wanted.
    pub fn wants(&self, kind: &str, category: Category) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(kind))
            && (self.categories.is_empty() || self.categories.contains(&category))
    }
}

impl Reader {
    /// A reader of what comes from now on. It is told at once where that is, so that it can go on from there although it
    /// has seen nothing yet.
    pub const fn from_now(ring: &Ring, filter: Filter) -> Self {
        Self { at: ring.next(), gap: None, filter, skipped: SKIPPED_MAX }
    }

    /// A reader of everything that is kept.
    pub fn from_oldest(ring: &Ring, filter: Filter) -> Self {
        Self { at: ring.oldest(), gap: None, filter, skipped: 0 }
    }

    /// A reader that has everything up to an event.
    ///
    /// # Errors
    ///
    /// As [`Ring::after`].
    pub fn after(ring: &Ring, cursor: Cursor, filter: Filter) -> Result<Self, CursorError> {
        let (at, gap) = ring.after(cursor)?;
        Ok(Self { at, gap, filter, skipped: 0 })
    }

    /// The number it wants next.
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// Takes what comes next, about `bytes` of it and at least one event; nothing if it has everything.
    pub fn take(&mut self, ring: &Ring, bytes: usize) -> Vec<Item> {
        let mut items = Vec::new();
        if self.at < ring.oldest() {
            // What was missed before the first event, and then this, are one gap.
            let gap = ring.gap(self.at);
            self.gap = Some(self.gap.map_or(gap, |first| Gap { from: first.from, to: gap.to }));
            self.at = ring.oldest();
        }
        items.extend(self.gap.take().map(Item::Gap));
        let mut room = bytes;
        for record in ring.since(self.at) {
            if room == 0 {
                break;
            }
            self.at += 1;
            if self.filter.wants(record.kind(), record.category()) {
                room = room.saturating_sub(record.frame().len());
                items.push(Item::Event(record.clone()));
                self.skipped = 0;
            } else {
                self.skipped += 1;
            }
        }
        if self.skipped >= SKIPPED_MAX {
            items.extend(self.skipped(ring));
        }
        items
    }

    /// How far it is, if events went by since it was last told.
    pub fn skipped(&mut self, ring: &Ring) -> Option<Item> {
        let is_behind = std::mem::take(&mut self.skipped) > 0;
        is_behind.then(|| Item::Skipped(ring.id(self.at - 1)))
    }
}

impl Item {
    /// Writes it as a server-sent event.
    pub fn write_frame(&self, frames: &mut String) {
        match self {
            Self::Event(record) => frames.push_str(record.frame()),
            Self::Gap(gap) => frames.push_str(&gap.frame()),
            Self::Skipped(id) => frames.push_str(&format!("id: {id}\n\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Event;
    use super::*;

    const START: u64 = 1_790_000_000_000;

    fn push(ring: &mut Ring, kind: &'static str, events: u64) {
        for ts in 0..events {
            let event = Event::new(kind, ts);
            ring.push(&event, &event.to_bounded_json());
        }
    }

    /// What a reader gets until it has everything: `e3` an event, `g2-7` a gap, `s9` that nothing came until then.
    fn read(reader: &mut Reader, ring: &Ring) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let items = reader.take(ring, 100);
            if items.is_empty() {
                return said;
            }
            said.extend(items.iter().map(|item| match item {
                Item::Event(record) => format!("e{}", record.id().seq),
                Item::Gap(gap) => format!("g{}-{}", gap.from.seq, gap.to.seq),
                Item::Skipped(id) => format!("s{}", id.seq),
            }));
        }
    }

    #[test]
    fn readers_begin_now_at_the_oldest_or_after_an_event() {
        let mut ring = Ring::with_room(START, 4, 1 << 20);
        push(&mut ring, "x", 6);
        let mut now = Reader::from_now(&ring, Filter::default());
        let mut oldest = Reader::from_oldest(&ring, Filter::default());
        let mut after = Reader::after(&ring, "4".parse().unwrap(), Filter::default()).unwrap();
        push(&mut ring, "x", 1);
        assert_eq!(read(&mut now, &ring), ["e7"]);
        assert_eq!(read(&mut Reader::from_now(&ring, Filter::default()), &ring), ["s7"]);
        assert_eq!(read(&mut after, &ring), ["e5", "e6", "e7"]);
        assert_eq!(read(&mut oldest, &ring), ["g3-4", "e4", "e5", "e6", "e7"]);
        assert!(read(&mut now, &ring).is_empty());
    }

    #[test]
    fn a_reader_that_stalls_gets_one_exact_gap_and_goes_on() {
        let mut ring = Ring::with_room(START, 4, 1 << 20);
        let mut reader = Reader::from_now(&ring, Filter::default());
        push(&mut ring, "x", 100);
        assert_eq!(read(&mut reader, &ring), ["g1-97", "e97", "e98", "e99", "e100"]);
        push(&mut ring, "x", 1);
        assert_eq!(read(&mut reader, &ring), ["e101"]);
    }

    #[test]
    fn a_filter_leaves_out_what_is_not_wanted_and_the_reader_still_learns_how_far_it_is() {
        let mut ring = Ring::new(START);
        let filter = Filter { kinds: ["y".to_owned()].into(), ..Filter::default() };
        let mut reader = Reader::from_now(&ring, filter);
        assert_eq!(read(&mut reader, &ring), ["s0"]);
        push(&mut ring, "x", 3);
        push(&mut ring, "y", 1);
        assert_eq!(read(&mut reader, &ring), ["e4"]);
        assert!(reader.skipped(&ring).is_none());
        push(&mut ring, "x", 5);
        assert!(read(&mut reader, &ring).is_empty());
        assert!(matches!(reader.skipped(&ring), Some(Item::Skipped(id)) if id.seq == 9));
        assert!(reader.skipped(&ring).is_none());
        push(&mut ring, "x", SKIPPED_MAX);
        assert_eq!(read(&mut reader, &ring), [format!("s{}", 9 + SKIPPED_MAX)]);
    }

    #[test]
    fn categories_filter_too() {
        let filter = Filter { categories: [Category::System].into(), ..Filter::default() };
        assert!(filter.wants("process_exit", Category::System) && !filter.wants("x", Category::Custom));
    }

    #[test]
    fn every_frame_has_an_id_and_none_has_an_event_or_retry_field() {
        let mut ring = Ring::with_room(START, 2, 1 << 20);
        let mut reader = Reader::from_now(&ring, Filter::default());
        push(&mut ring, "x", 5);
        let mut items = reader.take(&ring, 1_000);
        items.push(Item::Skipped(ring.id(5)));
        let mut frames = String::new();
        items.iter().for_each(|item| item.write_frame(&mut frames));
        for frame in frames.trim_end().split("\n\n") {
            assert!(frame.starts_with("id: ") && !frame.contains("\nevent:") && !frame.contains("\nretry:"), "{frame}");
        }
        assert_eq!(frames.matches("id: ").count(), 4);
    }
}
