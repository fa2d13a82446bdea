//! What a viewer of a process sees: the subprotocol `landfast.process.v1`, with its rules held to the letter.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::plain::{Event, PlainClient};

/// The subprotocol's name.
pub const SUBPROTOCOL: &str = "landfast.process.v1";

/// How long something may take that is made of many messages.
const WHOLE: Duration = Duration::from_secs(60);

/// One thing a process says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Output, or what a terminal shows.
    Out(Vec<u8>),
    /// Standard error.
    Err(Vec<u8>),
    /// It has exited: 128 and the signal's number for a signal.
    Exit(i32),
    /// What came before is replay; the log's offset here.
    Live(u64),
    /// Bytes of the log that were evicted before this viewer came.
    Gap(u64, u64),
    /// The log's offset, said now and then.
    Offset(u64),
    /// The session's end.
    Close(u16, String),
}

/// A viewer.
#[derive(Debug)]
pub struct Attached {
    /// The connection beneath.
    pub socket: PlainClient,
    /// All output so far, both streams in the order they came.
    pub output: Vec<u8>,
    /// The offset at which replay ended.
    pub live: Option<u64>,
    /// What was evicted.
    pub gaps: Vec<(u64, u64)>,
    /// The exit.
    pub exit: Option<i32>,
}

impl Attached {
    /// A viewer over a fresh connection.
    pub const fn new(socket: PlainClient) -> Self {
        Self { socket, output: Vec::new(), live: None, gaps: Vec::new(), exit: None }
    }

    // --- saying ---

    /// Types text.
    pub async fn types(&mut self, text: &str) {
        self.sends(text.as_bytes()).await;
    }

    /// Sends input.
    pub async fn sends(&mut self, input: &[u8]) {
        self.socket.send_binary(&[&[0], input]).await;
    }

    /// Gives the terminal another size.
    pub async fn resizes(&mut self, rows: u16, cols: u16) {
        self.controls(&json!({"resize": {"rows": rows, "cols": cols}})).await;
    }

    /// Sends a signal.
    pub async fn signals(&mut self, name: &str) {
        self.controls(&json!({"signal": name})).await;
    }

    /// Ends the input.
    pub async fn ends_input(&mut self) {
        self.controls(&json!({"eof": true})).await;
    }

    async fn controls(&mut self, control: &Value) {
        self.socket.send_text(&control.to_string()).await;
    }

    // --- hearing ---

    /// The next thing said.
    ///
    /// # Panics
    ///
    /// The protocol is broken: a second exit or end of replay, an unknown channel, an end without a close frame.
    pub async fn next(&mut self) -> Said {
        loop {
            let event = self.socket.next().await;
            if let Some(said) = self.handle(event) {
                return said;
            }
        }
    }

    /// Reads an event by the rules of the protocol; `None` for what says nothing.
    ///
    /// # Panics
    ///
    /// As [`Self::next`].
    pub fn handle(&mut self, event: Event) -> Option<Said> {
        let said = match event {
            Event::Ping | Event::Pong(_) => return None,
            Event::Text(text) => {
                let control: Value = serde_json::from_str(&text).expect("control is JSON");
                Said::Offset(control["offset"].as_u64().unwrap_or_else(|| panic!("unknown control {text}")))
            }
            Event::Binary(bytes) => parse(&bytes)?,
            Event::Close(code, reason) => Said::Close(code, reason),
            Event::Ended(how) => panic!("the connection ended without a close frame: {how:?}"),
        };
        self.note(&said);
        Some(said)
    }

    /// Reads on to the first thing said that is `wanted`.
    ///
    /// # Panics
    ///
    /// The session ends before it.
    pub async fn next_of(&mut self, wanted: impl Fn(&Said) -> bool) -> Said {
        loop {
            let said = self.next().await;
            if wanted(&said) {
                return said;
            }
            assert!(!matches!(said, Said::Close(..)), "ended before it: {said:?}");
        }
    }

