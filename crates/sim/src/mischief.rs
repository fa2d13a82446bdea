//! What is done to the cell: each run draws how much of what, does it for a while, and then leaves the cell in peace.

use crate::clock::{MILLI, SECOND, Time};
use crate::fact::Fact;
use crate::names::instance_id;
use crate::net::ConnId;
use crate::stage::{Event, Reach, Stage, Who, Write};
use crate::store::{Op, Stream};
use crate::trouble::{Counts, Kind, Mood};
use crate::world::World;

/// Something that was done and ends later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The next disturbance is due.
    Next,
    /// From here on the cell is left in peace.
    Calm,
    Partition(usize),
    NodeDown(usize),
    GatewayDown(usize),
    KeeperDown,
    /// A client comes.
    Arrival(usize),
}

/// Instances have been created by then.
const ARRIVALS_FROM: Time = 2 * SECOND;

/// The plan of one run.
#[derive(Debug)]
pub(crate) struct Mischief {
    weights: Vec<u64>,
    /// The mean time between two disturbances.
    pace: u64,
    calm_at: Time,
    pub(crate) counts: Counts,
    /// Sessions whose next links will be cut as soon as they stand: how many.
    pub(crate) flaps: Vec<u32>,
}

impl Mischief {
    /// Draws a plan, in the mood that was asked for or in any.
    pub(crate) fn new(stage: &mut Stage, clients: usize) -> Self {
        let moods = [
            Mood::Everything,
            Mood::AFewThings,
            Mood::Links,
            Mood::Leases,
            Mood::Sleepers,
            Mood::Handovers,
            Mood::Comebacks,
        ];
        let mood = stage.config.mood.unwrap_or(moods[stage.chance.index(moods.len())]);
        let mut weights: Vec<u64> =
            Kind::ALL.iter().map(|kind| kind.weight() * mood.fondness(*kind, &mut stage.chance)).collect();
        weights[Kind::CutLink as usize] += 1;
        let pace = stage.chance.skewed(50 * MILLI, 5 * SECOND);
        let calm_at = stage.chance.skewed(10 * SECOND, 120 * SECOND);
        stage.post(stage.now, Who::Mischief, Event::Mend(Trouble::Next));
        stage.post(calm_at, Who::Mischief, Event::Mend(Trouble::Calm));
        for client in 0..clients {
            let latest = if stage.chance.percent(50) { ARRIVALS_FROM + SECOND } else { calm_at };
            let at = stage.chance.between(ARRIVALS_FROM, latest);
            stage.post(at, Who::Mischief, Event::Mend(Trouble::Arrival(client)));
        }
        Self { weights, pace, calm_at, counts: Counts::default(), flaps: vec![0; clients] }
    }

    pub(crate) const fn calm_at(&self) -> Time {
        self.calm_at
    }

    fn draw(&self, stage: &mut Stage) -> Kind {
        let mut left = stage.chance.between(0, self.weights.iter().sum::<u64>() - 1);
        for (kind, &weight) in Kind::ALL.iter().zip(&self.weights) {
            if left < weight {
                return *kind;
            }
            left -= weight;
        }
        Kind::CutLink
    }
}

