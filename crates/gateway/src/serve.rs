//! Workers and their connections.
//!
//! Each worker is a thread with a runtime and a listener of its own; the kernel spreads connections over the listeners
//! of one port. A connection lives and dies in one task on the worker that accepted it, with everything it needs from
//! upstream, so that the path of a byte crosses no thread.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use landfast_net::socket::Socket;
use landfast_net::tls::Tls;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::access;
use crate::answer;
use crate::client::Client;
use crate::dispatch::{Outcome, Upgraded, respond};
use crate::exchange::say;
use crate::gateway::{Gateway, Worker};
use crate::h1::{Connection, Next};
use crate::h2;
use crate::headers::Origin;

/// How long a client that is told the end may take to hear it.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long an accept that failed is not repeated: what is short, descriptors or memory, needs a moment to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long connections may take to end once everything must end: a close frame and its answer, twice.
const END_WITHIN: Duration = Duration::from_secs(5);

/// When a client that has said nothing for long is asked by the kernel whether it is there: for answers that take long.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));

/// Starts a worker's thread; what is returned resolves when it has ended.
///
/// # Errors
///
/// The system's, if it has no thread left.
pub(crate) fn spawn_worker(
    number: usize,
    listeners: Vec<(std::net::TcpListener, Option<Tls>)>,
    gateway: Arc<Gateway>,
    connections: Arc<Semaphore>,
) -> io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("gateway-{number}")).spawn(move || {
        runtime.block_on(work(listeners, gateway, connections));
        // Nobody waits for it if the gateway was dropped.
        let _ = ended.send(());
    })?;
    Ok(end)
}

async fn work(
    listeners: Vec<(std::net::TcpListener, Option<Tls>)>,
    gateway: Arc<Gateway>,
    connections: Arc<Semaphore>,
) {
    let worker = Arc::new(Worker::new(gateway));
    let sweeper = tokio::spawn({
        let pool = worker.pool.clone();
        async move { pool.keep_swept().await }
    });
    let tasks = TaskTracker::new();
    let accepting = listeners.into_iter().map(|(listener, tls)| accept(listener, tls, &worker, &connections, &tasks));
    futures_util::future::join_all(accepting).await;
    tasks.close();
    let ended = async {
        worker.gateway.drain.over.cancelled().await;
        sleep(END_WITHIN).await;
    };
    tokio::select! {
        () = tasks.wait() => {}
        () = ended => tracing::warn!(connections = tasks.len(), "connections did not end in time and are dropped"),
    }
    sweeper.abort();
}

/// Accepts connections until the gateway drains.
async fn accept(
    listener: std::net::TcpListener,
    tls: Option<Tls>,
    worker: &Arc<Worker>,
    connections: &Arc<Semaphore>,
    tasks: &TaskTracker,
) {
    configure(&listener, &worker.gateway);
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a worker cannot listen"),
    };
    loop {
        let (stream, client, permit) = tokio::select! {
            biased;
            () = worker.gateway.drain.begun.cancelled() => return,
            admitted = admit(&listener, connections) => admitted,
        };
        tasks.spawn(connection(Arc::clone(worker), stream, client, tls.clone(), permit));
    }
}

