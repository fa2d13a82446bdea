//! A node daemon: its lease, its relay, and what it makes of the records it is given.

use std::collections::{BTreeMap, HashMap};

use landfast_core::lease::{self, Effect, Lease};
use landfast_core::lifecycle::{is_bound, is_handed_over, may_serve};
use landfast_core::record::{Desired, Instance, Node, Phase};
use landfast_core::time::Instant;
use landfast_core::{ErrorCode, InstanceId, NodeId};

use crate::Sabotage;
use crate::clock::{Clock, MILLI, SECOND, Time};
use crate::host::Hosts;
use crate::names::{address, host_of, node_id, node_record};
use crate::net::{End, Through};
use crate::place::Place;
use crate::stage::{AGAIN_AFTER, Connect, Event, NodeWrite, Refused, Stage, Who, Write};
use crate::store::{Answer, News, Op};

/// A move without an answer is given up by its source.
const MOVE_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Daemon {
    me: usize,
    pub(crate) up: bool,
    frozen_until: Time,
    /// How often the daemon was started: its relay's address changes each time.
    start: u64,
    clock: Clock,
    lease: Lease,
    lease_id: Option<u64>,
    /// The number of its watch.
    watch: u64,
    /// The watch has told of everything once since the lease began.
    listed: bool,
    asks: HashMap<u64, Asked>,
    places: BTreeMap<InstanceId, Place>,
    nodes: Option<BTreeMap<NodeId, Node>>,
}

#[derive(Debug)]
enum Asked {
    Lease(lease::Ask),
    Write(InstanceId),
    Admission(Connect),
}

impl Daemon {
    pub(crate) fn new(me: usize, clock: Clock, stage: &mut Stage) -> Self {
        let mut daemon = Self {
            me,
            up: false,
            frozen_until: 0,
            start: 0,
            clock,
            lease: Lease::new(clock.read(stage.now)),
            lease_id: None,
            watch: 0,
            listed: false,
            asks: HashMap::new(),
            places: BTreeMap::new(),
            nodes: None,
        };
        daemon.boot(stage);
        daemon
    }

    /// The daemon starts, knowing nothing.
    pub(crate) fn boot(&mut self, stage: &mut Stage) {
        self.up = true;
        self.start += 1;
        self.lease = Lease::new(self.clock.read(stage.now));
        self.forget();
        stage.wake(Who::Node(self.me), Some(stage.now));
    }

    /// The daemon is killed, and with it the connections that it has not handed over yet. Its agents stay, and what they have.
    pub(crate) fn die(&mut self, stage: &mut Stage) {
        self.up = false;
        self.frozen_until = 0;
        for conn in stage.net.toward_node(self.me) {
            if stage.net.through(conn).is_none() {
                stage.cut_through(conn);
            }
        }
    }

    /// The daemon stands still: it hears and does nothing, and then goes on as if nothing had been. Its agents do not.
    pub(crate) fn freeze(&mut self, until: Time) {
        self.frozen_until = self.frozen_until.max(until);
    }

    pub(crate) fn handle(&mut self, stage: &mut Stage, hosts: &mut Hosts, event: Event) {
        if stage.now < self.frozen_until {
            return match event {
                Event::Wake => stage.wake(Who::Node(self.me), Some(self.frozen_until)),
                event => stage.post(self.frozen_until, Who::Node(self.me), event),
            };
        }
        if !self.up {
            if let Event::Connect(connect) = event {
                self.refuse(stage, connect, ErrorCode::NodeUnreachable);
            }
            return;
        }
        match event {
            Event::Wake | Event::AgentDied => {}
            Event::Answer { ask, answer } if stage.hears(Who::Node(self.me), &answer) => {
                self.handle_answer(stage, hosts, ask, *answer);
            }
            Event::News { watch, news } if watch == self.watch && stage.reaches_store(Who::Node(self.me)) => {
                self.handle_news(stage, *news);
            }
            Event::Answer { .. } | Event::News { .. } => {}
            Event::Connect(_) if !stage.reaches_gateways(self.me) => {}
            Event::Connect(connect) => self.handle_connect(stage, hosts, connect, true),
            other => unreachable!("not for a node: {other:?}"),
        }
        self.run(stage, hosts);
    }

