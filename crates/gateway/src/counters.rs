//! What a gateway counts, in numbers that only grow.
//!
//! Each worker has its own, so that counting never makes two processors fight for a line of memory; what happens seldom
//! is counted in the one set that all share. Whoever reads them adds them up. Every label is a value of a fixed list: an
//! instance's id or a path would let outsiders grow the list at will.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use landfast_core::ErrorCode;

/// Methods that are told apart; what else there is counts as the last.
pub(crate) const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "other"];

/// What became of a request: no answer because its client left, or an answer of this class.
pub(crate) const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The upper bounds of a histogram's buckets, in seconds: from a request that only crosses this machine to a build.
pub(crate) const BOUNDS: [f64; 17] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// The same in nanoseconds.
const BOUNDS_NANOS: [u64; BOUNDS.len()] = {
    let (mut nanos, mut i) = ([0; BOUNDS.len()], 0);
    while i < BOUNDS.len() {
        nanos[i] = (BOUNDS[i] * 1e9) as u64;
        i += 1;
    }
    nanos
};

const CODES: usize = ErrorCode::ALL.len();

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

/// Numbers by the error code that was the cause.
#[derive(Debug)]
pub(crate) struct ByCode([Counter; CODES]);

/// How long things took.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// By bucket; the last is for what is longer than every bound.
    buckets: [Counter; BOUNDS.len() + 1],
    nanos: Counter,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The token's.
    Token,
    /// The instance's.
    Instance,
}

/// One set of numbers. A pair of them that grow apart and together again makes a gauge.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Client connections that were accepted.
    pub(crate) accepted: Counter,
    /// Client connections that have ended.
    pub(crate) closed: Counter,
    /// Requests that are over, and sessions at their end, by method and status.
    requests: [[Counter; STATUSES.len()]; METHODS.len()],
    /// Requests and sessions that did not simply end, and what was refused before it was a request.
    pub(crate) causes: ByCode,
    /// How long requests took, without sessions.
    pub(crate) durations: Histogram,
    /// How long it took until an answer began, sessions too.
    pub(crate) first_bytes: Histogram,
    /// Attempts to reach an upstream for a request or a first link.
    pub(crate) attempts: Counter,
    /// Bytes from clients: bodies, and sessions at their end.
    pub(crate) up: Counter,
    /// Bytes to clients.
    pub(crate) down: Counter,
    /// Waits for an instance between places that have begun.
    pub(crate) parked: Counter,
    /// Those that are over.
    pub(crate) unparked: Counter,
    /// Sessions that were opened, each link of a link-aware client being one.
    pub(crate) sessions_opened: Counter,
    /// Sessions that have ended without a cause to name.
    pub(crate) sessions_ended: Counter,
    /// The others.
    pub(crate) sessions_ended_by: ByCode,
    /// Links that stood, of sessions and of pooled connections.
    pub(crate) links: Counter,
    /// For how long those had no link, each time until the next stood.
    pub(crate) pauses: Histogram,
    /// Upstream connections that were opened for requests.
    pub(crate) upstream_opened: Counter,
    /// Requests that went on a connection that was kept.
    pub(crate) upstream_reused: Counter,
    /// Refusals by a token's limits, and by an instance's.
    limited: [ByCode; 2],
}

/// Something that is counted while it lasts: at its beginning, and at its end.
#[derive(Debug)]
pub(crate) struct Lasting<'a>(&'a Counter);

impl Counter {
    /// Adds.
    pub(crate) fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// What there is by now.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for ByCode {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl ByCode {
    /// Counts one.
    pub(crate) fn add(&self, code: ErrorCode) {
        self.0[code as usize].add(1);
    }

    /// How many there are by now.
    pub(crate) fn get(&self, code: ErrorCode) -> u64 {
        self.0[code as usize].get()
    }
}

impl Histogram {
    /// Counts something that took so long.
    pub(crate) fn add(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS_NANOS.partition_point(|bound| *bound < nanos)].add(1);
        self.nanos.add(nanos);
    }

    /// How many there are by bucket, and how many seconds they took together.
    pub(crate) fn get(&self) -> ([u64; BOUNDS.len() + 1], f64) {
        (self.buckets.each_ref().map(Counter::get), Duration::from_nanos(self.nanos.get()).as_secs_f64())
    }
}

impl Counters {
    /// A request is over, or a session at its end.
    pub(crate) fn request(&self, method: usize, status: Option<u16>) {
        self.requests[method][status.map_or(0, status_class)].add(1);
    }

    /// How many requests there were by method and status, as indices of their lists.
    pub(crate) fn requests(&self, method: usize, status: usize) -> u64 {
        self.requests[method][status].get()
    }

    /// A limit has refused somebody.
    pub(crate) fn limited(&self, whose: Whose, code: ErrorCode) {
        self.limited[whose as usize].add(code);
    }

    /// How many a limit has refused.
    pub(crate) fn limited_by(&self, whose: Whose, code: ErrorCode) -> u64 {
        self.limited[whose as usize].get(code)
    }

    /// Counts a wait until what is returned is dropped.
    pub(crate) fn park(&self) -> Lasting<'_> {
        self.parked.add(1);
        Lasting(&self.unparked)
    }

    /// Counts a client's connection until what is returned is dropped.
    pub(crate) fn connect(&self) -> Lasting<'_> {
        self.accepted.add(1);
        Lasting(&self.closed)
    }
}

impl Drop for Lasting<'_> {
    fn drop(&mut self) {
        self.0.add(1);
    }
}

/// The index of a method.
pub(crate) fn method_class(method: &str) -> usize {
    METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1)
}

/// The index of a status; one that no class has is an error of whoever said it.
const fn status_class(status: u16) -> usize {
    match status / 100 {
        class @ 1..=5 => class as usize,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_place_of_its_own() {
        let counts = ByCode::default();
        ErrorCode::ALL.iter().for_each(|&code| counts.add(code));
        assert!(ErrorCode::ALL.iter().all(|&code| counts.get(code) == 1));
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for millis in [1, 2, 600_000, 600_001] {
            histogram.add(Duration::from_millis(millis));
        }
        let (buckets, seconds) = histogram.get();
        let bucket = |bound: f64| buckets[BOUNDS.iter().position(|known| *known == bound).unwrap()];
        assert_eq!((bucket(0.001), bucket(0.0025), bucket(600.0), buckets[BOUNDS.len()]), (1, 1, 1, 1));
        assert!((seconds - 1200.004).abs() < 1e-6, "{seconds}");
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn methods_and_statuses_that_nobody_knows_are_counted_together() {
        assert_eq!((METHODS[method_class("BREW")], METHODS[method_class("GET")]), ("other", "GET"));
        assert_eq!((STATUSES[status_class(204)], STATUSES[status_class(999)]), ("2xx", "5xx"));
    }
}
