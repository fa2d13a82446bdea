//! A WebSocket client that knows nothing of links, sessions or Landfast: what a browser or any library would see.
//!
//! It reads the frames itself and insists on what RFC 6455 demands of a server, so that a frame that was cut in two, put
//! inside another, or masked, fails the test that met it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use landfast_core::ws::{self, Header, Opcode};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::http::{self, Answer};

/// How long an expectation waits before it fails: far more than anything takes on a busy machine, except what a test
/// names its own deadline for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The example key of RFC 6455 and the answer it must get.
pub const KEY: (&str, &str) = ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// Where to.
    pub address: SocketAddr,
    /// Path and query.
    pub target: String,
    /// The bearer token, if one is sent.
    pub token: Option<String>,
    /// The subprotocol asked for, if any.
    pub subprotocol: Option<&'static str>,
    /// The size of the socket's receive buffer, where a test wants it small.
    pub receive_buffer: Option<usize>,
}

/// What a client hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole text message.
    Text(String),
    /// A whole binary message.
    Binary(Vec<u8>),
    /// A ping, which was answered if the client answers pings.
    Ping,
    /// A pong, with what it carries.
    Pong(Vec<u8>),
    /// The server's close frame; 1005 stands for one without a code.
    Close(u16, String),
    /// The end of the connection: without an error if it came after a whole frame.
    Ended(Option<io::ErrorKind>),
}

/// A WebSocket connection.
#[derive(Debug)]
pub struct PlainClient {
    socket: TcpStream,
    heard: Vec<u8>,
    /// How much of `heard` was parsed.
    parsed: usize,
    message: Option<(Opcode, Vec<u8>)>,
    out: VecDeque<u8>,
    random: SmallRng,
    /// Whether pings are answered, as RFC 6455 demands.
    pub answers_pings: bool,
}

impl PlainClient {
    /// Connects and upgrades.
    ///
    /// # Errors
    ///
    /// The answer, where it is not 101.
    pub async fn open(upgrade: &Upgrade) -> Result<Self, Answer> {
        Self::over(http::connect(upgrade.address, upgrade.receive_buffer).await, upgrade).await
    }

    /// Upgrades a connection that stands.
    ///
    /// # Errors
    ///
    /// The answer, where it is not 101.
    pub async fn over(socket: TcpStream, upgrade: &Upgrade) -> Result<Self, Answer> {
        http::write(&socket, upgrade.head().as_bytes()).await;
        let (answer, ahead) = http::read_head(&socket).await;
        if answer.status != 101 {
            return Err(http::read_body(&socket, answer, ahead).await);
        }
        assert_eq!(answer.header("sec-websocket-accept"), Some(KEY.1), "the handshake's proof is wrong");
        let asked = upgrade.subprotocol.filter(|_| answer.header("sec-websocket-protocol").is_some());
        assert_eq!(answer.header("sec-websocket-protocol"), asked, "a subprotocol that nobody asked for");
        let random = SmallRng::seed_from_u64(u64::from(socket.local_addr().map_or(0, |address| address.port())));
        Ok(Self { socket, heard: ahead, parsed: 0, message: None, out: VecDeque::new(), random, answers_pings: true })
    }

