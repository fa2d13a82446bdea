//! When the client end of a session dials again, waits, or gives up.
//!
//! A link's loss proves nothing about the instance. Three things may follow: dial again at once and then ever more
//! slowly; wait on the registry's word while the instance is *known* to be between places; or end, because somebody with
//! authority said so. A breaker ends a session whose links come up and die at once, again and again, without one byte of progress:
//! only such links count, so twenty moves in a row, or a link that worked for a moment each time, trip nothing.

use std::collections::VecDeque;
use std::time::Duration;

use crate::record::Generation;
use crate::time::{Instant, earliest, spread};
use crate::{ErrorCode, Retry};

/// The waits between attempts; the first dial after a loss has none, and the last wait repeats.
const LADDER: [Duration; 7] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
    Duration::from_secs(2),
];

/// How long redialling goes on without a link: longer than a node daemon's restart or its lease (10 s), shorter than the
/// time for which an agent keeps a session (90 s).
pub const RESUME_WINDOW: Duration = Duration::from_secs(60);

/// How long a known absence is waited out: longer than a move's own deadline (10 s) and a slow start (90 s) together.
pub const PARK_MAX: Duration = Duration::from_secs(120);

/// A node said "moving" or "starting" and no news came: the watch may be behind, so look again, seldom.
const NEWS_OVERDUE: Duration = Duration::from_secs(1);

/// The breaker counts links lost without progress within this time.
const BREAKER_WINDOW: Duration = Duration::from_secs(60);

/// One more than this many such losses within the window trip the breaker.
const BREAKER_TOLERATES: usize = 3;

/// A link that stood this long was no flap, though nobody said anything over it: a session may be silent for hours, and
/// three restarts of its node in a minute are no reason to end it.
const STOOD: Duration = Duration::from_secs(5);

/// What the registry says of an instance, as far as a session needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing is known: dial and see.
    Unknown,
    /// It is served at this generation.
    Here(Generation),
    /// It exists and is between places, for this cause.
    Between(ErrorCode),
    /// It has ended, for this cause.
    Ended(ErrorCode),
}

/// What the session's owner must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Dial, and tell the machine how it went.
    Dial,
    /// Give the present link up: it leads to an older life of the instance, and may be silent without an end.
    DropLink,
    /// End the session for this cause.
    End(ErrorCode),
}

/// The redialling of one session.
#[derive(Debug)]
pub struct Redial {
    state: State,
    presence: Presence,
    breaker: Breaker,
    /// How far the session was known to have come.
    reached: u64,
    /// The owner was told to drop the link or to end, and need not be told again.
    told: bool,
    resume_window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A link carries the session.
    Linked {
        generation: Generation,
        /// When it came to stand.
        since: Instant,
    },
    /// The next dial is due at `at`.
    Waiting {
        since: Instant,
        attempt: usize,
        at: Instant,
        last: ErrorCode,
    },
    /// Waiting for news of a known absence; `at` is the seldom look.
    Parked {
        since: Instant,
        attempt: usize,
        at: Option<Instant>,
        last: ErrorCode,
    },
    /// A dial is under way.
    Dialling {
        since: Instant,
        attempt: usize,
        last: ErrorCode,
    },
    Ended(ErrorCode),
}

/// Counts links that were lost without progress.
#[derive(Debug, Default)]
struct Breaker {
    losses: VecDeque<Instant>,
}

impl Redial {
    /// A session that has no link yet: its first dial is due at once, or as soon as the instance is here.
    pub fn new(presence: Presence, now: Instant) -> Self {
        let state = State::Waiting { since: now, attempt: 0, at: now, last: ErrorCode::NodeUnreachable };
        let mut redial = Self {
            state,
            presence: Presence::Unknown,
            breaker: Breaker::default(),
            reached: 0,
            told: false,
            resume_window: RESUME_WINDOW,
        };
        redial.handle_presence(presence, now);
        redial
    }

