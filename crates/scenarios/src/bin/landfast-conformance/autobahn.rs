//! The Autobahn suite, as a client of an echo and as the server of one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use landfast_scenarios::cell::{Cell, eventually};
use landfast_scenarios::peer::free_address;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::echo::{self, echo};
use crate::way::{DIRECT, Way, ways};

/// How the suite calls what it sees, from the best to the worst.
const BEHAVIOURS: [&str; 7] = ["OK", "INFORMATIONAL", "NON-STRICT", "UNIMPLEMENTED", "WRONG CODE", "UNCLEAN", "FAILED"];

/// What the short run leaves out.
const LONG: [&str; 3] = ["9.*", "12.*", "13.*"];

/// The most that one case takes, on a busy machine: the largest are a thousand messages of 128 kB.
const CASE_DEADLINE: Duration = Duration::from_secs(120);

/// The suite, and what of it is run.
#[derive(Debug)]
pub(crate) struct Suite {
    program: PathBuf,
    cases: Vec<String>,
    left_out: &'static [&'static str],
}

/// What the suite saw, by way and case.
#[derive(Debug, Default)]
pub(crate) struct Judgement(BTreeMap<String, BTreeMap<String, Seen>>);

/// What the suite saw of one case.
#[derive(Debug)]
struct Seen {
    /// Its place in [`BEHAVIOURS`], of the case and of its closing handshake.
    rank: (usize, usize),
}

impl Suite {
    /// The suite's program, for these cases; without any for all, or for those that do not take minutes.
    pub(crate) fn new(program: PathBuf, cases: Vec<String>, all: bool) -> Self {
        let left_out: &[_] = if all || !cases.is_empty() { &[] } else { &LONG };
        Self { program, cases: if cases.is_empty() { vec!["*".to_owned()] } else { cases }, left_out }
    }

    /// Has it judge an echo that is a server.
    ///
    /// # Errors
    ///
    /// The suite could not be run.
    pub(crate) async fn judge_server(&self, cell: &Cell) -> Result<Judgement> {
        let ways = ways(cell, echo::serve().await?).await;
        let url = |way: &Way| format!("ws://{}{}", way.address, way.target("/?echo"));
        let servers: Vec<Value> = ways.iter().map(|way| json!({"agent": way.name, "url": url(way)})).collect();
        let out = cell.dir().join("autobahn-servers");
        let mut suite = self.command("fuzzingclient", json!({"servers": servers}), &out)?;
        let said = suite.output().await;
        let said = said.with_context(|| format!("{} could not be started", self.program.display()))?;
        Judgement::read(&out)
            .with_context(|| String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
    }

    /// Has it judge an echo that is a client.
    ///
    /// # Errors
    ///
    /// The suite could not be run.
    pub(crate) async fn judge_client(&self, cell: &Cell) -> Result<Judgement> {
        let server = free_address()?;
        let out = cell.dir().join("autobahn-clients");
        let mut suite = self.command("fuzzingserver", json!({"url": format!("ws://{server}")}), &out)?;
        // Its own pages, which nobody reads.
        suite.args(["-u", "0"]).stdout(std::process::Stdio::null());
        let _suite = suite.spawn().with_context(|| format!("{} could not be started", self.program.display()))?;
        eventually("the suite listens", async || TcpStream::connect(server).await.ok().map(drop)).await;
        let ways = ways(cell, server).await;
        for way in &ways {
            let agent = way.name;
            let mut counting = open(way, server, "/getCaseCount?").await?;
            let Some(Ok(count)) = counting.next().await else { bail!("the suite tells no number of cases") };
            for case in 1..=count.to_text()?.parse::<usize>()? {
                let socket = open(way, server, &format!("/runCase?case={case}&agent={agent}")).await?;
                timeout(CASE_DEADLINE, echo(socket)).await.with_context(|| format!("case {case} of {agent}"))?;
            }
        }
        // Written for all at once, before it answers: that takes longer than a gateway waits.
        echo(open(&ways[0], server, &format!("/updateReports?agent={DIRECT}")).await?).await;
        Judgement::read(&out)
    }

    /// Its program with what it is to do.
    fn command(&self, mode: &str, mut spec: Value, out: &Path) -> Result<Command> {
        spec["outdir"] = json!(out);
        spec["cases"] = json!(self.cases);
        spec["exclude-cases"] = json!(self.left_out);
        spec["exclude-agent-cases"] = json!({});
        let file = out.with_extension("json");
        std::fs::write(&file, spec.to_string())?;
        let mut command = Command::new(&self.program);
        command.args(["-m", mode, "-s"]).arg(file).kill_on_drop(true);
        Ok(command)
    }
}

/// Opens a WebSocket to the suite's server, which insists on its own name.
async fn open(way: &Way, server: SocketAddr, own: &str) -> Result<WebSocketStream<TcpStream>> {
    let socket = TcpStream::connect(way.address).await?;
    let opened = client_async(format!("ws://{server}{}", way.target(own)), socket).await;
    Ok(opened.with_context(|| format!("{own} of {}", way.name))?.0)
}

impl Judgement {
    fn read(out: &Path) -> Result<Self> {
        let index: Value = serde_json::from_str(&std::fs::read_to_string(out.join("index.json"))?)?;
        let mut seen = Self::default();
        for (agent, cases) in index.as_object().context("the report is an object")? {
            for (case, report) in cases.as_object().context("a report has cases")? {
                seen.0.entry(agent.clone()).or_default().insert(case.clone(), Seen::read(case, report)?);
            }
        }
        Ok(seen)
    }

