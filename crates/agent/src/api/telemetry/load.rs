//! Many readers of many events, one of whom stalls: the writer does not wait, the one that stalls learns exactly what it
//! missed, and the others get everything in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use landfast_core::event::Event;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// How many events are said before the readers are waited for: less than what is kept, so that only who stalls is overrun.
const BURST: u64 = 4_096;

/// How long anything may take that should take a moment.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a reader has read: the numbers of the first and the last event, and of each gap where it begins and what follows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    first: u64,
    last: u64,
    gaps: Vec<(u64, u64)>,
}

impl Read {
    /// Takes a frame, which has to follow the one before.
    fn take(&mut self, frame: &str) {
        let data = frame.split_once("data: ").map(|(_, data)| data);
        let Some(data) = data else { return };
        let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().and_then(|text| text.parse().ok());
        if let Some(seq) = data.strip_prefix("{\"seq\":").and_then(number) {
            let seq: u64 = seq;
            assert!(self.first == 0 || seq == self.last + 1, "{seq} after {}", self.last);
            self.first = if self.first == 0 { seq } else { self.first };
            self.last = seq;
            return;
        }
        let gap: Value = serde_json::from_str(data).unwrap();
        let seq = |name: &str| gap[name].as_str().and_then(|id| id.split_once('.')?.1.parse::<u64>().ok()).unwrap();
        assert_eq!((gap["type"].as_str(), seq("from")), (Some("gap"), self.last + 1));
        self.gaps.push((seq("from"), seq("to")));
        self.last = seq("to") - 1;
    }
}

/// Serves one stream on one end of a connection, as the agent does, and reads the other once `may_read`.
fn reader(
    events: &Arc<Events>,
    until: u64,
    may_read: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
) -> (JoinHandle<()>, JoinHandle<Read>) {
    let (near, far) = UnixStream::pair().unwrap();
    let events = events.clone();
    let served = tokio::spawn(async move {
        let service = service_fn(|request: Request<Incoming>| {
            let answer = open(&events, &request).unwrap_or_else(Refused::into_response);
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        let mut builder = http1::Builder::new();
        builder.max_buf_size(64 * 1024);
        drop(builder.serve_connection(TokioIo::new(far), service).await);
    });
    (served, tokio::spawn(read(near, until, may_read, progress)))
}

async fn read(mut socket: UnixStream, until: u64, may_read: Arc<AtomicBool>, progress: Arc<AtomicU64>) -> Read {
    // HTTP/1.0: the body has no chunks.
    socket.write_all(b"GET /telemetry/stream?replay=all HTTP/1.0\r\n\r\n").await.unwrap();
    while !may_read.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (mut read, mut bytes) = (Read::default(), Vec::new());
    let mut is_in_head = true;
    while read.last < until {
        let n = timeout(PATIENCE, socket.read_buf(&mut bytes)).await.expect("something comes").unwrap();
        assert!(n > 0, "the stream ended at {}", read.last);
        let mut from = 0;
        while let Some(len) = find(&bytes[from..], if is_in_head { b"\r\n\r\n" } else { b"\n\n" }) {
            if !is_in_head {
                read.take(std::str::from_utf8(&bytes[from..from + len]).unwrap());
            }
            from += len + if is_in_head { 4 } else { 2 };
            is_in_head = false;
        }
        bytes.drain(..from);
        progress.store(read.last, Ordering::Relaxed);
    }
    read
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Says so many events to so many readers, one of whom stalls, and returns how long the longest saying took.
async fn run(count: u64, readers: usize) -> (Duration, Duration) {
    let dir = tempfile::tempdir().unwrap();
    let events = Events::open(dir.path()).unwrap();
    let (now, later) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let progress: Vec<_> = (1..readers).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let healthy: Vec<_> = progress.iter().map(|at| reader(&events, count, now.clone(), at.clone())).collect();
    let (stalled_server, stalled) = reader(&events, count, later.clone(), Arc::default());
    let data = serde_json::json!({"text": "x".repeat(60)});
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    for seq in 1..=count {
        let event = Event::new("load", seq).with_data(data.clone());
        let before = Instant::now();
        events.emit(&event);
        longest = longest.max(before.elapsed());
        if seq % BURST == 0 || seq == count {
            while progress.iter().any(|at| at.load(Ordering::Relaxed) < seq) {
                assert!(begun.elapsed() < PATIENCE * 10, "the readers do not keep up");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    let took = begun.elapsed();
    for (server, reader) in healthy {
        assert_eq!(reader.await.unwrap(), Read { first: 1, last: count, gaps: Vec::new() });
        server.abort();
    }
    // Only now it reads: some that were on their way, one gap, and the rest without a hole.
    later.store(true, Ordering::Relaxed);
    let read = stalled.await.unwrap();
    stalled_server.abort();
    let [(from, to)] = read.gaps[..] else { panic!("one gap, not {:?}", read.gaps) };
    assert!(read.first == 1 && read.last == count && 1 < from && from < to && to <= count, "{read:?}");
    assert_eq!(to, events.ring().oldest(), "exactly what is gone");
    (took, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stalls_gets_one_exact_gap_and_the_others_everything_in_order() {
    run(30_000, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a million events to a hundred readers: run it alone, in release"]
async fn a_million_events_reach_ninety_nine_readers_whatever_the_hundredth_does() {
    let (took, longest) = run(1_000_000, 100).await;
    println!("1,000,000 events to 99 readers in {took:?}; the longest emit took {longest:?}");
}
