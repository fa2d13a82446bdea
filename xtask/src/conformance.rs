//! The suites that others wrote: what it takes to run them, and running them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The script that puts the Autobahn suite into a folder.
const AUTOBAHN: &str = include_str!("autobahn.sh");

/// Where the Autobahn suite's program is, put there first if it is not.
///
/// # Errors
///
/// It cannot be had; what was tried is on the terminal.
pub(crate) fn autobahn() -> Result<PathBuf> {
    let target = crate::release("")?;
    let folder = target.parent().context("a target directory")?.join("autobahn");
    let program = folder.join("wstest");
    if !program.exists() {
        println!("xtask: putting the Autobahn suite into {}", folder.display());
        let status = Command::new("bash").args(["-c", AUTOBAHN, "autobahn.sh"]).arg(&folder).status();
        if !status.context("bash could not be started")?.success() {
            bail!(
                "the Autobahn suite could not be put together; it takes Debian's apt-get, dpkg, and python3 with pip"
            );
        }
    }
    Ok(program)
}
