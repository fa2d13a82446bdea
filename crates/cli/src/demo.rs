//! `landfast demo`: a small cell under load, made to fail in every way it should survive, and an honest count of what
//! that did to its clients.
//!
//! ```text
//! plain clients ─WebSocket─▶ gateway ═links═▶ network ─▶ node a ─▶ agent ─▶ one peer for each client
//! landfast clients ═══════════links══════════▶ network ─▶ node b ┘          (both ends check every byte)
//!                               ▲ killed           ▲ cut    ▲ killed, moved between
//! ```

mod cell;
mod numbers;
pub(crate) mod peer;
mod plain;
mod relay;
mod report;
mod talker;

use std::time::Duration;

use landfast_client::{Attach, Client, CreateInstance, From, StartProcess, Stdin};
use landfast_core::InstanceId;
use landfast_core::record::{InstanceSpec, Kind, Phase};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

use self::cell::DemoCell;
use self::peer::blocks_per_tick;
use self::report::{Fault, Report};
use self::talker::{Line, Talker};
use crate::args::{Demo, Format};
use crate::failure::Failure;
use crate::print::{Paint, answer, line};

/// Clients of each sort: enough for a distribution, few enough for two cores.
const CLIENTS: u64 = 4;

/// What each client and each peer says: a busy terminal, or a build's log.
const BYTES_PER_SECOND: u64 = 100_000;

/// How much a client has to hear after a fault for it to be over: a sixth of a second of it.
const RECOVERED: u64 = BYTES_PER_SECOND / 6;

/// How long a client may hear nothing before the demo calls it lost: twice what a redial goes on for, less is a matter of
/// the machine.
const STALLED: Duration = Duration::from_secs(120);

/// How long the last bytes and the findings may take.
const FINISHING: Duration = Duration::from_secs(60);

/// How long a move, or the coming and going of the instance, may take.
const STEP: Duration = Duration::from_secs(30);

/// The program's name in the instance's home.
const PEER: &str = "landfast-demo-peer";

/// The share of the time that each kind of trouble has, in tenths.
const SHARES: [(Fault, u64); 4] =
    [(Fault::LinksCut, 3), (Fault::NodeKilled, 2), (Fault::Moved, 3), (Fault::GatewayKilled, 2)];

/// Runs the demo and prints what it counted.
///
/// # Errors
///
/// Something was lost, doubled or closed; or the demo could not run.
pub(crate) async fn run(args: &Demo, paint: Paint) -> Result<(), Failure> {
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mut cell = DemoCell::start().await?;
    let client = client(&cell)?;
    let played = tokio::select! {
        played = Play::new(&mut cell, &client, seed).run(args) => played,
        _ = tokio::signal::ctrl_c() => Err(Failure::local("Interrupted; nothing was counted.")),
    };
    // Agents outlive their nodes, so what runs has to be deleted while there is somebody to do it.
    let cleared = timeout(STEP, clear(&client)).await.unwrap_or_else(|_| Err(Failure::local("It took too long.")));
    cell.stop().await;
    let report = played?;
    answer(args.output.format, &report.summary(), || report.describe(paint));
    cleared.map_err(|failure| Failure::local(format!("The demo's instance could not be removed: {failure}")))?;
    if report.is_clean() { Ok(()) } else { Err(Failure::local(report.verdict())) }
}

/// One run.
struct Play<'a> {
    cell: &'a mut DemoCell,
    client: &'a Client,
    random: StdRng,
    report: Report,
    /// Which node has the instance.
    place: usize,
}

impl<'a> Play<'a> {
    fn new(cell: &'a mut DemoCell, client: &'a Client, seed: u64) -> Self {
        Self { cell, client, random: StdRng::seed_from_u64(seed), report: Report::new(seed), place: 0 }
    }

    async fn run(mut self, args: &Demo) -> Result<Report, Failure> {
        let instance = self.create().await?;
        if args.output.format == Format::Text {
            line(&self.report.introduction(CLIENTS, BYTES_PER_SECOND));
        }
        let mut plain = self.connect(instance, false).await?;
        let mut linked = self.connect(instance, true).await?;
        for (fault, share) in SHARES {
            let talkers: Vec<&Talker> = plain.iter().chain(&linked).collect();
            let until = Instant::now() + Duration::from_millis(args.seconds * 100 * share);
            if fault == Fault::GatewayKilled {
                // The gateway holds the sockets of plain clients, so they leave before it goes.
                self.hear_out(std::mem::take(&mut plain)).await;
                let talkers: Vec<&Talker> = linked.iter().collect();
                self.trouble(fault, instance, &talkers, until).await?;
            } else if !self.trouble(fault, instance, &talkers, until).await? {
                break;
            }
        }
        self.hear_out(plain).await;
        self.hear_out(std::mem::take(&mut linked)).await;
        Ok(self.report)
    }

