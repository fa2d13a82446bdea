//! Requests and WebSockets to a service of an instance: what each answer proves, and what the client is told.

use landfast_scenarios::cell::{Cell, Plan, eventually};
use landfast_scenarios::peer::free_address;
use landfast_scenarios::plain::{Event, PlainClient};
use landfast_scenarios::served::{Elsewhere, Served};
use serde_json::json;

/// What a client is told by a request and by an upgrade: the same.
async fn told(served: &Served, target: &str) -> (u16, String) {
    let request = served.ask("POST", target, "body").await;
    let upgrade = served.opens(target).await.expect_err("an upgrade that is refused has a status");
    assert_eq!(request.refusal(), upgrade.refusal(), "a request and an upgrade");
    request.refusal()
}

#[tokio::test]
async fn a_service_answers_a_request_and_says_who_it_is() {
    let cell = Cell::start().await;
    let served = Served::start(&cell).await;
    let answer = served.ask("POST", "/anything?x=1", "body").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"POST /anything?x=1 body"[..]));
    assert_eq!(answer.header("landfast-instance"), Some(served.instance.id.as_str()));
    assert_eq!(answer.header("landfast-generation"), Some("1"));
    assert_eq!(answer.header("landfast-attempts"), Some("1"));
    assert!(answer.header("landfast-request-id").is_some() && answer.header("landfast-error").is_none());
}

#[tokio::test]
async fn what_a_service_answers_is_passed_on_unchanged_and_asked_once() {
    let cell = Cell::start().await;
    let served = Served::start(&cell).await;
    for status in [404, 500, 503] {
        // Its spec does not say that it may speak for Landfast.
        let answer = served.ask("GET", &format!("/refuse/{status}/node.not_here"), "").await;
        assert_eq!((answer.status, &answer.body[..]), (status, &b"refused"[..]));
        assert_eq!((answer.header("landfast-error"), answer.header("landfast-attempts")), (None, Some("1")));
    }
}

#[tokio::test]
async fn a_service_that_may_say_so_is_believed_that_it_has_not_run_a_request() {
    let cell = Cell::start().await;
    let served = Served::start_with(&cell, &json!({"retry_signals": true})).await;
    let answer = served.ask("POST", "/refuse/503/node.not_here", "body").await;
    assert_eq!(answer.refusal(), (503, "node.not_here".to_owned()));
    let attempts: u32 = answer.header("landfast-attempts").expect("attempts are told").parse().expect("a number");
    assert!(attempts > 1, "asked {attempts} times");
}

#[tokio::test]
async fn a_service_that_is_none_of_the_instance_and_a_port_where_nobody_listens_are_told_apart() {
    let cell = Cell::start().await;
    let mut served = Served::start(&cell).await;
    let closed = free_address().unwrap().port();
    served.place = "other".to_owned();
    assert_eq!(told(&served, "/").await, (404, "service.unknown".to_owned()));
    served.place = closed.to_string();
    assert_eq!(told(&served, "/").await, (502, "upstream.refused".to_owned()));
}

