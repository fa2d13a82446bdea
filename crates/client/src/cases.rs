//! The cases that all SDKs share (`sdk/cases`), as far as they are about a client that reaches instances through its gateway
//! and keeps tokens instead of routes.
//!
//! Whoever reads a row of the files can find here whether this client is held to it, and if not, why.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Method;
use landfast_core::InstanceId;
use landfast_net::head::{HEAD_MAX, RequestHead, read_request};
use landfast_net::socket::Socket;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use toml::{Table, Value};

use crate::client::Client;
use crate::error::Error;
use crate::origin::Call;

const API_KEY: &str = "the-api-key";

/// The files, and those that say nothing of this client: it keeps no routes, so there are none to learn, share or forget.
const FILES: [(&str, &str); 3] = [
    ("retries", include_str!("../../../sdk/cases/retries.toml")),
    ("fallback", include_str!("../../../sdk/cases/fallback.toml")),
    ("files", include_str!("../../../sdk/cases/files.toml")),
];

/// The rows that this client is not held to, by how their names begin, and why.
const OTHERS: [(&str, &str); 9] = [
    ("retries: without retries nothing is repeated", "how often it repeats cannot be chosen"),
    ("retries: a stream that was sent", "a stream is never sent by a call that repeats; see `Files::send`"),
    (
        "retries: an answer that is cut is an error, never an end",
        "whole answers are asked for again; streams are `Open`",
    ),
    ("fallback: row 1", "stored events are read from the control plane to begin with"),
    ("fallback: row 2", "there is no fallback that could fail"),
    ("fallback: row 4: an instance that is silent", "how often it repeats cannot be chosen"),
    ("fallback: row 8: and forgets nothing", "what goes to an instance cannot be chosen"),
    ("fallback: row 9", "a token is asked for by itself, and not with the instance's record"),
    ("files: a token that expires", "likewise"),
];

/// Sub-resources that are the instance's own.
const DIRECT: [&str; 8] = ["browser", "devtools", "exec", "files", "json", "processes", "services", "telemetry"];

/// How long a call of a case may take.
const DEADLINE: Duration = Duration::from_millis(500);

/// What the servers of a case have seen so far.
#[derive(Default)]
struct Seen {
    control: usize,
    instance: usize,
    faults: Vec<String>,
    last_key: Option<String>,
}

/// A case that is played.
struct Play {
    name: String,
    case: Table,
    seen: Mutex<Seen>,
    is_over: AtomicBool,
}

/// Every case, with ids that are ones.
fn all() -> Vec<(String, Table)> {
    let mut cases = Vec::new();
    for (file, text) in FILES {
        let text = (1..=3).fold(text.to_owned(), |text, n| text.replace(&format!("ins_{n}"), &id(n).to_string()));
        let table: Table = text.parse().expect("the cases are TOML");
        for case in table["case"].as_array().expect("a list of cases") {
            let case = case.as_table().expect("a case is a table").clone();
            cases.push((format!("{file}: {}", text_of(&case, "name")), case));
        }
    }
    cases
}

const fn id(n: u64) -> InstanceId {
    InstanceId::new(n, n as u128)
}

fn text_of<'a>(table: &'a Table, key: &str) -> &'a str {
    table.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list_of<'a>(table: &'a Table, key: &str) -> Vec<&'a Table> {
    table.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table).collect()
}

#[tokio::test]
async fn every_row_that_is_about_such_a_client_holds() {
    let all = all();
    for (begin, why) in OTHERS {
        assert!(all.iter().any(|(name, _)| name.starts_with(begin)), "no row {begin:?} ({why})");
    }
    let ours = all.into_iter().filter(|(name, _)| !OTHERS.iter().any(|(begin, _)| name.starts_with(begin)));
    // Some wait for a second, which is what they are about.
    let played = join_all(ours.map(|(name, case)| play(name, case))).await;
    assert!(played.len() >= 25, "only {} rows", played.len());
    let faults: Vec<String> = played.into_iter().flatten().collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

async fn play(name: String, case: Table) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = format!("http://{}", listener.local_addr().unwrap());
    let play = Arc::new(Play { name, case, seen: Mutex::default(), is_over: AtomicBool::new(false) });
    let server = tokio::spawn(serve(listener, Arc::clone(&play)));
    let client = Client::new(&play.gateway(&here).await, API_KEY).unwrap();
    for known in list_of(&play.case, "known") {
        client.keep_token(text_of(known, "id").parse().unwrap(), text_of(known, "token"));
    }
    for call in list_of(&play.case, "call") {
        play.make(&client, call).await;
    }
    play.is_over.store(true, Ordering::Relaxed);
    server.abort();
    let mut seen = std::mem::take(&mut *play.seen.lock().unwrap());
    for (server, count) in [("control", seen.control), ("instance", seen.instance)] {
        let wanted = list_of(&play.case, server).len();
        if count != wanted {
            seen.faults.push(format!("{server} saw {count} requests and not {wanted}"));
        }
    }
    seen.faults.into_iter().map(|fault| format!("{}: {fault}", play.name)).collect()
}

