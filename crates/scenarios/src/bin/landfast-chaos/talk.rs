//! Sessions, by clients of two kinds: a WebSocket library that knows nothing of Landfast, and the Rust client.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use landfast_client::{Attach, Attached, Client, Error, Event, From, Input, StartProcess, Tty};
use landfast_core::InstanceId;
use landfast_scenarios::attached::SUBPROTOCOL;
use landfast_scenarios::numbers::{Checker, Numbers, Wrong};
use landfast_scenarios::plain::KEY;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::http::Request;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::cell::{Cell, SUPPLIED};
use crate::control::Held;
use crate::evidence::{End, Kind, Outcome, Talk, Way};
use crate::load::Load;
use crate::plan::Host;

/// Bytes a second, each way: enough that every fault falls among some, little beside what the machine can do.
const RATE: u64 = 8 * 1024;

/// How much is said in one message: not a multiple of anything, so that faults fall everywhere in frames and records.
const PIECE: u64 = 1_003;

/// How long an upgrade waits for its answer: longer than a gateway holds it.
const OPENING: Duration = Duration::from_secs(75);

/// Between two messages of an echo, and the largest of them.
const ECHO_REST: Duration = Duration::from_millis(120);
const ECHO_MAX: usize = 3_000;

/// What the far end says once it has heard all that it should.
const VERDICT: &str = "\ninput: all is right\n";

type Socket = WebSocketStream<TcpStream>;

/// A client that is about to begin a session.
pub(crate) struct Talker<'a> {
    pub(crate) load: &'a Load,
    pub(crate) instance: &'a Held,
    pub(crate) client: &'a Client,
    pub(crate) seed: u64,
    pub(crate) lasts: Duration,
}

/// What is heard.
enum Heard {
    Output(Vec<u8>),
    Exit(i32),
    End(End),
    Nothing,
}

/// The two halves of a session with a process.
enum Mouth {
    Plain(SplitSink<Socket, Message>),
    Linked(Input),
}

enum Ear {
    Plain(SplitStream<Socket>),
    Linked(Box<Attached>),
}

