//! Connections: how many, how long, and how they end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use landfast_net::credential::{Credential, Role};
use landfast_net::role::CancellationToken;
use landfast_net::socket::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections at once. The peers are gateways and people's tools; beyond this the kernel's queue holds them.
const CONNECTIONS_MAX: usize = 1024;

/// How long a peer may take to send a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// How long requests may go on after the stop. Those that wait for an instance are answered at once.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// The pause after a failed accept, which happens when descriptors run out: others must close first.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Accepts and serves until told to stop, then lets requests finish.
pub(super) async fn serve(listener: TcpListener, credential: Credential, app: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Some((stream, permit)) = accept(&listener, &permits, &stop, &mut connections).await {
        let (credential, app, stop) = (credential.clone(), app.clone(), stop.clone());
        connections.spawn(async move {
            match credential.accept(stream, &[Role::Gateway]).await {
                Ok(socket) => connection(socket, app, stop, permit).await,
                Err(error) => tracing::debug!(%error, "a peer was not believed"),
            }
        });
    }
    drop(listener);
    let drained = timeout(DRAIN_DEADLINE, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(left = connections.len(), "connections did not end in time and are cut");
    }
}

/// Waits for the next connection; `None` once told to stop.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    stop: &CancellationToken,
    connections: &mut JoinSet<()>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await, permit))
        };
        let (accepted, permit) = tokio::select! {
            () = stop.cancelled() => return None,
            Some(_) = connections.join_next() => continue,
            next = next => next?,
        };
        match accepted {
            Ok((stream, _)) => return Some((stream, permit)),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

async fn connection(socket: Socket, app: Router, stop: CancellationToken, _permit: OwnedSemaphorePermit) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(socket), TowerToHyperService::new(app)));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A peer that leaves or does not speak HTTP is no event.
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}
