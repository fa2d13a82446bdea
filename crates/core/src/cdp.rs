//! One CDP connection: which browser it is dialled to, when it is over, and for what reason.
//!
//! A browser that restarts is another browser: what a client held of the old one is lost, and no client notices that by
//! itself. So a connection belongs to one start of the browser, the client is told at once when that start is over, and
//! *why* it was is found out afterwards: whether another start follows is not known at the moment of a death.
//!
//! ```text
//!   parked ──up──▶ dialling ──dialled──▶ carrying ──the pump ends──▶ ended ──▶ attributed, once
//!      ▲  └────────down────┘ └─ failed: again, after a pause          └─ waits for the next start, at most 10 s
//!      └─ down for good, or too late: refused
//! ```
//!
//! Facts that come together are weighed together, whatever their order: the owner hands in all it knows, then calls
//! [`Connection::poll`] until it returns `None`. A cancellation outweighs everything, then comes the client's own end, then
//! what is known of the browser.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ErrorCode;
use crate::time::{Instant, earliest};

mod news;
#[cfg(test)]
mod tests;

pub use news::{Latest, News, Why};

/// How long a client is kept waiting for a browser that is starting: as long as a start may take.
pub const START_BUDGET: Duration = Duration::from_secs(90);

/// How long the reason waits for the next start: ten times what a start takes where nothing is wrong.
pub const RESTART_CONFIRM: Duration = Duration::from_secs(10);

/// How long a client whose connection has ended is not told why, while its browser seems to live: one that ends in good order
/// closes its connections some 100 ms before it is gone.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// The most bytes of one message in either direction: what Chromium itself sends at most. They are streamed, so this bounds
/// how long one message may hold up the next, and no memory.
pub const MESSAGE_MAX: u64 = 256 << 20;

/// Between a failed dial and the next: a browser that is up accepts within milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest of them: a browser that accepts again is noticed within this.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// What is known of the browser when its side of a connection ends, without waiting for news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It lives, as far as can be seen: only the connection was lost, or it has just begun to end.
    Lives,
    /// It is ending, and will be started again.
    Returns,
    /// It is ending, and will not.
    Ends,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Its client closed it, or left.
    ClientClose,
    /// What carried it was called off: the agent or a gateway shuts down, or the request was cancelled.
    ContextCancelled,
    /// The browser was started anew.
    UpstreamChanged,
    /// The browser or the connection to it was lost, and no other followed.
    UpstreamError,
}

impl Reason {
    /// The word used in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientClose => "client_close",
            Self::ContextCancelled => "context_cancelled",
            Self::UpstreamChanged => "upstream_changed",
            Self::UpstreamError => "upstream_error",
        }
    }
}

/// The last word about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Why.
    pub reason: Reason,
    /// When the bytes stopped, however long the reason took to be found.
    pub at: Instant,
}

/// What a connection's owner must do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Dial this start, in the place of whatever is being dialled, and say how that went.
    Dial {
        /// Its number.
        start: u64,
        /// Where it listens.
        url: String,
    },
    /// Say that the connection exists. Comes once, and before its end is told.
    Announce,
    /// Answer the client that there is no browser for it.
    Refuse(ErrorCode),
    /// Close the client's side, saying this.
    CloseClient(ErrorCode),
    /// Close the browser's side, or stop dialling it.
    CloseUpstream,
    /// Say why the connection ended. Comes once, and last.
    Attribute(Disconnect),
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    browser: Latest,
    phase: Phase,
    /// What has happened and was not weighed yet.
    facts: Facts,
    /// Until when a browser is waited for.
    until: Instant,
    /// Whether a browser was ever dialled: until then there is nothing to tell of.
    is_begun: bool,
    is_announced: bool,
    effects: VecDeque<Effect>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// No start is up.
    Parked,
    Dialling {
        start: u64,
        url: String,
        /// When the next attempt is due; `None` while one is under way.
        due: Option<Instant>,
        pause: Duration,
    },
    Carrying {
        start: u64,
        url: String,
    },
    /// Nothing is carried any more, and the reason is not known yet.
    Ended {
        start: u64,
        url: String,
        at: Instant,
    },
    Over,
}

/// The ends that were told, each with when it first was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Facts {
    cancelled: Option<Instant>,
    client: Option<Instant>,
    upstream: Option<(Fate, Instant)>,
    dialled: Option<u64>,
    failed: Option<u64>,
}

