//! The agent's own door to the network, for an instance that no node of the cell runs: gateways bring their CONNECT here.
//!
//! There is no registry behind this door. A generation is given by the cell and only grows, so the highest that anybody with
//! the cell's key has asked with is the agent's own: what came in under an older one is cut, and older ones are refused.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use landfast_core::record::Generation;
use landfast_core::{ErrorCode, Problem};
use landfast_net::credential::{Credential, RELAYED};
use landfast_net::keepalive;
use landfast_net::relay;
use landfast_net::socket::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::{ACCEPT_PAUSE, relayed};
use crate::Agent;
use crate::fence::Era;

/// Connections whose CONNECT has not been read: strangers, who get little room. Those beyond it wait in the kernel's queue.
const STRANGERS: usize = 256;

/// How long a refusal may take to be taken by its reader.
const REFUSE_DEADLINE: Duration = Duration::from_secs(5);

/// The file in which the generation outlives the agent: one that comes back must not take an older one.
const GENERATION: &str = "generation";

/// A typed no, and the generation the agent has, where that helps.
type Refusal = (ErrorCode, Option<Generation>);

/// The highest generation that an agent over this directory has taken.
pub(crate) fn last_generation(state: &Path) -> Generation {
    let text = fs::read_to_string(state.join(GENERATION)).unwrap_or_default();
    Generation(text.trim().parse().unwrap_or(0))
}

/// Takes connections.
pub(crate) async fn serve(agent: Arc<Agent>, listener: TcpListener, credential: Credential) {
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    let room = Arc::new(Semaphore::new(agent.config.limits.connections));
    loop {
        let Ok(stranger) = strangers.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (owner, credential, room) = (agent.clone(), credential.clone(), room.clone());
        agent.until_stopped(async move {
            if let Err(error) = welcome(&owner, stream, &credential, &room).await {
                tracing::debug!(%error, "a connection broke before it was led anywhere");
            }
            drop(stranger);
        });
    }
}

/// Reads who asks for what, and leads them there or says why not.
async fn welcome(
    agent: &Arc<Agent>,
    stream: TcpStream,
    credential: &Credential,
    room: &Arc<Semaphore>,
) -> io::Result<()> {
    keepalive::watch(&stream);
    let mut socket = credential.accept(stream, RELAYED).await?;
    let connect = match relay::read_connect(&mut socket).await {
        Ok(connect) => connect,
        Err(problem) => {
            tracing::debug!(%problem, "a peer's CONNECT was not understood");
            return refuse(socket, (problem.code, None)).await;
        }
    };
    let admitted = if connect.key != *credential.key() {
        Err((ErrorCode::AuthForbidden, None))
    } else if connect.instance != agent.config.instance {
        Err((ErrorCode::NodeNotHere, None))
    } else {
        admit(agent, connect.generation)
    };
    match admitted {
        Ok(era) => relayed::take(agent, socket, connect.target, era, room).await,
        Err(refusal) => refuse(socket, refusal).await,
    }
}

/// Takes the asker's generation as the agent's own, unless it is older.
fn admit(agent: &Agent, generation: Generation) -> Result<Era, Refusal> {
    if generation > agent.fence.generation() {
        // On disk first: from then on an older one is refused for ever.
        remember(&agent.config.state, generation).map_err(|error| {
            tracing::error!(%error, "a generation was not written down");
            (ErrorCode::Internal, None)
        })?;
        tracing::info!(%generation, "a newer generation begins");
    }
    agent.take_generation(generation).map_err(|has| (ErrorCode::NodeStaleGeneration, Some(has)))?;
    agent.fence.admit(generation).map_err(|code| (code, Some(agent.fence.generation())))
}

fn remember(state: &Path, generation: Generation) -> io::Result<()> {
    let new = state.join("generation.new");
    fs::write(&new, generation.to_string())?;
    fs::rename(&new, state.join(GENERATION))
}

async fn refuse(mut socket: Socket, (code, generation): Refusal) -> io::Result<()> {
    let said = relay::refuse(&mut socket, code, generation);
    timeout(REFUSE_DEADLINE, said).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Listens where the configuration says.
///
/// # Errors
///
/// [`ErrorCode::ListenInUse`], [`ErrorCode::ConfigInvalid`].
pub(crate) fn listen(agent: &crate::Config) -> Result<Option<(TcpListener, Credential)>, Problem> {
    let Some(wish) = &agent.listen else { return Ok(None) };
    Ok(Some((landfast_net::role::listen(wish.address, false)?, wish.credential.clone())))
}
