//! A service's WebSocket outlives the links that carry it, byte for byte, whatever its frames hold.

use std::time::Duration;

use landfast_core::ws::Opcode;
use landfast_scenarios::cell::Cell;
use landfast_scenarios::opaque::{Opaque, Said};
use landfast_scenarios::seed::seed;
use landfast_scenarios::served::Served;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::sleep;

#[tokio::test]
async fn frames_of_every_kind_come_back_as_they_were_over_a_hundred_cuts_and_moves() {
    let cell = Cell::with_two_nodes().await;
    let served = Served::start(&cell).await;
    let mut random = SmallRng::seed_from_u64(seed());
    let mut socket = Opaque::open(&served).await;
    let mut nodes = cell.route_of(&served.instance, 10).await.into_iter();
    for round in 1..=100 {
        let said = some_of_everything(&mut random);
        let soon = Duration::from_micros(random.random_range(0..3_000));
        let fault = async {
            sleep(soon).await;
            // Every tenth fault is a move.
            match if round % 10 == 0 { nodes.next() } else { None } {
                Some(node) => served.instance.moves_to(node).await,
                None => cell.cut_links(),
            }
        };
        socket.converses(said, fault).await;
    }
}

#[tokio::test]
async fn a_message_of_16_mib_comes_back_as_it_was_over_cuts() {
    let cell = Cell::start().await;
    let served = Served::start(&cell).await;
    let mut random = SmallRng::seed_from_u64(seed());
    let mut socket = Opaque::open(&served).await;
    let mut said = Said::default();
    said.message(&mut random, Opcode::Binary, 16 << 20);
    let faults = async {
        for _ in 0..10 {
            sleep(Duration::from_millis(random.random_range(5..30))).await;
            cell.cut_links();
        }
    };
    socket.converses(said, faults).await;
}

/// Text, bytes, fragments, empty messages, pings and pongs, compressed and not.
fn some_of_everything(random: &mut SmallRng) -> Said {
    let mut said = Said::default();
    for _ in 0..random.random_range(1..5) {
        let len = random.random_range(0..20_000);
        said.message(random, Opcode::Text, len);
        said.message(random, Opcode::Binary, 0);
        let pieces = random.random_range(1..6);
        said.fragments(random, pieces);
        let len = random.random_range(0..100_000);
        said.message(random, Opcode::Binary, len);
    }
    said
}
