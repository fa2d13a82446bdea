//! Numbered bytes both ways over one session: the judge of "nothing lost, nothing doubled".

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::attached::{Attached, Said};
use crate::instance::{Instance, Process};
use crate::numbers::{Checker, Numbers};

/// How much is said in one message: not a multiple of anything, so that cuts fall everywhere in frames and records.
const PIECE: u64 = 3_001;

/// What the client may have queued: it is a paced client, not a flood.
const QUEUED_MAX: usize = 256 * 1024;

/// How a conversation goes.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    /// Says which bytes; printed with every failure.
    pub seed: u64,
    /// How many bytes go each way.
    pub bytes: u64,
    /// How long it shall take at least: both sides pace themselves.
    pub over: Duration,
    /// Whether on a terminal.
    pub terminal: bool,
}

/// A session over which numbered bytes go both ways.
#[derive(Debug)]
pub struct Conversation {
    talk: Talk,
    /// The process at the other end.
    pub process: Process,
    viewer: Attached,
    checker: Checker,
    said: u64,
    started: Instant,
    tail: Vec<u8>,
}

impl Conversation {
    /// Starts the program at the other end and attaches to it.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start(instance: &Instance, talk: Talk) -> Self {
        let program = instance.brings("landfast-numbers");
        let rate = (talk.bytes as f64 / talk.over.as_secs_f64().max(0.001)) as u64;
        let mut wish = json!({"argv": [program, talk.seed.to_string(), talk.bytes.to_string(), rate.to_string()]});
        if talk.terminal {
            wish["tty"] = json!({"rows": 24, "cols": 80});
        }
        let process = instance.process(&wish).await;
        let mut viewer = process.attach("start").await;
        viewer.shows("ready\n").await;
        let head = viewer.output.windows(6).position(|bytes| bytes == b"ready\n").expect("it was shown");
        let mut conversation = Self {
            talk,
            process,
            checker: Checker::new(Numbers::new(talk.seed)),
            said: 0,
            started: Instant::now(),
            tail: Vec::new(),
            viewer,
        };
        let begun = conversation.viewer.output.split_off(head + 6);
        conversation.viewer.output.clear();
        conversation.hears(&begun);
        conversation
    }

    /// Says and hears everything, to the exit.
    ///
    /// # Panics
    ///
    /// A byte is lost, doubled or foreign in either direction, or the session ends in another way than by the exit. The
    /// message has the seed.
    pub async fn ends_well(mut self) {
        while self.viewer.exit.is_none() {
            self.step().await;
        }
        let verdict = String::from_utf8_lossy(&self.tail).into_owned();
        let seed = self.talk.seed;
        if let Err(wrong) = self.checker.finish(self.talk.bytes) {
            panic!("seed {seed}: output: {wrong}");
        }
        assert_eq!((verdict.as_str(), self.viewer.exit), ("\ninput: all is right\n", Some(0)), "seed {seed}");
        self.viewer.socket.expect_close(1000, "process.exited").await;
    }

    /// Until something happens: bytes are due to be said, were said, or were heard.
    async fn step(&mut self) {
        let due = self.due();
        if self.said < due.min(self.talk.bytes) && self.viewer.socket.queued() < QUEUED_MAX {
            let piece = PIECE.min(self.talk.bytes - self.said);
            let bytes = Numbers::new(self.talk.seed + 1).slice(self.said, piece as usize);
            self.viewer.socket.queue_binary(&[&[0], &bytes]);
            self.said += piece;
        }
        let next = self.when(self.said + PIECE);
        let more_to_say = self.said < self.talk.bytes;
        let event = tokio::select! {
            event = self.viewer.socket.turn() => event,
            () = sleep_until(next), if more_to_say && self.viewer.socket.queued() < QUEUED_MAX => return,
            () = tokio::time::sleep(self.talk.over + crate::plain::PATIENCE) => {
                panic!("seed {}: nothing more after {} bytes", self.talk.seed, self.checker.right());
            }
        };
        match event.and_then(|event| self.viewer.handle(event)) {
            Some(Said::Out(bytes) | Said::Err(bytes)) => {
                self.viewer.output.clear();
                self.hears(&bytes);
            }
            Some(Said::Close(code, reason)) => panic!("seed {}: closed {code} {reason}", self.talk.seed),
            Some(Said::Gap(from, to)) => panic!("seed {}: a gap from {from} to {to}", self.talk.seed),
            Some(Said::Exit(_) | Said::Live(_) | Said::Offset(_)) | None => {}
        }
    }

    fn hears(&mut self, bytes: &[u8]) {
        let left = (self.talk.bytes - self.checker.right()).min(bytes.len() as u64) as usize;
        if let Err(wrong) = self.checker.take(&bytes[..left]) {
            panic!("seed {}: output: {wrong}", self.talk.seed);
        }
        self.tail.extend_from_slice(&bytes[left..]);
    }

    /// How many bytes are due by now.
    fn due(&self) -> u64 {
        let share = self.started.elapsed().as_secs_f64() / self.talk.over.as_secs_f64().max(0.001);
        (share * self.talk.bytes as f64) as u64 + PIECE
    }

    /// When that many bytes are due.
    fn when(&self, bytes: u64) -> Instant {
        self.started + self.talk.over.mul_f64(bytes.saturating_sub(PIECE) as f64 / self.talk.bytes as f64)
    }
}
