//! The way to an instance: sessions are opened and resumed over it, with tokens that are renewed when they must be.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfast_core::record::Generation;
use landfast_core::redial::{Effect, Presence, Redial};
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::carry::LinkLoss;
use landfast_net::clock;
use landfast_net::head::RequestHead;
use landfast_net::hold::{Attempt, Dialer, Resumed};
use landfast_net::link::{self, LinkError, OpenAnswer, OpenRequest, ResumeRequest};
use landfast_net::socket::Socket;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::client::{Client, wants_new_token};
use crate::conversation::State;
use crate::error::{Error, Refusal};
use crate::gateways::cause;
use crate::origin::Door;

/// How long the first session may take to stand: a gateway's restart, or an instance that is starting.
pub(crate) const FIRST_PATIENCE: Duration = Duration::from_secs(60);

/// How long one attempt may take: longer than the 10 s for which a move parks it.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(20);

/// A session that stands.
pub(crate) type Opened = (Socket, OpenAnswer);

/// How to reach an instance.
#[derive(Clone)]
pub(crate) struct Way {
    client: Client,
    instance: InstanceId,
    /// Where the last link of the session led. Copies share it; never held across an await.
    home: Arc<Mutex<Option<Door>>>,
}

/// Redials for a holder, and says so.
pub(crate) struct Redialler {
    way: Way,
    state: watch::Sender<State>,
}

/// An exchange of heads under way.
type Exchange<'r, T> = Pin<Box<dyn Future<Output = Result<T, LinkError>> + Send + 'r>>;

impl Way {
    pub(crate) fn new(client: Client, instance: InstanceId) -> Self {
        Self { client, instance, home: Arc::default() }
    }

    /// Opens a session with this head, by the same policy as a redial, and tells each failure. The far end accepts with
    /// the status `accepted`.
    ///
    /// # Errors
    ///
    /// The refusal of somebody with authority, or the last failure within `patience`.
    pub(crate) async fn open(
        &self,
        patience: Duration,
        head: impl Fn() -> RequestHead,
        accepted: u16,
        say: impl Fn(usize, &Error),
    ) -> Result<Opened, Error> {
        let mut redial = Redial::new(Presence::Unknown, clock::now()).with_resume_window(patience);
        let mut last = None;
        loop {
            match redial.poll(clock::now()) {
                Some(Effect::Dial) => match self.open_once(head(), accepted).await {
                    Ok(opened) => return Ok(opened),
                    Err(error) => {
                        redial.handle_refused(cause(&error), rand::random(), clock::now());
                        say(redial.attempt(), &error);
                        last = Some(error);
                    }
                },
                Some(Effect::End(code)) => {
                    return Err(last.unwrap_or_else(|| Error::Ended { code: Some(code), reason: String::new() }));
                }
                Some(Effect::DropLink) => unreachable!("no link stands yet"),
                None => clock::sleep_until(redial.next_deadline()).await,
            }
        }
    }

    async fn open_once(&self, head: RequestHead, accepted: u16) -> Result<Opened, Error> {
        let request = &OpenRequest::new(head);
        let exchange = |socket, path: String, bearer: String| -> Exchange<'_, Opened> {
            Box::pin(async move { link::open(socket, &path, request, &[("Authorization", &bearer)]).await })
        };
        let (socket, answer) = self.with_token(exchange).await?;
        if answer.head.status != accepted {
            let status = answer.head.status;
            return Err(Error::Protocol(format!("the agent answered {status} in the place of {accepted}")));
        }
        Ok((socket, answer))
    }

    async fn resume(&self, request: &ResumeRequest) -> Result<Resumed, Error> {
        let exchange = |socket, path: String, bearer: String| -> Exchange<'_, (Socket, u64)> {
            Box::pin(async move { link::resume(socket, &path, request, &[("Authorization", &bearer)]).await })
        };
        let (socket, received) = self.with_token(exchange).await?;
        Ok(Resumed { socket, received, generation: Generation(0) })
    }

    /// Exchanges heads over a new connection, and once more with a new token if the old one was refused. A gateway that
    /// takes nothing is left for the next one.
    async fn with_token<'r, T>(
        &self,
        exchange: impl Fn(Socket, String, String) -> Exchange<'r, T>,
    ) -> Result<T, Error> {
        let mut renewed = false;
        loop {
            let token = self.client.token(self.instance).await?;
            match self.at_some_gateway(&token, &exchange).await {
                Err(error) if wants_new_token(error.code()) && !renewed => {
                    renewed = true;
                    self.client.forget_token(self.instance, &token);
                }
                result => return result,
            }
        }
    }

    async fn at_some_gateway<'r, T>(
        &self,
        token: &str,
        exchange: &impl Fn(Socket, String, String) -> Exchange<'r, T>,
    ) -> Result<T, Error> {
        let mut walk = self.client.gateways().walk(self.home().clone());
        loop {
            let (socket, door) = walk.next().await?;
            let path = door.origin.path(&Client::data_path(self.instance, "/links"));
            let exchanged = timeout(ATTEMPT_DEADLINE, exchange(socket, path, format!("Bearer {token}"))).await;
            let exchanged = exchanged.unwrap_or_else(|_| Err(LinkError::Connection(io::ErrorKind::TimedOut.into())));
            let exchanged = exchanged.map_err(|error| read(&door, error));
            if exchanged.is_ok() {
                *self.home() = Some(door.clone());
            }
            if let Some(result) = walk.settle(&door, exchanged) {
                return result;
            }
        }
    }

    fn home(&self) -> MutexGuard<'_, Option<Door>> {
        // It is replaced whole.
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link was silent: its gateway may be, and others are tried before it.
    fn suspect(&self) {
        if let Some(door) = &*self.home() {
            self.client.gateways().suspect(door);
        }
    }
}

fn read(door: &Door, error: LinkError) -> Error {
    match error {
        LinkError::Refused(refusal) => {
            let text = |name: &str| refusal.head.headers.get(name);
            Error::Refused(Box::new(Refusal::read(refusal.head.status, text, &refusal.body)))
        }
        LinkError::Connection(error) => Error::Broken { address: door.origin.to_string(), why: error.to_string() },
    }
}

impl Redialler {
    pub(crate) const fn new(way: Way, state: watch::Sender<State>) -> Self {
        Self { way, state }
    }
}

impl Dialer for Redialler {
    fn resume(&mut self, request: ResumeRequest) -> Attempt {
        let way = self.way.clone();
        Box::pin(async move { way.resume(&request).await.map_err(|error| cause(&error)) })
    }

    fn on_lost(&mut self, loss: &LinkLoss) {
        if matches!(loss, LinkLoss::Dead) {
            self.way.suspect();
        }
    }

    fn on_redial(&mut self, attempt: usize, last: Option<ErrorCode>) {
        let why = last.map_or("The connection was lost.", ErrorCode::sentence);
        say_reconnecting(&self.state, attempt, why.to_owned());
    }

    fn on_linked(&mut self, _generation: Generation) {
        self.state.send_replace(State::Connected);
    }
}

/// Says that the connection is away, unless that was the last word already.
pub(crate) fn say_reconnecting(state: &watch::Sender<State>, attempt: usize, why: String) {
    let new = State::Reconnecting { attempt, why };
    state.send_if_modified(|known| {
        let news = *known != new;
        *known = new;
        news
    });
}