impl Play {
    fn fault(&self, fault: String) {
        self.seen.lock().unwrap().faults.push(fault);
    }

    /// Where the cell is: here, unless the instance is said to be nowhere.
    async fn gateway(&self, here: &str) -> String {
        if !list_of(&self.case, "known").iter().any(|known| text_of(known, "base_url").contains("{nowhere}")) {
            return here.to_owned();
        }
        let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        format!("http://{nowhere}")
    }

    async fn make(&self, client: &Client, wish: &Table) {
        if wish.contains_key("reads") {
            return self.read(client, wish).await;
        }
        let (method, path) = (text_of(wish, "method"), text_of(wish, "path"));
        let instance = list_of(&self.case, "known").into_iter().find_map(|known| {
            let inside = path.strip_prefix(&format!("/v1/instances/{}", text_of(known, "id")))?;
            let first = inside.strip_prefix('/')?.split(['/', '?']).next()?;
            DIRECT.contains(&first).then(|| (text_of(known, "id").parse::<InstanceId>().unwrap(), inside))
        });
        let target = instance.map_or_else(|| path.to_owned(), |(id, inside)| Client::data_path(id, inside));
        let mut call = Call::new(method.parse::<Method>().unwrap(), target, DEADLINE);
        call.body = text_of(wish, "body").to_owned().into();
        if call.method == Method::POST && path == "/v1/instances" {
            call = call.idempotent();
        }
        for (name, value) in wish.get("headers").and_then(Value::as_table).into_iter().flatten() {
            match name.as_str() {
                "Idempotency-Key" => call.idempotency_key = value.as_str().map(str::to_owned),
                _ => call.headers.push((name.parse().unwrap(), value.as_str().unwrap().to_owned())),
            }
        }
        let began = Instant::now();
        let answered = match instance {
            Some((id, _)) => client.data_raw(id, &call).await,
            None => client.control_raw(&call).await,
        };
        self.judge(wish, &answered.map(|answer| (answer.status().as_u16(), answer.into_body().to_vec())));
        let takes = wish.get("takes").and_then(Value::as_float).unwrap_or_default();
        if began.elapsed().as_secs_f64() < takes {
            self.fault("the caller did not wait".to_owned());
        }
    }

    /// Reads a file of the first instance.
    async fn read(&self, client: &Client, wish: &Table) {
        let number = |key| wish.get(key).and_then(Value::as_integer).map(|number| u64::try_from(number).unwrap());
        let files = client.files(id(1));
        let read = async {
            let incoming =
                files.read(Path::new(text_of(wish, "reads")), number("start").unwrap_or(0), number("end")).await?;
            if !wish.contains_key("in_pieces") {
                return Ok(incoming.bytes(1000).await?.to_vec());
            }
            let mut all = Vec::new();
            incoming.write_to(&mut all).await.map(|()| all)
        };
        let (read, wanted) = (read.await, wish.get("answer").and_then(Value::as_str));
        let is_right = match (&read, text_of(wish, "error")) {
            (Ok(bytes), "") => wanted.map(str::as_bytes) == Some(bytes),
            (Err(Error::Broken { .. }), error) => error == "broken",
            (Err(Error::Protocol(_)), error) => error == "protocol",
            (Err(failure), error) => failure.code().is_some_and(|code| code.as_str() == error),
            (Ok(_), _) => false,
        };
        if !is_right {
            self.fault(format!("the reader got {read:?}"));
        }
    }

