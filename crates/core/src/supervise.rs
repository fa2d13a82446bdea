//! Keeps one service running: when it is started, when it counts as up, when it is started again.
//!
//! Facts about processes arrive late and out of order: the exit of a start that nobody waits for any more, the probe of one
//! that has just died. Each start therefore has a number that only grows, every fact names the start that it is about,
//! and a fact about any other than the present one changes nothing.
//!
//! ```text
//!   down ──▶ starting ──probe──▶ up
//!    ▲  ▲       ▲ │ late or exited │ exited
//!    │  └─stop  │ ▼               ▼
//!    │        backoff ◀────────────    started again, after ever longer pauses
//!    └─ exited well, and need not run    failed: exited badly, and is not started again
//!                                        gave up: ended too often in too short a time
//! ```
//!
//! The owner does what [`Supervisor::poll`] says until it returns `None`, and calls it again after each fact and at
//! [`Supervisor::next_deadline`].

use std::collections::VecDeque;
use std::time::Duration;

use crate::record::ServiceRestart;
use crate::time::{Instant, earliest};

/// The first pause before another start: nobody notices it, and a program that dies at once does not fill a core.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest pause, unless the policy says otherwise: what somebody who has just repaired the cause waits at most.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// A service that was up for so long has shown that it can be: its earlier failures are forgotten.
pub const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// How long a service that is asked to end may take, before it is killed: what most supervisors give.
pub const GRACE: Duration = Duration::from_secs(10);

/// Between a failed probe and the next: short at first, because most servers listen within milliseconds.
const FIRST_PROBE_PAUSE: Duration = Duration::from_millis(10);

/// The longest of them: a slow start is noticed within this.
const LONGEST_PROBE_PAUSE: Duration = Duration::from_millis(250);

/// How a service is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether it is started again when it ends.
    pub restart: ServiceRestart,
    /// How long a start may take to be ready.
    pub within: Duration,
    /// The longest pause between two starts.
    pub longest_backoff: Duration,
    /// When it is given up; never if absent.
    pub patience: Option<Patience>,
}

/// How many ends that nobody asked for are put up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// With so many it is given up,
    pub ends: usize,
    /// if they came within this.
    pub within: Duration,
}

impl Policy {
    /// The policy of a service that is never given up.
    pub const fn new(restart: ServiceRestart, within: Duration) -> Self {
        Self { restart, within, longest_backoff: LONGEST_BACKOFF, patience: None }
    }
}

/// What the outside sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does not run, and is not about to.
    Down,
    /// It is being started, and is not ready.
    Starting,
    /// It is ready.
    Up,
    /// It ended, or is being ended, and will be started again.
    Backoff,
    /// It ended badly, and is not started again.
    Failed,
    /// It ended too often in too short a time, and is not started again by itself.
    GaveUp,
}

impl State {
    /// The word used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
            Self::GaveUp => "gave_up",
        }
    }

    /// Whether it is about to be up: who wants to reach it may wait.
    pub const fn is_coming(self) -> bool {
        match self {
            Self::Starting | Self::Backoff => true,
            Self::Down | Self::Up | Self::Failed | Self::GaveUp => false,
        }
    }
}

/// What the owner must do now. Each names the start that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start the command, and say how that went.
    Spawn(u64),
    /// Look once whether it is ready, and say what was found.
    Probe(u64),
    /// Ask it to end.
    Ask(u64),
    /// Kill it, and everything that belongs to it.
    Kill(u64),
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervisor {
    policy: Policy,
    /// The number of the present start; 0 before the first.
    start: u64,
    phase: Phase,
    /// The pause before the next start, if the present one fails.
    backoff: Duration,
    /// When the last starts ended that nobody had asked to, oldest first; as many as the policy's patience counts.
    ends: VecDeque<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Down,
    Failed,
    GaveUp,
    /// The next start is due then.
    Backoff {
        at: Instant,
    },
    /// The owner was told to spawn it, or is about to be.
    Spawning {
        told: bool,
        /// What came meanwhile.
        then: Option<Why>,
    },
    /// It runs, and is not ready.
    Starting {
        since: Instant,
        probe: Probe,
        pause: Duration,
    },
    Up {
        since: Instant,
    },
    /// It runs and is to end.
    Ending {
        why: Why,
        told: bool,
        /// When it is killed; `None` once the owner was told to.
        kill_at: Option<Instant>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    DueAt(Instant),
    UnderWay,
}

impl Probe {
    fn is_due(self, now: Instant) -> bool {
        match self {
            Self::DueAt(at) => now >= at,
            Self::UnderWay => false,
        }
    }
}

/// Why a start is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Somebody asked for another.
    Restart,
    /// It was not ready in time.
    Late,
    /// It is not wanted any more.
    Stop,
}

impl Supervisor {
    /// A service that is to run: its first start is due at once.
    pub const fn new(policy: Policy) -> Self {
        let phase = Phase::Spawning { told: false, then: None };
        Self { policy, start: 1, phase, backoff: FIRST_BACKOFF, ends: VecDeque::new() }
    }

