//! The agent's end of a session: one task that carries it over whatever links arrive, until it ends or nobody returns.

use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_core::link::Close;
use landfast_core::session::{ResumeError, Session};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::carry::{Carrier, Event, say_goodbye};
use crate::clock;
use crate::socket::Socket;

/// How long a session lives without a link: longer than a client end redials (60 s), so that the agent never gives up
/// first.
pub const LINGER: Duration = Duration::from_secs(90);

/// How long an ended session waits for the other end to have heard it.
const FAREWELL: Duration = Duration::from_secs(90);

/// How long the last CLOSE may take once everything else is done.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a session's bytes come from and go to: raw WebSocket bytes, `read` giving nothing after the last of them.
pub trait Far: AsyncRead + AsyncWrite + Unpin {
    /// Why it has ended. Asked once, after its last byte.
    fn ending(&self) -> Close;

    /// The client end has left, and says this. Told at most once, before the far end is dropped.
    fn handle_left(&mut self, _: &Close) {}
}

/// How a session's task ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The far end ended, and the client end has heard it or had time to.
    Far(Close),
    /// The client end left.
    Client(Close),
    /// No link came back in time.
    Abandoned,
}

/// Reaches a session's task.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

/// The session's task's side of a [`Handle`].
#[derive(Debug)]
pub struct Commands(mpsc::Receiver<Command>);

#[derive(Debug)]
enum Command {
    Prepare { link: u64, received: u64, answer: oneshot::Sender<Result<u64, ErrorCode>> },
    Attach { link: u64, received: u64, socket: Socket },
}

/// A handle and its other side. Two commands belong to one resume, and resumes do not queue up.
pub fn handle() -> (Handle, Commands) {
    let (commands, receiver) = mpsc::channel(4);
    (Handle { commands }, Commands(receiver))
}

impl Handle {
    /// Announces a new link: the present one ends here and now. Returns how many bytes the session has received.
    ///
    /// # Errors
    ///
    /// `session.superseded` when this link or a newer one was announced before, `link.protocol` for an impossible count,
    /// `session.unknown` when the session has just ended.
    pub async fn prepare(&self, link: u64, received: u64) -> Result<u64, ErrorCode> {
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send(Command::Prepare { link, received, answer }).await;
        sent.map_err(|_| ErrorCode::SessionUnknown)?;
        answered.await.unwrap_or(Err(ErrorCode::SessionUnknown))
    }

    /// Gives the session its new link, after the 101 was sent. If a newer one was announced meanwhile, it is dropped.
    pub async fn attach(&self, link: u64, received: u64, socket: Socket) {
        // A session that has ended needs no link.
        let _ = self.commands.send(Command::Attach { link, received, socket }).await;
    }
}

/// Carries a session until it ends. `first` is its first link; `linger` is how long it lives without one.
///
/// Cancel safe in that dropping it ends the session.
pub async fn serve<F: Far>(mut far: F, window: u64, first: Socket, commands: Commands, linger: Duration) -> Ended {
    let now = clock::now();
    let mut session = Session::new(window, landfast_core::session::WINDOW, now);
    session.handle_link(1, 0, now).expect("the first link of a new session");
    let mut served = Served {
        session,
        link: Some(first),
        announced: 1,
        carrier: Carrier::default(),
        commands,
        unlinked_since: Instant::now(),
        linger,
        ending: None,
    };
    served.run(&mut far).await
}

struct Served {
    session: Session,
    link: Option<Socket>,
    /// The newest link number that was announced.
    announced: u64,
    carrier: Carrier,
    commands: Commands,
    unlinked_since: Instant,
    linger: Duration,
    /// The far end has ended.
    ending: Option<Close>,
}

impl Served {
    async fn run<F: Far>(&mut self, far: &mut F) -> Ended {
        loop {
            let patience = if self.ending.is_some() { FAREWELL.min(self.linger) } else { self.linger };
            let give_up = self.unlinked_since + patience;
            tokio::select! {
                biased;
                Some(command) = self.commands.0.recv() => self.handle_command(command),
                () = sleep_until(give_up), if self.link.is_none() => {
                    return self.ending.take().map_or(Ended::Abandoned, Ended::Far);
                }
                event = self.carrier.carry(far, &mut self.session, self.link.as_mut()) => {
                    if let Some(ended) = self.handle_event(event, far).await {
                        return ended;
                    }
                }
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Prepare { link, received, answer } => {
                let _ = answer.send(self.prepare(link, received));
            }
            Command::Attach { link, received, socket } if link == self.announced => {
                if self.session.handle_link(link, received, clock::now()).is_ok() {
                    self.link = Some(socket);
                }
            }
            Command::Attach { .. } => {}
        }
    }

    fn prepare(&mut self, link: u64, received: u64) -> Result<u64, ErrorCode> {
        if link <= self.announced {
            return Err(ErrorCode::SessionSuperseded);
        }
        self.session.check_resume(link, received).map_err(|error| match error {
            ResumeError::Superseded => ErrorCode::SessionSuperseded,
            ResumeError::BadOffset => ErrorCode::LinkProtocol,
        })?;
        self.announced = link;
        self.drop_link();
        Ok(self.session.received())
    }

    async fn handle_event<F: Far>(&mut self, event: Event, far: &mut F) -> Option<Ended> {
        match event {
            Event::LinkLost(loss) => {
                tracing::debug!(%loss, link = self.session.link_number(), "link lost");
                self.drop_link();
                None
            }
            Event::LocalEnded(_) => {
                let close = far.ending();
                self.session.finish(close.clone());
                self.ending = Some(close);
                None
            }
            Event::Finished => None,
            Event::PeerClosed => {
                let close = self.session.peer_close().cloned().expect("the event says so");
                Some(match self.ending.take() {
                    Some(ending) => Ended::Far(ending),
                    None => {
                        far.handle_left(&close);
                        self.session.finish(close.clone());
                        if let Some(link) = self.link.take() {
                            say_goodbye(&mut self.session, link, GOODBYE).await;
                        }
                        Ended::Client(close)
                    }
                })
            }
        }
    }

    fn drop_link(&mut self) {
        if self.link.take().is_some() {
            self.session.handle_link_lost();
            self.unlinked_since = Instant::now();
        }
    }
}