    async fn create(&mut self) -> Result<InstanceId, Failure> {
        let wish = CreateInstance { kind: Kind::Sandbox, spec: InstanceSpec::default(), labels: [].into() };
        let instance = self.client.create_instance(&wish, STEP).await?;
        if instance.phase != Phase::Running {
            let why = instance.reason.unwrap_or_else(|| "no node took it".to_owned());
            return Err(Failure::local(format!("The demo's instance does not run: {why}")));
        }
        let nodes = self.client.nodes().await?;
        let node = nodes.into_iter().find(|node| Some(node.id) == instance.node);
        let node = node.ok_or_else(|| Failure::local("The demo's instance is on no node."))?;
        self.place = self.cell.nodes.iter().position(|known| known.name == node.name).unwrap_or_default();
        self.report.isolation = node.isolation;
        let home = self.cell.dir().join("instances").join(instance.id.to_string()).join("home");
        let copied = std::env::current_exe().and_then(|program| std::fs::copy(program, home.join(PEER)));
        copied.map_err(|error| Failure::local(format!("The demo's peer cannot be put into the instance: {error}.")))?;
        Ok(instance.id)
    }

    /// Starts a peer for each client, and the clients.
    async fn connect(&mut self, instance: InstanceId, linked: bool) -> Result<Vec<Talker>, Failure> {
        let mut talkers = Vec::new();
        for _ in 0..CLIENTS {
            let seed = self.random.random_range(0..u64::MAX / 2);
            let rate = BYTES_PER_SECOND.to_string();
            let argv = [&format!("./{PEER}"), "demo-peer", "--seed", &seed.to_string(), "--bytes-per-second", &rate];
            let wish = StartProcess { stdin: Some(Stdin::Open), ..StartProcess::argv(argv) };
            let process = self.client.start_process(instance, &wish).await?;
            let line = if linked {
                let attached = self.client.attach(instance, process.id, Attach::from(From::Start)).await?;
                Line::Linked(Box::new(attached))
            } else {
                let token = self.client.create_token(instance, &[], None).await?;
                let opened = plain::open(self.cell.gateway.address(), instance, process.id, &token.token).await;
                let (ear, mouth) =
                    opened.map_err(|why| Failure::local(format!("A plain client got no socket: {why}.")))?;
                Line::Plain(ear, mouth)
            };
            talkers.push(Talker::start(line, seed, blocks_per_tick(BYTES_PER_SECOND)));
        }
        Ok(talkers)
    }

    /// Makes one kind of trouble again and again, at least once, and measures each time how long every client waited.
    /// Returns whether the clients are still there.
    async fn trouble(
        &mut self,
        fault: Fault,
        instance: InstanceId,
        talkers: &[&Talker],
        until: Instant,
    ) -> Result<bool, Failure> {
        if !recover(talkers).await {
            return Ok(false);
        }
        loop {
            sleep(Duration::from_millis(self.random.random_range(20..120))).await;
            for talker in talkers {
                talker.pace().take_longest();
            }
            self.inflict(fault, instance).await?;
            if !recover(talkers).await {
                return Ok(false);
            }
            self.report.count(fault, talkers.iter().map(|talker| talker.pace().take_longest()));
            if Instant::now() >= until {
                return Ok(true);
            }
        }
    }

    async fn inflict(&mut self, fault: Fault, instance: InstanceId) -> Result<(), Failure> {
        match fault {
            Fault::LinksCut => self.cell.cut(),
            Fault::NodeKilled => self.cell.nodes[self.place].restart().await?,
            Fault::Moved => {
                self.place = 1 - self.place;
                self.client.move_instance(instance, self.cell.nodes[self.place].name, STEP).await?;
            }
            Fault::GatewayKilled => self.cell.gateway.restart().await?,
        }
        Ok(())
    }

    /// Lets clients finish, and counts what they and their peers found.
    async fn hear_out(&mut self, talkers: Vec<Talker>) {
        for talker in talkers {
            self.report.judge(talker.finish(FINISHING).await);
        }
    }
}

/// Waits until every client hears its peer flow again. Returns whether all do.
async fn recover(talkers: &[&Talker]) -> bool {
    let wanted: Vec<u64> = talkers.iter().map(|talker| talker.pace().bytes() + RECOVERED).collect();
    let deadline = Instant::now() + STALLED;
    while talkers.iter().zip(&wanted).any(|(talker, &wanted)| talker.pace().bytes() < wanted) {
        if talkers.iter().any(|talker| talker.is_finished()) || Instant::now() >= deadline {
            return false;
        }
        sleep(peer::TICK).await;
    }
    true
}

fn client(cell: &DemoCell) -> Result<Client, Failure> {
    let key = std::fs::read_to_string(cell.dir().join("api-key"));
    let key = key.map_err(|error| Failure::local(format!("The demo's API key cannot be read: {error}.")))?;
    Ok(Client::new(&format!("http://{}", cell.gateway.address()), key.trim())?)
}

/// Deletes every instance, and waits until nothing of them runs.
async fn clear(client: &Client) -> Result<(), Failure> {
    for instance in client.instances().await? {
        client.delete_instance(instance.id).await?;
        while client.instance(instance.id).await?.phase != Phase::Deleted {
            sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}
