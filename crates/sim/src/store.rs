//! The registry's store: records by compare-and-swap, leases, and watches that may be late, start anew, or lie.

use std::collections::{BTreeMap, HashMap};

use landfast_core::keeper::{Applied, Step, StepKind};
use landfast_core::lease::TTL;
use landfast_core::lifecycle::{self, StepError};
use landfast_core::record::{Instance, Node};
use landfast_core::time::Instant;
use landfast_core::{InstanceId, NodeId};

use crate::clock::{Clock, MILLI, SECOND, Time};
use crate::fact::Fact;
use crate::names::node_id;
use crate::stage::{Event, NodeWrite, Stage, Who, Write};

/// A request to the store.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A new lease, with the node's record bound to it.
    Grant(Box<Node>),
    Renew(u64),
    Read(InstanceId),
    /// Whether the node on whose absence a step of the keeper rests has no record.
    IsAbsent(Step),
    Write(InstanceId, Write),
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Granted(u64),
    Renewed,
    Lapsed,
    Record(Option<(Box<Instance>, u64)>),
    Absent(bool),
    /// The record as it was written.
    Written(Box<Instance>, u64),
    /// The record has outgrown the write.
    Refused,
    /// The store could not be reached, or did not answer: the request may have been carried out.
    Failed,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub(crate) enum News {
    Instances {
        records: Vec<(Instance, u64)>,
        revision: u64,
    },
    Instance {
        id: InstanceId,
        record: Option<Box<Instance>>,
        revision: u64,
    },
    Nodes(Vec<Node>),
    Node {
        id: NodeId,
        record: Option<Box<Node>>,
    },
    /// The store was away for everybody, and is there again.
    Back,
}

impl News {
    const fn stream(&self) -> Stream {
        match self {
            Self::Instances { .. } | Self::Instance { .. } => Stream::Instances,
            Self::Nodes(_) | Self::Node { .. } | Self::Back => Stream::Nodes,
        }
    }

    /// A line for the trace.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::Instances { records, revision } => format!("a listing of {} at {revision}", records.len()),
            Self::Instance { id, record: Some(record), revision } => {
                format!("{id} is {} at generation {}, revision {revision}", record.phase.as_str(), record.generation)
            }
            Self::Instance { id, record: None, revision } => format!("{id} was removed, revision {revision}"),
            Self::Nodes(nodes) => format!("a listing of {} nodes", nodes.len()),
            Self::Back => "the store is back".to_owned(),
            Self::Node { id, record } => format!("{id} is {}", if record.is_some() { "live" } else { "gone" }),
        }
    }
}

/// Whoever watches, watches instances and nodes apart: news of the one may overtake news of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Instances,
    Nodes,
}

#[derive(Debug)]
struct Watcher {
    who: Who,
    watch: u64,
    instances: Pace,
    nodes: Pace,
}

/// How far one stream has come.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// News stay in order.
    last_at: Time,
    /// Nothing is delivered before.
    stalled_until: Time,
}

