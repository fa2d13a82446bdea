//! One run: the actors, and who gets which event.

use std::collections::BTreeMap;

use landfast_core::record::{Desired, Generation, Instance, InstanceSpec, Kind, Phase, Restart};

use crate::client::Client;
use crate::clock::{Clock, SECOND, Time};
use crate::custodian::Custodian;
use crate::gateway::Gateway;
use crate::holder::Holder;
use crate::host::Hosts;
use crate::mischief::{Mischief, Trouble};
use crate::names::{host_of, instance_id};
use crate::node::Daemon;
use crate::stage::{Event, Stage, Who, Write};
use crate::store::{Op, Store};
use crate::{Config, Mood, Outcome};

/// How long the cell is left in peace at the end of a run: a lease, a keeper's longest wait before a restart, the
/// longest park, and the last bytes.
const PEACE: Time = 240 * SECOND;

/// How long a client waits for its gateway to come back.
const KNOCK_AGAIN_AFTER: Time = SECOND;

/// A run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) stage: Stage,
    pub(crate) store: Store,
    pub(crate) keeper: Custodian,
    pub(crate) keeper_is_up: bool,
    pub(crate) nodes: Vec<Daemon>,
    pub(crate) hosts: Hosts,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) holders: Vec<Option<Holder>>,
    pub(crate) clients: Vec<Client>,
    pub(crate) instances: usize,
    pub(crate) mischief: Mischief,
}

impl World {
    /// Draws a cell.
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        let mut stage = Stage::new(seed, config, 4);
        let clocks: Vec<_> = (0..6).map(|_| any_clock(&mut stage)).collect();
        let hosts = Hosts::new(clocks[..2].to_vec());
        let instances = stage.chance.between(1, 3) as usize;
        let clients: Vec<_> = (0..stage.chance.between(1, 5) as usize)
            .map(|client| {
                let (gateway, instance) = (stage.chance.index(2), instance_id(stage.chance.index(instances)));
                Client::new(client, gateway, instance, &mut stage)
            })
            .collect();
        let mischief = Mischief::new(&mut stage, clients.len());
        let mut world = Self {
            store: Store::new(clocks[2]),
            keeper: Custodian::new(clocks[3], &mut stage),
            keeper_is_up: true,
            nodes: (0..4).map(|node| Daemon::new(node, clocks[host_of(node)], &mut stage)).collect(),
            hosts,
            gateways: (0..2).map(|gateway| Gateway::new(gateway, clocks[4 + gateway], &mut stage)).collect(),
            holders: clients.iter().map(|_| None).collect(),
            clients,
            instances,
            mischief,
            stage,
        };
        world.create_instances();
        world
    }

    /// Runs it to its end.
    pub(crate) fn run(mut self) -> Outcome {
        let end = self.mischief.calm_at() + PEACE;
        while let Some((who, event)) = self.stage.next(end) {
            self.dispatch(who, event);
        }
        let (violations, tally) = self.stage.ledger.finish(end);
        Outcome { violations, counts: self.mischief.counts, tally }
    }

    fn create_instances(&mut self) {
        for client in &self.clients {
            self.hosts.wanted.push((client.instance, client.number(), client.hears_in_all));
        }
        for number in 0..self.instances {
            // What is never placed again goes on without a lease: where comebacks are looked at, nothing would be seen of it.
            let is_placed_again = matches!(self.stage.config.mood, Some(Mood::Comebacks | Mood::Handovers))
                || self.stage.chance.percent(50);
            let restart = if is_placed_again { Restart::Always } else { Restart::Never };
            let write = Write::Create(Box::new(new_instance(number, restart)));
            let at = self.stage.chance.skewed(1, 2 * SECOND);
            let op = Box::new(Op::Write(instance_id(number), write));
            self.stage.post(at, Who::Store, Event::Request { from: Who::Mischief, ask: 0, op });
        }
    }

    fn dispatch(&mut self, who: Who, event: Event) {
        let stage = &mut self.stage;
        match who {
            Who::Store => self.store.handle(stage, event),
            Who::Keeper if self.keeper_is_up => self.keeper.handle(stage, event),
            Who::Keeper => {}
            Who::Node(node) => self.nodes[node].handle(stage, &mut self.hosts, event),
            Who::Agent(agent) => self.hosts.agents[agent].handle(stage, event),
            Who::Gateway(gateway) => self.gateways[gateway].handle(stage, event),
            Who::Holder(holder) => self.dispatch_to_holder(holder, event),
            Who::Client(client) => self.clients[client].handle(stage, event),
            Who::Mischief => {
                if let Event::Mend(trouble) = event {
                    self.handle_mischief(trouble);
                }
            }
        }
        self.spread_news();
    }

    fn dispatch_to_holder(&mut self, number: usize, event: Event) {
        let Some(holder) = &mut self.holders[number] else { return };
        let was_linked = holder.is_linked();
        holder.handle(&mut self.stage, &mut self.gateways[holder.gateway], event);
        if !was_linked && holder.is_linked() && self.mischief.flaps[number] > 0 {
            self.mischief.flaps[number] -= 1;
            holder.cut_link(&mut self.stage);
        }
    }

    /// Tells a session what its gateway knows.
    fn tell(&mut self, number: usize) {
        if let Some(holder) = &mut self.holders[number] {
            holder.handle_news(&mut self.stage, &mut self.gateways[holder.gateway]);
        }
    }

    /// Tells the sessions of a gateway what it has just learnt.
    fn spread_news(&mut self) {
        for (number, gateway) in self.gateways.iter_mut().enumerate() {
            let news = gateway.take_news();
            if news.is_empty() {
                continue;
            }
            let concerned = |holder: &&mut Holder| holder.gateway == number && news.contains(&holder.instance);
            for holder in self.holders.iter_mut().flatten().filter(concerned) {
                holder.handle_news(&mut self.stage, gateway);
            }
        }
    }

    /// A client comes to its gateway, as soon as that is there.
    pub(crate) fn arrive(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let gateway = &self.gateways[client.gateway];
        if !gateway.up {
            let at = self.stage.now + KNOCK_AGAIN_AFTER;
            return self.stage.post(at, Who::Mischief, Event::Mend(Trouble::Arrival(number)));
        }
        let conn = client.attach(&mut self.stage);
        let holder = Holder::new(number, client.gateway, client.instance, gateway.clock, conn, &mut self.stage);
        self.holders[number] = Some(holder);
        self.tell(number);
        self.stage.wake(Who::Client(number), Some(self.stage.now));
        self.stage.wake(Who::Holder(number), Some(self.stage.now));
    }
}

fn any_clock(stage: &mut Stage) -> Clock {
    let rate = if stage.chance.percent(50) { 100 } else { stage.chance.between(90, 110) };
    Clock::new(stage.chance.skewed(1, 1 << 50), rate)
}

fn new_instance(number: usize, restart: Restart) -> Instance {
    Instance {
        id: instance_id(number),
        kind: Kind::Sandbox,
        spec: InstanceSpec { restart, ..InstanceSpec::default() },
        desired: Desired::Running,
        phase: Phase::Pending,
        generation: Generation(0),
        node: None,
        host: None,
        address: None,
        moving: None,
        reason: None,
        labels: BTreeMap::new(),
        created_at: 0,
        ended_at: None,
    }
}
