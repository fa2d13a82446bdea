//! The segments on disk: one that grows, and those that are whole.
//!
//! The one that grows has `.open` behind its name until it is sealed; then it is never written again, so that whoever
//! copies it has all of it. An agent that died leaves one that may end in the middle of a line; the next agent cuts that
//! off and seals it. Nothing here is for the runtime's thread: a disk may hang.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use landfast_core::event::{EventId, Page, Query, Segment};

/// When a segment is sealed: an upload of this size takes no time, and its price is not noticed.
const SEGMENT: u64 = 1 << 20;

/// The most bytes that all segments take. What is archived is not needed here; this is what a store that is away for long
/// costs: an instance's home has many times of it.
const TOTAL: u64 = 256 << 20;

/// What the segment that grows has behind its name.
const OPEN: &str = ".open";

/// The segments of an agent and of those before it.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    start: u64,
    /// The sealed ones, oldest first, with their sizes.
    sealed: VecDeque<(Segment, u64)>,
    open: Option<Open>,
    most: (u64, u64),
}

#[derive(Debug)]
struct Open {
    segment: Segment,
    file: File,
    /// The bytes in it that are whole lines.
    len: u64,
}

impl Segments {
    /// Takes over what earlier agents left.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(super) fn open(dir: &Path, start: u64) -> io::Result<Self> {
        Self::with_bounds(dir, start, (SEGMENT, TOTAL))
    }

    fn with_bounds(dir: &Path, start: u64, most: (u64, u64)) -> io::Result<Self> {
        for (segment, is_open) in list(dir)? {
            if is_open {
                seal_left(dir, segment)?;
            }
        }
        let mut sealed = Vec::new();
        for (segment, _) in list(dir)? {
            sealed.push((segment, fs::metadata(dir.join(segment.to_string()))?.len()));
        }
        sealed.sort_unstable();
        let mut segments = Self { dir: dir.to_owned(), start, sealed: sealed.into(), open: None, most };
        segments.bound();
        Ok(segments)
    }

    /// Appends whole lines, of which `first` is the lowest number.
    ///
    /// # Errors
    ///
    /// The file system's, and nothing was appended.
    pub(super) fn append(&mut self, first: u64, lines: &[u8]) -> io::Result<()> {
        if self.open.is_none() {
            self.open = Some(Open::create(&self.dir, Segment { start: self.start, first })?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        if let Err(error) = open.file.write_all(lines) {
            // Half a line would be in the way of the next.
            open.file.set_len(open.len)?;
            open.file.seek(SeekFrom::Start(open.len))?;
            return Err(error);
        }
        open.len += lines.len() as u64;
        if open.len >= self.most.0
            && let Err(error) = self.seal()
        {
            // The lines are there; it is sealed with the next ones.
            tracing::warn!(%error, "a segment of events was not sealed");
        }
        Ok(())
    }

    /// Seals what is there.
    ///
    /// # Errors
    ///
    /// The file system's, and it goes on growing.
    pub(super) fn seal(&mut self) -> io::Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let path = self.dir.join(open.segment.to_string());
        fs::rename(open_path(&self.dir, open.segment), path)?;
        let Some(open) = self.open.take() else { return Ok(()) };
        self.sealed.push_back((open.segment, open.len));
        self.bound();
        Ok(())
    }

    /// Whether there is something to seal.
    pub(super) const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Removes the oldest until the others have room.
    fn bound(&mut self) {
        let mut total: u64 = self.sealed.iter().map(|(_, len)| len).sum();
        while total > self.most.1 {
            let Some((segment, len)) = self.sealed.pop_front() else { return };
            total -= len;
            match fs::remove_file(self.dir.join(segment.to_string())) {
                Ok(()) => tracing::warn!(%segment, "the oldest events were removed to make room"),
                // Whoever keeps them elsewhere may have taken them.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%segment, %error, "old events were not removed"),
            }
        }
    }
}

impl Open {
    fn create(dir: &Path, segment: Segment) -> io::Result<Self> {
        let path = open_path(dir, segment);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { segment, file, len: 0 })
    }
}

