//! `cargo xtask`: the same lines for a person and for CI.
//!
//! It starts in the time cargo needs to find that nothing changed, so it links nothing of the product: what needs the
//! product's tables or its protocols is a program of `crates/scenarios`, which is built and run from here.

mod clients;
mod conformance;
mod python;
mod steps;
mod system;
mod test;
mod typescript;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use crate::steps::cargo;
use crate::test::Area;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Landfast's one-line tasks", version)]
enum Task {
    /// Builds the release and brings up a whole cell on this machine
    Up {
        /// What `landfast up` takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs every check there is, or the quick ones of one area
    Test {
        /// The area; all of them without it
        area: Option<Area>,
    },
    /// Writes docs/reference anew from the code
    Docs {
        /// Only say whether it is up to date
        #[arg(long)]
        check: bool,
    },
    /// Measures a release build on this machine
    Bench {
        /// What to measure
        what: Bench,
        /// What the bench takes: --quick, -o json, --seed …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs the store's contract over members that are killed and a cell while all are away, then the suites that others wrote:
    /// through the gateway, and without it
    Conformance {
        /// What the program takes: --all …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Strikes a cell on many hosts with faults, and judges what came of it: hosts are namespaces of the network, so it takes root
    Chaos {
        /// Takes the debug build, which is there after tests
        #[arg(long)]
        debug: bool,
        /// What the program takes: --minutes N, --seed S, -o json …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs the whole cell in one thread, once for each seed
    Sim {
        /// What the simulator takes: --seeds N, --seed S …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Bench {
    /// The session path beside a direct connection to the agent, in one run
    Session,
    /// A thousand random faults over two hundred sessions, every byte checked
    Faults,
    /// A client of CDP straight to its browser, and through gateway, node and agent, in one run
    Cdp,
    /// A million events of an agent to a hundred readers, one of whom stalls, and to nobody
    Events,
    /// The HTTP and WebSocket path beside HAProxy and nginx, in one run
    Http,
    /// Fifty moves of a service under load, which its clients must not notice
    Moves,
    /// Ten thousand routes that change a thousand times a second under load, beside the same load over idle ones
    Routes,
    /// A hundred thousand routes at four gateways, over the store of one machine and over etcd
    Scale,
}

fn main() -> ExitCode {
    match run(Task::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    // Nothing of the product compiles without it.
    system::provide(&[system::PROTOC])?;
    match task {
        Task::Up { arguments } => up(&arguments),
        Task::Test { area } => test::run(area),
        Task::Docs { check } => docs(check),
        Task::Bench { what, arguments } => bench(what, &arguments),
        Task::Conformance { arguments } => conformance(&arguments),
        Task::Chaos { debug, arguments } => chaos(debug, &arguments),
        Task::Sim { arguments } => sim(&arguments),
    }
}

fn up(arguments: &[String]) -> Result<ExitCode> {
    if let Err(missing) = system::provide(&[system::BUBBLEWRAP, system::SLIRP4NETNS, system::CHROMIUM]) {
        eprintln!("xtask: {missing:#}\nxtask: going on; what needs them will say so");
    }
    succeed(cargo().args(["build", "--release", "--package", "landfast"]))?;
    // Replaced, not called: signals and the exit code are then those of the program itself.
    Err(Command::new(release("landfast")?).arg("up").args(arguments).exec()).context("landfast could not be started")
}

fn docs(check: bool) -> Result<ExitCode> {
    let status = test::docs(check).status().context("cargo could not be started")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bench(what: Bench, arguments: &[String]) -> Result<ExitCode> {
    match what {
        Bench::Http => system::provide(&system::PEERS)?,
        Bench::Cdp => {
            system::provide(&[system::CHROMIUM])?;
            clients::provide()?;
        }
        Bench::Scale => system::provide(&[system::ETCD])?,
        Bench::Session | Bench::Events | Bench::Faults | Bench::Moves | Bench::Routes => {}
    }
    build_programs(&[
        "landfast-bench",
        "landfast-under-test",
        "landfast-numbers",
        "landfast-reaper",
        "landfast-served",
    ])?;
    let what = match what {
        Bench::Session => "session",
        Bench::Cdp => "cdp",
        Bench::Events => "events",
        Bench::Faults => "faults",
        Bench::Http => "http",
        Bench::Moves => "moves",
        Bench::Routes => "routes",
        Bench::Scale => "scale",
    };
    Err(Command::new(release("landfast-bench")?).arg(what).args(arguments).exec())
        .context("the bench could not be started")
}

fn conformance(arguments: &[String]) -> Result<ExitCode> {
    system::provide(&[system::BUBBLEWRAP, system::H2LOAD, system::ETCD])?;
    succeed(&mut conformance::store())?;
    succeed(&mut conformance::outage())?;
    let suite = conformance::autobahn()?;
    build_programs(&["landfast-conformance", "landfast-under-test", "landfast-reaper", "landfast-served"])?;
    Err(Command::new(release("landfast-conformance")?).arg(suite).args(arguments).exec())
        .context("the suite's runner could not be started")
}

fn chaos(debug: bool, arguments: &[String]) -> Result<ExitCode> {
    system::provide(&system::HOSTS)?;
    system::provide(&[system::ETCD, system::BUBBLEWRAP, system::FAKETIME])?;
    let folder = if debug {
        // All programs at once, as tests build them: with fewer some libraries have fewer features, and are built again.
        succeed(cargo().args(["build", "--workspace", "--bins"]))?;
        target()?.join("debug")
    } else {
        build_programs(&[
            "landfast-chaos",
            "landfast-under-test",
            "landfast-numbers",
            "landfast-reaper",
            "landfast-served",
        ])?;
        release("")?
    };
    Err(Command::new(folder.join("landfast-chaos")).args(arguments).exec()).context("it could not be started")
}

/// Builds programs of the scenarios as a release.
fn build_programs(programs: &[&str]) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--release", "--package", "landfast-scenarios"]);
    for program in programs {
        build.args(["--bin", program]);
    }
    succeed(&mut build)
}

fn sim(arguments: &[String]) -> Result<ExitCode> {
    Err(test::sim().args(arguments).exec()).context("cargo could not be started")
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{} could not be started", steps::line(command)))?;
    if !status.success() {
        bail!("`{}` failed", steps::line(command));
    }
    Ok(())
}

/// Where cargo puts a program of the release profile.
fn release(program: &str) -> Result<PathBuf> {
    Ok(target()?.join("release").join(program))
}

/// The target directory, in which this program lies.
fn target() -> Result<PathBuf> {
    let here = std::env::current_exe().context("the path of this program is not known")?;
    Ok(here.parent().and_then(Path::parent).context("this program is not in a target directory")?.to_owned())
}
