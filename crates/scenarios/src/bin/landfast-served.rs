//! What the scenarios run as a service: an HTTP server that counts what it has run, and echoes WebSocket frames.
//!
//! It listens where its service says: on the port `PORT`, or on the Unix socket `LANDFAST_SOCKET`. Where `LEDGER` names a file
//! that is there, what runs is written to it first (`{key} {life} {microseconds since 1970}`), so that it is known after this
//! program's end too; `life` is drawn at its start. Every answer says its life and its instance.
//!
//! | request | answer |
//! |---|---|
//! | any, to `/count/{key}` | has run once more; the body is how often now. An upgrade too, which is an echo then |
//! | GET `/counts` | how often each key has run, as JSON |
//! | any, to `/refuse/{status}/{code}` | this status with `landfast-error: {code}`; nothing has run |
//! | any, to `/let-go` | from now on all but `/counts` is refused with 503 `node.not_here`, upgrades too, and nothing runs |
//! | an upgrade to `/leave/end` | ends the WebSocket without a close frame once it has heard anything |
//! | an upgrade to `/leave/reset` | the same with unread input, which resets the connection |
//! | an upgrade to `/leave/exit` | the same by the end of the program |
//! | any other upgrade | an echo of frames; a `permessage-deflate` that is offered is agreed to |
//! | any other | its method, target and body |

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use landfast_scenarios::echo::Echo;
use landfast_scenarios::plain::KEY;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

/// The largest body of a request, and how much is read at once.
const PIECE: usize = 256 * 1024;

/// What has been done here.
#[derive(Default)]
struct State {
    counts: BTreeMap<String, u64>,
    has_let_go: bool,
    ledger: Option<File>,
    life: u64,
}

type Shared = Arc<Mutex<State>>;

struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let ledger = std::env::var_os("LEDGER").map(|path| File::options().append(true).open(path)).transpose()?;
    let shared = Arc::new(Mutex::new(State { ledger, life: rand::random(), ..State::default() }));
    if let Ok(path) = std::env::var("LANDFAST_SOCKET") {
        let listener = UnixListener::bind(&path).with_context(|| format!("listening on {path}"))?;
        loop {
            tokio::spawn(serve(listener.accept().await?.0, Arc::clone(&shared)));
        }
    }
    let port = std::env::var("PORT").context("neither LANDFAST_SOCKET nor PORT is set")?.parse::<u16>()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(serve(socket, Arc::clone(&shared)));
    }
}

