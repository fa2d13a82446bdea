//! A session ends only by the end of the process it talks to, its client leaving, its instance being gone, or policy;
//! its client is told so in one close frame, and what it is told is true.

use std::collections::{HashMap, HashSet, VecDeque};

use landfast_core::record::Phase;
use landfast_core::{ErrorCode, InstanceId};

use crate::check::{Checker, Invariant, Violation};
use crate::clock::{SECOND, Time};
use crate::fact::{Direction, Fact};

/// Sixty seconds by the fastest clock.
const A_MINUTE: Time = 54 * SECOND;

/// Sixty seconds by the slowest clock, and what it takes to notice.
const A_LONG_MINUTE: Time = 68 * SECOND;

/// A session whose instance is well has a link again within this time after the last trouble: a lease, the keeper's
/// wait, the longest start, and the steps of the ladder.
const WELL_AGAIN: Time = 45 * SECOND;

/// What is true, as far as endings may depend on it.
#[derive(Debug, Default)]
pub(super) struct Endings {
    sessions: HashMap<usize, Session>,
    /// The phases each instance has reached in which its processes end.
    ends: HashMap<InstanceId, HashSet<Phase>>,
    exited: HashSet<usize>,
    draining: HashSet<usize>,
    died: HashSet<usize>,
    calm_since: Option<Time>,
}

#[derive(Debug)]
struct Session {
    gateway: usize,
    instance: InstanceId,
    has_left: bool,
    /// What its close frame said, once it was sent.
    closed: Option<ErrorCode>,
    is_over: bool,
    /// Since when it has had no link.
    unlinked_since: Option<Time>,
    /// When links were lost since a byte was last known to have got through, either way.
    losses: VecDeque<Time>,
    received: u64,
    far_received: u64,
    took_at: Time,
}

impl Endings {
    fn is_true(&self, client: usize, session: &Session, code: ErrorCode, at: Time) -> Result<(), String> {
        let reached = |phase| self.ends.get(&session.instance).is_some_and(|ends| ends.contains(&phase));
        let started_anew = reached(Phase::Failed) || reached(Phase::Lost) || reached(Phase::Sleeping);
        let is_true = match code {
            ErrorCode::ProcessExited => self.exited.contains(&client),
            ErrorCode::InstanceStopped => reached(Phase::Stopped),
            ErrorCode::InstanceGone => reached(Phase::Deleted),
            ErrorCode::InstanceFailed => reached(Phase::Failed),
            ErrorCode::InstanceLost => reached(Phase::Lost),
            ErrorCode::UpstreamChanged | ErrorCode::ProcessUnknown => started_anew,
            ErrorCode::ClientClose | ErrorCode::ClientLost => session.has_left,
            ErrorCode::GatewayDraining => self.draining.contains(&session.gateway),
            ErrorCode::SessionSlowClient => at - session.took_at >= A_MINUTE,
            ErrorCode::UpstreamFlapping => {
                session.losses.iter().filter(|&&lost| at - lost <= A_LONG_MINUTE).count() >= 4
            }
            ErrorCode::NodeUnreachable
            | ErrorCode::RegistryUnavailable
            | ErrorCode::InstanceStarting
            | ErrorCode::InstanceMoving
            | ErrorCode::InstanceWaking => self.was_out_of_reach(session, at),
            _ => false,
        };
        if is_true { Ok(()) } else { Err(format!("was sent {code}, which is not so: {session:?}")) }
    }

    /// Whether it was without a link for a minute, and trouble lasted until a while ago at least.
    fn was_out_of_reach(&self, session: &Session, at: Time) -> bool {
        let minute = session.unlinked_since.is_some_and(|since| at - since >= A_MINUTE);
        minute && self.calm_since.is_none_or(|since| at - since <= WELL_AGAIN)
    }