impl Talker<'_> {
    // --- processes ---

    /// Talks to a process until that exits or the session ends. Says whether it came to that.
    pub(crate) async fn talks(&self, way: Way, terminal: bool) -> bool {
        let bytes = RATE * self.lasts.as_secs();
        let line = format!("{SUPPLIED} exec ./landfast-numbers {} {bytes} {RATE}", self.seed);
        let argv = ["sh".to_owned(), "-c".to_owned(), line];
        let opened = match way {
            Way::Plain(via) => self.attach_plainly(via, &argv, terminal).await,
            Way::Linked => self.attach_linked(&argv, terminal).await,
        };
        let Some((mut mouth, mut ear)) = opened else { return false };
        let talk = self.begins(if terminal { "terminal" } else { "command" }, way);
        let end = {
            // A terminal shows what is typed before the program has asked it not to.
            let greeted = Notify::new();
            let speaks = std::pin::pin!(self.speaks(&mut mouth, bytes, &greeted));
            let hears = std::pin::pin!(self.hears(&mut ear, bytes, talk, &greeted));
            match futures_util::future::select(speaks, hears).await {
                // All was said: what is left is heard.
                futures_util::future::Either::Left(((), hears)) => hears.await,
                futures_util::future::Either::Right((end, _)) => end,
            }
        };
        self.load.book.ends(talk, end);
        true
    }

    /// Says what is due, until all is said. A session that takes nothing any more is told by who hears.
    async fn speaks(&self, mouth: &mut Mouth, bytes: u64, greeted: &Notify) {
        greeted.notified().await;
        let numbers = Numbers::new(self.seed.wrapping_add(1));
        let (began, mut said) = (Instant::now(), 0);
        while said < bytes {
            let piece = numbers.slice(said, PIECE.min(bytes - said) as usize);
            said += piece.len() as u64;
            let taken = match mouth {
                Mouth::Plain(sink) => sink.send(Message::binary([&[0], &piece[..]].concat())).await.is_ok(),
                Mouth::Linked(input) => input.write(piece).await.is_ok(),
            };
            if !taken {
                std::future::pending::<()>().await;
            }
            sleep_until(began + Duration::from_secs_f64(said as f64 / RATE as f64)).await;
        }
    }

    async fn hears(&self, ear: &mut Ear, bytes: u64, talk: usize, greeted: &Notify) -> End {
        let mut checker = Checker::new(Numbers::new(self.seed));
        let (mut greeting, mut tail, mut exit) = (Vec::new(), Vec::new(), None);
        loop {
            match ear.hear().await {
                Heard::Nothing => {}
                Heard::Output(said) => {
                    self.load.book.goes_on(talk);
                    let missing = b"ready\n".len() - greeting.len();
                    let (head, said) = said.split_at(missing.min(said.len()));
                    greeting.extend_from_slice(head);
                    if !b"ready\n".starts_with(&greeting) {
                        return End::Strange(format!("it began with {:?}", String::from_utf8_lossy(&greeting)));
                    }
                    if greeting.len() == b"ready\n".len() {
                        greeted.notify_one();
                    }
                    let left = (bytes - checker.right()).min(said.len() as u64) as usize;
                    if let Err(wrong) = checker.take(&said[..left]) {
                        return End::Wrong(wrong);
                    }
                    tail.extend_from_slice(&said[left..]);
                }
                Heard::Exit(code) => {
                    exit = Some(code);
                    // A plain client is told the end in a close frame; the Rust client's events just end.
                    if matches!(ear, Ear::Linked(_)) {
                        return concluded(&checker, bytes, &tail, code);
                    }
                }
                Heard::End(End::Closed(code, reason)) => {
                    let is_exit = code == 1000 && reason.starts_with("process.exited");
                    return match exit {
                        Some(exit) if is_exit => concluded(&checker, bytes, &tail, exit),
                        _ => End::Closed(code, reason),
                    };
                }
                Heard::End(end) => return end,
            }
        }
    }

    async fn attach_plainly(&self, via: Host, argv: &[String], terminal: bool) -> Option<(Mouth, Ear)> {
        let mut wish = json!({"argv": argv});
        if terminal {
            wish["tty"] = json!({"rows": 24, "cols": 80});
        }
        let line = "Content-Type: application/json\r\n";
        let body = wish.to_string();
        let nonce = format!("process-{:016x}", self.seed);
        let request = ("POST", "/processes", line, &body[..]);
        let answer = self.load.ask(self.instance, via, (Kind::Get, &nonce), request, |answer| answer.status == 201);
        let answer = answer.await.filter(|answer| answer.status == 201)?;
        let process = answer.json()["id"].as_str()?.to_owned();
        let target = format!("/processes/{process}/attach?from=start");
        let (sink, stream) = self.opens(via, &target, Some(SUBPROTOCOL)).await?.split();
        Some((Mouth::Plain(sink), Ear::Plain(stream)))
    }

    async fn attach_linked(&self, argv: &[String], terminal: bool) -> Option<(Mouth, Ear)> {
        let instance: InstanceId = self.instance.id.parse().expect("it is one");
        let wish = StartProcess { tty: terminal.then_some(Tty { rows: 24, cols: 80 }), ..StartProcess::argv(argv) };
        let process = self.made(self.client.start_process(instance, &wish)).await?;
        let attached = self.made(self.client.attach(instance, process.id, Attach::from(From::Start))).await?;
        Some((Mouth::Linked(attached.input()), Ear::Linked(Box::new(attached))))
    }

    /// What a call of the Rust client gave; what it refused is written down.
    async fn made<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Option<T> {
        let began = self.load.book.now();
        match call.await {
            Ok(made) => Some(made),
            Err(error) => {
                let outcome = match &error {
                    Error::Refused(refusal) => {
                        Outcome::Refused(refusal.status, refusal.code.map_or("", |code| code.as_str()).to_owned())
                    }
                    other => Outcome::Broken(format!("{other:?}")),
                };
                let nonce = format!("linked-{:016x}", self.seed);
                // Its line leads to either gateway.
                self.load.writes(self.instance, Host::Clients, (Kind::Get, &nonce), began, outcome);
                None
            }
        }
    }

    // --- WebSockets to the service ---

    /// Sends numbered messages and hears them come back, until it leaves or the session ends. Says whether it came to that.
    pub(crate) async fn echoes(&self, via: Host) -> bool {
        let Some(socket) = self.opens(via, "/web/echo", None).await else { return false };
        let talk = self.begins("echo", Way::Plain(via));
        let (mut sink, mut stream) = socket.split();
        let mut random = SmallRng::seed_from_u64(self.seed);
        let (mut number, mut sent) = (0, VecDeque::new());
        let deadline = Instant::now() + self.lasts;
        let end = loop {
            let leaves = Instant::now() >= deadline;
            if leaves && sent.is_empty() {
                let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                let _ = sink.send(Message::Close(Some(close))).await;
                // Whatever comes now, all was heard.
                let _ = timeout(OPENING, stream.next()).await;
                break End::Whole;
            }
            tokio::select! {
                heard = hear(&mut stream) => match heard {
                    Err(end) => break end,
                    Ok(Message::Text(text)) => {
                        self.load.book.goes_on(talk);
                        if let Err(wrong) = come_back(&mut sent, number, &text) {
                            break End::Wrong(wrong);
                        }
                    }
                    Ok(_) => {}
                },
                () = sleep(ECHO_REST), if !leaves => {
                    let text = format!("{number} {}", "x".repeat(random.random_range(0..ECHO_MAX)));
                    number += 1;
                    // One that cannot be sent any more is told by what is heard.
                    if timeout(OPENING, sink.send(Message::text(text.clone()))).await.is_ok() {
                        sent.push_back(text);
                    }
                }
            }
        };
        self.load.book.ends(talk, end);
        true
    }

    // --- both ---

    /// Opens a WebSocket; what is refused is written down.
    async fn opens(&self, via: Host, target: &str, subprotocol: Option<&str>) -> Option<Socket> {
        let Host::Gateway(number) = via else { return None };
        let (began, gateway) = (self.load.book.now(), Cell::gateway(number));
        let mut request = Request::builder()
            .uri(format!("ws://{gateway}/i/{}{target}", self.instance.id))
            .header("Host", gateway.to_string())
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", KEY.0)
            .header("Authorization", format!("Bearer {}", self.instance.token));
        if let Some(subprotocol) = subprotocol {
            request = request.header("Sec-WebSocket-Protocol", subprotocol);
        }
        let request = request.body(()).expect("it is a request");
        let opening = async {
            let socket = TcpStream::connect(gateway).await?;
            socket.set_nodelay(true)?;
            tokio_tungstenite::client_async(request, socket).await
        };
        let outcome = match timeout(OPENING, opening).await {
            Ok(Ok((socket, _))) => return Some(socket),
            Ok(Err(tungstenite::Error::Http(answer))) => {
                let code = answer.headers().get("landfast-error").and_then(|code| code.to_str().ok());
                Outcome::Refused(answer.status().as_u16(), code.unwrap_or_default().to_owned())
            }
            Ok(Err(error)) => Outcome::Broken(error.to_string()),
            Err(_) => Outcome::Broken("no answer".to_owned()),
        };
        self.load.writes(self.instance, via, (Kind::Get, &format!("upgrade-{:016x}", self.seed)), began, outcome);
        None
    }

    fn begins(&self, kind: &str, way: Way) -> usize {
        let (name, instance) = (format!("{kind} {:016x}", self.seed), self.instance.id.clone());
        let began = self.load.book.now();
        self.load.book.begins(Talk { name, instance, way, began, again: None, end: None })
    }
}

