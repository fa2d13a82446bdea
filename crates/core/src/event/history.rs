//! Pages of what was stored, by whoever stores it.
//!
//! Events are stored as lines of JSON in segments: files that are written once and then only read. Whoever has some, an
//! agent its newest, an archive the others, gives a page of them the same way: it lists their names, and feeds those that
//! the page asks for, one after another, until the page has enough.
//!
//! An agent numbers its events without holes, so where a number is missing between two segments, or before the first, the
//! segment with it is gone: removed to make room before anybody had copied it, or too old. A page says so by a gap, whoever
//! puts it together.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Category, EventId, Filter, Gap};

/// How many events a page has if nobody says, and at most.
const LIMIT: (usize, usize) = (100, 1_000);

/// Bytes of segments that are read for one page. What is filtered out costs reading too, so a page may end, or be empty,
/// before everything was looked at; its offset goes on from there.
const SCAN_MAX: usize = 16 << 20;

/// A segment that was last written so long before the wanted time has nothing of it, in microseconds: callers may say
/// events of the near future.
const FUTURE_MAX: u64 = 3_600_000_000;

/// The name of a segment: the agent's start and the number of the first event in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// The agent's start.
    pub start: u64,
    /// No event in it has a lower number.
    pub first: u64,
}

/// What somebody wants to know of what was stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Not what happened before, in microseconds since 1970.
    since: Option<u64>,
    /// Nor from then on.
    until: Option<u64>,
    limit: usize,
    /// Where the page before ended.
    offset: Option<u64>,
    newest_first: bool,
    filter: Filter,
}

/// A page that is being put together.
#[derive(Debug)]
pub struct Page {
    query: Query,
    lines: Vec<String>,
    /// The position of the last line that was looked at and is no business of the next page.
    at: u64,
    scanned: usize,
    /// Whether there is more than what is on it.
    has_more: bool,
    /// How far it was fed.
    edge: Option<Edge>,
    /// Whether nothing is known of what lies before the oldest that it is fed.
    is_part: bool,
    /// What follows all that it is fed, if the newest come last.
    end: Option<EventId>,
}

/// The last number that was fed, in either direction.
#[derive(Clone, Copy, Debug)]
struct Edge {
    era: u64,
    /// Absent if it is known by its position only.
    start: Option<u64>,
    seq: u64,
}

/// What a page needs to know of a line.
#[derive(Deserialize)]
struct Line<'a> {
    seq: Option<u64>,
    #[serde(borrow)]
    event: Option<Head<'a>>,
    /// Of a gap: the first that is missing,
    #[serde(borrow)]
    from: Option<Cow<'a, str>>,
    /// and the event that follows.
    #[serde(borrow)]
    to: Option<Cow<'a, str>>,
}

impl Line<'_> {
    /// The first and the last number that it tells of.
    fn range(&self, start: u64) -> Option<(u64, u64)> {
        if let Some(seq) = self.seq {
            return Some((seq, seq));
        }
        let id = |text: &Option<Cow<'_, str>>| text.as_ref()?.parse::<EventId>().ok();
        let last = id(&self.to)?.seq.saturating_sub(1);
        Some((id(&self.from).filter(|from| from.start == start).map_or(last, |from| from.seq), last))
    }
}

#[derive(Deserialize)]
struct Head<'a> {
    ts: u64,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    category: Category,
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Padded, so that names sort as what is in them.
        write!(f, "{:014}-{:012}.jsonl", self.start, self.first)
    }
}

impl FromStr for Segment {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let (start, first) = name.strip_suffix(".jsonl").and_then(|name| name.split_once('-')).ok_or(())?;
        let segment = Self { start: start.parse().map_err(|_| ())?, first: first.parse().map_err(|_| ())? };
        if segment.to_string() == name { Ok(segment) } else { Err(()) }
    }
}

impl Segment {
    const fn position(self) -> u64 {
        EventId { start: self.start, seq: self.first }.position()
    }
}

