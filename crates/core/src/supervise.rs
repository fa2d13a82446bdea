//! Keeps one service running: when it is started, when it counts as up, when it is started again.
//!
//! Facts about processes arrive late and out of order: the exit of a start that nobody waits for any more, the probe of one
//! that has just died. Each start therefore has a number that only grows, every fact names the start that it is about,
//! and a fact about any other than the present one changes nothing.
//!
//! ```text
//!   down ──▶ starting ──probe──▶ up
//!    ▲  ▲       ▲ │ late or exited │ exited, or silent
//!    │  └─stop  │ ▼               ▼
//!    │        backoff ◀────────────    started again, after ever longer pauses
//!    └─ exited well, and need not run    failed: exited badly, and is not started again
//!                                        gave up: ended too often in too short a time
//! ```
//!
//! A service whose policy says so is asked for a sign of life while it is up, because one that hangs does not exit. Silence is
//! counted in turns of this machine and not read off a clock: where all of it stood still, a sleeping laptop or a frozen
//! container, the service gets the time that it did not have.
//!
//! The owner does what [`Supervisor::poll`] says until it returns `None`, and calls it again after each fact and at
//! [`Supervisor::next_deadline`].

use std::collections::VecDeque;
use std::time::Duration;

use crate::record::ServiceRestart;
use crate::time::{Instant, earliest};

#[cfg(test)]
mod tests;

/// The first pause before another start: nobody notices it, and a program that dies at once does not fill a core.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest pause, unless the policy says otherwise: what somebody who has just repaired the cause waits at most.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// A service that was up for so long has shown that it can be: its earlier failures are forgotten.
pub const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// How long a service that is asked to end may take, before it is killed: what most supervisors give.
pub const GRACE: Duration = Duration::from_secs(10);

/// The same for one that has been silent for so long that it was given up: it is not expected to end in good order.
pub const SILENT_GRACE: Duration = Duration::from_secs(2);

/// Between a sign of life and the next question, where more silence than this is put up with: seldom enough to cost nothing.
const LOOK_PAUSE: Duration = Duration::from_secs(10);

/// Parts of the silence that is put up with. A service is given up for as many in a row, each lived through.
const LOOK_PARTS: u32 = 3;

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
    /// How long it may leave a question unanswered while it is up, before it is started anew; never asked if absent.
    pub silence: Option<Duration>,
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
        Self { restart, within, longest_backoff: LONGEST_BACKOFF, patience: None, silence: None }
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
    /// Ask it for a sign of life until it gives one, and say so.
    Look(u64),
    /// Ask it to end, for this reason.
    Ask(u64, Why),
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
        /// Absent if it is never asked for a sign of life.
        look: Option<Look>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    DueAt(Instant),
    UnderWay {
        /// How many parts of the silence it has lived through.
        silent: u32,
        /// When the next one is over.
        until: Instant,
    },
}

impl Look {
    /// The first question after a sign of life.
    fn after(silence: Duration, now: Instant) -> Self {
        Self::DueAt(now + silence.min(LOOK_PAUSE))
    }

    const fn deadline(self) -> Instant {
        match self {
            Self::DueAt(at) | Self::UnderWay { until: at, .. } => at,
        }
    }
}

/// Why a start is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody asked for another.
    Restart,
    /// It was not ready in time.
    Late,
    /// It was up, and gave no sign of life for too long.
    Silent,
    /// It is not wanted any more.
    Stop,
}

impl Why {
    /// How long a start that is ended for this may take to end by itself.
    const fn grace(self) -> Duration {
        match self {
            Self::Restart | Self::Late | Self::Stop => GRACE,
            Self::Silent => SILENT_GRACE,
        }
    }
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
            Phase::Backoff { .. } | Phase::Ending { why: Why::Restart | Why::Late | Why::Silent, .. } => State::Backoff,
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
            Phase::Up { since: now, look: self.policy.silence.map(|silence| Look::after(silence, now)) }
        } else {
            let longer = (pause * 2).min(LONGEST_PROBE_PAUSE);
            Phase::Starting { since, probe: Probe::DueAt(now + pause), pause: longer }
        };
    }

    /// It gave a sign of life.
    pub fn handle_alive(&mut self, start: u64, now: Instant) {
        if let Phase::Up { look: Some(look @ Look::UnderWay { .. }), .. } = &mut self.phase
            && start == self.start
            && let Some(silence) = self.policy.silence
        {
            *look = Look::after(silence, now);
        }
    }

    /// Its process has ended, well (with status 0) or not.
    pub fn handle_exited(&mut self, start: u64, well: bool, now: Instant) {
        if start != self.start {
            return;
        }
        match self.phase {
            Phase::Starting { .. } => self.end(None, well, now),
            Phase::Up { since, .. } => {
                self.settle(since, now);
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
        let begun = self.weigh_silence(now);
        let start = self.start;
        match &mut self.phase {
            Phase::Up { .. } if begun => Some(Effect::Look(start)),
            Phase::Spawning { told, .. } if !*told => {
                *told = true;
                Some(Effect::Spawn(start))
            }
            Phase::Starting { probe, .. } if probe.is_due(now) => {
                *probe = Probe::UnderWay;
                Some(Effect::Probe(start))
            }
            Phase::Ending { why, told, .. } if !*told => {
                *told = true;
                Some(Effect::Ask(start, *why))
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
            Phase::Up { look, .. } => look.map(Look::deadline),
            Phase::Down | Phase::Failed | Phase::GaveUp | Phase::Spawning { .. } => None,
        }
    }

    /// Counts what a service that is up has left unanswered, and ends it if that is too much. Returns whether it is to be
    /// asked now.
    fn weigh_silence(&mut self, now: Instant) -> bool {
        let (Phase::Up { since, look: Some(look) }, Some(silence)) = (&mut self.phase, self.policy.silence) else {
            return false;
        };
        if now < look.deadline() {
            return false;
        }
        let until = now + silence / LOOK_PARTS;
        match *look {
            Look::DueAt(_) => {
                *look = Look::UnderWay { silent: 0, until };
                true
            }
            // However late this turn is, it is one: nobody was there to answer meanwhile.
            Look::UnderWay { silent, .. } if silent + 1 < LOOK_PARTS => {
                *look = Look::UnderWay { silent: silent + 1, until };
                false
            }
            Look::UnderWay { .. } => {
                let since = *since;
                self.settle(since, now);
                self.phase = ending(Why::Silent, now);
                false
            }
        }
    }

    /// Forgets earlier failures of a service that was up for long enough.
    fn settle(&mut self, since: Instant, now: Instant) {
        if now.since(since) >= SETTLED_AFTER {
            self.backoff = FIRST_BACKOFF;
        }
    }

    /// Nothing of the present start is left; `why` is the reason if it was ended.
    fn end(&mut self, why: Option<Why>, well: bool, now: Instant) {
        match why {
            Some(Why::Stop) => self.phase = Phase::Down,
            Some(Why::Restart) => self.begin(),
            Some(Why::Late | Why::Silent) => self.end_by_policy(false, now),
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
    Phase::Ending { why, told: false, kill_at: Some(now + why.grace()) }
}
