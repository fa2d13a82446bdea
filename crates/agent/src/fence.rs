//! Which generation may reach this agent over connections that a node handed to it.
//!
//! The node decided who may come in and gave the connection away, so it cannot take it back. When the instance is to
//! serve a newer generation, the agent is told to fence: everything that came in under the old one is cut before the
//! answer, and nothing comes in until a generation is told. Sessions stay; only their links are cut.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_core::record::Generation;
use landfast_net::leash::Leash;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long the owners of cut connections may take to let go of them: they only have to be polled once. Less than the
/// node waits for the answer.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Between looks whether all have let go.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The agent's side of the fence.
#[derive(Debug)]
pub(crate) struct Fence(Mutex<State>);

#[derive(Debug)]
struct State {
    generation: Generation,
    /// `None` while fenced.
    era: Option<Era>,
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
        Self(Mutex::new(State { generation, era: Some(Era::default()) }))
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
        let state = self.state();
        if generation < state.generation {
            return Err(ErrorCode::NodeStaleGeneration);
        }
        if generation > state.generation {
            return Err(ErrorCode::InstanceStarting);
        }
        state.era.clone().ok_or(ErrorCode::InstanceMoving)
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
        self.0.lock().expect("nobody panics while holding the fence")
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
}
