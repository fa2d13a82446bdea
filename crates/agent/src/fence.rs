//! Which generation may reach this agent over connections that a node handed to it.
//!
//! The node decided who may come in and gave the connection away, so it cannot take it back. When the instance is to
//! serve a newer generation, the agent is told to fence: everything that came in under the old one is cut before the
//! answer, and nothing comes in until a generation is told. Sessions stay; only their links are cut.
//!
//! A node that cannot tell anything any more has lost its lease in the end, and others may have its instances. So the
//! agent also looks by itself: what came in is cut when the node's [`Tenure`] is over. See docs/decisions/0009.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_core::record::Generation;
use landfast_core::time::Instant;
use landfast_net::clock;
use landfast_net::leash::Leash;
use landfast_net::tenure::Tenure;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long the owners of cut connections may take to let go of them: they only have to be polled once. Less than the
/// node waits for the answer.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Between looks whether all have let go.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The agent's side of the fence.
#[derive(Debug)]
pub(crate) struct Fence {
    state: Mutex<State>,
    /// Something was let in under a tenure.
    admissions: Notify,
}

#[derive(Debug)]
struct State {
    generation: Generation,
    /// `None` while fenced.
    era: Option<Era>,
    /// How long the node whose connections came in last may serve.
    tenure: Option<Tenure>,
    /// Something was let in since the tenure was last looked at, and may not be on the leash yet.
    was_admitted: bool,
}

/// The time from one fence to the next: what came in during it ends with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Era {
    /// Ends the connections, whoever has them.
    pub(crate) leash: Leash,
    /// Ends the tasks that serve them.
    pub(crate) cut: CancellationToken,
}

impl Fence {
    pub(crate) fn new(generation: Generation) -> Self {
        let state = State { generation, era: Some(Era::default()), tenure: None, was_admitted: false };
        Self { state: Mutex::new(state), admissions: Notify::new() }
    }

    /// The agent's generation.
    pub(crate) fn generation(&self) -> Generation {
        self.state().generation
    }

    /// Lets in a connection that was accepted for a generation.
    ///
    /// # Errors
    ///
    /// Why not: nothing has started.
    pub(crate) fn admit(&self, generation: Generation) -> Result<Era, ErrorCode> {
        self.state().admit(generation)
    }

    /// Lets in a connection that was accepted for a generation by a node that may serve for as long as `tenure` says.
    ///
    /// # Errors
    ///
    /// Why not: nothing has started.
    pub(crate) fn admit_under(&self, generation: Generation, tenure: Tenure) -> Result<Era, ErrorCode> {
        let mut state = self.state();
        state.admit(generation)?;
        if tenure.until() <= clock::now() {
            return Err(ErrorCode::NodeDraining);
        }
        // The same node gives the same file each time: one descriptor of it is enough. What came in under another tenure is
        // not covered by this one.
        if !state.tenure.as_ref().is_some_and(|known| known.is(&tenure)) && state.tenure.replace(tenure).is_some() {
            state.begin_era();
        }
        state.was_admitted = true;
        self.admissions.notify_one();
        state.admit(generation)
    }

    /// Cuts what came in under a tenure when that is over, for ever. Sleeps while nothing is carried.
    pub(crate) async fn outlives_no_tenure(&self) {
        loop {
            self.admissions.notified().await;
            while let Some(until) = self.look(clock::now()) {
                clock::sleep_until(Some(until)).await;
            }
        }
    }

    /// Cuts what is carried if the tenure is over, and returns when to look again; never if nothing is carried.
    fn look(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let carries = state.era.as_ref().is_some_and(|era| !era.leash.is_empty());
        if !std::mem::take(&mut state.was_admitted) && !carries {
            return None;
        }
        let until = state.tenure.as_ref()?.until();
        if until > now {
            return Some(until);
        }
        tracing::warn!("the node has not renewed its lease; what it handed over is cut");
        // Not fenced: a node that holds its lease again hands over as before, and a new one comes with a new generation.
        state.begin_era();
        None
    }

    /// Takes a generation that is not lower than the present one, and lifts the fence.
    ///
    /// # Errors
    ///
    /// The present generation, if that is higher.
    pub(crate) fn raise(&self, wanted: Generation) -> Result<(), Generation> {
        let mut state = self.state();
        if wanted < state.generation {
            return Err(state.generation);
        }
        if wanted > state.generation
            && let Some(era) = state.era.take()
        {
            era.end();
        }
        state.generation = wanted;
        state.era.get_or_insert_default();
        Ok(())
    }

    /// Cuts everything that came in, and lets nothing in. False if somebody does not let go.
    pub(crate) async fn shut(&self) -> bool {
        let era = self.state().era.take();
        let Some(era) = era else { return true };
        era.end();
        let all_gone = async {
            while !era.leash.is_empty() {
                sleep(LOOK_AGAIN).await;
            }
        };
        timeout(PATIENCE, all_gone).await.is_ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the fence")
    }
}

