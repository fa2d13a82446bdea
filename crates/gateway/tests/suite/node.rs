//! A relay with an agent behind it, on the wire as the real ones are, that does what a test tells it.
//!
//! The far ends of its sessions are pipes whose other side the test holds; the sessions themselves are real.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use landfast_core::link::Close;
use landfast_core::record::Generation;
use landfast_core::session::WINDOW;
use landfast_core::{ErrorCode, SessionId};
use landfast_net::far::{self, Ended, Far, Handle};
use landfast_net::head::{Headers, RequestHead, ResponseHead};
use landfast_net::leash::Leash;
use landfast_net::link::{OpenAnswer, OpenRequest, ResumeRequest, Secret, resume_answer};
use landfast_net::random;
use landfast_net::relay::{self, Connect};
use landfast_net::secret::CellKey;
use landfast_net::socket::{Socket, from_upgraded};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::world::soon;

/// Requests that are remembered.
const SEEN_MAX: usize = 100;

/// What a relay answers.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// Yes, and the agent behind it.
    Serve,
    /// No.
    Refuse(ErrorCode, Option<Generation>),
    /// Nothing: it hangs up.
    HangUp,
    /// Nothing, for ever.
    Silence,
}

/// A relay and its agent.
#[derive(Clone)]
pub struct Node {
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    key: CellKey,
    script: Mutex<VecDeque<Answer>>,
    otherwise: Mutex<Answer>,
    dials: Mutex<Vec<Generation>>,
    leash: Leash,
    sessions: Mutex<HashMap<SessionId, (Handle, Secret)>>,
    far_ends: mpsc::Sender<FarEnd>,
    arrived: Mutex<mpsc::Receiver<FarEnd>>,
    seen: Mutex<Vec<Seen>>,
    asked: Mutex<Vec<Seen>>,
    open_sessions: AtomicUsize,
    /// Ends the connections of the programs in the instances.
    programs: Mutex<CancellationToken>,
}

/// A request as the agent saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: HeaderMap,
}

impl Seen {
    fn of(request: &Request<Incoming>) -> Self {
        Self {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            headers: request.headers().clone(),
        }
    }

    fn note(self, list: &Mutex<Vec<Self>>) {
        let mut all = list.lock().unwrap();
        // A test that counts memory sends thousands.
        if all.len() == SEEN_MAX {
            all.clear();
        }
        all.push(self);
    }
}

/// The test's side of a session's far end.
pub struct FarEnd {
    /// The request inside the open.
    pub head: RequestHead,
    /// Raw WebSocket bytes, as the client says and hears them.
    pub pipe: DuplexStream,
    close: Arc<Mutex<Close>>,
    /// How the session ends.
    pub ended: JoinHandle<Ended>,
}

impl FarEnd {
    /// Ends the far end for this cause; what was written before still arrives.
    pub fn end(self, close: Close) -> JoinHandle<Ended> {
        *self.close.lock().unwrap() = close;
        self.ended
    }
}

