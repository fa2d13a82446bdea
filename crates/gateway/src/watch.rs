//! Following the registry: one watch for each kind of record, for as long as the gateway runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use landfast_core::time::Instant;
use landfast_net::clock;
use landfast_registry::store::{Store, Watch, WatchEvent};

/// A watch that outlasts the registry's absences: while it cannot be reached nothing is said, and what is known stays
/// known.
#[derive(Debug)]
pub(crate) struct Feed {
    prefix: &'static str,
    watch: Watch,
    silence: Arc<Silence>,
}

/// For how long the registry has not answered.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    /// When it last failed to, in nanoseconds on our clock; 0 while it answers.
    since: AtomicU64,
}

impl Feed {
    /// Follows everything under a prefix.
    pub(crate) fn new(store: &dyn Store, prefix: &'static str) -> Self {
        Self { prefix, watch: store.watch(prefix, None), silence: Arc::default() }
    }

    /// For how long the registry has not answered this watch.
    pub(crate) fn silence(&self) -> Arc<Silence> {
        Arc::clone(&self.silence)
    }

    /// Waits for what there is to say next.
    ///
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> WatchEvent {
        loop {
            match self.watch.next().await {
                Ok(event) => {
                    if self.silence.end() {
                        tracing::debug!(prefix = self.prefix, "the registry answers again");
                    }
                    return event;
                }
                Err(error) => {
                    if self.silence.begin(clock::now()) {
                        let prefix = self.prefix;
                        tracing::debug!(prefix, %error, "the registry does not answer; going on with what is known");
                    }
                }
            }
        }
    }
}

impl Silence {
    /// How long it lasts by now; nothing while the registry answers.
    pub(crate) fn lasts(&self, now: Instant) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => now.since(Instant::from_nanos(since)),
        }
    }

    /// Whether it begins now.
    fn begin(&self, now: Instant) -> bool {
        self.since.compare_exchange(0, now.as_nanos().max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether it ends now.
    fn end(&self) -> bool {
        self.since.swap(0, Ordering::Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_counted_from_its_first_failure_until_the_next_answer() {
        let (silence, at) = (Silence::default(), Instant::from_millis);
        assert_eq!(silence.lasts(at(5)), Duration::ZERO);
        assert!(silence.begin(at(10)) && !silence.begin(at(20)));
        assert_eq!(silence.lasts(at(25)), Duration::from_millis(15));
        assert!(silence.end() && !silence.end());
        assert_eq!(silence.lasts(at(30)), Duration::ZERO);
    }
}