impl Watcher {
    const fn pace(&mut self, stream: Stream) -> &mut Pace {
        match stream {
            Stream::Instances => &mut self.instances,
            Stream::Nodes => &mut self.nodes,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Store {
    clock: Clock,
    instances: BTreeMap<InstanceId, (Instance, u64)>,
    nodes: BTreeMap<NodeId, (Node, u64)>,
    /// When each lease lapses, by the store's clock.
    leases: HashMap<u64, Instant>,
    leases_made: u64,
    revision: u64,
    watchers: Vec<Watcher>,
    /// An earlier listing, for a store that is restored.
    past: Vec<(Vec<(Instance, u64)>, u64)>,
    down_until: Time,
    /// Until then, half of what is written is not answered, and who wrote it hears of nothing.
    speechless_until: Time,
}

impl Store {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            instances: BTreeMap::new(),
            nodes: BTreeMap::new(),
            leases: HashMap::new(),
            leases_made: 0,
            revision: 0,
            watchers: Vec::new(),
            past: Vec::new(),
            down_until: 0,
            speechless_until: 0,
        }
    }

    pub(crate) fn handle(&mut self, stage: &mut Stage, event: Event) {
        match event {
            Event::Wake => {}
            Event::Request { from, ask, op } => self.handle_request(stage, from, ask, *op),
            Event::Subscribe { who, watch } => self.handle_subscribe(stage, who, watch),
            other => unreachable!("not for the store: {other:?}"),
        }
        self.expire_leases(stage);
        let next = self.nodes.values().filter_map(|(_, lease)| self.leases.get(lease)).min();
        stage.wake(Who::Store, next.map(|&at| self.clock.when(at)));
    }

    /// Requests fail until then, and watches tell nothing; the keeper's breaks. Leases go on lapsing.
    pub(crate) fn go_down(&mut self, stage: &mut Stage, until: Time) {
        self.down_until = until;
        stage.note(Fact::Away { until });
        for index in 0..self.watchers.len() {
            for stream in [Stream::Instances, Stream::Nodes] {
                let pace = self.watchers[index].pace(stream);
                pace.stalled_until = pace.stalled_until.max(until);
            }
            let Watcher { who, watch, .. } = self.watchers[index];
            if who == Who::Keeper {
                stage.post(until, who, Event::News { watch, news: Box::new(News::Back) });
            }
        }
    }

    /// Half of what nodes and the keeper write until then is done and not answered, and its writer's watch tells nothing for as
    /// long: it tries again what has happened, while others go on from there.
    pub(crate) fn lose_answers(&mut self, until: Time) {
        self.speechless_until = until;
    }

    /// Every watch loses its place and begins again with a listing.
    pub(crate) fn resync(&mut self, stage: &mut Stage) {
        for index in 0..self.watchers.len() {
            self.tell_listing(stage, index);
        }
    }

    /// A watch is told of an empty store, or of one restored from an old copy, and of the true one a while later.
    pub(crate) fn mislead(&mut self, stage: &mut Stage, who: Who, empty: bool) {
        let Some(index) = self.watchers.iter().position(|watcher| watcher.who == who) else { return };
        let past = stage.chance.index(self.past.len().max(1));
        let (instances, revision) = match self.past.get(past) {
            Some((instances, revision)) if !empty => (instances.clone(), *revision),
            _ => (Vec::new(), stage.chance.between(0, self.revision)),
        };
        self.tell(stage, index, News::Instances { records: instances, revision });
        let later = stage.now + stage.chance.skewed(MILLI, 5 * SECOND);
        self.watchers[index].instances.stalled_until = later;
        self.tell_listing(stage, index);
    }

    /// A watch hears nothing new until then.
    pub(crate) fn stall_watch(&mut self, who: Who, stream: Stream, until: Time) {
        if let Some(watcher) = self.watchers.iter_mut().find(|watcher| watcher.who == who) {
            let pace = watcher.pace(stream);
            pace.stalled_until = pace.stalled_until.max(until);
        }
    }

    fn handle_request(&mut self, stage: &mut Stage, from: Who, ask: u64, op: Op) {
        if !stage.reaches_store(from) {
            return;
        }
        // A store that is down may still have done what it cannot tell.
        let is_setup = matches!(op, Op::Write(_, Write::Create(_)));
        let is_down = stage.now < self.down_until && !is_setup;
        if is_down && stage.chance.percent(80) {
            return self.answer(stage, from, ask, Answer::Failed);
        }
        let is_lost = stage.now < self.speechless_until
            && matches!(op, Op::Write(_, Write::Node { .. } | Write::Keeper(_)))
            && stage.chance.percent(50);
        if is_lost {
            self.stall_watch(from, Stream::Instances, self.speechless_until);
        }
        let answer = match op {
            Op::Grant(node) => self.grant(stage, *node),
            Op::Renew(lease) => self.renew(stage.now, lease),
            Op::Read(id) => Answer::Record(self.instances.get(&id).map(|(record, at)| (Box::new(record.clone()), *at))),
            Op::IsAbsent(step) => Answer::Absent(self.is_absent(step.instance, &step.kind)),
            Op::Write(id, write) => self.write(stage, from, id, &write),
        };
        self.answer(stage, from, ask, if is_down || is_lost { Answer::Failed } else { answer });
    }

    fn answer(&self, stage: &mut Stage, to: Who, ask: u64, answer: Answer) {
        let back = stage.now + stage.chance.travel();
        stage.post(back, to, Event::Answer { ask, answer: Box::new(answer) });
    }

    // --- leases ---

    fn grant(&mut self, stage: &mut Stage, node: Node) -> Answer {
        // The record is compare-and-swapped: what an earlier daemon wanted comes too late.
        if self.nodes.get(&node.id).is_some_and(|(present, _)| present.started_at > node.started_at) {
            return Answer::Failed;
        }
        self.leases_made += 1;
        let lease = self.leases_made;
        self.leases.insert(lease, self.clock.read(stage.now) + TTL);
        self.nodes.insert(node.id, (node.clone(), lease));
        if let Some(node) = number_of(stage, node.id) {
            stage.note(Fact::Leased { node });
        }
        self.revision += 1;
        self.tell_all(stage, &News::Node { id: node.id, record: Some(Box::new(node)) });
        Answer::Granted(lease)
    }

    fn renew(&mut self, now: Time, lease: u64) -> Answer {
        let now = self.clock.read(now);
        match self.leases.get_mut(&lease) {
            Some(lapses_at) if now < *lapses_at => {
                *lapses_at = now + TTL;
                Answer::Renewed
            }
            Some(_) | None => Answer::Lapsed,
        }
    }

    fn expire_leases(&mut self, stage: &mut Stage) {
        let now = self.clock.read(stage.now);
        self.leases.retain(|_, lapses_at| now < *lapses_at);
        let gone: Vec<_> = self.nodes.iter().filter(|(_, (_, lease))| !self.leases.contains_key(lease)).collect();
        for id in gone.into_iter().map(|(id, _)| *id).collect::<Vec<_>>() {
            self.nodes.remove(&id);
            if stage.now < self.down_until
                && let Some(node) = number_of(stage, id)
            {
                stage.note(Fact::Lapsed { node });
            }
            self.revision += 1;
            self.tell_all(stage, &News::Node { id, record: None });
        }
    }

    // --- records ---

    fn is_absent(&self, id: InstanceId, step: &StepKind) -> bool {
        let node = self.instances.get(&id).and_then(|(record, _)| step.absent_node(record));
        node.is_none_or(|node| !self.nodes.contains_key(&node))
    }

    fn write(&mut self, stage: &mut Stage, from: Who, id: InstanceId, write: &Write) -> Answer {
        let mut record = match (self.instances.get(&id), write) {
            (None, Write::Create(record)) => (**record).clone(),
            (Some((record, _)), _) => record.clone(),
            (None, _) => return Answer::Record(None),
        };
        let unix_millis = stage.now / MILLI;
        stage.remark(from, || format!("writes {write:?}"));
        let changed = match apply(write, from, &mut record, unix_millis) {
            Ok(Applied::Changed) => Some(record),
            Ok(Applied::Removed) => None,
            Err(error) => {
                stage.remark(Who::Store, || format!("refuses: {error}"));
                return Answer::Refused;
            }
        };
        self.revision += 1;
        let revision = self.revision;
        let news = News::Instance { id, record: changed.clone().map(Box::new), revision };
        let answer = match changed {
            Some(record) => {
                note_record(stage, &record);
                self.instances.insert(id, (record.clone(), revision));
                Answer::Written(Box::new(record), revision)
            }
            None => {
                self.instances.remove(&id);
                Answer::Record(None)
            }
        };
        self.tell_all(stage, &news);
        if self.past.len() < 8 && stage.chance.percent(30) {
            self.past.push((self.instances.values().cloned().collect(), revision));
        }
        answer
    }

    // --- watches ---

    fn handle_subscribe(&mut self, stage: &mut Stage, who: Who, watch: u64) {
        // A watch that was asked for earlier and comes later is of an actor that is no more.
        if self.watchers.iter().any(|watcher| watcher.who == who && watcher.watch > watch) {
            return;
        }
        self.watchers.retain(|watcher| watcher.who != who);
        let pace = Pace { last_at: 0, stalled_until: self.down_until };
        self.watchers.push(Watcher { who, watch, instances: pace, nodes: pace });
        self.tell_listing(stage, self.watchers.len() - 1);
    }

    fn tell_listing(&mut self, stage: &mut Stage, index: usize) {
        let nodes = self.nodes.values().map(|(node, _)| node.clone()).collect();
        self.tell(stage, index, News::Nodes(nodes));
        let records = self.instances.values().cloned().collect();
        self.tell(stage, index, News::Instances { records, revision: self.revision });
    }

    fn tell_all(&mut self, stage: &mut Stage, news: &News) {
        for index in 0..self.watchers.len() {
            self.tell(stage, index, news.clone());
        }
    }

    fn tell(&mut self, stage: &mut Stage, index: usize, news: News) {
        let travel = stage.chance.travel();
        let watcher = &mut self.watchers[index];
        let pace = watcher.pace(news.stream());
        let at = (stage.now + travel).max(pace.last_at).max(pace.stalled_until);
        pace.last_at = at;
        stage.post(at, watcher.who, Event::News { watch: watcher.watch, news: Box::new(news) });
    }
}

/// What a writer's compare-and-swap does to the record as it is.
fn apply(write: &Write, from: Who, record: &mut Instance, unix_millis: u64) -> Result<Applied, StepError> {
    match write {
        Write::Create(_) => {}
        Write::BeginMove(to) => lifecycle::begin_move(record, to)?,
        Write::DesireSleeping => lifecycle::desire_sleeping(record)?,
        Write::DesireAwake => lifecycle::desire_awake(record)?,
        Write::DesireStopped => lifecycle::desire_stopped(record)?,
        Write::DesireDeleted => lifecycle::desire_deleted(record)?,
        Write::Keeper(step) => return step.kind.apply(record, unix_millis),
        Write::Node { generation, change } => {
            let Who::Node(node) = from else { unreachable!("only nodes write as nodes") };
            let (by, generation) = (node_id(node), *generation);
            match change {
                NodeWrite::Started => lifecycle::started(record, by, generation)?,
                NodeWrite::Claim(address) => lifecycle::claim(record, by, generation, address)?,
                NodeWrite::Readdress(address) => lifecycle::readdress(record, by, generation, address)?,
                NodeWrite::Failed(why) => lifecycle::failed(record, by, generation, why, unix_millis)?,
                NodeWrite::Prepared => lifecycle::prepared(record, by, generation)?,
                NodeWrite::Commit(target) => lifecycle::commit_move(record, by, generation, target)?,
                NodeWrite::GiveUp => lifecycle::give_up_move(record, by, generation, "no answer")?,
                NodeWrite::Idle => lifecycle::idle(record, by, generation)?,
                NodeWrite::Asleep => lifecycle::asleep(record, by, generation)?,
                NodeWrite::Ended => lifecycle::ended(record, by, generation, unix_millis)?,
            }
        }
    }
    Ok(Applied::Changed)
}

fn number_of(stage: &Stage, id: NodeId) -> Option<usize> {
    (0..stage.reach.len()).find(|&number| node_id(number) == id)
}

fn note_record(stage: &mut Stage, record: &Instance) {
    let node = record.node.and_then(|id| number_of(stage, id));
    let (instance, phase, generation) = (record.id, record.phase, record.generation);
    let is_bound = lifecycle::is_bound(record);
    stage.note(Fact::Recorded { instance, phase, generation, node, is_bound });
}
