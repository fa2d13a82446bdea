//! A client of `landfast.process.v1` over any stream, with the protocol's rules held to the letter.

use landfast_core::ws::{HEADER_MAX, Header, Opcode, apply_mask, decode_close};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

use crate::harness::PATIENCE;

/// One thing an agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Out(Vec<u8>),
    Err(Vec<u8>),
    Exit(i32),
    Live(u64),
    Gap(u64, u64),
    Offset(u64),
    Mark(u64),
    Pong(Vec<u8>),
    Close(u16, String),
}

/// A viewer.
pub(crate) struct Viewer<S> {
    stream: S,
    received: Vec<u8>,
    /// All output so far, both streams in the order they came.
    pub(crate) output: Vec<u8>,
    pub(crate) errors: Vec<u8>,
    pub(crate) live: Option<u64>,
    pub(crate) gaps: Vec<(u64, u64)>,
    pub(crate) exit: Option<i32>,
    /// The frames' sizes, largest last.
    pub(crate) largest_frame: usize,
}

impl<S> Viewer<S> {
    pub(crate) const fn new(stream: S) -> Self {
        Self {
            stream,
            received: Vec::new(),
            output: Vec::new(),
            errors: Vec::new(),
            live: None,
            gaps: Vec::new(),
            exit: None,
            largest_frame: 0,
        }
    }

    pub(crate) const fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    pub(crate) fn text(&self) -> String {
        let tail = &self.output[self.output.len().saturating_sub(2000)..];
        String::from_utf8_lossy(tail).into_owned()
    }
}

impl<S: AsyncRead + AsyncWrite> Viewer<S> {
    /// Two viewers over one stream: one that says, one that hears.
    pub(crate) fn split(self) -> (Viewer<WriteHalf<S>>, Viewer<ReadHalf<S>>) {
        let (hearing, saying) = tokio::io::split(self.stream);
        (Viewer::new(saying), Viewer { received: self.received, ..Viewer::new(hearing) })
    }
}

impl<S: AsyncWrite + Unpin> Viewer<S> {
    pub(crate) async fn types(&mut self, text: impl AsRef<[u8]>) {
        self.sends(&frame(true, Opcode::Binary, &[&[0], text.as_ref()].concat())).await;
    }

    pub(crate) async fn controls(&mut self, control: &str) {
        self.sends(&frame(true, Opcode::Text, control.as_bytes())).await;
    }

    /// Sends bytes as they are.
    pub(crate) async fn sends(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("it is read").unwrap();
    }
}

impl<S: AsyncRead + Unpin> Viewer<S> {
    /// The next thing said, by the rules: no mask, no fragments, the end of replay and the exit once, nothing after the
    /// close.
    pub(crate) async fn next(&mut self) -> Said {
        loop {
            let heard = timeout(PATIENCE, self.frame()).await;
            let (opcode, payload) = heard.unwrap_or_else(|_| panic!("nothing more is said after {:?}", self.text()));
            if let Some(said) = self.read(opcode, payload) {
                return said;
            }
        }
    }

    async fn frame(&mut self) -> (Opcode, Vec<u8>) {
        loop {
            if let Some((header, len)) = Header::decode(&self.received).unwrap() {
                let end = len + header.len as usize;
                if self.received.len() >= end {
                    assert!(header.fin && header.mask.is_none() && header.rsv == 0, "{header:?}");
                    let payload = self.received[len..end].to_vec();
                    self.received.drain(..end);
                    return (header.opcode, payload);
                }
            }
            let read = self.stream.read_buf(&mut self.received).await.unwrap();
            assert!(read > 0, "the connection ended without a close frame; heard {:?}", self.text());
        }
    }