    /// Changes for how long redialling goes on without a link.
    #[must_use]
    pub const fn with_resume_window(mut self, window: Duration) -> Self {
        self.resume_window = window;
        self
    }

    /// Which attempt to get a link back is waited for or under way, from 1; 0 while a link stands.
    pub const fn attempt(&self) -> usize {
        match self.state {
            State::Linked { .. } | State::Ended(_) => 0,
            State::Waiting { attempt, .. } | State::Parked { attempt, .. } | State::Dialling { attempt, .. } => {
                attempt + 1
            }
        }
    }

    /// Why the last attempt failed, while there is no link.
    pub const fn last_refusal(&self) -> Option<ErrorCode> {
        match self.state {
            State::Linked { .. } => None,
            State::Waiting { last, .. } | State::Parked { last, .. } | State::Dialling { last, .. } => Some(last),
            State::Ended(code) => Some(code),
        }
    }

    /// A link stands, to the instance at `generation`; `reached` is [`crate::session::Session::reached`].
    pub fn handle_linked(&mut self, generation: Generation, reached: u64, now: Instant) {
        if matches!(self.state, State::Ended(_)) {
            return;
        }
        // What the link before brought across may only be known now that the peer has said what it has.
        self.note_progress(reached);
        self.state = State::Linked { generation, since: now };
        self.told = false;
        self.handle_presence(self.presence, now);
    }

    /// The link is lost, by itself or because [`Effect::DropLink`] said so.
    pub fn handle_link_lost(&mut self, reached: u64, now: Instant) {
        let State::Linked { generation, since } = self.state else { return };
        let has_stood = now >= since + STOOD;
        let planned = self.is_newer_than(generation) || matches!(self.presence, Presence::Between(_));
        if !self.note_progress(reached) && !planned && !has_stood && self.breaker.trips(now) {
            self.state = State::Ended(ErrorCode::UpstreamFlapping);
            self.told = false;
            return;
        }
        self.state = State::Waiting { since: now, attempt: 0, at: now, last: ErrorCode::NodeUnreachable };
        self.handle_presence(self.presence, now);
    }

    /// A dial, or the resume over it, was refused or failed. `random` spreads the next wait.
    pub fn handle_refused(&mut self, code: ErrorCode, random: u64, now: Instant) {
        let State::Dialling { since, attempt, .. } = self.state else { return };
        let attempt = attempt + 1;
        self.state = match disposition(code) {
            Disposition::Terminal => {
                self.told = false;
                State::Ended(code)
            }
            Disposition::Absent if self.presence == Presence::Unknown => {
                State::Waiting { since, attempt, at: now + wait(attempt, random), last: code }
            }
            Disposition::Absent => State::Parked { since, attempt, at: Some(now + NEWS_OVERDUE), last: code },
            Disposition::Transient => State::Waiting { since, attempt, at: now + wait(attempt, random), last: code },
        };
        self.park_if_between(now);
    }

    /// The registry's word on the instance.
    pub fn handle_presence(&mut self, presence: Presence, now: Instant) {
        let changed = self.presence != presence;
        self.presence = presence;
        if let Presence::Ended(code) = presence {
            if !matches!(self.state, State::Ended(_)) {
                self.state = State::Ended(code);
                self.told = false;
            }
            return;
        }
        self.park_if_between(now);
        if !(changed && self.is_here()) {
            return;
        }
        match self.state {
            // The window for redialling begins when there is something to dial.
            State::Parked { last, .. } => self.state = State::Waiting { since: now, attempt: 0, at: now, last },
            State::Waiting { since, last, .. } => self.state = State::Waiting { since, attempt: 0, at: now, last },
            // The dial under way leads to a life that is over, maybe into silence.
            State::Dialling { since, last, .. } => self.state = State::Waiting { since, attempt: 0, at: now, last },
            State::Linked { .. } | State::Ended(_) => {}
        }
    }

