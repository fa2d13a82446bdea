use proptest::prelude::*;

use super::*;

const WITHIN: Duration = Duration::from_secs(5);

const fn kept(restart: ServiceRestart) -> Supervisor {
    Supervisor::new(Policy::new(restart, WITHIN))
}

const fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

/// A service whose first start runs, and has been told to be probed.
fn starting(restart: ServiceRestart) -> Supervisor {
    let mut service = kept(restart);
    assert_eq!(service.poll(at(0)), Some(Effect::Spawn(1)));
    service.handle_spawned(1, at(0));
    assert_eq!(service.poll(at(0)), Some(Effect::Probe(1)));
    service
}

fn up(restart: ServiceRestart) -> Supervisor {
    let mut service = starting(restart);
    service.handle_probed(1, true, at(0));
    assert_eq!((service.state(), service.poll(at(0)), service.next_deadline()), (State::Up, None, None));
    service
}

#[test]
fn what_follows_an_exit_is_as_its_policy_says() {
    for (restart, well, state) in [
        (ServiceRestart::Always, true, State::Backoff),
        (ServiceRestart::Always, false, State::Backoff),
        (ServiceRestart::OnFailure, true, State::Down),
        (ServiceRestart::OnFailure, false, State::Backoff),
        (ServiceRestart::Never, true, State::Down),
        (ServiceRestart::Never, false, State::Failed),
    ] {
        for mut service in [starting(restart), up(restart)] {
            service.handle_exited(1, well, at(1));
            assert_eq!(service.state(), state, "{restart:?} {well}");
            let due = (state == State::Backoff).then_some(at(101));
            assert_eq!(service.next_deadline(), due);
            assert_eq!(service.poll(at(101)), due.map(|_| Effect::Spawn(2)));
        }
    }
}

#[test]
fn a_command_that_cannot_be_started_has_failed() {
    for (restart, state) in [(ServiceRestart::Never, State::Failed), (ServiceRestart::OnFailure, State::Backoff)] {
        let mut service = kept(restart);
        service.poll(at(0));
        service.handle_spawn_failed(1, at(0));
        assert_eq!(service.state(), state);
    }
}