impl Ear {
    async fn hear(&mut self) -> Heard {
        match self {
            Self::Plain(stream) => match hear(stream).await {
                Err(end) => Heard::End(end),
                Ok(Message::Binary(bytes)) => match bytes.split_first() {
                    Some((1 | 2, said)) => Heard::Output(said.to_vec()),
                    Some((3, code)) => Heard::Exit(code.try_into().map_or(i32::MIN, i32::from_be_bytes)),
                    Some((5, _)) => Heard::End(End::Strange("a gap in the output".to_owned())),
                    _ => Heard::Nothing,
                },
                Ok(_) => Heard::Nothing,
            },
            Self::Linked(attached) => match attached.next().await {
                Ok(Some(Event::Output { bytes, .. })) => Heard::Output(bytes.to_vec()),
                Ok(Some(Event::Exit(status))) => Heard::Exit(status.0),
                Ok(Some(Event::Gap { .. })) => Heard::End(End::Strange("a gap in the output".to_owned())),
                Ok(Some(Event::InputUnsure)) => Heard::End(End::Unsure),
                Ok(Some(Event::ReplayEnd { .. } | Event::State(_))) => Heard::Nothing,
                Ok(None) => Heard::End(End::Cut("its events ended".to_owned())),
                Err(Error::Ended { code, reason }) => {
                    let reason =
                        if reason.is_empty() { code.map_or("", |code| code.as_str()).to_owned() } else { reason };
                    Heard::End(End::Closed(0, reason))
                }
                Err(Error::Refused(refusal)) => {
                    Heard::End(End::Closed(refusal.status, refusal.code.map_or("", |code| code.as_str()).to_owned()))
                }
                Err(error) => Heard::End(End::Cut(error.to_string())),
            },
        }
    }
}

