//! Time as the machines see it: a point on one machine's monotonic clock.
//!
//! `std::time::Instant` cannot be made from a number, so a simulation could not own it. This one can, and it is the
//! size of an integer. Two machines' instants are never compared: each is read and used on one host only.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds on the monotonic clock of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The clock's zero.
    pub const ZERO: Self = Self(0);

    /// Makes an instant from nanoseconds since the clock's zero.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Makes an instant from milliseconds since the clock's zero.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// Nanoseconds since the clock's zero.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Milliseconds since the clock's zero, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The time from `earlier` to this instant; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// How far a wait is spread in each direction, in per cent.
const SPREAD: u64 = 20;

/// The random number that leaves a wait as it is.
#[cfg(test)]
pub(crate) const UNSPREAD: u64 = SPREAD;

/// A wait that is up to a fifth shorter or longer, as `random` says, so that a thousand who lost the same at the same moment do
/// not come back in the same millisecond.
pub(crate) fn spread(wait: Duration, random: u64) -> Duration {
    let percent = 100 - SPREAD + random % (2 * SPREAD + 1);
    wait * u32::try_from(percent).unwrap_or(100) / 100
}

/// The earlier of two deadlines, where `None` means never.
pub fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