impl Query {
    /// Reads the pairs of a query; `now` is in microseconds since 1970.
    ///
    /// # Errors
    ///
    /// What cannot be understood, as a sentence.
    pub fn read<'a>(pairs: impl IntoIterator<Item = (Cow<'a, str>, Cow<'a, str>)>, now: u64) -> Result<Self, String> {
        let mut query = Self { limit: LIMIT.0, ..Self::default() };
        for (name, value) in pairs {
            match &*name {
                "since" => query.since = Some(read_time("since", &value, now)?),
                "until" => query.until = Some(read_time("until", &value, now)?),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIMIT.1).contains(limit));
                    query.limit = limit.ok_or_else(|| format!("limit is {value:.50?}; it is 1 to {}.", LIMIT.1))?;
                }
                "offset" => {
                    let offset: u64 =
                        value.parse().map_err(|_| format!("offset is {value:.50?}; it is what X-Next-Offset said."))?;
                    // 0 is said for the end, and also means the beginning.
                    query.offset = Some(offset).filter(|&offset| offset > 0);
                }
                "order" => {
                    query.newest_first = match &*value {
                        "asc" => false,
                        "desc" => true,
                        _ => return Err(format!("order is {value:.50?}; say asc or desc.")),
                    }
                }
                "category" => query.filter.categories.extend(read_categories(&value)?),
                "type" => query.filter.kinds.extend(value.split(',').map(|kind| kind.trim().to_owned())),
                _ => {}
            }
        }
        Ok(query)
    }

    /// Which of these segments have something to say, in the order in which the page is to be fed. Each comes with the time
    /// at which it was last written, in microseconds, if that is known.
    pub fn choose(&self, mut segments: Vec<(Segment, Option<u64>)>) -> Vec<Segment> {
        segments.sort_unstable_by_key(|&(segment, _)| segment);
        let nexts: Vec<_> = segments.iter().skip(1).map(|&(next, _)| Some(next)).chain([None]).collect();
        let wanted = segments.into_iter().zip(nexts).filter(|&((segment, written), next)| {
            let is_recent = self.since.is_none_or(|since| written.is_none_or(|at| at + FUTURE_MAX >= since));
            let is_on_the_way = match (self.offset, self.newest_first) {
                (None, _) => true,
                // The one that begins there has nothing to say but where it begins.
                (Some(offset), true) => segment.position() <= offset,
                (Some(offset), false) => next.is_none_or(|next| next.position() > offset + 1),
            };
            is_recent && is_on_the_way
        });
        let mut wanted: Vec<Segment> = wanted.map(|((segment, _), _)| segment).collect();
        if self.newest_first {
            wanted.reverse();
        }
        wanted
    }

    /// Whether the newest come first.
    pub const fn is_newest_first(&self) -> bool {
        self.newest_first
    }

    /// Whether it may be about something older than this.
    pub const fn reaches_below(&self, id: EventId) -> bool {
        match (self.offset, self.newest_first) {
            // What it wants begins behind its offset.
            (Some(offset), false) => offset + 1 < id.position(),
            (None, false) | (_, true) => true,
        }
    }

    /// Whether it is about nothing that is not older than this.
    pub const fn is_below(&self, id: EventId) -> bool {
        match (self.offset, self.newest_first) {
            (Some(offset), true) => offset <= id.position(),
            (None, true) | (_, false) => false,
        }
    }

    fn is_before(&self, position: u64) -> bool {
        match self.offset {
            None => false,
            Some(offset) if self.newest_first => position >= offset,
            Some(offset) => position <= offset,
        }
    }

    fn wants(&self, event: &Head<'_>) -> bool {
        self.since.is_none_or(|since| event.ts >= since)
            && self.until.is_none_or(|until| event.ts < until)
            && self.filter.wants(&event.r#type, event.category)
    }
}

impl Page {
    /// An empty page of all that there is.
    pub fn new(query: Query) -> Self {
        // How long ago something was changes from page to page, so that what lies at an offset may not be looked at any more.
        let edge = query.offset.filter(|_| query.since.is_none()).map(|offset| {
            let (era, seq) = EventId::parts(offset);
            Edge { era, start: None, seq }
        });
        let is_part = query.since.is_some();
        Self { query, lines: Vec::new(), at: 0, scanned: 0, has_more: false, edge, is_part, end: None }
    }