    fn judge(&self, wish: &Table, answered: &Result<(u16, Vec<u8>), Error>) {
        let is_right = match (answered, text_of(wish, "error")) {
            (Err(Error::Unreachable { .. }), error) => error == "unreachable",
            (Err(Error::Broken { .. }), error) => matches!(error, "broken" | "timed_out"),
            (Err(Error::Refused(refusal)), "") => wish["status"].as_integer() == Some(refusal.status.into()),
            (Ok((status, body)), "") => {
                let answer = wish.get("answer").and_then(Value::as_str);
                wish["status"].as_integer() == Some((*status).into())
                    && answer.is_none_or(|answer| answer.as_bytes() == body)
            }
            (Ok(_) | Err(_), _) => false,
        };
        if !is_right {
            self.fault(format!("the caller got {answered:?}"));
        }
    }

    /// The exchange that a request is for, once it is found to be as it should be.
    fn next(&self, head: &RequestHead, body: &[u8]) -> Option<Table> {
        let is_control = head.target.starts_with("/v1");
        let mut seen = self.seen.lock().unwrap();
        let (name, number) = if is_control { ("control", seen.control) } else { ("instance", seen.instance) };
        *(if is_control { &mut seen.control } else { &mut seen.instance }) += 1;
        let exchange = list_of(&self.case, name).get(number).map(|exchange| (*exchange).clone());
        let Some(exchange) = exchange else {
            seen.faults.push(format!("{name}: one request too many: {} {}", head.method, head.target));
            return None;
        };
        let token = head.headers.get("authorization").and_then(|line| line.strip_prefix("Bearer ")).unwrap_or_default();
        let body = String::from_utf8_lossy(body);
        for (key, got) in [("method", &*head.method), ("path", &*head.target), ("token", token), ("body", &*body)] {
            if exchange.get(key).and_then(Value::as_str).is_some_and(|wanted| wanted != got) {
                seen.faults.push(format!("{name}: its {key} is {got:?}"));
            }
        }
        for (key, is_wanted) in [("has", true), ("lacks", false)] {
            for header in exchange.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
                if head.headers.contains(header) != is_wanted {
                    seen.faults.push(format!("{name}: of {header}, it should be {is_wanted} that it is there"));
                }
            }
        }
        for (header, value) in exchange.get("says").and_then(Value::as_table).into_iter().flatten() {
            if head.headers.get(&header.to_lowercase()) != value.as_str() {
                seen.faults.push(format!("{name}: its {header} is {:?}", head.headers.get(header)));
            }
        }
        if (token == API_KEY) != is_control {
            seen.faults.push(format!("{name}: it has the other's credential"));
        }
        let key = head.headers.get("idempotency-key").map(str::to_owned);
        if exchange.contains_key("same_key_as_before") && key != seen.last_key {
            seen.faults.push(format!("{name}: its idempotency key is another one"));
        }
        seen.last_key = key;
        Some(exchange)
    }
}

async fn serve(listener: TcpListener, play: Arc<Play>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, Arc::clone(&play)));
    }
}

/// Answers one request as its exchange says, and ends the connection.
async fn answer(stream: TcpStream, play: Arc<Play>) {
    let mut socket = Socket::tcp(stream);
    let head = read_request(&mut socket, HEAD_MAX).await.unwrap();
    let length = head.headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.unwrap();
    let Some(exchange) = play.next(&head, &body) else { return };
    if exchange.contains_key("silent") {
        while !play.is_over.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        return;
    }
    if text_of(&exchange, "cut") == "before" {
        return;
    }
    let json = exchange.get("json").map(|json| serde_json::to_string(json).unwrap());
    let body = json.as_deref().unwrap_or(text_of(&exchange, "answer"));
    let mut text = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", exchange["status"]);
    if exchange.get("headers").is_none_or(|headers| headers.get("Content-Length").is_none()) {
        let length = body.len() + usize::from(text_of(&exchange, "cut") == "within");
        text.push_str(&format!("Content-Length: {length}\r\n"));
    }
    for (name, value) in exchange.get("headers").and_then(Value::as_table).into_iter().flatten() {
        text.push_str(&format!("{name}: {}\r\n", value.as_str().unwrap()));
    }
    if json.is_some() && exchange.get("headers").is_none_or(|headers| headers.get("Content-Type").is_none()) {
        text.push_str("Content-Type: application/json\r\n");
    }
    // A client that has waited for long enough is gone.
    let _ = socket.write_all(format!("{text}\r\n{body}").as_bytes()).await;
    let _ = socket.shutdown().await;
}