    /// How it is.
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Down | Phase::Ending { why: Why::Stop, .. } | Phase::Spawning { then: Some(Why::Stop), .. } => {
                State::Down
            }
            Phase::Failed => State::Failed,
            Phase::GaveUp => State::GaveUp,
            Phase::Backoff { .. } | Phase::Ending { why: Why::Restart | Why::Late, .. } => State::Backoff,
            Phase::Spawning { .. } | Phase::Starting { .. } => State::Starting,
            Phase::Up { .. } => State::Up,
        }
    }

    /// The number of the present start, or of the last.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Whether a process of the present start may be living.
    pub const fn may_live(&self) -> bool {
        match self.phase {
            Phase::Spawning { told, .. } => told,
            Phase::Starting { .. } | Phase::Up { .. } | Phase::Ending { .. } => true,
            Phase::Down | Phase::Failed | Phase::GaveUp | Phase::Backoff { .. } => false,
        }
    }

    /// Until when an end that nobody asked for is one too many.
    pub fn last_chance(&self) -> Option<Instant> {
        let Patience { ends, within } = self.policy.patience?;
        let first = (self.ends.len() + 1).checked_sub(ends)?;
        self.ends.get(first).map(|&first| first + within)
    }

    // --- facts ---

    /// The command was started.
    pub fn handle_spawned(&mut self, start: u64, now: Instant) {
        let Phase::Spawning { told: true, then } = self.phase else { return };
        if start != self.start {
            return;
        }
        self.phase = match then {
            Some(why) => ending(why, now),
            None => Phase::Starting { since: now, probe: Probe::DueAt(now), pause: FIRST_PROBE_PAUSE },
        };
    }

    /// The command could not be started.
    pub fn handle_spawn_failed(&mut self, start: u64, now: Instant) {
        if let Phase::Spawning { told: true, then } = self.phase
            && start == self.start
        {
            self.end(then, false, now);
        }
    }

    /// A probe found it ready, or not.
    pub fn handle_probed(&mut self, start: u64, is_ready: bool, now: Instant) {
        let Phase::Starting { since, probe: Probe::UnderWay, pause } = self.phase else { return };
        if start != self.start {
            return;
        }
        self.phase = if is_ready {
            Phase::Up { since: now }
        } else {
            let longer = (pause * 2).min(LONGEST_PROBE_PAUSE);
            Phase::Starting { since, probe: Probe::DueAt(now + pause), pause: longer }
        };
    }

    /// Its process has ended, well (with status 0) or not.
    pub fn handle_exited(&mut self, start: u64, well: bool, now: Instant) {
        if start != self.start {
            return;
        }
        match self.phase {
            Phase::Starting { .. } => self.end(None, well, now),
            Phase::Up { since } => {
                if now.since(since) >= SETTLED_AFTER {
                    self.backoff = FIRST_BACKOFF;
                }
                self.end(None, well, now);
            }
            Phase::Ending { why, .. } => self.end(Some(why), well, now),
            Phase::Spawning { .. } | Phase::Down | Phase::Failed | Phase::GaveUp | Phase::Backoff { .. } => {}
        }
    }

    /// Somebody wants another start, now: whatever was the matter is taken to be repaired.
    pub fn handle_restart(&mut self, now: Instant) {
        self.backoff = FIRST_BACKOFF;
        self.ends.clear();
        match &mut self.phase {
            Phase::Down | Phase::Failed | Phase::GaveUp | Phase::Backoff { .. } => self.begin(),
            // Nothing has begun that could be begun again.
            Phase::Spawning { told: false, then } => *then = None,
            Phase::Spawning { told: true, then } => *then = Some(Why::Restart),
            Phase::Starting { .. } | Phase::Up { .. } => self.phase = ending(Why::Restart, now),
            Phase::Ending { why, .. } => *why = Why::Restart,
        }
    }

    /// It is not wanted any more.
    pub fn handle_stop(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Down
            | Phase::Failed
            | Phase::GaveUp
            | Phase::Backoff { .. }
            | Phase::Spawning { told: false, .. } => self.phase = Phase::Down,
            Phase::Spawning { told: true, then } => *then = Some(Why::Stop),
            Phase::Starting { .. } | Phase::Up { .. } => self.phase = ending(Why::Stop, now),
            Phase::Ending { why, .. } => *why = Why::Stop,
        }
    }

    // --- time ---

    /// The next thing to do. Call it until it returns `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Effect> {
        if let Phase::Backoff { at } = self.phase
            && now >= at
        {
            self.begin();
        }
        if let Phase::Starting { since, .. } = self.phase
            && now >= since + self.policy.within
        {
            self.phase = ending(Why::Late, now);
        }
        let start = self.start;
        match &mut self.phase {
            Phase::Spawning { told, .. } if !*told => {
                *told = true;
                Some(Effect::Spawn(start))
            }
            Phase::Starting { probe, .. } if probe.is_due(now) => {
                *probe = Probe::UnderWay;
                Some(Effect::Probe(start))
            }
            Phase::Ending { told, .. } if !*told => {
                *told = true;
                Some(Effect::Ask(start))
            }
            Phase::Ending { kill_at, .. } if kill_at.is_some_and(|at| now >= at) => {
                *kill_at = None;
                Some(Effect::Kill(start))
            }
            Phase::Down
            | Phase::Failed
            | Phase::GaveUp
            | Phase::Backoff { .. }
            | Phase::Spawning { .. }
            | Phase::Starting { .. }
            | Phase::Up { .. }
            | Phase::Ending { .. } => None,
        }
    }

    /// When [`Self::poll`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Backoff { at } => Some(at),
            Phase::Starting { since, probe, .. } => {
                let probe = match probe {
                    Probe::DueAt(at) => Some(at),
                    Probe::UnderWay => None,
                };
                earliest(probe, Some(since + self.policy.within))
            }
            Phase::Ending { kill_at, .. } => kill_at,
            Phase::Down | Phase::Failed | Phase::GaveUp | Phase::Spawning { .. } | Phase::Up { .. } => None,
        }
    }

    /// Nothing of the present start is left; `why` is the reason if it was ended.
    fn end(&mut self, why: Option<Why>, well: bool, now: Instant) {
        match why {
            Some(Why::Stop) => self.phase = Phase::Down,
            Some(Why::Restart) => self.begin(),
            Some(Why::Late) => self.end_by_policy(false, now),
            None => self.end_by_policy(well, now),
        }
    }

    fn end_by_policy(&mut self, well: bool, now: Instant) {
        self.phase = match (self.policy.restart, well) {
            (ServiceRestart::Always, _) | (ServiceRestart::OnFailure, false) if self.has_had_enough(now) => {
                Phase::GaveUp
            }
            (ServiceRestart::Always, _) | (ServiceRestart::OnFailure, false) => {
                let at = now + self.backoff;
                self.backoff = (self.backoff * 2).min(self.policy.longest_backoff);
                Phase::Backoff { at }
            }
            (ServiceRestart::OnFailure | ServiceRestart::Never, true) => Phase::Down,
            (ServiceRestart::Never, false) => Phase::Failed,
        };
    }

    /// Counts an end, and tells whether it was one too many.
    fn has_had_enough(&mut self, now: Instant) -> bool {
        let Some(Patience { ends, within }) = self.policy.patience else { return false };
        self.ends.push_back(now);
        if self.ends.len() > ends {
            self.ends.pop_front();
        }
        self.ends.len() == ends && self.ends.front().is_some_and(|&first| now.since(first) <= within)
    }

    fn begin(&mut self) {
        self.start += 1;
        self.phase = Phase::Spawning { told: false, then: None };
    }
}

