//! What a process has said: an append-only log whose positions are byte offsets.
//!
//! Every byte has one offset for ever, so that any number of viewers can read from anywhere, each at its own pace, and
//! a viewer that comes back goes on where it was. Memory is bounded: the oldest bytes make room for the newest, and a
//! reader that wanted them is told exactly which are gone. Nobody is ever waited for.

use std::collections::VecDeque;
use std::io;

use rustix::buffer::spare_capacity;

/// How much is let go at a time, and the most that is read from a process in one go: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// A chunk's first allocation: most processes say less than a page.
const CHUNK_FIRST: usize = 4 * 1024;

/// What a change between stdout and stderr costs, counted as bytes of its chunk, so that a process that alternates after
/// every byte stays within the bound too.
const RUN_COST: usize = size_of::<Run>();

/// Which of its outputs the process wrote to. A terminal has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output, or the terminal's.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The word used in the API.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What stands at an offset of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Bytes of one stream: as many as lie together, not always all there are.
    Data(Stream, &'a [u8]),
    /// Everything before `to` was let go.
    Gap { to: u64 },
    /// Nothing yet: this is the log's end.
    End,
}

/// A process's output.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Never empty of room for long: the last one is being filled.
    chunks: VecDeque<Chunk>,
    /// The most chunks kept.
    limit: usize,
    end: u64,
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    /// The offset of its first byte.
    start: u64,
    bytes: Vec<u8>,
    /// Where the stream changes, in order; the first run begins at 0.
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    at: u32,
    stream: Stream,
}

impl Log {
    /// An empty log that keeps about `limit` bytes, and never more.
    pub(crate) fn new(limit: usize) -> Self {
        Self { chunks: VecDeque::new(), limit: (limit / CHUNK).max(2), end: 0 }
    }

    /// The log of a process of which only its length is known.
    pub(crate) const fn lost(end: u64) -> Self {
        Self { chunks: VecDeque::new(), limit: 0, end }
    }

    /// The offset of the oldest byte kept.
    pub(crate) fn start(&self) -> u64 {
        self.chunks.front().map_or(self.end, |chunk| chunk.start)
    }

    /// The offset after the newest byte.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// Appends what `file` has to give now, at most a chunk, and returns how much that was: 0 at the file's end.
    ///
    /// # Errors
    ///
    /// As `read(2)`, and nothing was appended.
    pub(crate) fn fill_from(&mut self, file: impl std::os::fd::AsFd, stream: Stream) -> io::Result<usize> {
        let chunk = self.last_with_room();
        let from = chunk.bytes.len();
        let taken = rustix::io::read(file, spare_capacity(&mut chunk.bytes))?;
        if taken > 0 {
            chunk.mark(from, stream);
            self.end += taken as u64;
        }
        Ok(taken)
    }

