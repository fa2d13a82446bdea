//! What is tested in Python: the SDK, and the surface for Kernel's clients with the genuine client in two releases. What it
//! takes to check them, and the checks. The tests run the program that is in the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::steps::{Step, cargo};
use crate::system;

/// Where the SDK is.
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk/python");

/// Where the tests with the genuine client are.
const KERNEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk/kernel");

/// What the SDK's checks need, with the hash of each.
const LIST: &str = "requirements.txt";

/// The releases of the genuine client; for each there is a list.
const RELEASES: [&str; 2] = ["newest", "0.93.0"];

/// Makes a Python of its own below the target directory, with just what the SDK's list says, unless that is there.
///
/// # Errors
///
/// It cannot be had; what was tried is on the terminal.
pub(crate) fn provide() -> Result<()> {
    make(&folder("python")?, &Path::new(SDK).join(LIST))
}

/// The same for each release of the genuine client.
///
/// # Errors
///
/// As [`provide`].
pub(crate) fn provide_kernel() -> Result<()> {
    for release in RELEASES {
        make(&folder(&format!("kernel-{release}"))?, &Path::new(KERNEL).join(format!("{release}.txt")))?;
    }
    Ok(())
}

fn make(folder: &Path, list: &Path) -> Result<()> {
    let wanted = fs::read(list).context("the list of what the tests in Python need")?;
    if fs::read(done(folder)).is_ok_and(|present| present == wanted) {
        return Ok(());
    }
    if !has_venv() {
        system::install(&["python3", "python3-venv"])?;
    }
    println!("xtask: making a Python in {}", folder.display());
    finish(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
    finish(
        Command::new(python(folder))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"])
            .arg(list),
    )?;
    fs::write(done(folder), wanted)?;
    Ok(())
}

/// The SDK's checks, in the order in which a person wants to hear of failures.
///
/// # Errors
///
/// The target directory is not known.
pub(crate) fn steps() -> Result<Vec<Step>> {
    let folder = folder("python")?;
    let with = |arguments: &[&str]| command(&folder, SDK, arguments);
    let mut tests = with(&["-m", "pytest"]);
    tests.env("LANDFAST_BINARY", under_test()?);
    Ok(vec![
        Step::new("python: generated", with(&["scripts/unasync.py", "--check"])),
        Step::new("python: format", with(&["-m", "ruff", "format", "--check", "--quiet"])),
        Step::new("python: lints", with(&["-m", "ruff", "check", "--quiet"])),
        Step::new("python: types", with(&["-m", "mypy"])),
        Step::new("python: program", build()),
        Step::new("python: tests", tests),
    ])
}

/// The tests with the genuine client, in each release. They are written as the SDK is.
///
/// # Errors
///
/// The target directory is not known.
pub(crate) fn kernel_steps() -> Result<Vec<Step>> {
    let sdk = folder("python")?;
    let mut steps = vec![
        Step::new("kernel: format", command(&sdk, KERNEL, &["-m", "ruff", "format", "--check", "--quiet"])),
        Step::new("kernel: lints", command(&sdk, KERNEL, &["-m", "ruff", "check", "--quiet"])),
        Step::new("kernel: program", build()),
    ];
    for (name, release) in ["kernel: newest", "kernel: 0.93.0"].into_iter().zip(RELEASES) {
        let mut tests = command(&folder(&format!("kernel-{release}"))?, KERNEL, &["-m", "pytest"]);
        tests.env("LANDFAST_BINARY", under_test()?);
        steps.push(Step::new(name, tests));
    }
    Ok(steps)
}

fn command(folder: &Path, place: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(python(folder));
    command.args(arguments).current_dir(place);
    command
}

fn build() -> Command {
    let mut build = cargo();
    build.args([
        "build",
        "--package",
        "landfast-scenarios",
        "--bin",
        "landfast-under-test",
        "--bin",
        "landfast-reaper",
    ]);
    build
}

fn under_test() -> Result<PathBuf> {
    Ok(crate::target()?.join("debug/landfast-under-test"))
}

fn folder(name: &str) -> Result<PathBuf> {
    Ok(crate::target()?.join(name))
}

fn python(folder: &Path) -> PathBuf {
    folder.join("bin/python")
}

/// Written last, so that what was interrupted is begun again.
fn done(folder: &Path) -> PathBuf {
    folder.join("installed.txt")
}

/// Debian keeps the module's other half in a package of its own.
fn has_venv() -> bool {
    let mut ask = Command::new("python3");
    ask.args(["-c", "import ensurepip, venv"]).stderr(Stdio::null());
    ask.status().is_ok_and(|status| status.success())
}

fn finish(command: &mut Command) -> Result<()> {
    if !command.status().context("python3 could not be started")?.success() {
        bail!("a Python for the tests could not be made; it needs python3-venv and a registry of Python packages");
    }
    Ok(())
}
