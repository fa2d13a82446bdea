//! Following the registry: one watch for each kind of record, for as long as the gateway runs.

use landfast_registry::store::{Store, Watch, WatchEvent};

/// A watch that outlasts the registry's absences: while it cannot be reached nothing is said, and what is known stays
/// known.
#[derive(Debug)]
pub(crate) struct Feed {
    prefix: &'static str,
    watch: Watch,
    reachable: bool,
}

impl Feed {
    /// Follows everything under a prefix.
    pub(crate) fn new(store: &dyn Store, prefix: &'static str) -> Self {
        Self { prefix, watch: store.watch(prefix, None), reachable: true }
    }

    /// Waits for what there is to say next.
    ///
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> WatchEvent {
        loop {
            match self.watch.next().await {
                Ok(event) => {
                    if !std::mem::replace(&mut self.reachable, true) {
                        tracing::info!(prefix = self.prefix, "the registry answers again");
                    }
                    return event;
                }
                Err(error) => {
                    if std::mem::replace(&mut self.reachable, false) {
                        let prefix = self.prefix;
                        tracing::warn!(prefix, %error, "the registry does not answer; going on with what is known");
                    }
                }
            }
        }
    }
}
