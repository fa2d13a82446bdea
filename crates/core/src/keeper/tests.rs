//! A keeper with a store that tells it every change at once.

use proptest::prelude::*;

use super::*;
use crate::lifecycle;
use crate::record::{External, InstanceSpec, Kind};

const DAY: u64 = 24 * 3600 * 1000;

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn node(number: u128) -> Node {
    Node {
        id: NodeId::new(1, number),
        name: format!("n{number}"),
        host: "h".to_owned(),
        address: "10.0.0.1:1".to_owned(),
        capacity: 100,
        labels: BTreeMap::new(),
        draining: false,
        isolation: "bubblewrap".to_owned(),
        started_at: 0,
    }
}

fn id(number: u128) -> InstanceId {
    InstanceId::new(1, number)
}

fn pending(number: u128, restart: Restart) -> Instance {
    Instance {
        id: id(number),
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

fn running(number: u128, on: u128) -> Instance {
    let mut instance = pending(number, Restart::Always);
    lifecycle::place(&mut instance, &node(on)).unwrap();
    lifecycle::started(&mut instance, node(on).id, Generation(1)).unwrap();
    instance
}

/// A store with one keeper that hears of every change at once.
struct Cell {
    keeper: Keeper,
    records: BTreeMap<InstanceId, Instance>,
    now: Instant,
    /// What was done, as (milliseconds, word).
    done: Vec<(u64, &'static str)>,
}

impl Cell {
    fn new(nodes: impl IntoIterator<Item = u128>, records: impl IntoIterator<Item = Instance>) -> Self {
        let mut cell = Self { keeper: Keeper::new(at(0)), records: BTreeMap::new(), now: at(0), done: Vec::new() };
        cell.keeper.handle_drains(BTreeSet::new(), at(0));
        cell.keeper.handle_nodes(nodes.into_iter().map(node), at(0));
        records.into_iter().for_each(|record| cell.write(record));
        cell
    }

    fn write(&mut self, record: Instance) {
        self.keeper.handle_instance(record.id, Some(&record), self.now);
        self.records.insert(record.id, record);
    }

    fn change(&mut self, number: u128, change: impl FnOnce(&mut Instance)) {
        let mut record = self.records[&id(number)].clone();
        change(&mut record);
        self.write(record);
    }

    fn apply(&mut self, step: &Step) {
        let unix = self.now.as_millis();
        let mut record = self.records[&step.instance].clone();
        match step.kind.apply(&mut record, unix) {
            Ok(Applied::Changed) => self.write(record),
            Ok(Applied::Removed) => {
                self.records.remove(&step.instance);
                self.keeper.handle_instance(step.instance, None, self.now);
            }
            Err(_) => self.keeper.handle_refused(step.instance, self.now),
        }
        let word = match step.kind {
            StepKind::Place(_) => "place",
            StepKind::PlaceAgain(_) => "again",
            StepKind::Lost(_) => "lost",
            StepKind::End(_) => "end",
            StepKind::Asleep(_) => "asleep",
            StepKind::Explain(_) => "explain",
            StepKind::GiveUpMove(_) => "give up",
            StepKind::Sweep => "sweep",
        };
        self.done.push((unix, word));
    }

    /// Lets time pass and the keeper act.
    fn run_until(&mut self, millis: u64) {
        loop {
            while let Some(step) = self.keeper.poll(self.now, self.now.as_millis()) {
                self.apply(&step);
            }
            match self.keeper.next_deadline() {
                Some(next) if next <= at(millis) => self.now = self.now.max(next),
                Some(_) | None => break,
            }
        }
        self.now = at(millis);
    }

    fn phase(&self, number: u128) -> Phase {
        self.records[&id(number)].phase
    }
}

#[test]
fn what_is_pending_is_placed_at_once_and_evenly() {
    let mut cell = Cell::new([1, 2], (0..10).map(|number| pending(number, Restart::Never)));
    cell.run_until(0);
    let on_first = cell.records.values().filter(|record| record.node == Some(node(1).id)).count();
    assert_eq!((cell.done.len(), on_first), (10, 5));
}

#[test]
fn a_burst_is_spread_before_anything_is_heard_of_it() {
    let mut cell = Cell::new([1, 2], (0..10).map(|number| pending(number, Restart::Never)));
    let steps: Vec<_> = std::iter::from_fn(|| cell.keeper.poll(at(0), 0)).collect();
    let to_first = |step: &&Step| matches!(&step.kind, StepKind::Place(to) if to.id == node(1).id);
    assert_eq!((steps.len(), steps.iter().filter(to_first).count()), (10, 5));
}

#[test]
fn what_fits_nowhere_waits_for_a_node() {
    let mut cell = Cell::new([], [pending(1, Restart::Never)]);
    cell.run_until(5_300);
    assert_eq!(cell.phase(1), Phase::Pending);
    cell.keeper.handle_node(node(1).id, Some(node(1)), cell.now);
    cell.run_until(5_300);
    assert_eq!(cell.phase(1), Phase::Starting);
}

#[test]
fn a_lapsed_lease_loses_the_nodes_instances_and_no_others() {
    let mut cell = Cell::new([1, 2], [running(1, 1), running(2, 2)]);
    cell.run_until(20_000);
    cell.keeper.handle_node(node(1).id, None, cell.now);
    cell.run_until(20_000);
    assert_eq!((cell.phase(1), cell.phase(2)), (Phase::Lost, Phase::Running));
    cell.run_until(21_000);
    assert_eq!((cell.phase(1), cell.records[&id(1)].node), (Phase::Starting, Some(node(2).id)));
}

#[test]
fn a_cell_that_was_off_as_a_whole_comes_back_whole() {
    let mut cell = Cell::new([], [running(1, 1)]);
    cell.run_until(9_000);
    cell.keeper.handle_nodes([node(1)], cell.now);
    cell.run_until(60_000);
    assert_eq!((cell.phase(1), cell.done.len()), (Phase::Running, 0));
}

#[test]
fn a_node_that_never_comes_back_is_lost_after_one_lease_time() {
    let mut cell = Cell::new([], [running(1, 1)]);
    cell.run_until(11_500);
    assert_eq!(cell.done[..2], [(10_000, "lost"), (11_000, "again")]);
}

#[test]
fn an_instance_on_a_node_not_yet_heard_of_is_not_lost() {
    let mut cell = Cell::new([], []);
    cell.run_until(100_000);
    cell.write(running(1, 7));
    cell.run_until(105_000);
    cell.keeper.handle_node(node(7).id, Some(node(7)), cell.now);
    cell.run_until(200_000);
    assert_eq!(cell.phase(1), Phase::Running);
}

#[test]
fn a_node_that_shows_life_by_a_new_generation_is_not_called_lost_for_being_thought_gone() {
    let mut cell = Cell::new([1], [running(1, 1)]);
    cell.run_until(100_000);
    cell.keeper.handle_node(node(1).id, None, cell.now);
    cell.change(1, |record| lifecycle::claim(record, node(1).id, Generation(1), "10.0.0.1:2").unwrap());
    cell.run_until(109_000);
    cell.keeper.handle_node(node(1).id, Some(node(1)), cell.now);
    cell.run_until(200_000);
    assert_eq!(cell.phase(1), Phase::Running);
}

#[test]
fn what_rests_on_a_lapsed_lease_names_the_node_whose_record_must_be_gone() {
    let (live, lost) = (running(1, 1), StepKind::Lost(Generation(1)));
    assert_eq!(lost.absent_node(&live), Some(node(1).id));
    assert_eq!(StepKind::End(Generation(1)).absent_node(&live), Some(node(1).id));
    assert_eq!(StepKind::End(Generation(0)).absent_node(&pending(1, Restart::Never)), None);
    assert_eq!(StepKind::Sweep.absent_node(&live), None);
}

#[test]
fn restarts_wait_ever_longer_until_one_has_lasted() {
    let mut cell = Cell::new([1], [running(1, 1)]);
    let fail = |record: &mut Instance| {
        let (owner, generation) = (record.node.unwrap(), record.generation);
        lifecycle::failed(record, owner, generation, "it died", 0).unwrap();
    };
    let mut waits = Vec::new();
    for _ in 0..9 {
        let failed_at = cell.now.as_millis();
        cell.change(1, fail);
        cell.run_until(failed_at + 60_000);
        let again = cell.done.iter().rfind(|(_, word)| *word == "again").unwrap().0;
        waits.push((again - failed_at) / 1000);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    cell.change(1, |record| lifecycle::started(record, node(1).id, record.generation).unwrap());
    cell.run_until(cell.now.as_millis() + 60_000);
    let failed_at = cell.now.as_millis();
    cell.change(1, fail);
    cell.run_until(failed_at + 1_000);
    assert_eq!(cell.phase(1), Phase::Starting);
}

#[test]
fn what_no_live_node_has_is_ended_as_desired() {
    let stopped = |mut instance: Instance| {
        lifecycle::desire_stopped(&mut instance).unwrap();
        instance
    };
    let mut cell =
        Cell::new([1], [stopped(pending(1, Restart::Never)), stopped(running(2, 9)), stopped(running(3, 1))]);
    cell.run_until(30_000);
    assert_eq!((cell.phase(1), cell.phase(2)), (Phase::Stopped, Phase::Stopped));
    assert_eq!(cell.phase(3), Phase::Running, "its node ends it");
    cell.change(1, |record| lifecycle::desire_deleted(record).unwrap());
    cell.run_until(30_000);
    assert_eq!(cell.phase(1), Phase::Deleted);
}

#[test]
fn the_record_of_an_end_is_swept_after_a_day() {
    let mut cell = Cell::new([1], [pending(1, Restart::Never)]);
    cell.change(1, |record| lifecycle::desire_deleted(record).unwrap());
    cell.run_until(DAY - 1);
    assert_eq!(cell.phase(1), Phase::Deleted);
    cell.run_until(DAY + 3_600_000);
    assert!(cell.records.is_empty() && cell.keeper.instances.is_empty() && cell.keeper.due.is_empty());
}

fn asleep(number: u128, on: u128) -> Instance {
    let mut instance = running(number, on);
    lifecycle::desire_sleeping(&mut instance).unwrap();
    lifecycle::asleep(&mut instance, node(on).id, Generation(1)).unwrap();
    instance
}

#[test]
fn what_sleeps_is_left_alone_until_it_is_woken_and_then_placed_on_its_host() {
    let mut cell = Cell::new([], [asleep(1, 1)]);
    let far = Node { host: "far".to_owned(), ..node(9) };
    cell.keeper.handle_node(far.id, Some(far), cell.now);
    cell.run_until(100_000);
    assert_eq!((cell.phase(1), cell.done.len()), (Phase::Sleeping, 0));
    cell.change(1, |record| lifecycle::desire_awake(record).unwrap());
    cell.run_until(103_000);
    assert_eq!((cell.phase(1), &cell.done[..]), (Phase::Sleeping, &[(100_000, "explain")][..]));
    let reason = cell.records[&id(1)].reason.clone();
    assert_eq!(reason.as_deref(), Some("No live node is on the host that has the instance's files."));
    cell.keeper.handle_node(node(2).id, Some(node(2)), cell.now);
    cell.run_until(103_000);
    let record = &cell.records[&id(1)];
    assert_eq!((record.phase, record.node, record.generation), (Phase::Starting, Some(node(2).id), Generation(2)));
    assert_eq!(record.reason, None);
}

#[test]
fn what_sleeps_is_ended_on_request() {
    let mut cell = Cell::new([1], [asleep(1, 1)]);
    cell.change(1, |record| lifecycle::desire_deleted(record).unwrap());
    cell.run_until(0);
    assert_eq!(cell.phase(1), Phase::Deleted);
}

#[test]
fn what_was_to_sleep_when_its_node_was_lost_sleeps() {
    let mut cell = Cell::new([1], [of_restart(Restart::Always, running(1, 1))]);
    cell.run_until(20_000);
    cell.change(1, |record| lifecycle::desire_sleeping(record).unwrap());
    cell.keeper.handle_node(node(1).id, None, cell.now);
    cell.run_until(40_000);
    assert_eq!((cell.phase(1), &cell.done[..]), (Phase::Sleeping, &[(20_000, "asleep")][..]));
}

#[test]
fn of_what_may_run_on_without_a_lease_nobody_says_that_it_sleeps_and_who_wakes_it_hears_that_it_is_lost() {
    let mut cell = Cell::new([1], [of_restart(Restart::Never, running(1, 1))]);
    cell.run_until(20_000);
    cell.change(1, |record| lifecycle::desire_sleeping(record).unwrap());
    cell.keeper.handle_node(node(1).id, None, cell.now);
    cell.run_until(40_000);
    assert_eq!((cell.phase(1), cell.done.len()), (Phase::Running, 0));
    cell.change(1, |record| lifecycle::desire_awake(record).unwrap());
    cell.run_until(41_000);
    assert_eq!(cell.phase(1), Phase::Lost);
}

#[test]
fn a_registry_that_was_away_gives_every_node_the_time_of_a_lease_to_come_back() {
    let both = [1, 2].map(|number| of_restart(Restart::Never, running(number, 1)));
    let mut cell = Cell::new([1], both);
    cell.run_until(20_000);
    cell.keeper.handle_in_touch(cell.now);
    cell.keeper.handle_node(node(1).id, None, cell.now);
    cell.run_until(29_000);
    assert_eq!(cell.phase(1), Phase::Running);
    cell.keeper.handle_node(node(1).id, Some(node(1)), cell.now);
    cell.run_until(60_000);
    assert_eq!((cell.phase(1), cell.phase(2)), (Phase::Running, Phase::Running));
    cell.keeper.handle_node(node(1).id, None, cell.now);
    cell.run_until(61_000);
    assert_eq!(cell.phase(1), Phase::Lost);
}

fn of_restart(restart: Restart, mut instance: Instance) -> Instance {
    instance.spec.restart = restart;
    instance
}

#[test]
fn what_waits_for_a_node_is_told_why_once_and_again_only_after_a_while() {
    let mut cell = Cell::new([], [pending(1, Restart::Never)]);
    cell.run_until(8_000);
    let reason = |cell: &Cell| cell.records[&id(1)].reason.clone().unwrap();
    assert_eq!((cell.done.len(), cell.done[0]), (1, (1_000, "explain")));
    assert_eq!(reason(&cell), "No node is live.");
    let full = Node { capacity: 0, ..node(1) };
    cell.keeper.handle_node(full.id, Some(full), cell.now);
    cell.run_until(30_000);
    assert_eq!((cell.done.len(), cell.done[1]), (2, (11_000, "explain")));
    assert_eq!(reason(&cell), "Every live node with fitting labels is full.");
}

#[test]
fn nothing_is_placed_before_it_is_known_which_nodes_are_drained() {
    let mut keeper = Keeper::new(at(0));
    keeper.handle_nodes([node(1)], at(0));
    keeper.handle_instance(id(1), Some(&pending(1, Restart::Never)), at(0));
    assert_eq!(keeper.poll(at(0), 0), None);
    keeper.handle_drains([node(1).id].into(), at(1));
    assert_eq!(keeper.poll(at(1), 0), None);
    keeper.handle_drains(BTreeSet::new(), at(2));
    assert!(matches!(keeper.poll(at(2), 0), Some(Step { kind: StepKind::Place(_), .. })));
}

#[test]
fn a_node_that_an_operator_drains_is_given_nothing_until_it_is_drained_no_more() {
    let mut cell = Cell::new([1], []);
    cell.keeper.handle_drain(node(1).id, true, cell.now);
    cell.write(pending(1, Restart::Never));
    cell.run_until(5_000);
    assert_eq!(cell.phase(1), Phase::Pending);
    assert_eq!(cell.records[&id(1)].reason.as_deref(), Some("Every live node with fitting labels is draining."));
    cell.keeper.handle_drains(BTreeSet::new(), cell.now);
    cell.run_until(5_000);
    assert_eq!(cell.phase(1), Phase::Starting);
}

fn external(number: u128) -> Instance {
    let spec = InstanceSpec { external: Some(External::default()), ..InstanceSpec::default() };
    Instance { spec, phase: Phase::Running, generation: Generation(1), ..pending(number, Restart::Never) }
}

#[test]
fn an_external_instance_is_left_alone_but_for_a_move_that_was_forgotten() {
    let mut cell = Cell::new([], [external(1)]);
    cell.run_until(3_600_000);
    assert!(cell.done.is_empty());
    cell.change(1, |record| lifecycle::begin_external_move(record).unwrap());
    cell.run_until(3_600_000 + 599_999);
    assert_eq!(cell.phase(1), Phase::Moving);
    cell.run_until(3_600_000 + 600_000);
    assert_eq!(cell.phase(1), Phase::Running);
    assert!(cell.records[&id(1)].reason.as_ref().unwrap().contains("platform"));
    cell.change(1, |record| lifecycle::begin_external_move(record).unwrap());
    cell.run_until(4_500_000);
    assert_eq!(cell.phase(1), Phase::Moving, "each move has its own ten minutes");
}

#[test]
fn few_steps_are_under_way_at_a_time_and_lost_ones_are_tried_again() {
    let mut cell = Cell::new([1], (0..1000).map(|number| pending(number, Restart::Never)));
    let steps = |cell: &mut Cell, now| std::iter::from_fn(|| cell.keeper.poll(now, 0)).count();
    // Room for a hundred is on the node; nothing is ever heard of any step.
    assert_eq!(steps(&mut cell, at(0)), STEPS_AT_ONCE);
    assert_eq!(cell.keeper.next_deadline(), Some(at(5_000)));
    assert_eq!(steps(&mut cell, at(5_000)), STEPS_AT_ONCE);
}

/// What happens to a cell from outside.
#[derive(Clone, Copy, Debug)]
enum Event {
    Create(u128),
    NodeUp(u128),
    NodeDown(u128),
    Fail(u128),
    Start(u128),
    Sleep(u128),
    Wake(u128),
    Delete(u128),
    Wait(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u128..8).prop_map(Event::Create),
        (0u128..3).prop_map(Event::NodeUp),
        (0u128..3).prop_map(Event::NodeDown),
        (0u128..8).prop_map(Event::Fail),
        (0u128..8).prop_map(Event::Start),
        (0u128..8).prop_map(Event::Sleep),
        (0u128..8).prop_map(Event::Wake),
        (0u128..8).prop_map(Event::Delete),
        (0u64..30_000).prop_map(Event::Wait),
    ]
}

proptest! {
    #[test]
    fn in_the_end_everything_is_placed_or_has_ended_and_every_count_is_right(
        events in proptest::collection::vec(any_event(), 1..120),
    ) {
        let mut cell = Cell::new([], []);
        for event in events {
            match event {
                Event::Create(number) if !cell.records.contains_key(&id(number)) => {
                    cell.write(pending(number, if number % 2 == 0 { Restart::Always } else { Restart::Never }));
                }
                Event::NodeUp(number) => cell.keeper.handle_node(node(number).id, Some(node(number)), cell.now),
                Event::NodeDown(number) => cell.keeper.handle_node(node(number).id, None, cell.now),
                Event::Wait(millis) => cell.run_until(cell.now.as_millis() + millis),
                Event::Fail(n) | Event::Start(n) | Event::Sleep(n) | Event::Wake(n) | Event::Delete(n)
                    if cell.records.contains_key(&id(n)) => {
                    let unix = cell.now.as_millis();
                    cell.change(n, |record| {
                        let owner = record.node.unwrap_or(node(0).id);
                        let _ = match event {
                            Event::Fail(_) => lifecycle::failed(record, owner, record.generation, "it died", unix),
                            Event::Start(_) => lifecycle::started(record, owner, record.generation),
                            Event::Sleep(_) if unix.is_multiple_of(2) => lifecycle::desire_sleeping(record),
                            Event::Sleep(_) => lifecycle::asleep(record, owner, record.generation),
                            Event::Wake(_) => lifecycle::desire_awake(record),
                            _ => lifecycle::desire_deleted(record),
                        };
                    });
                }
                _ => {}
            }
            prop_assert!(cell.keeper.due.len() + cell.keeper.under_way.len() <= cell.records.len());
        }
        cell.keeper.handle_node(node(0).id, Some(node(0)), cell.now);
        cell.run_until(cell.now.as_millis() + 100_000);
        for record in cell.records.values() {
            let owner_is_live = record.node.is_some_and(|node| cell.keeper.nodes.contains_key(&node));
            let settled = match record.phase {
                Phase::Running if record.spec.restart == Restart::Never && record.desired == Desired::Sleeping => true,
                Phase::Starting | Phase::Running => owner_is_live,
                Phase::Failed | Phase::Lost => record.spec.restart == Restart::Never,
                Phase::Deleted => true,
                Phase::Sleeping => record.desired == Desired::Sleeping,
                Phase::Pending | Phase::Moving | Phase::Stopped => false,
            };
            prop_assert!(settled, "{record:?}");
        }
        for (id, given) in &cell.keeper.given {
            let holds = |record: &&Instance| record.node == Some(*id) && !record.phase.is_end();
            prop_assert_eq!(given.count as usize, cell.records.values().filter(holds).count());
        }
    }
}
