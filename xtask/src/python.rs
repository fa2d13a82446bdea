//! The Python SDK: what it takes to check it, and the checks. Its tests run the program that is in the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::steps::{Step, cargo};
use crate::system;

/// Where it is.
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk/python");

/// What its checks need, with the hash of each.
const LIST: &str = "requirements.txt";

/// Makes a Python of its own below the target directory, with just what is listed, unless that is there.
///
/// # Errors
///
/// It cannot be had; what was tried is on the terminal.
pub(crate) fn provide() -> Result<()> {
    let (folder, list) = (folder()?, Path::new(SDK).join(LIST));
    let wanted = fs::read(&list).context("the list of what the Python SDK needs")?;
    if fs::read(done(&folder)).is_ok_and(|present| present == wanted) {
        return Ok(());
    }
    if !has_venv() {
        system::install(&["python3", "python3-venv"])?;
    }
    println!("xtask: making a Python in {}", folder.display());
    finish(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    finish(
        Command::new(python(&folder))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"])
            .arg(&list),
    )?;
    fs::write(done(&folder), wanted)?;
    Ok(())
}

/// Its checks, in the order in which a person wants to hear of failures.
///
/// # Errors
///
/// The target directory is not known.
pub(crate) fn steps() -> Result<Vec<Step>> {
    let folder = folder()?;
    let with = |arguments: &[&str]| {
        let mut command = Command::new(python(&folder));
        command.args(arguments).current_dir(SDK);
        command
    };
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
    let mut tests = with(&["-m", "pytest"]);
    tests.env("LANDFAST_BINARY", crate::target()?.join("debug/landfast-under-test"));
    Ok(vec![
        Step::new("python: generated", with(&["scripts/unasync.py", "--check"])),
        Step::new("python: format", with(&["-m", "ruff", "format", "--check", "--quiet"])),
        Step::new("python: lints", with(&["-m", "ruff", "check", "--quiet"])),
        Step::new("python: types", with(&["-m", "mypy"])),
        Step::new("python: program", build),
        Step::new("python: tests", tests),
    ])
}

fn folder() -> Result<PathBuf> {
    Ok(crate::target()?.join("python"))
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
        bail!("a Python for the SDK could not be made; it needs python3-venv and a registry of Python packages");
    }
    Ok(())
}
