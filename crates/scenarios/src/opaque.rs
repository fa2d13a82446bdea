//! A WebSocket of frames that nobody between its ends may read, checked byte for byte against what an echo must say.

use std::collections::VecDeque;

use landfast_core::ws::{CONTROL_MAX, HEADER_MAX, Header, Opcode, apply_mask};
use rand::{Rng, RngExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http;
use crate::plain::{KEY, PATIENCE};
use crate::served::Served;

/// What a gateway's own pings begin with.
const OURS: &[u8] = b"landfast";

/// The extension that is agreed on end to end: frames may then carry its reserved bit.
const DEFLATE: &str = "permessage-deflate";

/// The bit of a compressed message (RFC 7692), among the three.
const COMPRESSED: u8 = 4;

/// A client whose frames are echoed.
#[derive(Debug)]
pub struct Opaque {
    socket: TcpStream,
    heard: Vec<u8>,
}

/// What is sent, and what must come back.
#[derive(Debug, Default)]
pub struct Said {
    out: Vec<u8>,
    expected: VecDeque<u8>,
}

impl Opaque {
    /// Opens one to a service, with compression agreed on.
    ///
    /// # Panics
    ///
    /// It is refused, or the other end agreed to something else.
    pub async fn open(served: &Served) -> Self {
        let lines = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\
             Sec-WebSocket-Extensions: {DEFLATE}; client_max_window_bits\r\n",
            KEY.0
        );
        let request = served.request_with("GET", "/opaque", &lines);
        let socket = http::connect(served.instance.operator.address, None).await;
        http::write(&socket, &request).await;
        let (answer, heard) = http::read_head(&socket).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        assert_eq!(answer.header("sec-websocket-extensions"), Some(DEFLATE), "{answer:?}");
        Self { socket, heard }
    }

    /// Sends all that is said and hears exactly its echo, while `meanwhile` goes on.
    ///
    /// # Panics
    ///
    /// Something else is heard, or the connection ends.
    pub async fn converses(&mut self, said: Said, meanwhile: impl Future<Output = ()>) {
        let Said { out, mut expected } = said;
        let (mut reader, mut writer) = self.socket.split();
        let heard = &mut self.heard;
        let saying = async {
            timeout(PATIENCE, writer.write_all(&out)).await.expect("nothing takes it").expect("it is open");
        };
        let hearing = async {
            loop {
                check(heard, &mut expected);
                if expected.is_empty() {
                    return;
                }
                let read = timeout(PATIENCE, reader.read_buf(heard)).await.expect("nothing more is heard");
                assert!(read.expect("it is open") > 0, "ended with {} bytes to come", expected.len());
            }
        };
        tokio::join!(saying, hearing, meanwhile);
    }
}

/// Takes whole frames of what was heard and holds them against what must come.
fn check(heard: &mut Vec<u8>, expected: &mut VecDeque<u8>) {
    while let Some((header, at)) = Header::decode(heard).expect("frames that can be read") {
        let end = at + header.len as usize;
        if heard.len() < end {
            return;
        }
        let frame: Vec<u8> = heard.drain(..end).collect();
        // The gateway's own stand between frames, and are its client's affair.
        if header.opcode == Opcode::Ping && frame[at..].starts_with(OURS) {
            continue;
        }
        let wanted: Vec<u8> = expected.drain(..end.min(expected.len())).collect();
        assert!(frame == wanted, "{header:?} came with {} bytes to come after it", expected.len());
    }
}

impl Said {
    /// Says a frame; an echo says the same without the mask, to a ping with a pong.
    pub fn frame(&mut self, random: &mut impl Rng, header: Header, payload: &[u8]) {
        let mut bytes = [0; HEADER_MAX];
        let mask: [u8; 4] = random.random();
        let header = Header { mask: Some(mask), len: payload.len() as u64, ..header };
        let len = header.encode(&mut bytes);
        self.out.extend_from_slice(&bytes[..len]);
        let from = self.out.len();
        self.out.extend_from_slice(payload);
        apply_mask(mask, 0, &mut self.out[from..]);
        let opcode = if header.opcode == Opcode::Ping { Opcode::Pong } else { header.opcode };
        let len = Header { mask: None, opcode, ..header }.encode(&mut bytes);
        self.expected.extend(&bytes[..len]);
        self.expected.extend(payload);
    }

    /// Says a message of random bytes in one frame, compressed or not.
    pub fn message(&mut self, random: &mut impl Rng, opcode: Opcode, len: usize) {
        let rsv = if random.random() { COMPRESSED } else { 0 };
        let payload = bytes(random, len);
        self.frame(random, Header { fin: true, rsv, opcode, mask: None, len: 0 }, &payload);
    }

    /// Says a message in pieces, with the client's own pings and pongs between them.
    pub fn fragments(&mut self, random: &mut impl Rng, pieces: usize) {
        for piece in 0..pieces {
            let opcode = if piece == 0 { Opcode::Text } else { Opcode::Continuation };
            let rsv = if piece == 0 { COMPRESSED } else { 0 };
            let len = random.random_range(0..3_000);
            let payload = bytes(random, len);
            self.frame(random, Header { fin: piece + 1 == pieces, rsv, opcode, mask: None, len: 0 }, &payload);
            let opcode = if random.random() { Opcode::Ping } else { Opcode::Pong };
            let len = random.random_range(0..=CONTROL_MAX);
            let payload = bytes(random, len);
            self.frame(random, Header { fin: true, rsv: 0, opcode, mask: None, len: 0 }, &payload);
        }
    }
}

fn bytes(random: &mut impl Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    random.fill(&mut bytes[..]);
    bytes
}
