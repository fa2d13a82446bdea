//! Section 3 of the specification of routing: whoever is not where the gateway believes is found, once, by requests and
//! WebSockets alike.
//!
//! That the gateway believes wrongly is no matter of luck here: the thread that brings it news stands still.

use landfast_scenarios::cell::Cell;
use landfast_scenarios::http::Answer;
use landfast_scenarios::plain::Event;
use landfast_scenarios::served::{Elsewhere, Served};
use landfast_scenarios::stalled::Stalled;
use serde_json::json;

/// How somebody is asked.
const KINDS: [&str; 3] = ["GET", "POST", "upgrade"];

/// A gateway that hears of nothing, with a connection to nobody.
async fn blind(cell: &mut Cell) -> Stalled {
    cell.gateway_starts_afresh().await;
    cell.gateway.stall("landfast-bell")
}

/// Asks for one run; `Err` is what came instead.
async fn run(served: &Served, kind: &str) -> Result<(), Answer> {
    let target = format!("/count/{kind}");
    if kind == "upgrade" {
        let mut socket = served.opens(&target).await?;
        socket.send_text("hello").await;
        assert_eq!(socket.next().await, Event::Text("hello".to_owned()));
        return Ok(());
    }
    let answer = served.ask(kind, &target, "").await;
    if answer.status != 200 {
        return Err(answer);
    }
    assert_eq!((&answer.body[..], answer.header("landfast-attempts")), (&b"1"[..], Some("2")), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn who_has_moved_is_found_and_runs_what_is_asked_once() {
    let mut cell = Cell::with_two_nodes().await;
    let served = Served::start(&cell).await;
    let route = cell.route_of(&served.instance, KINDS.len()).await;
    for (kind, node) in KINDS.into_iter().zip(route) {
        let _blind = blind(&mut cell).await;
        served.instance.moves_to(node).await;
        run(&served, kind).await.unwrap_or_else(|answer| panic!("{kind}: {answer:?}"));
        assert_eq!(served.count(kind).await, 1, "{kind}");
    }
}

#[tokio::test]
async fn who_was_deleted_is_gone_after_one_attempt() {
    let mut cell = Cell::start().await;
    for kind in KINDS {
        let served = Served::start(&cell).await;
        let _blind = blind(&mut cell).await;
        served.instance.is_deleted().await;
        served.instance.comes_to("deleted").await;
        let answer = run(&served, kind).await.expect_err("it is gone");
        assert_eq!(
            (answer.refusal(), answer.header("landfast-attempts")),
            ((410, "instance.gone".to_owned()), Some("1"))
        );
    }
}

#[tokio::test]
async fn who_was_let_go_at_home_is_found_where_it_has_moved() {
    let mut cell = Cell::start().await;
    for kind in KINDS {
        let (home, away) = (Elsewhere::start().await, Elsewhere::start().await);
        let served = Served::announced(&cell, home.address, &json!({"retry_signals": true})).await;
        assert_eq!(served.ask("POST", "/let-go", "").await.status, 200);
        let _blind = blind(&mut cell).await;
        served.begins_to_move().await;
        served.has_moved(away.address).await;
        run(&served, kind).await.unwrap_or_else(|answer| panic!("{kind}: {answer:?}"));
        assert_eq!(served.count(kind).await, 1, "{kind}");
    }
}

#[tokio::test]
async fn who_was_let_go_and_is_nowhere_else_is_asked_a_few_times_and_has_run_nothing() {
    let cell = Cell::start().await;
    let home = Elsewhere::start().await;
    let served = Served::announced(&cell, home.address, &json!({"retry_signals": true})).await;
    assert_eq!(served.ask("POST", "/let-go", "").await.status, 200);
    for kind in KINDS {
        let answer = run(&served, kind).await.expect_err("it was let go");
        assert_eq!(answer.refusal(), (503, "node.not_here".to_owned()), "{kind}");
        assert_eq!(served.count(kind).await, 0, "{kind}");
    }
}
