//! What clients do: each instance has its own, from its start to its end, and then another instance takes its place.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use landfast_client::Client;
use landfast_scenarios::http::{self, Answer};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::book::Book;
use crate::cell::{Cell, LEDGER, SUPPLIED};
use crate::control::{Control, Held};
use crate::evidence::{Answered, Kind, Outcome, Request, Way};
use crate::plan::Host;
use crate::talk::Talker;

/// How long a request waits for its answer: longer than a gateway holds one (30 s) and tries to repeat it.
const PATIENCE: Duration = Duration::from_secs(75);

/// Between two requests of a client, and between two commands: a steady trickle that leaves the machine idle half of the time.
const REQUEST_REST: Duration = Duration::from_millis(150);
const EXEC_REST: Duration = Duration::from_millis(1_500);

/// After a session that could not begin.
const TALK_REST: Duration = Duration::from_millis(400);

/// Seconds that a session lasts: some live through one fault, some through many.
const TALK_LASTS: std::ops::Range<u64> = 6..40;

/// What all clients share.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) book: Arc<Book>,
    pub(crate) control: Control,
    /// Where link-aware clients find the gateways.
    pub(crate) lines: [SocketAddr; 2],
    /// Whether no more is begun.
    pub(crate) ending: watch::Receiver<bool>,
    /// How many places have had their first instance.
    pub(crate) settled: Arc<watch::Sender<usize>>,
}

