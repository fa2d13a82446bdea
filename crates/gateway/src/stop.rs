//! Stopping, in two steps: first finish, then end.

use std::time::Duration;

use landfast_net::role::CancellationToken;

/// How a gateway is told to stop.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Take nothing new; let requests and sessions finish until the configured deadline.
    pub drain: CancellationToken,
    /// Do not wait for that deadline.
    pub now: CancellationToken,
}

impl From<CancellationToken> for Stop {
    fn from(drain: CancellationToken) -> Self {
        Self { drain, now: CancellationToken::new() }
    }
}

/// What everything in the gateway that lasts listens to.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    /// Cancelled when nothing new is taken any more.
    pub(crate) begun: CancellationToken,
    /// Cancelled when everything that still goes on must end.
    pub(crate) over: CancellationToken,
}

impl Drain {
    /// Turns what we are told into what happens: at the second word, or `deadline` after the first, everything ends.
    pub(crate) async fn conduct(&self, stop: Stop, deadline: Duration) {
        tokio::select! {
            () = stop.drain.cancelled() => {}
            () = stop.now.cancelled() => {}
        }
        self.begun.cancel();
        tracing::info!(deadline_ms = deadline.as_millis(), "the gateway drains");
        tokio::select! {
            () = stop.now.cancelled() => {}
            () = tokio::time::sleep(deadline) => {}
        }
        self.over.cancel();
    }

    /// Ends everything now.
    pub(crate) fn end(&self) {
        self.begun.cancel();
        self.over.cancel();
    }

    /// Whether nothing new is taken.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }
}