fn ending(why: Why, now: Instant) -> Phase {
    Phase::Ending { why, told: false, kill_at: Some(now + GRACE) }
}

#[cfg(test)]
mod tests {
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
                assert_eq!(
                    service.last_chance(),
                    (end == 10).then_some(first + Duration::from_secs(60)),
                    "before {end}"
                );
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
        assert_eq!((late, now, service.state()), (Some(Effect::Ask(1)), at(5_000), State::Backoff));
        service.handle_exited(1, true, at(5_001));
        assert_eq!(service.next_deadline(), Some(at(5_101)), "an end that was asked for is not a good one");
    }

    #[test]
    fn who_does_not_end_when_asked_is_killed() {
        let mut service = up(ServiceRestart::Always);
        service.handle_stop(at(5));
        assert_eq!((service.poll(at(5)), service.state()), (Some(Effect::Ask(1)), State::Down));
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
        assert_eq!((service.poll(at(1)), service.state()), (Some(Effect::Ask(1)), State::Backoff));
        service.handle_exited(1, false, at(2));
        assert_eq!((service.poll(at(2)), service.state()), (Some(Effect::Spawn(2)), State::Starting));
        // While it is being spawned, and again.
        service.handle_restart(at(2));
        service.handle_restart(at(2));
        service.handle_spawned(2, at(3));
        assert_eq!(service.poll(at(3)), Some(Effect::Ask(2)));
        service.handle_exited(2, true, at(4));
        assert_eq!(service.poll(at(4)), Some(Effect::Spawn(3)));
        // While nothing runs.
        service.handle_spawn_failed(3, at(4));
        assert_eq!(service.state(), State::Failed);
        service.handle_restart(at(5));
        assert_eq!(service.poll(at(5)), Some(Effect::Spawn(4)));
    }

    #[derive(Clone, Debug)]
    enum Fact {
        Spawned(bool),
        Probed(bool),
        Exited(bool),
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
            1 => Just(Fact::Restart),
            1 => Just(Fact::Stop),
            6 => prop_oneof![0u64..300, 0u64..70_000].prop_map(Fact::Wait),
            4 => (1u64..4, 0u8..5).prop_map(|(back, which)| Fact::Stale(back, which)),
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
                Effect::Ask(start) | Effect::Kill(start) => assert!(start == self.spawned && self.living),
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
            facts in proptest::collection::vec(any_fact(), 1..80),
        ) {
            let (mut service, mut world, mut now) = (kept(restart), World::default(), at(0));
            service.policy.patience = is_impatient.then_some(Patience { ends: 3, within: Duration::from_secs(1) });
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
}
