//! Work for the threads that own a connection, and its answers.
//!
//! A write is answered only after the transaction that holds it has been committed, and with the error of that
//! transaction if it was not. That order is the whole promise of durability, so it is kept in one place: [`write_loop`].

use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::file::Db;
use crate::store::StoreError;

/// Writes that share one transaction: enough to make the flush cheap for each, few enough that the lock is soon free for
/// other processes.
const GROUP_MAX: usize = 64;

/// How long a caller waits for an answer: the lock of another process may take 5 s, and a flush on a bad disk as much.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Something to be done with a connection, and whom to tell.
pub(super) trait Job: Send {
    /// Does it, inside a transaction.
    fn run(&mut self, db: &mut Db) -> Result<(), StoreError>;
    /// Tells the asker how the transaction ended.
    fn settle(self: Box<Self>, ended: Result<(), StoreError>);
    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool;
}

struct Question<T, F> {
    act: Option<F>,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnOnce(&mut Db) -> rusqlite::Result<T> + Send> Job for Question<T, F> {
    fn run(&mut self, db: &mut Db) -> Result<(), StoreError> {
        if let Some(act) = self.act.take() {
            self.result = Some(act(db).map_err(|error| db.explain(&error))?);
        }
        Ok(())
    }

    fn settle(self: Box<Self>, ended: Result<(), StoreError>) {
        let answer = match (ended, self.result) {
            (Ok(()), Some(result)) => Ok(result),
            (Ok(()), None) => Err(ended_early()),
            (Err(error), _) => Err(error),
        };
        // An asker that has left does not want the answer.
        let _ = self.reply.send(answer);
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// A transaction in which nothing is asked for: it ends the leases that have lapsed, as every write does.
pub(super) struct Sweep;

impl Job for Sweep {
    fn run(&mut self, _: &mut Db) -> Result<(), StoreError> {
        Ok(())
    }

    fn settle(self: Box<Self>, ended: Result<(), StoreError>) {
        if let Err(error) = ended {
            tracing::warn!(%error, "cannot end lapsed leases; trying again within a second");
        }
    }

    fn is_abandoned(&self) -> bool {
        false
    }
}

/// Asks a thread and waits for its answer.
pub(super) async fn ask<T: Send + 'static>(
    queue: &mpsc::Sender<Box<dyn Job>>,
    act: impl FnOnce(&mut Db) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let (reply, answer) = oneshot::channel();
    let question = Box::new(Question { act: Some(act), result: None, reply });
    let exchange = async {
        queue.send(question).await.map_err(|_| ended_early())?;
        answer.await.map_err(|_| ended_early())?
    };
    timeout(ANSWER_MAX, exchange)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer within {ANSWER_MAX:?}"))))
}

/// Starts one of the store's threads.
pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map(drop).map_err(|error| StoreError::Unavailable(format!("cannot start a thread: {error}")))
}

/// Serves writes until the last handle is dropped.
pub(super) fn write_loop(mut db: Db, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
    while let Some(mut group) = next_group(&mut jobs) {
        let ended = db.write(|db| group.iter_mut().try_for_each(|job| job.run(db)));
        for job in group {
            job.settle(ended.clone());
        }
    }
}

/// Serves reads until the last handle is dropped.
pub(super) fn read_loop(mut db: Db, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
    while let Some(mut job) = jobs.blocking_recv() {
        let ended = db.read(|db| job.run(db));
        job.settle(ended);
    }
}

/// Takes what waits already, but waits only for the first.
fn next_group(jobs: &mut mpsc::Receiver<Box<dyn Job>>) -> Option<Vec<Box<dyn Job>>> {
    loop {
        let mut group = vec![jobs.blocking_recv()?];
        while group.len() < GROUP_MAX
            && let Ok(job) = jobs.try_recv()
        {
            group.push(job);
        }
        group.retain(|job| !job.is_abandoned());
        if !group.is_empty() {
            return Some(group);
        }
    }
}

fn ended_early() -> StoreError {
    StoreError::Unavailable("the store's thread has ended".to_owned())
}
