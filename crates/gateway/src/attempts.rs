//! What follows a failed attempt to reach an instance for one request.
//!
//! A session redials for a minute and more ([`landfast_core::redial`]); somebody who sent a request wants an answer. So a
//! request is tried a few times only, and only while each refusal proves that nothing was started. Waiting for an absence
//! that is *known* is no attempt: the request's own deadline bounds it.

use std::time::Duration;

use landfast_core::route::Route;
use landfast_core::{ErrorCode, Retry};

/// Failed attempts after which a request is refused: with the waits between them some 700 ms, more than a node daemon
/// needs to restart its relay.
const FAILURES_MAX: u32 = 4;

/// The same answer from the same node about the same generation, this often, will not become another one.
const SAME_MAX: u32 = 3;

/// The wait after the first failure; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// How far a wait is spread in each direction, in per cent.
const JITTER_PERCENT: u64 = 20;

/// A node said "moving" or "starting" and no news came: the watch may be behind, so look again, seldom.
const NEWS_OVERDUE: Duration = Duration::from_secs(1);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try again after this wait, or as soon as the route changes.
    Again(Duration),
    /// Refuse the request for this cause.
    End(ErrorCode),
}

/// The failures of one request.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    failures: u32,
    last: Option<(Route, ErrorCode)>,
    same: u32,
}

impl Attempts {
    /// An attempt toward `route` was refused or failed before anything was started; `now` is the route there is by now.
    /// `random` spreads the wait.
    pub(crate) fn handle_refused(&mut self, code: ErrorCode, route: &Route, now: Option<&Route>, random: u64) -> Next {
        match (code, code.retry()) {
            (ErrorCode::InstanceStarting | ErrorCode::InstanceMoving | ErrorCode::InstanceWaking, _) => {
                return Next::Again(NEWS_OVERDUE);
            }
            // A node that fears for its lease: within a few seconds it serves again, or the registry says what became of
            // what it ran.
            (ErrorCode::NodeDraining, _) => return Next::Again(NEWS_OVERDUE),
            // A closed port stays closed: whoever expects it to open knows when.
            (ErrorCode::UpstreamRefused, _) | (_, Retry::Never) => return Next::End(code),
            (_, Retry::Safe | Retry::IfIdempotent) => {}
        }
        self.failures += 1;
        let answer = (route.clone(), code);
        self.same = if self.last.as_ref() == Some(&answer) { self.same + 1 } else { 1 };
        self.last = Some(answer);
        if self.failures >= FAILURES_MAX || self.same >= SAME_MAX {
            return Next::End(code);
        }
        if now.is_some_and(|now| now != route) {
            return Next::Again(Duration::ZERO);
        }
        let percent = 100 - JITTER_PERCENT + random % (2 * JITTER_PERCENT + 1);
        let wait = FIRST_WAIT * 2u32.pow(self.failures - 1);
        Next::Again(wait * u32::try_from(percent).unwrap_or(100) / 100)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use landfast_core::record::{Desired, Generation, Instance, InstanceSpec, Kind, Phase};
    use landfast_core::{InstanceId, NodeId};

    use super::*;

    const MIDDLE: u64 = JITTER_PERCENT;

    fn route(generation: u64) -> Route {
        Route::of(&Instance {
            id: InstanceId::new(1, 1),
            kind: Kind::Sandbox,
            spec: InstanceSpec::default(),
            desired: Desired::Running,
            phase: Phase::Running,
            generation: Generation(generation),
            node: Some(NodeId::new(1, 1)),
            host: None,
            address: Some("127.0.0.1:1".into()),
            moving: None,
            reason: None,
            labels: BTreeMap::new(),
            created_at: 0,
            ended_at: None,
        })
    }

    fn millis(next: Next) -> u128 {
        match next {
            Next::Again(wait) => wait.as_millis(),
            Next::End(code) => panic!("ended with {code}"),
        }
    }

    #[test]
    fn another_route_is_tried_at_once() {
        let mut attempts = Attempts::default();
        let next = attempts.handle_refused(ErrorCode::NodeNotHere, &route(1), Some(&route(2)), MIDDLE);
        assert_eq!(next, Next::Again(Duration::ZERO));
    }

    #[test]
    fn the_same_answer_from_the_same_place_three_times_is_the_last() {
        let mut attempts = Attempts::default();
        let mut refuse = || attempts.handle_refused(ErrorCode::NodeNotHere, &route(1), Some(&route(1)), MIDDLE);
        assert_eq!((millis(refuse()), millis(refuse())), (100, 200));
        assert_eq!(refuse(), Next::End(ErrorCode::NodeNotHere));
    }

    #[test]
    fn the_fourth_failure_is_the_last_however_they_differ() {
        let mut attempts = Attempts::default();
        for generation in 1..4 {
            let (from, to) = (route(generation), route(generation + 1));
            assert_eq!(millis(attempts.handle_refused(ErrorCode::NodeNotHere, &from, Some(&to), MIDDLE)), 0);
        }
        let next = attempts.handle_refused(ErrorCode::NodeUnreachable, &route(4), Some(&route(5)), MIDDLE);
        assert_eq!(next, Next::End(ErrorCode::NodeUnreachable));
    }

    #[test]
    fn a_known_absence_is_no_failure() {
        let mut attempts = Attempts::default();
        for code in [ErrorCode::InstanceMoving, ErrorCode::NodeDraining] {
            for _ in 0..30 {
                assert_eq!(millis(attempts.handle_refused(code, &route(1), None, MIDDLE)), 1000);
            }
        }
        assert_eq!(attempts.failures, 0);
    }

    #[test]
    fn what_no_repetition_mends_ends_it() {
        let next = Attempts::default().handle_refused(ErrorCode::AuthForbidden, &route(1), None, MIDDLE);
        assert_eq!(next, Next::End(ErrorCode::AuthForbidden));
    }
}
