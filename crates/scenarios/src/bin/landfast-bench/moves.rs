//! Moves of a service under load: no request fails, no WebSocket ends, and the longest that anybody waited.

use std::time::Duration;

use landfast_scenarios::cell::Cell;
use landfast_scenarios::served::Served;
use landfast_scenarios::traffic::{Amount, flows};
use tokio::time::{Instant, sleep};

/// Traffic as it is between two moves, too.
const BETWEEN_MOVES: Duration = Duration::from_millis(500);

pub(crate) async fn under_load(moves: usize) {
    let cell = Cell::with_two_nodes().await;
    let served = Served::start(&cell).await;
    let route = cell.route_of(&served.instance, moves).await;
    let mut longest = Duration::ZERO;
    let flowed = flows(&served, Amount { requests: 200, sockets: 50 }, async {
        for node in route {
            sleep(BETWEEN_MOVES).await;
            let began = Instant::now();
            served.instance.moves_to(node).await;
            longest = longest.max(began.elapsed());
        }
    })
    .await;
    println!(
        "{moves} moves, the longest {} ms; {} requests and {} messages of 50 WebSockets, none failed; the slowest took {} ms",
        longest.as_millis(),
        flowed.requests,
        flowed.messages,
        flowed.slowest.as_millis()
    );
}