impl Load {
    /// Keeps one place filled with an instance and its clients, until no more is begun.
    pub(crate) async fn keeps(self, place: usize, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed ^ place as u64);
        let comes_again = place.is_multiple_of(2);
        let mut round = 0;
        while !self.is_ending() {
            let wish = format!("place-{place}-{round}-{seed}");
            if let Some(instance) = self.control.create(&wish, comes_again).await {
                if round == 0 {
                    self.settled.send_modify(|settled| *settled += 1);
                }
                self.serves(&instance, place, random.random()).await;
            }
            round += 1;
        }
    }

    /// All clients of an instance, until its end.
    async fn serves(&self, instance: &Held, place: usize, seed: u64) {
        let near = Host::Gateway(place as u8 % 2 + 1);
        let far = Host::Gateway((place as u8 + 1) % 2 + 1);
        tokio::join!(
            self.talks(instance, Way::Plain(near), place.is_multiple_of(2), seed),
            self.talks(instance, Way::Linked, !place.is_multiple_of(2), seed + 1),
            self.echoes(instance, far, seed + 2),
            self.requests(instance, near, seed + 3),
            self.requests(instance, far, seed + 4),
            self.commands(instance, far, seed + 5),
        );
    }

    pub(crate) fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    fn goes_on(&self, instance: &Held) -> bool {
        !self.is_ending() && !self.book.is_over(&instance.id)
    }

    /// One session with a process after another.
    async fn talks(&self, instance: &Held, way: Way, terminal: bool, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        let line = self.lines[usize::from(seed.is_multiple_of(2))];
        let client = Client::new(&format!("http://{line}"), &self.control.key).expect("it is a URL");
        while self.goes_on(instance) {
            let lasts = Duration::from_secs(random.random_range(TALK_LASTS));
            let talker = Talker { load: self, instance, client: &client, seed: random.random(), lasts };
            if !talker.talks(way, terminal).await {
                sleep(TALK_REST).await;
            }
        }
    }

    /// One WebSocket to the instance's service after another.
    async fn echoes(&self, instance: &Held, via: Host, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        let client = Client::new("http://127.0.0.1:1", &self.control.key).expect("it is a URL");
        while self.goes_on(instance) {
            let lasts = Duration::from_secs(random.random_range(TALK_LASTS));
            let talker = Talker { load: self, instance, client: &client, seed: random.random(), lasts };
            if !talker.echoes(via).await {
                sleep(TALK_REST).await;
            }
        }
    }

    async fn requests(&self, instance: &Held, via: Host, seed: u64) {
        let mut number = 0_u64;
        while self.goes_on(instance) {
            let nonce = format!("{seed:016x}-{number}");
            let (kind, method, target, line) = match number % 5 {
                0 | 3 => (Kind::Get, "GET", format!("/web/{nonce}"), String::new()),
                1 | 2 => (Kind::Post, "POST", format!("/web/count/{nonce}"), String::new()),
                _ => {
                    let line = format!("Idempotency-Key: {nonce}\r\n");
                    (Kind::Keyed, "POST", format!("/web/count/{nonce}"), line)
                }
            };
            let body = if kind == Kind::Get { "" } else { "x" };
            let said = format!("GET /{nonce} ");
            let is_right = |answer: &Answer| match kind {
                Kind::Get => answer.body == said.as_bytes(),
                Kind::Post => answer.body == b"1",
                Kind::Keyed | Kind::Exec => answer.body.first().is_some_and(u8::is_ascii_digit),
            };
            self.ask(instance, via, (kind, &nonce), (method, &target, &line, body), is_right).await;
            number += 1;
            sleep(REQUEST_REST).await;
        }
    }

    async fn commands(&self, instance: &Held, via: Host, seed: u64) {
        let mut number = 0_u64;
        while self.goes_on(instance) {
            let nonce = format!("{seed:016x}-{number}");
            let shell = format!("{SUPPLIED} printf '\\n%s exec %s\\n' {nonce} $(date +%s%6N) >> {LEDGER}");
            let body = json!({"shell": shell}).to_string();
            let line = "Content-Type: application/json\r\n";
            let is_right = |answer: &Answer| {
                serde_json::from_slice::<Value>(&answer.body).is_ok_and(|answer| answer["exit"]["code"] == 0)
            };
            self.ask(instance, via, (Kind::Exec, &nonce), ("POST", "/exec", line, &body), is_right).await;
            number += 1;
            sleep(EXEC_REST).await;
        }
    }

    /// Sends a request once, and writes down what became of it. Says the answer, where there was one.
    pub(crate) async fn ask(
        &self,
        instance: &Held,
        via: Host,
        (kind, nonce): (Kind, &str),
        (method, target, line, body): (&str, &str, &str, &str),
        is_right: impl Fn(&Answer) -> bool,
    ) -> Option<Answer> {
        let Host::Gateway(number) = via else { return None };
        let bytes = format!(
            "{method} /i/{}{target} HTTP/1.1\r\nHost: cell\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             {line}Content-Length: {}\r\n\r\n{body}",
            instance.id,
            instance.token,
            body.len()
        );
        let began = self.book.now();
        let answer = http::attempt(Cell::gateway(number), bytes.as_bytes(), PATIENCE).await;
        let outcome = outcome(&answer, is_right);
        self.writes(instance, via, (kind, nonce), began, outcome);
        answer.ok()
    }

    /// Writes down what became of a request.
    pub(crate) fn writes(
        &self,
        instance: &Held,
        via: Host,
        (kind, nonce): (Kind, &str),
        began: Duration,
        outcome: Outcome,
    ) {
        let (instance, nonce, ended) = (instance.id.clone(), nonce.to_owned(), self.book.now());
        self.book.asked(Request { instance, nonce, kind, via, began, ended, outcome });
    }
}

fn outcome(answer: &std::io::Result<Answer>, is_right: impl Fn(&Answer) -> bool) -> Outcome {
    match answer {
        Err(error) => Outcome::Broken(error.kind().to_string()),
        Ok(answer) if answer.header("landfast-error").is_some() || answer.status >= 400 && answer.status != 507 => {
            Outcome::Refused(answer.status, answer.header("landfast-error").unwrap_or_default().to_owned())
        }
        Ok(answer) => Outcome::Answered(Answered {
            status: answer.status,
            generation: answer.header("landfast-generation").and_then(|text| text.parse().ok()).unwrap_or(0),
            instance: answer.header("served-instance").unwrap_or_default().to_owned(),
            life: answer.header("served-life").unwrap_or_default().to_owned(),
            // A disk that is full is told as what it is, and then nothing has run.
            is_right: answer.status == 507 || is_right(answer),
            body: String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]).into_owned(),
        }),
    }
}
