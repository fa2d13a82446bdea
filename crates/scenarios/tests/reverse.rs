//! A node that listens nowhere serves as any other does: it brings its connections to gateways and API servers.

use std::time::Duration;

use landfast_scenarios::cell::{Cell, Plan};
use landfast_scenarios::numbers::Numbers;
use landfast_scenarios::plain::{Event, PATIENCE};
use landfast_scenarios::served::{NAME, Served};
use landfast_scenarios::user::User;
use serde_json::json;
use tokio::time::timeout;

/// Everything that passes a relay, once.
async fn serves(cell: &Cell) {
    let served = Served::start(cell).await;
    let mut terminal = served.instance.terminal("cat").await.attach("now").await;
    terminal.goes_live().await;
    terminal.types("typed\n").await;
    terminal.shows("typed").await;
    let answer = served.ask("POST", "/anything", "body").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"POST /anything body"[..]));
    let mut socket = served.opens("/").await.expect("an echo");
    socket.send_text("hello").await;
    assert_eq!(socket.next().await, Event::Text("hello".to_owned()));
    // By way of the API server, which reaches the node too.
    let target = format!("/v1/instances/{}/exec", served.instance.id);
    let done = cell.operator.demand("POST", &target, Some(&json!({"shell": "echo done"}))).await;
    assert_eq!(done["stdout"], "done\n");
}

#[tokio::test]
async fn terminals_requests_and_websockets_reach_a_node_that_listens_nowhere() {
    let cell = Plan::default().reverse().start().await;
    let role = &cell.node_ref("a").role;
    assert_eq!(role.address().port(), 0);
    let nodes = cell.operator.demand("GET", "/v1/nodes", None).await;
    assert!(nodes["items"][0]["address"].as_str().unwrap().starts_with("reverse:"), "{nodes}");
    serves(&cell).await;
    let user = User::of(&cell.operator, &[cell.gateway.address()]);
    let ran = user.command(&["netcheck"]).output().await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
}

#[tokio::test]
async fn so_they_do_over_tls() {
    serves(&Plan::default().reverse().encrypted().start().await).await;
}

#[tokio::test]
async fn a_session_outlives_the_gateway_and_the_nodes_daemon() {
    let mut cell = Plan::default().reverse().start().await;
    let served = Served::start(&cell).await;
    let user = User::of(&cell.operator, &[cell.downstream.address()]);
    let forwarded = user.forwards(&served.instance, NAME).await;
    let upgrade = landfast_scenarios::plain::Upgrade {
        address: forwarded.address,
        target: "/".to_owned(),
        token: None,
        subprotocol: None,
        receive_buffer: None,
    };
    let mut client = landfast_scenarios::plain::PlainClient::open(&upgrade).await.expect("an echo");
    let numbers = Numbers::new(5);
    for round in 0..4 {
        match round {
            1 => cell.gateway_starts_afresh().await,
            2 => cell.nodes[0].role.restart().await,
            3 => {
                cell.gateway_starts_afresh().await;
                cell.nodes[0].role.restart().await;
            }
            _ => {}
        }
        let message = numbers.slice(round * 100_000, 100_000);
        client.send_binary(&[&message]).await;
        let heard = timeout(2 * PATIENCE, client.next()).await.expect("it goes on");
        assert!(heard == Event::Binary(message), "round {round}");
    }
}

#[tokio::test]
async fn a_hundred_connections_at_once_are_served() {
    for plan in [Plan::default().reverse(), Plan::default().reverse().encrypted()] {
        let cell = plan.start().await;
        let served = Served::start(&cell).await;
        let talks = (0..100).map(|number| {
            let served = served.clone();
            tokio::spawn(async move {
                let mut socket = served.opens("/").await.unwrap_or_else(|answer| panic!("{number}: {answer:?}"));
                for turn in 0..3 {
                    let said = format!("{number} {turn}");
                    socket.send_text(&said).await;
                    assert_eq!(socket.next().await, Event::Text(said));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        });
        for talk in talks.collect::<Vec<_>>() {
            talk.await.unwrap();
        }
    }
}

#[tokio::test]
async fn who_may_not_take_connections_cannot_reach_such_a_node_and_says_so() {
    let cell = Plan::default().reverse().start().await;
    let served = Served::start(&cell).await;
    let other = cell.another_gateway("1", Default::default()).await;
    let user = User::of(&cell.operator, &[other.address()]);
    let ran = user.command(&["netcheck"]).output().await.unwrap();
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.code() == Some(1) && text.contains("relay_listen"), "{text}");
    assert_eq!(served.ask("GET", "/", "").await.status, 200);
}