    /// Shows all ways, and says whether no case behaves worse through the gateway.
    pub(crate) fn report(&self, title: &str) -> bool {
        let Some(direct) = self.0.get(DIRECT) else { return false };
        println!("\n{title}: {} cases", direct.len());
        println!("{:<14} {}", "", line(self.0.keys()));
        for (rank, behaviour) in BEHAVIOURS.iter().enumerate() {
            let counts = self.0.values().map(|cases| cases.values().filter(|seen| seen.rank.0 == rank).count());
            println!("{behaviour:<14} {}", line(counts));
        }
        let through = self.0.iter().filter(|(way, _)| *way != DIRECT);
        let worse: usize = through.map(|(way, cases)| report_worse(direct, way, cases)).sum();
        println!("worse through the gateway: {worse}");
        worse == 0 && self.0.len() > 1
    }
}

fn line(cells: impl Iterator<Item = impl fmt::Display>) -> String {
    cells.map(|cell| format!("{cell:>9}")).collect()
}

/// Shows the cases that behave worse on a way than straight, and how many there are.
fn report_worse(direct: &BTreeMap<String, Seen>, way: &str, cases: &BTreeMap<String, Seen>) -> usize {
    let mut worse = 0;
    for (case, straight) in direct {
        let seen = cases.get(case);
        if seen.is_none_or(|seen| seen.rank.0 > straight.rank.0 || seen.rank.1 > straight.rank.1) {
            let seen = seen.map_or_else(|| "not seen".to_owned(), Seen::to_string);
            println!("  {case}: {straight}; {way}: {seen}");
            worse += 1;
        }
    }
    worse
}

impl Seen {
    fn read(case: &str, report: &Value) -> Result<Self> {
        let rank = |field: &str| {
            let behaviour = report[field].as_str().unwrap_or_default();
            let place = BEHAVIOURS.iter().position(|known| *known == behaviour);
            place.with_context(|| format!("{case}: {field} is {behaviour:?}"))
        };
        Ok(Self { rank: (rank("behavior")?, rank("behaviorClose")?) })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, closed {}", BEHAVIOURS[self.rank.0], BEHAVIOURS[self.rank.1])
    }
}
