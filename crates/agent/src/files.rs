//! The instance's files, as its processes see them: for the surfaces that people ask, each with words of its own.
//!
//! What is done with files is in `landfast_files`, and blocks. Here it is done on a few threads beside the agent's one,
//! step by step, so that nobody who reads slowly holds a thread, and no disk that hangs holds up a session.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfast_core::{ErrorCode, Problem};
use landfast_files::PIECE;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Steps that are done at once: disks gain nothing from more, and each holds a thread and a piece of a file.
const SLOTS: usize = 4;

/// Watches at once. Each is a descriptor of a kind of which a user has 128 on most machines.
const WATCHES_MAX: usize = 32;

/// The longest path that the kernel takes.
const PATH_MAX: usize = 4096;

/// The way to an instance's files.
#[derive(Debug)]
pub(crate) struct Files {
    home: PathBuf,
    slots: Arc<Semaphore>,
    watches: Arc<Semaphore>,
}

impl Files {
    /// Files of an instance with this home.
    pub(crate) fn new(home: &Path) -> Arc<Self> {
        let (slots, watches) = (Arc::new(Semaphore::new(SLOTS)), Arc::new(Semaphore::new(WATCHES_MAX)));
        Arc::new(Self { home: home.to_owned(), slots, watches })
    }

    /// A path as the asker means it: what is relative begins where the instance's processes do.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RequestInvalid`] for what can be no path.
    pub(crate) fn path(&self, path: &Path) -> Result<PathBuf, Problem> {
        let bytes = path.as_os_str().as_encoded_bytes();
        let wrong = match bytes {
            [] => "The path is empty; say . for the instance's home.",
            _ if bytes.contains(&0) => "The path holds a zero byte.",
            _ if bytes.len() >= PATH_MAX => "The path is longer than Linux takes.",
            _ => return Ok(self.home.join(path)),
        };
        Err(Problem::new(ErrorCode::RequestInvalid, wrong))
    }

    /// Does something that blocks, elsewhere. What is done when its asker leaves is done to its end all the same.
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| ErrorCode::Internal)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(slot);
            done
        });
        done.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a step on files did not end");
            Err(ErrorCode::Internal.into())
        })
    }

    /// A step of something that has several, such as a file that is read; gives it back with what came of it.
    ///
    /// # Errors
    ///
    /// Those of `step`; what was worked on is then dropped.
    pub(crate) async fn step<S: Send + 'static, T: Send + 'static>(
        &self,
        mut subject: S,
        step: impl FnOnce(&mut S) -> Result<T, Problem> + Send + 'static,
    ) -> Result<(S, T), Problem> {
        self.run(move || {
            let done = step(&mut subject)?;
            Ok((subject, done))
        })
        .await
    }

    /// Room for one more watch.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::LimitWatches`].
    pub(crate) fn watch(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.watches.clone().try_acquire_owned().map_err(|_| {
            Problem::new(ErrorCode::LimitWatches, format!("There are {WATCHES_MAX} watches in the instance already."))
        })
    }
}

/// Bytes that come in pieces of any size, gathered to those that are worth a step.
#[derive(Debug, Default)]
pub(crate) struct Gathered(Vec<u8>);

impl Gathered {
    /// Adds bytes, and gives all that there are once they are worth a step.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.0.extend_from_slice(bytes);
        (self.0.len() >= PIECE).then(|| std::mem::take(&mut self.0))
    }

    /// What is left at the end.
    pub(crate) fn rest(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn paths_begin_at_home_and_what_is_none_is_refused() {
        let files = Files::new(Path::new("/home/user"));
        for (path, meant) in [("a/b", "/home/user/a/b"), (".", "/home/user/."), ("/etc", "/etc")] {
            assert_eq!(files.path(Path::new(path)).unwrap(), Path::new(meant));
        }
        for path in ["", "a\0b", &"x".repeat(4096)] {
            assert_eq!(files.path(Path::new(path)).unwrap_err().code, ErrorCode::RequestInvalid);
        }
    }

    #[tokio::test]
    async fn a_step_that_hangs_holds_up_no_more_than_its_slot() {
        let files = Files::new(Path::new("/"));
        let (release, gate) = std::sync::mpsc::sync_channel::<()>(0);
        let gate = Arc::new(std::sync::Mutex::new(gate));
        for _ in 0..SLOTS - 1 {
            let (files, gate) = (files.clone(), gate.clone());
            tokio::spawn(async move {
                let wait = move || {
                    let _ = gate.lock().map(|gate| gate.recv().is_ok());
                    Ok(())
                };
                files.run(wait).await
            });
        }
        assert_eq!(files.run(|| Ok(1)).await.unwrap(), 1);
        drop(release);
        assert_eq!(files.run(|| Ok(2)).await.unwrap(), 2);
    }
}
