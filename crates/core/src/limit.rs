//! How much is let through: so many requests a second, so many at once, so many open sessions.
//!
//! Whoever is limited, an instance or a token, has one [`Meter`], which all threads of a gateway read and write without a
//! lock. A meter knows no limits: they come with each question, because they may change while it counts. What was let in
//! is let out by dropping its [`Permit`], so that no way of ending can forget it, and none can do it twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::ErrorCode;
use crate::record::Limits;
use crate::time::Instant;

/// What a rate lets through at once after a pause, in time's worth of it: a page with all it loads, or a client that
/// comes back and asks for everything again. Over any longer time it is the rate that counts.
pub const BURST: Duration = Duration::from_secs(3);

/// What one instance or one token uses.
#[derive(Debug, Default)]
pub struct Meter {
    /// The time, in nanoseconds, until which requests at the rate would have filled the past (the generic cell rate
    /// algorithm): one number instead of a level and the time it was read.
    filled_until: AtomicU64,
    in_flight: AtomicU32,
    sessions: AtomicU32,
}

/// What somebody wants to be let in with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// A request, until it has its whole answer.
    Request,
    /// A session, until it ends.
    Session,
    /// A further link of a session that was let in before. It counts, and is never refused for the number of sessions:
    /// the link that it replaces may not have ended yet.
    Resume,
}

/// What was let in. Dropping it lets it out.
#[derive(Debug)]
pub struct Permit {
    meter: Arc<Meter>,
    entrance: Entrance,
}