    /// The client's own address, by which a server would know it.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a connected socket has an address")
    }

    // --- saying ---

    /// Puts a binary message into the queue that [`Self::turn`] sends from.
    pub fn queue_binary(&mut self, parts: &[&[u8]]) {
        self.queue(Opcode::Binary, parts);
    }

    /// How many bytes wait to be sent.
    pub fn queued(&self) -> usize {
        self.out.len()
    }

    /// Sends a binary message.
    pub async fn send_binary(&mut self, parts: &[&[u8]]) {
        self.queue(Opcode::Binary, parts);
        self.flush().await;
    }

    /// Sends a text message.
    pub async fn send_text(&mut self, text: &str) {
        self.queue(Opcode::Text, &[text.as_bytes()]);
        self.flush().await;
    }

    /// Sends a ping.
    pub async fn send_ping(&mut self, payload: &[u8]) {
        self.queue(Opcode::Ping, &[payload]);
        self.flush().await;
    }

    /// Sends a close frame.
    pub async fn send_close(&mut self, code: u16, reason: &str) {
        self.queue(Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()]);
        self.flush().await;
    }

    /// Sends bytes as they are, frames or not.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
        self.flush().await;
    }

    /// Closes the connection as a killed program with unread input does: by a reset.
    pub fn vanish(self) {
        self.socket.set_zero_linger().expect("a connected socket takes options");
    }

    fn queue(&mut self, opcode: Opcode, parts: &[&[u8]]) {
        let mask: [u8; 4] = self.random.random();
        let mut payload = parts.concat();
        let mut header = [0; ws::HEADER_MAX];
        let head = Header { fin: true, rsv: 0, opcode, mask: Some(mask), len: payload.len() as u64 };
        let len = head.encode(&mut header);
        ws::apply_mask(mask, 0, &mut payload);
        self.out.extend(&header[..len]);
        self.out.extend(payload);
    }

    async fn flush(&mut self) {
        let flushed = timeout(PATIENCE, async {
            while !self.out.is_empty() {
                self.socket.writable().await?;
                self.try_write()?;
            }
            Ok::<(), io::Error>(())
        });
        // A connection that has ended says so to whoever reads next, with its reason.
        let _ = flushed.await.expect("nothing takes what the client says");
    }

    fn try_write(&mut self) -> io::Result<()> {
        match self.socket.try_write(self.out.as_slices().0) {
            Ok(n) => drop(self.out.drain(..n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    // --- hearing ---

    /// The next thing heard.
    pub async fn next(&mut self) -> Event {
        self.next_within(PATIENCE).await.expect("the server says nothing")
    }

    /// The next thing heard within `patience`.
    ///
    /// # Cancel safety
    ///
    /// Nothing heard is lost when the call is dropped.
    pub async fn next_within(&mut self, patience: Duration) -> Option<Event> {
        timeout(patience, async {
            loop {
                if let Some(event) = self.turn().await {
                    return event;
                }
            }
        })
        .await
        .ok()
    }

    /// Sends from the queue and listens, until something was heard (`Some`) or sent (`None`).
    ///
    /// # Cancel safety
    ///
    /// Nothing heard is lost when the call is dropped.
    pub async fn turn(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.parse() {
                return Some(event);
            }
            tokio::select! {
                ready = self.socket.readable() => {
                    match ready.and_then(|()| self.try_read()) {
                        Ok(0) => {
                            let cut = !self.heard.is_empty();
                            return Some(Event::Ended(cut.then_some(io::ErrorKind::UnexpectedEof)));
                        }
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Some(Event::Ended(Some(error.kind()))),
                    }
                }
                ready = self.socket.writable(), if !self.out.is_empty() => {
                    if ready.and_then(|()| self.try_write()).is_err() {
                        // What ended the connection is heard by reading.
                        self.out.clear();
                    }
                    return None;
                }
            }
        }
    }

    /// Reads what is there by way of a shared buffer, so that an idle client owns none.
    fn try_read(&mut self) -> io::Result<usize> {
        self.heard.drain(..self.parsed);
        self.parsed = 0;
        SCRATCH.with_borrow_mut(|scratch| {
            let n = self.socket.try_read(scratch)?;
            self.heard.extend_from_slice(&scratch[..n]);
            Ok(n)
        })
    }

    /// Hears a close frame with this code and a reason that begins so, and then nothing but the end.
    pub async fn expect_close(&mut self, code: u16, reason: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no close frame, and no end of what is said");
            match self.next().await {
                Event::Close(heard, why) => {
                    assert!(
                        heard == code && why.starts_with(reason),
                        "closed with {heard} {why:?}, not {code} {reason:?}"
                    );
                    break;
                }
                Event::Ended(how) => panic!("the connection ended without a close frame: {how:?}"),
                Event::Text(_) | Event::Binary(_) | Event::Ping | Event::Pong(_) => {}
            }
        }
        self.send_close(code, "").await;
        let after = self.next().await;
        assert!(matches!(after, Event::Ended(_)), "heard after the close frame: {after:?}");
    }

    fn parse(&mut self) -> Option<Event> {
        loop {
            let heard = &self.heard[self.parsed..];
            let (header, at) = Header::decode(heard).expect("the server sends whole, valid frames")?;
            assert!(header.mask.is_none() && header.rsv == 0, "a server does not mask and agreed to no extension");
            let len = usize::try_from(header.len).expect("frames of tests fit memory");
            let payload = heard.get(at..at + len)?.to_vec();
            self.parsed += at + len;
            if let Some(event) = self.handle_frame(header, payload) {
                return Some(event);
            }
        }
    }

    fn handle_frame(&mut self, header: Header, payload: Vec<u8>) -> Option<Event> {
        match header.opcode {
            Opcode::Close => {
                let close = ws::decode_close(&payload).expect("a close frame can be read");
                let (code, reason) = close.unwrap_or((1005, ""));
                return Some(Event::Close(code, reason.to_owned()));
            }
            Opcode::Ping => {
                if self.answers_pings {
                    self.queue(Opcode::Pong, &[&payload]);
                }
                return Some(Event::Ping);
            }
            Opcode::Pong => return Some(Event::Pong(payload)),
            Opcode::Text | Opcode::Binary => {
                assert!(self.message.is_none(), "a new message inside a fragmented one");
                self.message = Some((header.opcode, payload));
            }
            Opcode::Continuation => self.message.as_mut().expect("a fragment of a message").1.extend(payload),
        }
        if !header.fin {
            return None;
        }
        let (kind, bytes) = self.message.take()?;
        Some(match kind {
            Opcode::Text => Event::Text(String::from_utf8(bytes).expect("text is UTF-8")),
            _ => Event::Binary(bytes),
        })
    }
}

impl Upgrade {
    fn head(&self) -> String {
        let mut head = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {}\r\n",
            self.target, self.address, KEY.0
        );
        if let Some(token) = &self.token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        if let Some(subprotocol) = self.subprotocol {
            head += &format!("Sec-WebSocket-Protocol: {subprotocol}\r\n");
        }
        head + "\r\n"
    }
}