    /// Reads on until what was said contains `text`.
    ///
    /// # Panics
    ///
    /// The process ends without saying it, or says nothing more.
    pub async fn shows(&mut self, text: &str) {
        self.shows_after(0, text).await;
    }

    /// Reads on until what was said after its first `skip` bytes contains `text`.
    ///
    /// # Panics
    ///
    /// As [`Self::shows`].
    pub async fn shows_after(&mut self, skip: usize, text: &str) {
        let (mut searched, mut closed) = (skip, None);
        let shown = timeout(WHOLE, async {
            while !contains(&self.output[searched..], text.as_bytes()) && closed.is_none() {
                searched = searched.max(self.output.len().saturating_sub(text.len()));
                if let Said::Close(code, reason) = self.next().await {
                    closed = Some((code, reason));
                }
            }
        });
        if shown.await.is_err() || closed.is_some() {
            let heard = String::from_utf8_lossy(&self.output[self.output.len().saturating_sub(2_000)..]);
            panic!("never shown: {text:?}; closed: {closed:?}; last heard: {heard:?}");
        }
    }

    /// Reads on until so many bytes were said.
    ///
    /// # Panics
    ///
    /// The session ends before.
    pub async fn reads(&mut self, len: usize) {
        let reading = timeout(WHOLE, async {
            while self.output.len() < len {
                self.next_output().await;
            }
        });
        reading.await.unwrap_or_else(|_| panic!("{} bytes were said instead of {len}", self.output.len()));
    }

    /// The next output.
    ///
    /// # Panics
    ///
    /// The session ends before.
    pub async fn next_output(&mut self) -> Vec<u8> {
        loop {
            match self.next().await {
                Said::Out(bytes) | Said::Err(bytes) => return bytes,
                Said::Close(code, reason) => panic!("closed {code} {reason} before more was said"),
                Said::Exit(_) | Said::Live(_) | Said::Gap(..) | Said::Offset(_) => {}
            }
        }
    }

    /// Reads on to the end of replay and returns its offset.
    pub async fn goes_live(&mut self) -> u64 {
        loop {
            if let Some(offset) = self.live {
                return offset;
            }
            self.next().await;
        }
    }

    /// Reads on to the exit, which has this code and is followed by close 1000 `process.exited`.
    ///
    /// # Panics
    ///
    /// It ends in another way.
    pub async fn exits(&mut self, code: i32) {
        let exiting = timeout(WHOLE, async {
            while self.exit.is_none() {
                if let Said::Close(close, reason) = self.next().await {
                    panic!("closed {close} {reason} without an exit");
                }
            }
        });
        exiting.await.expect("it does not exit");
        assert_eq!(self.exit, Some(code));
        self.socket.expect_close(1000, "process.exited").await;
    }

    /// What was said so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    fn note(&mut self, said: &Said) {
        assert!(self.exit.is_none() || matches!(said, Said::Close(..)), "said after the exit: {said:?}");
        match said {
            Said::Out(bytes) | Said::Err(bytes) => self.output.extend_from_slice(bytes),
            Said::Exit(code) => self.exit = Some(*code),
            Said::Live(offset) => assert_eq!(self.live.replace(*offset), None, "replay ended twice"),
            Said::Gap(from, to) => {
                assert!(from < to, "a gap of nothing: {from} to {to}");
                self.gaps.push((*from, *to));
            }
            Said::Offset(_) | Said::Close(..) => {}
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Said> {
    let (channel, payload) = bytes.split_first()?;
    let number = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
    Some(match (channel, payload.len()) {
        (1, _) => Said::Out(payload.to_vec()),
        (2, _) => Said::Err(payload.to_vec()),
        (3, 4) => Said::Exit(i32::from_be_bytes(payload.try_into().expect("four bytes"))),
        (4, 8) => Said::Live(number(0)),
        (5, 16) => Said::Gap(number(0), number(8)),
        _ => panic!("a frame that is none of ours: channel {channel}, {} bytes", payload.len()),
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|bytes| bytes == needle)
}
