//! Waking instances that sleep: one write for any number of requests that wait.
//!
//! A request asks and goes on waiting for the route to change. One task asks the registry, one instance after the other;
//! an instance that is being asked for is not asked for again.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfast_core::InstanceId;
use landfast_registry::records;
use landfast_registry::store::Store;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Instances that wait for their turn. Whoever finds no room asks again with the next request.
const QUEUE: usize = 1024;

/// How long one write may take before the next instance has its turn.
const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// Asks for instances to be woken.
#[derive(Clone, Debug)]
pub(crate) struct Waker {
    queue: mpsc::Sender<InstanceId>,
    /// In the queue, or being written.
    asked: Arc<Mutex<HashSet<InstanceId>>>,
}

impl Waker {
    /// Starts the task that asks the registry; it ends with the returned future.
    pub(crate) fn new(store: Arc<dyn Store>) -> (Self, impl Future<Output = Infallible>) {
        let (queue, mut waiting) = mpsc::channel(QUEUE);
        let waker = Self { queue, asked: Arc::default() };
        let asked = Arc::clone(&waker.asked);
        let task = async move {
            loop {
                let Some(id) = waiting.recv().await else { std::future::pending().await };
                match timeout(WRITE_WITHIN, records::wake(&*store, id)).await {
                    Ok(Ok(_)) => tracing::debug!(%id, "woken"),
                    Ok(Err(error)) => tracing::warn!(%id, %error, "an instance cannot be woken"),
                    Err(_) => tracing::warn!(%id, "the registry did not take a wake in time"),
                }
                lock(&asked).remove(&id);
            }
        };
        (waker, task)
    }

    /// Asks for an instance to be woken, unless it was asked for already.
    pub(crate) fn wake(&self, id: InstanceId) {
        if lock(&self.asked).insert(id) && self.queue.try_send(id).is_err() {
            lock(&self.asked).remove(&id);
        }
    }
}

fn lock(asked: &Mutex<HashSet<InstanceId>>) -> std::sync::MutexGuard<'_, HashSet<InstanceId>> {
    // An insertion or a removal is never half done.
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}