    /// What stands at `offset`, which is at most [`Self::end`].
    pub(crate) fn read(&self, offset: u64) -> Piece<'_> {
        if offset >= self.end {
            return Piece::End;
        }
        if offset < self.start() {
            return Piece::Gap { to: self.start() };
        }
        let chunk = &self.chunks[self.chunks.partition_point(|chunk| chunk.start <= offset) - 1];
        chunk.read((offset - chunk.start) as usize)
    }

    /// Whether what stands from `offset` on takes half of the room: the other half is for what a process that has ended
    /// leaves in its pipes.
    pub(crate) fn is_half_full_from(&self, offset: u64) -> bool {
        let before = self.chunks.partition_point(|chunk| chunk.start <= offset).saturating_sub(1);
        (self.chunks.len() - before) * 2 >= self.limit
    }

    /// The memory held, in bytes.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes.capacity() + chunk.runs.capacity() * RUN_COST).sum()
    }

    fn last_with_room(&mut self) -> &mut Chunk {
        if self.chunks.back().is_none_or(Chunk::is_full) {
            let mut chunk =
                if self.chunks.len() >= self.limit { self.chunks.pop_front() } else { None }.unwrap_or_default();
            chunk.start = self.end;
            chunk.bytes.clear();
            chunk.runs.clear();
            self.chunks.push_back(chunk);
        }
        let chunk = self.chunks.back_mut().expect("one was there or was pushed");
        chunk.make_room();
        chunk
    }
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.weight() >= CHUNK
    }

    const fn weight(&self) -> usize {
        self.bytes.len() + self.runs.len() * RUN_COST
    }

    /// Doubles until it is whole, so that a process that says little costs little.
    fn make_room(&mut self) {
        let capacity = self.bytes.capacity();
        if self.bytes.len() == capacity {
            self.bytes.reserve_exact(capacity.max(CHUNK_FIRST).min(CHUNK - capacity));
        }
    }

    fn mark(&mut self, from: usize, stream: Stream) {
        if self.runs.last().is_none_or(|run| run.stream != stream) {
            self.runs.push(Run { at: from as u32, stream });
        }
    }

    fn read(&self, at: usize) -> Piece<'_> {
        let next = self.runs.partition_point(|run| run.at as usize <= at);
        let end = self.runs.get(next).map_or(self.bytes.len(), |run| run.at as usize);
        Piece::Data(self.runs[next - 1].stream, &self.bytes[at..end])
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// Says `bytes` through a pipe, as a process does.
    fn say(log: &mut Log, stream: Stream, bytes: &[u8]) {
        for bytes in bytes.chunks(CHUNK) {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(bytes).unwrap();
            drop(writer);
            while log.fill_from(&reader, stream).unwrap() > 0 {}
        }
    }

    type Gaps = Vec<(u64, u64)>;

    /// Everything from `offset` on: the gaps, and the bytes with their streams.
    fn heard(log: &Log, mut offset: u64) -> (Gaps, Vec<(Stream, u8)>) {
        let (mut gaps, mut said) = (Vec::new(), Vec::new());
        loop {
            match log.read(offset) {
                Piece::End => return (gaps, said),
                Piece::Gap { to } => {
                    gaps.push((offset, to));
                    offset = to;
                }
                Piece::Data(stream, bytes) => {
                    assert!(!bytes.is_empty() && bytes.len() <= CHUNK);
                    said.extend(bytes.iter().map(|&byte| (stream, byte)));
                    offset += bytes.len() as u64;
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_byte_is_kept_with_its_stream_or_stands_in_an_exact_gap(
            says in proptest::collection::vec((any::<bool>(), 0usize..90_000), 1..12),
            from in any::<u64>(),
        ) {
            let (mut log, mut all, mut next) = (Log::new(3 * CHUNK), Vec::new(), 0u8);
            for (is_error, amount) in says {
                let stream = if is_error { Stream::Stderr } else { Stream::Stdout };
                let bytes: Vec<u8> = (0..amount).map(|_| { next = next.wrapping_mul(5).wrapping_add(7); next }).collect();
                say(&mut log, stream, &bytes);
                all.extend(bytes.iter().map(|&byte| (stream, byte)));
                prop_assert!(log.memory() <= 4 * CHUNK);
            }
            prop_assert_eq!(log.end(), all.len() as u64);
            let from = from % (log.end() + 1);
            let (gaps, said) = heard(&log, from);
            let lost_to = log.start().max(from);
            prop_assert_eq!(gaps, if lost_to > from { vec![(from, lost_to)] } else { vec![] });
            prop_assert_eq!(&said[..], &all[lost_to as usize..]);
        }
    }

    #[test]
    fn a_process_that_changes_its_stream_after_every_byte_stays_within_the_bound() {
        let mut log = Log::new(2 * CHUNK);
        for _ in 0..2 * CHUNK {
            say(&mut log, Stream::Stdout, b"o");
            say(&mut log, Stream::Stderr, b"e");
        }
        assert!(log.memory() <= 4 * CHUNK, "{}", log.memory());
        let (gaps, said) = heard(&log, 0);
        assert_eq!(gaps, [(0, log.start())]);
        assert_eq!(said.len() as u64, log.end() - log.start());
        assert!(said.iter().all(|&(stream, byte)| (stream == Stream::Stdout) == (byte == b'o')));
    }

    #[test]
    fn a_process_that_says_little_costs_little() {
        let mut log = Log::new(4 << 20);
        say(&mut log, Stream::Stdout, b"hello");
        assert!(log.memory() < 8 * 1024, "{}", log.memory());
    }

    #[test]
    fn a_log_of_an_earlier_life_is_one_gap() {
        assert_eq!(heard(&Log::lost(700), 5), (vec![(5, 700)], vec![]));
    }
}
