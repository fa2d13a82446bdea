//! The whole cell in one thread with a seed: faults, and checkers that know nothing of the code.
//!
//! A test of a distributed system that waits for luck finds what happens often. Here the machines of `landfast_core` run
//! under a virtual clock, on a network and with a store that misbehave as a seed says, so that a run of four minutes
//! takes milliseconds and can be had again. The machines are the product's own; what is around them (who calls which
//! machine when) is a rendering of the roles in a few hundred lines.
//!
//! ```text
//!   client ─conn─ holder ═link═ node's relay ─ agent ─ process       bytes, numbered
//!     (Session, Redial, reason)  (lifecycle, Lease)  (Session)
//!                 │ (RouteView)        │
//!                 └───── store ────────┘── (Keeper, placement)       records, leases, watches
//! ```
//!
//! * [`run`] plays one seed: a cell is drawn, disturbed for up to two minutes, left in peace for four, and judged.
//! * The checkers are given facts that an observer with true time could have seen, and hold the invariants of the
//!   architecture about bytes, endings, owners, and sessions that hang.
//! * A [`Sabotage`] makes one part misbehave, to prove that the checkers notice.

mod agent;
mod carry;
mod chance;
mod check;
mod client;
mod clock;
mod custodian;
mod downstream;
mod fact;
mod gateway;
mod holder;
mod host;
mod ledger;
mod mischief;
mod names;
mod net;
mod node;
pub mod owners;
mod place;
pub mod scale;
mod stage;
mod store;
mod tally;
mod trouble;
mod world;

pub use check::{Invariant, Violation};
pub use tally::Tally;
pub use trouble::{Counts, Mood};

use crate::world::World;

/// How a run is played.
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    /// Prints every fact, with its true time.
    pub trace: bool,
    /// What is done to the cell; drawn from the seed if nothing is asked for.
    pub mood: Option<Mood>,
    /// What misbehaves beyond the ordinary.
    pub sabotage: Option<Sabotage>,
}

/// A fault in the code rather than around it: each must be found by a checker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A resuming end claims to have received a byte more than it has.
    SkipReplay,
    /// A resuming end claims to have received a byte less.
    ReplayTwice,
    /// An agent takes the loss of a link for the exit of the process.
    GuessExit,
    /// A gateway redials for one second only.
    GiveUpEarly,
    /// A gateway takes an empty listing for the end of all instances.
    BelieveAnEmptyListing,
    /// A gateway tells every client that its node was lost.
    TellTheWrongCause,
    /// A gateway ends connections without a close frame.
    SayNothing,
    /// The source of a move gives the instance away and goes on carrying.
    CommitUnfenced,
    /// A node says that an instance sleeps, and goes on carrying.
    SleepUnfenced,
    /// A node goes on when its lease has lapsed, and its agents with it.
    IgnoreTheFence,
    /// An agent goes on when its node's lease has lapsed.
    OutliveTheTenure,
    /// A relay does not look at the generation it is asked for.
    TakeAnyGeneration,
    /// An agent stops giving a process its input after a thousand bytes.
    ForgetTheInput,
    /// A keeper calls an instance lost without looking whether its node is back.
    CallLostFromHearsay,
    /// A node ends what runs on its host without looking whether that is of a later life.
    EndLaterLives,
    /// A node whose lease is over ends what another took over from it, if it was not told so.
    EndWhatWasGivenAway,
    /// A keeper does not give nodes the time to come back after the store was away.
    BlameTheNodes,
    /// A node daemon that was started anew serves what it finds, without claiming it.
    ServeWithoutAClaim,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What must not have happened; the first few.
    pub violations: Vec<Violation>,
    /// What was done to the cell.
    pub counts: Counts,
    /// What happened in it.
    pub tally: Tally,
}

/// Plays one seed.
pub fn run(seed: u64, config: Config) -> Outcome {
    World::new(seed, config).run()
}
