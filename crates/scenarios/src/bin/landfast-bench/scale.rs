//! What a cell with very many instances costs its gateways: how long one takes to start, what it remembers of a route, and
//! how long the last of four takes to know of a change. Once over the store of one machine, once over etcd with three members.
//!
//! Nearly all instances are on nodes that nobody asks for: a gateway knows where they are, and that is what is measured. A few
//! are external and change. Each change is seen as clients see it: requests wait at every gateway while an instance moves,
//! and are answered once the gateway knows where it is.

mod herd;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use landfast_registry::cell::Cell;
use landfast_rig::{Cluster, Pace, free_port};
use landfast_scenarios::ground::Ground;
use landfast_scenarios::http;
use landfast_scenarios::leaks::Footprint;
use landfast_scenarios::role::{Role, Settings};
use tokio::time::{sleep, timeout};

use self::herd::Herd;
use crate::figures::{Figures, Times};

/// Gateways that follow the store.
const GATEWAYS: usize = 4;

/// Members of etcd.
const MEMBERS: usize = 3;

/// How often a gateway is looked at that is about to be ready, or about to hear of a change.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Longer than any of it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much is measured.
#[derive(Clone, Copy)]
struct Amount {
    routes: usize,
    changes: usize,
}

/// A gateway's process, and where its figures are.
struct Watcher {
    role: Role,
    metrics: SocketAddr,
}

/// The names of one store's figures.
struct Names {
    writes: &'static str,
    start: &'static str,
    bytes: &'static str,
    peak: &'static str,
    known: [&'static str; 3],
}

const EMBEDDED: Names = Names {
    writes: "embedded_writes",
    start: "embedded_start",
    bytes: "embedded_route",
    peak: "embedded_route_peak",
    known: ["embedded_known_p50", "embedded_known_p99", "embedded_known_max"],
};
const ETCD: Names = Names {
    writes: "etcd_writes",
    start: "etcd_start",
    bytes: "etcd_route",
    peak: "etcd_route_peak",
    known: ["etcd_known_p50", "etcd_known_p99", "etcd_known_max"],
};

/// Measures.
///
/// # Errors
///
/// A cell cannot be set up, or a gateway did not hear of a change.
pub(crate) async fn measure(quick: bool) -> Result<Figures> {
    let amount = if quick { Amount { routes: 5_000, changes: 50 } } else { Amount { routes: 100_000, changes: 500 } };
    let mut figures = Figures::default();
    figures.add("routes", amount.routes as f64, "", "instances that the store has");
    let ground = Ground::new();
    over(&mut figures, &EMBEDDED, amount, ground.path(), None).await?;
    drop(ground);
    let ground = Ground::new();
    let etcd = Cluster::start(MEMBERS, ground.path(), Pace::INSTALLED);
    over(&mut figures, &ETCD, amount, ground.path(), Some(&etcd.address())).await?;
    Ok(figures)
}

async fn over(figures: &mut Figures, names: &Names, amount: Amount, dir: &Path, address: Option<&str>) -> Result<()> {
    let cell = Cell::open(dir)?;
    let store = cell.store_at(address)?;
    // It tells gateways by which key tokens are signed; afterwards nobody needs it.
    drop(Role::start_at("warn", "api", "0", dir, settings(address)).await);
    let empty = Watcher::start("empty", dir, address).await;
    empty.is_ready().await?;
    let before = empty.footprint().resident;
    drop(empty);
    let began = Instant::now();
    let herd = Herd::write(&cell, Arc::clone(&store), amount.routes).await?;
    let rate = amount.routes as f64 / began.elapsed().as_secs_f64();
    figures.add(names.writes, rate, "/s", "records written, 64 at a time");
    let (mut gateways, mut starts) = (Vec::new(), Vec::new());
    for number in 0..GATEWAYS {
        let began = Instant::now();
        let gateway = Watcher::start(&number.to_string(), dir, address).await;
        gateway.is_ready().await?;
        starts.push(began.elapsed().as_secs_f64());
        gateways.push(gateway);
    }
    figures.add(
        names.start,
        most(&starts),
        "s",
        "from its start until a gateway knows every route: the slowest of four",
    );
    let known = changes(&herd, &gateways, amount.changes).await?;
    let of_each = |held: fn(Footprint) -> u64| {
        let all = gateways.iter().map(|gateway| held(gateway.footprint()).saturating_sub(before));
        most(&all.map(|bytes| bytes as f64 / amount.routes as f64).collect::<Vec<_>>())
    };
    let kept = of_each(|footprint| footprint.resident);
    figures.add(names.bytes, kept, "B", "resident memory for each route, after all of this: the most of four gateways");
    figures.add(
        names.peak,
        of_each(|footprint| footprint.peak),
        "B",
        "the same at its most, while the listing is read",
    );
    let about = "from the beginning of a write until the last of four gateways has acted on it";
    for (name, percentile) in names.known.into_iter().zip([50.0, 99.0, 100.0]) {
        figures.add(name, known.millis(percentile), "ms", about);
    }
    Ok(())
}

/// Moves instances, one after the other, while a request for it waits at every gateway.
async fn changes(herd: &Herd, gateways: &[Watcher], changes: usize) -> Result<Times> {
    let mut known = Times::new();
    for number in 0..changes {
        let mut mover = herd.begin(number).await?;
        join_all(gateways.iter().map(|gateway| gateway.refuses(&mover))).await.into_iter().collect::<Result<()>>()?;
        let waiting: Vec<_> = gateways.iter().map(|gateway| tokio::spawn(gateway.ask(&mover.waiting))).collect();
        join_all(gateways.iter().map(Watcher::holds)).await.into_iter().collect::<Result<()>>()?;
        let began = Instant::now();
        herd.commit(&mut mover).await?;
        let mut last = began;
        for answer in join_all(waiting).await {
            let (status, at) = answer??;
            ensure!(status == 200, "a request that waited was answered with {status}");
            last = last.max(at);
        }
        known.add(last - began);
    }
    Ok(known)
}

impl Watcher {
    async fn start(name: &str, dir: &Path, store: Option<&str>) -> Self {
        let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut settings = settings(store);
        settings.insert("metrics_listen", metrics.to_string());
        // Its access log would be a part of what is measured.
        Self { role: Role::start_at("warn", "gateway", name, dir, settings).await, metrics }
    }