    /// What was known by an earlier daemon counts no more.
    fn forget(&mut self) {
        self.watch += 1;
        self.nodes = None;
        self.listed = false;
        self.asks.clear();
        self.places.clear();
    }

    /// The record that its lease binds.
    pub(crate) fn record(&self) -> Node {
        node_record(self.me, self.start)
    }

    // --- lease ---

    fn run(&mut self, stage: &mut Stage, hosts: &mut Hosts) {
        let now = self.clock.read(stage.now);
        while let Some(effect) = self.lease.poll(now) {
            let reckless = stage.config.sabotage == Some(Sabotage::IgnoreTheFence);
            stage.remark(Who::Node(self.me), || format!("{effect:?}"));
            match effect {
                Effect::Grant(ask) => {
                    let op = Op::Grant(Box::new(self.record()));
                    self.ask_for_lease(stage, op, ask);
                }
                Effect::Renew(ask) => {
                    let op = Op::Renew(self.lease_id.expect("a lease that is held has an id"));
                    self.ask_for_lease(stage, op, ask);
                }
                Effect::Serve => {}
                Effect::Fence if reckless => {}
                Effect::Fence => self.cut_leased(stage),
                Effect::Stop if reckless => self.lease.handle_stopped(now),
                Effect::Stop => {
                    self.stop_leased(stage, hosts);
                    self.lease.handle_stopped(now);
                }
            }
        }
        let until = self.lease.holds_until();
        if until > Instant::ZERO {
            stage.tenures[self.me] = self.clock.when(until);
        }
        if self.listed && self.holds(stage) {
            let ids: Vec<_> = self.places.keys().copied().collect();
            for id in ids {
                self.tend(stage, hosts, id);
            }
        }
        stage.wake(Who::Node(self.me), self.lease.next_deadline().map(|at| self.clock.when(at)));
    }

    fn holds(&self, stage: &Stage) -> bool {
        stage.config.sabotage == Some(Sabotage::IgnoreTheFence) || self.lease.holds(self.clock.read(stage.now))
    }

    /// What nobody else can be given goes on without a lease.
    fn is_bound(&self, id: InstanceId) -> bool {
        self.places.get(&id).is_some_and(|place| is_bound(&place.record))
    }

    fn cut_leased(&self, stage: &mut Stage) {
        for (conn, through) in stage.net.through_node(self.me) {
            if !self.is_bound(through.instance) {
                stage.cut_through(conn);
            }
        }
    }

    fn stop_leased(&mut self, stage: &mut Stage, hosts: &mut Hosts) {
        let leased = self.places.values().filter(|place| !is_bound(&place.record));
        let mine = leased.filter(|place| place.record.node == Some(node_id(self.me)));
        for place in mine {
            hosts.kill_unleased(stage, self.me, place.record.id, place.record.generation);
        }
        self.forget_leased();
    }

    /// What was known under an earlier lease counts no more, but for what does not need one.
    fn forget_leased(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        places.retain(|_, place| is_bound(&place.record) && place.serves.is_some());
        self.forget();
        // Answers to what was written before are not waited for.
        places.values_mut().for_each(|place| place.is_writing = false);
        self.places = places;
    }

    /// Asks about the lease; of an earlier question nothing is heard any more.
    fn ask_for_lease(&mut self, stage: &mut Stage, op: Op, number: lease::Ask) {
        self.asks.retain(|_, asked| !matches!(asked, Asked::Lease(_)));
        self.ask(stage, op, Asked::Lease(number));
    }

    fn ask(&mut self, stage: &mut Stage, op: Op, asked: Asked) {
        let ask = stage.request(Who::Node(self.me), op);
        self.asks.insert(ask, asked);
    }

    fn handle_answer(&mut self, stage: &mut Stage, hosts: &mut Hosts, ask: u64, answer: Answer) {
        match self.asks.remove(&ask) {
            None => {}
            Some(Asked::Lease(number)) => self.handle_lease_answer(stage, number, &answer),
            Some(Asked::Write(id)) => self.handle_written(stage, id, answer),
            Some(Asked::Admission(connect)) => {
                if let Answer::Record(Some((record, revision))) = answer {
                    self.learn(stage, *record, revision);
                }
                self.handle_connect(stage, hosts, connect, false);
            }
        }
    }

