//! Services that the agent keeps running.

use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_core::record::{Ready, Service, ServiceRestart};
use landfast_net::head::write_all;
use landfast_net::link::{LinkError, OpenRequest};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::time::{Instant, timeout};

use crate::harness::{Agent, PATIENCE, eventually};
use crate::programs::{DELAY_MS, server};
use crate::services::{bytes_of, ending};
use crate::way::{Holding, Way};

/// An agent with one service `web`, on a socket unless `change` says otherwise.
async fn agent_with(change: impl FnOnce(&mut Service)) -> Agent {
    let mut web = Service { socket: Some("web.sock".to_owned()), ..server() };
    change(&mut web);
    Agent::start_with(|config| {
        config.services.insert("web".parse().unwrap(), web);
    })
    .await
}

async fn status(agent: &Agent) -> Value {
    let list = agent.ask("GET", "/services", "").await.json();
    assert_eq!(list["services"][0]["name"], "web", "{list}");
    list["services"][0].clone()
}

/// Waits until the service is as described.
async fn becomes(agent: &Agent, state: &str, start: u64) -> Value {
    eventually(&format!("{state} at start {start}"), async || {
        let status = status(agent).await;
        (status["state"] == state && status["start"] == start).then_some(status)
    })
    .await
}

async fn restart(agent: &Agent) {
    assert_eq!(agent.ask("POST", "/services/web/restart", "").await.status, 202);
}

async fn output(agent: &Agent) -> String {
    String::from_utf8(agent.ask("GET", "/services/web/output", "").await.body.to_vec()).unwrap()
}

/// A conversation with the service, line by line.
struct Talk {
    stream: BufReader<DuplexStream>,
    holding: Holding,
}

impl Talk {
    async fn with(agent: &Agent, service: &str) -> Self {
        let (near, _, holding) = Way::to(agent, 0).hold(&bytes_of(service)).await;
        Self { stream: BufReader::new(near), holding }
    }

