//! A long storm: many sessions, many faults, every byte of every session checked, and nothing left behind.

use std::time::{Duration, Instant};

use landfast_scenarios::cell::Cell;
use landfast_scenarios::conversation::{Conversation, Talk};
use landfast_scenarios::leaks::returns_to;
use landfast_scenarios::storm::Storm;
use tokio::task::JoinSet;

/// How many sessions share an instance.
const PER_INSTANCE: usize = 20;

/// The time between two faults, on average: four a second, so that sessions recover from some and not from others before
/// the next.
const PAUSE: Duration = Duration::from_millis(250);

pub(crate) async fn rage(faults: usize, sessions: usize, seed: u64) {
    println!("seed {seed}: {faults} faults over {sessions} sessions");
    let mut cell = Cell::with_two_nodes().await;
    let mut instances = Vec::new();
    for _ in 0..sessions.div_ceil(PER_INSTANCE) {
        instances.push(cell.create().await);
    }
    let before = cell.gateway.settled().await;
    // The sessions last a little longer than the storm, so that each must come back from the last fault too.
    let over = PAUSE.mul_f64(faults as f64 * 1.2) + Duration::from_secs(10);
    let mut talks = JoinSet::new();
    for number in 0..sessions {
        let talk = Talk { seed: seed + 2 * number as u64, bytes: 2 << 20, over, terminal: number % 2 == 0 };
        let conversation = Conversation::start(&instances[number / PER_INSTANCE], talk).await;
        talks.spawn(conversation.ends_well());
    }
    let started = Instant::now();
    let mut storm = Storm::new(seed);
    tokio::select! {
        () = storm.rages(&mut cell, &instances, faults, PAUSE) => {}
        early = talks.join_next() => {
            early.expect("there are sessions").expect("every session ends well");
            panic!("seed {seed}: a session was over before the storm");
        }
    }
    println!("{faults} faults in {:?}; waiting for {} sessions to end", started.elapsed(), talks.len());
    while let Some(ended) = talks.join_next().await {
        ended.expect("every session ends well");
    }
    let after = returns_to(cell.gateway.pid(), before, Duration::from_secs(5)).await;
    println!("{sessions} sessions ended whole; the gateway held {before} before and {after} after");
}
