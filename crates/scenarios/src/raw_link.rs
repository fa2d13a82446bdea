//! A link spoken byte by byte, also wrongly: what a peer that is not ours, or not well, would send.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use landfast_core::link::{HEADER_LEN, Header, Kind, PROTOCOL, encode_number};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::{self, Answer};
use crate::instance::{Instance, Process};
use crate::plain::PATIENCE;

/// A link.
#[derive(Debug)]
pub struct RawLink {
    socket: TcpStream,
    heard: Vec<u8>,
    /// How its opening was answered.
    pub answer: Answer,
}

/// What resumes a session.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The session's id.
    pub session: String,
    /// Its secret.
    pub secret: String,
}

impl RawLink {
    /// Opens a session with a process.
    ///
    /// # Errors
    ///
    /// The answer, where it is not 101.
    pub async fn open(process: &Process, query: &str) -> Result<Self, Answer> {
        let head = format!(
            "GET /processes/{}/attach?{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: landfast.process.v1\r\n\r\n",
            process.id
        );
        let headers = format!("landfast-window: 1048576\r\nlandfast-head: {}\r\n", BASE64_URL_SAFE_NO_PAD.encode(head));
        Self::upgrade(&process.instance, "/links", PROTOCOL, &headers).await
    }

    /// Resumes a session.
    ///
    /// # Errors
    ///
    /// The answer, where it is not 101.
    pub async fn resume(instance: &Instance, ticket: &Ticket, link: u64, received: u64) -> Result<Self, Answer> {
        let headers =
            format!("landfast-secret: {}\r\nlandfast-link: {link}\r\nlandfast-received: {received}\r\n", ticket.secret);
        Self::upgrade(instance, &format!("/links/{}", ticket.session), PROTOCOL, &headers).await
    }

    /// Asks for an upgrade with exactly these headers.
    ///
    /// # Errors
    ///
    /// The answer, where it is not 101.
    pub async fn upgrade(instance: &Instance, target: &str, protocol: &str, headers: &str) -> Result<Self, Answer> {
        let address = instance.operator.address;
        let socket = http::connect(address, None).await;
        let head = format!(
            "GET /i/{}{target} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\n\
             Upgrade: {protocol}\r\n{headers}\r\n",
            instance.id, instance.token
        );
        http::write(&socket, head.as_bytes()).await;
        let (answer, heard) = http::read_head(&socket).await;
        if answer.status != 101 {
            return Err(http::read_body(&socket, answer, heard).await);
        }
        Ok(Self { socket, heard, answer })
    }

    /// What resumes this session.
    ///
    /// # Panics
    ///
    /// This link did not open it.
    pub fn ticket(&self) -> Ticket {
        let header = |name| self.answer.header(name).expect("an opened link has a ticket").to_owned();
        Ticket { session: header("landfast-session"), secret: header("landfast-secret") }
    }

    /// Sends bytes as they are.
    pub async fn send(&self, bytes: &[u8]) {
        http::write(&self.socket, bytes).await;
    }

    /// Sends a DATA record.
    pub async fn send_data(&self, data: &[u8]) {
        self.send(&[&Header { kind: Kind::Data, len: data.len() }.encode(), data].concat()).await;
    }

    /// Sends a PING record.
    pub async fn send_ping(&self, number: u64) {
        self.send(&encode_number(Kind::Ping, number)).await;
    }

    /// The next record, or `None` at the link's end.
    ///
    /// # Panics
    ///
    /// Nothing comes, or no record.
    pub async fn next(&mut self) -> Option<(Kind, Vec<u8>)> {
        loop {
            if let Some(head) = self.heard.first_chunk::<HEADER_LEN>() {
                let header = Header::decode(*head).expect("the agent sends valid records");
                if self.heard.len() >= HEADER_LEN + header.len {
                    let rest = self.heard.split_off(HEADER_LEN + header.len);
                    let record = std::mem::replace(&mut self.heard, rest);
                    return Some((header.kind, record[HEADER_LEN..].to_vec()));
                }
            }
            timeout(PATIENCE, self.socket.readable()).await.expect("the agent says nothing").ok()?;
            match self.socket.try_read_buf(&mut self.heard) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }

    /// The next record of a kind, as a number; other records are passed over.
    ///
    /// # Panics
    ///
    /// The link ends before it.
    pub async fn next_number(&mut self, wanted: Kind) -> u64 {
        loop {
            let (kind, payload) = self.next().await.unwrap_or_else(|| panic!("the link ended before {wanted:?}"));
            if kind == wanted {
                return u64::from_be_bytes(payload.try_into().expect("eight bytes"));
            }
        }
    }

    /// Reads the session's bytes until `len` of them came.
    ///
    /// # Panics
    ///
    /// The link ends before it.
    pub async fn next_data(&mut self, len: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < len {
            match self.next().await {
                Some((Kind::Data, bytes)) => data.extend(bytes),
                Some(_) => {}
                None => panic!("the link ended after {} of {len} bytes", data.len()),
            }
        }
        data
    }

    /// Reads on to the link's end.
    pub async fn ends(&mut self) {
        while self.next().await.is_some() {}
    }
}

/// A masked binary frame to a process: channel 0, then the input. Its mask is zero, which is allowed and readable.
pub fn input_frame(input: &str) -> Vec<u8> {
    let len = u8::try_from(input.len() + 1).ok().filter(|len| *len < 126).expect("short input");
    [&[0x82, 0x80 | len, 0, 0, 0, 0, 0], input.as_bytes()].concat()
}