    fn handle_lease_answer(&mut self, stage: &mut Stage, number: lease::Ask, answer: &Answer) {
        let now = self.clock.read(stage.now);
        match answer {
            Answer::Granted(lease) => {
                self.lease_id = Some(*lease);
                self.lease.handle_held(number, now);
                // What was read before is from before the lease.
                self.forget_leased();
                self.subscribe(stage);
            }
            Answer::Renewed => self.lease.handle_held(number, now),
            Answer::Lapsed => self.lease.handle_lapsed(number, now),
            _ => self.lease.handle_failed(number, now),
        }
    }

    // --- news ---

    /// Watches anew: at the beginning of a lease, and after the network was gone.
    pub(crate) fn subscribe(&mut self, stage: &mut Stage) {
        self.watch += 1;
        stage.subscribe(Who::Node(self.me), self.watch);
    }

    fn handle_news(&mut self, stage: &Stage, news: News) {
        match news {
            News::Nodes(nodes) => self.nodes = Some(nodes.into_iter().map(|node| (node.id, node)).collect()),
            News::Instances { records, .. } => {
                let is_first = !std::mem::replace(&mut self.listed, true);
                for (record, revision) in records {
                    let id = record.id;
                    let went_on = self.is_bound(id);
                    self.learn(stage, record, revision);
                    if is_first && !went_on {
                        self.doubt_inherited(stage, id);
                    }
                }
            }
            News::Back => {}
            News::Instance { record: Some(record), revision, .. } => self.learn(stage, *record, revision),
            News::Instance { id, record: None, .. } => drop(self.places.remove(&id)),
            News::Node { id, record } => {
                let nodes = self.nodes.get_or_insert_default();
                match record {
                    Some(node) => nodes.insert(id, *node),
                    None => nodes.remove(&id),
                };
            }
        }
    }

    /// An instance that was ours before the lease began was given to a holder of another lease: the keeper may be about
    /// to call it lost.
    fn doubt_inherited(&mut self, stage: &Stage, id: InstanceId) {
        if stage.config.sabotage != Some(Sabotage::ServeWithoutAClaim) {
            self.places.get_mut(&id).expect("it was learnt").serves = None;
        }
    }

    fn learn(&mut self, stage: &Stage, record: Instance, revision: u64) {
        let now = self.clock.read(stage.now);
        let me = node_id(self.me);
        let place = self.places.entry(record.id).or_insert_with(|| Place::new(&record));
        if revision < place.revision {
            return;
        }
        // A generation that was given to us while we watched was given to the holder of this lease.
        let is_mine = record.node == Some(me) && self.listed;
        if is_mine && place.serves.is_none_or(|before| before < record.generation) && place.is_new(&record) {
            place.serves = Some(record.generation);
        }
        let moves_away = record.phase == Phase::Moving && record.node == Some(me);
        place.moving_since = moves_away.then(|| place.moving_since.unwrap_or(now));
        (place.record, place.revision) = (record, revision);
    }

    // --- relay ---

    fn handle_connect(&mut self, stage: &mut Stage, hosts: &mut Hosts, connect: Connect, may_read: bool) {
        let Connect { conn, instance, generation, .. } = connect;
        let verdict = self.admit(stage, connect);
        let is_ignorant = matches!(verdict, Err(ErrorCode::NodeNotHere | ErrorCode::InstanceStarting));
        if is_ignorant && may_read && self.holds(stage) {
            return self.ask(stage, Op::Read(instance), Asked::Admission(connect));
        }
        let agent = hosts.agent(host_of(self.me), instance).map(|(agent, _)| agent);
        match (verdict, agent) {
            (Ok(()), Some(agent)) => {
                hosts.begin(stage, host_of(self.me), instance);
                let through = Through { node: self.me, instance, generation, is_leased: !self.is_bound(instance) };
                stage.admit(conn, through, Who::Agent(agent));
                stage.post(stage.now, Who::Agent(agent), Event::Admitted(connect));
            }
            (Ok(()), None) => self.refuse(stage, connect, ErrorCode::InstanceStarting),
            (Err(code), _) => self.refuse(stage, connect, code),
        }
    }

