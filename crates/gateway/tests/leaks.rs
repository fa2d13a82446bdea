//! Ten thousand sessions come and go, and leave nothing behind. Alone in its program, because it counts what the whole
//! process holds.

#![allow(unreachable_pub, dead_code, reason = "the modules of another test program, of which this one uses a part")]

#[path = "suite/client.rs"]
mod client;
#[path = "suite/node.rs"]
mod node;
#[path = "suite/world.rs"]
mod world;

use std::time::{Duration, Instant};

use landfast_core::link::Close;
use landfast_core::ws::{self, Opcode};
use landfast_core::{ErrorCode, InstanceId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::client::{Frame, bearer, masked, unmasked, websocket};
use crate::node::{FarEnd, Node};
use crate::world::{World, until};

const SESSIONS: usize = 10_000;

/// Sessions at a time: enough that ends of all kinds meet each other.
const AT_A_TIME: usize = 50;

/// What memory may have grown by: allocators do not give everything back, but a kilobyte a session is not that.
const GROWN_MAX: usize = 8 << 20;

/// How one session ends.
#[derive(Clone, Copy)]
enum End {
    ClientCloses,
    ClientVanishes,
    ProcessExits,
    Refused,
}

#[tokio::test]
async fn ten_thousand_sessions_leave_nothing_behind() {
    let mut world = World::with(|config| config.drain_timeout_ms = 60_000).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    let far_ends = tokio::spawn(serve(node.clone()));
    run(&world, id, &token, 500).await;
    settled(&node).await;
    let before = held();
    run(&world, id, &token, SESSIONS).await;
    settled(&node).await;
    until("every descriptor is closed", || held().0 <= before.0).await;
    let grown = held().1.saturating_sub(before.1);
    assert!(grown < GROWN_MAX, "{grown} bytes more than before");
    // A worker stops when its last task has ended, so a stop at once says that there is none.
    let began = Instant::now();
    world.stopped().await;
    assert!(began.elapsed() < Duration::from_secs(2), "a task was left: {:?}", began.elapsed());
    far_ends.abort();
}

async fn run(world: &World, id: InstanceId, token: &str, count: usize) {
    let mut running = JoinSet::new();
    for number in 0..count {
        if running.len() == AT_A_TIME {
            running.join_next().await.unwrap().unwrap();
        }
        let end = [End::ClientCloses, End::ClientVanishes, End::ProcessExits, End::Refused][number % 4];
        running.spawn(session(world.gateway, id, token.to_owned(), end));
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

async fn session(gateway: std::net::SocketAddr, id: InstanceId, token: String, end: End) {
    let path = if matches!(end, End::Refused) { "80/refused" } else { "processes/x/attach" };
    let opened = websocket(gateway, &format!("/i/{id}/{path}"), &[("Authorization", &token)]).await;
    let mut ws = match (end, opened) {
        (End::Refused, refused) => return assert_eq!(refused.unwrap_err().head.status, 404),
        (End::ClientCloses | End::ClientVanishes | End::ProcessExits, opened) => opened.unwrap(),
    };
    let word: &[u8] = if matches!(end, End::ProcessExits) { b"end" } else { b"say" };
    ws.send(Opcode::Text, word).await;
    assert_eq!(ws.next().await, Some(Frame::Data(b"ok".to_vec())));
    match end {
        End::ClientCloses => {
            ws.send(Opcode::Close, &1000u16.to_be_bytes()).await;
            assert_eq!(ws.next().await, Some(Frame::Close(1000, String::new())));
            assert_eq!(ws.next().await, None);
        }
        End::ClientVanishes | End::Refused => drop(ws),
        End::ProcessExits => assert_eq!(ws.closed().await, (1000, "process.exited".into())),
    }
}

/// The far ends: each says "ok" to a word, and ends when it is told to or its client closes.
async fn serve(node: Node) {
    loop {
        let far = node.far_end().await;
        tokio::spawn(answer(far));
    }
}

async fn answer(mut far: FarEnd) {
    let mut word = vec![0; masked(Opcode::Text, b"say").len()];
    if far.pipe.read_exact(&mut word).await.is_err() {
        return;
    }
    far.pipe.write_all(&unmasked(Opcode::Text, b"ok")).await.unwrap();
    let mut close = Vec::new();
    if word == masked(Opcode::Text, b"end") {
        ws::encode_close(1000, "process.exited", &mut close);
    } else if far.pipe.read_exact(&mut vec![0; masked(Opcode::Close, &[0, 0]).len()]).await.is_ok() {
        ws::encode_close(1000, "", &mut close);
    }
    // A client that vanished hears nothing more.
    let _ = far.pipe.write_all(&close).await;
    far.end(Close::new(ErrorCode::ProcessExited, "")).await.unwrap();
}

async fn settled(node: &Node) {
    until("every session has ended", || node.sessions() == 0).await;
}

/// Open descriptors and resident bytes of this process.
fn held() -> (usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    (descriptors, pages * 4096)
}
