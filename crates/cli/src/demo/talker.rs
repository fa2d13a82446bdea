//! One client under load: it says numbered blocks and checks numbered blocks until it is told to finish, and then
//! compares notes with its peer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use landfast_client::{Attached, Event, ExitStatus, Input, State, Stream};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::demo::numbers::{Listener, Speaker, Tally};
use crate::demo::peer::{Findings, TICK};
use crate::demo::plain::{Ear, Mouth};

/// What a client hears.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    /// The peer's blocks.
    Output(Bytes),
    /// The peer's findings.
    Note(Bytes),
    /// The peer's exit code.
    Exit(i32),
    /// The close frame.
    Closed(Option<(u16, String)>),
    /// The end of the socket, or of the attachment, without one.
    Lost(String),
}

/// How a client is connected.
pub(crate) enum Line {
    /// By a WebSocket to the gateway.
    Plain(Ear, Mouth),
    /// By the landfast client, over links of its own.
    Linked(Box<Attached>),
}

/// A client at work.
#[derive(Debug)]
pub(crate) struct Talker {
    pace: Arc<Pace>,
    finish: CancellationToken,
    task: JoinHandle<Verdict>,
}

/// What a client and its peer found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Bytes that arrived at the peer.
    pub(crate) bytes_up: u64,
    /// Bytes that arrived here.
    pub(crate) bytes_down: u64,
    /// Bytes that are missing, both ways.
    pub(crate) lost: u64,
    /// Bytes that came twice or were never said, both ways.
    pub(crate) doubled: u64,
    /// Whether the hashes of what was said and what was heard agree, both ways.
    pub(crate) hashes_agree: bool,
    /// Why the connection ended before the peer's exit and its orderly close; nothing if it did not.
    pub(crate) closed: Option<String>,
}

/// When a client last heard something, and the longest it heard nothing.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes: AtomicU64,
    last: Mutex<(Instant, Duration)>,
}

impl Pace {
    fn new() -> Self {
        let now = Instant::now();
        Self { bytes: AtomicU64::new(0), last: Mutex::new((now, Duration::ZERO)) }
    }

    fn hear(&self, bytes: usize) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *last = (now, last.1.max(now - last.0));
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes heard so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The longest pause since the last call, one that still goes on included.
    pub(crate) fn take_longest(&self) -> Duration {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = last.1.max(last.0.elapsed());
        last.1 = Duration::ZERO;
        longest
    }
}

impl Talker {
    /// Begins to talk: says the blocks of `seed + 1`, and expects those of `seed`.
    pub(crate) fn start(line: Line, seed: u64, blocks_per_tick: usize) -> Self {
        let (pace, finish) = (Arc::new(Pace::new()), CancellationToken::new());
        let task = tokio::spawn(talk(line, seed, blocks_per_tick, Arc::clone(&pace), finish.clone()));
        Self { pace, finish, task }
    }

    /// What it hears, and when.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Whether it has ended without being told to.
    pub(crate) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends the input, and waits for what the peer found.
    pub(crate) async fn finish(self, deadline: Duration) -> Verdict {
        self.finish.cancel();
        match tokio::time::timeout(deadline, self.task).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(panic)) => Verdict { closed: Some(format!("the client failed: {panic}")), ..Verdict::default() },
            Err(_) => Verdict { closed: Some("the end did not come".to_owned()), ..Verdict::default() },
        }
    }
}

enum Hearing {
    Plain(Ear),
    Linked(Box<Attached>),
}

enum Saying {
    Plain(Mouth),
    Linked(Input),
}

/// What was heard, up to the end.
struct Account {
    tally: Tally,
    findings: Option<Findings>,
    closed: Option<String>,
}

async fn talk(line: Line, seed: u64, blocks: usize, pace: Arc<Pace>, finish: CancellationToken) -> Verdict {
    let (hearing, mut saying) = match line {
        Line::Plain(ear, mouth) => (Hearing::Plain(ear), Saying::Plain(mouth)),
        Line::Linked(attached) => {
            let input = attached.input();
            (Hearing::Linked(attached), Saying::Linked(input))
        }
    };
    let mut speaker = Speaker::new(seed + 1);
    // Who listens knows when it is over; who says only stops saying.
    let account = tokio::select! {
        account = listen(hearing, seed, &pace) => account,
        never = say(&mut saying, &mut speaker, blocks, &finish) => match never {},
    };
    judge(account, &speaker.tally())
}

fn judge(account: Account, said: &Tally) -> Verdict {
    let Account { tally: heard, findings, closed } = account;
    let Some(Findings { said: peer_said, heard: peer_heard }) = findings else {
        let closed = closed.or_else(|| Some("the peer did not say what it found".to_owned()));
        return Verdict {
            bytes_down: heard.bytes,
            lost: heard.lost,
            doubled: heard.doubled,
            closed,
            ..Verdict::default()
        };
    };
    let (peer_said, peer_heard) = (Tally::from(peer_said), Tally::from(peer_heard));
    // What is missing at the very end leaves no hole: only the lengths tell.
    let lost = |said: &Tally, heard: &Tally| heard.lost.max((said.bytes + heard.doubled).saturating_sub(heard.bytes));
    Verdict {
        bytes_up: peer_heard.bytes,
        bytes_down: heard.bytes,
        lost: lost(said, &peer_heard) + lost(&peer_said, &heard),
        doubled: peer_heard.doubled + heard.doubled,
        hashes_agree: said.sha256 == peer_heard.sha256 && peer_said.sha256 == heard.sha256,
        closed,
    }
}