/// Accepts a connection, and waits until there is room for it; meanwhile the kernel's queue holds the others. Room is not
/// taken before, or idle workers would hold what a busy one needs.
async fn admit(listener: &TcpListener, connections: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let (stream, client) = loop {
        match listener.accept().await {
            Ok(accepted) => break accepted,
            Err(error) => {
                tracing::warn!(%error, "accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    let permit = Arc::clone(connections).acquire_owned().await.expect("the semaphore is never closed");
    (stream, client, permit)
}

/// Serves one client: requests, and then maybe what an upgrade made of the connection.
async fn connection(
    worker: Arc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    tls: Option<Tls>,
    permit: OwnedSemaphorePermit,
) {
    let counters = Arc::clone(&worker.counters);
    let _connected = counters.connect();
    // Boxed, so that a session's task does not go on carrying the room for what served its request.
    let served: BoxFuture<'static, _> = Box::pin(serve(worker, stream, client, tls));
    if let Some((socket, upgraded)) = served.await {
        upgraded.run(socket).await;
    }
    drop(permit);
}

/// Serves requests in the version that the client speaks.
async fn serve(
    worker: Arc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    tls: Option<Tls>,
) -> Option<(Socket, Upgraded)> {
    let origin = Arc::new(Origin::new(client, tls.is_some(), &worker.gateway.config));
    let socket = match tls {
        None => Socket::accepted(stream),
        Some(tls) => match tls.accept(stream).await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%client, %error, "no TLS");
                return None;
            }
        },
    };
    if socket.is_http2() {
        Box::pin(h2::serve(worker, socket, origin)).await;
        return None;
    }
    match serve_http1(&worker, socket, client, &origin).await {
        Served::Ended => None,
        Served::Upgraded(socket, upgraded) => Some((socket, upgraded)),
        Served::Http2(socket) => {
            Box::pin(h2::serve(worker, socket, origin)).await;
            None
        }
    }
}

/// What became of a connection on which HTTP/1.1 was spoken.
enum Served {
    Ended,
    Upgraded(Socket, Upgraded),
    /// The client speaks HTTP/2 instead; its preface is still there.
    Http2(Socket),
}

/// Serves requests until the connection ends, or becomes something else.
async fn serve_http1(worker: &Worker, socket: Socket, client: SocketAddr, origin: &Origin) -> Served {
    let gateway = &worker.gateway;
    let mut connection = Connection::new(socket, gateway.config.head_timeout());
    // Waited for once and for all requests: to begin and to end a wait costs a lock each.
    let (mut begun, mut over) = (pin!(gateway.drain.begun.cancelled()), pin!(gateway.drain.over.cancelled()));
    loop {
        let next = tokio::select! {
            biased;
            next = connection.next(gateway.config.idle_timeout()) => next,
            () = &mut begun => Next::End,
        };
        let request = match next {
            Next::Request(request) => request,
            Next::End => return Served::Ended,
            Next::Http2 => return Served::Http2(connection.into_socket()),
            Next::Refused(problem) => {
                tracing::debug!(%client, %problem, "refused before it was a request");
                access::refused(worker, origin, connection.version(), &problem);
                let answer = answer::refusal(&problem);
                connection.close_after();
                let _ = say(&mut connection, answer.head, &answer.body, GOODBYE).await;
                connection.finish(GOODBYE).await;
                return Served::Ended;
            }
        };
        if gateway.drain.has_begun() {
            connection.close_after();
        }
        let outcome = tokio::select! {
            biased;
            outcome = respond(worker, origin, &mut connection, request) => outcome,
            () = &mut over => Outcome::Cut,
        };
        match outcome {
            Outcome::Answered if connection.is_reusable() => {}
            Outcome::Answered => {
                connection.finish(GOODBYE).await;
                return Served::Ended;
            }
            Outcome::Cut => {
                connection.abort();
                return Served::Ended;
            }
            Outcome::Gone => return Served::Ended,
            Outcome::Upgraded(upgraded) => return Served::Upgraded(connection.into_socket(), upgraded),
        }
    }
}

/// Sets what every accepted connection inherits from its listener.
fn configure(listener: &std::net::TcpListener, gateway: &Gateway) {
    let socket = SockRef::from(listener);
    let set = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&KEEPALIVE))
        // A client that takes nothing of an answer is dropped by the kernel. Twice the sessions' own limit, which knows why.
        .and_then(|()| socket.set_tcp_user_timeout(Some(2 * gateway.config.slow_client_timeout())));
    if let Err(error) = set {
        tracing::warn!(%error, "connections are not watched by the kernel");
    }
}