    /// An empty page of what somebody has from a certain point on; what lies before it, somebody else may have.
    pub fn part(query: Query) -> Self {
        Self { is_part: true, ..Self::new(query) }
    }

    /// An empty page of what is older than `end`, which somebody else has, and what follows it.
    pub fn below(query: Query, end: EventId) -> Self {
        let mut page = Self { end: Some(end), ..Self::new(query) };
        if page.query.newest_first && page.query.offset.is_none_or(|offset| offset >= end.position()) {
            page.query.offset = Some(end.position());
            page.edge = Some(Edge { era: EventId::era(end.start), start: Some(end.start), seq: end.seq });
        }
        page
    }

    /// Which of these segments it is to be fed, as [`Query::choose`]; of what somebody else has, none.
    pub fn choose(&self, mut segments: Vec<(Segment, Option<u64>)>) -> Vec<Segment> {
        if let Some(end) = self.end {
            segments.retain(|(segment, _)| segment.position() < end.position());
        }
        self.query.choose(segments)
    }

    /// Whether nothing that could follow would change it.
    pub const fn is_done(&self) -> bool {
        self.has_more
    }

    /// Takes what is wanted of a segment, or of what would be one. A line that is not whole says nothing.
    pub fn feed(&mut self, start: u64, text: &str) {
        let lines = text.lines();
        if self.query.newest_first {
            lines.rev().for_each(|line| self.feed_line(start, line));
        } else {
            lines.for_each(|line| self.feed_line(start, line));
        }
    }

    fn feed_line(&mut self, start: u64, text: &str) {
        if self.has_more {
            return;
        }
        let Ok(line) = serde_json::from_str::<Line<'_>>(text) else { return };
        let Some((first, last)) = line.range(start) else { return };
        if let Some(gap) = self.hole(start, first, last) {
            self.feed_range(gap.from.start, (gap.from.seq, gap.to.seq - 1), None, &gap.json());
        }
        self.edge = Some(Edge {
            era: EventId::era(start),
            start: Some(start),
            seq: if self.query.newest_first { first } else { last },
        });
        self.feed_range(start, (first, last), line.event.as_ref(), text);
    }

    /// What is missing between what was fed and this.
    fn hole(&self, start: u64, first: u64, last: u64) -> Option<Gap> {
        let era = EventId::era(start);
        let gap = |start, from, to| Gap { from: EventId { start, seq: from }, to: EventId { start, seq: to } };
        let edge = match self.edge {
            Some(edge) => edge,
            // Nothing lies before the first of an agent.
            None if !self.query.newest_first && !self.is_part => Edge { era, start: None, seq: 0 },
            None => return None,
        };
        if !self.query.newest_first {
            let expected = if edge.era == era { edge.seq + 1 } else { 1 };
            return (expected < first).then(|| gap(start, expected, first));
        }
        if edge.era == era {
            return (last + 1 < edge.seq).then(|| gap(start, last + 1, edge.seq));
        }
        edge.start.filter(|_| edge.seq > 1).map(|later| gap(later, 1, edge.seq))
    }

    /// What is missing behind all that was fed.
    fn last_hole(&self) -> Option<Gap> {
        let gap = |start, from, to| Gap { from: EventId { start, seq: from }, to: EventId { start, seq: to } };
        if self.query.newest_first {
            let Edge { start: Some(start), seq, .. } = self.edge.filter(|_| !self.is_part)? else { return None };
            return (seq > 1).then(|| gap(start, 1, seq));
        }
        let end = self.end?;
        let known = self.edge.filter(|edge| edge.era == EventId::era(end.start));
        let expected = match known {
            Some(edge) => edge.seq + 1,
            None if self.is_part => return None,
            None => 1,
        };
        (expected < end.seq).then(|| gap(end.start, expected, end.seq))
    }

    fn feed_range(&mut self, start: u64, (first, last): (u64, u64), event: Option<&Head<'_>>, text: &str) {
        if self.has_more {
            return;
        }
        let position = EventId { start, seq: last }.position();
        if self.query.is_before(position) {
            return;
        }
        // A gap may hide anything, so it is always told.
        let is_wanted = event.is_none_or(|event| self.query.wants(event));
        let is_full = self.lines.len() >= self.query.limit;
        if is_wanted && is_full || self.scanned >= SCAN_MAX {
            self.has_more = true;
            return;
        }
        self.scanned += text.len();
        if is_wanted {
            self.lines.push(text.to_owned());
        }
        if !is_full {
            let seq = if self.query.newest_first { first } else { last };
            self.at = EventId { start, seq }.position();
        }
    }

