//! What is told of a connection: that it began, and, exactly once, why it ended.

use std::sync::Arc;
use std::time::Duration;

use landfast_core::cdp::{Connection, Disconnect, Effect, Fate, Reason};
use landfast_core::id::ConnectionId;
use landfast_core::supervise::State;
use landfast_core::time::Instant;
use landfast_core::{ErrorCode, Problem};
use landfast_net::{clock, random};
use tokio::sync::watch;

use crate::Agent;
use crate::browser::{Browser, news};
use crate::events::{CdpDisconnect, Events};
use crate::kill::{Ending, is_ending};
use crate::service::Status;

/// A connection's machine, and those who are told what it decides. Dropped before its end was told, it was called off.
pub(super) struct Line {
    machine: Connection,
    pub(super) status: watch::Receiver<Status>,
    agent: Arc<Agent>,
    id: ConnectionId,
    began: Instant,
    pub(super) counts: Counts,
    start: u64,
}

/// What a connection has carried.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) messages: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// What the connection's owner must do by itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    Dial { start: u64, url: String },
    Refuse(ErrorCode),
    CloseClient(ErrorCode),
    CloseUpstream,
}

impl Line {
    /// A connection that is asked for now, by a client that waits for so long.
    pub(super) fn new(agent: &Arc<Agent>, browser: &Browser, within: Duration) -> Self {
        let began = clock::now();
        Self {
            machine: Connection::new(began, within),
            status: browser.handle().watch(),
            agent: agent.clone(),
            id: random::connection_id(),
            began,
            counts: Counts::default(),
            start: 0,
        }
    }

    /// Takes in all that is known, and says what to do next. Call it until it returns `None`.
    pub(super) fn poll(&mut self) -> Option<Act> {
        let now = clock::now();
        if self.agent.stop.is_cancelled() {
            self.machine.handle_cancelled(now);
        }
        let present = news(&self.status.borrow_and_update());
        self.machine.handle_news(present);
        self.decided(now)
    }

    /// Whether bytes are to be carried.
    pub(super) const fn is_carrying(&self) -> bool {
        self.machine.is_carrying()
    }

    /// When [`Self::poll`] wants to be called next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.machine.next_deadline()
    }

    pub(super) const fn handle_dialled(&mut self, start: u64) {
        self.machine.handle_dialled(start);
    }

    pub(super) const fn handle_dial_failed(&mut self, start: u64) {
        self.machine.handle_dial_failed(start);
    }

    pub(super) fn handle_dial_refused(&mut self) {
        self.machine.handle_dial_refused();
    }

    pub(super) fn handle_client_ended(&mut self) {
        self.machine.handle_client_ended(clock::now());
    }

    pub(super) fn handle_cancelled(&mut self) {
        self.machine.handle_cancelled(clock::now());
    }

    /// The browser's side has ended; whether it is the browser that does, its process tells before anybody else can.
    pub(super) fn handle_upstream_ended(&mut self) {
        let now = clock::now();
        let fate = self.fate(now);
        self.machine.handle_upstream_ended(fate, now);
    }

    fn fate(&self, now: Instant) -> Fate {
        let status = self.status.borrow();
        if status.state != State::Up {
            // The news say it better.
            return Fate::Returns;
        }
        if status.is_living && is_ending(status.process.pid) != Ending::Itself {
            return Fate::Lives;
        }
        if status.last_chance.is_some_and(|until| now <= until) { Fate::Ends } else { Fate::Returns }
    }

    /// Lets a connection that carries nothing any more go: its end is told once its reason is found.
    pub(super) fn let_go(mut self) {
        while self.poll().is_some() {}
        if self.machine.is_over() {
            return;
        }
        let agent = self.agent.clone();
        agent.until_stopped(async move {
            while !self.machine.is_over() {
                tokio::select! {
                    changed = self.status.changed() => if changed.is_err() {
                        // Its keeper has ended with the agent.
                        return;
                    },
                    () = clock::sleep_until(self.machine.next_deadline()) => {}
                }
                while self.poll().is_some() {}
            }
        });
    }

    fn decided(&mut self, now: Instant) -> Option<Act> {
        loop {
            match self.machine.poll(now)? {
                Effect::Dial { start, url } => {
                    self.start = start;
                    return Some(Act::Dial { start, url });
                }
                Effect::Announce => self.events().cdp_connect(self.id, self.start),
                Effect::Attribute(Disconnect { reason, at }) => self.tell(reason, at, now),
                Effect::Refuse(code) => return Some(Act::Refuse(code)),
                Effect::CloseClient(code) => return Some(Act::CloseClient(code)),
                Effect::CloseUpstream => return Some(Act::CloseUpstream),
            }
        }
    }

    fn tell(&self, reason: Reason, at: Instant, now: Instant) {
        let Counts { messages, bytes_in, bytes_out } = self.counts;
        let disconnect = CdpDisconnect {
            connection_id: self.id,
            reason: reason.as_str(),
            duration_ms: at.since(self.began).as_millis() as u64,
            message_count: messages,
            bytes_in,
            bytes_out,
            start: self.start,
        };
        let ts = clock::unix_micros() - now.since(at).as_micros() as u64;
        tracing::debug!(connection = %self.id, reason = reason.as_str(), "a CDP connection ended");
        self.events().cdp_disconnect(ts, &disconnect);
    }

    fn events(&self) -> &Events {
        &self.agent.events
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.machine.is_over() {
            self.handle_cancelled();
            while self.poll().is_some() {}
        }
    }
}

/// What a client is told that cannot be served, and has waited for so long.
pub(super) fn refusal(code: ErrorCode, status: &Status, waited: Duration) -> Problem {
    match code {
        ErrorCode::BrowserDown => crate::browser::down(status),
        ErrorCode::InstanceStarting => crate::browser::late(waited),
        code => code.into(),
    }
}