    /// A close frame is judged when it is sent: a client that reads nothing hears of it much later.
    fn close(&mut self, client: usize, code: ErrorCode, at: Time) -> Result<(), String> {
        let Some(session) = self.sessions.get(&client) else { return Err("was closed before it came".to_owned()) };
        if let Some(before) = session.closed {
            return Err(format!("was sent {code} after {before}"));
        }
        let outcome = self.is_true(client, session, code, at);
        self.with(client, |session| session.closed = Some(code));
        outcome
    }

    fn tell(&mut self, client: usize, code: ErrorCode) -> Result<(), String> {
        let Some(session) = self.sessions.get_mut(&client) else { return Err("was told before it came".to_owned()) };
        let was_over = std::mem::replace(&mut session.is_over, true);
        if was_over || session.has_left {
            return Err(format!("was told {code} after its end"));
        }
        if session.closed == Some(code) { Ok(()) } else { Err(format!("was told {code}, which nobody said")) }
    }

    fn cut(&mut self, client: usize) -> Result<(), String> {
        let Some(session) = self.sessions.get_mut(&client) else { return Err("was cut before it came".to_owned()) };
        session.is_over = true;
        let excused = self.died.contains(&session.gateway);
        if excused { Ok(()) } else { Err("lost its connection without a word".to_owned()) }
    }

    fn with(&mut self, client: usize, change: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.get_mut(&client) {
            change(session);
        }
    }

    fn judge(&mut self, client: usize, outcome: Result<(), String>, at: Time) -> Result<(), Violation> {
        outcome.map_err(|what| Violation { invariant: Invariant::Endings, at, what: format!("client {client} {what}") })
    }
}

impl Checker for Endings {
    fn observe(&mut self, at: Time, fact: Fact<'_>) -> Result<(), Violation> {
        match fact {
            Fact::Attached { client, gateway, instance } => {
                self.sessions.insert(client, Session::new(gateway, instance, at));
            }
            Fact::Exited { client } => drop(self.exited.insert(client)),
            Fact::Left { client, .. } => self.with(client, |session| session.has_left = true),
            Fact::Linked { client, far_received } => self.with(client, |session| session.link(far_received)),
            Fact::Unlinked { client, received } => self.with(client, |session| session.lose(received, at)),
            Fact::Heard { client, direction: Direction::Down, .. } => {
                self.with(client, |session| session.took_at = at);
            }
            Fact::Recorded { instance, phase, .. } if phase.is_end() || phase == Phase::Sleeping => {
                self.ends.entry(instance).or_default().insert(phase);
            }
            Fact::Draining { gateway } => drop(self.draining.insert(gateway)),
            Fact::GatewayDied { gateway } => drop(self.died.insert(gateway)),
            Fact::Calm => self.calm_since = Some(at),
            Fact::Closed { client, code } => {
                let outcome = self.close(client, code, at);
                return self.judge(client, outcome, at);
            }
            Fact::Told { client, code } => {
                let outcome = self.tell(client, code);
                return self.judge(client, outcome, at);
            }
            Fact::Cut { client } => {
                let outcome = self.cut(client);
                return self.judge(client, outcome, at);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Session {
    fn new(gateway: usize, instance: InstanceId, at: Time) -> Self {
        Self {
            gateway,
            instance,
            has_left: false,
            closed: None,
            is_over: false,
            unlinked_since: Some(at),
            losses: VecDeque::new(),
            received: 0,
            far_received: 0,
            took_at: at,
        }
    }

    fn link(&mut self, far_received: u64) {
        self.unlinked_since = None;
        self.note_progress(far_received, self.received);
    }

    fn note_progress(&mut self, far_received: u64, received: u64) {
        if far_received > self.far_received || received > self.received {
            self.losses.clear();
        }
        (self.far_received, self.received) = (far_received, received);
    }

    fn lose(&mut self, received: u64, at: Time) {
        self.unlinked_since = Some(at);
        self.note_progress(self.far_received, received);
        self.losses.push_back(at);
    }
}
