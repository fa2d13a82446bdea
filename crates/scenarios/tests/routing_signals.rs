//! Section 1 of the specification of routing: what somebody who does not run an instance proves by saying so, and what the
//! gateway makes of it.

use landfast_scenarios::cell::Cell;
use landfast_scenarios::peer::free_address;
use landfast_scenarios::served::{Elsewhere, Served};
use serde_json::json;

#[tokio::test]
async fn a_node_that_fears_for_its_lease_is_waited_for_until_the_instance_is_elsewhere() {
    let cell = Cell::with_two_nodes().await;
    let served = Served::start_as(&cell, &json!({"restart": "always"}), &json!({})).await;
    let port = free_address().expect("a free port").port();
    // Asked for what starts nothing, and so is never in the middle of it.
    let closed = Served { place: port.to_string(), ..served.clone() };
    let _stalled = cell.node_of(&served.instance).await.role.stall("landfast-write");
    closed.comes_to_refuse("GET", 503, "node.draining").await;
    let answer = served.ask("POST", "/count/once", "").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"1"[..]), "{answer:?}");
    assert_eq!(answer.header("landfast-generation"), Some("2"));
    assert_eq!(served.count("once").await, 1);
}

#[tokio::test]
async fn a_generation_that_is_over_is_refused_and_the_present_one_answers() {
    let mut cell = Cell::with_two_nodes().await;
    let served = Served::start(&cell).await;
    cell.gateway_starts_afresh().await;
    let _blind = cell.gateway.stall("landfast-bell");
    // There and back: its node runs it, and no longer in the generation that the gateway knows.
    for node in cell.route_of(&served.instance, 2).await {
        served.instance.moves_to(node).await;
    }
    let answer = served.ask("POST", "/count/once", "").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"1"[..]), "{answer:?}");
    assert_eq!((answer.header("landfast-generation"), answer.header("landfast-attempts")), (Some("3"), Some("2")));
    assert_eq!(served.count("once").await, 1);
}

#[tokio::test]
async fn a_store_that_does_not_answer_takes_no_known_route_along() {
    let cell = Cell::start().await;
    let server = Elsewhere::start().await;
    let known = [Served::start(&cell).await, Served::elsewhere(&cell, server.address).await];
    for served in &known {
        assert_eq!(served.ask("GET", "/", "").await.status, 200);
    }
    let stalled = ["landfast-read", "landfast-bell"].map(|thread| cell.gateway.stall(thread));
    let new = cell.create().await;
    let unknown = Served { instance: new, ..known[0].clone() };
    for (number, served) in known.iter().enumerate() {
        assert_eq!(served.ask("POST", &format!("/count/{number}"), "").await.body, b"1");
        served.opens("/socket").await.expect("an upgrade");
    }
    let answer = unknown.ask("POST", "/", "").await;
    assert_eq!(answer.refusal(), (503, "registry.unavailable".to_owned()));
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    drop(stalled);
    unknown.comes_to_refuse("POST", 404, "service.unknown").await;
}

#[tokio::test]
async fn a_request_waits_until_its_instance_has_started_and_its_service_is_up() {
    let cell = Cell::start().await;
    let node = &cell.node_ref("a").role;
    node.freeze();
    let served = Served::unawaited(&cell).await;
    let refused = served.comes_to_refuse("POST", 503, "instance.starting").await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    let (answer, ()) = tokio::join!(served.ask("POST", "/count/once", ""), async {
        node.thaw();
        served.instance.comes_to("running").await;
        served.is_supplied();
    });
    assert_eq!((answer.status, &answer.body[..]), (200, &b"1"[..]), "{answer:?}");
    assert_eq!(served.count("once").await, 1);
}
