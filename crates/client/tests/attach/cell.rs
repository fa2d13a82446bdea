//! A cell as far as an attachment can tell: tokens, links with the real far end of a session, and one process whose
//! output log and input are the test's.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use landfast_core::link::Close;
use landfast_core::session::WINDOW;
use landfast_core::ws::{Header, Opcode, apply_mask, encode_close, encode_server};
use landfast_core::{ErrorCode, InstanceId, Problem, ProcessId, SessionId};
use landfast_net::far::{Far, Handle, LINGER, handle, serve};
use landfast_net::head::{HEAD_MAX, Headers, RequestHead, ResponseHead, read_request, write_all};
use landfast_net::link::{OpenAnswer, OpenRequest, ResumeRequest, Secret, resume_answer};
use landfast_net::random;
use landfast_net::socket::Socket;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::PATIENCE;

pub(crate) static INSTANCE: LazyLock<InstanceId> = LazyLock::new(random::instance_id);
pub(crate) static PROCESS: LazyLock<ProcessId> = LazyLock::new(random::process_id);

/// The cell. It ends with the value.
pub(crate) struct Cell {
    url: String,
    state: Arc<watch::Sender<State>>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// What the process has said, and from where on it is kept.
    log: Vec<u8>,
    kept_from: u64,
    exit: Option<i32>,
    /// What the process was given.
    typed: Vec<u8>,
    told: Vec<String>,
    left: bool,
    /// Nothing passes, and nobody is let in.
    held: bool,
    cuts: u64,
    refuse: Option<ErrorCode>,
    token: String,
    tokens_made: usize,
    sessions: HashMap<SessionId, Known>,
    sessions_opened: usize,
}

struct Known {
    secret: Secret,
    handle: Handle,
    task: JoinHandle<()>,
}

