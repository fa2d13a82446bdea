//! Workers and their connections.
//!
//! Each worker is a thread with a runtime and a listener of its own; the kernel spreads connections over the listeners
//! of one port. A connection lives and dies in one task on the worker that accepted it, with everything it needs from
//! upstream, so that the path of a byte crosses no thread.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use landfast_core::{ErrorCode, Problem};
use landfast_net::head::{HEAD_MAX, Headers, ResponseHead, write_all};
use landfast_net::socket::Socket;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::dispatch::{Slot, respond};
use crate::forward::Origin;
use crate::gateway::{Gateway, Worker};
use crate::upstream::Pool;

/// How long a client may take to send a request's head, or to begin one on a connection that is kept.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

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
    listener: std::net::TcpListener,
    gateway: Arc<Gateway>,
    connections: Arc<Semaphore>,
) -> io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("gateway-{number}")).spawn(move || {
        runtime.block_on(work(listener, gateway, connections));
        // Nobody waits for it if the gateway was dropped.
        let _ = ended.send(());
    })?;
    Ok(end)
}

async fn work(listener: std::net::TcpListener, gateway: Arc<Gateway>, connections: Arc<Semaphore>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a worker cannot listen"),
    };
    let worker = Arc::new(Worker { gateway, pool: Pool::default() });
    let sweeper = tokio::spawn({
        let pool = worker.pool.clone();
        async move { pool.keep_swept().await }
    });
    let tasks = TaskTracker::new();
    let drain = &worker.gateway.drain;
    loop {
        let (stream, client, permit) = tokio::select! {
            biased;
            () = drain.begun.cancelled() => break,
            admitted = admit(&listener, &connections) => admitted,
        };
        tasks.spawn(connection(Arc::clone(&worker), stream, client, permit));
    }
    drop(listener);
    tasks.close();
    let ended = async {
        drain.over.cancelled().await;
        sleep(END_WITHIN).await;
    };
    tokio::select! {
        () = tasks.wait() => {}
        () = ended => tracing::warn!(connections = tasks.len(), "connections did not end in time and are dropped"),
    }
    sweeper.abort();
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
async fn connection(worker: Arc<Worker>, stream: TcpStream, client: SocketAddr, permit: OwnedSemaphorePermit) {
    configure(&stream, &worker.gateway);
    let slot = Slot::default();
    let served = boxed(serve_http(worker, stream, client, slot.clone())).await;
    let upgraded = slot.take();
    drop(slot);
    if let Some(upgraded) = upgraded {
        upgraded.run(served).await;
    }
    drop(permit);
}

/// Boxed in a function of its own, so that a session's task does not go on carrying the room for what served its request.
fn boxed<T>(future: impl Future<Output = T> + Send + 'static) -> BoxFuture<'static, T> {
    Box::pin(future)
}

/// Serves requests until the connection ends, or becomes something else: then the socket is returned.
async fn serve_http(worker: Arc<Worker>, stream: TcpStream, client: SocketAddr, slot: Slot) -> Option<Socket> {
    let origin = Arc::new(Origin::new(client, &worker.gateway.config));
    let service = {
        let (worker, slot) = (Arc::clone(&worker), slot.clone());
        service_fn(move |request| handle(Arc::clone(&worker), Arc::clone(&origin), slot.clone(), request))
    };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_header_size(HEAD_MAX);
    let mut requests = builder.serve_connection(TokioIo::new(stream), service);
    let drain = &worker.gateway.drain;
    let served = tokio::select! {
        biased;
        result = poll_fn(|cx| requests.poll_without_shutdown(cx)) => Some(result),
        () = drain.begun.cancelled() => None,
    };
    let result = match served {
        Some(result) => result,
        None => {
            Pin::new(&mut requests).graceful_shutdown();
            tokio::select! {
                result = poll_fn(|cx| requests.poll_without_shutdown(cx)) => result,
                () = drain.over.cancelled() => return None,
            }
        }
    };
    let parts = requests.into_parts();
    let began_a_head = !parts.read_buf.is_empty();
    let mut socket = Socket::tcp(parts.io.into_inner());
    match result {
        Ok(()) if slot.is_full() => return Some(socket.with_ahead(parts.read_buf.to_vec())),
        Ok(()) => {}
        Err(error) if error.is_timeout() && began_a_head => say_timeout(&mut socket).await,
        Err(error) => tracing::debug!(%client, %error, "connection"),
    }
    // What the client has not read is still delivered; that it reads is its own affair.
    let _ = timeout(HEAD_WITHIN, socket.shutdown()).await;
    None
}

type Handled = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Boxed, so that a connection between requests carries no room for one.
fn handle(worker: Arc<Worker>, origin: Arc<Origin>, slot: Slot, request: Request<Incoming>) -> Handled {
    Box::pin(async move { Ok(respond(&worker, &origin, &slot, request).await) })
}

fn configure(stream: &TcpStream, gateway: &Gateway) {
    // A socket that was reset meanwhile refuses its options; the next read tells.
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_keepalive(&KEEPALIVE);
    // A client that takes nothing of an answer is dropped by the kernel. Twice the sessions' own limit, which knows why.
    let _ = socket.set_tcp_user_timeout(Some(2 * gateway.config.slow_client_timeout()));
}

async fn say_timeout(socket: &mut Socket) {
    let code = ErrorCode::RequestTimeout;
    let body = serde_json::to_vec(&Problem::from(code).body()).expect("a problem is plain JSON");
    let mut headers = Headers::new();
    headers.push("landfast-error", code.as_str());
    headers.push("content-type", "application/problem+json");
    headers.push("content-length", body.len().to_string());
    headers.push("connection", "close");
    let head = ResponseHead { status: code.status_or_500(), headers };
    // A client that is gone needs no answer.
    let _ = timeout(HEAD_WITHIN, write_all(socket, &[head.encode(), body].concat())).await;
}
