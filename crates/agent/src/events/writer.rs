//! Brings the events to disk: a reader of the ring like any other, so that a disk that hangs makes nobody wait. What it was
//! too slow for is a gap on disk too.

use std::sync::Arc;
use std::time::Duration;

use landfast_core::event::{Filter, Gap, Item, Reader};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Events;
use super::segments::Segments;

/// How long a segment grows at most: whoever copies sealed ones is behind by this.
const SEALED_AFTER: Duration = Duration::from_secs(10);

/// Bytes that are written at once.
const BATCH: usize = 256 * 1024;

/// Between two tries to write to a disk that refuses: it is full, or gone.
const RETRY: Duration = Duration::from_secs(1);

/// Writes until `end` is cancelled, and then what was said until then.
pub(super) async fn run(events: Arc<Events>, mut segments: Segments, end: CancellationToken) {
    let mut next = events.watch();
    let mut reader = Reader::from_oldest(&events.ring(), Filter::default());
    let mut seal_at = None;
    loop {
        next.borrow_and_update();
        let items = reader.take(&events.ring(), BATCH);
        if !items.is_empty() {
            segments = write(&events, segments, Batch::of(&items), &end).await;
            events.written(reader.at());
            seal_at = segments.is_open().then(|| seal_at.unwrap_or_else(|| Instant::now() + SEALED_AFTER));
            continue;
        }
        if end.is_cancelled() {
            drop(seal(segments).await);
            return;
        }
        tokio::select! {
            Ok(()) = next.changed() => {}
            () = end.cancelled() => {}
            () = sleep_until(seal_at.unwrap_or_else(Instant::now)), if seal_at.is_some() => {
                segments = seal(segments).await;
                seal_at = segments.is_open().then(|| Instant::now() + SEALED_AFTER);
            }
        }
    }
}

/// Lines that are written together.
#[derive(Debug)]
struct Batch {
    first: u64,
    lines: String,
}

impl Batch {
    fn of(items: &[Item]) -> Self {
        let mut batch = Self { first: u64::MAX, lines: String::new() };
        for item in items {
            match item {
                Item::Event(record) => batch.push(record.id().seq, record.json()),
                Item::Gap(gap) => batch.push_gap(gap),
                // Without a filter nothing is skipped.
                Item::Skipped(_) => {}
            }
        }
        batch
    }

    fn push(&mut self, first: u64, line: &str) {
        self.first = self.first.min(first);
        self.lines.push_str(line);
        self.lines.push('\n');
    }

    fn push_gap(&mut self, gap: &Gap) {
        self.push(gap.from.seq, &gap.json());
    }
}

/// Writes a batch, as often as it takes: meanwhile the ring keeps what it can. When everything ends it is tried only once.
async fn write(events: &Events, mut segments: Segments, batch: Batch, end: &CancellationToken) -> Segments {
    let batch = Arc::new(batch);
    loop {
        let lines = batch.clone();
        let written = aside(segments, move |segments| segments.append(lines.first, lines.lines.as_bytes())).await;
        segments = written.0;
        match written.1 {
            Ok(()) => return segments,
            Err(error) => tracing::warn!(%error, dir = %events.dir().display(), "events cannot be stored"),
        }
        if end.run_until_cancelled(sleep(RETRY)).await.is_none() {
            return segments;
        }
    }
}

async fn seal(segments: Segments) -> Segments {
    let (segments, sealed) = aside(segments, Segments::seal).await;
    if let Err(error) = sealed {
        tracing::warn!(%error, "a segment of events was not sealed");
    }
    segments
}

/// Does something that a disk may be slow at, where nobody else waits.
async fn aside<T: Send + 'static>(
    mut segments: Segments,
    work: impl FnOnce(&mut Segments) -> T + Send + 'static,
) -> (Segments, T) {
    let done = spawn_blocking(move || {
        let result = work(&mut segments);
        (segments, result)
    });
    done.await.expect("writing does not panic")
}