    fn admit(&self, stage: &Stage, connect: Connect) -> Result<(), Refused> {
        if connect.start != self.start {
            return Err(ErrorCode::NodeUnreachable);
        }
        if !self.holds(stage) && !self.is_bound(connect.instance) {
            return Err(ErrorCode::NodeDraining);
        }
        if stage.config.sabotage == Some(Sabotage::TakeAnyGeneration) {
            return Ok(());
        }
        let place = self.places.get(&connect.instance).ok_or(ErrorCode::NodeNotHere)?;
        may_serve(&place.record, node_id(self.me), connect.generation)?;
        if place.serves == Some(connect.generation) { Ok(()) } else { Err(ErrorCode::InstanceStarting) }
    }

    fn refuse(&self, stage: &mut Stage, connect: Connect, code: ErrorCode) {
        let conn = connect.conn;
        if stage.reaches_gateways(self.me) {
            let at = stage.now + stage.latency(conn);
            stage.post(at, Who::Holder(connect.holder), Event::Dialled { conn, result: Err(code) });
        }
        stage.leave_conn(conn, 1, End::Bare);
    }

    /// Cuts what may not be carried any more.
    fn fence(&self, stage: &mut Stage, id: InstanceId) {
        let reckless = [Sabotage::CommitUnfenced, Sabotage::TakeAnyGeneration, Sabotage::SleepUnfenced];
        if stage.config.sabotage.is_some_and(|sabotage| reckless.contains(&sabotage)) {
            return;
        }
        let place = &self.places[&id];
        for (conn, through) in stage.net.through_node(self.me) {
            let may = may_serve(&place.record, node_id(self.me), through.generation);
            if through.instance == id && (may.is_err() || place.serves != Some(through.generation)) {
                stage.cut_through(conn);
            }
        }
    }

    // --- instances ---

    /// Does what the record asks for.
    fn tend(&mut self, stage: &mut Stage, hosts: &mut Hosts, id: InstanceId) {
        self.fence(stage, id);
        let place = &self.places[&id];
        if place.is_writing || stage.now < place.again_at {
            return;
        }
        let record = &place.record;
        let is_mine = record.node == Some(node_id(self.me));
        let change = match record.phase {
            Phase::Pending => None,
            Phase::Starting | Phase::Running | Phase::Moving if is_mine => self.tend_mine(stage, hosts, id),
            Phase::Moving => self.tend_target(stage, id),
            Phase::Starting | Phase::Running => self.tend_anothers(stage, hosts, id),
            // What was put to sleep by a node whose lease lapsed may still run, as what was lost may.
            Phase::Sleeping | Phase::Stopped | Phase::Failed | Phase::Lost | Phase::Deleted => {
                self.clear(stage, hosts, id)
            }
        };
        if let Some(change) = change {
            let place = self.places.get_mut(&id).expect("it is tended");
            place.is_writing = true;
            let write = Write::Node { generation: place.record.generation, change };
            self.ask(stage, Op::Write(id, write), Asked::Write(id));
        }
    }

