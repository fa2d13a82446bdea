//! Once nothing is done to the cell any more, whoever has not been told of an end has heard everything: a session that
//! hangs is no session.

use std::collections::BTreeMap;

use landfast_core::InstanceId;
use landfast_core::record::Phase;

use crate::check::{Checker, Invariant, Violation};
use crate::clock::{SECOND, Time};
use crate::fact::{Direction, Fact};

/// In a cell that is well, a session with something to say says some of it within this time.
const GETS_ON_WITHIN: Time = 20 * SECOND;

/// What has been said, heard and ended.
#[derive(Debug, Default)]
pub(super) struct Settled {
    sessions: BTreeMap<usize, Session>,
    phases: BTreeMap<InstanceId, Phase>,
}

#[derive(Debug, Default)]
struct Session {
    /// Set while a client is attached.
    attached_to: Option<InstanceId>,
    said: [u64; 2],
    heard: [u64; 2],
    /// When a byte was last heard, either way.
    heard_at: Time,
    is_linked: bool,
    has_exited: bool,
}

impl Settled {
    fn verdict(&self, session: &Session, at: Time) -> Option<String> {
        let phase = self.phases.get(&session.attached_to?);
        if session.has_exited || phase.is_none_or(|phase| phase.is_end()) {
            return Some(format!("was never told of the end: {session:?}, {phase:?}"));
        }
        // With a small window and a long way, much takes long: what matters is that it gets on.
        let gets_on = session.said == session.heard || at - session.heard_at < GETS_ON_WITHIN;
        (!session.is_linked || !gets_on).then(|| format!("hangs: {session:?}, {phase:?}"))
    }

    fn observe_session(session: &mut Session, at: Time, fact: Fact<'_>) {
        match fact {
            Fact::Attached { instance, .. } => session.attached_to = Some(instance),
            Fact::Said { direction, bytes, .. } => session.said[index(direction)] += bytes,
            Fact::Heard { direction, bytes, .. } => {
                session.heard[index(direction)] += bytes.len() as u64;
                session.heard_at = at;
            }
            Fact::Exited { .. } => session.has_exited = true,
            Fact::Linked { .. } => session.is_linked = true,
            Fact::Unlinked { .. } => session.is_linked = false,
            Fact::Left { .. } | Fact::Told { .. } | Fact::Cut { .. } => session.attached_to = None,
            _ => {}
        }
    }
}

impl Checker for Settled {
    fn observe(&mut self, at: Time, fact: Fact<'_>) -> Result<(), Violation> {
        if let Fact::Recorded { instance, phase, .. } = fact {
            self.phases.insert(instance, phase);
        }
        if let Some(client) = fact.client() {
            Self::observe_session(self.sessions.entry(client).or_default(), at, fact);
        }
        Ok(())
    }

    fn finish(&mut self, at: Time) -> Vec<Violation> {
        let found = self.sessions.iter().filter_map(|(client, session)| Some((client, self.verdict(session, at)?)));
        let violation =
            |(client, what)| Violation { invariant: Invariant::Settled, at, what: format!("client {client} {what}") };
        found.map(violation).collect()
    }
}

const fn index(direction: Direction) -> usize {
    match direction {
        Direction::Up => 0,
        Direction::Down => 1,
    }
}
