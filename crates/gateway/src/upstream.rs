//! Connections to upstreams, and those of them that are kept for the next request.
//!
//! A dial through a relay costs some round trips. What may be used again is decided by the key alone: the instance, its
//! generation and the place inside it. So a kept connection can never reach another life of an instance, whatever
//! happened to the routes meanwhile; it only grows old and is dropped.
//!
//! There is one pool for each worker, because a socket belongs to the runtime that polls it. Its lock is never held
//! across an await, and never contended.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use foldhash::fast::RandomState;
use landfast_core::record::Generation;
use landfast_core::route::Route;
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::credential::{Credential, Role};
use landfast_net::relay::Target;
use landfast_net::socket::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::gateway::Gateway;
use crate::pipe::Pipe;

/// How long an idle connection is kept: longer than the pause between two calls of a program that polls.
const IDLE: Duration = Duration::from_secs(20);

/// How long it serves requests that cannot be repeated. Servers drop idle connections after times of their own (2 s, 5 s and 10 s are
/// common), and one that is dropped while a request is on its way to it is a request of which nobody can say whether it ran.
const SURE: Duration = Duration::from_secs(1);

/// The most idle connections for one key: as many as a page opens at once, with room.
const IDLE_PER_KEY: usize = 128;

/// The most idle connections of one worker: each is a descriptor here, and another one at the far end.
const IDLE_TOTAL: usize = 1024;

/// How long a server that is reached without an agent may take to accept: as long as a node.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long a place inside an instance may take to open: the agent holds who asks for a service that starts for 5 s.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// What of the room for heads a connection keeps between two requests: most heads fit.
const ROOM_KEPT: usize = 2048;

/// What makes two connections interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// One place in one life of one instance.
    Instance(InstanceId, Generation, Target),
    /// An API server, by its address.
    Api(String),
}

/// A connection that requests are sent on, one after the other.
#[derive(Debug)]
pub(crate) struct Upstream {
    io: Io,
    key: Key,
    /// Whether it was kept from an earlier request, and may have ended meanwhile.
    is_kept: bool,
    /// What was read and not yet understood.
    pub(crate) input: Vec<u8>,
    /// Room for what is on its way up, kept from request to request while it is small.
    stage: Vec<u8>,
}

#[derive(Debug)]
enum Io {
    Direct(Socket),
    Piped(Pipe),
}

/// One worker's idle connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    idle: Arc<Mutex<Idle>>,
}

#[derive(Default)]
struct Idle {
    /// Oldest first.
    by_key: HashMap<Key, Vec<Kept>, RandomState>,
    total: usize,
}

struct Kept {
    upstream: Upstream,
    since: Instant,
}

impl Upstream {
    /// Connects to a place in an instance.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// Why there is no connection; nothing was started.
    pub(crate) async fn open(gateway: &Arc<Gateway>, route: &Route, target: Target) -> Result<Self, ErrorCode> {
        let io = match direct(route, target)? {
            Some(address) => Io::Direct(connect(address).await?),
            None => {
                let opened = timeout(OPEN_WITHIN, Pipe::open(gateway, route, target)).await;
                Io::Piped(opened.unwrap_or(Err(ErrorCode::NodeUnreachable))?)
            }
        };
        Ok(Self::new(io, Key::Instance(route.instance, route.generation, target)))
    }

    /// Connects to an API server.
    ///
    /// # Errors
    ///
    /// `upstream.refused` or `upstream.timeout`; nothing was started.
    pub(crate) async fn api(address: &str, credential: &Credential) -> Result<Self, ErrorCode> {
        let dialled = credential.connect(address, Role::Api);
        Ok(Self::new(Io::Direct(within(address, dialled).await?), Key::Api(address.to_owned())))
    }

    const fn new(io: Io, key: Key) -> Self {
        Self { io, key, is_kept: false, input: Vec::new(), stage: Vec::new() }
    }

    /// Room for what goes up, empty.
    pub(crate) fn take_stage(&mut self) -> Vec<u8> {
        let mut stage = std::mem::take(&mut self.stage);
        stage.clear();
        stage
    }

    /// Takes that room back, if it is little.
    pub(crate) fn keep_stage(&mut self, stage: Vec<u8>) {
        if stage.capacity() <= ROOM_KEPT {
            self.stage = stage;
        }
    }

    /// Takes back the room of what was read and is used up, if it is little.
    pub(crate) fn give_back(&mut self, mut used: Vec<u8>) {
        if self.input.capacity() == 0 && (1..=ROOM_KEPT).contains(&used.capacity()) {
            used.clear();
            self.input = used;
        }
    }

    /// Whether it was kept from an earlier request: then its end says nothing about the server.
    pub(crate) const fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// The connection alone, for what follows an upgrade; only one without an agent has a socket.
    pub(crate) fn into_socket(self) -> Option<Socket> {
        match self.io {
            Io::Direct(socket) => Some(socket.with_ahead(self.input)),
            Io::Piped(_) => None,
        }
    }

