//! Connecting to what listens inside the instance.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use landfast_core::{ErrorCode, Problem};
use landfast_net::head::RequestHead;
use landfast_net::relay::Target;
use landfast_net::socket::Socket;
use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::pipe::Pipe;
use super::upgrade::Answer;
use crate::Agent;
use crate::api::serve_api;

/// How long a server may take to accept: it is on this host, and its kernel does it.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(5);

/// How long a program may take to answer an upgrade, a refusal's body included.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Connects to a service, to speak bytes with it.
///
/// Cancel safe: nothing is left of a dial that was dropped.
///
/// # Errors
///
/// [`ErrorCode::ServiceUnknown`], [`ErrorCode::UpstreamRefused`], [`ErrorCode::UpstreamTimeout`]; nothing was started.
pub(crate) async fn dial(agent: &Arc<Agent>, target: Target) -> Result<Pipe, Problem> {
    connect(agent, target).await.map(Pipe::new)
}

/// Connects to a service, and asks it for a WebSocket.
///
/// Not cancel safe in that its program may have been asked.
///
/// # Errors
///
/// As [`dial`], and [`ErrorCode::UpstreamLost`] or [`ErrorCode::UpstreamTimeout`] once it was asked.
pub(crate) async fn upgrade(agent: &Arc<Agent>, target: Target, wish: &RequestHead) -> Result<Answer, Problem> {
    let socket = connect(agent, target).await?;
    super::upgrade::upgrade(socket, wish, retry_signals(agent, target), ANSWER_DEADLINE).await
}

fn retry_signals(agent: &Agent, target: Target) -> bool {
    let services = &agent.config.services;
    let service = match target {
        Target::Agent => None,
        Target::Port(port) => services.values().find(|service| service.port == Some(port)),
        Target::Service(name) => services.get(&name),
    };
    service.is_some_and(|service| service.retry_signals)
}

async fn connect(agent: &Arc<Agent>, target: Target) -> Result<Socket, Problem> {
    match target {
        Target::Agent => own_api(agent),
        Target::Port(port) => connect_port(port).await,
        Target::Service(name) => {
            let service = agent.config.services.get(&name).ok_or(ErrorCode::ServiceUnknown)?;
            match (service.port, &service.socket) {
                (Some(port), _) => connect_port(port).await,
                (None, Some(socket)) => connect_socket(&agent.config.home.join(socket)).await,
                (None, None) => Err(ErrorCode::UpstreamRefused.into()),
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

/// Connects to a port of the loopback that the instance sees.
async fn connect_port(port: u16) -> Result<Socket, Problem> {
    let connect = async {
        // Some servers call the IPv6 loopback localhost, and only that.
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await
            }
            connected => connected,
        }
    };
    let refused = || Problem::new(ErrorCode::UpstreamRefused, format!("Nothing listens on port {port}."));
    match timeout(ACCEPT_DEADLINE, connect).await {
        Ok(connected) => connected.map(Socket::tcp).map_err(|_| refused()),
        Err(_) => Err(Problem::new(ErrorCode::UpstreamTimeout, format!("Port {port} accepted nothing in time."))),
    }
}

/// Connects to a Unix socket, however long its path is.
async fn connect_socket(path: &Path) -> Result<Socket, Problem> {
    let connect = async {
        let file = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        UnixStream::connect(format!("/proc/self/fd/{}", file.as_raw_fd())).await
    };
    match timeout(ACCEPT_DEADLINE, connect).await {
        Ok(connected) => connected
            .map(Socket::unix)
            .map_err(|_| Problem::new(ErrorCode::UpstreamRefused, "Nothing listens on the service's socket.")),
        Err(_) => Err(Problem::new(ErrorCode::UpstreamTimeout, "The service's socket accepted nothing in time.")),
    }
}
