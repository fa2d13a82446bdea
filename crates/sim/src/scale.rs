//! What very many sessions and nodes do at once: how hard a node is dialled whose sessions come back to it, and how evenly
//! nodes renew their leases. Played with the product's own machines, against a node and a registry that take so many a
//! second and let the others wait.
//!
//! Nothing is lost or late here beyond that; faults are the business of [`crate::run`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_core::lease::{self, Lease};
use landfast_core::record::Generation;
use landfast_core::redial::{self, Presence, Redial};
use landfast_core::time::Instant;

use crate::chance::Chance;

/// How long a gateway waits for a node that it dials.
const DIAL_WITHIN: Duration = Duration::from_secs(5);

/// How finely rates are looked at.
const SLICE: Duration = Duration::from_millis(100);

/// Sessions whose node goes away for a while.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// How many sessions it had.
    pub sessions: usize,
    /// For how long it refuses: a daemon's restart, or a machine's.
    pub lasts: Duration,
    /// Sessions that it takes back in a second afterwards; more wait in its queue.
    pub takes_back: u32,
}

/// What came of an outage.
#[derive(Clone, Debug, PartialEq)]
pub struct Storm {
    /// Dials in all.
    pub dials: u64,
    /// The most of them within 100 ms while the node was away, without those of the first moment.
    pub peak_away: u64,
    /// The most within 100 ms after it was back.
    pub peak_back: u64,
    /// Dials that waited too long in the queue and had to be made again.
    pub timed_out: u64,
    /// From its return until half of the sessions had a link, until nearly all had, and until all had.
    pub back: [Duration; 3],
    /// Sessions that ended over it.
    pub ended: u64,
}

/// Plays an outage.
pub fn storm(outage: Outage, seed: u64) -> Storm {
    let mut chance = Chance::new(seed);
    let here = Presence::Here(Generation(1));
    let (lost, back) = (Instant::from_millis(1_000), Instant::from_millis(1_000) + outage.lasts);
    let mut sessions: Vec<Redial> = (0..outage.sessions).map(|_| linked(here)).collect();
    let mut due = BinaryHeap::new();
    for (number, session) in sessions.iter_mut().enumerate() {
        session.handle_link_lost(0, lost);
        due.push(Reverse((lost, number)));
    }
    let mut node = Queue::new(outage.takes_back, back);
    let (mut dials, mut linked_at) = (Vec::new(), Vec::new());
    let (mut timed_out, mut ended) = (0, 0);
    while let Some(Reverse((now, number))) = due.pop() {
        let session = &mut sessions[number];
        match session.poll(now) {
            Some(redial::Effect::Dial) => {
                dials.push(now);
                let (answered, is_taken) = node.dial(now);
                if is_taken {
                    session.handle_linked(Generation(1), 0, answered);
                    linked_at.push(answered.since(back));
                } else {
                    timed_out += u64::from(now >= back);
                    session.handle_refused(ErrorCode::NodeUnreachable, chance.bits(), answered);
                }
            }
            Some(redial::Effect::End(_)) => ended += 1,
            Some(redial::Effect::DropLink) | None => {}
        }
        due.extend(session.next_deadline().map(|at| Reverse((at.max(now), number))));
    }
    linked_at.sort_unstable();
    let at = |percent: usize| linked_at.get((linked_at.len() * percent / 100).min(linked_at.len().saturating_sub(1)));
    Storm {
        dials: dials.len() as u64,
        peak_away: peak(dials.iter().copied().filter(|at| *at > lost && *at < back)),
        peak_back: peak(dials.iter().copied().filter(|at| *at >= back)),
        timed_out,
        back: [50, 99, 100].map(|percent| at(percent).copied().unwrap_or_default()),
        ended,
    }
}

/// What nodes ask of the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Renewals {
    /// Questions a second, over all the time.
    pub mean: f64,
    /// The most within 100 ms.
    pub peak: u64,
    /// The most within 100 ms once the registry was back from an absence.
    pub peak_back: u64,
    /// Nodes that fenced themselves over it.
    pub fenced: u64,
}