    fn set_idle(&self, is_idle: bool) {
        match &self.io {
            Io::Direct(_) => {}
            Io::Piped(pipe) => pipe.set_idle(is_idle),
        }
    }

    /// Whether it leads to the generation that it is kept for: a move may have taken it along.
    fn is_where_it_was(&self) -> bool {
        match (&self.io, &self.key) {
            (Io::Piped(pipe), Key::Instance(_, generation, _)) => pipe.generation() == *generation,
            (Io::Direct(_) | Io::Piped(_), _) => true,
        }
    }

    fn seems_open(&self) -> bool {
        match &self.io {
            Io::Direct(socket) => socket.seems_quiet(),
            Io::Piped(pipe) => pipe.is_open(),
        }
    }

    fn is_open(&self) -> bool {
        match &self.io {
            Io::Direct(socket) => socket.is_quiet(),
            Io::Piped(pipe) => pipe.is_open(),
        }
    }
}

/// Where a service is reached without an agent; `None` if it is reached through one.
///
/// # Errors
///
/// That it cannot be reached at all.
pub(crate) fn direct(route: &Route, target: Target) -> Result<Option<&str>, ErrorCode> {
    let service = match target {
        Target::Service(name) => Some(route.services.get(name).ok_or(ErrorCode::ServiceUnknown)?),
        Target::Agent | Target::Port(_) => None,
    };
    match service.and_then(|service| service.address.as_deref()) {
        Some(address) => Ok(Some(address)),
        // An external instance without an agent has its services' addresses, and nothing else.
        None if route.address.is_none() && route.node.is_none() => Err(ErrorCode::ServiceUnknown),
        None => Ok(None),
    }
}

async fn connect(address: &str) -> Result<Socket, ErrorCode> {
    within(address, async { Ok(Socket::tcp(TcpStream::connect(address).await?)) }).await
}

async fn within(address: &str, connected: impl Future<Output = io::Result<Socket>>) -> Result<Socket, ErrorCode> {
    match timeout(CONNECT_WITHIN, connected).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => {
            tracing::debug!(address, %error, "a server cannot be reached");
            Err(ErrorCode::UpstreamRefused)
        }
        Err(_) => Err(ErrorCode::UpstreamTimeout),
    }
}

impl Pool {
    /// An idle connection for `key`, the one used last. With `surely` it was used a moment ago, and the kernel is asked whether it
    /// has ended: for requests that cannot be repeated if it has.
    pub(crate) fn take(&self, key: &Key, surely: bool) -> Option<Upstream> {
        let mut idle = self.lock();
        let since = surely.then(|| Instant::now() - SURE);
        loop {
            let upstream = idle.take(key, since)?;
            if upstream.seems_open() && (!surely || upstream.is_open()) {
                upstream.set_idle(false);
                return Some(upstream);
            }
        }
    }

    /// Keeps a connection whose last answer was read to its end.
    pub(crate) fn put(&self, mut upstream: Upstream) {
        if upstream.input.is_empty() && upstream.seems_open() && upstream.is_where_it_was() {
            upstream.is_kept = true;
            upstream.set_idle(true);
            upstream.input.shrink_to(ROOM_KEPT);
            self.lock().put(Kept { upstream, since: Instant::now() });
        }
    }

    /// How many connections are kept.
    pub(crate) fn idle(&self) -> u64 {
        self.lock().total as u64
    }

    /// Drops what has grown old, again and again; the worker's own task.
    pub(crate) async fn keep_swept(&self) {
        loop {
            tokio::time::sleep(IDLE / 2).await;
            self.lock().sweep(Instant::now());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Idle> {
        // Nothing in here can be half done: a panic elsewhere does not make the list wrong.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// The newest for `key`, unless it is idle for longer than since then.
    fn take(&mut self, key: &Key, since: Option<Instant>) -> Option<Upstream> {
        // An empty list stays for the connection that comes back in a moment; the sweep takes those that do not.
        let kept = self.by_key.get_mut(key)?.pop_if(|kept| since.is_none_or(|since| kept.since >= since))?;
        self.total -= 1;
        Some(kept.upstream)
    }

    fn put(&mut self, fresh: Kept) {
        let is_full = self.total >= IDLE_TOTAL;
        let kept = match self.by_key.get_mut(&fresh.upstream.key) {
            Some(kept) => kept,
            None => self.by_key.entry(fresh.upstream.key.clone()).or_default(),
        };
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
            kept.retain(|kept| kept.upstream.seems_open() && now - kept.since < IDLE);
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

impl AsyncRead for Upstream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Direct(socket) => Pin::new(socket).poll_read(cx, buf),
            Io::Piped(pipe) => Pin::new(pipe).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Direct(socket) => Pin::new(socket).poll_write(cx, buf),
            Io::Piped(pipe) => Pin::new(pipe).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Direct(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Io::Piped(pipe) => Pin::new(pipe).poll_write_vectored(cx, bufs),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Direct(socket) => Pin::new(socket).poll_shutdown(cx),
            Io::Piped(pipe) => Pin::new(pipe).poll_shutdown(cx),
        }
    }
}
