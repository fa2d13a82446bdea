//! The steps one by one, and then all of them, by anybody, in any order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::record::{External, InstanceSpec, Kind, Service};
use crate::{InstanceId, Problem, ServiceName};

const NODES: u128 = 3;

fn node_id(number: u128) -> NodeId {
    NodeId::new(1, number)
}

fn node(number: u128) -> Node {
    Node {
        id: node_id(number),
        name: format!("n{number}"),
        host: "h".to_owned(),
        address: format!("10.0.0.{number}:7000"),
        capacity: 10,
        labels: BTreeMap::new(),
        draining: false,
        isolation: "none: a test".to_owned(),
        started_at: 0,
    }
}

fn created(restart: Restart) -> Instance {
    Instance {
        id: InstanceId::new(1, 1),
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

fn running(on: u128) -> Instance {
    let mut instance = created(Restart::Always);
    place(&mut instance, &node(on)).unwrap();
    started(&mut instance, node_id(on), Generation(1)).unwrap();
    instance
}

fn moving(from: u128, to: u128) -> Instance {
    let mut instance = running(from);
    begin_move(&mut instance, &node(to)).unwrap();
    instance
}

const G1: Generation = Generation(1);

#[test]
fn a_life_without_trouble_is_placed_started_moved_and_deleted() {
    let mut instance = moving(1, 2);
    prepared(&mut instance, node_id(2), G1).unwrap();
    commit_move(&mut instance, node_id(1), G1, &node(2)).unwrap();
    assert_eq!((instance.phase, instance.generation), (Phase::Running, Generation(2)));
    assert_eq!((instance.node, instance.address.as_deref()), (Some(node_id(2)), Some("10.0.0.2:7000")));
    desire_deleted(&mut instance).unwrap();
    ended(&mut instance, node_id(2), Generation(2), 77).unwrap();
    assert_eq!((instance.phase, instance.ended_at), (Phase::Deleted, Some(77)));
}

#[test]
fn a_move_needs_another_live_node_of_the_same_host() {
    let far = Node { host: "elsewhere".to_owned(), ..node(2) };
    let draining = Node { draining: true, ..node(2) };
    for (to, why) in
        [(node(1), TargetError::SameNode), (far, TargetError::OtherHost), (draining, TargetError::Draining)]
    {
        let mut instance = running(1);
        assert_eq!(begin_move(&mut instance, &to), Err(StepError::Target(why)));
        assert_eq!(instance, running(1));
        assert_eq!(Problem::from(StepError::Target(why)).code, ErrorCode::MoveRefused);
    }
}

#[test]
fn only_the_source_commits_and_only_to_a_prepared_target() {
    let mut instance = moving(1, 2);
    assert_eq!(commit_move(&mut instance, node_id(1), G1, &node(2)), Err(StepError::NotYours));
    assert_eq!(prepared(&mut instance, node_id(3), G1), Err(StepError::NotYours));
    prepared(&mut instance, node_id(2), G1).unwrap();
    assert_eq!(commit_move(&mut instance, node_id(2), G1, &node(2)), Err(StepError::NotYours));
    assert_eq!(commit_move(&mut instance, node_id(1), G1, &node(3)), Err(StepError::NotYours));
    give_up_move(&mut instance, node_id(1), G1, "the target did not answer").unwrap();
    assert_eq!(commit_move(&mut instance, node_id(1), G1, &node(2)), Err(StepError::Phase(Phase::Running)));
}

#[test]
fn only_the_target_declines_and_only_while_it_prepares() {
    let mut instance = moving(1, 2);
    assert_eq!(decline_move(&mut instance, node_id(1), G1, "no"), Err(StepError::NotYours));
    assert!(matches!(decline_move(&mut instance, node_id(2), Generation(0), "no"), Err(StepError::Generation { .. })));
    let mut prepared_move = instance.clone();
    prepared(&mut prepared_move, node_id(2), G1).unwrap();
    let late = decline_move(&mut prepared_move, node_id(2), G1, "no");
    assert_eq!(late, Err(StepError::Phase(Phase::Moving)), "its source may have fenced itself");
    decline_move(&mut instance, node_id(2), G1, "it has no room").unwrap();
    assert_eq!((instance.phase, instance.node, instance.generation), (Phase::Running, Some(node_id(1)), G1));
    assert_eq!(instance.reason.as_deref(), Some("it has no room"));
}

#[test]
fn a_step_meant_for_an_earlier_placement_is_refused() {
    let mut instance = running(1);
    lost(&mut instance, G1, 5).unwrap();
    place_again(&mut instance, G1).unwrap();
    place(&mut instance, &node(1)).unwrap();
    let stale = StepError::Generation { given: G1, present: Generation(2) };
    assert_eq!(started(&mut instance, node_id(1), G1), Err(stale));
    assert_eq!(lost(&mut instance, G1, 6), Err(stale));
    assert_eq!(failed(&mut instance, node_id(1), G1, "late news", 6), Err(stale));
    assert_eq!(instance.phase, Phase::Starting);
}

#[test]
fn a_stop_keeps_a_failed_instance_from_coming_back() {
    let mut instance = running(1);
    failed(&mut instance, node_id(1), G1, "the agent died", 5).unwrap();
    assert!(will_restart(&instance));
    desire_stopped(&mut instance).unwrap();
    assert!(!will_restart(&instance));
    assert_eq!(place_again(&mut instance, G1), Err(StepError::Desired(Desired::Stopped)));
    assert_eq!(ended_unowned(&mut instance, G1, 6), Err(StepError::Phase(Phase::Failed)));
    desire_deleted(&mut instance).unwrap();
    ended_unowned(&mut instance, G1, 6).unwrap();
    assert_eq!(instance.phase, Phase::Deleted);
}

fn asleep_on(host: u128) -> Instance {
    let mut instance = running(host);
    desire_sleeping(&mut instance).unwrap();
    asleep(&mut instance, node_id(host), G1).unwrap();
    instance
}

#[test]
fn an_idle_instance_sleeps_on_no_node_and_wakes_where_its_files_are_with_the_next_generation() {
    let mut instance = running(1);
    idle(&mut instance, node_id(1), G1).unwrap();
    assert!(is_dozing(&instance));
    asleep(&mut instance, node_id(1), G1).unwrap();
    assert_eq!((instance.phase, instance.generation, instance.ended_at), (Phase::Sleeping, G1, None));
    assert_eq!((instance.node, instance.host.as_deref(), &instance.address), (None, Some("h"), &None));
    assert_eq!(place(&mut instance, &node(2)), Err(StepError::Desired(Desired::Sleeping)), "nobody woke it");
    desire_awake(&mut instance).unwrap();
    let far = Node { host: "elsewhere".to_owned(), ..node(2) };
    assert_eq!(place(&mut instance, &far), Err(StepError::Target(TargetError::OtherHost)));
    place(&mut instance, &node(2)).unwrap();
    assert_eq!((instance.phase, instance.generation), (Phase::Starting, Generation(2)));
    assert_eq!(asleep(&mut instance, node_id(1), G1), Err(StepError::Phase(Phase::Starting)));
}

#[test]
fn only_the_owner_of_this_life_finds_it_idle_or_says_that_it_sleeps() {
    let mut instance = running(1);
    let stale = Err(StepError::Generation { given: Generation(0), present: G1 });
    assert_eq!(idle(&mut instance, node_id(2), G1), Err(StepError::NotYours));
    assert_eq!(idle(&mut instance, node_id(1), Generation(0)), stale);
    assert_eq!(asleep(&mut instance, node_id(2), G1), Err(StepError::NotYours));
    assert_eq!(instance, running(1));
}

#[test]
fn one_that_is_woken_while_it_falls_asleep_is_placed_again_and_one_woken_before_never_slept() {
    let mut instance = running(1);
    desire_sleeping(&mut instance).unwrap();
    desire_awake(&mut instance).unwrap();
    assert_eq!(instance, running(1));
    desire_sleeping(&mut instance).unwrap();
    desire_awake(&mut instance).unwrap();
    // The owner had begun by then, and says what it did.
    asleep(&mut instance, node_id(1), G1).unwrap();
    place(&mut instance, &node(1)).unwrap();
    assert_eq!((instance.phase, instance.generation), (Phase::Starting, Generation(2)));
}

#[test]
fn sleep_and_waking_are_asked_for_as_often_as_one_likes_and_of_nothing_that_is_to_end() {
    let mut instance = asleep_on(1);
    desire_sleeping(&mut instance).unwrap();
    assert_eq!(instance, asleep_on(1));
    for _ in 0..2 {
        desire_awake(&mut instance).unwrap();
    }
    desire_stopped(&mut instance).unwrap();
    assert_eq!(desire_awake(&mut instance), Err(StepError::Desired(Desired::Stopped)));
    let failed = Instance { phase: Phase::Failed, ..created(Restart::Never) };
    assert_eq!(desire_awake(&mut failed.clone()), Err(StepError::Phase(Phase::Failed)));
    assert_eq!(desire_sleeping(&mut instance), Err(StepError::Desired(Desired::Stopped)));
    ended_unowned(&mut instance, G1, 5).unwrap();
    assert_eq!((instance.phase, instance.host.as_deref()), (Phase::Stopped, Some("h")));
    assert_eq!(desire_sleeping(&mut instance), Err(StepError::Phase(Phase::Stopped)));
    let mut starting = created(Restart::Never);
    place(&mut starting, &node(1)).unwrap();
    assert_eq!(desire_sleeping(&mut starting), Err(StepError::Phase(Phase::Starting)));
}

#[test]
fn what_should_sleep_neither_fails_nor_is_lost_but_sleeps() {
    let mut instance = running(1);
    desire_sleeping(&mut instance).unwrap();
    let sleeps = Err(StepError::Desired(Desired::Sleeping));
    assert_eq!(failed(&mut instance, node_id(1), G1, "the agent died", 5), sleeps);
    assert_eq!(lost(&mut instance, G1, 5), sleeps);
    asleep_unowned(&mut instance, G1).unwrap();
    assert_eq!(instance, asleep_on(1));
    let mut awake = running(1);
    assert_eq!(asleep_unowned(&mut awake, G1), Err(StepError::Desired(Desired::Running)));
}

#[test]
fn why_an_instance_waits_for_a_node_stands_in_its_record_until_one_takes_it() {
    let mut instance = created(Restart::Never);
    waits(&mut instance, "No node is live.").unwrap();
    assert_eq!(instance.reason.as_deref(), Some("No node is live."));
    place(&mut instance, &node(1)).unwrap();
    assert_eq!(instance.reason, None);
    assert_eq!(waits(&mut instance, "late news"), Err(StepError::Phase(Phase::Starting)));
}

fn named(name: &str) -> ServiceName {
    name.parse().unwrap()
}

/// An external instance with an agent and a service.
fn outside() -> Instance {
    let service = Service { address: Some("10.1.0.1:80".to_owned()), ..Service::default() };
    let spec = InstanceSpec {
        external: Some(External { agent: Some("10.1.0.1:9".to_owned()) }),
        services: [(named("web"), service)].into(),
        ..InstanceSpec::default()
    };
    let address = Some("10.1.0.1:9".to_owned());
    Instance { spec, phase: Phase::Running, generation: G1, address, ..created(Restart::Never) }
}

#[test]
fn the_platform_of_an_external_instance_moves_it_in_two_steps() {
    let mut instance = outside();
    assert_eq!(commit_external_move(&mut instance, None, &BTreeMap::new()), Err(StepError::NoMove));
    begin_external_move(&mut instance).unwrap();
    assert!(is_handed_over(&instance));
    let moving = instance.clone();
    begin_external_move(&mut instance).unwrap();
    assert_eq!(instance, moving);
    let unknown = [(named("db"), "10.1.0.2:1".to_owned())].into();
    assert_eq!(commit_external_move(&mut instance, None, &unknown), Err(StepError::NoService(named("db"))));
    assert_eq!(instance, moving);
    let services = [(named("web"), "10.1.0.2:80".to_owned())].into();
    commit_external_move(&mut instance, Some("10.1.0.2:9"), &services).unwrap();
    assert_eq!((instance.phase, instance.generation), (Phase::Running, Generation(2)));
    assert_eq!(instance.address.as_deref(), Some("10.1.0.2:9"));
    assert_eq!(instance.spec.services[&named("web")].address.as_deref(), Some("10.1.0.2:80"));
}

#[test]
fn an_external_move_that_is_given_up_changes_nothing_but_the_reason() {
    let mut instance = outside();
    begin_external_move(&mut instance).unwrap();
    give_up_external_move(&mut instance, G1, "called off").unwrap();
    assert_eq!(instance, Instance { reason: Some("called off".to_owned()), ..outside() });
    assert_eq!(give_up_external_move(&mut instance, G1, "late"), Err(StepError::NoMove));
}

#[test]
fn who_runs_an_instance_moves_it_sleeps_it_and_ends_it_and_nobody_else() {
    let mut instance = outside();
    assert_eq!(desire_sleeping(&mut instance), Err(StepError::CannotSleep));
    assert_eq!(begin_move(&mut instance, &node(1)), Err(StepError::Target(TargetError::External)));
    desire_stopped(&mut instance).unwrap();
    ended_external(&mut instance, 5).unwrap();
    assert_eq!((instance.phase, instance.ended_at), (Phase::Stopped, Some(5)));
    let mut ours = running(1);
    assert_eq!(begin_external_move(&mut ours), Err(StepError::NotExternal));
    assert_eq!(ended_external(&mut ours, 5), Err(StepError::NotExternal));
}

#[test]
fn who_may_serve_follows_from_the_record() {
    let mut prepared_move = moving(1, 2);
    prepared(&mut prepared_move, node_id(2), G1).unwrap();
    let mut starting = created(Restart::Never);
    place(&mut starting, &node(1)).unwrap();
    let in_phase = |phase| Instance { phase, ..running(1) };
    let later = Instance { generation: Generation(2), ..running(1) };
    for (instance, asked, expected) in [
        (running(1), 1, Ok(())),
        (moving(1, 2), 1, Ok(())),
        (prepared_move, 1, Err(ErrorCode::InstanceMoving)),
        (starting, 1, Err(ErrorCode::InstanceStarting)),
        (created(Restart::Never), 1, Err(ErrorCode::InstanceStarting)),
        (later, 1, Err(ErrorCode::NodeStaleGeneration)),
        (running(1), 2, Err(ErrorCode::NodeNotHere)),
        (running(2), 1, Err(ErrorCode::NodeNotHere)),
        (moving(2, 1), 1, Err(ErrorCode::NodeNotHere)),
        (Instance { desired: Desired::Sleeping, ..running(1) }, 1, Err(ErrorCode::InstanceWaking)),
        (asleep_on(1), 1, Err(ErrorCode::InstanceWaking)),
        (in_phase(Phase::Stopped), 1, Err(ErrorCode::InstanceStopped)),
        (in_phase(Phase::Failed), 1, Err(ErrorCode::InstanceFailed)),
        (in_phase(Phase::Lost), 1, Err(ErrorCode::InstanceLost)),
        (in_phase(Phase::Deleted), 1, Err(ErrorCode::InstanceGone)),
    ] {
        assert_eq!(may_serve(&instance, node_id(1), Generation(asked)), expected, "{instance:?}");
    }
}

/// A cell as the property sees it: the store's record, and the copy each node acts on, however old.
struct World {
    record: Instance,
    history: Vec<Instance>,
    /// Which version of the history each node has seen; none while it is fenced by its lease.
    seen: [Option<usize>; NODES as usize],
}

/// What somebody tries. Nodes act by what they have seen; the store decides by what is.
#[derive(Clone, Copy, Debug)]
enum Try {
    See(u128),
    LeaseLapses(u128),
    Keeper(u8),
    Move(u128),
    Sleep,
    Wake,
    Desire(u8),
    Node(u128, u8),
}

impl World {
    fn new() -> Self {
        let record = created(Restart::Always);
        Self { history: vec![record.clone()], record, seen: [Some(0); NODES as usize] }
    }

    /// One compare-and-swap: the step is decided on the present record, whatever its writer has seen.
    fn write(&mut self, step: impl FnOnce(&mut Instance) -> Result<(), StepError>) -> bool {
        let before = self.record.clone();
        let done = step(&mut self.record).is_ok();
        assert!(done || self.record == before, "a refused step changed the record");
        if done {
            assert_allowed(&before, &self.record);
            self.history.push(self.record.clone());
        }
        done
    }

    fn attempt(&mut self, action: Try) {
        let generation = self.record.generation;
        match action {
            Try::See(n) => self.see(n),
            Try::LeaseLapses(n) => self.seen[n as usize] = None,
            Try::Keeper(0) => drop(self.write(|record| place(record, &node(u128::from(generation.0) % NODES)))),
            Try::Keeper(1) => drop(self.write(|record| place_again(record, generation))),
            Try::Keeper(step) => {
                let fenced = self
                    .record
                    .node
                    .is_none_or(|owner| (0..NODES).any(|n| node_id(n) == owner && self.seen[n as usize].is_none()));
                if fenced && step == 2 {
                    self.write(|record| lost(record, generation, 9));
                } else if fenced && step == 3 {
                    self.write(|record| asleep_unowned(record, generation));
                } else if fenced || self.record.phase.is_end() {
                    self.write(|record| ended_unowned(record, generation, 9));
                }
            }
            Try::Move(to) => drop(self.write(|record| begin_move(record, &node(to)))),
            Try::Sleep => drop(self.write(desire_sleeping)),
            Try::Wake => drop(self.write(desire_awake)),
            Try::Desire(0) => drop(self.write(desire_stopped)),
            Try::Desire(_) => drop(self.write(desire_deleted)),
            Try::Node(by, step) => self.attempt_as_node(by, step),
        }
    }

    fn see(&mut self, n: u128) {
        self.seen[n as usize] = Some(self.history.len() - 1);
    }

    fn attempt_as_node(&mut self, by: u128, step: u8) {
        let Some(seen) = self.seen[by as usize] else { return };
        let (id, view) = (node_id(by), self.history[seen].clone());
        let generation = view.generation;
        // What is asked of an owner: it has stopped serving before it says that the instance is over, or another's.
        let to = view.moving.as_ref().and_then(|moving| (0..NODES).find(|&n| node_id(n) == moving.to)).unwrap_or(0);
        let fenced = view.moving.as_ref().is_some_and(|moving| moving.step == MoveStep::Prepared);
        if matches!(step, 1 | 6 | 8) {
            self.seen[by as usize] = None;
        }
        // Nobody hears the answer to a write: a writer learns what it did by looking.
        match step {
            0 => self.write(|record| started(record, id, generation)),
            1 => self.write(|record| failed(record, id, generation, "it died", 9)),
            2 => self.write(|record| prepared(record, id, generation)),
            3 => fenced && self.write(|record| commit_move(record, id, generation, &node(to))),
            4 => self.write(|record| give_up_move(record, id, generation, "no answer")),
            5 => self.write(|record| readdress(record, id, generation, "10.0.0.9:1")),
            7 => self.write(|record| idle(record, id, generation)),
            8 => self.write(|record| asleep(record, id, generation)),
            9 => self.write(|record| decline_move(record, id, generation, "no")),
            _ => self.write(|record| ended(record, id, generation, 9)),
        };
    }

    fn servers(&self) -> Vec<(u128, u64)> {
        let asked = (0..NODES).flat_map(|n| (0..=self.record.generation.0).map(move |g| (n, g)));
        asked
            .filter(|&(n, g)| {
                self.seen[n as usize]
                    .is_some_and(|seen| may_serve(&self.history[seen], node_id(n), Generation(g)).is_ok())
            })
            .collect()
    }
}

fn assert_allowed(before: &Instance, after: &Instance) {
    assert!(after.generation >= before.generation, "the generation fell");
    assert_eq!(after.phase == Phase::Moving, after.moving.is_some());
    assert_eq!(after.phase.is_end(), after.ended_at.is_some());
    assert!(after.desired != Desired::Sleeping || matches!(after.phase, Phase::Running | Phase::Sleeping));
    assert!(after.phase != Phase::Sleeping || (after.node.is_none() && after.host.is_some()));
    let new_owner = after.node.is_some() && after.node != before.node;
    assert!(!new_owner || after.generation > before.generation, "a new owner without a new generation");
    let back = after.phase == Phase::Pending && matches!(before.phase, Phase::Failed | Phase::Lost);
    let on = after.phase == before.phase || after.phase == Phase::Deleted || back;
    assert!(!before.phase.is_end() || on, "{:?} to {:?}", before.phase, after.phase);
}

/// Mostly what brings the instance on, so that many lives, moves and losses fit into one run.
fn any_try() -> impl Strategy<Value = Try> {
    let node = 0..NODES;
    let step = prop_oneof![9 => Just(0u8), 3 => Just(1), 9 => Just(2), 9 => Just(3), 1 => 4u8..10];
    prop_oneof![
        200 => node.clone().prop_map(Try::See),
        8 => node.clone().prop_map(Try::LeaseLapses),
        100 => (0u8..2).prop_map(Try::Keeper),
        30 => (2u8..5).prop_map(Try::Keeper),
        60 => node.clone().prop_map(Try::Move),
        20 => Just(Try::Sleep),
        40 => Just(Try::Wake),
        1 => (0u8..2).prop_map(Try::Desire),
        300 => (node, step).prop_map(|(by, step)| Try::Node(by, step)),
    ]
}

proptest! {
    #[test]
    fn no_two_nodes_serve_whoever_writes_what_and_however_old_their_copies_are(
        tries in proptest::collection::vec(any_try(), 1..400),
    ) {
        let mut world = World::new();
        for action in tries {
            world.attempt(action);
            let servers = world.servers();
            prop_assert!(servers.len() <= 1, "{servers:?} after {action:?}");
        }
    }
}

#[test]
fn who_reads_what_is_said_wakes_nobody() {
    for path in ["/telemetry/stream?replay=all", "/services/web/output?follow=true", "/processes/prc_1/output"] {
        assert!(!wakes(path), "{path}");
    }
    for path in ["/services/web/restart", "/processes", "/telemetry", "/output", "/cdp", "/files/content?path=/output"]
    {
        assert!(wakes(path), "{path}");
    }
}
