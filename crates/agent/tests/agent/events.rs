//! The instance's events, as readers of the stream see them.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use landfast_core::record::{Service, ServiceRestart};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::{Agent, PATIENCE, attach_head, eventually};
use crate::viewer::Viewer;
use crate::way::Way;

/// A reader of a stream.
pub(crate) struct Stream {
    body: Incoming,
    text: String,
    frames: VecDeque<(String, Value)>,
    connection: JoinHandle<()>,
}

impl Stream {
    pub(crate) async fn open(agent: &Agent, query: &str, last: Option<&str>) -> Self {
        let socket = agent.connect("agent.sock").await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        let connection = tokio::spawn(async { drop(connection.await) });
        let mut request = http::Request::get(format!("/telemetry/stream?{query}")).header("host", "agent");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        Self { body: answer.into_body(), text: String::new(), frames: VecDeque::new(), connection }
    }

    /// The next frame with data: its id and its data.
    async fn next(&mut self) -> (String, Value) {
        loop {
            let frame = self.frame().await;
            if !frame.1.is_null() {
                return frame;
            }
        }
    }

    /// The next frame: its id and its data, null if it has none.
    async fn frame(&mut self) -> (String, Value) {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return frame;
            }
            let piece = timeout(PATIENCE, self.body.frame()).await.expect("a frame comes").unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(&piece.into_data().unwrap()).unwrap());
            while let Some((frame, rest)) = self.text.split_once("\n\n") {
                self.frames.extend(read_frame(frame));
                self.text = rest.to_owned();
            }
        }
    }

    /// The next event's type and data.
    async fn event(&mut self) -> (String, Value) {
        let (id, data) = self.next().await;
        assert!(id.ends_with(&format!(".{}", data["seq"])), "{id}: {data}");
        (data["event"]["type"].as_str().unwrap().to_owned(), data["event"]["data"].clone())
    }

    /// The next event of a type.
    pub(crate) async fn event_of(&mut self, kind: &str) -> Value {
        loop {
            let (id, data) = self.next().await;
            if data["event"]["type"] == kind {
                assert!(id.ends_with(&format!(".{}", data["seq"])), "{id}: {data}");
                return data["event"].clone();
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A frame has an id and may have data, nothing else; or is a comment.
fn read_frame(frame: &str) -> Option<(String, Value)> {
    if frame == ":" {
        return None;
    }
    let (id, data) = frame.split_once('\n').map_or((frame, ""), |(id, data)| (id, data));
    let id = id.strip_prefix("id: ").unwrap_or_else(|| panic!("{frame:?}"));
    let data = if data.is_empty() { "null" } else { data.strip_prefix("data: ").expect("data follows the id") };
    Some((id.to_owned(), serde_json::from_str(data).unwrap()))
}

async fn say(agent: &Agent, kind: &str, n: u64) -> Value {
    let answer = agent.ask("POST", "/telemetry/events", json!({"type": kind, "data": {"n": n}}).to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn a_stream_begins_now_and_says_what_happens_then() {
    let agent = Agent::start().await;
    say(&agent, "before", 0).await;
    let mut stream = Stream::open(&agent, "", None).await;
    let (here, nothing) = stream.frame().await;
    assert!(here.contains('.') && nothing.is_null(), "where now is: {here}");
    let envelope = say(&agent, "mine", 1).await;
    let (id, said) = stream.next().await;
    assert_eq!(said, envelope);
    assert!(id.ends_with(&format!(".{}", said["seq"])));
    let event = &said["event"];
    assert_eq!((&event["category"], &event["source"]), (&json!("custom"), &json!({"kind": "caller"})));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64;
    assert!((now - 60_000_000..=now).contains(&event["ts"].as_u64().unwrap()), "microseconds");
}

#[tokio::test]
async fn everything_remembered_is_replayed_when_asked_for() {
    let agent = Agent::start().await;
    say(&agent, "mine", 1).await;
    let mut stream = Stream::open(&agent, "replay=all", None).await;
    assert_eq!(stream.event().await.0, "instance_started");
    assert_eq!(stream.event().await, ("mine".to_owned(), json!({"n": 1})));
}

#[tokio::test]
async fn a_reader_goes_on_after_its_last_event_whatever_else_it_asks_for() {
    let agent = Agent::start().await;
    let mut stream = Stream::open(&agent, "type=mine", None).await;
    for n in 0..4 {
        say(&agent, "mine", n).await;
    }
    stream.next().await;
    let (id, _) = stream.next().await;
    drop(stream);
    let seq = id.split_once('.').unwrap().1.to_owned();
    for last in [&id, &seq] {
        let mut stream = Stream::open(&agent, "type=mine&replay=all", Some(last)).await;
        assert_eq!(stream.event().await.1, json!({"n": 2}));
        assert_eq!(stream.event().await.1, json!({"n": 3}));
    }
}

#[tokio::test]
async fn after_the_agents_restart_an_old_id_brings_a_gap_and_then_what_happens() {
    let mut agent = Agent::start().await;
    let mut stream = Stream::open(&agent, "", None).await;
    for n in 0..9 {
        say(&agent, "mine", n).await;
    }
    let mut id = String::new();
    for _ in 0..9 {
        id = stream.next().await.0;
    }
    agent.crash().await;
    agent.start_again().await;
    for last in [id.as_str(), "999"] {
        let mut stream = Stream::open(&agent, "", Some(last)).await;
        let (at, gap) = stream.next().await;
        assert_eq!(gap["type"], "gap");
        let (start, seq) = last.split_once('.').unwrap_or(("0", last));
        let missing = seq.parse::<u64>().unwrap() + 1;
        assert_eq!(gap["from"], format!("{start}.{missing}"));
        assert!(gap["to"].as_str().unwrap().ends_with(".1") && at.ends_with(".0"), "{at}: {gap}");
        assert_eq!(stream.event().await.0, "instance_started");
        // Whoever goes on from the gap's own id has no gap any more.
        let mut stream = Stream::open(&agent, "", Some(&at)).await;
        assert_eq!(stream.event().await.0, "instance_started");
    }
}

#[tokio::test]
async fn a_reader_that_was_away_for_too_long_learns_what_it_missed() {
    let agent = Agent::start().await;
    let first = say(&agent, "mine", 0).await;
    // Four of the largest size make room in what is kept for 64 MiB: 70 of them are more.
    let large = json!({"type": "large", "data": "x".repeat(990_000)}).to_string();
    for _ in 0..70 {
        assert_eq!(agent.ask("POST", "/telemetry/events", large.clone()).await.status, 200);
    }
    let mut stream = Stream::open(&agent, "", Some(&first["seq"].to_string())).await;
    let (_, gap) = stream.next().await;
    let seq = |id: &Value| id.as_str().unwrap().split_once('.').unwrap().1.parse::<u64>().unwrap();
    assert_eq!((&gap["type"], seq(&gap["from"])), (&json!("gap"), first["seq"].as_u64().unwrap() + 1));
    assert_eq!(stream.next().await.1["seq"], seq(&gap["to"]));
}

#[tokio::test]
async fn only_the_types_that_were_asked_for_come() {
    let agent = Agent::start().await;
    let mut stream = Stream::open(&agent, "type=b%2Cc&type=d", None).await;
    for (n, kind) in ["a", "b", "a", "c", "d"].into_iter().enumerate() {
        say(&agent, kind, n as u64).await;
    }
    for kind in ["b", "c", "d"] {
        assert_eq!(stream.event().await.0, kind);
    }
}

#[tokio::test]
async fn a_known_type_keeps_its_category_whoever_says_it() {
    let agent = Agent::start().await;
    assert_eq!(say(&agent, "page_load", 0).await["event"]["category"], "page");
    let said = json!({"type": "x", "ts": 7, "source": {"kind": "extension", "event": "y", "metadata": {"a": "b"}}});
    let event = agent.ask("POST", "/telemetry/events", said.to_string()).await.json()["event"].clone();
    assert_eq!((&event["ts"], &event["source"]), (&said["ts"], &said["source"]));
}

#[tokio::test]
async fn what_is_too_large_loses_its_data_and_says_so() {
    let agent = Agent::start().await;
    let said = json!({"type": "x", "data": "x".repeat(1_000_000)});
    let event = agent.ask("POST", "/telemetry/events", said.to_string()).await.json()["event"].clone();
    assert_eq!((&event["truncated"], event.get("data")), (&json!(true), None));
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_told_why() {
    let agent = Agent::start().await;
    for id in ["x", "1.2.3", "-1", "1."] {
        let answer = agent.ask_with("/telemetry/stream", &[("last-event-id", id)]).await;
        assert_eq!(answer.refusal(), (400, "request.invalid".to_owned()), "{id}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("Last-Event-ID"));
    }
    let start = Stream::open(&agent, "replay=all", None).await.next().await.0;
    let not_yet = start.replace(".1", ".1000");
    assert_eq!(agent.ask_with("/telemetry/stream", &[("last-event-id", &not_yet)]).await.status, 400);
    for query in ["replay=some", "type=a+b", "type="] {
        assert_eq!(agent.ask("GET", &format!("/telemetry/stream?{query}"), "").await.status, 400, "{query}");
    }
    for body in [
        json!({}),
        json!({"type": "a b"}),
        json!({"type": "gap"}),
        json!({"type": "x".repeat(200)}),
        json!({"type": "x", "category": "page"}),
        json!({"type": "x", "source": {"kind": "agent"}}),
        json!({"type": "x", "source": {"kind": ""}}),
        json!({"type": "x", "source": {"kind": "a", "metadata": {"a": "x".repeat(10_000)}}}),
    ] {
        assert_eq!(agent.ask("POST", "/telemetry/events", body.to_string()).await.status, 400, "{body}");
    }
    for (path, allow) in [("/telemetry", "GET, PUT, PATCH"), ("/telemetry/stream", "GET")] {
        let answer = agent.ask("DELETE", path, "").await;
        assert_eq!((answer.status, &answer.headers["allow"]), (405, &allow.parse().unwrap()));
    }
}

#[tokio::test]
async fn what_the_browser_is_watched_for_is_set_whole_or_in_part_and_outlives_the_agent() {
    let mut agent = Agent::start().await;
    let off = json!({"console": false, "network": false, "page": false});
    assert_eq!(agent.ask("GET", "/telemetry", "").await.json(), off);
    agent.ask("PUT", "/telemetry", json!({"console": true}).to_string()).await;
    let both = agent.ask("PATCH", "/telemetry", json!({"page": true}).to_string()).await.json();
    assert_eq!(both, json!({"console": true, "network": false, "page": true}));
    agent.crash().await;
    agent.start_again().await;
    assert_eq!(agent.ask("GET", "/telemetry", "").await.json(), both);
    agent.ask("PUT", "/telemetry", json!({"network": true}).to_string()).await;
    assert_eq!(agent.ask("GET", "/telemetry", "").await.json()["console"], false);
    for body in ["", "{\"console\": 1}", "{\"cnosole\": true}"] {
        assert_eq!(agent.ask("PUT", "/telemetry", body).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn what_is_changed_is_told_and_what_is_looked_at_or_is_nowhere_is_not() {
    let agent = Agent::start().await;
    let mut stream = Stream::open(&agent, "type=api_call", None).await;
    agent.ask("GET", "/processes", "").await;
    agent.ask("POST", "/nowhere?password=secret", "").await;
    agent.ask("POST", "/exec?password=secret", json!({"argv": ["echo", "secret"]}).to_string()).await;
    agent.ask("DELETE", "/processes/prc_none", "").await;
    let exec = stream.event_of("api_call").await;
    assert_eq!((&exec["data"]["method"], &exec["data"]["path"]), (&json!("POST"), &json!("/exec")));
    assert_eq!((&exec["data"]["status"], &exec["category"]), (&json!(200), &json!("control")));
    assert!(exec["data"]["duration_ms"].is_u64() && !exec.to_string().contains("secret"));
    let delete = stream.event_of("api_call").await["data"].clone();
    assert_eq!((&delete["status"], &delete["code"]), (&json!(404), &json!("process.unknown")));
}

#[tokio::test]
async fn a_process_that_ends_is_told_of_with_how() {
    let agent = Agent::start().await;
    let mut stream = Stream::open(&agent, "type=process_exit", None).await;
    let id = agent.command("exit 3").await;
    let data = stream.event_of("process_exit").await["data"].clone();
    assert_eq!((&data["process"], &data["exit"]), (&json!(id), &json!({"code": 3})));
    let id = agent.command("sleep 100").await;
    agent.ask("DELETE", &format!("/processes/{id}"), "").await;
    let data = stream.event_of("process_exit").await["data"].clone();
    assert_eq!((&data["exit"], &data["killed_by"]), (&json!({"signal": 9}), &json!("request")));
}

#[tokio::test]
async fn a_session_is_told_of_when_it_opens_goes_on_and_ends() {
    let agent = Agent::start().await;
    let mut stream = Stream::open(&agent, "type=session_open,session_resume,session_close", None).await;
    let id = agent.command("head -c 20000 /dev/zero; read x; exit 4").await;
    let way = Way::to(&agent, 2_000);
    let (near, _, holding) = way.hold(&attach_head(&id, "from=start&secret=1")).await;
    let mut viewer = Viewer::new(near);
    let open = stream.event_of("session_open").await;
    assert_eq!(
        (&open["category"], &open["data"]["to"]),
        (&json!("connection"), &json!(format!("/processes/{id}/attach")))
    );
    viewer.reads(20_000).await;
    way.budget.store(0, Ordering::Relaxed);
    let resume = stream.event_of("session_resume").await["data"].clone();
    assert_eq!((&resume["session"], &resume["link"]), (&open["data"]["session"], &json!(2)));
    viewer.types(b"\n").await;
    viewer.exits(4).await;
    drop(viewer);
    timeout(PATIENCE, holding).await.unwrap().unwrap();
    let close = stream.event_of("session_close").await["data"].clone();
    assert_eq!((&close["session"], &close["reason"]), (&open["data"]["session"], &json!("process.exited")));
    assert!(close["by"] == "instance" && close["duration_ms"].is_u64(), "{close}");
}

#[tokio::test]
async fn a_service_that_crashes_is_told_of_with_the_part_of_its_life_and_one_that_is_restarted_is_not() {
    let agent = Agent::start_with(|config| {
        let service = |shell: &str, restart| Service {
            shell: Some(shell.to_owned()),
            socket: Some("none.sock".to_owned()),
            restart,
            ..Service::default()
        };
        config.services.insert("bad".parse().unwrap(), service("read x <go; exit 5", ServiceRestart::OnFailure));
        config.services.insert("good".parse().unwrap(), service("exit 0", ServiceRestart::Never));
        config.services.insert("once".parse().unwrap(), service("exit 6", ServiceRestart::Never));
    })
    .await;
    agent.says("mkfifo go || true").await;
    let mut stream = Stream::open(&agent, "type=service_crashed&replay=all", None).await;
    let mut phases = Vec::new();
    while phases.len() < 3 {
        let data = stream.event_of("service_crashed").await["data"].clone();
        phases.push((data["service"].clone(), data["phase"].clone(), data["start"].clone()));
        if data["service"] == "once" {
            assert_eq!((&data["exit"], data["pid"].is_i64()), (&json!({"code": 6}), true));
        }
    }
    for expected in [("once", "startup", 1), ("once", "gave_up", 1), ("bad", "startup", 1)] {
        let expected = (json!(expected.0), json!(expected.1), json!(expected.2));
        assert!(phases.contains(&expected), "{expected:?} in {phases:?}");
    }
}

#[tokio::test]
async fn a_new_generation_is_told_of() {
    let agent = Agent::start().await;
    let mut stream = Stream::open(&agent, "type=moved", None).await;
    for generation in [3, 4] {
        agent.control("PUT", "/generation", &json!({"generation": generation}).to_string()).await;
    }
    assert_eq!(stream.event_of("moved").await["data"], json!({"from": 3, "generation": 4}));
}

/// All pages of what was stored.
async fn pages(agent: &Agent, query: &str) -> Vec<Value> {
    let (mut all, mut offset) = (Vec::new(), "0".to_owned());
    loop {
        let answer = agent.ask("GET", &format!("/telemetry/events?{query}&offset={offset}"), "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        all.extend(answer.json().as_array().unwrap().iter().cloned());
        offset = answer.headers["x-next-offset"].to_str().unwrap().to_owned();
        assert_eq!(answer.headers["x-has-more"], if offset == "0" { "false" } else { "true" });
        if offset == "0" {
            return all;
        }
    }
}

/// The names of the segments.
fn segments(agent: &Agent) -> Vec<String> {
    let dir = std::fs::read_dir(agent.config().state.join("events")).unwrap();
    let names = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut segments: Vec<_> = names.filter(|name| name.contains(".jsonl")).collect();
    segments.sort();
    segments
}

#[tokio::test]
async fn what_was_said_is_read_page_by_page_exactly_as_it_was_at_once_and_by_later_agents() {
    let mut agent = Agent::start().await;
    let mut said = Vec::new();
    for n in 0..25 {
        said.push(say(&agent, "mine", n).await);
    }
    assert_eq!(pages(&agent, "type=mine&limit=4").await, said);
    said.reverse();
    assert_eq!(pages(&agent, "type=mine&limit=7&order=desc").await, said);
    said.reverse();
    agent.stop().await;
    assert!(segments(&agent).iter().all(|name| name.ends_with(".jsonl")), "all is sealed");
    agent.start_again().await;
    said.push(say(&agent, "mine", 99).await);
    assert_eq!(pages(&agent, "type=mine&limit=10").await, said);
    let kinds: Vec<_> =
        pages(&agent, "category=lifecycle").await.iter().map(|said| said["event"]["type"].clone()).collect();
    assert_eq!(kinds, ["instance_started", "instance_stopping", "instance_started"]);
}

#[tokio::test]
async fn what_a_dead_agent_had_stored_is_sealed_and_read() {
    let mut agent = Agent::start().await;
    let said = say(&agent, "mine", 1).await;
    eventually("it is on disk", async || {
        let [name] = &segments(&agent)[..] else { return None };
        let text = std::fs::read_to_string(agent.config().state.join("events").join(name)).ok()?;
        text.contains("\"mine\"").then_some(())
    })
    .await;
    agent.crash().await;
    let [open] = &segments(&agent)[..] else { panic!("one grows") };
    let path = agent.config().state.join("events").join(open);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{{\"seq\":3,\"ev")).unwrap();
    agent.start_again().await;
    assert_eq!(segments(&agent)[0], open.strip_suffix(".open").unwrap());
    assert_eq!(pages(&agent, "type=mine").await, [said]);
}

#[tokio::test]
async fn a_segment_is_sealed_when_it_is_large_and_the_next_goes_on() {
    let agent = Agent::start().await;
    let large = json!({"type": "large", "data": "x".repeat(300_000)}).to_string();
    for _ in 0..8 {
        agent.ask("POST", "/telemetry/events", large.clone()).await;
    }
    eventually("two are sealed", async || {
        // All in one segment, if the disk was back after the last of them.
        segments(&agent).iter().any(|name| name.ends_with(".jsonl")).then_some(())
    })
    .await;
    assert_eq!(pages(&agent, "type=large&limit=3").await.len(), 8);
}

#[tokio::test]
async fn a_disk_that_refuses_makes_nobody_wait_and_everything_is_read_and_stored_later() {
    let agent = Agent::start().await;
    let dir = agent.config().state.join("events");
    let aside = agent.config().state.join("aside");
    std::fs::rename(&dir, &aside).unwrap();
    let large = json!({"type": "large", "data": "x".repeat(600_000)}).to_string();
    for _ in 0..4 {
        agent.ask("POST", "/telemetry/events", large.clone()).await;
    }
    std::fs::rename(&aside, &dir).unwrap();
    assert_eq!(pages(&agent, "type=large").await.len(), 4);
    // With the next one, what could not be sealed is.
    agent.ask("POST", "/telemetry/events", large).await;
    eventually("it is stored", async || segments(&agent).iter().any(|name| name.ends_with(".jsonl")).then_some(()))
        .await;
    assert_eq!(pages(&agent, "type=large").await.len(), 5);
}

#[tokio::test]
async fn a_page_that_cannot_be_is_refused() {
    let agent = Agent::start().await;
    for query in ["limit=0", "since=x", "order=up", "offset=x", "category=none"] {
        let answer = agent.ask("GET", &format!("/telemetry/events?{query}"), "").await;
        assert_eq!(answer.refusal(), (400, "request.invalid".to_owned()), "{query}");
    }
    let answer = agent.ask("GET", "/telemetry/events?since=2000-01-01T00%3A00%3A00Z&until=5m", "").await;
    assert_eq!(answer.json(), json!([]));
}
