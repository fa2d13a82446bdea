//! A process's log over plain HTTP.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::harness::{Agent, PATIENCE};

/// The events of a stream: name, id, data.
fn events(body: &[u8]) -> Vec<(String, String, Value)> {
    let text = std::str::from_utf8(body).unwrap();
    let field = |event: &str, name: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or("").to_owned()
    };
    let event =
        |event: &str| (field(event, "event"), field(event, "id"), serde_json::from_str(&field(event, "data")).unwrap());
    text.split("\n\n").filter(|event| !event.is_empty()).map(event).collect()
}

#[tokio::test]
async fn the_log_is_read_from_any_offset() {
    let agent = Agent::start().await;
    let id = agent.command("printf 0123456789").await;
    agent.ends(&id).await;
    for (query, body) in
        [("", "0123456789"), ("from=start", "0123456789"), ("from=7&follow=true", "789"), ("from=now", "")]
    {
        let answer = agent.ask("GET", &format!("/processes/{id}/output?{query}"), "").await;
        assert_eq!((answer.status, &answer.body[..]), (200, body.as_bytes()), "{query}");
        assert_eq!(answer.headers["landfast-offset"], (10 - body.len()).to_string());
    }
}

#[tokio::test]
async fn following_goes_on_until_the_process_ends() {
    let agent = Agent::start().await;
    let id = agent.command("echo one; read x; echo two").await;
    let path = format!("/processes/{id}/output?follow=true");
    let followed = async { agent.ask("GET", &path, "").await };
    let typed = async {
        agent.attach(&id, "").await.shows("one").await;
        agent.ask("POST", &format!("/processes/{id}/stdin"), "\n").await
    };
    let (answer, _) = tokio::join!(followed, typed);
    assert_eq!(&answer.body[..], b"one\ntwo\n");
}

#[tokio::test]
async fn events_carry_offsets_streams_gaps_and_the_exit_and_go_on_from_the_last_id() {
    let agent = Agent::start_with(|config| config.limits.log = 128 * 1024).await;
    let id = agent.command("printf out; sleep 0.1; printf err >&2; exit 3").await;
    agent.ends(&id).await;
    let path = format!("/processes/{id}/output?follow=true");
    let answer = agent.ask_with(&path, &[("accept", "text/event-stream")]).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let all = [
        (String::new(), "3".to_owned(), json!({"offset": 0, "stream": "stdout", "data": "b3V0"})),
        (String::new(), "6".to_owned(), json!({"offset": 3, "stream": "stderr", "data": "ZXJy"})),
        ("exit".to_owned(), "6".to_owned(), json!({"code": 3})),
    ];
    assert_eq!(events(&answer.body), all);
    let answer = agent.ask_with(&path, &[("accept", "text/event-stream"), ("last-event-id", "3")]).await;
    assert_eq!(events(&answer.body), all[1..]);

    let id = agent.command("head -c 1000000 /dev/zero").await;
    let log = agent.ends(&id).await["log"].clone();
    let path = format!("/processes/{id}/output?from=5");
    let answer = agent.ask_with(&path, &[("accept", "text/event-stream")]).await;
    let (name, _, gap) = &events(&answer.body)[0];
    assert_eq!((name.as_str(), gap), ("gap", &json!({"from": 5, "to": log["from"]})));
}

#[tokio::test]
async fn a_reader_of_plain_bytes_that_was_overrun_is_cut_where_it_shows() {
    let agent = Agent::start_with(|config| config.limits.log = 128 * 1024).await;
    let id = agent.command("head -c 100000 /dev/zero; read x; head -c 30000000 /dev/zero; read y").await;
    agent.attach(&id, "").await.reads(100_000).await;
    let mut socket = agent.connect("agent.sock").await.unwrap();
    let request = format!("GET /processes/{id}/output?follow=true HTTP/1.1\r\nhost: a\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    // It takes the beginning, and then nothing while 30 MB pass.
    let mut answer = vec![0; 1000];
    socket.read_exact(&mut answer).await.unwrap();
    agent.ask("POST", &format!("/processes/{id}/stdin"), "\n").await;
    agent.attach(&id, "from=now").await.shows_end(30_100_000).await;
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it is cut").unwrap();
    assert!(!answer.ends_with(b"0\r\n\r\n"), "a clean end");
}