impl Node {
    /// Starts a relay that serves.
    pub async fn start(key: &CellKey) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (far_ends, arrived) = mpsc::channel(1024);
        let shared = Arc::new(Shared {
            key: key.clone(),
            script: Mutex::default(),
            otherwise: Mutex::new(Answer::Serve),
            dials: Mutex::default(),
            leash: Leash::default(),
            sessions: Mutex::default(),
            far_ends,
            arrived: Mutex::new(arrived),
            seen: Mutex::default(),
            asked: Mutex::default(),
            open_sessions: AtomicUsize::new(0),
            programs: Mutex::default(),
        });
        let node = Self { address: listener.local_addr().unwrap().to_string(), shared };
        let shared = Arc::clone(&node.shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(relay(Arc::clone(&shared), Socket::tcp(stream)));
            }
        });
        node
    }

    /// A node that was there and is not any more: nothing listens at its address.
    pub async fn gone(key: &CellKey) -> Self {
        let node = Self::start(key).await;
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: unused.local_addr().unwrap().to_string(), ..node }
    }

    /// Answers the next dials with these, in order.
    pub fn next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.script.lock().unwrap().extend(answers);
    }

    /// Answers dials with this from now on.
    pub fn answers(&self, answer: Answer) {
        *self.shared.otherwise.lock().unwrap() = answer;
    }

    /// The generations of all dials so far.
    pub fn dials(&self) -> Vec<u64> {
        self.shared.dials.lock().unwrap().iter().map(|generation| generation.0).collect()
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.shared.leash.cut();
    }

    /// Breaks every connection of the programs in the instances.
    pub fn break_programs(&self) {
        std::mem::take(&mut *self.shared.programs.lock().unwrap()).cancel();
    }

    /// How many connections stand.
    pub fn connections(&self) -> usize {
        self.shared.leash.len()
    }

    /// The requests that reached a program, or the agent's own API.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The requests for links that reached the agent.
    pub fn asked(&self) -> Vec<Seen> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many sessions the agent holds.
    pub fn sessions(&self) -> usize {
        self.shared.open_sessions.load(Ordering::Relaxed)
    }

    /// Takes the sessions over from another node, as after a move.
    pub fn take_over(&self, from: &Self) {
        let sessions = from.shared.sessions.lock().unwrap().clone();
        self.shared.sessions.lock().unwrap().extend(sessions);
    }

    /// The far end of the next session that is opened.
    pub async fn far_end(&self) -> FarEnd {
        let next = std::future::poll_fn(|cx| self.shared.arrived.lock().unwrap().poll_recv(cx));
        soon("a session", next).await.expect("the node lives")
    }
}

async fn relay(shared: Arc<Shared>, mut socket: Socket) {
    socket = socket.on_leash(&shared.leash);
    let Ok(Connect { generation, key, .. }) = relay::read_connect(&mut socket).await else { return };
    if key != shared.key {
        let _ = relay::refuse(&mut socket, ErrorCode::AuthForbidden, None).await;
        return;
    }
    shared.dials.lock().unwrap().push(generation);
    let scripted = shared.script.lock().unwrap().pop_front();
    let otherwise = *shared.otherwise.lock().unwrap();
    match scripted.unwrap_or(otherwise) {
        Answer::Serve => {
            relay::accept(&mut socket).await.unwrap();
            serve(shared, socket).await;
        }
        Answer::Refuse(code, generation) => {
            let _ = relay::refuse(&mut socket, code, generation).await;
        }
        Answer::HangUp => {}
        Answer::Silence => drop(socket.read_to_end(&mut Vec::new()).await),
    }
}

type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;

async fn serve(shared: Arc<Shared>, socket: Socket) {
    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    // A connection that is cut is what tests are about.
    let _ = connection.with_upgrades().await;
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<AnswerBody>, Infallible> {
    Seen::of(&request).note(&shared.asked);
    let path = request.uri().path().to_owned();
    let get = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    if OpenRequest::decode(get).is_ok_and(|asked| asked.head.path().ends_with("/silent")) {
        std::future::pending::<()>().await;
    }
    Ok(match path.strip_prefix("/links") {
        Some("") => open(&shared, request),
        Some(session) => resume(&shared, &session[1..], request).await,
        None => refusal(ErrorCode::RequestNotFound),
    })
}

/// A program in an instance, on one connection: it answers with what it was told.
async fn program(shared: Arc<Shared>, stream: DuplexStream, close: Arc<Mutex<Close>>) {
    let broken = shared.programs.lock().unwrap().clone();
    let service = service_fn(move |request| run(Arc::clone(&shared), request));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => if ended.is_ok() { return },
        () = broken.cancelled() => {}
    }
    *close.lock().unwrap() = Close::new(ErrorCode::UpstreamLost, "");
}