/// Puts a page together: of the segments, and then of what is only in memory. With `is_part` somebody else may have what is
/// older.
///
/// # Errors
///
/// The file system's.
pub(super) fn page(dir: &Path, query: Query, tail: &Tail, is_part: bool) -> io::Result<Stored> {
    let mut listed = Vec::new();
    for (segment, is_open) in list(dir)? {
        let path = if is_open { open_path(dir, segment) } else { dir.join(segment.to_string()) };
        let written = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let written = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|at| at.as_micros() as u64);
        listed.push((segment, written));
    }
    let oldest = listed.iter().map(|(segment, _)| EventId { start: segment.start, seq: segment.first }).min();
    let tail_begins = EventId { start: tail.start, seq: tail.from };
    let chosen = query.choose(listed);
    let newest_first = query.is_newest_first();
    let mut page = if is_part { Page::part(query) } else { Page::new(query) };
    if newest_first {
        page.feed(tail.start, &tail.lines);
    }
    for segment in chosen {
        if page.is_done() {
            break;
        }
        if let Some(text) = read(dir, segment)? {
            page.feed(segment.start, tail.cut(segment, &text));
        }
    }
    if !newest_first {
        page.feed(tail.start, &tail.lines);
    }
    let (json, next) = page.finish();
    Ok(Stored { json, next, oldest: oldest.unwrap_or(tail_begins) })
}

/// A page of what is stored here.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The JSON array.
    pub(crate) json: String,
    /// The offset of the next page; 0 if there is none.
    pub(crate) next: u64,
    /// Where what is stored here begins.
    pub(crate) oldest: EventId,
}

/// What was said and is not on disk yet.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) start: u64,
    /// The number of the first event in it.
    pub(super) from: u64,
    pub(super) lines: String,
}

impl Tail {
    /// The part of a segment's text that is not in the tail: it may have been written since.
    fn cut<'a>(&self, segment: Segment, text: &'a str) -> &'a str {
        if segment.start != self.start {
            return text;
        }
        // The number stands first in a line, and only the last lines can be in both.
        let mut end = text.len();
        while let Some(line) = text[..end].trim_end_matches('\n').rsplit('\n').next().filter(|line| !line.is_empty()) {
            let seq = line.strip_prefix("{\"seq\":").and_then(|rest| rest.split(',').next()?.parse::<u64>().ok());
            if seq.is_some_and(|seq| seq < self.from) {
                break;
            }
            if seq.is_none() && !is_later_gap(line, self.from) {
                break;
            }
            end = text[..end].trim_end_matches('\n').len() - line.len();
        }
        &text[..end]
    }
}

/// Whether a line is a gap whose next event is in the tail.
fn is_later_gap(line: &str, from: u64) -> bool {
    let gap: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let to = gap.and_then(|gap| gap["to"].as_str()?.split_once('.')?.1.parse::<u64>().ok());
    to.is_some_and(|to| to > from)
}

/// The segments in a directory, and whether each still grows.
fn list(dir: &Path) -> io::Result<Vec<(Segment, bool)>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let (name, is_open) = name.strip_suffix(OPEN).map_or((name, false), |name| (name, true));
        segments.extend(name.parse().ok().map(|segment| (segment, is_open)));
    }
    Ok(segments)
}

