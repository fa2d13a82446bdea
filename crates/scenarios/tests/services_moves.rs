//! Moves under load: what a service's clients see of them is nothing.

use std::time::Duration;

use landfast_scenarios::cell::Cell;
use landfast_scenarios::served::Served;
use landfast_scenarios::traffic::{Amount, flows};
use tokio::time::sleep;

/// A move ten times a second would be felt, and no operator does it.
const BETWEEN_MOVES: Duration = Duration::from_millis(200);

#[tokio::test]
async fn moves_under_load_fail_no_request_and_end_no_websocket() {
    let cell = Cell::with_two_nodes().await;
    let served = Served::start(&cell).await;
    let route = cell.route_of(&served.instance, 6).await;
    let flowed = flows(&served, Amount { requests: 200, sockets: 50 }, async {
        for node in route {
            sleep(BETWEEN_MOVES).await;
            served.instance.moves_to(node).await;
        }
    })
    .await;
    println!("{flowed:?}");
    assert!(flowed.requests > 200 && flowed.messages > 50, "{flowed:?}");
}
