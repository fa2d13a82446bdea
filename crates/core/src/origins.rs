//! Which of several gateways a client asks next.
//!
//! Any gateway of a cell can go on with what another began, so a client that knows several need wait for none. Three things
//! must not happen: that all clients of a gateway that died come down on the same other one; that one which has just failed
//! is asked again while others were not asked at all; and that something which may have been started is sent to a second
//! one. Here the first two are decided, and of the third, what a failure says of the gateway it was met at.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::ErrorCode;
use crate::time::{Instant, spread};

/// For how long one that failed is asked after all others; it doubles with each failure: a restart takes about as long.
const REST_FIRST: Duration = Duration::from_secs(1);

/// The longest such rest: a machine that came back is found within it, and one that is gone costs little.
const REST_LONGEST: Duration = Duration::from_secs(30);

/// For how long one that is shutting down is asked after all others: it was told to finish, which takes that long by default.
const REST_DRAINING: Duration = Duration::from_secs(30);

/// Failures that are remembered: more than any name has addresses.
const REMEMBERED: usize = 256;

/// What a failed try says of the gateway at which it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took nothing and wants nothing: the next one may be asked at once, whatever was to be sent.
    Next,
    /// It may be the one at fault, and it may have passed on what it was sent. If that may be sent again, others come first.
    Suspect,
    /// It did its work. Another one would have said the same.
    Sound,
}

/// How the gateways have fared, by whatever tells one from another.
#[derive(Debug)]
pub struct Origins<K> {
    /// Who answered last: there the next try begins.
    last: Option<K>,
    failed: HashMap<K, Rest>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    failures: u32,
    since: Instant,
    until: Instant,
}

