//! The agent's sockets: `agent.sock`, where anyone the relay lets through asks about processes; `handoff.sock`, where the
//! node gives it whole connections of such askers; and `control.sock`, where only the node speaks.

mod answer;
mod browser;
mod control;
mod exec;
mod files;
pub(crate) mod handoff;
mod history;
pub(crate) mod kernel;
mod links;
pub(crate) mod network;
mod output;
mod processes;
mod relayed;
mod services;
mod telemetry;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use landfast_core::{ErrorCode, Problem};
use landfast_net::socket::Socket;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(crate) use telemetry::stream_events;

use crate::Agent;
use answer::{Body, Refused};

/// How long a request's head may take, as at the gateway.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// The most bytes of a request's head, as at the gateway.
pub(crate) const HEAD_MAX: usize = 64 * 1024;

/// How long to wait when the kernel has no descriptor for a further connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Which way a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// `agent.sock`, or handed over by the node.
    Agent,
    /// `control.sock`.
    Control,
}

/// Listens on a socket's path. What an agent that died left there is replaced.
///
/// # Errors
///
/// [`ErrorCode::ListenInUse`] if a living one listens there, [`ErrorCode::ConfigInvalid`] if the path cannot be bound.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, Problem> {
    if StdStream::connect(path).is_ok() {
        return Err(Problem::new(ErrorCode::ListenInUse, format!("Another agent listens on {}.", path.display())));
    }
    bind(path).map_err(|error| {
        Problem::new(ErrorCode::ConfigInvalid, format!("Cannot listen on {}: {error}.", path.display()))
    })
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Accepts connections until told to stop.
pub(crate) async fn serve(agent: Arc<Agent>, listener: UnixListener, door: Door, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(agent.config.limits.connections));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept(&listener, &room) => accepted,
        };
        let Ok((stream, permit)) = accepted else { continue };
        let (owner, stop) = (agent.clone(), stop.clone());
        agent.tasks.spawn(async move {
            serve_connection(owner, Socket::unix(stream), door, stop).await;
            drop(permit);
        });
    }
}

async fn accept(listener: &UnixListener, room: &Arc<Semaphore>) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
    match listener.accept().await {
        Ok((stream, _)) => Ok((stream, permit)),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            sleep(ACCEPT_PAUSE).await;
            Err(error)
        }
    }
}

