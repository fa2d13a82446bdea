//! The first link of a session, dialled as every further one: parked while the instance is between places, tried again
//! while its node cannot be reached, until the request's own deadline.

use std::sync::Arc;
use std::time::Duration;

use landfast_core::cdp::START_BUDGET;
use landfast_core::limit::Entrance;
use landfast_core::record::Generation;
use landfast_core::redial::{Effect, Presence, Redial};
use landfast_core::route::{Lookup, Route};
use landfast_core::time::earliest;
use landfast_core::{ErrorCode, InstanceId, Problem, Retry};
use landfast_net::link::{self, LinkError, OpenAnswer, OpenRequest, Refusal, ResumeRequest};
use landfast_net::relay::Target;
use landfast_net::socket::Socket;
use landfast_net::{clock, random};
use tokio::time::{Instant, timeout_at};

use crate::access::Record;
use crate::forward::{Wishes, signal};
use crate::gateway::Gateway;
use crate::place;
use crate::routes::Entry;
use crate::search::{WAKE_EVERY, needs_waking};

/// Where an agent takes links.
pub(crate) const PATH: &str = "/links";

/// How much longer an answer is waited for than the agent was told to take: its way back, and the turn of a busy machine.
const ANSWER_MARGIN: Duration = Duration::from_secs(2);

/// What the agent is asked.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A new session.
    Open(OpenRequest),
    /// A further link of one, for a client that keeps its own count.
    Resume(ResumeRequest),
}

impl Asked {
    /// What it is let in as.
    pub(crate) const fn entrance(&self) -> Entrance {
        match self {
            Self::Open(_) => Entrance::Session,
            Self::Resume(_) => Entrance::Resume,
        }
    }

    /// How long it may wait, where a route may be waited for as long as this.
    pub(crate) fn patience(&self, route_deadline: Duration) -> Duration {
        match self {
            Self::Open(request) if place::is_browser(&request.head.target) => for_browser(route_deadline),
            Self::Open(_) | Self::Resume(_) => route_deadline,
        }
    }
}

/// How long a client waits for a browser, wherever on the way to it something has to be started first: as long as a start of
/// the browser alone may take.
pub(crate) fn for_browser(route_deadline: Duration) -> Duration {
    route_deadline.max(START_BUDGET)
}

/// What the agent said yes with.
#[derive(Debug)]
pub(crate) enum Granted {
    /// The new session.
    Opened(OpenAnswer),
    /// How much of the session it has.
    Resumed(u64),
}

/// A link that stands.
#[derive(Debug)]
pub(crate) struct Link {
    /// The connection, right after its 101.
    pub(crate) socket: Socket,
    /// What came with it.
    pub(crate) granted: Granted,
    /// The generation it leads to.
    pub(crate) generation: Generation,
    /// The instance it leads to, held.
    pub(crate) entry: Arc<Entry>,
}

/// Why there is no link.
#[derive(Debug)]
pub(crate) enum NoLink {
    /// Ours to say.
    Ours(Problem),
    /// The far end's own answer.
    Refused(Box<Refusal>),
    /// The connection was lost while a resume was asked for. The agent may have counted that link and takes no number
    /// twice, so only the client can ask again.
    Lost,
}

impl From<ErrorCode> for NoLink {
    fn from(code: ErrorCode) -> Self {
        Self::Ours(code.into())
    }
}

impl From<Problem> for NoLink {
    fn from(problem: Problem) -> Self {
        Self::Ours(problem)
    }
}

impl NoLink {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Ours(problem) => problem.code,
            Self::Refused(refusal) => refusal.code(),
            Self::Lost => ErrorCode::UpstreamLost,
        }
    }

    /// The end that `code` is: in the far end's own words, if those were the last.
    fn ending(self, code: ErrorCode) -> Self {
        if self.code() == code { self } else { code.into() }
    }
}

/// Opens or resumes a link to an instance.
///
/// # Errors
///
/// [`NoLink`]; no session of ours exists then.
pub(crate) async fn link(
    gateway: &Gateway,
    id: InstanceId,
    asked: &Asked,
    wishes: Wishes,
    record: &mut Record,
) -> Result<Link, NoLink> {
    let within = wishes.wait;
    let deadline = Instant::now() + within;
    let held = timeout_at(deadline, gateway.routes.hold(id)).await;
    let entry = held.unwrap_or(Err(ErrorCode::RegistryUnavailable))?;
    record.ask_instance(&entry, asked.entrance(), gateway)?;
    let mut news = entry.news();
    let mut redial = Redial::new(admission(&entry.state()), clock::now()).with_resume_window(within);
    let mut last = NoLink::from(ErrorCode::NodeUnreachable);
    loop {
        match redial.poll(clock::now()) {
            Some(Effect::Dial) => {
                record.attempts += 1;
                last = match attempt(gateway, &entry, asked, deadline, last.code()).await {
                    Ok((route, socket, granted)) => {
                        record.generation = Some(route.generation);
                        return Ok(Link { socket, granted, generation: route.generation, entry });
                    }
                    // The instance's own agent has spoken, or may have: asking again is the client's to decide.
                    Err(spoken @ (NoLink::Lost | NoLink::Refused(_))) => return Err(spoken),
                    Err(refused) => refused,
                };
                news.mark_unchanged();
                redial.handle_presence(admission(&entry.state()), clock::now());
                redial.handle_refused(last.code(), random::bits(), clock::now());
            }
            Some(Effect::End(code)) => return Err(last.ending(code)),
            Some(Effect::DropLink) | None => {
                let mut wake_again = None;
                if needs_waking(&entry) {
                    if !wishes.wakes {
                        return Err(ErrorCode::InstanceSleeping.into());
                    }
                    gateway.wake(id);
                    wake_again = Some(clock::now() + WAKE_EVERY);
                }
                let _parked = gateway.counters.park();
                let wait = async {
                    tokio::select! {
                        _ = news.changed() => {}
                        () = clock::sleep_until(earliest(redial.next_deadline(), wake_again)) => {}
                    }
                };
                if timeout_at(deadline, wait).await.is_err() {
                    let code = redial.last_refusal().unwrap_or(last.code());
                    return Err(last.ending(code));
                }
                redial.handle_presence(admission(&entry.state()), clock::now());
            }
        }
    }
}

