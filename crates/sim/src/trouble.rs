//! The kinds of trouble there are, how often each happens, and how often it did.

use std::fmt;

use crate::chance::Chance;

macro_rules! troubles {
    ($($name:ident $weight:literal $most:literal $text:literal;)*) => {
        /// A kind of fault or of legitimate disturbance.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Kind { $($name),* }

        impl Kind {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name),*];

            pub(crate) const fn weight(self) -> u64 {
                match self { $(Self::$name => $weight),* }
            }

            pub(crate) const fn most(self) -> u64 {
                match self { $(Self::$name => $most),* }
            }

            pub(crate) const fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

// How often each happens beside the others in a run that is fond of everything, and how often in a run at most: what
// ends sessions is rare, so that the others live long.
troubles! {
    CutLink 40 1000 "links cut";
    HalfOpenLink 12 1000 "links gone silent";
    StallLink 15 1000 "links stalled";
    FlapLink 3 4 "links cut as soon as they stood";
    CutNode 6 1000 "all links of a node cut";
    PartitionNode 6 12 "nodes cut off from everybody";
    LoseStore 6 12 "nodes cut off from the store";
    RestartNode 12 12 "node daemons killed and started";
    FreezeNode 6 12 "node daemons frozen";
    KillAgent 2 2 "agents killed";
    MoveInstance 25 1000 "moves asked for";
    SleepInstance 4 3 "instances put to sleep";
    IdleInstance 3 3 "instances found idle by their node";
    WakeInstance 4 6 "instances woken";
    StopInstance 1 1 "instances asked to stop";
    DeleteInstance 1 1 "instances asked to be deleted";
    ExitProcess 3 2 "processes that exit";
    ExitInGap 3 2 "processes that exit while their link is down";
    StoreDown 6 1000 "store outages";
    LoseAnswers 6 1000 "spells in which the store did not say what it had done";
    ResyncWatches 4 1000 "watches begun anew";
    EmptyListing 4 1000 "listings of an empty store";
    OldListing 3 1000 "listings of a restored store";
    StallWatch 10 1000 "watches that lag";
    StallKeeper 6 1000 "keepers that lag for a lease or more";
    RestartKeeper 3 1000 "keepers killed and started";
    StallReader 8 1000 "clients that read nothing for a while";
    StallInput 6 1000 "processes that read nothing for a while";
    CloseClient 1 1 "clients that close";
    LoseClient 2 1 "clients that are lost";
    DrainGateway 1 1 "gateways drained";
    KillGateway 1 1 "gateways killed";
}

/// How often each kind of disturbance took effect, over any number of runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts([u64; Kind::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Kind::ALL.len()])
    }
}

impl Counts {
    pub(crate) const fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    pub(crate) const fn count(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (mine, others) in self.0.iter_mut().zip(other.0) {
            *mine += others;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, count) in Kind::ALL.iter().zip(self.0) {
            writeln!(f, "{count:>10} {}", kind.text())?;
        }
        Ok(())
    }
}

/// What a run is fond of: what it takes to break something is mostly two or three things together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// A little of most things.
    Everything,
    /// Much of a few things, whichever they are.
    AFewThings,
    /// What happens to links, their two ends, and processes.
    Links,
    /// What happens to leases, watches and the store.
    Leases,
    /// What is put to sleep and woken, while nodes and the store misbehave.
    Sleepers,
    /// Moves whose writers are not told that they were made, and nodes that the store does not hear.
    Handovers,
    /// Node daemons that are away for about a lease, while news of it is late.
    Comebacks,
}

impl Mood {
    pub(crate) fn fondness(self, kind: Kind, chance: &mut Chance) -> u64 {
        let of = |fond: &[Kind]| u64::from(fond.contains(&kind));
        match self {
            Self::Everything => [0, 1, 1, 4][chance.index(4)],
            Self::AFewThings => [0, 0, 0, 0, 0, 1][chance.index(6)],
            Self::Links => of(&[
                Kind::CutLink,
                Kind::HalfOpenLink,
                Kind::StallLink,
                Kind::FlapLink,
                Kind::MoveInstance,
                Kind::ExitInGap,
                Kind::StallReader,
                Kind::StallInput,
                Kind::CloseClient,
            ]),
            Self::Leases => of(&[
                Kind::PartitionNode,
                Kind::LoseStore,
                Kind::RestartNode,
                Kind::FreezeNode,
                Kind::MoveInstance,
                Kind::StoreDown,
                Kind::StallWatch,
                Kind::StallKeeper,
                Kind::RestartKeeper,
            ]),
            Self::Sleepers => of(&[
                Kind::SleepInstance,
                Kind::IdleInstance,
                Kind::WakeInstance,
                Kind::CutLink,
                Kind::RestartNode,
                Kind::LoseStore,
                Kind::StoreDown,
                Kind::LoseAnswers,
                Kind::StallWatch,
                Kind::StallKeeper,
            ]),
            Self::Handovers => of(&[Kind::MoveInstance, Kind::LoseAnswers, Kind::LoseStore]),
            Self::Comebacks => of(&[Kind::RestartNode, Kind::StallWatch, Kind::StallKeeper]),
        }
    }
}
