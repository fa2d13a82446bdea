//! The upstream behind every side: answers of any size, and an echo of WebSocket frames, for as little as can be.
//!
//! It is a process of its own (`landfast-bench upstream`), so that its time is nobody else's. A target that ends in
//! `/bytes/N` is answered with N bytes, any other with [`SMALL`]; an upgrade becomes an echo.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use landfast_scenarios::echo::Echo;
use landfast_scenarios::plain::KEY;

use super::socket::{Poller, Ready, listen, unless_it_waits};

/// Bytes of an answer if the target does not say.
pub(crate) const SMALL: usize = 64;

/// Bytes that are read and written at once.
const PIECE: usize = 256 * 1024;

/// Bytes that may wait to be sent before nothing more is read.
const HIGH_WATER: usize = 1 << 20;

/// The longest head of a request: far more than any client here sends.
const HEAD_MAX: usize = 64 * 1024;

const LISTENER: usize = usize::MAX;

/// The bytes that answers and messages are made of.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(len).collect()
}

/// Serves for ever on a free port, which is told on standard output.
pub(crate) fn run() -> io::Result<()> {
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    println!("{}", listener.local_addr()?);
    Upstream {
        poller: Poller::new()?,
        connections: Vec::new(),
        free: Vec::new(),
        scratch: vec![0; PIECE + HEAD_MAX],
        pattern: pattern(PIECE),
    }
    .serve(&listener)
}

struct Upstream {
    poller: Poller,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
    pattern: Vec<u8>,
}

impl Upstream {
    fn serve(mut self, listener: &TcpListener) -> io::Result<()> {
        self.poller.add(listener, LISTENER)?;
        loop {
            for index in 0..self.poller.wait(None)? {
                match self.poller.ready(index) {
                    Ready { token: LISTENER, .. } => self.accept(listener)?,
                    ready => self.go_on(ready),
                }
            }
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        while let Some((socket, _)) = unless_it_waits(listener.accept())? {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let token = self.free.pop().unwrap_or(self.connections.len());
            self.poller.add(&socket, token)?;
            if token == self.connections.len() {
                self.connections.push(None);
            }
            self.connections[token] = Some(Connection::new(socket));
        }
        Ok(())
    }

    fn go_on(&mut self, ready: Ready) {
        let Some(connection) = &mut self.connections[ready.token] else { return };
        let alive = connection
            .go_on(ready, &mut self.scratch, &self.pattern)
            .and_then(|()| connection.watch(&self.poller, ready.token));
        // Its end is an error too, and there is nobody to tell.
        if alive.is_err() {
            self.connections[ready.token] = None;
            self.free.push(ready.token);
        }
    }
}

struct Connection {
    socket: TcpStream,
    /// What is no whole head yet.
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of `output` was sent.
    sent: usize,
    /// Bytes of the pattern that follow the output.
    filler: usize,
    /// Set once it is a WebSocket.
    echo: Option<Echo>,
    /// It ends when everything was sent.
    closing: bool,
    watched: (bool, bool),
}

impl Connection {
    fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            filler: 0,
            echo: None,
            closing: false,
            watched: (true, false),
        }
    }

    fn go_on(&mut self, ready: Ready, scratch: &mut [u8], pattern: &[u8]) -> io::Result<()> {
        if ready.writing {
            self.flush(pattern)?;
        }
        if !ready.reading || self.is_congested() {
            return Ok(());
        }
        let kept = self.input.len();
        scratch[..kept].copy_from_slice(&self.input);
        let end = match unless_it_waits((&self.socket).read(&mut scratch[kept..]))? {
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(n) => kept + n,
            None => return Ok(()),
        };
        let mut at = 0;
        while at < end && !self.closing {
            let used = match &mut self.echo {
                Some(echo) => {
                    let taken = echo.take(&mut scratch[at..end], &mut self.output);
                    self.closing = taken.is_over;
                    taken.bytes
                }
                None => self.request(&scratch[at..end])?,
            };
            at += used;
            if used == 0 {
                break;
            }
        }
        self.input.clear();
        self.input.extend_from_slice(&scratch[at..end]);
        if self.input.len() > HEAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.flush(pattern)
    }

    /// Answers one request and says how long it was; 0 if it is not all there.
    fn request(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let httparse::Status::Complete(len) = parsed else { return Ok(0) };
        let header = |name: &str| request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        if header("sec-websocket-key").is_some_and(|key| key.value == KEY.0.as_bytes()) {
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                KEY.1
            );
            self.output.extend_from_slice(head.as_bytes());
            self.echo = Some(Echo::default());
            return Ok(len);
        }
        self.closing = header("connection").is_some_and(|value| value.value.eq_ignore_ascii_case(b"close"));
        let asked = request.path.and_then(|path| path.rsplit_once("/bytes/")).and_then(|(_, size)| size.parse().ok());
        self.filler = asked.unwrap_or(SMALL);
        let close = if self.closing { "Connection: close\r\n" } else { "" };
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{close}\r\n", self.filler);
        self.output.extend_from_slice(head.as_bytes());
        Ok(len)
    }

    /// Sends what the socket takes.
    fn flush(&mut self, pattern: &[u8]) -> io::Result<()> {
        // A small answer goes out with its head.
        let tail = if self.filler <= SMALL { std::mem::take(&mut self.filler) } else { 0 };
        self.output.extend_from_slice(&pattern[..tail]);
        while self.sent < self.output.len() {
            match unless_it_waits((&self.socket).write(&self.output[self.sent..]))? {
                Some(n) => self.sent += n,
                None => return Ok(()),
            }
        }
        self.output.clear();
        self.sent = 0;
        while self.filler > 0 {
            match unless_it_waits((&self.socket).write(&pattern[..self.filler.min(pattern.len())]))? {
                Some(n) => self.filler -= n,
                None => return Ok(()),
            }
        }
        if self.closing { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn is_congested(&self) -> bool {
        self.filler > 0 || self.output.len() - self.sent > HIGH_WATER
    }

    fn watch(&mut self, poller: &Poller, token: usize) -> io::Result<()> {
        let wanted = (!self.is_congested(), self.filler > 0 || !self.output.is_empty());
        if wanted != self.watched {
            self.watched = wanted;
            poller.watch(&self.socket, token, wanted.0, wanted.1)?;
        }
        Ok(())
    }
}