    fn read(&mut self, opcode: Opcode, payload: Vec<u8>) -> Option<Said> {
        self.largest_frame = self.largest_frame.max(payload.len());
        let number = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().unwrap());
        let said = match (opcode, payload.first()) {
            (Opcode::Ping, _) => return None,
            (Opcode::Pong, _) => Said::Pong(payload),
            (Opcode::Close, _) => {
                let (code, reason) = decode_close(&payload).unwrap().expect("a close says why");
                Said::Close(code, reason.to_owned())
            }
            (Opcode::Text, _) => {
                let control: Value = serde_json::from_slice(&payload).unwrap();
                let mark = control["mark"].as_u64().map(Said::Mark);
                mark.unwrap_or_else(|| Said::Offset(control["offset"].as_u64().unwrap()))
            }
            (Opcode::Binary, Some(1)) => Said::Out(payload[1..].to_vec()),
            (Opcode::Binary, Some(2)) => Said::Err(payload[1..].to_vec()),
            (Opcode::Binary, Some(3)) => Said::Exit(i32::from_be_bytes(payload[1..].try_into().unwrap())),
            (Opcode::Binary, Some(4)) => Said::Live(number(1)),
            (Opcode::Binary, Some(5)) => Said::Gap(number(1), number(9)),
            other => panic!("unknown: {other:?}"),
        };
        match &said {
            Said::Out(bytes) => {
                assert!(self.exit.is_none(), "output after the exit");
                self.output.extend_from_slice(bytes);
            }
            Said::Err(bytes) => {
                assert!(self.exit.is_none(), "output after the exit");
                self.output.extend_from_slice(bytes);
                self.errors.extend_from_slice(bytes);
            }
            Said::Exit(status) => assert_eq!(self.exit.replace(*status), None, "a second exit"),
            Said::Live(offset) => assert_eq!(self.live.replace(*offset), None, "a second end of replay"),
            Said::Gap(from, to) => self.gaps.push((*from, *to)),
            Said::Offset(_) | Said::Mark(_) | Said::Pong(_) | Said::Close(..) => {}
        }
        Some(said)
    }

    /// Reads on until the output contains `text`.
    pub(crate) async fn shows(&mut self, text: &str) {
        self.shows_after(0, text).await;
    }

    /// Reads on until the output after its first `skip` bytes contains `text`.
    pub(crate) async fn shows_after(&mut self, skip: usize, text: &str) {
        // Only what is new is searched, with a seam for a text that came in two pieces.
        let mut searched = skip;
        loop {
            let from = searched.saturating_sub(text.len()).max(skip);
            if self.output[from..].windows(text.len()).any(|window| window == text.as_bytes()) {
                return;
            }
            searched = self.output.len();
            if let Said::Close(code, reason) = self.next().await {
                panic!("closed {code} {reason} before {text:?}; heard {:?}", self.text());
            }
        }
    }

    /// Reads on to the next pong.
    pub(crate) async fn next_pong(&mut self) -> Vec<u8> {
        loop {
            match self.next().await {
                Said::Pong(payload) => return payload,
                Said::Close(code, reason) => panic!("closed {code} {reason} without a pong"),
                _ => {}
            }
        }
    }

    /// Reads on to the next mark.
    pub(crate) async fn next_mark(&mut self) -> u64 {
        loop {
            match self.next().await {
                Said::Mark(mark) => return mark,
                Said::Close(code, reason) => panic!("closed {code} {reason} without a mark"),
                _ => {}
            }
        }
    }

    /// Reads on until so many bytes of output came.
    pub(crate) async fn reads(&mut self, len: usize) {
        while self.output.len() < len {
            if let Said::Close(code, reason) = self.next().await {
                panic!("closed {code} {reason} after {} of {len} bytes", self.output.len());
            }
        }
    }

    /// Reads on until the log has come to an offset, told or counted.
    pub(crate) async fn shows_end(&mut self, offset: u64) {
        let mut at = self.goes_live().await;
        while at < offset {
            match self.next().await {
                Said::Out(bytes) | Said::Err(bytes) => at += bytes.len() as u64,
                Said::Gap(_, to) => at = to,
                Said::Close(code, reason) => panic!("closed {code} {reason} at {at}"),
                _ => {}
            }
        }
    }

    /// Reads on to the end of replay.
    pub(crate) async fn goes_live(&mut self) -> u64 {
        while self.live.is_none() {
            self.next().await;
        }
        self.live.unwrap()
    }

    /// Reads on to the close.
    pub(crate) async fn closes(&mut self) -> (u16, String) {
        loop {
            if let Said::Close(code, reason) = self.next().await {
                return (code, reason);
            }
        }
    }

    /// Reads on to the exit, which has this status and is followed by close 1000 and the connection's end.
    pub(crate) async fn exits(&mut self, status: i32) {
        while self.exit.is_none() {
            if let Said::Close(code, reason) = self.next().await {
                panic!("closed {code} {reason} without an exit; heard {:?}", self.text());
            }
        }
        assert_eq!(self.exit, Some(status), "heard {:?}", self.text());
        assert_eq!(self.next().await, Said::Close(1000, "process.exited".to_owned()));
        assert!(self.live.is_some(), "no end of replay");
        self.hears_nothing_more().await;
    }

    pub(crate) async fn hears_nothing_more(&mut self) {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await.expect("it ends");
        assert_eq!(read.unwrap(), 0, "something after the close");
    }
}

/// A client's frame.
pub(crate) fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mask = rand::random();
    let mut header = [0; HEADER_MAX];
    let len = Header { fin, rsv: 0, opcode, mask: Some(mask), len: payload.len() as u64 }.encode(&mut header);
    let mut bytes = [&header[..len], payload].concat();
    apply_mask(mask, 0, &mut bytes[len..]);
    bytes
}
