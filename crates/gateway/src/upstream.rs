//! Connections to upstreams that are kept for the next request.
//!
//! A dial through a relay costs two round trips. What may be used again is decided by the key alone: the instance, its
//! generation and the place inside it. So a kept socket can never reach another life of an instance, whatever happened
//! to the routes meanwhile; it only grows old and is dropped.
//!
//! There is one pool for each worker, because a socket belongs to the runtime that polls it. Its lock is never held
//! across an await, and never contended.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use landfast_core::InstanceId;
use landfast_core::record::Generation;
use landfast_net::relay::Target;
use landfast_net::socket::Socket;
use tokio::time::Instant;

use crate::body::Upload;

/// How long an idle connection is kept: longer than the pause between two calls of a program that polls, shorter than
/// the time after which the other side drops it.
const IDLE: Duration = Duration::from_secs(20);

/// The most idle connections for one key: as many as a page opens at once, with room.
const IDLE_PER_KEY: usize = 32;

/// The most idle connections of one worker: each is a descriptor here, two at the relay and one at the agent.
const IDLE_TOTAL: usize = 1024;

/// What makes two connections interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// One place in one life of one instance.
    Instance(InstanceId, Generation, Target),
    /// An API server, by its address.
    Api(String),
}

/// One worker's idle connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    idle: Arc<Mutex<Idle>>,
}

#[derive(Default)]
struct Idle {
    /// Oldest first.
    by_key: HashMap<Key, Vec<Kept>>,
    total: usize,
}

struct Kept {
    sender: SendRequest<Upload>,
    since: Instant,
}

/// A connection that a request may be sent on.
#[derive(Debug)]
pub(crate) struct Connection {
    key: Key,
    sender: SendRequest<Upload>,
    pool: Pool,
    is_kept: bool,
}

/// Why a request brought no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The connection was gone before a byte of it was sent: here it is again.
    NotSent(Box<Request<Upload>>),
    /// The connection was lost after that. It may have run.
    Lost(hyper::Error),
}

/// The body of an answer. Its connection goes back to the pool after the last byte.
#[derive(Debug)]
pub(crate) struct Answer {
    incoming: Incoming,
    connection: Option<Connection>,
}

impl Pool {
    /// An idle connection for `key`, the one used last.
    pub(crate) fn take(&self, key: &Key) -> Option<Connection> {
        let sender = self.lock().take(key)?;
        Some(Connection { key: key.clone(), sender, pool: self.clone(), is_kept: true })
    }