#[tokio::test]
async fn an_instance_that_was_deleted_is_gone() {
    let cell = Cell::start().await;
    let served = Served::start(&cell).await;
    served.instance.is_deleted().await;
    served.instance.comes_to("deleted").await;
    assert_eq!(told(&served, "/").await, (410, "instance.gone".to_owned()));
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_waited_for_and_then_told() {
    let cell = Plan::default().gateway("route_deadline_ms", "1000").start().await;
    let served = Served::start(&cell).await;
    let node = cell.node_ref("a");
    node.network.refuse(true);
    node.network.cut();
    let (status, code) = told(&served, "/").await;
    assert_eq!((status, code.as_str()), (503, "node.unreachable"));
    node.network.refuse(false);
    assert_eq!(served.ask("POST", "/", "").await.status, 200);
}

#[tokio::test]
async fn an_instance_that_is_deleted_while_it_is_waited_for_ends_the_wait() {
    let cell = Cell::start().await;
    let served = Served::start(&cell).await;
    let network = &cell.node_ref("a").network;
    network.refuse(true);
    network.cut();
    let before = network.accepted();
    let (request, upgrade, ()) = tokio::join!(served.ask("POST", "/", "body"), served.opens("/socket"), async {
        let tried = async || (network.accepted() > before + 2).then_some(());
        eventually("the gateway has tried to reach it", tried).await;
        served.instance.is_deleted().await;
    });
    let upgrade = upgrade.expect_err("an upgrade that is refused has a status");
    assert_eq!(request.refusal(), (410, "instance.gone".to_owned()));
    assert_eq!(upgrade.refusal(), request.refusal());
}

#[tokio::test]
async fn a_request_right_after_a_move_is_answered_once_whatever_the_gateway_knew() {
    let cell = Cell::with_two_nodes().await;
    let served = Served::start(&cell).await;
    for (number, node) in cell.route_of(&served.instance, 10).await.into_iter().enumerate() {
        let moves = served.instance.moves_to(node);
        let key = format!("/count/{number}");
        let ask = async {
            let answer = served.ask("POST", &key, "body").await;
            assert_eq!((answer.status, &answer.body[..]), (200, &b"1"[..]), "{answer:?}");
            let mut socket = served.opens("/socket").await.expect("an upgrade in the middle of a move");
            socket.send_text("hello").await;
            assert_eq!(socket.next().await, Event::Text("hello".to_owned()));
        };
        tokio::join!(moves, ask);
        assert_eq!(served.count(&number.to_string()).await, 1);
    }
}

#[tokio::test]
async fn a_server_elsewhere_is_reached_at_the_address_that_its_platform_says() {
    let cell = Cell::start().await;
    let server = Elsewhere::start().await;
    let served = Served::elsewhere(&cell, server.address).await;
    assert_eq!(served.ask("PUT", "/x", "body").await.body, b"PUT /x body");
    let mut socket = served.opens("/socket").await.expect("an upgrade");
    socket.send_text("hello").await;
    assert_eq!(socket.next().await, Event::Text("hello".to_owned()));
}

#[tokio::test]
async fn a_server_elsewhere_that_refuses_is_told_as_such() {
    let cell = Cell::start().await;
    let nobody = free_address().unwrap();
    let served = Served::elsewhere(&cell, nobody).await;
    let answer = served.ask("POST", "/", "body").await;
    assert_eq!(answer.refusal(), (502, "upstream.refused".to_owned()));
}

/// A WebSocket that the service leaves.
async fn left(served: &Served, how: &str) -> PlainClient {
    let mut socket = served.opens(&format!("/leave/{how}")).await.expect("an upgrade");
    socket.send_text("leave").await;
    socket
}

#[tokio::test]
async fn a_program_that_ends_a_websocket_is_not_spoken_over_and_one_that_resets_it_is() {
    let cell = Cell::start().await;
    let server = Elsewhere::start().await;
    for served in [Served::start(&cell).await, Served::elsewhere(&cell, server.address).await] {
        assert_eq!(left(&served, "end").await.next().await, Event::Ended(None));
        left(&served, "reset").await.expect_close(1014, "upstream.lost").await;
    }
}

#[tokio::test]
async fn a_program_that_dies_has_not_ended_its_websocket() {
    let cell = Cell::start().await;
    let served = Served::start(&cell).await;
    left(&served, "exit").await.expect_close(1014, "upstream.lost").await;
}

#[tokio::test]
async fn a_service_that_ends_is_started_again_and_its_websocket_is_told() {
    let cell = Cell::start().await;
    let served = Served::start(&cell).await;
    let mut socket = served.opens("/socket").await.expect("an upgrade");
    let restarted = served.instance.ask("POST", "/services/web/restart", None).await;
    assert!((200..300).contains(&restarted.status), "{restarted:?}");
    socket.expect_close(1012, "upstream.changed").await;
    eventually("the service answers again", async || (served.ask("GET", "/", "").await.status == 200).then_some(()))
        .await;
}
