//! The task behind an attachment: it holds one session after another until the process has exited or somebody with
//! authority said no.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use landfast_core::link::Close;
use landfast_core::record::Generation;
use landfast_core::redial::{Effect, Presence, Redial};
use landfast_core::{ErrorCode, InstanceId, ProcessId};
use landfast_net::clock;
use landfast_net::hold::{Attempt, Dialer, Ending, Holder, Resumed};
use landfast_net::link::{self, LinkError, OpenAnswer, OpenRequest, ResumeRequest};
use landfast_net::socket::Socket;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::attach::{Attach, Command, Said};
use crate::client::{Client, wants_new_token};
use crate::conversation::{Conversation, Event, State};
use crate::error::{Error, Refusal};
use crate::talk::{self, How, Memory, talk};

/// How long the first session may take to stand: a gateway's restart, or an instance that is starting.
pub(crate) const FIRST_PATIENCE: Duration = Duration::from_secs(60);

/// How long one attempt may take: longer than the 10 s for which a move parks it.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(20);

/// Bytes between the two ends in this process; the session's window is what really bounds them.
const PIPE: usize = 64 * 1024;

/// A session that stands.
pub(crate) type Opened = (Socket, OpenAnswer);

/// Keeps one attachment.
pub(crate) struct Keeper {
    way: Way,
    how: Attach,
    conversation: Conversation,
    memory: Memory,
    state: watch::Sender<State>,
}

/// How to reach the process.
#[derive(Clone)]
struct Way {
    client: Client,
    instance: InstanceId,
    process: ProcessId,
}

/// What follows a session.
enum Next {
    Done,
    Reattach,
}

impl Keeper {
    pub(crate) fn new(
        client: Client,
        instance: InstanceId,
        process: ProcessId,
        how: Attach,
        state: watch::Sender<State>,
    ) -> Self {
        let way = Way { client, instance, process };
        Self { way, how, conversation: Conversation::new(how.from), memory: Memory::default(), state }
    }