    /// What to do now. Call until it returns `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Effect> {
        match self.state {
            State::Linked { generation, .. } => {
                (self.is_newer_than(generation) && !std::mem::replace(&mut self.told, true)).then_some(Effect::DropLink)
            }
            State::Ended(code) => (!std::mem::replace(&mut self.told, true)).then_some(Effect::End(code)),
            State::Waiting { since, last, .. } if now >= since + self.resume_window => self.end(last),
            State::Parked { since, last, .. } if now >= since + PARK_MAX => self.end(last),
            State::Waiting { since, attempt, at, last } if now >= at => self.dial(since, attempt, last),
            State::Parked { since, attempt, at: Some(at), last, .. } if now >= at => self.dial(since, attempt, last),
            State::Waiting { .. } | State::Parked { .. } | State::Dialling { .. } => None,
        }
    }

    /// When [`Self::poll`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { since, at, .. } => Some(at.min(since + self.resume_window)),
            State::Parked { since, at, .. } => earliest(Some(since + PARK_MAX), at),
            State::Linked { .. } | State::Dialling { .. } | State::Ended(_) => None,
        }
    }

    fn dial(&mut self, since: Instant, attempt: usize, last: ErrorCode) -> Option<Effect> {
        self.state = State::Dialling { since, attempt, last };
        Some(Effect::Dial)
    }

    fn end(&mut self, code: ErrorCode) -> Option<Effect> {
        self.state = State::Ended(code);
        self.told = true;
        Some(Effect::End(code))
    }

    /// While the registry says that it is between places, no dial can succeed.
    fn park_if_between(&mut self, now: Instant) {
        if let (Presence::Between(code), State::Waiting { attempt, .. }) = (self.presence, self.state) {
            self.state = State::Parked { since: now, attempt, at: None, last: code };
        }
    }

    /// Forgets the losses if anything got through since; whether it did.
    fn note_progress(&mut self, reached: u64) -> bool {
        let grew = reached > self.reached;
        if grew {
            self.breaker.reset();
            self.reached = reached;
        }
        grew
    }

    const fn is_here(&self) -> bool {
        matches!(self.presence, Presence::Here(_))
    }

    fn is_newer_than(&self, generation: Generation) -> bool {
        matches!(self.presence, Presence::Here(newest) if newest > generation)
    }
}

impl Breaker {
    /// Counts a loss without progress; whether that is one too many.
    fn trips(&mut self, now: Instant) -> bool {
        while self.losses.front().is_some_and(|&at| now >= at + BREAKER_WINDOW) {
            self.losses.pop_front();
        }
        self.losses.push_back(now);
        self.losses.len() > BREAKER_TOLERATES
    }

    fn reset(&mut self) {
        self.losses = VecDeque::new();
    }
}

enum Disposition {
    /// Somebody with authority said that it is over.
    Terminal,
    /// It exists and is between places.
    Absent,
    /// Anything else may pass.
    Transient,
}

/// The table's retry column decides; only the known absences are waited out instead.
const fn disposition(code: ErrorCode) -> Disposition {
    match code {
        ErrorCode::InstanceStarting | ErrorCode::InstanceMoving | ErrorCode::InstanceWaking => Disposition::Absent,
        code => match code.retry() {
            Retry::Safe | Retry::IfIdempotent => Disposition::Transient,
            Retry::Never => Disposition::Terminal,
        },
    }
}

