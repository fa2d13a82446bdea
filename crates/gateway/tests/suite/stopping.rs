//! Starting, readiness, and stopping in two steps.

use std::time::{Duration, Instant};

use landfast_core::ErrorCode;
use landfast_core::ws::Opcode;
use landfast_gateway::{Config, start};
use landfast_net::role::CancellationToken;

use crate::client::{bearer, head, send, websocket};
use crate::node::Node;
use crate::world::{World, soon};

#[tokio::test]
async fn a_started_gateway_lives_and_is_ready() {
    let world = World::start().await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(send(world.gateway, head("GET", path, &[]), b"").await.head.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_second_gateway_does_not_share_the_port_of_the_first() {
    let world = World::start().await;
    let config = Config { listen: world.gateway, ..Config::default() };
    let refused = start(config, &world.cell, world.store.clone(), CancellationToken::new()).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::ListenInUse);
}

#[tokio::test]
async fn an_idle_gateway_stops_at_once() {
    let mut world = World::start().await;
    let began = Instant::now();
    world.stopped().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_session_goes_on_until_the_deadline_and_is_then_told_why_it_ends() {
    let mut world = World::with(|config| config.drain_timeout_ms = 600).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    let mut ws =
        websocket(world.gateway, &format!("/i/{id}/processes/x/attach"), &[("Authorization", &token)]).await.unwrap();
    let began = Instant::now();
    let client = async {
        ws.send(Opcode::Text, b"still served").await;
        ws.closed().await
    };
    let ((code, reason), ()) = tokio::join!(client, world.stopped());
    assert_eq!((code, reason.as_str()), (1012, "gateway.draining"));
    assert!((600..3000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_second_signal_does_not_wait() {
    let mut world = World::with(|config| config.drain_timeout_ms = 60_000).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    let mut ws =
        websocket(world.gateway, &format!("/i/{id}/processes/x/attach"), &[("Authorization", &token)]).await.unwrap();
    let now = world.stop.now.clone();
    let client = async {
        now.cancel();
        ws.closed().await
    };
    let (closed, ()) = tokio::join!(client, world.stopped());
    assert_eq!(closed.0, 1012);
}

#[tokio::test]
async fn a_request_under_way_is_finished_and_nothing_new_is_taken() {
    let mut world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    world.phase(id, landfast_core::record::Phase::Starting).await;
    let request = head("GET", &format!("/i/{id}/80"), &[("Authorization", &bearer(&world.token(id)))]);
    let under_way = tokio::spawn(send(world.gateway, request, b""));
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.stop.drain.cancel();
    soon("the listener closes", async {
        while tokio::net::TcpStream::connect(world.gateway).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    world.phase(id, landfast_core::record::Phase::Running).await;
    assert_eq!(soon("an answer", under_way).await.unwrap().head.status, 200);
    world.stopped().await;
}
