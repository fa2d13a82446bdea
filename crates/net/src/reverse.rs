//! Connections to nodes that cannot be dialled: they dial, and wait to be taken.
//!
//! Inside TLS the node is the server, as if it had been dialled: the same certificates serve, and each end looks at the same
//! things. A spare begins with a head of the node's, `REVERSE {secret}`, which is answered; then nothing is said until somebody
//! takes it and goes on as if it had dialled. Who may offer spares for a node? The node's address in its record is
//! `reverse:` and the hash of a secret that it alone knows. Spares are kept by that hash, so whoever does not know the
//! secret fills a place that nobody ever looks into, whatever else it can show.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfast_core::reverse::SPARES_MAX;
use landfast_core::{ErrorCode, Problem};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::credential::{Credential, Role};
use crate::head::{HEAD_MAX, Headers, RequestHead, read_request, read_response, write_all};
use crate::relay;
use crate::role::CancellationToken;
use crate::secret::{CellKey, Hex};
use crate::socket::Socket;

/// Begins the address of a node that cannot be dialled.
pub const SCHEME: &str = "reverse:";

/// What a node knows, and shows with each spare.
pub type NodeSecret = Hex<32>;

/// Nodes whose spares are kept: more than a cell has. What comes for others is turned away.
const NODES_MAX: usize = 4096;

/// Connections whose head has not been read: strangers, who get little room.
const STRANGERS: usize = 256;

/// How long a peer may take for its head.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// How long to wait after an accept that failed because something has run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The spares that wait to be taken. Clones share them.
#[derive(Clone, Default)]
pub struct Spares(Arc<Mutex<HashMap<String, Waiting>>>);

#[derive(Default)]
struct Waiting {
    /// The newest last: it is the one most surely alive.
    sockets: Vec<Socket>,
    /// Whoever waits for one.
    arrived: Arc<Notify>,
}

impl fmt::Debug for Spares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spares").field("nodes", &self.lock().len()).finish()
    }
}

/// The address under which the spares of whoever knows a secret are found.
pub fn address(secret: &NodeSecret) -> String {
    let hash = Sha256::digest(secret.to_hex());
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{SCHEME}{digits}")
}

impl Spares {
    /// Takes a connection to the node with this address, and waits until there is one.
    ///
    /// Cancel safe.
    pub async fn take(&self, address: &str) -> Socket {
        loop {
            let arrived = {
                let mut nodes = self.lock();
                let waiting = nodes.entry(address.to_owned()).or_default();
                while let Some(socket) = waiting.sockets.pop() {
                    // One that has ended, or says something, is none.
                    if socket.is_quiet() {
                        if !waiting.sockets.is_empty() {
                            // Two that arrive may be told to one who waits.
                            waiting.arrived.notify_one();
                        }
                        return socket;
                    }
                }
                Arc::clone(&waiting.arrived)
            };
            arrived.notified().await;
        }
    }

    /// Keeps a connection until it is taken.
    fn keep(&self, address: String, socket: Socket) {
        let mut nodes = self.lock();
        if nodes.len() >= NODES_MAX && !nodes.contains_key(&address) {
            nodes.retain(|_, waiting| !waiting.sockets.is_empty() || Arc::strong_count(&waiting.arrived) > 1);
            if nodes.len() >= NODES_MAX {
                return;
            }
        }
        let waiting = nodes.entry(address).or_default();
        waiting.sockets.retain(Socket::is_quiet);
        if waiting.sockets.len() >= SPARES_MAX {
            // Its node may have lost it without a word.
            waiting.sockets.remove(0);
        }
        waiting.sockets.push(socket);
        waiting.arrived.notify_one();
    }