/// Reads a segment, whether it grows or was sealed in between; `None` if it made room.
fn read(dir: &Path, segment: Segment) -> io::Result<Option<String>> {
    for path in [open_path(dir, segment), dir.join(segment.to_string())] {
        match fs::read(path) {
            Ok(bytes) => return Ok(Some(String::from_utf8_lossy(whole_lines(&bytes)).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Seals what an agent left that died.
fn seal_left(dir: &Path, segment: Segment) -> io::Result<()> {
    let path = open_path(dir, segment);
    let bytes = fs::read(&path)?;
    let whole = whole_lines(&bytes).len();
    if whole == 0 {
        return fs::remove_file(path);
    }
    if whole < bytes.len() {
        OpenOptions::new().write(true).open(&path)?.set_len(whole as u64)?;
    }
    fs::rename(path, dir.join(segment.to_string()))
}

/// What ends with a line's end.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)]
}

fn open_path(dir: &Path, segment: Segment) -> PathBuf {
    dir.join(format!("{segment}{OPEN}"))
}

#[cfg(test)]
mod tests {
    use landfast_core::event::Event;

    use super::*;

    const START: u64 = 1_790_000_000_000;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn name(first: u64) -> String {
        Segment { start: START, first }.to_string()
    }

    #[test]
    fn a_segment_is_sealed_when_it_is_large_enough_and_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = Segments::with_bounds(dir.path(), START, (10, 1_000)).unwrap();
        segments.append(1, b"12345\n").unwrap();
        assert_eq!(names(dir.path()), [format!("{}.open", name(1))]);
        segments.append(2, b"12345\n").unwrap();
        segments.append(3, b"1\n").unwrap();
        assert_eq!(names(dir.path()), [name(1), format!("{}.open", name(3))]);
        segments.seal().unwrap();
        assert_eq!(names(dir.path()), [name(1), name(3)]);
        assert_eq!(fs::read(dir.path().join(name(1))).unwrap(), b"12345\n12345\n");
    }

    #[test]
    fn a_segment_that_cannot_be_sealed_goes_on_growing_and_has_every_line_once() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("events"), dir.path().join("aside"));
        fs::create_dir(&path).unwrap();
        let mut segments = Segments::with_bounds(&path, START, (10, 1_000)).unwrap();
        segments.append(1, b"12345\n").unwrap();
        fs::rename(&path, &aside).unwrap();
        segments.append(2, b"67890\n").unwrap();
        assert!(segments.seal().is_err());
        fs::rename(&aside, &path).unwrap();
        segments.append(3, b"1\n").unwrap();
        assert_eq!(names(&path), [name(1)]);
        assert_eq!(fs::read(path.join(name(1))).unwrap(), b"12345\n67890\n1\n");
    }

    #[test]
    fn the_oldest_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = Segments::with_bounds(dir.path(), START, (10, 45)).unwrap();
        for first in 1..=9 {
            segments.append(first, b"123456789\n").unwrap();
        }
        assert_eq!(names(dir.path()), [6, 7, 8, 9].map(name));
        let mut segments = Segments::with_bounds(dir.path(), START + 5_000, (10, 25)).unwrap();
        assert_eq!(names(dir.path()), [8, 9].map(name));
        fs::remove_file(dir.path().join(name(8))).unwrap();
        segments.append(1, b"123456789\n").unwrap();
        assert_eq!(names(dir.path()).len(), 2, "that somebody else took one is no error");
    }

    #[test]
    fn who_reads_what_made_room_is_told_the_exact_gap_unless_somebody_else_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let line = |seq: u64| format!("{{\"seq\":{seq},\"event\":{}}}\n", Event::new("x", seq).to_bounded_json());
        let len = line(1).len() as u64;
        let mut segments = Segments::with_bounds(dir.path(), START, (len, 4 * len)).unwrap();
        for seq in 1..=9 {
            segments.append(seq, line(seq).as_bytes()).unwrap();
        }
        let tail = Tail { start: START, from: 10, lines: String::new() };
        let read = |is_part: bool| {
            let query = Query::read([("limit".into(), "100".into())], 0).unwrap();
            let Stored { json, oldest, .. } = page(dir.path(), query, &tail, is_part).unwrap();
            (serde_json::from_str::<Vec<serde_json::Value>>(&json).unwrap(), oldest.seq)
        };
        let (whole, oldest) = read(false);
        let gap = serde_json::json!({"type": "gap", "from": format!("{START}.1"), "to": format!("{START}.6")});
        assert_eq!((&whole[0], whole[1]["seq"].as_u64(), whole.len(), oldest), (&gap, Some(6), 5, 6));
        let (part, _) = read(true);
        assert_eq!(part[..], whole[1..]);
    }

    #[test]
    fn what_a_dead_agent_left_is_cut_behind_its_last_whole_line_and_sealed() {
        let dir = tempfile::tempdir().unwrap();
        for (first, text) in [(1, "whole\n"), (5, "whole\nhal"), (9, "hal"), (12, "")] {
            fs::write(dir.path().join(format!("{}.open", name(first))), text).unwrap();
        }
        Segments::open(dir.path(), START + 5_000).unwrap();
        assert_eq!(names(dir.path()), [name(1), name(5)]);
        assert_eq!(fs::read(dir.path().join(name(5))).unwrap(), b"whole\n");
    }

    #[test]
    fn what_was_written_since_the_tail_was_taken_is_not_told_twice() {
        let tail = |from| Tail { start: START, from, lines: String::new() };
        let segment = Segment { start: START, first: 1 };
        let gap = format!("{{\"type\":\"gap\",\"from\":\"{START}.4\",\"to\":\"{START}.9\"}}\n");
        let text = format!("{{\"seq\":2,\"event\":1}}\n{{\"seq\":3,\"event\":1}}\n{gap}{{\"seq\":9,\"event\":1}}\n");
        for (from, lines) in [(10, 4), (9, 3), (4, 2), (3, 1), (2, 0)] {
            assert_eq!(tail(from).cut(segment, &text).lines().count(), lines, "{from}");
        }
        assert_eq!(tail(1).cut(Segment { start: START - 5_000, ..segment }, &text), text);
    }
}
