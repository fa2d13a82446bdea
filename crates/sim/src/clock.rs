//! True time, and the clocks that machines read instead of it.

use landfast_core::time::Instant;

/// A nanosecond is the unit of true time.
pub(crate) const MICRO: u64 = 1_000;
pub(crate) const MILLI: u64 = 1_000 * MICRO;
pub(crate) const SECOND: u64 = 1_000 * MILLI;

/// True time in nanoseconds since the run began. No actor reads it; checkers do.
pub(crate) type Time = u64;

/// A machine's monotonic clock: starts anywhere, and runs a tenth too fast or too slow at worst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: u64,
    rate_percent: u64,
}

impl Clock {
    pub(crate) const fn new(start: u64, rate_percent: u64) -> Self {
        Self { start, rate_percent }
    }

    /// What it shows at a true time.
    pub(crate) const fn read(self, at: Time) -> Instant {
        Instant::from_nanos(self.start + at / 100 * self.rate_percent)
    }

    /// The first true time at which it shows `instant` or later.
    pub(crate) const fn when(self, instant: Instant) -> Time {
        instant.as_nanos().saturating_sub(self.start).div_ceil(self.rate_percent) * 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_set_for_an_instant_fires_when_the_clock_shows_it_and_not_before() {
        for rate in [90, 97, 100, 110] {
            let clock = Clock::new(12_345, rate);
            for nanos in [12_345, 12_346, 13_000, 9_999_999_999] {
                let at = clock.when(Instant::from_nanos(nanos));
                assert!(clock.read(at) >= Instant::from_nanos(nanos), "{rate} {nanos}");
                assert!(at < 100 || clock.read(at - 100) < Instant::from_nanos(nanos), "{rate} {nanos}");
            }
        }
    }
}