    /// Opens a session where the conversation stands, by the same policy as a redial.
    pub(crate) async fn open(&self, patience: Duration) -> Result<Opened, Error> {
        let mut redial = Redial::new(Presence::Unknown, clock::now()).with_resume_window(patience);
        let mut last = None;
        loop {
            match redial.poll(clock::now()) {
                Some(Effect::Dial) => match self.way.open(&self.conversation, self.how.input).await {
                    Ok(opened) => {
                        self.state.send_replace(State::Connected);
                        return Ok(opened);
                    }
                    Err(error) => {
                        redial.handle_refused(cause(&error), rand::random(), clock::now());
                        self.say_reconnecting(redial.attempt(), error.to_string());
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

    /// Holds sessions until the end. Returns `Ok` after the exit was told or the caller has left.
    pub(crate) async fn keep(
        mut self,
        mut opened: Opened,
        events: mpsc::Sender<Said>,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<(), Error> {
        loop {
            match self.hold(opened, &events, &mut commands).await? {
                Next::Done => return Ok(()),
                Next::Reattach => {}
            }
            self.conversation.handle_session();
            self.say_reconnecting(1, ErrorCode::SessionUnknown.sentence().to_owned());
            opened = tokio::select! {
                opened = self.open(self.how.patience) => opened?,
                () = events.closed() => return Ok(()),
            };
        }
    }

    /// Holds one session, and says what follows it.
    async fn hold(
        &mut self,
        (socket, answer): Opened,
        events: &mpsc::Sender<Said>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<Next, Error> {
        // The registry is not ours to watch: all we know is what our dials bring back.
        let (_, mut presence) = watch::channel(Presence::Unknown);
        let mut dialer = Redialler { way: self.way.clone(), state: self.state.clone() };
        let mut holder = Holder::new(socket, &answer, Generation(0)).with_resume_window(self.how.patience);
        let (near, mut far) = tokio::io::duplex(PIPE);
        let (how, ending) = {
            let talk = talk(&mut self.conversation, &mut self.memory, near, events, commands, &self.state);
            let mut talk = std::pin::pin!(talk);
            let first = tokio::select! {
                biased;
                ending = holder.run(&mut far, &mut dialer, &mut presence) => Err(ending),
                how = &mut talk => Ok(how),
            };
            match first {
                Ok(how) => (how, None),
                Err(ending) => {
                    // What the session had handed on still reaches the caller.
                    drop(far);
                    (talk.await, Some(ending))
                }
            }
        };
        let unsure = holder.unacknowledged() > 0 || self.memory.is_sending();
        if ending.is_none() {
            holder.leave(Close::new(ErrorCode::ClientClose, "")).await;
        }
        let next = self.after(how, ending)?;
        if matches!(next, Next::Reattach) && unsure {
            // A caller that has gone needs no news; the next session finds that out.
            let _ = events.send(Said { event: Event::InputUnsure, offset: self.conversation.offset() }).await;
        }
        Ok(next)
    }

    fn after(&self, how: How, ending: Option<Ending>) -> Result<Next, Error> {
        if self.conversation.has_exited() {
            return Ok(Next::Done);
        }
        match (how, ending) {
            (How::Left, _) => Ok(Next::Done),
            (How::Broken(sentence), _) => Err(Error::Protocol(sentence)),
            (How::Closed(close), _) => {
                let reason = close.map_or_else(String::new, |(_, reason)| reason);
                Err(Error::Ended { code: reason.split(' ').next().and_then(ErrorCode::parse), reason })
            }
            (How::Eof, Some(Ending::Refused(ErrorCode::SessionUnknown))) => Ok(Next::Reattach),
            (How::Eof, Some(Ending::Refused(code))) => Err(Error::Ended { code: Some(code), reason: String::new() }),
            (How::Eof, Some(Ending::Far(Close { code, reason }))) => Err(Error::Ended { code: Some(code), reason }),
            (How::Eof, Some(Ending::Local(_)) | None) => Err(Error::Ended { code: None, reason: String::new() }),
        }
    }

    fn say_reconnecting(&self, attempt: usize, why: String) {
        say_reconnecting(&self.state, attempt, why);
    }
}

/// Redials for the holder.
struct Redialler {
    way: Way,
    state: watch::Sender<State>,
}

impl Dialer for Redialler {
    fn resume(&mut self, request: ResumeRequest) -> Attempt {
        let way = self.way.clone();
        Box::pin(async move { way.resume(&request).await.map_err(|error| cause(&error)) })
    }

    fn on_redial(&mut self, attempt: usize, last: Option<ErrorCode>) {
        let why = last.map_or("The connection was lost.", ErrorCode::sentence);
        say_reconnecting(&self.state, attempt, why.to_owned());
    }

    fn on_linked(&mut self, _generation: Generation) {
        self.state.send_replace(State::Connected);
    }
}

impl Way {
    async fn open(&self, conversation: &Conversation, input: bool) -> Result<Opened, Error> {
        let head = talk::attach_head(self.process, conversation.resume_from(), input);
        let request = &OpenRequest::new(head);
        let exchange = |socket, path: String, bearer: String| -> Exchange<'_, Opened> {
            Box::pin(async move { link::open(socket, &path, request, &[("Authorization", &bearer)]).await })
        };
        let (socket, answer) = self.with_token(exchange).await?;
        if answer.head.status != 101 {
            return Err(Error::Protocol(format!("the agent answered {} in the place of 101", answer.head.status)));
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

    /// Exchanges heads over a new connection, and once more with a new token if the old one was refused.
    async fn with_token<'r, T>(
        &self,
        exchange: impl Fn(Socket, String, String) -> Exchange<'r, T>,
    ) -> Result<T, Error> {
        let mut renewed = false;
        loop {
            let token = self.client.token(self.instance).await?;
            let socket = self.client.origin().connect().await?;
            let path = self.client.origin().path(&Client::data_path(self.instance, "/links"));
            let exchanged = timeout(ATTEMPT_DEADLINE, exchange(socket, path, format!("Bearer {token}"))).await;
            let exchanged = exchanged.unwrap_or_else(|_| Err(LinkError::Connection(io::ErrorKind::TimedOut.into())));
            match exchanged.map_err(|error| self.read(error)) {
                Err(error) if wants_new_token(error.code()) && !renewed => {
                    renewed = true;
                    self.client.forget_token(self.instance, &token);
                }
                result => return result,
            }
        }
    }

    fn read(&self, error: LinkError) -> Error {
        match error {
            LinkError::Refused(refusal) => {
                let text = |name: &str| refusal.head.headers.get(name);
                Error::Refused(Box::new(Refusal::read(refusal.head.status, text, &refusal.body)))
            }
            LinkError::Connection(error) => {
                Error::Broken { address: self.client.origin().to_string(), why: error.to_string() }
            }
        }
    }
}

/// An exchange of heads under way.
type Exchange<'r, T> = Pin<Box<dyn Future<Output = Result<T, LinkError>> + Send + 'r>>;

/// The row by which a failed attempt is judged. A transport failure proves nothing about the instance.
fn cause(error: &Error) -> ErrorCode {
    match error {
        Error::Refused(refusal) => refusal.code.unwrap_or(match refusal.status {
            // What a proxy before the gateway says while the gateway is away.
            502..=504 => ErrorCode::NodeUnreachable,
            _ => ErrorCode::Internal,
        }),
        Error::Ended { code, .. } => code.unwrap_or(ErrorCode::Internal),
        Error::Unreachable { .. } | Error::Broken { .. } => ErrorCode::NodeUnreachable,
        Error::Protocol(_) => ErrorCode::LinkProtocol,
        Error::Invalid(problem) => problem.code,
    }
}

fn say_reconnecting(state: &watch::Sender<State>, attempt: usize, why: String) {
    let new = State::Reconnecting { attempt, why };
    state.send_if_modified(|known| {
        let news = *known != new;
        *known = new;
        news
    });
}
