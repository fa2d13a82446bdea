//! HTTP/2 frame by frame, also wrongly: what a client would send that no library lets send.
//!
//! Header blocks are literals that no table keeps (RFC 7541, section 6.2.2), so that every byte is the test's own.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http;
use crate::plain::PATIENCE;

/// What a client says first (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Carries a body. This and what follows are the types of frames (RFC 9113, section 6).
pub const DATA: u8 = 0;
/// Begins a request.
pub const HEADERS: u8 = 1;
/// Says how important a stream is.
pub const PRIORITY: u8 = 2;
/// Ends a stream.
pub const RST_STREAM: u8 = 3;
/// Says what an end expects.
pub const SETTINGS: u8 = 4;
/// What only a server sends.
pub const PUSH_PROMISE: u8 = 5;
/// Asks for a sign of life.
pub const PING: u8 = 6;
/// Ends a connection.
pub const GOAWAY: u8 = 7;
/// Lets the other end send more.
pub const WINDOW_UPDATE: u8 = 8;
/// Goes on with a header block.
pub const CONTINUATION: u8 = 9;

/// On DATA and HEADERS: nothing follows on this stream.
pub const END_STREAM: u8 = 0x1;
/// On SETTINGS and PING: an answer to one.
pub const ACK: u8 = 0x1;
/// On HEADERS and CONTINUATION: the header block is whole.
pub const END_HEADERS: u8 = 0x4;
/// On DATA and HEADERS: padding follows.
pub const PADDED: u8 = 0x8;

/// Nothing is wrong. This and what follows are the codes of errors (RFC 9113, section 7).
pub const NO_ERROR: u32 = 0x0;
/// Something that the protocol forbids.
pub const PROTOCOL_ERROR: u32 = 0x1;
/// More was sent than was allowed.
pub const FLOW_CONTROL_ERROR: u32 = 0x3;
/// A frame on a stream that has ended.
pub const STREAM_CLOSED: u32 = 0x5;
/// A frame of a wrong length.
pub const FRAME_SIZE_ERROR: u32 = 0x6;
/// A header block that cannot be decoded.
pub const COMPRESSION_ERROR: u32 = 0x9;
/// Too much of something.
pub const ENHANCE_YOUR_CALM: u32 = 0xb;

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// How a server took what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The connection is over, with this code.
    GoAway(u32),
    /// The stream is over, with this code.
    Reset(u32),
    /// The stream was answered.
    Answered,
    /// The connection ended without a word.
    Ended,
}

/// A connection on which frames are written by hand.
#[derive(Debug)]
pub struct RawHttp2 {
    socket: TcpStream,
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of these lines.
pub fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in lines {
        bytes.push(0);
        text(&mut bytes, name);
        text(&mut bytes, value);
    }
    bytes
}

/// A text that is not compressed, behind its length (RFC 7541, section 5).
fn text(bytes: &mut Vec<u8>, text: &str) {
    const PREFIX_MAX: usize = 127;
    match text.len().checked_sub(PREFIX_MAX) {
        None => bytes.push(text.len() as u8),
        Some(mut rest) => {
            bytes.push(PREFIX_MAX as u8);
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend_from_slice(text.as_bytes());
}

impl RawHttp2 {
    /// Connects and says nothing.
    pub async fn silent(address: SocketAddr) -> Self {
        Self { socket: http::connect(address, None).await }
    }

    /// Connects and says the preface and empty settings.
    pub async fn open(address: SocketAddr) -> Self {
        let mut opened = Self::silent(address).await;
        opened.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        opened
    }

    /// Sends bytes as they are. A server that has hung up meanwhile is found by whoever reads.
    ///
    /// # Panics
    ///
    /// The server neither takes them nor hangs up.
    pub async fn send(&mut self, bytes: &[u8]) {
        // Refused once the server has hung up.
        let _ = timeout(PATIENCE, self.socket.write_all(bytes)).await.expect("nothing takes the frames");
    }

    /// Sends `bytes` again and again, and reads nothing. Returns how many bytes were taken when the server hung up, took
    /// no more for as long as `patience`, or `most` had been sent.
    pub async fn pour(&mut self, bytes: &[u8], most: usize, patience: Duration) -> usize {
        let mut taken = 0;
        while taken < most {
            match timeout(patience, self.socket.write(&bytes[taken % bytes.len()..])).await {
                Ok(Ok(n)) if n > 0 => taken += n,
                _ => break,
            }
        }
        taken
    }

    /// The next frame; none once the connection has ended.
    ///
    /// # Panics
    ///
    /// Neither came in time.
    pub async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.socket.read_exact(&mut head).await.ok()?;
            let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
            let mut payload = vec![0; number(&head[..3]) as usize];
            self.socket.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind: head[3], flags: head[4], stream: number(&head[5..]), payload })
        };
        timeout(PATIENCE, read).await.expect("neither a frame nor an end")
    }

    /// Reads until the server has judged `stream`, or the connection. An end that it announces has to come.
    ///
    /// # Panics
    ///
    /// It did neither in time.
    pub async fn verdict(&mut self, stream: u32) -> Verdict {
        while let Some(frame) = self.next().await {
            let code = |from: usize| u32::from_be_bytes(frame.payload[from..from + 4].try_into().expect("four bytes"));
            match frame.kind {
                GOAWAY if code(4) != NO_ERROR => {
                    let code = code(4);
                    while self.next().await.is_some() {}
                    return Verdict::GoAway(code);
                }
                RST_STREAM if frame.stream == stream => return Verdict::Reset(code(0)),
                HEADERS if frame.stream == stream => return Verdict::Answered,
                _ => {}
            }
        }
        Verdict::Ended
    }

    /// Everything that is said until the connection ends, as it comes.
    ///
    /// # Panics
    ///
    /// It does not end in time.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        // A reset is an end like any other here.
        let _ = timeout(PATIENCE, self.socket.read_to_end(&mut heard)).await.expect("the connection does not end");
        heard
    }
}
