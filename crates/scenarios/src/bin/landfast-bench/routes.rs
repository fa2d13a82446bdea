//! What it costs clients that routes change: the same load over ten thousand routes, in turns: idle, idle while as much is
//! written to the store of another cell, and changing. What the machine pays for a thousand writes a second, each safe on
//! its disk, is so told from what the gateway pays for the news.
//!
//! Every instance is external and has its server at one of a few addresses. A change names the next one, with the next
//! generation. A server that is named no more says so, as a platform's own would ([`server`]), so that a gateway that has not
//! heard of a change finds out, and no client sees it.

mod load;
mod server;
mod truth;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use landfast_scenarios::cell::Plan;
use landfast_scenarios::ground::Ground;
use tokio::time::{Instant, sleep_until};

use crate::figures::{Figures, Times};
use load::{Came, Load};
use truth::Truth;

/// Servers: any number above one will do.
const SERVERS: usize = 8;

/// Changes a second.
const CHANGES: u32 = 1_000;

/// Changes that may be on their way to the store at once.
const UNDER_WAY: u32 = 32;

/// How much is measured.
struct Amount {
    instances: usize,
    rounds: usize,
    /// How long each side of a round takes.
    turn: Duration,
}

/// What came of one kind of turns.
struct Side {
    times: Times,
    p99: Vec<f64>,
    requests: usize,
    refused: usize,
    stale: usize,
}

/// Measures, and says whether every answer was right.
///
/// # Errors
///
/// The cell cannot be set up.
pub(crate) async fn measure(quick: bool) -> Result<(Figures, bool)> {
    let amount = match quick {
        false => Amount { instances: 10_000, rounds: 5, turn: Duration::from_secs(5) },
        true => Amount { instances: 1_000, rounds: 2, turn: Duration::from_secs(2) },
    };
    let cell = Plan::default().bare().start().await;
    let (listeners, addresses) = server::listen(SERVERS).await?;
    let apart = Ground::new();
    let elsewhere = Arc::new(Truth::write(apart.path(), addresses.clone(), amount.instances).await?);
    let truth = Arc::new(Truth::write(cell.dir(), addresses, amount.instances).await?);
    server::serve(listeners, &truth);
    let load = Load::new(cell.gateway.address(), cell.dir(), Arc::clone(&truth))?;
    load.visit_all().await;
    let (mut idle, mut writing, mut changing, mut changes) = (Side::new(), Side::new(), Side::new(), 0);
    for _ in 0..amount.rounds {
        idle.add(&load.flow(amount.turn).await);
        writing.add(&tokio::join!(load.flow(amount.turn), change(&elsewhere, amount.turn)).0);
        let (came, changed) = tokio::join!(load.flow(amount.turn), change(&truth, amount.turn));
        changing.add(&came);
        changes += changed;
    }
    let rate = f64::from(changes) / (amount.turn.as_secs_f64() * amount.rounds as f64);
    let is_sound = [&idle, &writing, &changing].iter().all(|side| side.refused + side.stale == 0);
    Ok((figures([&idle, &writing, &changing], rate), is_sound))
}

/// Changes one route after the other, evenly over the time, and says how many.
async fn change(truth: &Arc<Truth>, time: Duration) -> u32 {
    let began = Instant::now();
    let lanes = (0..UNDER_WAY).map(|lane| {
        let truth = Arc::clone(truth);
        tokio::spawn(async move {
            let mut changed = 0;
            loop {
                let due = began + Duration::from_secs(1) / CHANGES * (changed * UNDER_WAY + lane);
                sleep_until(due).await;
                if began.elapsed() >= time {
                    return changed;
                }
                truth.change_next().await;
                changed += 1;
            }
        })
    });
    futures_util::future::join_all(lanes).await.into_iter().map(|lane| lane.expect("no change fails")).sum()
}

fn figures(sides: [&Side; 3], rate: f64) -> Figures {
    let mut figures = Figures::default();
    figures.add("changes", rate, "/s", "routes that changed, each a write of its own to the store");
    for (side, names) in sides.iter().zip([
        ["idle_requests", "idle_p50", "idle_p99", "idle_p999"],
        ["elsewhere_requests", "elsewhere_p50", "elsewhere_p99", "elsewhere_p999"],
        ["changing_requests", "changing_p50", "changing_p99", "changing_p999"],
    ]) {
        figures.add(names[0], side.requests as f64, "", "requests, 1,000 a second, each to any of the instances");
        for (name, percentile) in names.into_iter().skip(1).zip([50.0, 99.0, 99.9]) {
            figures.add(name, side.times.micros(percentile), "us", "until the whole answer is there");
        }
    }
    let [idle, writing, changing] = sides;
    figures.add("ratio_p99", ratio(changing, idle), "", "changing to idle, the median of the rounds");
    figures.add("ratio_p99_elsewhere", ratio(changing, writing), "", "changing to the same writes to another cell");
    let total = |count: fn(&Side) -> usize| sides.into_iter().map(count).sum::<usize>() as f64;
    figures.add("refused", total(|side| side.refused), "", "answers other than 200");
    figures.add("stale", total(|side| side.stale), "", "answers of a server that the record did not name");
    figures
}

/// The median of the rounds' ratios of the 99th percentile.
fn ratio(of: &Side, to: &Side) -> f64 {
    let mut ratios: Vec<f64> = of.p99.iter().zip(&to.p99).map(|(of, to)| of / to).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

impl Side {
    fn new() -> Self {
        Self { times: Times::new(), p99: Vec::new(), requests: 0, refused: 0, stale: 0 }
    }

    fn add(&mut self, came: &Came) {
        let mut turn = Times::new();
        for time in &came.times {
            self.times.add(*time);
            turn.add(*time);
        }
        self.p99.push(turn.micros(99.0));
        self.requests += came.times.len();
        self.refused += came.refused;
        self.stale += came.stale;
    }
}