    fn tend_mine(&mut self, stage: &mut Stage, hosts: &mut Hosts, id: InstanceId) -> Option<NodeWrite> {
        let (now, host) = (self.clock.read(stage.now), host_of(self.me));
        let place = self.places.get_mut(&id).expect("it is tended");
        let (record, generation) = (&place.record, place.record.generation);
        match record.desired {
            // Woken too late, and then to be moved: what has begun comes first.
            Desired::Running if record.phase == Phase::Moving && hosts.was_put_to_sleep(host, id, generation) => {
                return Some(NodeWrite::GiveUp);
            }
            // Woken too late: it sleeps, and has to be placed again.
            Desired::Running if hosts.was_put_to_sleep(host, id, generation) => return Some(NodeWrite::Asleep),
            Desired::Running => {}
            Desired::Sleeping if stage.config.sabotage == Some(Sabotage::SleepUnfenced) => {
                return Some(NodeWrite::Asleep);
            }
            Desired::Sleeping => {
                place.serves = None;
                hosts.put_to_sleep(stage, self.me, id, generation);
                self.fence(stage, id);
                return Some(NodeWrite::Asleep);
            }
            Desired::Stopped | Desired::Deleted => {
                place.serves = None;
                hosts.kill(stage, self.me, id, generation);
                self.fence(stage, id);
                return Some(NodeWrite::Ended);
            }
        }
        let address = address(self.me, self.start);
        let is_old = record.address.as_ref() != Some(&address);
        if is_old && stage.config.sabotage == Some(Sabotage::ServeWithoutAClaim) {
            return Some(NodeWrite::Readdress(address));
        }
        if is_old || place.serves != Some(generation) {
            return Some(NodeWrite::Claim(address));
        }
        let agent = hosts.agent(host, id).map(|(_, agent)| agent);
        if record.phase == Phase::Starting {
            return place.bring_up(stage, hosts, self.me);
        }
        let Some(agent) = agent else {
            place.serves = None;
            return Some(NodeWrite::Failed("the agent has died"));
        };
        agent.generation = agent.generation.max(generation);
        hosts.begin(stage, host, id);
        if record.phase == Phase::Running {
            return None;
        }
        let give_up_at = place.moving_since.expect("it is the source") + MOVE_WITHIN;
        if now >= give_up_at {
            return Some(NodeWrite::GiveUp);
        }
        stage.wake(Who::Node(self.me), Some(self.clock.when(give_up_at)));
        let to = record.moving.as_ref().expect("it is moving").to;
        match self.nodes.as_ref()?.get(&to) {
            None => Some(NodeWrite::GiveUp),
            Some(node) if is_handed_over(record) || stage.config.sabotage == Some(Sabotage::CommitUnfenced) => {
                Some(NodeWrite::Commit(Box::new(node.clone())))
            }
            Some(_) => None,
        }
    }

    fn tend_target(&mut self, stage: &mut Stage, id: InstanceId) -> Option<NodeWrite> {
        let place = self.places.get_mut(&id).expect("it is tended");
        let moving = place.record.moving.as_ref()?;
        if moving.to != node_id(self.me) || is_handed_over(&place.record) {
            return None;
        }
        let generation = place.record.generation;
        let ready_at = place.busy_until(generation, || stage.now + stage.chance.skewed(MILLI, 15 * SECOND));
        stage.wake(Who::Node(self.me), Some(ready_at));
        (stage.now >= ready_at).then_some(NodeWrite::Prepared)
    }

    /// Another node has it: on another host, what we still have of it is of an earlier life.
    fn tend_anothers(&self, stage: &mut Stage, hosts: &mut Hosts, id: InstanceId) -> Option<NodeWrite> {
        let record = &self.places[&id].record;
        let elsewhere = record.host != Some(self.record().host);
        if elsewhere { self.clear(stage, hosts, id) } else { None }
    }

    /// Kills what is left of a life that the record says is over.
    fn clear(&self, stage: &mut Stage, hosts: &mut Hosts, id: InstanceId) -> Option<NodeWrite> {
        if stage.config.sabotage == Some(Sabotage::SleepUnfenced) {
            return None;
        }
        hosts.kill(stage, self.me, id, self.places[&id].record.generation);
        None
    }

    /// Sees no traffic of an instance for long enough, if it has it.
    pub(crate) fn find_idle(&mut self, stage: &mut Stage, id: InstanceId) -> bool {
        let Some(place) = self.places.get_mut(&id).filter(|place| !place.is_writing) else { return false };
        let generation = place.record.generation;
        let runs_here = place.record.phase == Phase::Running && place.serves == Some(generation);
        if runs_here {
            place.is_writing = true;
            let write = Write::Node { generation, change: NodeWrite::Idle };
            self.ask(stage, Op::Write(id, write), Asked::Write(id));
        }
        runs_here
    }

    fn handle_written(&mut self, stage: &mut Stage, id: InstanceId, answer: Answer) {
        let Some(place) = self.places.get_mut(&id) else { return };
        place.is_writing = false;
        place.again_at = stage.now + AGAIN_AFTER;
        stage.wake(Who::Node(self.me), Some(place.again_at));
        if let Answer::Written(record, revision) = answer {
            place.again_at = 0;
            // A claim was granted: from here on it was given to us under this lease.
            self.learn(stage, *record, revision);
        }
    }
}