    /// The JSON array, and the offset at which the next page begins; 0 if there is none.
    pub fn finish(mut self) -> (String, u64) {
        if let Some(gap) = self.last_hole().filter(|_| !self.has_more) {
            self.feed_range(gap.from.start, (gap.from.seq, gap.to.seq - 1), None, &gap.json());
        }
        (format!("[{}]", self.lines.join(",")), if self.has_more { self.at } else { 0 })
    }
}

/// Reads a time: microseconds since 1970, RFC 3339, or how long ago, such as `5m`.
fn read_time(name: &str, text: &str, now: u64) -> Result<u64, String> {
    if let Ok(micros) = text.parse() {
        return Ok(micros);
    }
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(u64::try_from(time.unix_timestamp_nanos() / 1_000).unwrap_or(0));
    }
    let ago = text.char_indices().last().and_then(|(at, unit)| {
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        text[..at].parse::<u64>().ok()?.checked_mul(seconds * 1_000_000)
    });
    ago.map(|ago| now.saturating_sub(ago)).ok_or_else(|| {
        format!(
            "{name} is {text:.50?}; say microseconds since 1970, a time as 2026-01-31T12:00:00Z, or how long ago as 5m."
        )
    })
}

fn read_categories(text: &str) -> Result<Vec<Category>, String> {
    let all = || Category::ALL.map(Category::as_str).join(", ");
    let one = |name: &str| Category::ALL.into_iter().find(|category| category.as_str() == name);
    text.split(',')
        .map(|name| one(name.trim()).ok_or_else(|| format!("category is {name:.50?}; there are {}.", all())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Gap};
    use super::*;

    const START: u64 = 1_790_000_000_000;

    fn query(text: &str) -> Query {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Query::read(pairs.map(|(name, value)| (name.into(), value.into())), 1_000_000_000).unwrap()
    }

    fn refusal(name: &str, value: &str) -> String {
        Query::read([(name.into(), value.into())], 0).unwrap_err()
    }

    /// Segments of ten events each, of two agents; the event's time is its number, and every third is an `x`.
    fn segments() -> Vec<(Segment, String)> {
        let mut segments = Vec::new();
        for start in [START, START + 5_000] {
            for first in [1, 11, 21] {
                let text = (first..first + 10).map(|seq| {
                    let event = Event::new(if seq % 3 == 0 { "x" } else { "process_exit" }, seq);
                    format!("{{\"seq\":{seq},\"event\":{}}}\n", event.to_bounded_json())
                });
                segments.push((Segment { start, first }, text.collect()));
            }
        }
        segments
    }

    /// The numbers on a page, and the next one's offset.
    fn page(segments: &[(Segment, String)], text: &str) -> (Vec<u64>, u64) {
        let query = query(text);
        let chosen = query.choose(segments.iter().map(|(segment, _)| (*segment, None)).collect());
        let mut page = Page::new(query);
        for segment in chosen {
            let (_, text) = segments.iter().find(|(name, _)| *name == segment).unwrap();
            page.feed(segment.start, text);
        }
        let (json, next) = page.finish();
        let items: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
        (items.iter().map(|item| item["seq"].as_u64().unwrap_or(0)).collect(), next)
    }

    #[test]
    fn a_segment_is_found_by_its_name_and_nothing_else_is_taken_for_one() {
        let segment = Segment { start: START, first: 42 };
        assert_eq!(segment.to_string(), "01790000000000-000000000042.jsonl");
        assert_eq!(segment.to_string().parse(), Ok(segment));
        for name in ["1-2.jsonl", "start", "01790000000000-000000000042.jsonl.open", "../x.jsonl", "-.jsonl"] {
            assert_eq!(name.parse::<Segment>(), Err(()), "{name}");
        }
    }

    #[test]
    fn pages_of_any_size_and_either_order_are_everything_once() {
        let segments = segments();
        let all: Vec<u64> = (1..=30).chain(1..=30).collect();
        for limit in [1, 7, 10, 59, 60, 61] {
            for (order, expected) in [("asc", all.clone()), ("desc", all.iter().rev().copied().collect())] {
                let (mut seen, mut offset) = (Vec::new(), 0);
                loop {
                    let (items, next) = page(&segments, &format!("limit={limit}&order={order}&offset={offset}"));
                    assert!(items.len() == limit || next == 0);
                    seen.extend(items);
                    offset = next;
                    if next == 0 {
                        break;
                    }
                }
                assert_eq!(seen, expected, "{limit} {order}");
            }
        }
    }

    #[test]
    fn pages_are_filtered_by_type_category_and_time() {
        let segments = segments();
        assert_eq!(
            page(&segments, "type=x&limit=4"),
            (vec![3, 6, 9, 12], EventId { start: START, seq: 12 }.position())
        );
        assert_eq!(page(&segments, "category=custom&since=20&until=28").0, [21, 24, 27, 21, 24, 27]);
        assert_eq!(page(&segments, "type=x&category=system"), (vec![], 0));
        assert_eq!(page(&segments, "type=x,process_exit&since=30").0, [30, 30]);
    }

    #[test]
    fn a_gap_is_always_told() {
        let id = |seq| EventId { start: START, seq };
        let text = format!("{}\n", Gap { from: id(1), to: id(8) }.json());
        let segments = [(Segment { start: START, first: 1 }, text)];
        assert_eq!(page(&segments, "type=x"), (vec![0], 0));
        assert_eq!(page(&segments, &format!("offset={}", id(7).position())), (vec![], 0));
    }

    /// Everything that pages of this size say, oldest first: numbers, and gaps as the first that is missing and what follows.
    fn all(segments: &[(Segment, String)], order: &str, limit: usize) -> Vec<(u64, u64)> {
        let (mut seen, mut offset) = (Vec::new(), 0);
        loop {
            let query = query(&format!("limit={limit}&order={order}&offset={offset}"));
            let chosen = query.choose(segments.iter().map(|(segment, _)| (*segment, None)).collect());
            let mut page = Page::new(query);
            for segment in chosen {
                page.feed(segment.start, &segments.iter().find(|(name, _)| *name == segment).unwrap().1);
            }
            let (json, next) = page.finish();
            let items: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
            assert!(items.len() <= limit);
            seen.extend(items.iter().map(|item| {
                let end = |name: &str| item[name].as_str().map(|id| id.parse::<EventId>().unwrap().seq);
                item["seq"].as_u64().map_or_else(|| (end("from").unwrap(), end("to").unwrap()), |seq| (seq, seq))
            }));
            offset = next;
            if next == 0 {
                break;
            }
        }
        if order == "desc" {
            seen.reverse();
        }
        seen
    }

    #[test]
    fn a_segment_that_is_gone_is_told_as_the_exact_gap_on_pages_of_any_size() {
        let numbers = |range: std::ops::RangeInclusive<u64>| range.map(|seq| (seq, seq));
        for (gone, gaps) in [
            (&[1][..], [Some((11, 21)), None, None]),
            (&[0, 1], [Some((1, 21)), None, None]),
            (&[0], [Some((1, 11)), None, None]),
            (&[0, 3], [Some((1, 11)), Some((1, 11)), None]),
            (&[3, 4], [None, Some((1, 21)), None]),
        ] {
            let mut segments = segments();
            let mut at = 0;
            segments.retain(|_| {
                at += 1;
                !gone.contains(&(at - 1))
            });
            let mut expected: Vec<(u64, u64)> = Vec::new();
            for half in [0..3, 3..6] {
                let mut missing: Option<(u64, u64)> = None;
                for index in half.clone() {
                    let first = (index as u64 - half.start as u64) * 10 + 1;
                    if gone.contains(&index) {
                        missing = Some((missing.map_or(first, |(from, _)| from), first + 10));
                    } else {
                        expected.extend(missing.take());
                        expected.extend(numbers(first..=first + 9));
                    }
                }
            }
            for gap in gaps.into_iter().flatten() {
                assert!(expected.contains(&gap), "{gone:?}");
            }
            for limit in [1, 2, 7, 10, 11, 100] {
                for order in ["asc", "desc"] {
                    assert_eq!(all(&segments, order, limit), expected, "{gone:?} {order} {limit}");
                }
            }
        }
    }

    #[test]
    fn who_has_only_a_part_says_nothing_of_what_lies_before_it() {
        let segments = segments();
        for order in ["asc", "desc"] {
            let mut page = Page::part(query(&format!("limit=100&order={order}")));
            page.feed(START, &segments[1].1);
            let items: Vec<serde_json::Value> = serde_json::from_str(&page.finish().0).unwrap();
            assert!(items.len() == 10 && items.iter().all(|item| item["seq"].is_u64()), "{order}");
        }
        // Nor is anything known of what nobody looks at because it is too old.
        let mut page = Page::new(query("since=15&limit=100"));
        page.feed(START, &segments[1].1);
        assert!(!page.finish().0.contains("gap"));
    }

    #[test]
    fn between_what_two_have_a_hole_is_told_once() {
        let segments = segments();
        let end = EventId { start: START, seq: 21 };
        for (fed, order, gap) in [
            (&segments[0..2], "asc", None),
            (&segments[0..1], "asc", Some((11, 21))),
            (&segments[0..0], "asc", Some((1, 21))),
            (&segments[0..2], "desc", None),
            (&segments[0..1], "desc", Some((11, 21))),
            (&segments[0..0], "desc", Some((1, 21))),
        ] {
            let mut page = Page::below(query(&format!("limit=100&order={order}")), end);
            let mut fed: Vec<_> = fed.iter().collect();
            if order == "desc" {
                fed.reverse();
            }
            fed.into_iter().for_each(|(segment, text)| page.feed(segment.start, text));
            let items: Vec<serde_json::Value> = serde_json::from_str(&page.finish().0).unwrap();
            let told = items.iter().filter(|item| item["type"] == "gap").map(|item| {
                let seq = |name: &str| item[name].as_str().unwrap().parse::<EventId>().unwrap().seq;
                (seq("from"), seq("to"))
            });
            assert_eq!(told.collect::<Vec<_>>(), gap.into_iter().collect::<Vec<_>>(), "{order}");
        }
    }

    #[test]
    fn a_page_reads_only_so_much_and_says_where_to_go_on() {
        let line = |seq| {
            let event = Event::new("x", seq).with_data("x".repeat(900_000).into());
            format!("{{\"seq\":{seq},\"event\":{}}}\n", event.to_bounded_json())
        };
        let segments: Vec<_> = (1..=30).map(|seq| (Segment { start: START, first: seq }, line(seq))).collect();
        let (items, next) = page(&segments, "type=y");
        assert!(items.is_empty() && next > 0);
        assert_eq!(page(&segments, &format!("type=y&offset={next}")), (vec![], 0));
    }

    #[test]
    fn what_was_written_long_before_is_not_even_read() {
        let old = (Segment { start: START, first: 1 }, Some(5));
        let new = (Segment { start: START, first: 9 }, Some(FUTURE_MAX + 6));
        assert_eq!(query(&format!("since={}", FUTURE_MAX + 6)).choose(vec![new, old]), [new.0]);
        assert_eq!(query("order=desc").choose(vec![old, new]), [new.0, old.0]);
    }

    #[test]
    fn a_time_is_a_number_a_date_or_how_long_ago() {
        assert_eq!(query("since=1970-01-01T00:00:01.5Z").since, Some(1_500_000));
        assert_eq!(query("since=1970-01-01T01:00:00%2B01:00".replace("%2B", "+").as_str()).since, Some(0));
        assert_eq!(query("until=12345").until, Some(12_345));
        assert_eq!(query("since=15m").since, Some(100_000_000));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (name, value) in [
            ("since", "yesterday"),
            ("until", "5y"),
            ("since", "€"),
            ("limit", "0"),
            ("limit", "1001"),
            ("offset", "-1"),
            ("order", "up"),
            ("category", "page,pages"),
        ] {
            let said = refusal(name, value);
            assert!(said.starts_with(name) && said.ends_with('.'), "{said}");
        }
    }
}