impl<K> Default for Origins<K> {
    fn default() -> Self {
        Self { last: None, failed: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Origins<K> {
    /// The order in which these are tried now, each of them once.
    ///
    /// First comes `home`, where a session's last link led, or who answered last, or the first that was listed; then the
    /// others in an order that `random` makes, so that the clients of one that died are spread over all that live. Those
    /// that rest come behind, who has rested most before the others.
    pub fn order(&self, listed: &[K], home: Option<&K>, random: u64, now: Instant) -> Vec<K> {
        let known = |key: &&K| listed.contains(key);
        let first = home.filter(known).or_else(|| self.last.as_ref().filter(known)).or_else(|| listed.first());
        let mut order: Vec<K> = first.into_iter().cloned().collect();
        let mut others: Vec<K> = listed.iter().filter(|key| Some(*key) != first).cloned().collect();
        shuffle(&mut others, random);
        order.append(&mut others);
        // Stable: among those that do not rest, the order is as above.
        order.sort_by_key(|key| self.rest_of(key, now).map(|rest| rest.since));
        order
    }

    /// Whether this one failed lately.
    pub fn rests(&self, key: &K, now: Instant) -> bool {
        self.rest_of(key, now).is_some()
    }

    /// This one has answered.
    pub fn handle_answer(&mut self, key: &K) {
        self.failed.remove(key);
        if self.last.as_ref() != Some(key) {
            self.last = Some(key.clone());
        }
    }

    /// This one has failed, or is shutting down. `random` spreads its rest.
    pub fn handle_failure(&mut self, key: &K, is_draining: bool, random: u64, now: Instant) {
        self.forget_old(now);
        let failures = self.failed.get(key).map_or(0, |rest| rest.failures) + 1;
        let rest = if is_draining { REST_DRAINING } else { rest_after(failures) };
        if self.failed.len() < REMEMBERED || self.failed.contains_key(key) {
            self.failed.insert(key.clone(), Rest { failures, since: now, until: now + spread(rest, random) });
        }
    }

    fn rest_of(&self, key: &K, now: Instant) -> Option<&Rest> {
        self.failed.get(key).filter(|rest| now < rest.until)
    }

    /// One that failed long ago and was not asked since begins anew.
    fn forget_old(&mut self, now: Instant) {
        self.failed.retain(|_, rest| now < rest.until + REST_LONGEST);
    }
}

/// What a refusal says of the gateway that wrote it, or passed it on.
pub const fn verdict(code: ErrorCode) -> Verdict {
    match code {
        ErrorCode::GatewayDraining => Verdict::Next,
        // What it does not reach, another may: it can be the one that is cut off.
        ErrorCode::RegistryUnavailable | ErrorCode::NodeUnreachable => Verdict::Suspect,
        _ => Verdict::Sound,
    }
}

fn rest_after(failures: u32) -> Duration {
    REST_FIRST.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(REST_LONGEST)
}

/// Fisher and Yates, with as many numbers as it takes made of one.
fn shuffle<T>(items: &mut [T], mut random: u64) {
    for last in (1..items.len()).rev() {
        // SplitMix64: its outputs are spread evenly however alike its seeds are.
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        items.swap(last, (mixed % (last as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UNSPREAD;

    const LISTED: [&str; 4] = ["a", "b", "c", "d"];

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn order(origins: &Origins<&'static str>, home: Option<&'static str>, random: u64, now: u64) -> Vec<&'static str> {
        origins.order(&LISTED, home.as_ref(), random, at(now))
    }

    #[test]
    fn each_is_tried_once_and_the_first_listed_first() {
        let origins = Origins::default();
        for random in 0..100 {
            let mut order = order(&origins, None, random, 0);
            assert_eq!(order[0], "a");
            order.sort_unstable();
            assert_eq!(order, LISTED);
        }
    }

    #[test]
    fn a_link_that_died_is_dialled_at_the_same_one_first_and_a_call_where_the_last_was_answered() {
        let mut origins = Origins::default();
        origins.handle_answer(&"b");
        assert_eq!(order(&origins, Some("c"), 7, 0)[0], "c");
        assert_eq!(order(&origins, None, 7, 0)[0], "b");
    }

    #[test]
    fn the_clients_of_one_that_died_spread_over_all_the_others() {
        let mut origins = Origins::default();
        origins.handle_failure(&"a", false, 20, at(0));
        let mut seconds = HashMap::new();
        for random in 0..3000 {
            *seconds.entry(order(&origins, Some("a"), random, 1)[0]).or_insert(0) += 1;
        }
        assert!(seconds.len() == 3 && seconds.values().all(|&count| count > 800), "{seconds:?}");
    }

    #[test]
    fn one_that_has_just_failed_comes_after_all_others_until_it_has_rested() {
        let mut origins = Origins::default();
        origins.handle_failure(&"a", false, 20, at(0));
        assert_eq!(order(&origins, Some("a"), 3, 999)[3], "a");
        assert_eq!(order(&origins, Some("a"), 3, 1000)[0], "a");
    }

    #[test]
    fn where_all_have_failed_who_has_rested_most_comes_first_and_none_comes_twice() {
        let mut origins = Origins::default();
        for (millis, key) in [(0, "c"), (1, "a"), (2, "d"), (3, "b")] {
            origins.handle_failure(&key, false, 20, at(millis));
        }
        assert_eq!(order(&origins, Some("b"), 9, 10), ["c", "a", "d", "b"]);
    }

    #[test]
    fn nobody_is_tried_again_before_everybody_else_was() {
        for random in 0..50 {
            let mut origins = Origins::default();
            let (mut tried, mut now) = (Vec::new(), 0);
            for _ in 0..12 {
                let next = order(&origins, Some("a"), random, now)[0];
                tried.push(next);
                origins.handle_failure(&next, false, random * now, at(now));
                now += 10;
            }
            for round in tried.chunks(LISTED.len()) {
                let mut round = round.to_vec();
                round.sort_unstable();
                assert_eq!(round, LISTED, "{tried:?}");
            }
        }
    }

    #[test]
    fn rests_grow_to_half_a_minute_are_spread_by_a_fifth_and_end_with_an_answer() {
        let mut origins = Origins::default();
        let mut rests = Vec::new();
        for _ in 0..7 {
            origins.handle_failure(&"a", false, UNSPREAD, at(0));
            rests.push(origins.failed["a"].until.since(at(0)).as_secs());
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!((spread(REST_FIRST, 0).as_millis(), spread(REST_FIRST, 40).as_millis()), (800, 1200));
        origins.handle_answer(&"a");
        assert!(!origins.rests(&"a", at(0)));
    }

    #[test]
    fn one_that_drains_is_left_for_as_long_as_that_may_take() {
        let mut origins = Origins::default();
        origins.handle_failure(&"a", true, UNSPREAD, at(0));
        assert!(origins.rests(&"a", at(29_999)) && !origins.rests(&"a", at(30_000)));
    }

    #[test]
    fn only_a_gateway_that_takes_nothing_is_left_at_once() {
        let next: Vec<_> = ErrorCode::ALL.iter().filter(|&&code| verdict(code) == Verdict::Next).collect();
        assert_eq!(next, [&ErrorCode::GatewayDraining]);
        // Nothing was started: then only is it true of any request.
        assert_eq!(ErrorCode::GatewayDraining.retry(), crate::Retry::Safe);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut origins = Origins::default();
        for key in 0..10_000 {
            origins.handle_failure(&key, false, 0, at(0));
        }
        assert_eq!(origins.failed.len(), REMEMBERED);
        origins.handle_failure(&10_000, false, 0, at(120_000));
        assert_eq!(origins.failed.len(), 1);
    }
}
