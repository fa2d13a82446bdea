//! A node's side of its lease: when it may serve, and when it must be silent.
//!
//! The registry gives a node's instances away once the lease has lapsed, and it cannot ask the node first: the network
//! between them may be what failed. So the node must stop by itself, and before that. It counts from when it *asked*,
//! which is before the registry began to count, and it allows for either clock running a tenth too fast or too slow:
//!
//! ```text
//! asked          ttl/3 renew    2/3 renew   fence  stop      registry: lapsed
//!   0               3.3            6.7       7.5   8.0 s     at least 10 s later by its clock = 9.09 s of true time
//!                                                            = 8.18 s by the slowest clock of ours
//! ```
//!
//! Fenced, the relay carries nothing that others may be given; stopped, those instances are ended. What nobody else can be given
//! ([`is_bound`](crate::lifecycle::is_bound)) goes on. An answer that arrives between the two still
//! counts. After that the node holds nothing, and only then asks for a new lease.

use std::time::Duration;

use crate::time::{Instant, earliest};

/// How long the registry keeps a lease that is not renewed.
pub const TTL: Duration = Duration::from_secs(10);

/// A lease is renewed this long after it was last asked for, so that one renewal may fail.
pub const RENEW_AFTER: Duration = TTL.checked_div(3).expect("three is not zero");

/// The relay is silent from this long after the lease was last asked for: leaves the stop half a second.
pub const FENCE_AFTER: Duration = Duration::from_millis(7_500);

/// The instances are ended from this long after: `TTL * 0.9 / 1.1`, rounded down.
pub const STOP_AFTER: Duration = Duration::from_millis(8_000);

/// A question without an answer is given up after this long, and asked anew: two of them fit before the fence.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A question that failed is asked again after this long: short beside the time that is left, long beside a round trip.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What the node must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask for a new lease. Whatever the node ran under an older one is over by now.
    Grant(Ask),
    /// Ask for the lease to be renewed.
    Renew(Ask),
    /// The lease is held: the relay may carry.
    Serve,
    /// The relay must carry nothing, from now on and of what it carries already.
    Fence,
    /// The instances must be ended. Confirm with [`Lease::handle_stopped`].
    Stop,
}

/// The number of a question to the registry; an answer to another than the last is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ask(u64);

