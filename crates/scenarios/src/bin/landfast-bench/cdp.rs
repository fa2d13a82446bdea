//! What stands between a client of CDP and its browser: `Runtime.evaluate` straight to Chromium's own port, through
//! gateway, node and agent, and through two HAProxy processes that only copy bytes, in turns over one run.
//!
//! The two copiers are the floor: a path of two processes costs each machine four wakes of a process, and no program
//! that stands between can be cheaper than what it costs to be woken.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use landfast_scenarios::browser::Browser;
use landfast_scenarios::cell::{Cell, Plan};
use landfast_scenarios::leaks::Footprint;
use landfast_scenarios::peer::{Configuration, Peer};
use landfast_scenarios::plain::{Event, PlainClient, Upgrade};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::figures::{Figures, Times};

/// How much work a run does.
#[derive(Clone, Copy)]
struct Work {
    rounds: usize,
    calls: usize,
    idle: usize,
}

/// Connections that are opened first, so that what a process allocates once is not a connection's.
const WARM: usize = 20;

/// HAProxy that copies bytes and looks at none.
const COPIER: &str = "
global
    nbthread 1

defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h

listen copy
    bind @LISTEN@
    server up @UPSTREAM@
";

pub(crate) async fn measure(quick: bool) -> Result<Figures> {
    let work =
        if quick { Work { rounds: 10, calls: 300, idle: 100 } } else { Work { rounds: 30, calls: 1_000, idle: 400 } };
    let cell = Plan::default().bare().start().await;
    // On the node's own network, because a private one has no way in but the agent.
    let browser = Browser::start_with(&cell, &json!({"network": "host"})).await;
    let mut figures = Figures::default();
    calls(&mut figures, work, &cell, &browser).await?;
    idle(&mut figures, work, &cell, &browser).await;
    Ok(figures)
}

// --- round trips ---

async fn calls(figures: &mut Figures, work: Work, cell: &Cell, browser: &Browser) -> Result<()> {
    let page = page(browser).await;
    let straight = direct(cell, browser, &page);
    let inner = Copier::start(straight.address)?;
    let outer = Copier::start(inner.peer.address())?;
    let copied = Upgrade { address: outer.peer.address(), ..straight.clone() };
    let mut legs = Vec::new();
    for upgrade in [straight, browser.instance.upgrade(&page), copied] {
        legs.push(Leg { caller: Caller::open(&upgrade).await, times: Times::new(), rates: Vec::new() });
    }
    for leg in &mut legs {
        leg.caller.call_often(work.calls, &mut Times::new()).await;
    }
    for _ in 0..work.rounds {
        for leg in &mut legs {
            leg.rates.push(leg.caller.call_often(work.calls, &mut leg.times).await);
        }
    }
    let [p50, p99] = [50.0, 99.0].map(|percent| legs.iter().map(|leg| leg.times.millis(percent)).collect::<Vec<_>>());
    let rates: Vec<f64> = legs.into_iter().map(|leg| median(leg.rates)).collect();
    figures.add("direct_p50_ms", p50[0], "ms", "Runtime.evaluate and its answer, straight to Chromium");
    figures.add("p50_ms", p50[1], "ms", "the same through gateway, node and agent");
    figures.add("added_p50_ms", p50[1] - p50[0], "ms", "what Landfast adds");
    figures.add("copied_added_p50_ms", p50[2] - p50[0], "ms", "what two HAProxy processes add that only copy bytes");
    figures.add("direct_p99_ms", p99[0], "ms", "");
    figures.add("p99_ms", p99[1], "ms", "");
    figures.add("direct_rate", rates[0], "/s", "calls one after the other, straight to Chromium");
    figures.add("rate", rates[1], "/s", "the same through gateway, node and agent");
    figures.add("rate_ratio", rates[1] / rates[0], "", "through over straight");
    figures.add("copied_rate_ratio", rates[2] / rates[0], "", "through the two copiers over straight");
    Ok(())
}

/// One way to the page, and what it took.
struct Leg {
    caller: Caller,
    times: Times,
    rates: Vec<f64>,
}

/// A process that copies bytes, and the folder of its configuration.
struct Copier {
    peer: Peer,
    _dir: TempDir,
}

impl Copier {
    fn start(upstream: SocketAddr) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let peer = Peer::haproxy(Configuration { template: COPIER, upstream, dir: dir.path() })?;
        Ok(Self { peer, _dir: dir })
    }
}

/// One connection to a page.
struct Caller {
    client: PlainClient,
    id: u64,
}

impl Caller {
    async fn open(upgrade: &Upgrade) -> Self {
        let client = PlainClient::open(upgrade).await.unwrap_or_else(|answer| panic!("refused: {answer:?}"));
        Self { client, id: 0 }
    }

    /// Calls so often, one after the other, and returns how often in a second.
    async fn call_often(&mut self, calls: usize, times: &mut Times) -> f64 {
        let begun = Instant::now();
        for _ in 0..calls {
            let started = Instant::now();
            self.call().await;
            times.add(started.elapsed());
        }
        calls as f64 / begun.elapsed().as_secs_f64()
    }

    async fn call(&mut self) {
        self.id += 1;
        let call = json!({"id": self.id, "method": "Runtime.evaluate", "params": {"expression": "6 * 7"}});
        self.client.send_text(&call.to_string()).await;
        loop {
            match self.client.next().await {
                Event::Text(text) if text.contains(&format!("\"id\":{},", self.id)) => {
                    assert!(text.contains("42"), "{text}");
                    return;
                }
                Event::Text(_) | Event::Ping | Event::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The path of the socket of a page that is open.
async fn page(browser: &Browser) -> String {
    let targets = browser.instance.ask("GET", "/json/list", None).await.json();
    let page = targets.as_array().and_then(|targets| targets.iter().find(|target| target["type"] == "page"));
    let id = page.and_then(|page| page["id"].as_str()).expect("a browser starts with a page");
    format!("/devtools/page/{id}")
}

/// The same page at Chromium's own port.
fn direct(cell: &Cell, browser: &Browser, page: &str) -> Upgrade {
    let profile = cell.dir().join("instances").join(&browser.instance.id).join("state/browser/profile");
    let said = std::fs::read_to_string(profile.join("DevToolsActivePort")).expect("Chromium says where it listens");
    let port = said.lines().next().and_then(|port| port.parse().ok()).expect("a port");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    Upgrade { address, target: page.to_owned(), token: None, subprotocol: None, receive_buffer: None }
}

// --- idle ---

async fn idle(figures: &mut Figures, work: Work, cell: &Cell, browser: &Browser) {
    let upgrade = browser.instance.upgrade("/cdp");
    let open = async |count: usize| {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(Caller::open(&upgrade).await);
        }
        clients
    };
    let warm = open(WARM).await;
    let pids = [cell.gateway.pid(), browser.instance.agent()];
    let resident = || pids.iter().map(|pid| Footprint::of(*pid).resident).sum::<u64>();
    let before = resident();
    let clients = open(work.idle).await;
    // Buffers are given back a moment after the last byte.
    sleep(Duration::from_secs(3)).await;
    let each = resident().saturating_sub(before) as f64 / clients.len() as f64;
    figures.add("idle_bytes", each, "B", "resident memory of gateway and agent for each silent connection");
    drop(warm);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