/// Serves one connection until it ends or is to be cut. The node's door still answers what was asked; the others'
/// connections are cut where they stand, so that the cause is told by those who know it.
async fn serve_connection(agent: Arc<Agent>, socket: Socket, door: Door, cut: CancellationToken) {
    let service = service_fn(|request| answer(&agent, door, &cut, request));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE).max_buf_size(HEAD_MAX);
    let connection = builder.serve_connection(TokioIo::new(socket), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cut.cancelled() => match door {
            Door::Agent => return,
            Door::Control => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

/// Serves the agent's own API on a connection that nobody accepted. Boxed, because that API leads back to here.
pub(crate) fn serve_api(
    agent: Arc<Agent>,
    socket: Socket,
    cut: CancellationToken,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(serve_connection(agent, socket, Door::Agent, cut))
}

async fn answer(
    agent: &Arc<Agent>,
    door: Door,
    cut: &CancellationToken,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let answered = match door {
        Door::Agent => told(agent, cut, request).await,
        Door::Control => control::route(agent, request).await,
    };
    Ok(answered.unwrap_or_else(Refused::into_response))
}

/// Answers, and tells of it if it was asked to change something that there is. Who says an event has told it already.
async fn told(
    agent: &Arc<Agent>,
    cut: &CancellationToken,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let (method, path, since) = (request.method().clone(), request.uri().path().to_owned(), Instant::now());
    let answered = route(agent, cut, request).await;
    let (status, code) = match &answered {
        Ok(response) => (response.status(), None),
        Err(refused) => (refused.status(), Some(refused.code())),
    };
    let is_nowhere = matches!(code, Some(ErrorCode::RequestNotFound | ErrorCode::RequestMethod));
    if !method.is_safe() && !is_nowhere && path != "/telemetry/events" {
        agent.events.api_call((&method, &path), (status, code), since);
    }
    answered
}

async fn route(
    agent: &Arc<Agent>,
    cut: &CancellationToken,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    // A link is no activity, what comes over it may be; and to look at what happens, to files or else, is none.
    let is_activity = match segments.first() {
        Some(&"links") => false,
        Some(&"telemetry") => request.method() != Method::GET,
        Some(&"kernel") => !matches!(segments.get(1), Some(&("telemetry" | "logs"))),
        Some(&"files") => segments.get(1) != Some(&"watch"),
        _ => true,
    };
    let _busy = is_activity.then(|| agent.activity.begin());
    let process = |id: &str| agent.processes.get(id);
    match (segments.as_slice(), request.method()) {
        (["processes"], &Method::GET) => Ok(processes::list(agent)),
        (["processes"], &Method::POST) => processes::start(agent, request).await,
        (["processes"], _) => Err(Refused::method("GET, POST")),
        (["processes", id], &Method::GET) => Ok(processes::get(&*process(id)?)),
        (["processes", id], &Method::DELETE) => processes::delete(agent, process(id)?).await,
        (["processes", _], _) => Err(Refused::method("GET, DELETE")),
        (["processes", id, "signal"], &Method::POST) => processes::signal(&*process(id)?, request).await,
        (["processes", id, "resize"], &Method::POST) => processes::resize(&*process(id)?, request).await,
        (["processes", id, "stdin"], &Method::POST) => processes::stdin(process(id)?, request).await,
        (["processes", id, "eof"], &Method::POST) => processes::end_input(&*process(id)?),
        (["processes", _, "signal" | "resize" | "stdin" | "eof"], _) => Err(Refused::method("POST")),
        (["processes", id, "output"], &Method::GET) => output::get(process(id)?, &request),
        (["processes", _, "attach"], &Method::GET) => links::attach(agent, cut, request),
        (["processes", _, "output" | "attach"], _) => Err(Refused::method("GET")),
        (["exec"], &Method::POST) => exec::post(agent, request).await,
        (["exec"], _) => Err(Refused::method("POST")),
        (["files", verb], _) => files::route(agent, verb, request).await,
        (["services"], &Method::GET) => Ok(services::list(agent)),
        (["services", name, "restart"], &Method::POST) => services::restart(agent.services.kept(name)?),
        (["services", name, "output"], &Method::GET) => {
            output::get(agent.services.kept(name)?.status().process, &request)
        }
        (["services"] | ["services", _, "output"], _) => Err(Refused::method("GET")),
        (["services", _, "restart"], _) => Err(Refused::method("POST")),
        (["telemetry"], &Method::GET) => Ok(telemetry::config(agent)),
        (["telemetry"], &Method::PUT) => telemetry::configure(agent, false, request).await,
        (["telemetry"], &Method::PATCH) => telemetry::configure(agent, true, request).await,
        (["telemetry"], _) => Err(Refused::method("GET, PUT, PATCH")),
        (["telemetry", "stream"], &Method::GET) => telemetry::stream(agent, &request),
        (["telemetry", "stream"], _) => Err(Refused::method("GET")),
        (["telemetry", "events"], &Method::GET) => history::get(agent, &request).await,
        (["telemetry", "events"], &Method::POST) => telemetry::inject(agent, request).await,
        (["telemetry", "events"], _) => Err(Refused::method("GET, POST")),
        (["browser"], &Method::GET) => browser::get(agent),
        (["browser", "restart"], &Method::POST) => browser::restart(agent).await,
        (["browser", "flags"], &Method::PATCH) => browser::set_flags(agent, request).await,
        (["browser", "screenshot"], &Method::GET) => browser::screenshot(agent, &request).await,
        (["browser", "view"], &Method::GET) => Ok(browser::view()),
        (["browser", "screencast"], &Method::GET) => links::watch(agent, cut, request).await,
        (["browser"] | ["browser", "screenshot" | "view" | "screencast"], _) => Err(Refused::method("GET")),
        (["browser", "restart"], _) => Err(Refused::method("POST")),
        (["browser", "flags"], _) => Err(Refused::method("PATCH")),
        (["json", ..], _) => browser::forward(agent, request).await,
        // Its clients know no path of ours.
        ([""], &Method::GET) if agent.services.browser().is_ok() => links::connect(agent, cut, request).await,
        (["cdp"] | ["cdp", ""] | ["devtools", "browser" | "page", ..], &Method::GET) => {
            links::connect(agent, cut, request).await
        }
        (["cdp"] | ["cdp", ""] | ["devtools", "browser" | "page", ..], _) => Err(Refused::method("GET")),
        (["kernel", ..], _) => Ok(kernel::answer(agent, request).await),
        (["links"], &Method::GET) => links::open(agent, request).await,
        (["links", session], &Method::GET) => links::resume(agent, session, request).await,
        (["links"] | ["links", _], _) => Err(Refused::method("GET")),
        _ => Err(ErrorCode::RequestNotFound.into()),
    }
}
