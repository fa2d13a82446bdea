//! A client that knows nothing of Landfast: plain HTTP and plain WebSocket frames.

use std::net::SocketAddr;

use landfast_core::ErrorCode;
use landfast_core::ws::{self, Opcode};
use landfast_net::head::{HEAD_MAX, Headers, RequestHead, ResponseHead, read_response, write_all};
use landfast_net::socket::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::soon;

/// An answer and its body.
#[derive(Debug)]
pub struct Answer {
    pub head: ResponseHead,
    pub body: Vec<u8>,
}

impl Answer {
    /// The status, and the cause if Landfast said it.
    pub fn cause(&self) -> (u16, Option<ErrorCode>) {
        (self.head.status, self.header("landfast-error").and_then(ErrorCode::parse))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)
    }
}

/// A request with its headers.
pub fn head(method: &str, target: &str, lines: &[(&str, &str)]) -> RequestHead {
    let mut headers = Headers::new();
    headers.push("Host", "box.test");
    lines.iter().for_each(|(name, value)| headers.push(*name, *value));
    RequestHead { method: method.into(), target: target.into(), headers }
}

pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

pub async fn connect(gateway: SocketAddr) -> Socket {
    Socket::tcp(TcpStream::connect(gateway).await.unwrap())
}

/// Sends a request over a connection of its own, and reads the answer to the end.
pub async fn send(gateway: SocketAddr, mut request: RequestHead, body: &[u8]) -> Answer {
    request.headers.push("Connection", "close");
    request.headers.push("Content-Length", body.len().to_string());
    let mut bytes = request.encode();
    bytes.extend_from_slice(body);
    send_bytes(gateway, &bytes).await
}

/// Sends bytes, and reads the answer to the end of the connection.
pub async fn send_bytes(gateway: SocketAddr, bytes: &[u8]) -> Answer {
    let mut socket = connect(gateway).await;
    write_all(&mut socket, bytes).await.unwrap();
    soon("an answer", answer(&mut socket)).await
}

async fn answer(socket: &mut Socket) -> Answer {
    let head = read_response(socket, HEAD_MAX).await.expect("an answer");
    let mut body = Vec::new();
    socket.read_to_end(&mut body).await.expect("a whole body");
    Answer { head, body }
}

/// An open WebSocket.
#[derive(Debug)]
pub struct Ws {
    pub socket: Socket,
    pub head: ResponseHead,
}

/// A frame as it came.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Data(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
}

/// Asks for a WebSocket; `Err` is the answer that came instead.
pub async fn websocket(gateway: SocketAddr, target: &str, lines: &[(&str, &str)]) -> Result<Ws, Answer> {
    let mut request = head("GET", target, lines);
    for (name, value) in [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        request.headers.push(name, value);
    }
    let mut socket = connect(gateway).await;
    write_all(&mut socket, &request.encode()).await.unwrap();
    let head = soon("an answer", read_response(&mut socket, HEAD_MAX)).await.expect("an answer");
    if head.status == 101 {
        return Ok(Ws { socket, head });
    }
    let mut body = Vec::new();
    let length = head.headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    soon("a body", socket.take(length).read_to_end(&mut body)).await.unwrap();
    Err(Answer { head, body })
}

impl Ws {
    /// Sends a masked frame.
    pub async fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        self.socket.write_all(&masked(opcode, payload)).await.unwrap();
    }

    /// Reads the next frame; `None` at the end of the connection between frames.
    ///
    /// # Panics
    ///
    /// If the connection ends inside a frame, or what comes is none of a server's.
    pub async fn next(&mut self) -> Option<Frame> {
        soon("a frame", read_frame(&mut self.socket)).await
    }

    /// Reads data, and skips pings.
    pub async fn data(&mut self) -> Vec<u8> {
        loop {
            match self.next().await.expect("data") {
                Frame::Data(payload) => return payload,
                Frame::Ping(_) => {}
                other => panic!("no data: {other:?}"),
            }
        }
    }

    /// Expects a close frame, and after it the end of the connection.
    pub async fn closed(&mut self) -> (u16, String) {
        let close = loop {
            match self.next().await.expect("a close frame") {
                Frame::Close(code, reason) => break (code, reason),
                Frame::Ping(_) => {}
                other => panic!("no close frame: {other:?}"),
            }
        };
        self.send(Opcode::Close, &close.0.to_be_bytes()).await;
        assert_eq!(self.next().await, None, "something after the close frame");
        close
    }
}

/// A masked frame, as clients send them.
pub fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let header = ws::Header { fin: true, rsv: 0, opcode, mask: Some(mask), len: payload.len() as u64 };
    let mut bytes = [0; ws::HEADER_MAX];
    let len = header.encode(&mut bytes);
    let mut frame = bytes[..len].to_vec();
    frame.extend_from_slice(payload);
    ws::apply_mask(mask, 0, &mut frame[len..]);
    frame
}

/// An unmasked frame, as servers send them.
pub fn unmasked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ws::encode_server(opcode, &[payload], &mut bytes);
    bytes
}

async fn read_frame(socket: &mut Socket) -> Option<Frame> {
    let mut bytes = Vec::new();
    let (header, _) = loop {
        if let Some(found) = ws::Header::decode(&bytes).expect("a frame header") {
            break found;
        }
        match socket.read_u8().await {
            Ok(byte) => bytes.push(byte),
            Err(_) if bytes.is_empty() => return None,
            Err(error) => panic!("ended inside a frame: {error}"),
        }
    };
    assert!(header.mask.is_none(), "a server masked");
    let mut payload = vec![0; header.len as usize];
    socket.read_exact(&mut payload).await.expect("a whole frame");
    Some(match header.opcode {
        Opcode::Continuation | Opcode::Text | Opcode::Binary => Frame::Data(payload),
        Opcode::Ping => Frame::Ping(payload),
        Opcode::Pong => Frame::Pong(payload),
        Opcode::Close => {
            let (code, reason) = ws::decode_close(&payload).unwrap().expect("a close code");
            Frame::Close(code, reason.to_owned())
        }
    })
}
