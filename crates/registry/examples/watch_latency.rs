//! Measures how long a change takes to reach a watch in another process: `cargo run --release --example watch_latency`.
//!
//! One process writes, a second watches the same file. Both read the machine's monotonic clock, so their times can be
//! compared. Arguments: the number of changes (2000) and the pause between them in microseconds (2000).

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use landfast_net::clock;
use landfast_registry::store::embedded::EmbeddedStore;
use landfast_registry::store::{Expect, Store, StoreError, WatchEvent};

const WATCHER: &str = "LANDFAST_WATCH_LATENCY_STORE";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let count = numbers.next().transpose()?.unwrap_or(2000);
    let pause = Duration::from_micros(numbers.next().transpose()?.unwrap_or(2000));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match std::env::var_os(WATCHER) {
        Some(path) => runtime.block_on(watch(path.as_ref(), count))?,
        None => runtime.block_on(measure(count, pause))?,
    }
    Ok(())
}

/// Watches, and prints when each change arrived, in nanoseconds.
async fn watch(path: &Path, count: u64) -> Result<(), StoreError> {
    let mut watch = EmbeddedStore::open(path)?.watch("n/", None);
    let mut arrived = Vec::new();
    while (arrived.len() as u64) < count {
        match watch.next().await? {
            WatchEvent::Snapshot(_) => println!("ready"),
            WatchEvent::Changes(changes) => arrived.extend(changes.iter().map(|_| clock::now())),
            WatchEvent::Resync | WatchEvent::Back => {}
        }
    }
    for at in arrived {
        println!("{}", at.as_nanos());
    }
    Ok(())
}

async fn measure(count: u64, pause: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("cell.db");
    let store = EmbeddedStore::open(&path)?;
    let mut watcher = Command::new(std::env::current_exe()?)
        .args([count.to_string()])
        .env(WATCHER, &path)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(watcher.stdout.take().ok_or("no output")?).lines();
    lines.next().transpose()?;
    let mut asked = Vec::new();
    let mut acknowledged = Vec::new();
    for number in 0..count {
        asked.push(clock::now().as_nanos());
        store.put(&format!("n/{number}"), Expect::Absent, "x".into(), None).await?;
        acknowledged.push(clock::now().as_nanos());
        tokio::time::sleep(pause).await;
    }
    let arrived = lines.map(|line| Ok(line?.parse()?)).collect::<Result<Vec<u64>, Box<dyn std::error::Error>>>()?;
    watcher.wait()?;
    report("asked -> acknowledged", &asked, &acknowledged);
    report("acknowledged -> watch", &acknowledged, &arrived);
    report("asked -> watch", &asked, &arrived);
    Ok(())
}

/// Prints percentiles of the time from one list of instants to another, in microseconds.
fn report(what: &str, from: &[u64], to: &[u64]) {
    let mut times: Vec<u64> = from.iter().zip(to).map(|(from, to)| to.saturating_sub(*from) / 1000).collect();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{what:24} n {:6}  p50 {:6} us  p99 {:6} us  max {:6} us", times.len(), at(0.5), at(0.99), at(1.0));
}
