//! The session path beside a direct connection to the agent. Both are measured in one run, in turns, with the same client,
//! so that what the machine does meanwhile strikes both.

use std::time::{Duration, Instant};

use landfast_scenarios::attached::{Attached, Said};
use landfast_scenarios::cell::{Cell, Plan};
use landfast_scenarios::direct;
use landfast_scenarios::ground::raise_descriptor_limit;
use landfast_scenarios::instance::{Instance, Process};
use landfast_scenarios::leaks::Footprint;
use landfast_scenarios::plain::PlainClient;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::figures::{Figures, Times};

/// Of each kind of figure, how much work a whole run does.
#[derive(Clone, Copy)]
struct Work {
    rounds: usize,
    echoes: usize,
    bulk: Duration,
    opens: usize,
    idle: usize,
    pauses: usize,
}

/// Turns in which sessions are opened straight and through the gateway.
const OPEN_ROUNDS: usize = 5;

/// Idle sessions of one instance: an agent takes 1,000, and a few are open to warm it.
const IDLE_PER_INSTANCE: usize = 900;

pub(crate) async fn measure(quick: bool) -> Figures {
    let whole =
        Work { rounds: 10, echoes: 1_000, bulk: Duration::from_secs(2), opens: 4_000, idle: 10_000, pauses: 100 };
    let tenth = Work { rounds: 4, echoes: 250, bulk: Duration::from_millis(500), opens: 400, idle: 1_000, pauses: 10 };
    let work = if quick { tenth } else { whole };
    let mut figures = Figures::default();
    idle(&mut figures, work).await;
    let cell = Plan::default().bare().start().await;
    let instance = cell.create().await;
    echoes(&mut figures, work, &cell, &instance).await;
    bulk(&mut figures, work, &cell, &instance).await;
    opens(&mut figures, work, &cell, &instance).await;
    drop(cell);
    pauses(&mut figures, work).await;
    figures
}

// --- latency ---

async fn echoes(figures: &mut Figures, work: Work, cell: &Cell, instance: &Instance) {
    let process = instance.command("cat").await;
    let mut through = process.attach("now").await;
    let (mut beside, mut session) = (Times::new(), Times::new());
    // A direct connection hears the other's echoes too; two processes keep them apart.
    let other = instance.command("cat").await;
    let mut straight = direct::attach(cell, &other, "from=now").await;
    for _ in 0..work.rounds {
        for (viewer, times) in [(&mut straight, &mut beside), (&mut through, &mut session)] {
            for _ in 0..work.echoes {
                let started = Instant::now();
                echo(viewer).await;
                times.add(started.elapsed());
            }
        }
    }
    figures.add("echo_direct_p50", beside.micros(50.0), "us", "64 B to a process and back, straight to the agent");
    figures.add("echo_session_p50", session.micros(50.0), "us", "the same through gateway and link");
    figures.add("echo_added_p50", session.micros(50.0) - beside.micros(50.0), "us", "what the session path adds");
    figures.add("echo_direct_p99", beside.micros(99.0), "us", "");
    figures.add("echo_session_p99", session.micros(99.0), "us", "");
}

/// Sends 64 bytes and reads them back.
async fn echo(viewer: &mut Attached) {
    viewer.sends(&[b'e'; 64]).await;
    let mut heard = 0;
    while heard < 64 {
        heard += viewer.next_output().await.len();
    }
    viewer.output.clear();
}

// --- bulk ---

async fn bulk(figures: &mut Figures, work: Work, cell: &Cell, instance: &Instance) {
    let mut single = Vec::new();
    let mut sixteen = Vec::new();
    let mut straight = Vec::new();
    for _ in 0..work.rounds.min(5) {
        straight.push(bulk_down(instance, 1, work.bulk, Some(cell)).await);
        single.push(bulk_down(instance, 1, work.bulk, None).await);
        sixteen.push(bulk_down(instance, 16, work.bulk, None).await);
    }
    let (straight, single, sixteen) = (median(straight), median(single), median(sixteen));
    figures.add("bulk_direct_1", straight, "MB/s", "a process's output, straight from the agent");
    figures.add("bulk_session_1", single, "MB/s", "the same through gateway and link");
    figures.add("bulk_ratio_1", single / straight, "", "session over direct");
    figures.add("bulk_session_16", sixteen, "MB/s", "the sum of sixteen sessions");
}

/// How much the viewers of processes that say all they can are given in `time`.
async fn bulk_down(instance: &Instance, viewers: usize, time: Duration, direct: Option<&Cell>) -> f64 {
    let mut running = JoinSet::new();
    let mut processes = Vec::new();
    for _ in 0..viewers {
        let process = instance.process(&json!({"argv": ["cat", "/dev/zero"]})).await;
        let viewer = match direct {
            Some(cell) => direct::attach(cell, &process, "from=now").await,
            None => process.attach("now").await,
        };
        processes.push(process);
        running.spawn(count(viewer, time));
    }
    let started = Instant::now();
    let mut bytes = 0;
    while let Some(counted) = running.join_next().await {
        bytes += counted.expect("counting does not panic");
    }
    let rate = bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
    for process in processes {
        instance.ask("DELETE", &format!("/processes/{}", process.id), None).await;
    }
    rate
}

async fn count(mut viewer: Attached, time: Duration) -> u64 {
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < time {
        if let Said::Out(piece) = viewer.next().await {
            bytes += piece.len() as u64;
        }
        viewer.output.clear();
        viewer.gaps.clear();
    }
    bytes
}