async fn listen(mut hearing: Hearing, seed: u64, pace: &Pace) -> Account {
    let (mut listener, mut notes, mut exit) = (Listener::new(seed), Vec::new(), None);
    let closed = loop {
        match hearing.next().await {
            Heard::Output(bytes) => {
                pace.hear(bytes.len());
                listener.hear(&bytes);
            }
            Heard::Note(bytes) => notes.extend_from_slice(&bytes),
            Heard::Exit(code) => exit = Some(code),
            Heard::Closed(Some((1000, _))) if exit == Some(0) => break None,
            Heard::Closed(close) => {
                let (code, reason) = close.unwrap_or_default();
                break Some(format!("closed with {code} {reason} after exit {exit:?}"));
            }
            Heard::Lost(why) => break Some(why),
        }
    };
    Account { tally: listener.tally(), findings: serde_json::from_slice(&notes).ok(), closed }
}

/// Says blocks until it is time to finish, then that no more follow; and answers pings as long as anybody listens.
async fn say(
    saying: &mut Saying,
    speaker: &mut Speaker,
    blocks: usize,
    finish: &CancellationToken,
) -> std::convert::Infallible {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut finished = false;
    loop {
        // A line that takes nothing any more has ended, and the listener knows.
        tokio::select! {
            _ = tick.tick(), if !finished => drop(saying.say(&speaker.say(blocks)).await),
            payload = saying.ping() => drop(saying.pong(&payload).await),
            () = finish.cancelled(), if !finished => {
                finished = true;
                drop(saying.end().await);
            }
        }
    }
}

impl Hearing {
    async fn next(&mut self) -> Heard {
        let attached = match self {
            Self::Plain(ear) => return ear.next().await,
            Self::Linked(attached) => attached,
        };
        loop {
            return match attached.next().await {
                Ok(Some(Event::Output { stream: Stream::Stdout, bytes })) => Heard::Output(bytes),
                Ok(Some(Event::Output { stream: Stream::Stderr, bytes })) => Heard::Note(bytes),
                Ok(Some(Event::Exit(ExitStatus(code)))) => Heard::Exit(code),
                Ok(Some(Event::Gap { .. } | Event::InputUnsure)) => Heard::Lost("bytes were lost for good".to_owned()),
                Ok(Some(Event::State(State::Connected | State::Reconnecting { .. }) | Event::ReplayEnd { .. })) => {
                    continue;
                }
                Ok(None) => Heard::Closed(Some((1000, String::new()))),
                Err(error) => Heard::Lost(error.to_string()),
            };
        }
    }
}

impl Saying {
    async fn say(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self {
            Self::Plain(mouth) => mouth.say(bytes).await.map_err(|error| error.to_string()),
            Self::Linked(input) => input.write(bytes.to_vec()).await.map_err(|error| error.to_string()),
        }
    }

    async fn end(&mut self) -> Result<(), String> {
        match self {
            Self::Plain(mouth) => mouth.end().await.map_err(|error| error.to_string()),
            Self::Linked(input) => input.eof().await.map_err(|error| error.to_string()),
        }
    }

    /// The next ping; the landfast client answers its own.
    async fn ping(&mut self) -> Bytes {
        match self {
            Self::Plain(mouth) => match mouth.ping().await {
                Some(payload) => payload,
                None => std::future::pending().await,
            },
            Self::Linked(_) => std::future::pending().await,
        }
    }

    async fn pong(&mut self, payload: &[u8]) -> Result<(), String> {
        match self {
            Self::Plain(mouth) => mouth.pong(payload).await.map_err(|error| error.to_string()),
            Self::Linked(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(bytes: u64, sha256: &str) -> Tally {
        Tally { bytes, sha256: sha256.to_owned(), lost: 0, doubled: 0 }
    }

    fn account(said: Tally, heard: Tally, here: Tally) -> Account {
        Account { tally: here, findings: Some(Findings { said: said.into(), heard: heard.into() }), closed: None }
    }

    #[test]
    fn equal_ends_lost_nothing() {
        let verdict = judge(account(tally(64, "d"), tally(96, "u"), tally(64, "d")), &tally(96, "u"));
        assert_eq!((verdict.lost, verdict.doubled, verdict.hashes_agree), (0, 0, true));
        assert_eq!((verdict.bytes_up, verdict.bytes_down), (96, 64));
    }

    #[test]
    fn bytes_missing_at_the_end_are_lost_too() {
        let verdict = judge(account(tally(64, "d"), tally(64, "x"), tally(32, "y")), &tally(96, "u"));
        assert_eq!((verdict.lost, verdict.hashes_agree), (64, false));
    }

    #[test]
    fn a_peer_that_says_nothing_is_no_success() {
        let account = Account { tally: tally(64, "d"), findings: None, closed: None };
        assert!(judge(account, &tally(96, "u")).closed.is_some());
    }

    #[test]
    fn a_pause_that_still_goes_on_counts() {
        let (pace, pause) = (Pace::new(), Duration::from_millis(5));
        std::thread::sleep(pause);
        assert!(pace.take_longest() >= pause, "while it goes on");
        pace.hear(5);
        assert!(pace.take_longest() >= pause, "and when it is over");
        assert!(pace.bytes() == 5 && pace.take_longest() < pause);
    }
}