    /// Takes spares from nodes until told to stop.
    pub async fn accept(self, listener: TcpListener, credential: Credential, stop: CancellationToken) {
        let strangers = Arc::new(Semaphore::new(STRANGERS));
        let mut greeted = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = greeted.join_next() => continue,
                accepted = next(&listener, &strangers) => accepted,
            };
            match accepted {
                Ok((stream, permit)) => {
                    let (spares, credential) = (self.clone(), credential.clone());
                    greeted.spawn(async move {
                        let _permit = permit;
                        if let Err(error) = spares.greet(stream, &credential).await {
                            tracing::debug!(%error, "a spare connection was not taken");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        self.lock().clear();
    }

    async fn greet(&self, stream: TcpStream, credential: &Credential) -> io::Result<()> {
        let mut socket = credential.accept_turned(stream, Role::Node).await?;
        let head = timeout(HEAD_WITHIN, read_request(&mut socket, HEAD_MAX)).await;
        let head = head.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map_err(io::Error::other)?;
        match read(&head, credential.key()) {
            Ok(secret) => {
                relay::accept(&mut socket).await?;
                self.keep(address(&secret), socket);
                Ok(())
            }
            Err(problem) => {
                relay::refuse(&mut socket, problem.code, None).await?;
                Err(io::Error::other(problem.to_string()))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        // A connection is in it or not.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Offers a spare connection, over a connection to somebody who takes some. Returns when it waits there.
///
/// # Errors
///
/// The connection's, or that it was refused.
pub async fn offer(mut socket: Socket, secret: &NodeSecret, key: &CellKey) -> io::Result<Socket> {
    let mut headers = Headers::new();
    headers.push("landfast-cell-key", key.to_hex());
    let head = RequestHead { method: "REVERSE".into(), target: secret.to_hex(), headers };
    write_all(&mut socket, &head.encode()).await?;
    let answer = read_response(&mut socket, HEAD_MAX).await.map_err(io::Error::other)?;
    if answer.status == 200 {
        return Ok(socket);
    }
    let code = answer.headers.get("landfast-error").unwrap_or("no cause").to_owned();
    Err(io::Error::other(format!("refused: {code}")))
}

fn read(head: &RequestHead, wanted: &CellKey) -> Result<NodeSecret, Problem> {
    let key = head.headers.get("landfast-cell-key").and_then(CellKey::from_hex);
    if key.as_ref() != Some(wanted) {
        return Err(ErrorCode::AuthForbidden.into());
    }
    let secret = (head.method == "REVERSE").then(|| NodeSecret::from_hex(&head.target)).flatten();
    secret.ok_or_else(|| Problem::new(ErrorCode::RequestInvalid, "Only nodes' spare connections are taken here."))
}

async fn next(
    listener: &TcpListener,
    strangers: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(strangers).acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?.0, permit))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Gateway {
        spares: Spares,
        address: String,
        key: CellKey,
        stop: CancellationToken,
    }

    async fn gateway() -> Gateway {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, key) = (listener.local_addr().unwrap().to_string(), CellKey::generate());
        let (spares, stop) = (Spares::default(), CancellationToken::new());
        tokio::spawn(spares.clone().accept(listener, Credential::plain(key.clone()), stop.clone()));
        Gateway { spares, address, key, stop }
    }

    impl Gateway {
        async fn offered(&self, secret: &NodeSecret, key: &CellKey) -> io::Result<Socket> {
            offer(Socket::tcp(TcpStream::connect(&self.address).await?), secret, key).await
        }
    }

    #[tokio::test]
    async fn a_spare_is_taken_by_the_address_of_its_secret_and_by_no_other() {
        let (gateway, secret) = (gateway().await, NodeSecret::generate());
        let other = NodeSecret::generate();
        let _strange = gateway.offered(&other, &gateway.key).await.unwrap();
        let address = address(&secret);
        let waits = tokio::spawn({
            let (spares, address) = (gateway.spares.clone(), address.clone());
            async move { spares.take(&address).await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        let mut node = gateway.offered(&secret, &gateway.key).await.unwrap();
        let mut taken = waits.await.unwrap();
        taken.write_all(b"CONNECT").await.unwrap();
        let mut heard = [0; 7];
        node.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"CONNECT");
    }

    #[tokio::test]
    async fn who_does_not_know_the_cells_key_offers_nothing() {
        let (gateway, secret) = (gateway().await, NodeSecret::generate());
        let refused = gateway.offered(&secret, &CellKey::generate()).await.unwrap_err();
        assert!(refused.to_string().contains("auth.forbidden"), "{refused}");
    }

    #[tokio::test]
    async fn a_spare_that_has_ended_is_not_taken_and_all_end_with_the_gateway() {
        let (gateway, secret) = (gateway().await, NodeSecret::generate());
        drop(gateway.offered(&secret, &gateway.key).await.unwrap());
        let mut node = gateway.offered(&secret, &gateway.key).await.unwrap();
        let mut taken = gateway.spares.take(&address(&secret)).await;
        taken.write_all(b"x").await.unwrap();
        assert_eq!(node.read_u8().await.unwrap(), b'x');
        let mut idle = gateway.offered(&secret, &gateway.key).await.unwrap();
        gateway.stop.cancel();
        assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
    }

    #[test]
    fn an_address_does_not_give_its_secret_away() {
        let secret = NodeSecret::generate();
        assert!(address(&secret).starts_with(SCHEME) && !address(&secret).contains(&secret.to_hex()));
    }
}
