//! What counts as somebody's doing something with the instance.

use std::time::Duration;

use landfast_core::ws::Opcode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::harness::{Agent, PATIENCE, attach_head, eventually};
use crate::services::bytes_of;
use crate::viewer::{Viewer, frame};
use crate::way::Way;

/// Long enough to be told from what has just happened, on a busy machine.
const WHILE: Duration = Duration::from_secs(1);

async fn idle(agent: &Agent) -> Duration {
    Duration::from_millis(agent.control("GET", "/healthz", "").await.json()["idle_ms"].as_u64().unwrap())
}

#[tokio::test]
async fn requests_and_bytes_to_and_from_services_are_activity() {
    let agent = Agent::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut near, _, _holding) = Way::to(&agent, 0).hold(&bytes_of(port)).await;
    let mut program = listener.accept().await.unwrap().0;
    for what in ["request", "to", "from"] {
        sleep(WHILE).await;
        assert!(idle(&agent).await >= WHILE);
        match what {
            "request" => drop(agent.ask("GET", "/processes", "").await),
            "to" => {
                near.write_all(b"x").await.unwrap();
                timeout(PATIENCE, program.read_exact(&mut [0])).await.unwrap().unwrap();
            }
            _ => {
                program.write_all(b"x").await.unwrap();
                timeout(PATIENCE, near.read_exact(&mut [0])).await.unwrap().unwrap();
            }
        }
        assert!(idle(&agent).await < WHILE, "{what}");
    }
}

#[tokio::test]
async fn a_request_that_takes_long_is_activity_as_long_as_it_takes() {
    let agent = Agent::start().await;
    let exec = async { agent.says("sleep 3").await };
    let looks = async {
        sleep(2 * WHILE).await;
        idle(&agent).await
    };
    assert_eq!(tokio::join!(exec, looks).1, Duration::ZERO);
    eventually("it is idle again", async || (idle(&agent).await > Duration::ZERO).then_some(())).await;
}

#[tokio::test]
async fn signs_of_life_and_new_links_are_none_and_keys_are() {
    let agent = Agent::start().await;
    let id = agent.terminal("stty raw -echo; exec cat > /dev/null").await;
    // Every link breaks after a kilobyte or two, so that the answers to pings need many.
    let way = Way::to(&agent, 1_000);
    let (near, ..) = way.hold(&attach_head(&id, "from=now")).await;
    let mut viewer = Viewer::new(near);
    viewer.goes_live().await;
    sleep(WHILE).await;
    for _ in 0..200 {
        viewer.sends(&frame(true, Opcode::Pong, b"landfast:1")).await;
        viewer.sends(&frame(true, Opcode::Ping, b"are you there")).await;
        viewer.next_pong().await;
    }
    assert!(idle(&agent).await >= WHILE);
    viewer.types(b"x").await;
    eventually("it was typed", async || (idle(&agent).await < WHILE).then_some(())).await;
}
