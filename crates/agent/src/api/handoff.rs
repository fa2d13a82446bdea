//! `handoff.sock`: whole connections that the node has accepted and gives away (`landfast_net::handoff`).

use std::io;
use std::sync::Arc;

use landfast_net::handoff::{Given, receive};
use landfast_net::relay;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{accept, relayed};
use crate::Agent;

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
    while let Some(Given { generation, target, tenure, mut socket }) = receive(&mut giver).await? {
        let admitted = match tenure {
            Some(tenure) => agent.fence.admit_under(generation, tenure),
            None => agent.fence.admit(generation),
        };
        match admitted {
            Ok(era) => relayed::take(agent, socket, target, era, room).await?,
            Err(code) => relay::refuse(&mut socket, code, Some(agent.fence.generation())).await?,
        }
    }
    Ok(())
}
