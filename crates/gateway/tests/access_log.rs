//! The access log: one line for each request and each session, with what an operator asks for and nothing secret. Alone
//! in its program, because a program has one log.

#![allow(unreachable_pub, dead_code, reason = "the modules of another test program, of which this one uses a part")]

#[path = "suite/client.rs"]
mod client;
#[path = "suite/log.rs"]
mod log;
#[path = "suite/node.rs"]
mod node;
#[path = "suite/world.rs"]
mod world;

use landfast_core::ErrorCode;
use landfast_core::link::Close;
use landfast_core::record::Phase;
use landfast_core::ws::Opcode;
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::client::{bearer, head, masked, send, send_bytes, websocket};
use crate::log::Log;
use crate::node::Node;
use crate::world::{World, soon, until};

#[tokio::test]
async fn a_line_says_what_was_asked_where_it_went_and_how_it_ended_and_holds_no_secret() {
    let log = Log::kept();
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = world.token(id);

    let request = head("POST", &format!("/i/{id}/exec?token={token}&secret=hush"), &[]);
    let answer = send(world.gateway, request, b"hello").await;
    until("the request's line", || log.access().len() == 1).await;
    let line = &log.access()[0];
    let expected = json!({"request": answer.header("landfast-request-id").unwrap(), "method": "POST",
        "path": format!("/i/{id}/exec"), "instance": id.to_string(), "generation": 1, "status": 200, "attempts": 1,
        "links": 0, "up": 5, "down": 5, "client": "127.0.0.1", "http": "1.1"});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name} in {line}");
    }
    assert!(
        line["ms"].is_f64() && line["first_byte_ms"].as_f64() <= line["ms"].as_f64() && line.get("cause").is_none(),
        "{line}"
    );

    send(world.gateway, head("GET", &format!("/i/{id}/80"), &[("Authorization", "Bearer nonsense-secret")]), b"").await;
    until("the refusal's line", || log.access().len() == 2).await;
    let line = &log.access()[1];
    assert_eq!((&line["status"], &line["cause"], &line["attempts"]), (&json!(401), &json!("auth.invalid"), &json!(0)));

    let target = format!("/i/{id}/processes/x/attach?jwt={token}");
    let mut ws = websocket(world.gateway, &target, &[]).await.unwrap();
    let mut far = node.far_end().await;
    for word in [b"one", b"two"] {
        ws.send(Opcode::Text, word).await;
        soon("a word", far.pipe.read_exact(&mut vec![0; masked(Opcode::Text, word).len()])).await.unwrap();
        node.cut();
    }
    world.phase(id, Phase::Stopped).await;
    ws.closed().await;
    until("the session's line", || log.access().len() == 3).await;
    let line = &log.access()[2];
    assert!(line["first_byte_ms"].as_f64() < line["ms"].as_f64(), "{line}");
    let words = masked(Opcode::Text, b"one").len() * 2;
    assert_eq!((&line["status"], &line["cause"]), (&json!(101), &json!("instance.stopped")));
    assert_eq!((&line["up"], line["links"].as_u64().unwrap() >= 2), (&json!(words), true), "{line}");

    // A program that ends its own connection tells its client nothing; the line does.
    let elsewhere = world.instance_at(&node).await;
    let target = format!("/i/{elsewhere}/80/socket?token={}", world.token(elsewhere));
    let mut ws = websocket(world.gateway, &target, &[]).await.unwrap();
    node.far_end().await.end(Close::new(ErrorCode::UpstreamEnded, ""));
    assert_eq!(ws.next().await, None);
    drop(ws);
    until("the ended session's line", || log.access().len() == 4).await;
    assert_eq!(log.access()[3]["cause"], json!("upstream.ended"));

    send(world.gateway, head("GET", "/livez", &[]), b"").await;
    assert_eq!(log.access().len(), 4, "health checks are not logged");
    send_bytes(world.gateway, b"NONSENSE secret-too\r\n\r\n").await;
    until("the line of what was no request", || log.access().len() == 5).await;
    let line = &log.access()[4];
    assert_eq!((&line["status"], &line["cause"]), (&json!(400), &json!("request.invalid")));
    assert_eq!((&line["client"], line.get("request")), (&json!("127.0.0.1"), None));

    for secret in
        [&token[token.len() - 40..], "hush", "nonsense-secret", &world.cell.key().to_hex(), &bearer(""), "secret-too"]
    {
        assert!(!log.text().contains(secret), "{secret:?} was logged");
    }
}
