//! The client end of a session: holds the local stream while links come and go.
//!
//! The gateway holds a client's socket with it, and a link-aware client its own terminal or port. What differs is how a
//! link is dialled and who knows where the instance is: both are given.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use landfast_core::link::Close;
use landfast_core::record::Generation;
use landfast_core::redial::{Effect, Presence, Redial};
use landfast_core::session::{Session, WINDOW};
use landfast_core::{ErrorCode, SessionId};
use tokio::sync::watch;

use crate::carry::{Carrier, Event, LinkLoss, Local, say_goodbye};
use crate::clock;
use crate::link::{OpenAnswer, ResumeRequest, Secret};
use crate::random;
use crate::socket::Socket;

/// How long the last bytes and our CLOSE may take when the client has left: everything is freed within a second.
const GOODBYE: Duration = Duration::from_millis(800);

/// What is said over a link is acknowledged within this, or the link is lost: the far end always reads, because no more is sent than it
/// has room for. Shorter than what two unanswered pings take, and longer than any pause of a network that is only bad.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(15);

/// A resumed link.
#[derive(Debug)]
pub struct Resumed {
    /// The link.
    pub socket: Socket,
    /// How much of ours the agent has.
    pub received: u64,
    /// The generation it leads to.
    pub generation: Generation,
}

/// One attempt to resume; dropped when it is not wanted any more.
pub type Attempt = Pin<Box<dyn Future<Output = Result<Resumed, ErrorCode>> + Send>>;

/// Dials further links.
pub trait Dialer {
    /// Begins an attempt to resume the session, with a deadline of its own.
    fn resume(&mut self, request: ResumeRequest) -> Attempt;

    /// Hears how a link was lost.
    fn on_lost(&mut self, _loss: &LinkLoss) {}

    /// Hears that a link was lost and what was last refused; for people who wait.
    fn on_redial(&mut self, _attempt: usize, _last: Option<ErrorCode>) {}

    /// Hears that a link stands again.
    fn on_linked(&mut self, _generation: Generation) {}
}

/// Why a held session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The far end ended it, and all it said was handed on.
    Far(Close),
    /// The local side has ended, cleanly or by a failure.
    Local(Option<io::ErrorKind>),
    /// No link could be had any more, or somebody with authority ended the instance.
    Refused(ErrorCode),
}

/// What a session did, for the log line at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Links that stood, the first included.
    pub links: u64,
    /// Bytes from the local side that the agent has acknowledged or may have.
    pub up: u64,
    /// Bytes received for the local side.
    pub down: u64,
    /// The generation the last link led to.
    pub generation: Generation,
}

/// A session held at its client end.
pub struct Holder {
    id: SessionId,
    secret: Secret,
    session: Session,
    redial: Redial,
    carrier: Carrier,
    link: Option<Socket>,
    attempt: Option<Attempt>,
    /// The number of the newest link that was asked for.
    asked: u64,
    account: Account,
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder").field("id", &self.id).field("redial", &self.redial).finish_non_exhaustive()
    }
}

impl Holder {
    /// Takes a session over right after it was opened through `socket`, at `generation`.
    pub fn new(socket: Socket, answer: &OpenAnswer, generation: Generation) -> Self {
        let now = clock::now();
        let mut session = Session::new(answer.window, WINDOW, now);
        session.handle_link(1, 0, now).expect("the first link of a new session");
        let mut redial = Redial::new(Presence::Here(generation), now);
        redial.poll(now);
        redial.handle_linked(generation, session.reached(), now);
        Self {
            id: answer.session,
            secret: answer.secret.clone(),
            session,
            redial,
            carrier: Carrier::default(),
            link: Some(socket.acknowledged_within(ACKNOWLEDGED_WITHIN)),
            attempt: None,
            asked: 1,
            account: Account { links: 1, generation, ..Account::default() },
        }
    }

    /// Changes for how long redialling goes on without a link.
    #[must_use]
    pub fn with_resume_window(mut self, window: Duration) -> Self {
        self.redial = self.redial.with_resume_window(window);
        self
    }

    /// The session's id.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// What the session did so far.
    pub fn account(&self) -> Account {
        Account { up: self.session.sent(), down: self.session.received(), ..self.account }
    }