impl World {
    /// Something of the plan is due.
    pub(crate) fn handle_mischief(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Next => self.disturb(),
            Trouble::Calm => self.stage.note(Fact::Calm),
            Trouble::Arrival(client) => self.arrive(client),
            Trouble::Partition(node) => {
                self.stage.reach[node] = Reach::Everybody;
                self.nodes[node].subscribe(&mut self.stage);
            }
            Trouble::NodeDown(node) => self.nodes[node].boot(&mut self.stage),
            Trouble::GatewayDown(gateway) => self.gateways[gateway].start(&mut self.stage),
            Trouble::KeeperDown => {
                self.keeper_is_up = true;
                self.keeper.start(&mut self.stage);
            }
        }
    }

    fn disturb(&mut self) {
        if self.stage.now >= self.mischief.calm_at {
            return;
        }
        let kind = self.mischief.draw(&mut self.stage);
        if self.mischief.counts.of(kind) < kind.most() && self.inflict(kind) {
            self.mischief.counts.count(kind);
            self.stage.note(Fact::Mischief(kind.text()));
        }
        let next = self.stage.now + self.stage.chance.between(0, 2 * self.mischief.pace);
        self.stage.post(next, Who::Mischief, Event::Mend(Trouble::Next));
    }

    /// Until when something lasts: not beyond the calm.
    fn until(&mut self, low: u64, high: u64) -> Time {
        (self.stage.now + self.stage.chance.skewed(low, high)).min(self.mischief.calm_at)
    }

    /// Half of the time about as long as a lease: that is where it gets interesting.
    fn downtime(&mut self) -> Time {
        if self.stage.chance.percent(50) {
            self.until(50 * MILLI, 30 * SECOND)
        } else {
            self.until(8 * SECOND, 13 * SECOND)
        }
    }

    fn mend(&mut self, at: Time, trouble: Trouble) {
        self.stage.post(at, Who::Mischief, Event::Mend(trouble));
    }

    /// Does it; whether there was anything to do it to.
    fn inflict(&mut self, kind: Kind) -> bool {
        match kind {
            Kind::CutLink => self.with_link(|world, conn| world.stage.cut(conn)),
            Kind::HalfOpenLink => self.with_link(Self::silence),
            Kind::StallLink => self.with_link(|world, conn| {
                let until = world.until(MILLI, 40 * SECOND);
                world.stage.stall(conn, until);
            }),
            Kind::FlapLink => self.flap(),
            Kind::CutNode => self.with_node(|world, node| {
                world.stage.net.toward_node(node).into_iter().for_each(|conn| world.stage.cut(conn));
            }),
            Kind::PartitionNode => self.with_node(Self::partition),
            Kind::LoseStore => self.with_node(|world, node| {
                world.stage.reach[node] = Reach::Gateways;
                let until = world.downtime();
                world.mend(until, Trouble::Partition(node));
            }),
            Kind::RestartNode => self.with_node(|world, node| {
                world.nodes[node].die(&mut world.stage);
                let until = world.downtime();
                world.mend(until, Trouble::NodeDown(node));
            }),
            Kind::FreezeNode => self.with_node(|world, node| {
                let until = world.downtime();
                world.nodes[node].freeze(until);
            }),
            Kind::KillAgent => self.kill_agent(),
            Kind::MoveInstance => self.ask_to_move(),
            Kind::SleepInstance => self.write(Write::DesireSleeping),
            Kind::IdleInstance => self.find_idle(),
            Kind::WakeInstance => self.write(Write::DesireAwake),
            Kind::StopInstance => self.write(Write::DesireStopped),
            Kind::DeleteInstance => self.write(Write::DesireDeleted),
            Kind::ExitProcess => self.exit_process(),
            Kind::ExitInGap => self.with_link(Self::exit_in_gap),
            Kind::StoreDown => {
                let until = self.until(10 * MILLI, 20 * SECOND);
                self.store.go_down(&mut self.stage, until);
                true
            }
            Kind::LoseAnswers => {
                let until = self.until(100 * MILLI, 20 * SECOND);
                self.store.lose_answers(until);
                true
            }
            Kind::ResyncWatches => {
                self.store.resync(&mut self.stage);
                true
            }
            Kind::EmptyListing => self.mislead(true),
            Kind::OldListing => self.mislead(false),
            Kind::StallWatch => self.stall_watch(),
            Kind::StallKeeper => {
                let until = self.until(8 * SECOND, 40 * SECOND);
                let stream = self.any_stream();
                self.store.stall_watch(Who::Keeper, stream, until);
                true
            }
            Kind::RestartKeeper => self.restart_keeper(),
            Kind::StallReader => self.with_client(|world, client| {
                let until = world.until(10 * MILLI, 90 * SECOND);
                world.clients[client].stall(until);
            }),
            Kind::StallInput => self.stall_input(),
            Kind::CloseClient => self.with_client(|world, client| world.clients[client].leave(&mut world.stage, true)),
            Kind::LoseClient => self.with_client(|world, client| world.clients[client].leave(&mut world.stage, false)),
            Kind::DrainGateway => self.take_gateway_down(true),
            Kind::KillGateway => self.take_gateway_down(false),
        }
    }

    // --- whom it hits ---

    fn with_link(&mut self, hurt: impl FnOnce(&mut Self, ConnId)) -> bool {
        let links: Vec<_> = (0..self.nodes.len()).flat_map(|node| self.stage.net.toward_node(node)).collect();
        let link = self.stage.chance.pick(&links);
        if let Some(link) = link {
            hurt(self, link);
        }
        link.is_some()
    }

    fn with_node(&mut self, hurt: impl FnOnce(&mut Self, usize)) -> bool {
        let node = self.stage.chance.index(self.nodes.len());
        let may = self.nodes[node].up && self.stage.reach[node] == Reach::Everybody;
        if may {
            hurt(self, node);
        }
        may
    }

    fn with_client(&mut self, hurt: impl FnOnce(&mut Self, usize)) -> bool {
        let present: Vec<_> = (0..self.clients.len()).filter(|&client| self.clients[client].is_attached()).collect();
        let client = self.stage.chance.pick(&present);
        if let Some(client) = client {
            hurt(self, client);
        }
        client.is_some()
    }

    fn live_agent(&mut self) -> Option<usize> {
        let live: Vec<_> = (0..self.hosts.agents.len()).filter(|&agent| self.hosts.agents[agent].alive).collect();
        self.stage.chance.pick(&live)
    }

    // --- what hits them ---

    fn silence(&mut self, conn: ConnId) {
        let which = self.stage.chance.between(1, 3);
        for side in [0, 1] {
            if which & (1 << side) != 0 {
                self.stage.silence(conn, side);
            }
        }
    }

    fn flap(&mut self) -> bool {
        let times = self.stage.chance.between(1, 6) as u32;
        self.with_client(|world, client| world.mischief.flaps[client] = times)
    }

    fn partition(&mut self, node: usize) {
        self.stage.reach[node] = Reach::Nobody;
        let until = self.downtime();
        for conn in self.stage.net.toward_node(node) {
            if self.stage.chance.percent(50) {
                self.stage.stall(conn, until);
            } else {
                self.stage.silence(conn, 0);
                self.stage.silence(conn, 1);
            }
        }
        self.mend(until, Trouble::Partition(node));
    }

    fn kill_agent(&mut self) -> bool {
        let Some(agent) = self.live_agent() else { return false };
        let host = self.hosts.agents[agent].host;
        let daemons: Vec<_> = (0..self.nodes.len()).filter(|&node| crate::names::host_of(node) == host).collect();
        self.hosts.crash(&mut self.stage, agent, &daemons);
        true
    }

    fn ask_to_move(&mut self) -> bool {
        let node = self.stage.chance.index(self.nodes.len());
        if !self.nodes[node].up {
            return false;
        }
        self.write(Write::BeginMove(Box::new(self.nodes[node].record())))
    }

    fn find_idle(&mut self) -> bool {
        let instance = instance_id(self.stage.chance.index(self.instances));
        let (stage, nodes) = (&mut self.stage, &mut self.nodes);
        nodes.iter_mut().filter(|node| node.up).any(|node| node.find_idle(stage, instance))
    }

    fn write(&mut self, write: Write) -> bool {
        let instance = instance_id(self.stage.chance.index(self.instances));
        self.stage.request(Who::Mischief, Op::Write(instance, write));
        true
    }

    fn exit_process(&mut self) -> bool {
        let at = self.stage.now + self.stage.chance.skewed(MILLI, 10 * SECOND);
        let Some(agent) = self.live_agent() else { return false };
        let client = self.stage.chance.index(self.clients.len());
        self.hosts.agents[agent].let_exit(&mut self.stage, client, at)
    }

    fn exit_in_gap(&mut self, conn: ConnId) {
        let holder =
            (0..self.clients.len()).find(|&holder| self.stage.net.side_of(conn, Who::Holder(holder)).is_some());
        self.stage.cut(conn);
        let now = self.stage.now;
        for agent in &mut self.hosts.agents {
            if let Some(holder) = holder.filter(|_| agent.alive) {
                agent.let_exit(&mut self.stage, holder, now);
            }
        }
    }

    fn mislead(&mut self, empty: bool) -> bool {
        let gateway = self.stage.chance.index(self.gateways.len());
        self.store.mislead(&mut self.stage, Who::Gateway(gateway), empty);
        true
    }

    fn stall_watch(&mut self) -> bool {
        let until = self.until(10 * MILLI, 30 * SECOND);
        let (nodes, gateways) = (self.nodes.len(), self.gateways.len());
        let who = match self.stage.chance.index(nodes + gateways + 1) {
            index if index < nodes => Who::Node(index),
            index if index < nodes + gateways => Who::Gateway(index - nodes),
            _ => Who::Keeper,
        };
        let stream = self.any_stream();
        self.store.stall_watch(who, stream, until);
        true
    }

    fn any_stream(&mut self) -> Stream {
        if self.stage.chance.percent(50) { Stream::Instances } else { Stream::Nodes }
    }

    fn restart_keeper(&mut self) -> bool {
        let until = self.until(MILLI, 20 * SECOND);
        let was_up = std::mem::replace(&mut self.keeper_is_up, false);
        if was_up {
            self.mend(until, Trouble::KeeperDown);
        }
        was_up
    }

    fn stall_input(&mut self) -> bool {
        let until = self.until(10 * MILLI, 40 * SECOND);
        let Some(agent) = self.live_agent() else { return false };
        let client = self.stage.chance.index(self.clients.len());
        self.hosts.agents[agent].stall_input(client, until);
        true
    }

    fn take_gateway_down(&mut self, drains: bool) -> bool {
        let gateway = self.stage.chance.index(self.gateways.len());
        if !self.gateways[gateway].up {
            return false;
        }
        self.stage.note(if drains { Fact::Draining { gateway } } else { Fact::GatewayDied { gateway } });
        for holder in self.holders.iter_mut().flatten().filter(|holder| holder.gateway == gateway) {
            if drains {
                holder.drain(&mut self.stage);
            } else {
                holder.die(&mut self.stage);
            }
        }
        self.gateways[gateway].up = false;
        let until = self.until(10 * MILLI, 10 * SECOND);
        self.mend(until, Trouble::GatewayDown(gateway));
        true
    }
}