async fn run(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<AnswerBody>, io::Error> {
    Seen::of(&request).note(&shared.seen);
    Ok(match request.uri().path() {
        "/cut-before" => return Err(io::ErrorKind::ConnectionReset.into()),
        "/half" => {
            let begun = futures_util::stream::once(async { Ok(Frame::data(Bytes::from_static(b"begun"))) });
            let rest = futures_util::stream::pending();
            let body = StreamBody::new(futures_util::StreamExt::chain(begun, rest));
            Response::builder().header("content-length", "100").body(body.boxed_unsync()).unwrap()
        }
        "/whole" => match request.into_body().collect().await {
            Ok(body) => Response::new(Full::new(body.to_bytes()).map_err(io::Error::other).boxed_unsync()),
            Err(error) => return Err(io::Error::other(error)),
        },
        // Whatever comes, as it comes.
        _ => Response::new(request.into_body().map_err(io::Error::other).boxed_unsync()),
    })
}

fn open(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<AnswerBody> {
    let get = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let asked = OpenRequest::decode(get).unwrap();
    if asked.head.path().ends_with("/refused") {
        let body = Full::new(Bytes::from_static(b"no such process")).map_err(io::Error::other).boxed_unsync();
        return Response::builder().status(404).header("landfast-error", "process.unknown").body(body).unwrap();
    }
    let is_bytes = asked.head.method == "CONNECT";
    let mut headers = Headers::new();
    for (name, value) in [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", "accepted")] {
        headers.push(name, value);
    }
    if let Some(offered) = asked.head.headers.get("sec-websocket-protocol") {
        headers.push("Sec-WebSocket-Protocol", offered.split(',').next().unwrap().trim());
    }
    let head = ResponseHead { status: if is_bytes { 200 } else { 101 }, headers };
    let answer = OpenAnswer { session: random::session_id(), secret: Secret::generate(), window: WINDOW, head };
    let (handle, commands) = far::handle();
    let (near, pipe) = duplex(64 * 1024);
    let end = if is_bytes { ErrorCode::UpstreamEnded } else { ErrorCode::ProcessExited };
    let close = Arc::new(Mutex::new(Close::new(end, "")));
    let piped = Piped { near, close: Arc::clone(&close) };
    let (first, link) = oneshot::channel();
    let ended = {
        let (shared, id) = (Arc::clone(shared), answer.session);
        tokio::spawn(async move {
            let socket: Socket = link.await.expect("the 101 goes out");
            shared.open_sessions.fetch_add(1, Ordering::Relaxed);
            let ended = far::serve(piped, asked.window, socket, commands, far::LINGER).await;
            shared.open_sessions.fetch_sub(1, Ordering::Relaxed);
            shared.sessions.lock().unwrap().remove(&id);
            ended
        })
    };
    shared.sessions.lock().unwrap().insert(answer.session, (handle, answer.secret.clone()));
    if is_bytes {
        tokio::spawn(program(Arc::clone(shared), pipe, close));
    } else {
        let _ = shared.far_ends.try_send(FarEnd { head: asked.head, pipe, close, ended });
    }
    upgraded(request, &answer.encode(), move |socket| drop(first.send(socket)))
}

async fn resume(shared: &Arc<Shared>, session: &str, request: Request<Incoming>) -> Response<AnswerBody> {
    let get = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let asked = ResumeRequest::decode(session, get).unwrap();
    let known = shared.sessions.lock().unwrap().get(&asked.session).cloned();
    let Some((handle, secret)) = known else { return refusal(ErrorCode::SessionUnknown) };
    assert!(secret == asked.secret, "the secret of another session");
    let received = match handle.prepare(asked.link, asked.received).await {
        Ok(received) => received,
        Err(code) => return refusal(code),
    };
    upgraded(request, &resume_answer(received), move |socket| {
        tokio::spawn(async move { handle.attach(asked.link, asked.received, socket).await });
    })
}

fn upgraded(
    mut request: Request<Incoming>,
    head: &ResponseHead,
    then: impl FnOnce(Socket) + Send + 'static,
) -> Response<AnswerBody> {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            then(from_upgraded(upgraded).unwrap());
        }
    });
    let mut response = Response::builder().status(head.status);
    for (name, value) in head.headers.iter() {
        response = response.header(name, value);
    }
    response.body(empty()).unwrap()
}

fn refusal(code: ErrorCode) -> Response<AnswerBody> {
    let response = Response::builder().status(code.status_or_500()).header("landfast-error", code.as_str());
    response.body(empty()).unwrap()
}

fn empty() -> AnswerBody {
    Full::new(Bytes::new()).map_err(io::Error::other).boxed_unsync()
}

/// A far end that is a pipe.
struct Piped {
    near: DuplexStream,
    close: Arc<Mutex<Close>>,
}

impl Far for Piped {
    fn ending(&self) -> Close {
        self.close.lock().unwrap().clone()
    }
}

impl AsyncRead for Piped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_read(cx, buf)
    }
}

impl AsyncWrite for Piped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(cx)
    }
}