/// Serves a connection until it ends, however that is.
async fn serve(mut socket: impl AsyncRead + AsyncWrite + Unpin, shared: Shared) {
    let mut input = Vec::new();
    loop {
        match read(&mut socket, &mut input).await {
            Ok(Some(request)) if request.header("upgrade").is_some() && runs(&request, &shared) => {
                let _ = echo(socket, &request, input).await;
                return;
            }
            Ok(Some(request)) => {
                let answer = answer(&request, &shared);
                if socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Ok(None) | Err(_) => return,
        }
    }
}

/// Reads a whole request; `None` if there is none any more.
async fn read(socket: &mut (impl AsyncRead + Unpin), input: &mut Vec<u8>) -> std::io::Result<Option<Request>> {
    loop {
        if let Some((mut request, head)) = parse(input)? {
            let length = request.header("content-length").map_or(Ok(0), str::parse::<usize>);
            let length = length.map_err(|_| ErrorKind::InvalidData)?;
            if input.len() >= head + length {
                request.body = input[head..head + length].to_vec();
                input.drain(..head + length);
                return Ok(Some(request));
            }
        }
        if socket.read_buf(input).await? == 0 {
            return if input.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
        if input.len() > 2 * PIECE {
            return Err(ErrorKind::InvalidData.into());
        }
    }
}

fn parse(input: &[u8]) -> std::io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(input).map_err(|_| std::io::Error::from(ErrorKind::InvalidData))?;
    let httparse::Status::Complete(len) = parsed else { return Ok(None) };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = request.headers.iter().map(|header| (header.name.to_ascii_lowercase(), text(header.value)));
    let (method, target) = (request.method.unwrap_or_default().to_owned(), request.path.unwrap_or_default().to_owned());
    Ok(Some((Request { method, target, headers: headers.collect(), body: Vec::new() }, len)))
}

/// Whether an upgrade is taken. It is counted then, if it is to be.
fn runs(upgrade: &Request, shared: &Shared) -> bool {
    let mut state = shared.lock().expect("no holder panics");
    if let (Some(key), false) = (upgrade.path().strip_prefix("/count/"), state.has_let_go) {
        return state.count(key).is_ok();
    }
    !state.has_let_go
}

/// Does what the request asks for. It has run once this returns.
fn answer(request: &Request, shared: &Shared) -> String {
    let mut state = shared.lock().expect("no holder panics");
    let path = request.path();
    if path == "/counts" {
        return state.whole(
            "200 OK",
            "Content-Type: application/json\r\n",
            &serde_json::json!(state.counts).to_string(),
        );
    }
    if state.has_let_go {
        return state.whole("503 Not Here", "Landfast-Error: node.not_here\r\n", "let go");
    }
    if path == "/let-go" {
        state.has_let_go = true;
        return state.whole("200 OK", "", "let go");
    }
    if let Some(key) = path.strip_prefix("/count/") {
        return match state.count(key) {
            Ok(count) => state.whole("200 OK", "", &count.to_string()),
            Err(error) => state.whole("507 Not Written", "", &error.to_string()),
        };
    }
    if let Some((status, code)) = path.strip_prefix("/refuse/").and_then(|rest| rest.split_once('/')) {
        return state.whole(&format!("{status} Refused"), &format!("Landfast-Error: {code}\r\n"), "refused");
    }
    let said = format!("{} {} {}", request.method, request.target, String::from_utf8_lossy(&request.body));
    state.whole("200 OK", "", &said)
}

impl State {
    /// Runs a key once more, and says how often that is now. What cannot be written down does not run.
    fn count(&mut self, key: &str) -> std::io::Result<u64> {
        if let Some(ledger) = &mut self.ledger {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // In one piece, which a file takes whole or, if its disk is full, in part: then what follows begins a line.
            ledger.write_all(format!("\n{key} {:016x} {}\n", self.life, now.as_micros()).as_bytes())?;
        }
        let count = self.counts.entry(key.to_owned()).or_default();
        *count += 1;
        Ok(*count)
    }

    fn whole(&self, status: &str, headers: &str, body: &str) -> String {
        let instance = std::env::var("LANDFAST_INSTANCE").unwrap_or_default();
        whole(status, &format!("{headers}Served-Life: {:016x}\r\nServed-Instance: {instance}\r\n", self.life), body)
    }
}

fn whole(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

async fn echo(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    request: &Request,
    mut input: Vec<u8>,
) -> std::io::Result<()> {
    let deflate = request.header("sec-websocket-extensions").is_some_and(|offer| offer.contains("permessage-deflate"));
    let extensions = if deflate { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
    if request.header("sec-websocket-key") != Some(KEY.0) {
        return socket.write_all(whole("400 Bad Request", "", "not the key of the example").as_bytes()).await;
    }
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{extensions}\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        KEY.1
    );
    socket.write_all(head.as_bytes()).await?;
    if let Some(how) = request.target.strip_prefix("/leave/") {
        return leave(socket, how).await;
    }
    let (mut echo, mut output) = (Echo::default(), Vec::new());
    loop {
        let taken = echo.take(&mut input, &mut output);
        input.drain(..taken.bytes);
        socket.write_all(&output).await?;
        output.clear();
        if taken.is_over {
            return socket.shutdown().await;
        }
        input.reserve(PIECE);
        if socket.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

async fn leave(mut socket: impl AsyncRead + Unpin, how: &str) -> std::io::Result<()> {
    let unread = usize::from(how == "reset");
    // A masked frame of five bytes.
    socket.read_exact(&mut [0; 11][unread..]).await?;
    if how == "exit" {
        std::process::exit(1);
    }
    Ok(())
}

impl Request {
    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}
