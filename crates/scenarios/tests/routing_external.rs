//! External instances by the public API: created, asked, and moved by their platform while they are asked.

use std::time::Duration;

use landfast_scenarios::cell::Cell;
use landfast_scenarios::served::{Elsewhere, Served};
use landfast_scenarios::traffic::{Amount, flows};
use serde_json::json;
use tokio::time::sleep;

/// Enough that every moment of a move has some.
const AMOUNT: Amount = Amount { requests: 100, sockets: 10 };

/// How long a platform takes for a move, and rests between two.
const PAUSE: Duration = Duration::from_millis(200);

/// The generation that answers.
async fn generation(served: &Served) -> String {
    let answer = served.ask("GET", "/", "").await;
    answer.header("landfast-generation").unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

#[tokio::test]
async fn an_announced_move_fails_no_request_and_ends_no_websocket() {
    let cell = Cell::start().await;
    let (old, new) = (Elsewhere::start().await, Elsewhere::start().await);
    let served = Served::announced(&cell, old.address, &json!({})).await;
    assert_eq!(generation(&served).await, "1");
    let flowed = flows(&served, AMOUNT, async {
        for (number, to) in [new.address, old.address, new.address].into_iter().enumerate() {
            served.begins_to_move().await;
            served.comes_to_refuse("POST", 503, "instance.moving").await;
            sleep(PAUSE).await;
            served.has_moved(to).await;
            assert_eq!(generation(&served).await, (number + 2).to_string());
            sleep(PAUSE).await;
        }
    })
    .await;
    assert!(flowed.requests > 50 && flowed.messages > 5 * AMOUNT.sockets && flowed.slowest >= PAUSE, "{flowed:?}");
    assert_eq!(served.instance.record().await["spec"]["services"]["web"]["address"], new.address.to_string());
}

#[tokio::test]
async fn a_move_that_is_called_off_fails_no_request_either_and_changes_nothing() {
    let cell = Cell::start().await;
    let server = Elsewhere::start().await;
    let served = Served::announced(&cell, server.address, &json!({})).await;
    let flowed = flows(&served, AMOUNT, async {
        for _ in 0..3 {
            served.begins_to_move().await;
            served.comes_to_refuse("POST", 503, "instance.moving").await;
            sleep(PAUSE).await;
            served.instance.demand("move/abort", &json!({})).await;
            assert_eq!(generation(&served).await, "1");
            sleep(PAUSE).await;
        }
    })
    .await;
    assert!(flowed.requests > 50 && flowed.messages > 5 * AMOUNT.sockets && flowed.slowest >= PAUSE, "{flowed:?}");
    let refused = served
        .instance
        .operator
        .ask("POST", &format!("/v1/instances/{}/move/commit", served.instance.id), Some(&json!({})))
        .await;
    assert_eq!(refused.refusal(), (409, "move.refused".to_owned()));
}