impl Meter {
    /// Lets somebody in, unless a limit has been reached.
    ///
    /// # Errors
    ///
    /// `limit.rate`, `limit.in_flight` or `limit.sessions`; then nothing is counted but the request that was made.
    pub fn admit(self: &Arc<Self>, entrance: Entrance, limits: &Limits, now: Instant) -> Result<Permit, ErrorCode> {
        if limits.rate.is_some_and(|rate| !self.take(rate, now)) {
            return Err(ErrorCode::LimitRate);
        }
        let (most, refusal) = match entrance {
            Entrance::Request => (limits.in_flight, ErrorCode::LimitInFlight),
            Entrance::Session => (limits.sessions, ErrorCode::LimitSessions),
            Entrance::Resume => (None, ErrorCode::LimitSessions),
        };
        let most = most.unwrap_or(u32::MAX);
        let count = |number: u32| (number < most).then(|| number.saturating_add(1));
        let counted = self.gauge(entrance).fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        counted.map_err(|_| refusal)?;
        Ok(Permit { meter: Arc::clone(self), entrance })
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Whether one more request keeps the rate.
    fn take(&self, rate: u32, now: Instant) -> bool {
        // Rounded up, so that rounding never lets more through; a rate of 0, which no front door takes, is one of 1.
        let interval = 1_000_000_000_u64.div_ceil(u64::from(rate.max(1)));
        let (now, burst) = (now.as_nanos(), BURST.as_nanos() as u64);
        let next = |filled: u64| {
            let filled = filled.max(now).saturating_add(interval);
            (filled <= now.saturating_add(burst)).then_some(filled)
        };
        self.filled_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    const fn gauge(&self, entrance: Entrance) -> &AtomicU32 {
        match entrance {
            Entrance::Request => &self.in_flight,
            Entrance::Session | Entrance::Resume => &self.sessions,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.meter.gauge(self.entrance).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Limits {
    /// Whether nothing is limited.
    pub const fn is_none(&self) -> bool {
        self.rate.is_none() && self.in_flight.is_none() && self.sessions.is_none()
    }

    /// These limits, and `others` where they say nothing.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            rate: self.rate.or(others.rate),
            in_flight: self.in_flight.or(others.in_flight),
            sessions: self.sessions.or(others.sessions),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANY: Limits = Limits { rate: None, in_flight: None, sessions: None };

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// How many of `tries` requests at a time are let through, each over at once.
    fn pass(meter: &Arc<Meter>, rate: u32, tries: u32, now: Instant) -> u32 {
        let limits = Limits { rate: Some(rate), ..ANY };
        (0..tries).map(|_| u32::from(meter.admit(Entrance::Request, &limits, now).is_ok())).sum()
    }

    #[test]
    fn after_a_pause_a_burst_passes_and_then_the_rate() {
        let meter = Arc::default();
        assert_eq!(pass(&meter, 10, 100, at(1_000_000)), 30);
        assert_eq!(pass(&meter, 10, 100, at(1_000_099)), 0);
        assert_eq!(pass(&meter, 10, 100, at(1_000_100)), 1);
        assert_eq!(pass(&meter, 10, 100, at(1_001_100)), 10);
        assert_eq!(pass(&meter, 10, 100, at(9_000_000)), 30, "a long pause is worth no more than a burst");
    }

    #[test]
    fn a_machine_that_has_just_started_lets_the_first_burst_through() {
        assert_eq!(pass(&Arc::default(), 1, 100, Instant::ZERO), 3);
    }

    #[test]
    fn a_limit_at_a_time_is_free_again_when_somebody_leaves() {
        let meter: Arc<Meter> = Arc::default();
        let limits = Limits { in_flight: Some(2), sessions: Some(1), ..ANY };
        let enter = |entrance| meter.admit(entrance, &limits, at(0));
        let requests = [enter(Entrance::Request).unwrap(), enter(Entrance::Request).unwrap()];
        assert_eq!(enter(Entrance::Request).unwrap_err(), ErrorCode::LimitInFlight);
        let session = enter(Entrance::Session).unwrap();
        assert_eq!(enter(Entrance::Session).unwrap_err(), ErrorCode::LimitSessions);
        drop((requests, session));
        assert_eq!((meter.in_flight(), meter.sessions()), (0, 0));
        assert!(enter(Entrance::Request).is_ok() && enter(Entrance::Session).is_ok());
    }

    #[test]
    fn a_session_that_was_let_in_is_never_refused_its_next_link() {
        let meter: Arc<Meter> = Arc::default();
        let limits = Limits { sessions: Some(1), ..ANY };
        let first = meter.admit(Entrance::Session, &limits, at(0)).unwrap();
        let second = meter.admit(Entrance::Resume, &limits, at(0)).unwrap();
        drop(first);
        assert_eq!(meter.admit(Entrance::Session, &limits, at(0)).unwrap_err(), ErrorCode::LimitSessions);
        drop(second);
        assert_eq!(meter.sessions(), 0);
    }

    #[test]
    fn a_limit_that_is_lowered_holds_from_then_on() {
        let meter: Arc<Meter> = Arc::default();
        let permits = [0; 3].map(|_| meter.admit(Entrance::Request, &ANY, at(0)).unwrap());
        let lower = Limits { in_flight: Some(2), ..ANY };
        assert!(meter.admit(Entrance::Request, &lower, at(0)).is_err());
        drop(permits);
        assert!(meter.admit(Entrance::Request, &lower, at(0)).is_ok());
    }

    #[test]
    fn an_instances_own_limits_stand_before_the_gateways() {
        let own = Limits { rate: Some(1), ..ANY };
        let gateways = Limits { rate: Some(2), in_flight: Some(3), sessions: None };
        assert_eq!(own.or(gateways), Limits { rate: Some(1), in_flight: Some(3), sessions: None });
        assert!(ANY.is_none() && !own.is_none());
    }

    proptest! {
        #[test]
        fn no_time_lets_more_through_than_its_rate_and_one_burst(
            rate in prop_oneof![1u32..20, 1u32..5_000_000],
            steps in proptest::collection::vec((0u64..4_000_000_000, 1u32..60), 1..60),
        ) {
            let meter = Arc::default();
            let (mut now, mut passed) = (Instant::ZERO, Vec::new());
            for (pause, tries) in steps {
                now = now + Duration::from_nanos(pause);
                passed.push((now, u64::from(pass(&meter, rate, tries, now))));
            }
            // Between any two moments, not only from the beginning.
            for (first, &(from, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for &(until, count) in &passed[first..] {
                    sum += count;
                    let most = (until.since(from) + BURST).as_nanos() * u128::from(rate) / 1_000_000_000;
                    prop_assert!(u128::from(sum) <= most, "{sum} > {most} at {rate}/s");
                }
            }
        }

        #[test]
        fn what_is_asked_for_at_the_rate_always_passes(rate in 1u32..100_000, count in 1usize..300) {
            let (meter, interval) = (Arc::default(), 1_000_000_000_u64.div_ceil(u64::from(rate)));
            for number in 0..count as u64 {
                prop_assert_eq!(pass(&meter, rate, 1, Instant::from_nanos(number * interval)), 1);
            }
        }

        #[test]
        fn whoever_was_let_in_is_let_out_once_in_any_order(steps in proptest::collection::vec((0u8..4, 0usize..20), 1..200)) {
            let meter: Arc<Meter> = Arc::default();
            let limits = Limits { rate: None, in_flight: Some(5), sessions: Some(4) };
            let mut held: Vec<(Entrance, Permit)> = Vec::new();
            for (what, which) in steps {
                let entrance = [Entrance::Request, Entrance::Session, Entrance::Resume].get(usize::from(what));
                match entrance {
                    Some(&entrance) => held.extend(meter.admit(entrance, &limits, at(0)).map(|permit| (entrance, permit))),
                    None if held.is_empty() => {}
                    None => drop(held.swap_remove(which % held.len())),
                }
                let requests = held.iter().filter(|(entrance, _)| *entrance == Entrance::Request).count();
                prop_assert_eq!(meter.in_flight() as usize, requests);
                prop_assert_eq!(meter.sessions() as usize, held.len() - requests);
                prop_assert!(requests <= 5);
            }
            held.clear();
            prop_assert_eq!((meter.in_flight(), meter.sessions()), (0, 0));
        }
    }

    #[test]
    fn threads_at_once_take_no_more_than_there_is() {
        let meter: Arc<Meter> = Arc::default();
        let passed: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| pass(&meter, 1000, 2000, at(5)))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((passed, meter.in_flight()), (3000, 0));
    }
}
