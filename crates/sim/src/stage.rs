//! What all actors of a run share: true time, the queue of what happens next, the network, chance, and the ledger.
//!
//! Actors never call each other. Whatever one does to another is an event with a time, so that it can be late.

use std::collections::{BTreeMap, HashMap};

use landfast_core::keeper::Step;
use landfast_core::record::{Generation, Instance, Node};
use landfast_core::{ErrorCode, InstanceId, SessionId};

use crate::Config;
use crate::chance::Chance;
use crate::clock::{MILLI, SECOND, Time};
use crate::fact::Fact;
use crate::ledger::Ledger;
use crate::net::{ConnId, Net};
use crate::store::{Answer, News, Op};

/// An actor. A client and the gateway's end of its session have the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    Store,
    Keeper,
    Node(usize),
    Agent(usize),
    Gateway(usize),
    Holder(usize),
    Client(usize),
    Mischief,
}

/// What happens to an actor.
#[derive(Debug)]
pub(crate) enum Event {
    /// A deadline of its own has come.
    Wake,
    /// Something changed about its end of a connection: bytes, room, or its loss.
    Conn(ConnId),
    /// To the store: a request. The answer carries the number.
    Request { from: Who, ask: u64, op: Box<Op> },
    /// To the store: watch from now on, beginning with a listing.
    Subscribe { who: Who, watch: u64 },
    /// From the store: an answer. There may be two, the second of them a timeout.
    Answer { ask: u64, answer: Box<Answer> },
    /// From the store: news for the watch of this number.
    News { watch: u64, news: Box<News> },
    /// To a node: a connection with its request head.
    Connect(Connect),
    /// To an agent: the same, admitted.
    Admitted(Connect),
    /// To a gateway's end of a session: what came of a dial.
    Dialled { conn: ConnId, result: Result<Accepted, Refused> },
    /// To a node: an agent of its host has died.
    AgentDied,
    /// From the mischief: what it did ends.
    Mend(crate::mischief::Trouble),
}

/// `CONNECT`, and what is asked of the agent behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connect {
    pub(crate) conn: ConnId,
    pub(crate) holder: usize,
    pub(crate) instance: InstanceId,
    pub(crate) generation: Generation,
    /// The start of the node's daemon that the address belongs to.
    pub(crate) start: u64,
    pub(crate) head: Head,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Head {
    Open { window: u64 },
    Resume { session: SessionId, secret: u64, link: u64, received: u64 },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Accepted {
    Opened { session: SessionId, secret: u64, window: u64 },
    Resumed { received: u64 },
}

/// Whom a node reaches, and who reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Everybody,
    /// All but the store.
    Gateways,
    Nobody,
}

/// A typed refusal.
pub(crate) type Refused = ErrorCode;

/// What a compare-and-swap does to a record: the fact its writer acts on. The store applies it to the record as it is,
/// as a writer that reads, changes and retries would.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Create(Box<Instance>),
    BeginMove(Box<Node>),
    DesireSleeping,
    DesireAwake,
    DesireStopped,
    DesireDeleted,
    Keeper(Step),
    Node { generation: Generation, change: NodeWrite },
}

#[derive(Clone, Debug)]
pub(crate) enum NodeWrite {
    Started,
    Claim(String),
    Readdress(String),
    Failed(&'static str),
    Prepared,
    Commit(Box<Node>),
    GiveUp,
    Idle,
    Asleep,
    Ended,
}

/// The longest that a request to the store is waited for.
const ANSWER_WITHIN: u64 = 3 * SECOND;

/// See the module.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) now: Time,
    pub(crate) config: Config,
    pub(crate) chance: Chance,
    pub(crate) net: Net,
    pub(crate) ledger: Ledger,
    queue: BTreeMap<(Time, u64), (Who, Event)>,
    posted: u64,
    wakes: HashMap<Who, Time>,
    asked: u64,
    /// What each node reaches, and is reached by.
    pub(crate) reach: Vec<Reach>,
    /// Until when each node may serve, as its agents can read it.
    pub(crate) tenures: Vec<Time>,
}

impl Stage {
    pub(crate) fn new(seed: u64, config: Config, nodes: usize) -> Self {
        Self {
            now: 0,
            config,
            chance: Chance::new(seed),
            net: Net::default(),
            ledger: Ledger::new(seed, config.trace),
            queue: BTreeMap::new(),
            posted: 0,
            wakes: HashMap::new(),
            asked: 0,
            reach: vec![Reach::Everybody; nodes],
            tenures: vec![0; nodes],
        }
    }

    /// The next event, if it is due before `end`; time goes on to it.
    pub(crate) fn next(&mut self, end: Time) -> Option<(Who, Event)> {
        loop {
            let entry = self.queue.first_entry().filter(|entry| entry.key().0 < end)?;
            let ((at, _), (who, event)) = entry.remove_entry();
            if matches!(event, Event::Wake) {
                if self.wakes.get(&who) != Some(&at) {
                    continue;
                }
                self.wakes.remove(&who);
            }
            self.now = at;
            return Some((who, event));
        }
    }

    pub(crate) fn post(&mut self, at: Time, who: Who, event: Event) {
        self.posted += 1;
        self.queue.insert((at.max(self.now), self.posted), (who, event));
    }

    /// Lets an actor wake at a time; an earlier one that was asked for stays.
    pub(crate) fn wake(&mut self, who: Who, at: Option<Time>) {
        let Some(at) = at else { return };
        let at = at.max(self.now);
        if self.wakes.get(&who).is_none_or(|&before| at < before) {
            self.wakes.insert(who, at);
            self.post(at, who, Event::Wake);
        }
    }

    /// Sends a request to the store, and returns its number.
    pub(crate) fn request(&mut self, from: Who, op: Op) -> u64 {
        self.asked += 1;
        let ask = self.asked;
        if self.reaches_store(from) {
            let there = self.now + self.chance.travel();
            self.post(there, Who::Store, Event::Request { from, ask, op: Box::new(op) });
        }
        self.post(self.now + ANSWER_WITHIN, from, Event::Answer { ask, answer: Box::new(Answer::Failed) });
        ask
    }

    /// Asks the store for a listing and all that follows it. Asked again until it arrives.
    pub(crate) fn subscribe(&mut self, who: Who, watch: u64) {
        let there = self.now + self.chance.travel();
        self.post(there, Who::Store, Event::Subscribe { who, watch });
    }

    pub(crate) fn reaches_store(&self, who: Who) -> bool {
        !matches!(who, Who::Node(node) if self.reach[node] != Reach::Everybody)
    }

    pub(crate) fn reaches_gateways(&self, node: usize) -> bool {
        self.reach[node] != Reach::Nobody
    }

    /// Whether an answer of the store reaches an actor; what it makes up itself, because none came, does.
    pub(crate) fn hears(&self, who: Who, answer: &Answer) -> bool {
        matches!(answer, Answer::Failed) || self.reaches_store(who)
    }

    /// A line of the trace that is no fact: what an actor does about them.
    pub(crate) fn remark(&self, who: Who, remark: impl FnOnce() -> String) {
        self.ledger.remark(self.now, who, remark);
    }

    pub(crate) fn note(&mut self, fact: Fact) {
        self.ledger.note(self.now, fact);
    }
}

/// How long an actor waits before it does again what failed.
pub(crate) const AGAIN_AFTER: u64 = 200 * MILLI;
