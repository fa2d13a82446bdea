//! `landfast forward`: a port of this machine that leads to a server inside an instance.
//!
//! Every connection is a session of its own, held here: it outlives gateways, nodes and moves, which programs that know
//! nothing of Landfast could not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use landfast_client::{Client, State, Tunnel};
use landfast_net::socket::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

use crate::args::Forward;
use crate::failure::Failure;
use crate::print::{Paint, line};

/// Connections at once: a browser's page opens six to a host, and a test run a few dozen pages.
const CONNECTIONS: usize = 1024;

/// How long a connection waits for a cell that does not answer: as long as an attachment does.
const PATIENCE: Duration = Duration::from_secs(600);

/// Before accepting again when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens until interrupted.
///
/// # Errors
///
/// The port is taken, or the instance cannot be found.
pub(crate) async fn forward(client: &Client, wish: Forward, paint: Paint) -> Result<(), Failure> {
    client.instance(wish.id).await?;
    let listener = TcpListener::bind(wish.listen).await.map_err(|error| {
        Failure::local(format!("{} cannot be listened on: {error}. Choose another port, or 0 for any.", wish.listen))
    })?;
    let address = listener.local_addr().map_err(|error| Failure::local(error.to_string()))?;
    line(&format!("{}\n", describe(address, &wish)));
    tokio::select! {
        () = accept(client, &wish, &listener, paint) => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// What to put into another program.
fn describe(address: SocketAddr, wish: &Forward) -> String {
    match wish.place.as_str() {
        "cdp" => format!("http://{address}"),
        _ => address.to_string(),
    }
}

async fn accept(client: &Client, wish: &Forward, listener: &TcpListener, paint: Paint) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("{}", paint.faint(&format!("a connection could not be accepted: {error}")));
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let state = watch::Sender::new(State::Connected);
        let tunnel = Tunnel { instance: wish.id, place: wish.place.clone(), patience: PATIENCE, state };
        let client = client.clone();
        tokio::spawn(async move {
            carry(&client, &tunnel, stream, paint).await;
            drop(permit);
        });
    }
}

async fn carry(client: &Client, tunnel: &Tunnel, stream: TcpStream, paint: Paint) {
    let mut local = Socket::tcp(stream);
    if let Err(error) = client.carry(tunnel, &mut local).await {
        // What was cut must not look like an end.
        local.abort();
        eprintln!("{}", paint.faint(&format!("a connection ended: {error}")));
    }
}