    /// Makes a connected socket ready for requests. Must be called on the pool's own runtime.
    ///
    /// # Errors
    ///
    /// hyper's; nothing was sent.
    pub(crate) async fn open(&self, key: Key, socket: Socket) -> hyper::Result<Connection> {
        let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(socket)).await?;
        // Ends with the sender, or with the socket; what failed is told where the answer is awaited.
        tokio::spawn(connection);
        Ok(Connection { key, sender, pool: self.clone(), is_kept: false })
    }

    /// Drops what has grown old, again and again; the worker's own task.
    pub(crate) async fn keep_swept(&self) {
        loop {
            tokio::time::sleep(IDLE / 2).await;
            self.lock().sweep(Instant::now());
        }
    }

    fn put_back(&self, key: Key, sender: SendRequest<Upload>) {
        if !sender.is_closed() {
            self.lock().put(key, Kept { sender, since: Instant::now() });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Idle> {
        // Nothing in here can be half done: a panic elsewhere does not make the list wrong.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn take(&mut self, key: &Key) -> Option<SendRequest<Upload>> {
        let kept = self.by_key.get_mut(key)?;
        let before = kept.len();
        kept.retain(|kept| !kept.sender.is_closed());
        // One whose last request is still being sent, though it was answered, is not ready: leave it.
        let ready = kept.iter().rposition(|kept| kept.sender.is_ready());
        let taken = ready.map(|at| kept.remove(at).sender);
        self.total -= before - kept.len();
        if kept.is_empty() {
            self.by_key.remove(key);
        }
        taken
    }

    fn put(&mut self, key: Key, fresh: Kept) {
        let is_full = self.total >= IDLE_TOTAL;
        let kept = self.by_key.entry(key).or_default();
        if kept.len() >= IDLE_PER_KEY || (is_full && !kept.is_empty()) {
            // The newest is the likeliest to live.
            kept.remove(0);
            kept.push(fresh);
        } else if !is_full {
            kept.push(fresh);
            self.total += 1;
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.by_key.retain(|_, kept| {
            kept.retain(|kept| !kept.sender.is_closed() && now - kept.since < IDLE);
            !kept.is_empty()
        });
        self.total = self.by_key.values().map(Vec::len).sum();
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idle").field("total", &self.total).finish_non_exhaustive()
    }
}

impl Connection {
    /// Whether it was kept from an earlier request, and may have ended meanwhile.
    pub(crate) const fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// Cancel safe in that the connection is dropped; the request may have run.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub(crate) async fn send(mut self, request: Request<Upload>) -> Result<Response<Answer>, SendError> {
        match self.sender.try_send_request(request).await {
            Ok(response) => Ok(response.map(|incoming| Answer { incoming, connection: Some(self) }.rested())),
            Err(mut error) => Err(match error.take_message() {
                Some(request) => SendError::NotSent(Box::new(request)),
                None => SendError::Lost(error.into_error()),
            }),
        }
    }

    fn rest(self) {
        self.pool.put_back(self.key, self.sender);
    }
}

impl Answer {
    /// Gives the connection back at once if the answer has no body.
    fn rested(mut self) -> Self {
        if self.incoming.is_end_stream() {
            self.rest();
        }
        self
    }

    fn rest(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.rest();
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match &frame {
            Some(Ok(_)) if !self.incoming.is_end_stream() => {}
            Some(Ok(_)) | None => self.rest(),
            Some(Err(_)) => self.connection = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use landfast_net::random;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A server that answers every request on every connection with "ok".
    async fn server() -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut heard = [0; 4096];
                    while stream.read(&mut heard).await.is_ok_and(|n| n > 0) {
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                    }
                });
            }
        });
        address
    }

    async fn open(pool: &Pool, key: &Key, address: std::net::SocketAddr) -> Connection {
        pool.open(key.clone(), Socket::tcp(TcpStream::connect(address).await.unwrap())).await.unwrap()
    }

    /// Sends a request and reads its answer to the end.
    async fn ask(connection: Connection) {
        let answer = connection.send(Request::new(Upload::empty())).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
    }

    #[tokio::test]
    async fn a_kept_connection_serves_its_key_and_no_other_generation_or_place() {
        let (pool, address, id) = (Pool::default(), server().await, random::instance_id());
        let key = |generation, target| Key::Instance(id, Generation(generation), target);
        ask(open(&pool, &key(1, Target::Agent), address).await).await;
        assert!(pool.take(&key(2, Target::Agent)).is_none());
        assert!(pool.take(&key(1, Target::Port(80))).is_none());
        let kept = pool.take(&key(1, Target::Agent)).expect("kept");
        assert!(kept.is_kept());
        assert!(pool.take(&key(1, Target::Agent)).is_none(), "it is given to one at a time");
        ask(kept).await;
        assert!(pool.take(&key(1, Target::Agent)).is_some());
    }

    #[tokio::test]
    async fn a_connection_whose_answer_was_not_read_is_not_kept() {
        let (pool, address, key) = (Pool::default(), server().await, Key::Api("x".into()));
        let answer = open(&pool, &key, address).await.send(Request::new(Upload::empty())).await.unwrap();
        drop(answer);
        assert!(pool.take(&key).is_none());
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_and_grows_old() {
        let (pool, address, key) = (Pool::default(), server().await, Key::Api("x".into()));
        let mut connections = Vec::new();
        for _ in 0..IDLE_PER_KEY + 5 {
            connections.push(open(&pool, &key, address).await);
        }
        for connection in connections {
            ask(connection).await;
        }
        let mut idle = pool.lock();
        assert_eq!(idle.total, IDLE_PER_KEY);
        idle.sweep(Instant::now());
        assert_eq!(idle.total, IDLE_PER_KEY);
        idle.sweep(Instant::now() + IDLE);
        assert_eq!((idle.total, idle.by_key.len()), (0, 0));
    }
}