    async fn say(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn ask(&mut self, line: &str) -> String {
        self.say(line).await;
        let mut answer = String::new();
        timeout(PATIENCE, self.stream.read_line(&mut answer)).await.expect("it answers").unwrap();
        answer.trim_end().to_owned()
    }

    async fn ended(self) -> ErrorCode {
        ending(self.holding).await
    }
}

async fn refused(agent: &Agent) -> (u16, ErrorCode) {
    match Way::to(agent, 0).open(bytes_of("web")).await {
        Err(LinkError::Refused(refusal)) => (refusal.head.status, refusal.code()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_service_is_started_with_the_agent_in_its_environment_and_reached_while_it_starts() {
    let agent = agent_with(|web| {
        web.env = [(DELAY_MS, "1000"), ("MINE", "too"), ("LANDFAST_SERVICE", "forged")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    })
    .await;
    assert_eq!(status(&agent).await["state"], "starting");
    let mut talk = Talk::with(&agent, "web").await;
    assert_eq!(talk.ask("who").await, format!("{} web too yes", agent.instance()));
    let status = status(&agent).await;
    assert_eq!((&status["state"], &status["start"], &status["exit"]), (&json!("up"), &json!(1), &Value::Null));
    assert!(status["pid"].as_i64().unwrap() > 0 && status["since"].as_u64().unwrap() > 0);
    assert!(output(&agent).await.contains("web begins"));
}

#[tokio::test]
async fn a_port_by_number_that_is_a_services_is_that_service() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let agent = agent_with(|web| {
        (web.port, web.socket) = (Some(port), None);
        web.env.insert(DELAY_MS.to_owned(), "300".to_owned());
    })
    .await;
    let mut talk = Talk::with(&agent, &port.to_string()).await;
    assert_eq!(talk.ask("hello").await, "hello");
    restart(&agent).await;
    assert_eq!(talk.ended().await, ErrorCode::UpstreamChanged);
}

#[tokio::test]
async fn a_service_that_dies_takes_its_conversations_with_it_and_is_started_again() {
    let agent = agent_with(|_| {}).await;
    let (mut talk, mut other) = (Talk::with(&agent, "web").await, Talk::with(&agent, "web").await);
    assert_eq!(other.ask("hello").await, "hello");
    talk.say("die").await;
    assert_eq!((talk.ended().await, other.ended().await), (ErrorCode::UpstreamLost, ErrorCode::UpstreamLost));
    // Not refused, although nothing listens for the moment.
    let mut talk = Talk::with(&agent, "web").await;
    assert_eq!(talk.ask("again").await, "again");
    let status = becomes(&agent, "up", 2).await;
    assert_eq!(status["exit"], json!({"code": 3}));
    assert_eq!(output(&agent).await.matches("web begins").count(), 2, "one log for all starts");
    talk.say("bye").await;
    assert_eq!(talk.ended().await, ErrorCode::UpstreamEnded, "the service lives");
}

#[tokio::test]
async fn who_talked_to_the_start_before_hears_that_another_has_followed() {
    let agent = agent_with(|_| {}).await;
    let mut talk = Talk::with(&agent, "web").await;
    assert_eq!(talk.ask("hello").await, "hello");
    restart(&agent).await;
    assert_eq!(talk.ended().await, ErrorCode::UpstreamChanged);
    becomes(&agent, "up", 2).await;
}

#[tokio::test]
async fn a_service_that_need_not_run_stays_down_until_it_is_asked_for() {
    let agent = agent_with(|web| web.restart = ServiceRestart::Never).await;
    let mut talk = Talk::with(&agent, "web").await;
    talk.say("die").await;
    assert_eq!(talk.ended().await, ErrorCode::UpstreamLost);
    let status = becomes(&agent, "failed", 1).await;
    assert_eq!(status["pid"], Value::Null);
    assert_eq!(refused(&agent).await, (502, ErrorCode::UpstreamRefused));
    restart(&agent).await;
    assert_eq!(Talk::with(&agent, "web").await.ask("hello").await, "hello");
}

#[tokio::test]
async fn a_service_is_up_when_its_path_is_answered_well() {
    let agent = agent_with(|web| web.ready = Ready { path: Some("/health".to_owned()), within: 60 }).await;
    let waiting = async { Talk::with(&agent, "web").await.ask("hello").await };
    let made_ready = async {
        eventually("it listens", async || agent.home().join("web.sock").exists().then_some(())).await;
        assert_eq!(status(&agent).await["state"], "starting");
        std::fs::write(agent.home().join("ready"), "").unwrap();
    };
    assert_eq!(tokio::join!(waiting, made_ready).0, "hello");
}

#[tokio::test]
async fn who_waits_for_a_service_that_does_not_come_up_is_told_after_five_seconds() {
    let agent = agent_with(|web| (web.argv, web.shell) = (vec![], Some("sleep 1000".to_owned()))).await;
    let began = Instant::now();
    assert_eq!(refused(&agent).await, (503, ErrorCode::InstanceStarting));
    assert!(began.elapsed() >= Duration::from_secs(5));
    assert_eq!(agent.sessions().await, 0);
}

#[tokio::test]
async fn somebody_elses_server_on_the_port_is_not_taken_for_the_service() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let agent = agent_with(|web| {
        (web.port, web.socket) = (Some(port), None);
        (web.argv, web.shell) = (vec![], Some("sleep 1000".to_owned()));
    })
    .await;
    assert_eq!(refused(&agent).await, (503, ErrorCode::InstanceStarting));
    assert_eq!(status(&agent).await["state"], "starting");
}

#[tokio::test]
async fn who_waits_and_leaves_is_not_waited_for() {
    let agent = agent_with(|web| (web.argv, web.shell) = (vec![], Some("sleep 1000".to_owned()))).await;
    let mut socket = agent.connect("agent.sock").await.unwrap();
    write_all(&mut socket, &OpenRequest::new(bytes_of("web")).encode("/links").encode()).await.unwrap();
    eventually("it is held", async || (agent.sessions().await == 1).then_some(())).await;
    let began = Instant::now();
    drop(socket);
    eventually("it is gone", async || (agent.sessions().await == 0).then_some(())).await;
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn what_a_service_has_started_ends_with_it() {
    let shell = "sleep 1000 & echo $! >> children; wait_for=$(wc -l < children); [ $wait_for -gt 1 ] && exec sleep 1000; exit 1";
    let agent = agent_with(|web| (web.argv, web.shell) = (vec![], Some(shell.to_owned()))).await;
    becomes(&agent, "starting", 2).await;
    let children = eventually("both have begun", async || {
        let children = std::fs::read_to_string(agent.home().join("children")).ok()?;
        (children.lines().count() == 2).then_some(children)
    })
    .await;
    let lives = |pid: &str| std::path::Path::new(&format!("/proc/{pid}")).exists();
    let children: Vec<_> = children.lines().collect();
    assert!(lives(children[1]));
    eventually("the first start's child is gone", async || (!lives(children[0])).then_some(())).await;
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_named() {
    let agent = agent_with(|web| web.argv = vec!["/no/such/program".to_owned()]).await;
    let status = eventually("it is tried", async || {
        let status = status(&agent).await;
        status["error"].is_string().then_some(status)
    })
    .await;
    assert!(status["error"].as_str().unwrap().contains("/no/such/program"), "{status}");
    assert_eq!(status["pid"], Value::Null);
    assert_eq!(agent.ask("GET", "/services/other/output", "").await.refusal().0, 404);
    assert_eq!(agent.ask("POST", "/services/other/restart", "").await.refusal().1, "service.unknown");
    assert_eq!(agent.ask("GET", "/services/web/restart", "").await.status, 405);
}

#[tokio::test]
async fn services_end_with_the_agent_in_good_order() {
    let shell = "trap 'echo told > told; exit 0' TERM; echo set > set; while :; do sleep 0.05; done";
    let mut agent = agent_with(|web| (web.argv, web.shell) = (vec![], Some(shell.to_owned()))).await;
    eventually("it is set", async || agent.home().join("set").exists().then_some(())).await;
    agent.stop().await;
    assert!(agent.home().join("told").exists());
}

#[tokio::test]
async fn a_service_that_does_not_end_when_asked_is_killed_after_ten_seconds() {
    let shell = "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done";
    let mut agent = agent_with(|web| (web.argv, web.shell) = (vec![], Some(shell.to_owned()))).await;
    let pid = agent.home().join("pid");
    let pid =
        eventually("it runs", async || std::fs::read_to_string(&pid).ok().filter(|pid| pid.ends_with('\n'))).await;
    let began = Instant::now();
    agent.stop().await;
    assert!(began.elapsed() >= Duration::from_secs(10));
    assert!(!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists());
}

#[tokio::test]
async fn whoever_follows_the_output_hears_a_start_to_its_end_and_goes_on_with_the_next() {
    let agent = agent_with(|_| {}).await;
    assert_eq!(Talk::with(&agent, "web").await.ask("hello").await, "hello");
    let (mut follower, mut said) = (agent.connect("agent.sock").await.unwrap(), String::new());
    let follow = b"GET /services/web/output?follow=true HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n";
    write_all(&mut follower, follow).await.unwrap();
    // Nothing was read yet when the next start begins.
    restart(&agent).await;
    becomes(&agent, "up", 2).await;
    let mut buffer = [0; 4096];
    while !said.contains("event: exit") {
        let read = timeout(PATIENCE, follower.read(&mut buffer)).await.expect("it is told").unwrap();
        assert!(read > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    assert!(!said.contains("event: gap"), "{said}");
    let last = said.rsplit("id: ").next().unwrap().lines().next().unwrap().to_owned();
    let rest = agent.ask("GET", &format!("/services/web/output?from={last}"), "").await;
    assert_eq!(rest.headers["landfast-offset"], last.as_str());
    assert_eq!(String::from_utf8_lossy(&rest.body).matches("web begins").count(), 1, "the next start's");
}
