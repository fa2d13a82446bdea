//! A storm of tokens in every place where a token may be, at the most talkative level: not one of them is in the log.
//! Alone in its program, because a program has one log.

#![allow(unreachable_pub, dead_code, reason = "the modules of another test program, of which this one uses a part")]

#[path = "suite/client.rs"]
mod client;
#[path = "suite/log.rs"]
mod log;
#[path = "suite/node.rs"]
mod node;
#[path = "suite/world.rs"]
mod world;

use landfast_core::InstanceId;
use landfast_net::head::{HEAD_MAX, read_response, write_all};
use landfast_net::link::OpenRequest;
use landfast_net::random;
use landfast_registry::token::Scope;
use tokio::task::JoinSet;

use crate::client::{connect, head, send, websocket};
use crate::log::Log;
use crate::node::Node;
use crate::world::{World, soon, until};

/// Every place, path, kind of request and kind of token with every other.
const REQUESTS: usize = 5 * 5 * 3 * 6;

/// A token in one of its places, in a request of one of its kinds; what comes of it is not the point.
async fn ask(world: (std::net::SocketAddr, InstanceId), token: String, number: usize) {
    let (gateway, id) = world;
    let path = ["80/x", "processes/x/attach", "80/cut-before", "exec", "80/refused"][number / 5 % 5];
    let (mut target, mut lines) = (format!("/i/{id}/{path}"), Vec::new());
    match number % 5 {
        0 => lines.push(("Authorization", format!("Bearer {token}"))),
        1 => target += &format!("?a=1&token={token}"),
        2 => target += &format!("?jwt={token}&b=2"),
        3 => lines.push(("Sec-WebSocket-Protocol", format!("one, landfast.token.{token}"))),
        _ => lines.push(("Cookie", format!("a=b; landfast_token={token}"))),
    }
    let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
    match number / 25 % 3 {
        0 => drop(send(gateway, head("POST", &target, &lines), b"body").await),
        1 => drop(websocket(gateway, &target, &lines).await),
        // A link whose inner request carries the token once more.
        _ => {
            let inner = head("GET", &format!("/processes/x/attach?token={token}"), &lines);
            let mut outer = OpenRequest::new(inner).encode(&format!("/i/{id}/links"));
            lines.iter().for_each(|(name, value)| outer.headers.push(name, value));
            outer.headers.push("Host", "box.test");
            let mut socket = connect(gateway).await;
            write_all(&mut socket, &outer.encode()).await.unwrap();
            drop(soon("an answer", read_response(&mut socket, HEAD_MAX)).await);
        }
    }
}

#[tokio::test]
async fn a_storm_of_token_carriers_leaves_no_token_in_the_log_and_a_log_that_is_off_has_no_lines() {
    let log = Log::kept();
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let (id, other) = (world.instance_at(&node).await, world.instance_at(&node).await);
    let (mut asking, mut secrets) = (JoinSet::new(), Vec::new());
    for number in 0..REQUESTS {
        let (jti, good) = world.token_of(id, &[Scope::All], 600);
        let token = match number / 75 {
            0 => world.token(other),
            1 => world.token_of(id, &[Scope::All], -10).1,
            2 => format!("{good}x"),
            3 => format!("nonsense-{}", random::token_id()),
            4 => {
                world.revoke(jti).await;
                good
            }
            _ => good,
        };
        secrets.push(token.clone());
        asking.spawn(ask((world.gateway, id), token, number));
        if asking.len() == 32 {
            asking.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
    until("every line is written", || log.access().len() >= REQUESTS).await;
    let text = log.text();
    for secret in &secrets {
        // The last third of a token is its signature; without it the rest opens nothing.
        let signature = &secret[secret.len() * 2 / 3..];
        assert!(!text.contains(signature), "{signature} is in the log");
    }

    let quiet = World::with(|config| config.access_log = false).await;
    let node = Node::start(quiet.cell.key()).await;
    let id = quiet.instance_at(&node).await;
    let before = log.access().len();
    let token = format!("Bearer {}", quiet.token(id));
    let answer = send(quiet.gateway, head("GET", &format!("/i/{id}/80/x"), &[("Authorization", &token)]), b"").await;
    assert_eq!((answer.head.status, log.access().len()), (200, before));
}
