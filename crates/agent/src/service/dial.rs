//! From a wish to reach a service to a connection with it, once it is up.

use std::sync::Arc;
use std::time::Duration;

use landfast_core::supervise::State;
use landfast_core::{ErrorCode, Problem};
use landfast_net::head::RequestHead;
use landfast_net::relay::Target;
use landfast_net::socket::Socket;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::keeper::Handle;
use super::pipe::{Origin, Pipe};
use super::place::Place;
use super::table::Service;
use super::upgrade::{Answer, ask};
use crate::Agent;
use crate::api::serve_api;

/// How long somebody who wants to reach a service that is starting is held: most are up by then, and a gateway that is
/// told so parks the rest.
pub(crate) const HOLD: Duration = Duration::from_secs(5);

/// How long it takes at most to notice that a service which refuses a connection has just ended.
const NOTICE: Duration = Duration::from_millis(250);

/// How long a program may take to answer an upgrade, a refusal's body included.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Connects to a service, to speak bytes with it, for somebody who waits for so long.
///
/// Cancel safe: nothing is left of a dial that was dropped.
///
/// # Errors
///
/// [`ErrorCode::ServiceUnknown`], [`ErrorCode::UpstreamRefused`], [`ErrorCode::UpstreamTimeout`],
/// [`ErrorCode::InstanceStarting`]; nothing was started.
pub(crate) async fn dial(agent: &Arc<Agent>, target: Target, within: Duration) -> Result<Pipe, Problem> {
    let (socket, origin) = connect(agent, target, within).await?;
    Ok(Pipe::new(socket, origin).counted(&agent.activity))
}

/// Connects to a service, and asks it for a WebSocket, for somebody who waits for so long.
///
/// Not cancel safe in that its program may have been asked.
///
/// # Errors
///
/// As [`dial`], and [`ErrorCode::UpstreamLost`] or [`ErrorCode::UpstreamTimeout`] once it was asked.
pub(crate) async fn upgrade(
    agent: &Arc<Agent>,
    target: Target,
    wish: &RequestHead,
    within: Duration,
) -> Result<Answer, Problem> {
    let until = Instant::now() + within.min(ANSWER_DEADLINE);
    let (socket, origin) = connect(agent, target, within).await?;
    let retry_signals = service_of(agent, target)?.is_some_and(|service| service.retry_signals);
    let answered = timeout_at(until, ask(socket, origin, wish, retry_signals)).await;
    answered.map_err(|_| Problem::from(ErrorCode::UpstreamTimeout))?
}

async fn connect(agent: &Arc<Agent>, target: Target, within: Duration) -> Result<(Socket, Option<Origin>), Problem> {
    match (service_of(agent, target)?, target) {
        (Some(Service { place, handle: Some(handle), .. }), _) => reach(place, handle, within).await,
        (Some(service), _) => Ok((service.place.connect().await?, None)),
        (None, Target::Port(port)) => {
            agent.services.check_port(port)?;
            Ok((Place::Port(port).connect().await?, None))
        }
        (None, Target::Agent | Target::Service(_)) => Ok((own_api(agent)?, None)),
    }
}

/// The service that is meant, unless it is the agent or a port that nobody has named.
fn service_of(agent: &Agent, target: Target) -> Result<Option<&Service>, Problem> {
    match target {
        Target::Agent => Ok(None),
        Target::Port(port) => Ok(agent.services.on_port(port)),
        Target::Service(name) => agent.services.get(name).map(Some),
    }
}

/// Connects to a service that the agent keeps, waiting for it while it is about to be up.
async fn reach(place: &Place, handle: &Handle, within: Duration) -> Result<(Socket, Option<Origin>), Problem> {
    let (until, mut status) = (Instant::now() + within.min(HOLD), handle.watch());
    loop {
        let state = status.borrow_and_update().state;
        match state {
            State::Up => {
                let origin = Origin::new(&status);
                let refused = match place.connect().await {
                    Ok(socket) => return Ok((socket, Some(origin))),
                    Err(problem) => problem,
                };
                // It has just ended, or it is not the one that listened.
                if !matches!(timeout(NOTICE, status.changed()).await, Ok(Ok(()))) {
                    return Err(refused);
                }
            }
            State::Starting | State::Backoff => {
                if !matches!(timeout_at(until, status.changed()).await, Ok(Ok(()))) {
                    let detail = "The service is being started, and was not ready in time.";
                    return Err(Problem::new(ErrorCode::InstanceStarting, detail));
                }
            }
            State::Down | State::Failed | State::GaveUp => {
                let detail = format!("The service is {}.", state.as_str());
                return Err(Problem::new(ErrorCode::UpstreamRefused, detail));
            }
        }
    }
}

/// A connection to the agent's own API, without a socket of its own in the file system.
fn own_api(agent: &Arc<Agent>) -> Result<Socket, Problem> {
    let (near, far) = UnixStream::pair().map_err(|error| {
        tracing::error!(%error, "no connection within the agent can be made");
        Problem::from(ErrorCode::Internal)
    })?;
    agent.until_stopped(serve_api(agent.clone(), Socket::unix(far), agent.stop.clone()));
    Ok(Socket::unix(near))
}