/// The next message, or the end.
async fn hear(stream: &mut SplitStream<Socket>) -> Result<Message, End> {
    match stream.next().await {
        Some(Ok(Message::Close(Some(close)))) => Err(End::Closed(close.code.into(), close.reason.to_string())),
        Some(Ok(Message::Close(None))) => Err(End::Closed(1005, String::new())),
        Some(Ok(message)) => Ok(message),
        Some(Err(error)) => Err(End::Cut(error.to_string())),
        None => Err(End::Cut("the connection ended".to_owned())),
    }
}

/// How it is that a process has exited.
fn concluded(checker: &Checker, bytes: u64, tail: &[u8], code: i32) -> End {
    let tail = String::from_utf8_lossy(tail);
    if let Some(verdict) = tail.strip_prefix("\ninput: ").filter(|_| tail != VERDICT) {
        return End::Strange(format!("input: {}", verdict.trim()));
    }
    match checker.finish(bytes) {
        Ok(()) if tail == VERDICT && code == 0 => End::Whole,
        // It was ended before it was through.
        _ if code != 0 => End::Exit(code),
        Ok(()) => End::Strange(format!("it ended with {tail:?}")),
        Err(wrong) => End::Wrong(wrong),
    }
}

/// Takes a message that came back off those that were sent; the places are counted in messages.
fn come_back(sent: &mut VecDeque<String>, number: u64, text: &str) -> Result<(), Wrong> {
    let awaited = number - sent.len() as u64;
    if sent.front().is_some_and(|front| front == text) {
        sent.pop_front();
        return Ok(());
    }
    match text.split(' ').next().and_then(|number| number.parse::<u64>().ok()) {
        Some(place) if place < awaited => Err(Wrong::Doubled(awaited, awaited - place)),
        Some(place) if place > awaited => Err(Wrong::Lost(awaited, place - awaited)),
        _ => Err(Wrong::Foreign(awaited)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(texts: &[&str]) -> VecDeque<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_message_that_is_repeated_left_out_or_changed_is_found() {
        // Of five messages the first two have come back.
        let sent = || after(&["2 x", "3 x", "4 x"]);
        assert_eq!(come_back(&mut sent(), 5, "2 x"), Ok(()));
        assert_eq!(come_back(&mut sent(), 5, "1 x"), Err(Wrong::Doubled(2, 1)));
        assert_eq!(come_back(&mut sent(), 5, "3 x"), Err(Wrong::Lost(2, 1)));
        assert_eq!(come_back(&mut sent(), 5, "2 y"), Err(Wrong::Foreign(2)));
    }

    #[test]
    fn an_exit_is_whole_only_with_the_last_byte_and_the_far_ends_word() {
        let heard = |len| {
            let mut checker = Checker::new(Numbers::new(1));
            checker.take(&Numbers::new(1).slice(0, len)).unwrap();
            checker
        };
        assert_eq!(concluded(&heard(100), 100, VERDICT.as_bytes(), 0), End::Whole);
        assert_eq!(concluded(&heard(99), 100, VERDICT.as_bytes(), 0), End::Wrong(Wrong::Lost(99, 1)));
        assert_eq!(concluded(&heard(100), 100, b"", 137), End::Exit(137));
        let doubled = b"\ninput: at offset 3, 7 bytes come again\n";
        let said = "input: at offset 3, 7 bytes come again".to_owned();
        assert_eq!(concluded(&heard(100), 100, doubled, 1), End::Strange(said));
    }
}