impl Connection {
    /// A connection that a client asks for now and waits for `within` this time, at most for [`START_BUDGET`].
    pub fn new(now: Instant, within: Duration) -> Self {
        Self {
            browser: Latest::new(),
            phase: Phase::Parked,
            facts: Facts { cancelled: None, client: None, upstream: None, dialled: None, failed: None },
            until: now + within.min(START_BUDGET),
            is_begun: false,
            is_announced: false,
            effects: VecDeque::new(),
        }
    }

    /// The start that the client is connected to, or was.
    pub const fn start(&self) -> Option<u64> {
        match self.phase {
            Phase::Carrying { start, .. } | Phase::Ended { start, .. } => Some(start),
            Phase::Parked | Phase::Dialling { .. } | Phase::Over => None,
        }
    }

    /// Whether bytes are to be carried.
    pub const fn is_carrying(&self) -> bool {
        matches!(self.phase, Phase::Carrying { .. })
    }

    /// Whether everything has been told.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over && self.effects.is_empty()
    }

    // --- facts ---

    /// How the browser is.
    pub fn handle_news(&mut self, news: News) {
        self.browser.handle_news(news);
    }

    /// The dial of this start has brought a connection.
    pub const fn handle_dialled(&mut self, start: u64) {
        self.facts.dialled = Some(start);
    }

    /// The dial of this start has failed.
    pub const fn handle_dial_failed(&mut self, start: u64) {
        self.facts.failed = Some(start);
    }

    /// The browser has answered what the client asked for with a no of its own: there never was a connection.
    pub fn handle_dial_refused(&mut self) {
        self.effects.clear();
        self.phase = Phase::Over;
    }

    /// The client's side was the first to end.
    pub fn handle_client_ended(&mut self, now: Instant) {
        self.facts.client.get_or_insert(now);
    }

    /// The browser's side was the first to end.
    pub fn handle_upstream_ended(&mut self, fate: Fate, now: Instant) {
        self.facts.upstream.get_or_insert((fate, now));
    }

    /// What carries the connection is called off.
    pub fn handle_cancelled(&mut self, now: Instant) {
        self.facts.cancelled.get_or_insert(now);
    }

    // --- time ---

    /// The next thing to do. Call it until it returns `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Effect> {
        if self.effects.is_empty() {
            self.weigh(now);
        }
        self.effects.pop_front()
    }

    /// When [`Self::poll`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Parked => Some(self.until),
            Phase::Dialling { due, .. } => earliest(due, Some(self.until)),
            Phase::Carrying { .. } => self.facts.upstream.map(|(_, at)| at + LAST_WORDS),
            Phase::Ended { at, .. } => Some(at + RESTART_CONFIRM),
            Phase::Over => None,
        }
    }

    fn weigh(&mut self, now: Instant) {
        match self.phase {
            Phase::Parked | Phase::Dialling { .. } => self.weigh_dialling(now),
            Phase::Carrying { .. } => self.weigh_carrying(now),
            Phase::Ended { .. } => self.weigh_ended(now),
            Phase::Over => {}
        }
    }

    /// Before the client has its answer.
    fn weigh_dialling(&mut self, now: Instant) {
        if let Some(at) = self.facts.cancelled {
            return self.end_undialled(Reason::ContextCancelled, at);
        }
        if let Some(at) = self.facts.client {
            return self.end_undialled(Reason::ClientClose, at);
        }
        if let Some(News::Down { why: Why::Stopped | Why::GaveUp, .. }) = self.browser.get() {
            self.effects.push_back(Effect::Refuse(ErrorCode::BrowserDown));
            return self.end_undialled(Reason::UpstreamError, now);
        }
        if now >= self.until {
            self.effects.push_back(Effect::Refuse(ErrorCode::InstanceStarting));
            return self.end_undialled(Reason::UpstreamError, now);
        }
        let up = match self.browser.get() {
            Some(News::Up { start, url }) => Some((*start, url.clone())),
            Some(News::Starting { .. } | News::Down { .. }) | None => None,
        };
        match up {
            Some((start, url)) => self.dial(start, url, now),
            None => self.park(),
        }
    }

    /// What was dialled is over, and nothing else is up.
    fn park(&mut self) {
        if self.phase != Phase::Parked {
            self.phase = Phase::Parked;
            self.effects.push_back(Effect::CloseUpstream);
        }
    }

    fn dial(&mut self, start: u64, url: String, now: Instant) {
        let (dialled, failed) = (self.facts.dialled.take(), self.facts.failed.take());
        match &mut self.phase {
            Phase::Dialling { start: present, url: at, due, pause } if *present == start && *at == url => {
                if due.is_none() && dialled == Some(start) {
                    self.phase = Phase::Carrying { start, url };
                    self.announce();
                } else if due.is_none() && failed == Some(start) {
                    *due = Some(now + *pause);
                    *pause = (*pause * 2).min(LONGEST_PAUSE);
                } else if due.is_some_and(|due| now >= due) {
                    *due = None;
                    self.effects.push_back(Effect::Dial { start, url });
                }
            }
            Phase::Parked | Phase::Dialling { .. } | Phase::Carrying { .. } | Phase::Ended { .. } | Phase::Over => {
                self.phase = Phase::Dialling { start, url: url.clone(), due: None, pause: FIRST_PAUSE };
                self.is_begun = true;
                self.effects.push_back(Effect::Dial { start, url });
            }
        }
    }

    /// Ends what has carried nothing. If no browser was ever dialled, there is nothing to tell of.
    fn end_undialled(&mut self, reason: Reason, at: Instant) {
        if self.phase != Phase::Parked {
            self.effects.push_back(Effect::CloseUpstream);
        }
        if self.is_begun {
            self.announce();
            self.effects.push_back(Effect::Attribute(Disconnect { reason, at }));
        }
        self.phase = Phase::Over;
    }

    fn weigh_carrying(&mut self, now: Instant) {
        let Phase::Carrying { start, url } = &self.phase else { return };
        let Facts { cancelled, client, upstream, .. } = self.facts;
        let at = upstream.map_or(now, |(_, at)| at);
        match (cancelled, client) {
            (Some(at), _) => return self.end_carrying(Reason::ContextCancelled, at),
            (None, Some(left)) if upstream.is_none() || left <= at => {
                return self.end_carrying(Reason::ClientClose, left);
            }
            (None, _) => {}
        }
        if let Some(code) = self.code(*start, url, now) {
            self.phase = Phase::Ended { start: *start, url: url.clone(), at };
            self.effects.extend([Effect::CloseClient(code), Effect::CloseUpstream]);
        }
    }

    /// What the client of this start must be told, if it is over.
    fn code(&self, start: u64, url: &str, now: Instant) -> Option<ErrorCode> {
        match self.browser.get() {
            Some(News::Down { why: Why::Stopped | Why::GaveUp, .. }) => Some(ErrorCode::UpstreamLost),
            Some(News::Up { .. }) if !self.is_another(start, url) => match self.facts.upstream? {
                (Fate::Returns, _) => Some(ErrorCode::UpstreamChanged),
                (Fate::Ends, _) => Some(ErrorCode::UpstreamLost),
                // Nobody waits any more, or it has been long enough.
                (Fate::Lives, at) if self.facts.client.is_some() || now >= at + LAST_WORDS => {
                    Some(ErrorCode::UpstreamLost)
                }
                (Fate::Lives, _) => None,
            },
            Some(News::Up { .. } | News::Starting { .. } | News::Down { why: Why::Returns, .. }) | None => {
                Some(ErrorCode::UpstreamChanged)
            }
        }
    }

    fn end_carrying(&mut self, reason: Reason, at: Instant) {
        self.effects.extend([Effect::CloseUpstream, Effect::Attribute(Disconnect { reason, at })]);
        self.phase = Phase::Over;
    }

    /// The client knows that it is over. What it does now is no reason.
    fn weigh_ended(&mut self, now: Instant) {
        let Phase::Ended { start, url, at } = &self.phase else { return };
        let at = *at;
        let reason = match (self.facts.cancelled, self.browser.get()) {
            (Some(_), _) => Some(Reason::ContextCancelled),
            (None, Some(News::Up { .. })) if self.is_another(*start, url) => Some(Reason::UpstreamChanged),
            (None, Some(News::Down { why: Why::Stopped | Why::GaveUp, .. })) => Some(Reason::UpstreamError),
            (None, _) if now >= at + RESTART_CONFIRM => Some(Reason::UpstreamError),
            (None, _) => None,
        };
        if let Some(reason) = reason {
            self.effects.push_back(Effect::Attribute(Disconnect { reason, at }));
            self.phase = Phase::Over;
        }
    }

    /// Whether the browser that is up is another than this.
    fn is_another(&self, start: u64, url: &str) -> bool {
        match self.browser.get() {
            Some(News::Up { start: up, url: at }) => (*up, at.as_str()) != (start, url),
            Some(News::Starting { .. } | News::Down { .. }) | None => false,
        }
    }

    fn announce(&mut self) {
        if !std::mem::replace(&mut self.is_announced, true) {
            self.effects.push_back(Effect::Announce);
        }
    }
}
