//! The clients of CDP that people use, which the scenarios run unmodified: what it takes to have them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::system;

/// Where their list is, with the hash of each.
const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/scenarios/clients");

/// The files of the list.
const FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// Puts the clients into a folder of the target directory, unless just these are there.
///
/// # Errors
///
/// They cannot be had; what was tried is on the terminal.
pub(crate) fn provide() -> Result<()> {
    system::provide(&system::NODE)?;
    let target = crate::release("")?;
    let folder = target.parent().context("a target directory")?.join("cdp-clients");
    if is_done(&folder) {
        return Ok(());
    }
    println!("xtask: putting clients of CDP into {}", folder.display());
    fs::create_dir_all(&folder)?;
    for file in FILES {
        fs::copy(Path::new(LIST).join(file), folder.join(file)).with_context(|| format!("{file} of the clients"))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&folder);
    if !npm.status().context("npm could not be started")?.success() {
        bail!("npm could not install the clients of CDP; it needs a registry of npm packages");
    }
    fs::copy(folder.join(FILES[1]), done(&folder))?;
    Ok(())
}

/// Written last, so that what was interrupted is begun again.
fn done(folder: &Path) -> PathBuf {
    folder.join("installed.json")
}

fn is_done(folder: &Path) -> bool {
    let wanted = fs::read(Path::new(LIST).join(FILES[1])).ok();
    wanted.is_some() && fs::read(done(folder)).ok() == wanted
}
