//! What must hold, judged from facts alone.
//!
//! The checkers know the specification and nothing of the code: they are given what an observer with true time could
//! have seen, and no machine, record or message. Each holds one of the invariants of the architecture.

mod bytes;
mod endings;
mod owners;
mod settled;

use std::fmt;

use crate::clock::{MILLI, SECOND, Time};
use crate::fact::Fact;

/// Which checker found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    /// No byte is lost, doubled or reordered.
    Bytes,
    /// A session ends only for a true cause, and its client is told that cause, once.
    Endings,
    /// A generation never decreases; at most one node serves an instance.
    Owners,
    /// Once nothing is done to the cell any more, everything that goes on gets on.
    Settled,
}

/// Something that must not have happened.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which invariant it breaks.
    pub invariant: Invariant,
    /// When, in true nanoseconds since the run began.
    pub at: Time,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invariant, at, what } = self;
        write!(f, "{invariant:?} at {}.{:03} s: {what}", at / SECOND, at % SECOND / MILLI)
    }
}

/// Judges facts as they come.
pub(crate) trait Checker: fmt::Debug {
    fn observe(&mut self, at: Time, fact: Fact<'_>) -> Result<(), Violation>;

    /// The run is over.
    fn finish(&mut self, _at: Time) -> Vec<Violation> {
        Vec::new()
    }
}

/// Every checker.
pub(crate) fn all() -> Vec<Box<dyn Checker>> {
    vec![
        Box::<bytes::Bytes>::default(),
        Box::<endings::Endings>::default(),
        Box::<owners::Owners>::default(),
        Box::<settled::Settled>::default(),
    ]
}
