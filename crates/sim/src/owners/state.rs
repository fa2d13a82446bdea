//! Everything that matters about the cell at one moment, and what its parts do by themselves.

use std::time::Duration;

use landfast_core::lease::{Ask, Lease, TTL};
use landfast_core::time::Instant;

use super::rules::{GENERATION, Op, Record, Stage};

/// What node 0's clock shows, always: what it remembers grows older instead. Nothing asks for more than the eight
/// seconds after which a node stops.
pub(super) const NOW: Instant = Instant::from_millis(9_000);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) registry: Registry,
    /// The keeper has read the instance's record, and after that has seen that the node's is gone.
    pub(super) keeper_looked: bool,
    pub(super) daemon: Option<Daemon>,
    pub(super) agent: Agent,
    /// What was asked about the lease and has not arrived.
    pub(super) questions: Vec<Question>,
    pub(super) answer: Option<Answer>,
    /// A write of node 0 that the store has not seen yet.
    pub(super) write: Option<Write>,
    /// One that the daemon does not wait for any more: it is under way, and nobody would try it again.
    pub(super) orphan: Option<Op>,
    /// Node 0's mark on disk: what it was given before has to be claimed.
    pub(super) owes_claim: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Registry {
    pub(super) record: Record,
    /// Node 0's record: how long its lease still runs by the registry's clock. Absent once it has lapsed and was removed.
    pub(super) node: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Daemon {
    pub(super) lease: Lease,
    /// It holds the lease that the node's record is bound to. An older question that comes late may bind it to another.
    pub(super) is_bound: bool,
    /// It works under a lease: from `Serve` to `Stop`.
    pub(super) works: bool,
    /// What it has read under this lease.
    pub(super) knows: Option<Record>,
    /// Its door is open for the generation that it knows.
    pub(super) serves: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Agent {
    /// It has a connection that node 0 handed over.
    pub(super) carries: bool,
    /// Until when node 0 may serve, as it has written down for those that carry this connection.
    pub(super) tenure: Instant,
    /// Node 0 has begun another tenure since, for which it has written this. What it carries is not covered by it.
    pub(super) next: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) is_grant: bool,
    /// For a renewal: of the lease that the node's record is bound to.
    pub(super) is_bound: bool,
    /// The machine waits for its answer; all others it would ignore.
    pub(super) is_awaited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    Granted,
    Renewed,
    Lapsed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Write {
    pub(super) op: Op,
    pub(super) generation: u64,
    /// The record is as it was when the daemon read it, which is what a compare-and-swap asks for.
    pub(super) is_current: bool,
}

impl State {
    /// Node 0 has just been started anew, and its instance runs.
    pub(super) fn first() -> Self {
        Self {
            registry: Registry { record: Record { generation: GENERATION, stage: Stage::Runs }, node: Some(TTL) },
            keeper_looked: false,
            daemon: Some(Daemon::new()),
            agent: Agent { carries: false, tenure: Instant::ZERO, next: None },
            questions: Vec::new(),
            answer: None,
            write: None,
            orphan: None,
            owes_claim: false,
        }
    }

    /// Makes states that will behave alike equal.
    pub(super) fn settle(&mut self) {
        let newest = std::mem::replace(&mut self.registry.record.generation, GENERATION);
        let known = self.daemon.as_mut().and_then(|daemon| daemon.knows.as_mut()).map(|knows| &mut knows.generation);
        let written = self.write.as_mut().map(|write| &mut write.generation);
        for generation in [known, written].into_iter().flatten() {
            *generation = if *generation == newest { GENERATION } else { GENERATION - 1 };
        }
        let awaited = match &mut self.daemon {
            Some(daemon) => {
                daemon.lease = daemon.lease.rebased(Duration::ZERO, NOW);
                daemon.lease.asking().is_some()
            }
            None => false,
        };
        if !awaited {
            self.answer = None;
            self.questions.iter_mut().for_each(|question| question.is_awaited = false);
        }
        for until in [Some(&mut self.agent.tenure), self.agent.next.as_mut()].into_iter().flatten() {
            if *until <= NOW {
                *until = Instant::ZERO;
            }
        }
        if !self.agent.carries {
            self.agent.tenure = self.agent.next.take().unwrap_or(self.agent.tenure);
        }
    }

    pub(super) fn post(&mut self, most: usize, question: Question) {
        self.answer = None;
        self.questions.iter_mut().for_each(|before| before.is_awaited = false);
        if self.questions.len() == most {
            self.questions.remove(0);
        }
        self.questions.push(question);
    }

    /// The node's record is bound to another lease than before.
    pub(super) fn unbind(&mut self) {
        self.questions.iter_mut().for_each(|question| question.is_bound = false);
        if let Some(daemon) = &mut self.daemon {
            daemon.is_bound = false;
        }
    }

    pub(super) fn kill(&mut self) -> bool {
        self.give_up_waiting();
        self.daemon.take().is_some()
    }

    /// Nobody waits for the daemon's write any more. If the store was asked already, it may yet do it.
    pub(super) fn give_up_waiting(&mut self) {
        if let Some(write) = self.write.take().filter(|write| write.is_current) {
            self.orphan = Some(write.op);
        }
    }

    pub(super) fn start(&mut self) -> bool {
        let is_dead = self.daemon.is_none();
        if is_dead {
            self.daemon = Some(Daemon::new());
        }
        is_dead
    }

    /// The answer about the lease reaches the daemon.
    pub(super) fn hear(&mut self) -> bool {
        let (Some(answer), Some(daemon)) = (self.answer.take(), &mut self.daemon) else { return false };
        let Some(ask) = daemon.lease.asking() else { return false };
        daemon.hear(ask, answer);
        true
    }

    /// The daemon, if it has no write under way.
    pub(super) fn free_daemon(&mut self, is_fit: impl Fn(&Daemon) -> bool) -> Option<&mut Daemon> {
        let is_free = self.write.is_none();
        self.daemon.as_mut().filter(|daemon| is_free && is_fit(daemon))
    }
}

impl Daemon {
    pub(super) fn new() -> Self {
        let lease = Lease::new(NOW);
        Self { lease, is_bound: false, works: false, knows: None, serves: false }
    }

    pub(super) fn hear(&mut self, ask: Ask, answer: Answer) {
        match answer {
            Answer::Granted => {
                self.is_bound = true;
                self.lease.handle_held(ask, NOW);
            }
            Answer::Renewed => self.lease.handle_held(ask, NOW),
            Answer::Lapsed => self.lease.handle_lapsed(ask, NOW),
        }
    }
}

impl Agent {
    /// What the node writes from now on does not cover what the agent carries now.
    pub(super) fn begin_tenure(&mut self, is_weak: bool) {
        if !is_weak {
            self.next = Some(Instant::ZERO);
        }
    }
}
