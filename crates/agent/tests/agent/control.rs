//! What a node asks and tells, and how an agent starts and ends.

use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_net::socket::Socket;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::harness::{Agent, PATIENCE, eventually};

#[tokio::test]
async fn it_says_who_it_is() {
    let agent = Agent::start().await;
    agent.command("sleep 100").await;
    let health = agent.control("GET", "/healthz", "").await.json();
    assert_eq!(health["instance"], agent.instance());
    assert_eq!((&health["generation"], &health["processes"], &health["sessions"]), (&json!(3), &json!(1), &json!(0)));
    assert_eq!(health["pid"], std::process::id());
}

#[tokio::test]
async fn its_generation_only_rises() {
    let agent = Agent::start().await;
    let put = async |generation: u64| {
        agent.control("PUT", "/generation", &json!({"generation": generation}).to_string()).await
    };
    assert_eq!(put(5).await.status, 204);
    assert_eq!(put(5).await.status, 204);
    assert_eq!(put(4).await.refusal(), (409, "request.conflict".to_owned()));
    assert_eq!(agent.control("GET", "/healthz", "").await.json()["generation"], 5);
    assert_eq!(agent.control("PUT", "/generation", "{}").await.status, 400);
}

#[tokio::test]
async fn its_two_doors_do_not_lead_to_the_same() {
    let agent = Agent::start().await;
    for (method, path) in
        [("POST", "/shutdown"), ("GET", "/healthz"), ("GET", "/alive"), ("PUT", "/generation"), ("POST", "/fence")]
    {
        assert_eq!(agent.ask(method, path, "").await.status, 404, "{path} must not be reached through a relay");
    }
    assert_eq!(agent.control("GET", "/processes", "").await.status, 404);
    assert_eq!(agent.control("GET", "/shutdown", "").await.status, 405);
}

async fn alive(agent: &Agent) -> Socket {
    let mut socket = agent.connect("control.sock").await.unwrap();
    socket.write_all(b"GET /alive HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    timeout(PATIENCE, socket.read_exact(&mut head)).await.expect("it answers").unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    socket
}

#[tokio::test]
async fn the_answer_that_never_ends_ends_with_the_agent_however_that_ends() {
    for in_good_order in [true, false] {
        let mut agent = Agent::start().await;
        let mut socket = alive(&agent).await;
        let mut rest = Vec::new();
        assert!(timeout(Duration::from_millis(300), socket.read_to_end(&mut rest)).await.is_err(), "it ended early");
        if in_good_order {
            agent.stop().await;
        } else {
            agent.crash().await;
        }
        timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("it ends").unwrap();
    }
}

#[tokio::test]
async fn a_shutdown_is_answered_and_gives_processes_time_to_end() {
    let mut agent = Agent::start().await;
    let polite = "trap 'echo told >> told; exit 0' HUP TERM; echo set; while :; do sleep 0.05; done";
    for id in [agent.terminal(polite).await, agent.command(polite).await] {
        agent.attach(&id, "").await.shows("set").await;
    }
    let stubborn = agent.command("trap '' HUP TERM INT; echo $$ > pid; echo set; while :; do sleep 1; done").await;
    agent.attach(&stubborn, "").await.shows("set").await;
    let pid = std::fs::read_to_string(agent.home().join("pid")).unwrap();
    let mut viewer = agent.attach(&stubborn, "from=now").await;
    viewer.goes_live().await;

    assert_eq!(agent.control("POST", "/shutdown", "").await.status, 202);
    // The viewer is cut without a word: why the instance ends is for others to say.
    let mut byte = [0];
    let cut = timeout(PATIENCE, viewer.stream().read(&mut byte)).await.expect("it is cut");
    assert!(matches!(cut, Ok(0) | Err(_)), "{cut:?}");
    timeout(Duration::from_secs(5), agent.ended()).await.expect("within what its node waits");
    assert_eq!(std::fs::read_to_string(agent.home().join("told")).unwrap(), "told\ntold\n");
    eventually("the stubborn one is gone", async || {
        (!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn two_agents_do_not_share_a_directory_and_a_dead_ones_sockets_are_no_hindrance() {
    let mut agent = Agent::start().await;
    let second = landfast_agent::run(agent.config(), tokio_util::sync::CancellationToken::new()).await;
    assert_eq!(second.unwrap_err().code, ErrorCode::ListenInUse);
    agent.crash().await;
    assert!(agent.socket("agent.sock").exists());
    agent.start_again().await;
    assert_eq!(agent.ask("GET", "/processes", "").await.status, 200);
}

#[tokio::test]
async fn an_instance_has_no_more_processes_than_allowed() {
    let agent = Agent::start_with(|config| config.limits.processes = 2).await;
    let first = agent.command("sleep 100").await;
    agent.command("exit 0").await;
    let wish = json!({"shell": "true"}).to_string();
    for path in ["/processes", "/exec"] {
        assert_eq!(agent.ask("POST", path, wish.clone()).await.refusal(), (429, "limit.processes".to_owned()));
    }
    assert_eq!(agent.ask("DELETE", &format!("/processes/{first}"), "").await.status, 204);
    assert_eq!(agent.ask("POST", "/processes", wish).await.status, 201);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let agent = Agent::start().await;
    let wish = json!({"shell": "x".repeat(5 << 20)}).to_string();
    assert_eq!(agent.ask("POST", "/processes", wish).await.refusal(), (413, "limit.body".to_owned()));
}