#[test]
fn pauses_double_to_half_a_minute_and_are_forgotten_after_a_minute_up() {
    let (mut service, mut now, mut pauses) = (kept(ServiceRestart::Always), at(0), Vec::new());
    for start in 1..=11 {
        assert_eq!(service.poll(now), Some(Effect::Spawn(start)));
        service.handle_spawned(start, now);
        service.handle_exited(start, false, now);
        let due = service.next_deadline().unwrap();
        pauses.push(due.since(now).as_millis());
        now = due;
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    for (up_for, pause) in [(Duration::from_secs(59), 30_000), (SETTLED_AFTER, 100)] {
        service.poll(now);
        service.handle_spawned(service.start(), now);
        service.poll(now);
        service.handle_probed(service.start(), true, now);
        now = now + up_for;
        service.handle_exited(service.start(), false, now);
        let due = service.next_deadline().unwrap();
        assert_eq!(due.since(now).as_millis(), pause);
        now = due;
    }
}

/// A service that is given up as a browser is.
fn impatient() -> Supervisor {
    let patience = Some(Patience { ends: 10, within: Duration::from_secs(60) });
    let longest_backoff = Duration::from_secs(5);
    Supervisor::new(Policy { longest_backoff, patience, ..Policy::new(ServiceRestart::Always, WITHIN) })
}

/// Starts it as soon as it may be, and has it end after so long.
fn lives(service: &mut Supervisor, now: Instant, millis: u64) -> Instant {
    let now = service.next_deadline().map_or(now, |due| due.max(now));
    assert!(matches!(service.poll(now), Some(Effect::Spawn(_))));
    service.handle_spawned(service.start(), now);
    assert!(matches!(service.poll(now), Some(Effect::Probe(_))));
    service.handle_probed(service.start(), true, now);
    let end = now + Duration::from_millis(millis);
    service.handle_exited(service.start(), false, end);
    end
}

#[test]
fn ten_ends_within_a_minute_are_one_too_many_and_a_restart_forgets_them() {
    let (mut service, mut now) = (impatient(), at(0));
    for _ in 0..2 {
        let first = now + Duration::from_millis(1);
        for end in 1..=10 {
            assert!(end == 1 || service.state() == State::Backoff, "after {end}");
            assert_eq!(service.last_chance(), (end == 10).then_some(first + Duration::from_secs(60)), "before {end}");
            now = lives(&mut service, now, 1);
        }
        assert_eq!((service.state(), service.next_deadline(), service.poll(now)), (State::GaveUp, None, None));
        assert!(!service.may_live() && !service.state().is_coming());
        service.handle_restart(now);
    }
    assert_eq!((service.state(), service.poll(now)), (State::Starting, Some(Effect::Spawn(21))));
    // Stopped while given up, it is what it was asked to be.
    let mut service = Supervisor { phase: Phase::GaveUp, ..impatient() };
    service.handle_stop(now);
    assert_eq!(service.state(), State::Down);
}

#[test]
fn ends_that_are_spread_over_more_than_a_minute_are_put_up_with() {
    let (mut service, mut now) = (impatient(), at(0));
    for _ in 0..100 {
        now = lives(&mut service, now, 6_667);
        assert_eq!(service.state(), State::Backoff);
        assert!(service.next_deadline().unwrap().since(now) <= Duration::from_secs(5));
    }
    assert_eq!(service.ends.len(), 10);
}

#[test]
fn it_is_probed_ever_more_slowly_until_it_is_ready_or_late() {
    let (mut service, mut probes) = (starting(ServiceRestart::Always), vec![0]);
    let mut now = at(0);
    let late = loop {
        service.handle_probed(1, false, now);
        now = service.next_deadline().unwrap();
        match service.poll(now) {
            Some(Effect::Probe(1)) => probes.push(now.as_millis()),
            other => break other,
        }
    };
    assert_eq!(probes[..7], [0, 10, 30, 70, 150, 310, 560]);
    assert_eq!((late, now, service.state()), (Some(Effect::Ask(1, Why::Late)), at(5_000), State::Backoff));
    service.handle_exited(1, true, at(5_001));
    assert_eq!(service.next_deadline(), Some(at(5_101)), "an end that was asked for is not a good one");
}

#[test]
fn who_does_not_end_when_asked_is_killed() {
    let mut service = up(ServiceRestart::Always);
    service.handle_stop(at(5));
    assert_eq!((service.poll(at(5)), service.state()), (Some(Effect::Ask(1, Why::Stop)), State::Down));
    assert_eq!((service.poll(at(10_004)), service.next_deadline()), (None, Some(at(10_005))));
    assert_eq!((service.poll(at(10_005)), service.poll(at(99_999))), (Some(Effect::Kill(1)), None));
    assert!(service.may_live());
    service.handle_exited(1, false, at(99_999));
    assert_eq!((service.may_live(), service.poll(at(200_000))), (false, None));
}

#[test]
fn a_restart_follows_the_end_at_once_whatever_the_policy_and_the_pause() {
    let mut service = up(ServiceRestart::Never);
    service.handle_restart(at(1));
    assert_eq!((service.poll(at(1)), service.state()), (Some(Effect::Ask(1, Why::Restart)), State::Backoff));
    service.handle_exited(1, false, at(2));
    assert_eq!((service.poll(at(2)), service.state()), (Some(Effect::Spawn(2)), State::Starting));
    // While it is being spawned, and again.
    service.handle_restart(at(2));
    service.handle_restart(at(2));
    service.handle_spawned(2, at(3));
    assert_eq!(service.poll(at(3)), Some(Effect::Ask(2, Why::Restart)));
    service.handle_exited(2, true, at(4));
    assert_eq!(service.poll(at(4)), Some(Effect::Spawn(3)));
    // While nothing runs.
    service.handle_spawn_failed(3, at(4));
    assert_eq!(service.state(), State::Failed);
    service.handle_restart(at(5));
    assert_eq!(service.poll(at(5)), Some(Effect::Spawn(4)));
}

/// A service that is up since 0 and asked for signs of life.
fn watched() -> Supervisor {
    let policy = Policy::new(ServiceRestart::Always, WITHIN);
    let mut service = Supervisor::new(Policy { silence: Some(Duration::from_secs(30)), ..policy });
    service.poll(at(0));
    service.handle_spawned(1, at(0));
    service.poll(at(0));
    service.handle_probed(1, true, at(0));
    assert_eq!((service.poll(at(9_999)), service.next_deadline()), (None, Some(at(10_000))));
    assert_eq!(service.poll(at(10_000)), Some(Effect::Look(1)));
    service
}

#[test]
fn one_that_answers_however_late_is_asked_again_after_a_pause_and_never_ended() {
    let (mut service, mut now) = (watched(), at(10_000));
    for late in [0, 29_999, 5, 9_999, 29_999] {
        let answered = now + Duration::from_millis(late);
        while let Some(due) = service.next_deadline().filter(|&due| due <= answered) {
            assert_eq!(service.poll(due), None);
        }
        service.handle_alive(1, answered);
        now = answered + Duration::from_secs(10);
        assert_eq!((service.state(), service.next_deadline()), (State::Up, Some(now)));
        assert_eq!(service.poll(now), Some(Effect::Look(1)));
    }
}

#[test]
fn one_that_is_silent_for_too_long_is_ended_soon_and_started_again_as_after_a_crash() {
    let mut service = watched();
    for due in [20_000, 30_000] {
        assert_eq!((service.next_deadline(), service.poll(at(due))), (Some(at(due)), None));
    }
    service.handle_alive(2, at(39_999));
    assert_eq!((service.poll(at(40_000)), service.state()), (Some(Effect::Ask(1, Why::Silent)), State::Backoff));
    // A word that comes too late changes nothing.
    service.handle_alive(1, at(40_001));
    assert_eq!((service.poll(at(41_999)), service.poll(at(42_000))), (None, Some(Effect::Kill(1))));
    service.handle_exited(1, false, at(42_001));
    assert_eq!((service.state(), service.poll(at(42_101))), (State::Backoff, Some(Effect::Spawn(2))));
}

#[test]
fn time_in_which_everything_stood_still_is_no_silence() {
    let mut service = watched();
    let thawed = at(3_600_000);
    assert_eq!((service.poll(thawed), service.state()), (None, State::Up));
    assert_eq!(service.next_deadline(), Some(thawed + Duration::from_secs(10)));
    service.handle_alive(1, thawed + Duration::from_secs(19));
    assert_eq!(service.poll(thawed + Duration::from_secs(20)), None);
    // Nor before it was asked.
    assert_eq!(service.poll(thawed + Duration::from_secs(9_000)), Some(Effect::Look(1)));
}

#[derive(Clone, Debug)]
enum Fact {
    Spawned(bool),
    Probed(bool),
    Exited(bool),
    Alive,
    Restart,
    Stop,
    Wait(u64),
    /// A fact of an earlier start.
    Stale(u64, u8),
}

fn any_fact() -> impl Strategy<Value = Fact> {
    prop_oneof![
        4 => prop_oneof![9 => Just(true), 1 => Just(false)].prop_map(Fact::Spawned),
        4 => any::<bool>().prop_map(Fact::Probed),
        3 => any::<bool>().prop_map(Fact::Exited),
        2 => Just(Fact::Alive),
        1 => Just(Fact::Restart),
        1 => Just(Fact::Stop),
        6 => prop_oneof![0u64..300, 0u64..70_000].prop_map(Fact::Wait),
        4 => (1u64..4, 0u8..6).prop_map(|(back, which)| Fact::Stale(back, which)),
    ]
}

/// What the owner knows: which start it was told to spawn, and whether that lives.
#[derive(Default)]
struct World {
    spawned: u64,
    pending: bool,
    living: bool,
    probing: bool,
}

impl World {
    fn obey(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn(start) => {
                assert!(start > self.spawned, "start {start} after {}", self.spawned);
                assert!(!self.living && !self.pending, "two starts at once");
                (self.spawned, self.pending) = (start, true);
            }
            Effect::Probe(start) => {
                assert!(start == self.spawned && self.living);
                self.probing = true;
            }
            Effect::Look(start) | Effect::Ask(start, _) | Effect::Kill(start) => {
                assert!(start == self.spawned && self.living);
            }
        }
    }
}

