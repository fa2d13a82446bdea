//! A client that knows nothing of Landfast: a WebSocket to an address, and whatever happens to it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes};
use landfast_client::frames::{Decoder, Message, encode};
use landfast_core::ws::Opcode;
use landfast_core::{InstanceId, ProcessId};
use landfast_net::head::{HEAD_MAX, Headers, RequestHead, read_response, write_all};
use landfast_net::socket::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::demo::talker::Heard;

/// How long the gateway may take to answer: it parks an upgrade for up to 30 s.
const OPENING: Duration = Duration::from_secs(40);

/// The half that hears.
#[derive(Debug)]
pub(crate) struct Ear {
    reader: ReadHalf<Socket>,
    decoder: Decoder,
    pongs: mpsc::Sender<Bytes>,
}

/// The half that says.
#[derive(Debug)]
pub(crate) struct Mouth {
    writer: WriteHalf<Socket>,
    pings: mpsc::Receiver<Bytes>,
}

/// Opens a WebSocket to a process, as a browser would.
///
/// # Errors
///
/// What was answered instead, as a sentence.
pub(crate) async fn open(
    gateway: SocketAddr,
    instance: InstanceId,
    process: ProcessId,
    token: &str,
) -> Result<(Ear, Mouth), String> {
    let mut headers = Headers::new();
    headers.push("Host", gateway.to_string());
    headers.push("Connection", "Upgrade");
    headers.push("Upgrade", "websocket");
    headers.push("Sec-WebSocket-Version", "13");
    headers.push("Sec-WebSocket-Key", "bGFuZGZhc3QgZGVtby4uLg==");
    headers.push("Sec-WebSocket-Protocol", format!("landfast.process.v1, landfast.token.{token}"));
    let target = format!("/i/{instance}/processes/{process}/attach?from=start");
    let head = RequestHead { method: "GET".into(), target, headers };
    let opened = async {
        let stream = TcpStream::connect(gateway).await.map_err(|error| error.to_string())?;
        let mut socket = Socket::tcp(stream);
        write_all(&mut socket, &head.encode()).await.map_err(|error| error.to_string())?;
        let answer = read_response(&mut socket, HEAD_MAX).await.map_err(|error| error.to_string())?;
        if answer.status == 101 { Ok(socket) } else { Err(format!("the upgrade was answered with {}", answer.status)) }
    };
    let socket = timeout(OPENING, opened).await.unwrap_or_else(|_| Err("the upgrade was not answered".to_owned()))?;
    let (reader, writer) = tokio::io::split(socket);
    let (pongs, pings) = mpsc::channel(1);
    Ok((Ear { reader, decoder: Decoder::default(), pongs }, Mouth { writer, pings }))
}

impl Ear {
    /// The next thing heard; the end of the socket is one, too.
    pub(crate) async fn next(&mut self) -> Heard {
        let mut piece = vec![0; 64 * 1024];
        loop {
            match self.decoder.next() {
                Ok(Some(Message::Binary(bytes))) => {
                    if let Some(heard) = channel(bytes) {
                        return heard;
                    }
                }
                // One pong that waits answers every ping before it.
                Ok(Some(Message::Ping(payload))) => drop(self.pongs.try_send(payload.into())),
                Ok(Some(Message::Text(_))) => {}
                Ok(Some(Message::Close(close))) => return Heard::Closed(close),
                Ok(None) => match self.reader.read(&mut piece).await {
                    Ok(0) => return Heard::Lost("the socket was ended without a close frame".to_owned()),
                    Ok(n) => self.decoder.push(&piece[..n]),
                    Err(error) => return Heard::Lost(format!("the socket failed: {error}")),
                },
                Err(broken) => return Heard::Lost(format!("the socket carried {broken}")),
            }
        }
    }
}

impl Mouth {
    /// Says input.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub(crate) async fn say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.frame(Opcode::Binary, &[&[0], bytes]).await
    }

    /// Says that no input follows.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub(crate) async fn end(&mut self) -> std::io::Result<()> {
        self.frame(Opcode::Text, &[br#"{"eof":true}"#]).await
    }

    /// Answers the next ping, when one comes. Cancel safe until it has come.
    pub(crate) async fn ping(&mut self) -> Option<Bytes> {
        self.pings.recv().await
    }

    /// Answers a ping.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub(crate) async fn pong(&mut self, payload: &[u8]) -> std::io::Result<()> {
        self.frame(Opcode::Pong, &[payload]).await
    }

    async fn frame(&mut self, opcode: Opcode, parts: &[&[u8]]) -> std::io::Result<()> {
        let mut frame = Vec::new();
        encode(opcode, parts, rand::random(), &mut frame);
        self.writer.write_all(&frame).await
    }
}

fn channel(mut bytes: Bytes) -> Option<Heard> {
    let channel = bytes.first().copied()?;
    bytes.advance(1);
    match channel {
        1 => Some(Heard::Output(bytes)),
        2 => Some(Heard::Note(bytes)),
        3 => Some(Heard::Exit(bytes.as_ref().try_into().map_or(-1, i32::from_be_bytes))),
        5 => Some(Heard::Lost("output was evicted".to_owned())),
        _ => None,
    }
}
