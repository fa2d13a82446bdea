//! How many spare connections a node holds ready at a gateway that cannot dial it.
//!
//! A node behind a network that lets nobody in dials out instead, and waits: each connection that waits is a spare, of which
//! the gateway takes one where it would have dialled. Too few, and a burst of relays waits for dials; too many, and idle
//! nodes cost every gateway descriptors. So the number grows when all were taken, and goes back when that was long ago.

use std::time::Duration;

use crate::redial;
use crate::time::Instant;

/// Spares that are always held: a page of a browser, or a deploy's first moment, without a wait.
pub const SPARES_MIN: usize = 4;

/// The most that are held, for each gateway; beyond it a burst waits for dials, of which as many are under way.
pub const SPARES_MAX: usize = 64;

/// After so long without having run out, half of them are let go of.
const CALM: Duration = Duration::from_secs(60);

/// The spares that one node holds at one gateway.
#[derive(Debug)]
pub struct Spares {
    waiting: usize,
    dialling: usize,
    wanted: usize,
    /// When there was none left last.
    ran_out: Instant,
    failures: usize,
    /// No dial before.
    not_before: Instant,
}

impl Spares {
    /// None is held yet.
    pub const fn new(now: Instant) -> Self {
        Self { waiting: 0, dialling: 0, wanted: SPARES_MIN, ran_out: now, failures: 0, not_before: now }
    }

    /// Whether one more is to be dialled now. Call until it says no, and tell how each dial went.
    pub fn poll(&mut self, now: Instant) -> bool {
        if self.wanted > SPARES_MIN && now >= self.ran_out + CALM {
            (self.wanted, self.ran_out) = ((self.wanted / 2).max(SPARES_MIN), now);
        }
        // While dials fail one at a time is enough to find out when they do not.
        let room = if self.failures > 0 { 1 } else { self.wanted };
        let is_due = self.waiting + self.dialling < self.wanted && self.dialling < room && now >= self.not_before;
        if is_due {
            self.dialling += 1;
        }
        is_due
    }

    /// When [`Self::poll`] wants to be called though nothing has happened.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        (self.not_before > now && self.waiting + self.dialling < self.wanted).then_some(self.not_before)
    }

    /// A dial has succeeded: the connection waits at the gateway.
    pub fn handle_waiting(&mut self) {
        self.dialling = self.dialling.saturating_sub(1);
        self.waiting += 1;
        self.failures = 0;
    }

    /// A dial has failed. `random` spreads the wait before the next.
    pub fn handle_failed(&mut self, random: u64, now: Instant) {
        self.dialling = self.dialling.saturating_sub(1);
        self.back_off(random, now);
    }

    /// The gateway has taken one that waited.
    pub fn handle_taken(&mut self, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            (self.wanted, self.ran_out) = ((self.wanted * 2).min(SPARES_MAX), now);
        }
    }

    /// One that waited has ended without being taken: the gateway has more than it wants, or is gone.
    pub fn handle_lost(&mut self, random: u64, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            self.back_off(random, now);
        }
    }

    /// How many wait now.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    fn back_off(&mut self, random: u64, now: Instant) {
        self.failures += 1;
        self.not_before = now + redial::wait(self.failures, random);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UNSPREAD;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// Dials whatever is due, with success.
    fn fill(spares: &mut Spares, now: Instant) -> usize {
        let mut dials = 0;
        while spares.poll(now) {
            dials += 1;
        }
        (0..dials).for_each(|_| spares.handle_waiting());
        dials
    }

    #[test]
    fn a_few_are_held_and_each_that_is_taken_is_replaced_at_once() {
        let mut spares = Spares::new(at(0));
        assert_eq!(fill(&mut spares, at(0)), SPARES_MIN);
        spares.handle_taken(at(1));
        assert_eq!((fill(&mut spares, at(1)), spares.waiting()), (1, SPARES_MIN));
    }

    #[test]
    fn who_runs_out_holds_twice_as_many_up_to_a_bound_and_lets_go_of_them_later() {
        let mut spares = Spares::new(at(0));
        let mut held = Vec::new();
        for _ in 0..6 {
            fill(&mut spares, at(0));
            held.push(spares.waiting());
            (0..spares.waiting()).for_each(|_| spares.handle_taken(at(0)));
        }
        assert_eq!(held, [4, 8, 16, 32, 64, 64]);
        assert!(spares.poll(at(59_999)) && spares.wanted == 64);
        let mut wanted = Vec::new();
        for minute in 1..6 {
            spares.poll(at(minute * 60_000));
            wanted.push(spares.wanted);
        }
        assert_eq!(wanted, [32, 16, 8, 4, 4]);
    }

    #[test]
    fn while_dials_fail_one_is_made_at_a_time_ever_more_slowly() {
        let mut spares = Spares::new(at(0));
        let dials = std::iter::from_fn(|| spares.poll(at(0)).then_some(())).count();
        (0..dials).for_each(|_| spares.handle_failed(UNSPREAD, at(0)));
        let mut waits = Vec::new();
        let mut now = at(0);
        for _ in 0..8 {
            let next = spares.next_deadline(now).unwrap();
            waits.push(next.since(now).as_millis());
            now = next;
            assert!(spares.poll(now) && !spares.poll(now), "one at a time");
            spares.handle_failed(UNSPREAD, now);
        }
        assert_eq!(waits, [400, 800, 1600, 2000, 2000, 2000, 2000, 2000]);
        now = spares.next_deadline(now).unwrap();
        assert!(spares.poll(now));
        spares.handle_waiting();
        assert_eq!(fill(&mut spares, now), SPARES_MIN - 1, "one success ends the waiting");
    }

    #[test]
    fn a_gateway_that_lets_go_of_one_is_given_another_and_one_that_lets_go_of_all_is_given_a_pause() {
        let mut spares = Spares::new(at(0));
        fill(&mut spares, at(0));
        spares.handle_lost(0, at(0));
        assert!(spares.poll(at(0)));
        spares.handle_waiting();
        (0..SPARES_MIN).for_each(|_| spares.handle_lost(UNSPREAD, at(0)));
        assert!(!spares.poll(at(0)) && spares.poll(at(50)));
    }
}
