//! The tasks of a node's instances, each known by its instance also when it ends badly.
//!
//! A task that panics takes its result along, and with it which instance nobody looks after any more. So that is written down
//! beside the tasks.

use std::collections::HashMap;
use std::future::Future;

use landfast_core::InstanceId;
use landfast_registry::store::Revision;
use tokio::task::{Id, JoinError, JoinSet};

/// Tasks that each end with the revision that they had heard of.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    tasks: JoinSet<Revision>,
    of: HashMap<Id, InstanceId>,
}

impl Crew {
    /// Begins a task for an instance.
    pub(crate) fn spawn(&mut self, instance: InstanceId, task: impl Future<Output = Revision> + Send + 'static) {
        let task = self.tasks.spawn(task);
        self.of.insert(task.id(), instance);
    }

    /// Waits for the end of one of them; `None` if there is none.
    ///
    /// # Cancel safety
    ///
    /// A dropped call loses no end.
    pub(crate) async fn join_next(&mut self) -> Option<(InstanceId, Result<Revision, JoinError>)> {
        let ended = self.tasks.join_next_with_id().await?;
        let (task, ended) = match ended {
            Ok((task, heard)) => (task, Ok(heard)),
            Err(error) => (error.id(), Err(error)),
        };
        let instance = self.of.remove(&task).expect("it was written down when it began");
        Some((instance, ended))
    }
}