    fn footprint(&self) -> Footprint {
        Footprint::of(self.role.pid())
    }

    async fn is_ready(&self) -> Result<()> {
        let ready = async || http::ask(self.role.address(), "GET", "/readyz", None, None).await.status == 200;
        until("a gateway is ready", ready).await
    }

    /// Waits until the gateway has heard that the instance moves.
    async fn refuses(&self, mover: &herd::Mover) -> Result<()> {
        let moves = async || {
            let answer = http::send(self.role.address(), &mover.at_once).await;
            answer.header("landfast-error") == Some("instance.moving")
        };
        until("a gateway hears that an instance moves", moves).await
    }

    /// Waits until a request waits at the gateway.
    async fn holds(&self) -> Result<()> {
        let waits = async || {
            let page = http::ask(self.metrics, "GET", "/metrics", None, None).await;
            String::from_utf8_lossy(&page.body).lines().any(|line| line == "landfast_gateway_parked 1")
        };
        until("a request waits at a gateway", waits).await
    }

    /// Asks, and says when the answer was there.
    fn ask(&self, request: &[u8]) -> impl Future<Output = Result<(u16, Instant)>> + use<> {
        let (address, request) = (self.role.address(), request.to_vec());
        async move {
            let answer =
                timeout(PATIENCE, http::send(address, &request)).await.context("a request was not answered")?;
            Ok((answer.status, Instant::now()))
        }
    }
}

fn settings(store: Option<&str>) -> Settings {
    let store = store.map(|store| ("store", store.to_owned()));
    [("listen", "127.0.0.1:0".to_owned())].into_iter().chain(store).collect()
}

async fn until(what: &'static str, is_so: impl AsyncFn() -> bool) -> Result<()> {
    let looks = async {
        while !is_so().await {
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(PATIENCE, looks).await.with_context(|| format!("in vain it was waited until {what}"))
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