/// A node's lease, as far as the node may believe in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    state: State,
    asks: u64,
    asking: Option<Asking>,
    ask_at: Instant,
    /// Whether the relay was last told that it may carry.
    serving: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// No lease, and nothing runs under one.
    None,
    /// Granted or renewed by a question asked at this time.
    Held { since: Instant },
    /// Lapsed: the instances are being ended. `told` once the node was told so.
    Stopping { told: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asking {
    number: Ask,
    at: Instant,
}

impl Lease {
    /// A node that starts: it asks at once.
    pub const fn new(now: Instant) -> Self {
        Self { state: State::None, asks: 0, asking: None, ask_at: now, serving: false }
    }

    /// Whether the relay may carry at this moment. Looks at the time itself, so that a late timer carries nothing.
    pub fn holds(&self, now: Instant) -> bool {
        matches!(self.state, State::Held { since } if now < since + FENCE_AFTER)
    }

    /// Until when [`Self::holds`] holds; the clock's zero if it does not. For those that cannot ask each time.
    pub fn holds_until(&self) -> Instant {
        match self.state {
            State::Held { since } => since + FENCE_AFTER,
            State::None | State::Stopping { .. } => Instant::ZERO,
        }
    }

    /// The registry granted or renewed the lease.
    pub fn handle_held(&mut self, ask: Ask, now: Instant) {
        let Some(asking) = self.answered(ask) else { return };
        self.ask_at = asking.at + RENEW_AFTER;
        let in_time = now < asking.at + STOP_AFTER;
        if in_time && matches!(self.state, State::None | State::Held { .. }) {
            self.state = State::Held { since: asking.at };
        }
    }

    /// The question failed, which proves nothing.
    pub fn handle_failed(&mut self, ask: Ask, now: Instant) {
        if self.answered(ask).is_some() {
            self.ask_at = now + ASK_AGAIN_AFTER;
        }
    }

    /// The registry says that the lease has lapsed.
    pub fn handle_lapsed(&mut self, ask: Ask, now: Instant) {
        if self.answered(ask).is_none() {
            return;
        }
        self.ask_at = now + ASK_AGAIN_AFTER;
        if matches!(self.state, State::Held { .. }) {
            self.state = State::Stopping { told: false };
        }
    }

    /// Everything that ran under the old lease has ended.
    pub fn handle_stopped(&mut self, now: Instant) {
        if self.state == (State::Stopping { told: true }) {
            self.state = State::None;
            self.ask_at = now;
        }
    }

    /// What to do now. Call until it returns `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Effect> {
        if let State::Held { since } = self.state
            && now >= since + STOP_AFTER
        {
            self.state = State::Stopping { told: false };
        }
        let holds = self.holds(now);
        if self.serving != holds {
            self.serving = holds;
            return Some(if holds { Effect::Serve } else { Effect::Fence });
        }
        if self.state == (State::Stopping { told: false }) {
            self.state = State::Stopping { told: true };
            self.asking = None;
            return Some(Effect::Stop);
        }
        self.poll_ask(now)
    }

    /// When [`Self::poll`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let ask = self.asking.map_or(self.ask_at, |asking| asking.at + ANSWER_WITHIN);
        match self.state {
            State::None => Some(ask),
            State::Held { since } => {
                let end = if self.serving { since + FENCE_AFTER } else { since + STOP_AFTER };
                earliest(Some(ask), Some(end))
            }
            State::Stopping { .. } => None,
        }
    }

    /// The same lease at `now` on a clock that shows `by` less, with its questions numbered anew: two leases that will behave
    /// alike from here on are then equal. For those who look at every state there is.
    #[must_use]
    pub fn rebased(&self, by: Duration, now: Instant) -> Self {
        let state = match self.state {
            State::Held { since } => State::Held { since: since - by },
            state @ (State::None | State::Stopping { .. }) => state,
        };
        let asking = self.asking.map(|asking| Asking { number: Ask(1), at: asking.at - by });
        // When it should have asked does not matter once it may.
        let ask_at = (self.ask_at - by).max(now);
        Self { state, asks: asking.map_or(0, |_| 1), asking, ask_at, serving: self.serving }
    }

    /// The question that is under way.
    pub fn asking(&self) -> Option<Ask> {
        self.asking.map(|asking| asking.number)
    }

    fn poll_ask(&mut self, now: Instant) -> Option<Effect> {
        if self.asking.is_some_and(|asking| now >= asking.at + ANSWER_WITHIN) {
            self.asking = None;
            self.ask_at = now;
        }
        if self.asking.is_some() || now < self.ask_at {
            return None;
        }
        let ask = match self.state {
            State::None => Effect::Grant,
            State::Held { .. } => Effect::Renew,
            State::Stopping { .. } => return None,
        };
        self.asks += 1;
        let number = Ask(self.asks);
        self.asking = Some(Asking { number, at: now });
        Some(ask(number))
    }

    fn answered(&mut self, ask: Ask) -> Option<Asking> {
        self.asking.take_if(|asking| asking.number == ask)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn ask_of(effect: Option<Effect>) -> Ask {
        match effect {
            Some(Effect::Grant(ask) | Effect::Renew(ask)) => ask,
            other => panic!("expected a question, got {other:?}"),
        }
    }

    /// A lease asked for at 0 and granted at once.
    fn held() -> Lease {
        let mut lease = Lease::new(at(0));
        let ask = ask_of(lease.poll(at(0)));
        lease.handle_held(ask, at(0));
        assert_eq!(lease.poll(at(0)), Some(Effect::Serve));
        assert_eq!(lease.poll(at(0)), None);
        lease
    }

    /// Everything the lease wants until it waits for `handle_stopped`, each with its time; every question fails.
    fn run_without_a_registry(mut lease: Lease) -> Vec<(u64, &'static str)> {
        let (mut told, mut now) = (Vec::new(), at(0));
        while let Some(deadline) = lease.next_deadline() {
            now = now.max(deadline);
            while let Some(effect) = lease.poll(now) {
                match effect {
                    Effect::Grant(ask) | Effect::Renew(ask) => lease.handle_failed(ask, now),
                    Effect::Serve => told.push((now.as_millis(), "serve")),
                    Effect::Fence => told.push((now.as_millis(), "fence")),
                    Effect::Stop => told.push((now.as_millis(), "stop")),
                }
            }
        }
        told
    }

    #[test]
    fn without_the_registry_it_fences_and_then_stops_before_the_lease_lapses() {
        assert_eq!(run_without_a_registry(held()), [(7_500, "fence"), (8_000, "stop")]);
        assert!(STOP_AFTER.as_millis() * 11 <= TTL.as_millis() * 9, "a slow clock here, a fast one there");
    }

    #[test]
    fn it_renews_after_a_third_and_again_soon_after_a_failure() {
        let mut lease = held();
        assert_eq!(lease.next_deadline().unwrap().as_millis(), 3_333);
        let ask = ask_of(lease.poll(at(3_334)));
        lease.handle_failed(ask, at(3_400));
        assert_eq!(lease.poll(at(3_800)), None);
        let ask = ask_of(lease.poll(at(3_900)));
        lease.handle_held(ask, at(5_000));
        assert_eq!(lease.next_deadline(), Some(at(3_900) + RENEW_AFTER), "counted from the question");
        assert!(lease.holds(at(11_399)) && !lease.holds(at(11_400)));
    }

    #[test]
    fn a_question_without_an_answer_is_asked_anew_and_its_late_answer_ignored() {
        let mut lease = held();
        let first = ask_of(lease.poll(at(4_000)));
        let second = ask_of(lease.poll(at(6_000)));
        assert_ne!(first, second);
        lease.handle_held(first, at(6_100));
        assert!(!lease.holds(at(7_500)));
        lease.handle_held(second, at(6_200));
        assert!(lease.holds(at(13_499)));
    }

    #[test]
    fn an_answer_between_fence_and_stop_lets_it_serve_again() {
        let mut lease = held();
        let ask = ask_of(lease.poll(at(6_500)));
        assert_eq!(lease.poll(at(7_500)), Some(Effect::Fence));
        lease.handle_held(ask, at(7_900));
        assert_eq!(lease.poll(at(7_900)), Some(Effect::Serve));
    }

    #[test]
    fn a_new_lease_is_asked_for_only_when_everything_has_stopped() {
        let mut lease = held();
        let ask = ask_of(lease.poll(at(4_000)));
        lease.handle_lapsed(ask, at(4_001));
        assert!(!lease.holds(at(4_001)));
        assert_eq!(lease.poll(at(4_001)), Some(Effect::Fence));
        assert_eq!(lease.poll(at(4_001)), Some(Effect::Stop));
        assert_eq!((lease.poll(at(60_000)), lease.next_deadline()), (None, None));
        lease.handle_stopped(at(60_001));
        assert!(matches!(lease.poll(at(60_001)), Some(Effect::Grant(_))));
    }

    #[test]
    fn a_grant_that_took_too_long_to_arrive_is_not_believed() {
        let mut lease = Lease::new(at(0));
        let ask = ask_of(lease.poll(at(0)));
        lease.handle_held(ask, at(8_000));
        assert!(!lease.holds(at(8_000)));
        assert!(matches!(lease.poll(at(8_000)), Some(Effect::Grant(_))));
    }

    /// The registry's side, on its own clock: lapses `TTL` after it last handled a question.
    struct Registry {
        lapses_at: Instant,
    }

    /// What is under way, in microseconds of true time.
    #[derive(Clone, Copy)]
    enum Post {
        Question { ask: Ask, grant: bool },
        Answer { ask: Ask, held: bool },
    }

    /// Reads `true_micros` off a clock that runs at `rate` per cent.
    fn clock(true_micros: u64, rate: u64) -> Instant {
        Instant::from_nanos(true_micros * 10 * rate)
    }

    fn any_rate() -> impl Strategy<Value = u64> {
        prop_oneof![Just(90), 90u64..=110, Just(110)]
    }

    /// In microseconds: quick, within the time for an answer, or beyond it.
    fn any_delay() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..50_000, 0u64..2_500_000, 0u64..12_000_000]
    }

    proptest! {
        #[test]
        fn a_node_never_serves_nor_runs_what_the_registry_could_have_given_away(
            node_rate in any_rate(),
            registry_rate in any_rate(),
            fates in proptest::collection::vec((any_delay(), any_delay(), 0u8..3), 1..40),
            wakes in proptest::collection::vec(0u64..300_000, 1..20),
        ) {
            let mut lease = Lease::new(Instant::ZERO);
            let mut registry = Registry { lapses_at: Instant::ZERO };
            let (mut now, mut post) = (0u64, Vec::<(u64, Post)>::new());
            let (mut fates, mut wakes) = (fates.iter().cycle(), wakes.iter().cycle());
            let mut running = false;
            for _ in 0..1000 {
                let local = clock(now, node_rate);
                while let Some(effect) = lease.poll(local) {
                    match effect {
                        Effect::Grant(ask) | Effect::Renew(ask) => {
                            let &(there, _, _) = fates.next().unwrap();
                            let grant = matches!(effect, Effect::Grant(_));
                            prop_assert!(!(grant && running), "asked for a new lease before it had stopped");
                            post.push((now + there, Post::Question { ask, grant }));
                        }
                        Effect::Serve => running = true,
                        Effect::Fence => {}
                        Effect::Stop => { running = false; lease.handle_stopped(local); }
                    }
                }
                let lapsed = clock(now, registry_rate) >= registry.lapses_at;
                prop_assert!(!(lease.holds(local) && lapsed), "serves after the lapse");
                prop_assert!(!(running && lapsed), "runs after the lapse");
                let due = lease.next_deadline().map_or(u64::MAX, |at| at.as_nanos().div_ceil(10 * node_rate));
                let next_post = post.iter().map(|(at, _)| *at).min().unwrap_or(u64::MAX);
                now = due.min(next_post).min(now + 1 + wakes.next().unwrap()).max(now);
                while let Some(index) = post.iter().position(|(at, _)| *at <= now) {
                    let &(_, back, fate) = fates.next().unwrap();
                    match post.swap_remove(index).1 {
                        // One question in three is lost, and so is one answer in three.
                        _ if fate == 0 => {}
                        Post::Question { ask, grant } => {
                            let there = clock(now, registry_rate);
                            let held = grant || there < registry.lapses_at;
                            if held { registry.lapses_at = there + TTL; }
                            post.push((now + back, Post::Answer { ask, held }));
                        }
                        Post::Answer { ask, held: true } => lease.handle_held(ask, clock(now, node_rate)),
                        Post::Answer { ask, held: false } => lease.handle_lapsed(ask, clock(now, node_rate)),
                    }
                }
            }
        }
    }
}