    /// How many bytes from the local side the agent has not acknowledged: whether they arrived is not known.
    pub const fn unacknowledged(&self) -> u64 {
        self.session.sent() + self.session.received() - self.session.progress()
    }

    /// Holds the session until it ends. `presence` is the registry's word on the instance; its end is no news.
    ///
    /// Cancel safe: call it again, or [`Self::leave`].
    pub async fn run<L, D>(&mut self, local: &mut L, dialer: &mut D, presence: &mut watch::Receiver<Presence>) -> Ending
    where
        L: Local,
        D: Dialer,
    {
        let known = *presence.borrow_and_update();
        self.redial.handle_presence(known, clock::now());
        loop {
            while let Some(effect) = self.redial.poll(clock::now()) {
                match effect {
                    Effect::Dial => self.begin_attempt(dialer),
                    Effect::DropLink => self.lose_link(dialer),
                    Effect::End(code) => return Ending::Refused(code),
                }
            }
            tokio::select! {
                biased;
                Ok(()) = presence.changed() => {
                    let known = *presence.borrow_and_update();
                    self.redial.handle_presence(known, clock::now());
                }
                result = attempt(&mut self.attempt) => self.handle_attempt(result, dialer),
                () = clock::sleep_until(self.redial.next_deadline()) => {}
                event = self.carrier.carry_while_there(local, &mut self.session, self.link.as_mut()) => match event {
                    Event::PeerClosed => {
                        let close = self.session.peer_close().cloned().expect("the event says so");
                        return Ending::Far(close);
                    }
                    Event::LocalEnded(how) => return Ending::Local(how),
                    Event::LinkLost(loss) => self.handle_loss(loss, dialer),
                    Event::Finished => {}
                },
            }
        }
    }

    /// Ends the session from this end: the agent gets what the local side had said, and the cause, if a link stands.
    pub async fn leave(mut self, close: Close) {
        self.session.finish(close);
        if let Some(link) = self.link.take() {
            say_goodbye(&mut self.session, link, GOODBYE).await;
        }
    }

    fn begin_attempt<D: Dialer>(&mut self, dialer: &mut D) {
        self.asked += 1;
        dialer.on_redial(self.redial.attempt(), self.redial.last_refusal());
        self.attempt = Some(dialer.resume(ResumeRequest {
            session: self.id,
            secret: self.secret.clone(),
            link: self.asked,
            received: self.session.received(),
        }));
    }

    fn handle_attempt<D: Dialer>(&mut self, result: Result<Resumed, ErrorCode>, dialer: &mut D) {
        self.attempt = None;
        let now = clock::now();
        match result {
            Ok(Resumed { socket, received, generation }) => {
                if self.session.handle_link(self.asked, received, now).is_err() {
                    // An agent that counts what we never said is not the one we spoke to.
                    self.redial.handle_refused(ErrorCode::LinkProtocol, random::bits(), now);
                    return;
                }
                self.link = Some(socket.acknowledged_within(ACKNOWLEDGED_WITHIN));
                self.account.links += 1;
                self.account.generation = generation;
                self.redial.handle_linked(generation, self.session.reached(), now);
                dialer.on_linked(generation);
            }
            Err(code) => {
                self.redial.handle_refused(code, random::bits(), now);
                dialer.on_redial(self.redial.attempt(), Some(code));
            }
        }
    }

    fn handle_loss<D: Dialer>(&mut self, loss: LinkLoss, dialer: &mut D) {
        tracing::debug!(session = %self.id, link = self.session.link_number(), %loss, "link lost");
        dialer.on_lost(&loss);
        self.lose_link(dialer);
    }

    fn lose_link<D: Dialer>(&mut self, dialer: &mut D) {
        self.link = None;
        self.session.handle_link_lost();
        if self.session.peer_close().is_some() {
            // All was said; what is left waits for the local side only.
            return;
        }
        self.redial.handle_link_lost(self.session.reached(), clock::now());
        dialer.on_redial(self.redial.attempt(), None);
    }
}

/// Waits for the attempt under way; for ever if there is none.
async fn attempt(attempt: &mut Option<Attempt>) -> Result<Resumed, ErrorCode> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}