/// Plays `nodes` nodes, started over ten minutes, and an absence of the registry.
pub fn renewals(nodes: usize, absence: Duration, seed: u64) -> Renewals {
    let mut chance = Chance::new(seed);
    let started = Instant::ZERO + Duration::from_secs(600);
    let away = started + Duration::from_secs(60);
    let back = away + absence;
    let until = back + Duration::from_secs(60);
    let mut leases: Vec<Lease> =
        (0..nodes).map(|_| Lease::new(Instant::from_millis(chance.between(0, started.as_millis())))).collect();
    let mut due: BinaryHeap<_> = leases
        .iter()
        .enumerate()
        .filter_map(|(number, lease)| Some(Reverse((lease.next_deadline()?, number))))
        .collect();
    let (mut asked, mut fenced) = (Vec::new(), 0);
    while let Some(Reverse((now, number))) = due.pop() {
        if now > until {
            break;
        }
        let lease = &mut leases[number];
        while let Some(effect) = lease.poll(now) {
            match effect {
                lease::Effect::Grant(ask) | lease::Effect::Renew(ask) => {
                    asked.push(now);
                    if now < away || now >= back {
                        lease.handle_held(ask, now);
                    } else {
                        lease.handle_failed(ask, now);
                    }
                }
                lease::Effect::Fence => fenced += 1,
                lease::Effect::Stop => lease.handle_stopped(now),
                lease::Effect::Serve => {}
            }
        }
        due.extend(lease.next_deadline().map(|at| Reverse((at.max(now), number))));
    }
    let within = |from: Instant, to: Instant| asked.iter().copied().filter(move |at| *at >= from && *at < to);
    Renewals {
        mean: within(started, away).count() as f64 / away.since(started).as_secs_f64(),
        peak: peak(within(started, away)),
        peak_back: peak(within(back, until)),
        fenced,
    }
}

/// A session with a link that has stood for long.
fn linked(here: Presence) -> Redial {
    let mut session = Redial::new(here, Instant::ZERO);
    let _ = session.poll(Instant::ZERO);
    session.handle_linked(Generation(1), 1, Instant::ZERO);
    session
}

/// A node that refuses until it is back, and then takes one after the other.
struct Queue {
    each: Duration,
    back: Instant,
    free_at: Instant,
}

impl Queue {
    fn new(a_second: u32, back: Instant) -> Self {
        Self { each: Duration::from_secs(1) / a_second, back, free_at: back }
    }

    /// When a dial is answered, and whether with yes.
    fn dial(&mut self, now: Instant) -> (Instant, bool) {
        if now < self.back {
            return (now, false);
        }
        let answered = self.free_at.max(now) + self.each;
        if answered > now + DIAL_WITHIN {
            return (now + DIAL_WITHIN, false);
        }
        self.free_at = answered;
        (answered, true)
    }
}

/// The most of these times within one slice.
fn peak(times: impl Iterator<Item = Instant>) -> u64 {
    let mut times: Vec<u128> = times.map(|at| u128::from(at.as_nanos()) / SLICE.as_nanos()).collect();
    times.sort_unstable();
    times.chunk_by(|a, b| a == b).map(|slice| slice.len() as u64).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTART: Outage = Outage { sessions: 2_000, lasts: Duration::from_secs(3), takes_back: 4_000 };

    #[test]
    fn a_node_that_restarts_gets_every_session_back_and_no_crowd_at_its_door() {
        let storm = storm(RESTART, 1);
        assert_eq!((storm.ended, storm.timed_out), (0, 0), "{storm:?}");
        // Waits are spread by a fifth each way: of two seconds that is eight slices for two thousand sessions.
        assert!(storm.peak_back < 500, "{storm:?}");
        assert!(storm.back[2] <= Duration::from_secs(3), "{storm:?}");
    }

    #[test]
    fn a_node_that_cannot_take_them_all_at_once_takes_them_one_after_the_other() {
        let outage = Outage { sessions: 20_000, takes_back: 1_000, ..RESTART };
        let storm = storm(outage, 2);
        assert_eq!(storm.ended, 0, "{storm:?}");
        let least = Duration::from_secs(19);
        assert!(storm.timed_out > 0 && (least..least * 2).contains(&storm.back[2]), "{storm:?}");
    }

    #[test]
    fn a_seed_plays_the_same_again() {
        assert_eq!(storm(RESTART, 7), storm(RESTART, 7));
    }

    #[test]
    fn nodes_that_began_at_any_time_renew_at_any_time_and_a_short_absence_fences_none() {
        let renewals = renewals(1_000, Duration::from_secs(3), 3);
        assert!((299.0..301.0).contains(&renewals.mean), "{renewals:?}");
        assert!(renewals.peak < 75 && renewals.fenced == 0, "{renewals:?}");
    }

    #[test]
    fn a_long_absence_fences_every_node_once() {
        assert_eq!(renewals_of(100, 30).fenced, 100);
    }

    fn renewals_of(nodes: usize, seconds: u64) -> Renewals {
        renewals(nodes, Duration::from_secs(seconds), 4)
    }
}