proptest! {
    #[test]
    fn starts_only_grow_one_at_a_time_and_an_older_one_changes_nothing(
        restart in prop_oneof![
            Just(ServiceRestart::Always), Just(ServiceRestart::OnFailure), Just(ServiceRestart::Never)
        ],
        is_impatient: bool,
        is_watched: bool,
        facts in proptest::collection::vec(any_fact(), 1..80),
    ) {
        let (mut service, mut world, mut now) = (kept(restart), World::default(), at(0));
        service.policy.patience = is_impatient.then_some(Patience { ends: 3, within: Duration::from_secs(1) });
        service.policy.silence = is_watched.then_some(Duration::from_secs(30));
        for fact in facts {
            match fact {
                Fact::Spawned(well) if world.pending => {
                    (world.pending, world.living) = (false, well);
                    if well { service.handle_spawned(world.spawned, now) }
                    else { service.handle_spawn_failed(world.spawned, now) }
                }
                Fact::Probed(is_ready) if world.probing => {
                    world.probing = false;
                    service.handle_probed(world.spawned, is_ready, now);
                }
                Fact::Exited(well) if world.living => {
                    (world.living, world.probing) = (false, false);
                    service.handle_exited(world.spawned, well, now);
                }
                Fact::Spawned(_) | Fact::Probed(_) | Fact::Exited(_) => {}
                Fact::Alive => service.handle_alive(world.spawned, now),
                Fact::Restart => service.handle_restart(now),
                Fact::Stop => {
                    service.handle_stop(now);
                    prop_assert_eq!(service.state(), State::Down);
                }
                Fact::Wait(millis) => now = now + Duration::from_millis(millis),
                Fact::Stale(back, which) => {
                    let (before, older) = (service.clone(), service.start().saturating_sub(back));
                    match which {
                        0 => service.handle_spawned(older, now),
                        1 => service.handle_spawn_failed(older, now),
                        2 | 3 => service.handle_probed(older, which == 2, now),
                        4 => service.handle_alive(older, now),
                        _ => service.handle_exited(older, false, now),
                    }
                    prop_assert_eq!(&service, &before);
                }
            }
            while let Some(effect) = service.poll(now) {
                world.obey(effect);
            }
            prop_assert!(service.next_deadline().is_none_or(|due| due > now), "it would spin");
            prop_assert_eq!(service.may_live(), world.living || world.pending);
            prop_assert!(service.backoff >= FIRST_BACKOFF && service.backoff <= LONGEST_BACKOFF);
        }
    }
}