impl Cell {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(watch::Sender::new(State::default()));
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve_connection(Socket::tcp(stream), shared.clone()));
            }
        });
        Self { url, state, accepting }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) fn say(&self, bytes: &[u8]) {
        self.state.send_modify(|state| state.log.extend_from_slice(bytes));
    }

    pub(crate) fn exit(&self, code: i32) {
        self.state.send_modify(|state| state.exit = Some(code));
    }

    pub(crate) fn evict_before(&self, offset: u64) {
        self.state.send_modify(|state| state.kept_from = offset);
    }

    /// Cuts every link.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Cuts every link and knows no session any more, as an agent after its time of grace.
    pub(crate) fn forget_sessions(&self) {
        self.state.send_modify(|state| {
            state.sessions.drain().for_each(|(_, known)| known.task.abort());
            state.cuts += 1;
        });
    }

    pub(crate) fn hold(&self) {
        self.state.send_modify(|state| state.held = true);
    }

    pub(crate) fn release(&self) {
        self.state.send_modify(|state| state.held = false);
    }

    pub(crate) fn refuse(&self, code: ErrorCode) {
        self.state.send_modify(|state| state.refuse = Some(code));
    }

    pub(crate) fn expire_token(&self) {
        self.state.send_modify(|state| state.token = "expired".to_owned());
    }

    pub(crate) fn sessions_opened(&self) -> usize {
        self.state.borrow().sessions_opened
    }

    pub(crate) fn tokens_made(&self) -> usize {
        self.state.borrow().tokens_made
    }

    pub(crate) async fn until_typed(&self, bytes: &[u8]) {
        self.until(|state| state.typed == bytes).await;
    }

    pub(crate) async fn until_told(&self, text: &str, times: usize) {
        self.until(|state| state.told.iter().filter(|told| *told == text).count() == times).await;
    }

    pub(crate) async fn until_left(&self) {
        self.until(|state| state.left).await;
    }

    async fn until(&self, mut is_so: impl FnMut(&State) -> bool) {
        let mut state = self.state.subscribe();
        timeout(PATIENCE, state.wait_for(|state| is_so(state))).await.expect("it never came to that").unwrap();
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve_connection(mut socket: Socket, state: Arc<watch::Sender<State>>) {
    state.subscribe().wait_for(|state| !state.held).await.unwrap();
    let Ok(head) = read_request(&mut socket, 2 * HEAD_MAX).await else { return };
    if head.target.starts_with("/v1/") {
        return make_token(&mut socket, &state).await;
    }
    let refused = {
        let state = state.borrow();
        let expected = format!("Bearer {}", state.token);
        state.refuse.or((head.headers.get("authorization") != Some(&expected)).then_some(ErrorCode::AuthExpired))
    };
    match (refused, head.target.rsplit_once("/links")) {
        (Some(code), _) => refuse(&mut socket, code).await,
        (None, Some((_, ""))) => open(socket, &head, &state).await,
        (None, Some((_, session))) => resume(socket, session.trim_start_matches('/'), &head, &state).await,
        (None, None) => refuse(&mut socket, ErrorCode::RequestNotFound).await,
    }
}

async fn make_token(socket: &mut Socket, state: &watch::Sender<State>) {
    let mut token = String::new();
    state.send_modify(|state| {
        state.tokens_made += 1;
        state.token = format!("token-{}", state.tokens_made);
        token = state.token.clone();
    });
    answer(socket, 201, None, format!(r#"{{"token":"{token}"}}"#).as_bytes()).await;
}

async fn refuse(socket: &mut Socket, code: ErrorCode) {
    let body = serde_json::to_vec(&Problem::from(code).body()).unwrap();
    answer(socket, code.status_or_500(), Some(code), &body).await;
}

async fn answer(socket: &mut Socket, status: u16, code: Option<ErrorCode>, body: &[u8]) {
    let mut headers = Headers::new();
    headers.push("Content-Length", body.len().to_string());
    headers.push("landfast-request-id", "req_test");
    if let Some(code) = code {
        headers.push("landfast-error", code.as_str());
    }
    let head = ResponseHead { status, headers }.encode();
    let _ = write_all(socket, &[head.as_slice(), body].concat()).await;
}

async fn open(mut socket: Socket, head: &RequestHead, state: &Arc<watch::Sender<State>>) {
    let request = OpenRequest::decode(|name| head.headers.get(name)).unwrap();
    let query = request.head.target.split_once("from=").unwrap().1;
    let from = query.split('&').next().unwrap();
    let at = match from {
        "start" => 0,
        "now" | "screen" => state.borrow().log.len() as u64,
        offset => offset.parse().unwrap(),
    };
    let redraws = from == "screen";
    let far_head = ResponseHead { status: 101, headers: Headers::new() };
    let (id, secret) = (random::session_id(), Secret::generate());
    let opened = OpenAnswer { session: id, secret: secret.clone(), window: WINDOW, head: far_head };
    let _ = write_all(&mut socket, &opened.encode().encode()).await;
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(act(far, state.clone(), at, redraws));
    let (handle, commands) = handle();
    let link = cuttable(socket, state.subscribe());
    let task = tokio::spawn(async move {
        serve(Wire(near), request.window, link, commands, LINGER).await;
    });
    state.send_modify(|state| {
        state.sessions_opened += 1;
        state.sessions.insert(id, Known { secret, handle, task });
    });
}

async fn resume(mut socket: Socket, session: &str, head: &RequestHead, state: &Arc<watch::Sender<State>>) {
    let request = ResumeRequest::decode(session, |name| head.headers.get(name)).unwrap();
    let known = state.borrow().sessions.get(&request.session).map(|known| (known.secret.clone(), known.handle.clone()));
    let Some((secret, handle)) = known else { return refuse(&mut socket, ErrorCode::SessionUnknown).await };
    assert_eq!(secret, request.secret);
    let received = handle.prepare(request.link, request.received).await.unwrap();
    let _ = write_all(&mut socket, &resume_answer(received).encode()).await;
    handle.attach(request.link, request.received, cuttable(socket, state.subscribe())).await;
}

/// A link that ends when links are cut.
fn cuttable(mut socket: Socket, mut state: watch::Receiver<State>) -> Socket {
    let (outer, inner) = tokio::net::UnixStream::pair().unwrap();
    let cuts = state.borrow().cuts;
    tokio::spawn(async move {
        let mut outer = Socket::unix(outer);
        tokio::select! {
            _ = landfast_net::copy::copy_both(&mut socket, &mut outer) => {}
            _ = state.wait_for(|state| state.cuts > cuts) => socket.abort(),
        }
    });
    Socket::unix(inner)
}

/// The process as one viewer sees it.
async fn act(wire: DuplexStream, state: Arc<watch::Sender<State>>, from: u64, redraws: bool) {
    let mut news = state.subscribe();
    let (mut reader, mut writer) = tokio::io::split(wire);
    let (mut view, mut heard, mut piece) = (View::new(from, redraws, &news.borrow()), Vec::new(), vec![0; 4096]);
    loop {
        loop {
            let frame = view.next_frame(&news.borrow_and_update());
            let Some(frame) = frame else { break };
            if writer.write_all(&frame).await.is_err() {
                return;
            }
        }
        let held = news.borrow().held;
        tokio::select! {
            changed = news.changed() => changed.unwrap(),
            n = reader.read(&mut piece), if !held => match n {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    heard.extend_from_slice(&piece[..n]);
                    let mut left = false;
                    state.send_modify(|state| left = hear(&mut heard, state));
                    if left {
                        let mut close = Vec::new();
                        encode_close(1000, "", &mut close);
                        let _ = writer.write_all(&close).await;
                        return;
                    }
                }
            },
        }
    }
}

/// What a screen is redrawn with.
pub(crate) const REDRAW: &[u8] = b"the screen";

/// How far a viewer has come.
struct View {
    at: u64,
    live_from: Option<u64>,
    /// It is still to get the redraw, which is no part of the log.
    redraws: bool,
    exited: bool,
}

impl View {
    fn new(from: u64, redraws: bool, state: &State) -> Self {
        Self { at: from, live_from: Some(state.log.len() as u64), redraws, exited: false }
    }

    fn next_frame(&mut self, state: &State) -> Option<Vec<u8>> {
        let mut frame = Vec::new();
        let mut say = |parts: &[&[u8]]| encode_server(Opcode::Binary, parts, &mut frame);
        if state.held || self.exited {
            return None;
        } else if std::mem::take(&mut self.redraws) {
            say(&[&[1], REDRAW]);
        } else if self.at < state.kept_from {
            say(&[&[5], &self.at.to_be_bytes(), &state.kept_from.to_be_bytes()]);
            self.at = state.kept_from;
        } else if self.live_from.is_some_and(|live| self.at >= live) {
            self.live_from = None;
            say(&[&[4], &self.at.to_be_bytes()]);
        } else if self.at < state.log.len() as u64 {
            let end = self.live_from.unwrap_or(state.log.len() as u64);
            say(&[&[1], &state.log[self.at as usize..end as usize]]);
            self.at = end;
        } else if let Some(code) = state.exit {
            self.exited = true;
            say(&[&[3], &code.to_be_bytes()]);
            encode_close(1000, "process.exited", &mut frame);
        } else {
            return None;
        }
        Some(frame)
    }
}

/// Takes the whole frames off the front of what the client said. Whether it has closed.
fn hear(heard: &mut Vec<u8>, state: &mut State) -> bool {
    while let Some((header, len)) = Header::decode(heard).unwrap() {
        let end = len + header.len as usize;
        if heard.len() < end {
            return false;
        }
        let mut payload: Vec<u8> = heard.drain(..end).skip(len).collect();
        apply_mask(header.mask.expect("a client masks"), 0, &mut payload);
        match header.opcode {
            Opcode::Binary => state.typed.extend_from_slice(&payload[1..]),
            Opcode::Text => state.told.push(String::from_utf8(payload).unwrap()),
            Opcode::Close => {
                state.left = true;
                return true;
            }
            Opcode::Continuation | Opcode::Ping | Opcode::Pong => {}
        }
    }
    false
}

/// The far end of a session.
struct Wire(DuplexStream);

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Far for Wire {
    fn ending(&self) -> Close {
        Close::new(ErrorCode::ProcessExited, "")
    }
}