/// The route to dial now.
///
/// # Errors
///
/// Why there is none.
pub(crate) async fn route_now(entry: &Entry) -> Result<Route, ErrorCode> {
    match &*entry.settled().await {
        Lookup::Known(route) => route.ready().map(|()| route.clone()),
        Lookup::Ended(code) => Err(*code),
        Lookup::Unknown => Err(ErrorCode::InstanceUnknown),
        Lookup::Unavailable | Lookup::Asking => Err(ErrorCode::RegistryUnavailable),
    }
}

/// Asks once; `last` is what is said where the deadline comes before anybody was asked.
async fn attempt(
    gateway: &Gateway,
    entry: &Entry,
    asked: &Asked,
    deadline: Instant,
    last: ErrorCode,
) -> Result<(Route, Socket, Granted), NoLink> {
    let dialled = timeout_at(deadline, async {
        let route = route_now(entry).await?;
        let socket = gateway.dial(&route, Target::Agent).await?;
        Ok((route, socket))
    });
    let (route, socket) = dialled.await.unwrap_or(Err(last))?;
    // The agent knows what it waits for, so the refusal is its own; one that says nothing at all is no part of the search.
    let answered = timeout_at(deadline + ANSWER_MARGIN, ask(socket, asked, deadline)).await;
    let Ok(answered) = answered else { return Err(ErrorCode::UpstreamTimeout.into()) };
    let refusal = match answered {
        Ok((socket, granted)) => return Ok((route, socket, granted)),
        Err(LinkError::Refused(refusal)) => refusal,
        Err(LinkError::Connection(_)) if matches!(asked, Asked::Resume(_)) => return Err(NoLink::Lost),
        Err(LinkError::Connection(_)) => return Err(ErrorCode::NodeUnreachable.into()),
    };
    match not_run(&refusal) {
        None => Err(NoLink::Refused(Box::new(refusal))),
        Some(code) => {
            if code == ErrorCode::NodeNotHere {
                // What comes of it is read from the routes.
                let _ = gateway.routes.refused(route.instance, route.generation).await;
            }
            Err(code.into())
        }
    }
}

/// What a refusal says that lets another attempt be made: the agent's own word that a service starts, or a service's that
/// it did not run the request, which the agent lets through from services that are believed only.
fn not_run(refusal: &Refusal) -> Option<ErrorCode> {
    let says = signal(&refusal.head)?;
    if refusal.head.headers.contains("landfast-origin") {
        return Some(ErrorCode::NodeNotHere);
    }
    Some(says).filter(|code| *code == ErrorCode::InstanceStarting)
}

async fn ask(socket: Socket, asked: &Asked, deadline: Instant) -> Result<(Socket, Granted), LinkError> {
    match asked {
        Asked::Open(request) => {
            let left = deadline.saturating_duration_since(Instant::now()).as_secs_f64().to_string();
            let (socket, answer) = link::open(socket, PATH, request, &[(link::WAIT, &left)]).await?;
            Ok((socket, Granted::Opened(answer)))
        }
        Asked::Resume(request) => {
            let (socket, received) = link::resume(socket, PATH, request, &[]).await?;
            Ok((socket, Granted::Resumed(received)))
        }
    }
}

/// What somebody new is told: unlike a session's own life, an end that is followed by another life is no end.
fn admission(state: &Lookup) -> Presence {
    match state {
        Lookup::Known(route) => match route.ready() {
            Ok(()) => Presence::Here(route.generation),
            Err(code) if code.retry() == Retry::Safe => Presence::Between(code),
            Err(code) => Presence::Ended(code),
        },
        Lookup::Ended(code) => Presence::Ended(*code),
        Lookup::Unknown => Presence::Ended(ErrorCode::InstanceUnknown),
        Lookup::Unavailable => Presence::Ended(ErrorCode::RegistryUnavailable),
        Lookup::Asking => Presence::Unknown,
    }
}