/// The wait before attempt number `attempt`, from 1, spread by `random`.
/// How long to wait after so many attempts that failed in a row, spread by `random`.
pub(crate) fn wait(attempt: usize, random: u64) -> Duration {
    spread(LADDER[attempt.saturating_sub(1).min(LADDER.len() - 1)], random)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Presence = Presence::Here(Generation(1));
    const MIDDLE: u64 = crate::time::UNSPREAD;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// A session whose first link stands at time 0.
    fn linked() -> Redial {
        let mut redial = Redial::new(HERE, at(0));
        assert_eq!(redial.poll(at(0)), Some(Effect::Dial));
        redial.handle_linked(Generation(1), 0, at(0));
        assert_eq!(redial.poll(at(0)), None);
        redial
    }

    #[test]
    fn a_lost_link_is_dialled_at_once_and_then_ever_more_slowly() {
        let mut redial = linked();
        redial.handle_link_lost(1, at(1000));
        let (mut now, mut waits) = (at(1000), Vec::new());
        for _ in 0..10 {
            assert_eq!(redial.poll(now), Some(Effect::Dial));
            redial.handle_refused(ErrorCode::NodeUnreachable, MIDDLE, now);
            let next = redial.next_deadline().unwrap();
            waits.push(next.since(now).as_millis());
            now = next;
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000, 2000, 2000]);
    }

    #[test]
    fn waits_are_spread_by_a_fifth() {
        assert_eq!((wait(1, 0).as_millis(), wait(1, 40).as_millis()), (40, 60));
    }

    #[test]
    fn after_sixty_seconds_without_a_link_it_ends_with_the_last_refusal() {
        let mut redial = linked();
        redial.handle_link_lost(1, at(0));
        let mut now = at(0);
        let end = loop {
            match redial.poll(now) {
                Some(Effect::Dial) => redial.handle_refused(ErrorCode::NodeNotHere, MIDDLE, now),
                Some(effect) => break effect,
                None => now = redial.next_deadline().unwrap(),
            }
        };
        assert_eq!((end, now), (Effect::End(ErrorCode::NodeNotHere), at(60_000)));
        assert_eq!(redial.poll(now), None, "said once");
    }

    #[test]
    fn a_known_absence_is_waited_out_on_the_watch_and_not_polled() {
        let mut redial = linked();
        redial.handle_presence(Presence::Between(ErrorCode::InstanceMoving), at(0));
        assert_eq!(redial.poll(at(0)), None, "the link may still carry the last bytes");
        redial.handle_link_lost(1, at(10));
        for millis in [10, 1000, 30_000, 70_000, 100_000] {
            assert_eq!(redial.poll(at(millis)), None);
        }
        redial.handle_presence(Presence::Here(Generation(2)), at(100_000));
        assert_eq!(redial.poll(at(100_000)), Some(Effect::Dial));
    }

    #[test]
    fn an_absence_that_never_ends_ends_the_session_with_its_cause() {
        let mut redial = Redial::new(Presence::Between(ErrorCode::InstanceStarting), at(0));
        assert_eq!(redial.next_deadline(), Some(at(120_000)));
        assert_eq!(redial.poll(at(120_000)), Some(Effect::End(ErrorCode::InstanceStarting)));
    }

    #[test]
    fn a_node_that_says_moving_before_the_watch_does_is_not_hammered() {
        let mut redial = linked();
        redial.handle_link_lost(1, at(0));
        assert_eq!(redial.poll(at(0)), Some(Effect::Dial));
        redial.handle_refused(ErrorCode::InstanceMoving, MIDDLE, at(1));
        assert_eq!(redial.poll(at(900)), None);
        redial.handle_presence(Presence::Here(Generation(2)), at(901));
        assert_eq!(redial.poll(at(901)), Some(Effect::Dial));
    }

    #[test]
    fn news_of_a_new_life_abandons_a_dial_into_the_old() {
        let mut redial = linked();
        redial.handle_link_lost(1, at(0));
        assert_eq!(redial.poll(at(0)), Some(Effect::Dial));
        redial.handle_presence(Presence::Here(Generation(2)), at(1));
        assert_eq!(redial.poll(at(1)), Some(Effect::Dial), "a dial into the old life is not waited for");
        redial.handle_refused(ErrorCode::InstanceMoving, MIDDLE, at(2));
        assert_eq!(redial.poll(at(2)), None, "the new life moves as well");
    }

    #[test]
    fn a_higher_generation_abandons_a_link_that_still_looks_alive() {
        let mut redial = linked();
        redial.handle_presence(Presence::Here(Generation(2)), at(5));
        assert_eq!(redial.poll(at(5)), Some(Effect::DropLink));
        assert_eq!(redial.poll(at(5)), None, "said once");
        redial.handle_link_lost(0, at(5));
        assert_eq!(redial.poll(at(5)), Some(Effect::Dial));
    }

    #[test]
    fn the_fourth_loss_without_progress_within_a_minute_trips_the_breaker() {
        let mut redial = linked();
        for loss in 1..=4 {
            redial.handle_link_lost(0, at(loss * 1000));
            if loss < 4 {
                assert_eq!(redial.poll(at(loss * 1000)), Some(Effect::Dial));
                redial.handle_linked(Generation(1), 0, at(loss * 1000));
            }
        }
        assert_eq!(redial.poll(at(4000)), Some(Effect::End(ErrorCode::UpstreamFlapping)));
    }

    #[test]
    fn losses_with_progress_or_a_minute_apart_trip_nothing() {
        let mut redial = linked();
        for loss in 1..=20 {
            redial.handle_link_lost(loss, at(loss * 100));
            assert_eq!(redial.poll(at(loss * 100)), Some(Effect::Dial));
            redial.handle_linked(Generation(1), loss, at(loss * 100));
        }
        for loss in 1..=20 {
            let now = at(loss * 61_000);
            redial.handle_link_lost(20, now);
            assert_eq!(redial.poll(now), Some(Effect::Dial));
            redial.handle_linked(Generation(1), 20, now);
        }
    }

    #[test]
    fn a_silent_session_whose_links_stood_a_while_is_not_called_flapping() {
        let mut redial = linked();
        for loss in 1..=20 {
            let now = at(loss * 6_000);
            redial.handle_link_lost(0, now);
            assert_eq!(redial.poll(now), Some(Effect::Dial));
            redial.handle_linked(Generation(1), 0, now);
        }
    }

    #[test]
    fn progress_that_shows_only_when_the_next_link_stands_counts() {
        let mut redial = linked();
        for loss in 1..=20 {
            redial.handle_link_lost(loss - 1, at(loss * 100));
            assert_eq!(redial.poll(at(loss * 100)), Some(Effect::Dial));
            redial.handle_linked(Generation(1), loss, at(loss * 100));
        }
    }

    #[test]
    fn twenty_silent_moves_in_a_row_trip_nothing() {
        let mut redial = linked();
        for generation in 2..22 {
            let now = at(generation * 100);
            redial.handle_presence(Presence::Between(ErrorCode::InstanceMoving), now);
            redial.handle_link_lost(0, now);
            redial.handle_presence(Presence::Here(Generation(generation)), now);
            assert_eq!(redial.poll(now), Some(Effect::Dial));
            redial.handle_linked(Generation(generation), 0, now);
        }
    }

    #[test]
    fn a_terminal_answer_ends_it_at_once() {
        for code in
            [ErrorCode::InstanceGone, ErrorCode::SessionUnknown, ErrorCode::SessionSuperseded, ErrorCode::AuthForbidden]
        {
            let mut redial = linked();
            redial.handle_link_lost(1, at(0));
            assert_eq!(redial.poll(at(0)), Some(Effect::Dial));
            redial.handle_refused(code, MIDDLE, at(0));
            assert_eq!(redial.poll(at(0)), Some(Effect::End(code)));
        }
    }

    #[test]
    fn the_registrys_word_ends_it_whatever_it_does() {
        for prepare in [|_: &mut Redial| (), |redial: &mut Redial| redial.handle_link_lost(1, at(0))] {
            let mut redial = linked();
            prepare(&mut redial);
            redial.handle_presence(Presence::Ended(ErrorCode::InstanceStopped), at(1));
            assert_eq!(redial.poll(at(1)), Some(Effect::End(ErrorCode::InstanceStopped)));
        }
    }
}