// --- opening ---

async fn opens(figures: &mut Figures, work: Work, cell: &Cell, instance: &Instance) {
    let process = instance.command("cat").await;
    let way = direct::Way::to(cell, &process).await;
    let (mut straight, mut through) = (Vec::new(), Vec::new());
    for _ in 0..OPEN_ROUNDS {
        let beside = || {
            let way = way.clone();
            async move { way.attach("from=now").await }
        };
        straight.push(open_rate(work.opens / OPEN_ROUNDS, beside).await);
        let session = || {
            let process = process.clone();
            async move { process.attach("now").await }
        };
        through.push(open_rate(work.opens / OPEN_ROUNDS, session).await);
    }
    figures.add("opens_direct", median(straight), "/s", "opened straight to the agent, first frame seen, and closed");
    figures.add("opens_session", median(through), "/s", "the same through gateway and link");
}

/// Opens sessions, sixteen at a time.
async fn open_rate<F: Future<Output = Attached> + Send + 'static>(opens: usize, open: impl Fn() -> F) -> f64 {
    let started = Instant::now();
    let mut opening = JoinSet::new();
    for number in 0..opens {
        if number >= 16 {
            opening.join_next().await.expect("some are opening").expect("opening does not panic");
        }
        let opened = open();
        opening.spawn(async move {
            let mut viewer = opened.await;
            viewer.goes_live().await;
            viewer.socket.send_close(1000, "").await;
        });
    }
    while opening.join_next().await.is_some() {}
    opens as f64 / started.elapsed().as_secs_f64()
}

// --- idle ---

async fn idle(figures: &mut Figures, work: Work) {
    // Two sockets of the gateway each; it needs some for itself.
    let sessions = work.idle.min(raise_descriptor_limit() as usize / 2 - 500);
    let cell = Plan::default().bare().start().await;
    let mut processes = Vec::new();
    for _ in 0..sessions.div_ceil(IDLE_PER_INSTANCE) {
        processes.push(cell.create().await.command("sleep 100000").await);
    }
    // What a process allocates once is not a session's.
    let warm = open_idle(&processes, 32).await;
    let agents: Vec<u32> = processes.iter().map(|process| process.instance.agent()).collect();
    let resident = |pids: &[u32]| pids.iter().map(|pid| Footprint::of(*pid).resident).sum::<u64>();
    let before = (resident(&[cell.gateway.pid()]), resident(&agents));
    let sessions = open_idle(&processes, sessions).await;
    // Buffers are given back a moment after the last byte.
    sleep(Duration::from_secs(3)).await;
    let after = (resident(&[cell.gateway.pid()]), resident(&agents));
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / 1024.0 / sessions.len() as f64;
    figures.add("idle_sessions", sessions.len() as f64, "", "sessions held open and silent");
    figures.add("idle_gateway", each(before.0, after.0), "KiB", "resident memory of the gateway for each of them");
    figures.add("idle_agent", each(before.1, after.1), "KiB", "resident memory of the agents for each of them");
    drop(warm);
}

async fn open_idle(processes: &[Process], sessions: usize) -> Vec<PlainClient> {
    let mut open = Vec::new();
    for number in 0..sessions {
        let mut viewer = processes[number % processes.len()].attach("now").await;
        viewer.goes_live().await;
        open.push(viewer.socket);
    }
    open
}

// --- pauses ---

async fn pauses(figures: &mut Figures, work: Work) {
    let mut cell = Cell::with_two_nodes().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("cat").await.attach("now").await;
    let (mut cuts, mut moves, mut restarts) = (Times::new(), Times::new(), Times::new());
    for _ in 0..work.pauses {
        echo(&mut viewer).await;
        cell.cut_links();
        let started = Instant::now();
        echo(&mut viewer).await;
        cuts.add(started.elapsed());
    }
    for node in cell.route_of(&instance, work.pauses).await {
        moves.add(longest_pause(&mut viewer, instance.moves_to(node)).await);
    }
    let (here, _) = cell.place_of(&instance).await;
    for _ in 0..work.pauses.min(30) {
        let node = cell.node(here);
        node.role.kill().await;
        node.network.cut();
        node.start_again().await;
        let ready = Instant::now();
        echo(&mut viewer).await;
        restarts.add(ready.elapsed());
    }
    figures.add("pause_cut_p50", cuts.millis(50.0), "ms", "a link is cut: until the next echo");
    figures.add("pause_cut_p99", cuts.millis(99.0), "ms", "");
    figures.add("pause_move_p50", moves.millis(50.0), "ms", "a move: the longest time between two echoes");
    figures.add("pause_move_p99", moves.millis(99.0), "ms", "");
    figures.add(
        "pause_restart_p50",
        restarts.millis(50.0),
        "ms",
        "a node is killed: from its ready line to the next echo",
    );
    figures.add("pause_restart_p99", restarts.millis(99.0), "ms", "");
}

/// The longest time between two echoes while `event` goes on.
async fn longest_pause(viewer: &mut Attached, event: impl Future<Output = ()>) -> Duration {
    let mut event = std::pin::pin!(event);
    let mut longest = Duration::ZERO;
    loop {
        let started = Instant::now();
        let over = {
            let mut echo = std::pin::pin!(echo(viewer));
            tokio::select! {
                () = &mut echo => false,
                () = &mut event => {
                    echo.await;
                    true
                }
            }
        };
        longest = longest.max(started.elapsed());
        if over {
            return longest;
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
