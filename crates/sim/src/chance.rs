//! All randomness of a run, from one seed.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::clock::{MICRO, MILLI};

/// The run's only source of randomness. The algorithm is named, so that a seed means the same on every machine.
#[derive(Debug)]
pub(crate) struct Chance(Xoshiro256PlusPlus);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0.random()
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    /// True in `percent` of a hundred cases.
    pub(crate) fn percent(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.0.random_range(0..len)
    }

    /// An element, or `None` of nothing.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.index(from.len())]) }
    }

    /// A size or a time that is mostly small and now and then large: evenly spread over its orders of magnitude.
    pub(crate) fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let low = low.max(1);
        let most = self.between(low.ilog2().into(), u64::from(high.max(low).ilog2()) + 1);
        self.between(low, (1 << most).clamp(low, high.max(low)))
    }

    /// How long something takes to get from one machine to another: mostly a millisecond, now and then a third of a
    /// second.
    pub(crate) fn travel(&mut self) -> u64 {
        if self.percent(4) { self.between(5 * MILLI, 300 * MILLI) } else { self.between(50 * MICRO, 3 * MILLI) }
    }
}