impl State {
    fn admit(&self, generation: Generation) -> Result<Era, ErrorCode> {
        if generation < self.generation {
            return Err(ErrorCode::NodeStaleGeneration);
        }
        if generation > self.generation {
            return Err(ErrorCode::InstanceStarting);
        }
        self.era.clone().ok_or(ErrorCode::InstanceMoving)
    }

    /// Ends what came in so far, unless it is fenced anyway.
    fn begin_era(&mut self) {
        if let Some(era) = self.era.as_mut() {
            std::mem::take(era).end();
        }
    }
}

impl Era {
    fn end(&self) {
        self.cut.cancel();
        self.leash.cut();
    }
}

#[cfg(test)]
mod tests {
    use landfast_net::tenure::TenureFile;
    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn only_its_own_generation_comes_in_and_none_while_it_is_fenced() {
        let fence = Fence::new(Generation(3));
        let era = fence.admit(Generation(3)).unwrap();
        assert_eq!(fence.admit(Generation(2)).unwrap_err(), ErrorCode::NodeStaleGeneration);
        assert_eq!(fence.admit(Generation(4)).unwrap_err(), ErrorCode::InstanceStarting);
        assert!(fence.shut().await && era.cut.is_cancelled());
        assert_eq!(fence.admit(Generation(3)).unwrap_err(), ErrorCode::InstanceMoving);
        fence.raise(Generation(3)).unwrap();
        assert!(fence.admit(Generation(3)).is_ok(), "the move was given up");
    }

    #[test]
    fn a_generation_only_rises_and_a_newer_one_ends_what_came_in_before() {
        let fence = Fence::new(Generation(3));
        let era = fence.admit(Generation(3)).unwrap();
        fence.raise(Generation(3)).unwrap();
        assert!(!era.cut.is_cancelled());
        fence.raise(Generation(5)).unwrap();
        assert!(era.cut.is_cancelled());
        assert_eq!(fence.raise(Generation(4)), Err(Generation(5)));
    }

    fn lease(until: Instant) -> (TempDir, TenureFile) {
        let dir = tempfile::tempdir().unwrap();
        let mut file = TenureFile::open(&dir.path().join("lease")).unwrap();
        file.hold_until(until).unwrap();
        (dir, file)
    }

    #[test]
    fn what_came_in_is_cut_when_the_tenure_is_over_and_a_renewed_one_lets_in_again() {
        let (fence, begun) = (Fence::new(Generation(3)), clock::now());
        let (_dir, mut file) = lease(begun + Duration::from_secs(60));
        let era = fence.admit_under(Generation(3), file.view()).unwrap();
        assert_eq!(fence.look(begun), Some(begun + Duration::from_secs(60)));

        file.hold_until(begun + Duration::from_secs(90)).unwrap();
        let _second = fence.admit_under(Generation(3), file.view()).unwrap();
        assert_eq!(fence.look(begun + Duration::from_secs(60)), Some(begun + Duration::from_secs(90)));
        assert!(!era.cut.is_cancelled());

        let _third = fence.admit_under(Generation(3), file.view()).unwrap();
        assert_eq!(fence.look(begun + Duration::from_secs(90)), None);
        assert!(era.cut.is_cancelled());
        assert!(!fence.admit_under(Generation(3), file.view()).unwrap().cut.is_cancelled());
    }

    #[test]
    fn nothing_comes_in_under_a_tenure_that_is_over() {
        let fence = Fence::new(Generation(3));
        let (_dir, mut file) = lease(clock::now());
        assert_eq!(fence.admit_under(Generation(3), file.view()).unwrap_err(), ErrorCode::NodeDraining);
        file.hold_until(clock::now() + Duration::from_secs(60)).unwrap();
        assert!(fence.admit_under(Generation(3), file.view()).is_ok());
    }

    #[test]
    fn what_came_in_under_one_tenure_is_not_covered_by_the_next() {
        let (fence, until) = (Fence::new(Generation(3)), clock::now() + Duration::from_secs(60));
        let (_dir, mut file) = lease(until);
        let before = fence.admit_under(Generation(3), file.view()).unwrap();
        file.begin_anew().unwrap();
        file.hold_until(until).unwrap();
        let after = fence.admit_under(Generation(3), file.view()).unwrap();
        assert!(before.cut.is_cancelled() && !after.cut.is_cancelled());
    }

    #[test]
    fn an_agent_that_carries_nothing_does_not_look() {
        let fence = Fence::new(Generation(3));
        let until = clock::now() + Duration::from_secs(60);
        let (_dir, file) = lease(until);
        let _era = fence.admit_under(Generation(3), file.view()).unwrap();
        assert_eq!(fence.look(clock::now()), Some(until), "it may not be on the leash yet");
        assert_eq!(fence.look(clock::now()), None);
    }
}
