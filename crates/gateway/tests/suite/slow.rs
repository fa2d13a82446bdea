//! Clients that are slow, or do nothing: each wait ends, and says why where it can be said.

use std::time::{Duration, Instant};

use landfast_core::ErrorCode;
use landfast_net::head::{HEAD_MAX, read_response, write_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{bearer, connect, head, send_bytes};
use crate::node::Node;
use crate::world::{World, soon};

/// What a test waits out: long against a turn of the scheduler, short for whoever waits for the tests.
const SHORT_MS: u64 = 300;

async fn elapsed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (soon("an end", future).await, began.elapsed())
}

fn is_about(elapsed: Duration) -> bool {
    (Duration::from_millis(SHORT_MS)..Duration::from_millis(10 * SHORT_MS)).contains(&elapsed)
}

#[tokio::test]
async fn a_client_that_connects_and_says_nothing_is_left_after_the_heads_deadline_and_not_the_idle_one() {
    let world = World::with(|config| config.head_timeout_ms = SHORT_MS).await;
    let mut socket = connect(world.gateway).await;
    let (rest, took) = elapsed(async { socket.read_to_end(&mut Vec::new()).await.unwrap() }).await;
    assert!(rest == 0 && is_about(took), "{rest} bytes after {took:?}");
}

#[tokio::test]
async fn a_head_that_comes_letter_by_letter_has_one_deadline_from_the_accept() {
    let world = World::with(|config| config.head_timeout_ms = SHORT_MS).await;
    let mut socket = connect(world.gateway).await;
    tokio::time::sleep(Duration::from_millis(SHORT_MS / 2)).await;
    let dribble = async {
        for letter in b"GET / HTTP/1.1\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'a')) {
            if socket.write_all(&[*letter]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            if let Ok(head) = tokio::time::timeout(Duration::from_millis(1), read_response(&mut socket, HEAD_MAX)).await
            {
                return head.unwrap();
            }
        }
        panic!("ended without a word");
    };
    let (head, took) = elapsed(dribble).await;
    assert_eq!((head.status, head.headers.get("landfast-error")), (408, Some("request.timeout")));
    assert!(took < Duration::from_millis(5 * SHORT_MS), "{took:?}");
}

#[tokio::test]
async fn a_connection_may_be_idle_between_requests_for_longer_than_a_head_may_take() {
    let world = World::with(|config| {
        config.head_timeout_ms = SHORT_MS;
        config.idle_timeout_ms = 3 * SHORT_MS;
    })
    .await;
    let mut socket = connect(world.gateway).await;
    for _ in 0..2 {
        write_all(&mut socket, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(soon("an answer", read_response(&mut socket, HEAD_MAX)).await.unwrap().status, 200);
        tokio::time::sleep(Duration::from_millis(SHORT_MS * 3 / 2)).await;
    }
    let (rest, _) = elapsed(async { socket.read_to_end(&mut Vec::new()).await.unwrap() }).await;
    assert_eq!(rest, 0, "idle for too long is no error");
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up_with_a_word() {
    let world = World::with(|config| config.body_timeout_ms = SHORT_MS).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let lines = [("Authorization", bearer(&world.token(id))), ("Content-Length", "100".to_owned())];
    let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let request = head("POST", &format!("/i/{id}/80/whole"), &lines);
    let (answer, took) = elapsed(send_bytes(world.gateway, &[request.encode().as_slice(), b"half"].concat())).await;
    assert_eq!(answer.cause(), (408, Some(ErrorCode::RequestTimeout)));
    assert!(is_about(took), "{took:?}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_left() {
    let world = World::with(|config| config.slow_client_timeout_ms = SHORT_MS).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let request = head(
        "POST",
        &format!("/i/{id}/80/echo"),
        &[("Authorization", &bearer(&world.token(id))), ("Content-Length", "60000000")],
    );
    let mut socket = connect(world.gateway).await;
    write_all(&mut socket, &request.encode()).await.unwrap();
    // It goes on sending what comes back to it, until nobody takes it any more.
    let (sent, _) = elapsed(async {
        let mut sent = 0;
        while sent < 60_000_000 && socket.write_all(&[7; 10_000]).await.is_ok() {
            sent += 10_000;
        }
        sent
    })
    .await;
    assert!(sent < 60_000_000, "everything was taken");
    let mut heard = Vec::new();
    let end = soon("its end", socket.read_to_end(&mut heard)).await;
    assert!(end.is_err() || heard.len() < 60_000_000, "an answer that was cut looks whole");
}
