//! What `cargo xtask test` runs.

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::ValueEnum;

use crate::steps::{self, Step, cargo};
use crate::{clients, python, system, typescript};

/// How many seeds the simulator runs in a whole test: half a minute; a night's run takes what it likes.
const SIM_SEEDS: &str = "10000";

/// A part of the project that is tested by itself.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Area {
    Core,
    Files,
    Net,
    Registry,
    Gateway,
    Node,
    Agent,
    Client,
    Cli,
    Sim,
    Scenarios,
    Xtask,
    /// The Python SDK
    Python,
    /// The surface for Kernel's clients, with the genuine client
    Kernel,
    /// The TypeScript SDK
    Typescript,
    /// Format, lints, rustdoc and the generated references
    Docs,
}

impl Area {
    const fn package(self) -> Option<&'static str> {
        Some(match self {
            Self::Core => "landfast-core",
            Self::Files => "landfast-files",
            Self::Net => "landfast-net",
            Self::Registry => "landfast-registry",
            Self::Gateway => "landfast-gateway",
            Self::Node => "landfast-node",
            Self::Agent => "landfast-agent",
            Self::Client => "landfast-client",
            Self::Cli => "landfast",
            Self::Sim => "landfast-sim",
            Self::Scenarios => "landfast-scenarios",
            Self::Xtask => "xtask",
            Self::Python | Self::Typescript | Self::Kernel | Self::Docs => return None,
        })
    }
}

/// Runs all steps, or those of one area.
pub(crate) fn run(area: Option<Area>) -> Result<ExitCode> {
    system::provide_components()?;
    if area.is_none_or(|area| matches!(area, Area::Scenarios | Area::Node | Area::Agent | Area::Cli)) {
        system::provide(&system::FOR_TESTS)?;
    }
    if area.is_none_or(|area| matches!(area, Area::Registry | Area::Scenarios)) {
        system::provide(&[system::ETCD])?;
    }
    if area.is_none_or(|area| area == Area::Scenarios) {
        system::provide(&system::PEERS)?;
        clients::provide()?;
    }
    if area.is_none_or(|area| matches!(area, Area::Python | Area::Typescript | Area::Kernel)) {
        system::provide(&[system::BUBBLEWRAP, system::SLIRP4NETNS, system::CHROMIUM])?;
    }
    if area.is_none_or(|area| matches!(area, Area::Python | Area::Kernel)) {
        python::provide()?;
    }
    if area.is_none_or(|area| area == Area::Kernel) {
        python::provide_kernel()?;
    }
    if area.is_none_or(|area| area == Area::Typescript) {
        typescript::provide()?;
    }
    Ok(steps::run(match area {
        None => everything()?,
        Some(Area::Docs) => documents(),
        Some(Area::Python) => python::steps()?,
        Some(Area::Kernel) => python::kernel_steps()?,
        Some(Area::Typescript) => typescript::steps()?,
        Some(area) => area.package().map_or_else(Vec::new, one_package),
    }))
}

/// The generator of `docs/reference`. It is a program of `crates/scenarios` because it needs every role's tables.
pub(crate) fn docs(check: bool) -> Command {
    let mut command = cargo();
    command.args([
        "run",
        "--quiet",
        "--package",
        "landfast-scenarios",
        "--bin",
        "landfast-docs",
        "--",
        "docs/reference",
    ]);
    if check {
        command.arg("--check");
    }
    command
}

/// The simulator, as a release build: it is nothing but computing.
pub(crate) fn sim() -> Command {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "landfast-sim", "--"]);
    command
}

fn everything() -> Result<Vec<Step>> {
    let mut simulation = sim();
    simulation.args(["--seeds", SIM_SEEDS]);
    let mut owners = sim();
    owners.arg("--owners");
    let mut steps = vec![
        Step::new("format", with(&["fmt", "--all", "--check"])),
        Step::new("lints", with(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        Step::new("tests", with(&["test", "--workspace", "--no-fail-fast"])),
        Step::new("simulation", simulation),
        Step::new("simulation: owners", owners),
        Step::new("rustdoc", rustdoc()),
        Step::new("references", docs(true)),
    ];
    steps.extend(python::steps()?);
    steps.extend(python::kernel_steps()?);
    steps.extend(typescript::steps()?);
    Ok(steps)
}

fn documents() -> Vec<Step> {
    vec![
        Step::new("format", with(&["fmt", "--all", "--check"])),
        Step::new("lints", with(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        Step::new("rustdoc", rustdoc()),
        Step::new("references", docs(true)),
    ]
}

fn one_package(package: &str) -> Vec<Step> {
    vec![
        Step::new("format", with(&["fmt", "--package", package, "--check"])),
        Step::new("lints", with(&["clippy", "--package", package, "--all-targets", "--", "-D", "warnings"])),
        Step::new("tests", with(&["test", "--package", package])),
    ]
}

fn rustdoc() -> Command {
    let mut command = with(&["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

fn with(arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(arguments);
    command
}
