//! `handoff.sock`: whole connections that the node has accepted and gives away (`landfast_net::handoff`).

use std::io;
use std::sync::Arc;

use landfast_core::ErrorCode;
use landfast_core::record::Generation;
use landfast_net::handoff::receive;
use landfast_net::relay;
use landfast_net::socket::Socket;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{Door, accept, serve_connection};
use crate::Agent;
use crate::fence::Era;

/// Takes connections over.
pub(crate) async fn serve(agent: Arc<Agent>, listener: UnixListener) {
    let limit = agent.config.limits.connections;
    let (givers, room) = (Arc::new(Semaphore::new(limit)), Arc::new(Semaphore::new(limit)));
    loop {
        let Ok((giver, permit)) = accept(&listener, &givers).await else { continue };
        let (owner, room) = (agent.clone(), room.clone());
        agent.until_stopped(async move {
            if let Err(error) = take_over(&owner, giver, &room).await {
                tracing::warn!(%error, "a connection was not taken over");
            }
            drop(permit);
        });
    }
}

/// Takes over what one giver gives.
async fn take_over(agent: &Arc<Agent>, mut giver: UnixStream, room: &Arc<Semaphore>) -> io::Result<()> {
    while let Some((generation, mut socket)) = receive(&mut giver).await? {
        let admitted = admit(agent, generation, room.clone().try_acquire_owned().ok());
        let (era, permit) = match admitted {
            Ok(admitted) => admitted,
            Err(code) => {
                relay::refuse(&mut socket, code, Some(agent.fence.generation())).await?;
                continue;
            }
        };
        let owner = agent.clone();
        agent.until(era.cut.clone(), async move {
            let socket = socket.on_leash(&era.leash);
            if let Err(error) = welcome(owner, socket, era).await {
                tracing::debug!(%error, "a connection that was taken over broke");
            }
            drop(permit);
        });
    }
    Ok(())
}

fn admit<P>(agent: &Agent, generation: Generation, permit: Option<P>) -> Result<(Era, P), ErrorCode> {
    let era = agent.fence.admit(generation)?;
    permit.map(|permit| (era, permit)).ok_or(ErrorCode::LimitInFlight)
}

/// Says the relay's `200`, and serves the connection as if it had come in by `agent.sock`.
async fn welcome(agent: Arc<Agent>, mut socket: Socket, era: Era) -> io::Result<()> {
    relay::accept(&mut socket).await?;
    serve_connection(agent, socket, Door::Agent, era.cut).await;
    Ok(())
}
