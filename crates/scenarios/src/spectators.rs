//! Many readers of an agent's events, one of whom stalls: the writer does not wait, the one that stalls learns exactly what
//! it missed, and the others get everything in order.
//!
//! Events are said by a thread that does nothing else, so that one that had to wait for a reader would be seen to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use landfast_agent::EventsApart;
use landfast_core::event::Event;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How many events are said before the readers are waited for: half of what is kept, so that only who stalls is overrun.
const BURST: u64 = 4_096;

/// How long anything may take that should take a moment.
const PATIENCE: Duration = Duration::from_secs(120);

/// Threads that serve and read the streams.
const THREADS: usize = 2;

/// The longest saying that is told from a longer one: a minute, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// The request of every reader; in HTTP/1.0 the body has no chunks.
const ASK: &[u8] = b"GET /telemetry/stream?replay=all HTTP/1.0\r\n\r\n";

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// How long each saying took, in nanoseconds.
    pub emits: Histogram<u64>,
    /// How long it took until everybody had everything but the one that stalled.
    pub took: Duration,
    /// What that one was told to have missed: the first, and the one that follows. Absent if nobody reads.
    pub gap: Option<(u64, u64)>,
}

/// What a reader has read: the numbers of the first and the last event, and of each gap where it begins and what follows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    first: u64,
    last: u64,
    gaps: Vec<(u64, u64)>,
}

/// A reader at work.
struct Reader {
    progress: Arc<AtomicU64>,
    read: JoinHandle<Read>,
}

/// Says so many events to so many readers, the last of whom reads nothing before the others have everything. Blocks.
///
/// # Panics
///
/// If a reader is told anything but what was said: in order, or with one exact gap for the one that stalled.
pub fn watch_events(count: u64, readers: usize) -> Outcome {
    let state = tempfile::tempdir().expect("a directory for its state");
    let events = EventsApart::open(state.path()).expect("a new directory can be written");
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().expect("threads");
    let (stall, stalled) = watch::channel(true);
    let (_, reading) = watch::channel(false);
    let mut all: Vec<_> = (1..readers).map(|_| Reader::start(&runtime, &events, count, reading.clone())).collect();
    let last = (readers > 0).then(|| Reader::start(&runtime, &events, count, stalled));
    let begun = Instant::now();
    let emits = say(&events, count, &all);
    let took = begun.elapsed();
    for reader in all.drain(..) {
        assert_eq!(reader.finish(&runtime), Read { first: 1, last: count, gaps: Vec::new() });
    }
    stall.send_replace(false);
    let gap = last.map(|reader| the_gap(&reader.finish(&runtime), count, events.oldest()));
    runtime.shutdown_background();
    Outcome { emits, took, gap }
}

/// Says the events, and waits for the readers between two bursts, never within.
fn say(events: &EventsApart, count: u64, readers: &[Reader]) -> Histogram<u64> {
    let mut emits = Histogram::new_with_bounds(1, LONGEST, 3).expect("a range with three digits");
    let (begun, data) = (Instant::now(), json!({"text": "x".repeat(60)}));
    for seq in 1..=count {
        let event = Event::new("load", seq).with_data(data.clone());
        let before = Instant::now();
        events.emit(&event);
        emits.saturating_record(before.elapsed().as_nanos() as u64);
        if seq % BURST == 0 || seq == count {
            while readers.iter().any(|reader| reader.progress.load(Ordering::Relaxed) < seq) {
                assert!(begun.elapsed() < PATIENCE * 10, "the readers do not keep up");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    emits
}

/// The one gap of who stalled: some events that were on their way, the gap, and all that is kept.
fn the_gap(read: &Read, count: u64, oldest: u64) -> (u64, u64) {
    let [(from, to)] = read.gaps[..] else { panic!("one gap, not {:?}", read.gaps) };
    assert!(read.first == 1 && read.last == count && 1 < from && from < to, "{read:?}");
    assert_eq!(to, oldest, "exactly what is gone");
    (from, to)
}

impl Reader {
    /// Opens a stream, and reads it once it does not stall.
    fn start(runtime: &Runtime, events: &EventsApart, until: u64, stalls: watch::Receiver<bool>) -> Self {
        let _inside = runtime.enter();
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        runtime.spawn(events.clone().serve(far));
        let progress = Arc::default();
        let read = runtime.spawn(read(near, until, stalls, Arc::clone(&progress)));
        Self { progress, read }
    }

    fn finish(self, runtime: &Runtime) -> Read {
        runtime.block_on(self.read).expect("it reads until the end")
    }
}

async fn read(mut socket: UnixStream, until: u64, mut stalls: watch::Receiver<bool>, progress: Arc<AtomicU64>) -> Read {
    socket.write_all(ASK).await.expect("it is served");
    // Who would wake it is gone, if it never stalls.
    let _ = stalls.wait_for(|stalls| !stalls).await;
    let (mut read, mut bytes, mut is_in_head) = (Read::default(), Vec::new(), true);
    while read.last < until {
        let got = timeout(PATIENCE, socket.read_buf(&mut bytes)).await.expect("something comes");
        assert!(got.expect("the stream is whole") > 0, "the stream ended at {}", read.last);
        let mut rest = std::str::from_utf8(&bytes).expect("events are text");
        while let Some((frame, after)) = rest.split_once(if is_in_head { "\r\n\r\n" } else { "\n\n" }) {
            if !std::mem::take(&mut is_in_head) {
                read.take(frame);
            }
            rest = after;
        }
        let used = bytes.len() - rest.len();
        bytes.drain(..used);
        progress.store(read.last, Ordering::Relaxed);
    }
    read
}

impl Read {
    /// Takes a frame, which has to follow the one before.
    fn take(&mut self, frame: &str) {
        let Some((_, data)) = frame.split_once("data: ") else { return };
        let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok();
        if let Some(seq) = data.strip_prefix("{\"seq\":").and_then(number) {
            assert!(self.first == 0 || seq == self.last + 1, "{seq} after {}", self.last);
            self.first = if self.first == 0 { seq } else { self.first };
            self.last = seq;
            return;
        }
        let gap: Value = serde_json::from_str(data).expect("what is no event is a gap");
        let seq = |name: &str| gap[name].as_str().and_then(|id| number(id.split_once('.')?.1)).expect("an id");
        assert_eq!((gap["type"].as_str(), seq("from")), (Some("gap"), self.last + 1));
        self.gaps.push((seq("from"), seq("to")));
        self.last = seq("to") - 1;
    }
}
