//! Suites that take long: the store's contract over a cluster that loses members, a cell whose cluster is away, and what it takes to
//! run those that others wrote.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::cargo;

/// The script that puts the Autobahn suite into a folder.
const AUTOBAHN: &str = include_str!("autobahn.sh");

/// How many members of etcd are killed while the store's contract is shown, one every ten seconds: two minutes.
const KILLS: &str = "12";

/// For how many seconds the cluster is away.
const AWAY: &str = "120";

/// The store's contract over three members of etcd, of which one is killed every ten seconds. Tests have a short form of it.
pub(crate) fn store() -> Command {
    let mut command = cargo();
    let test = "the_contract_holds_while_a_member_is_killed_every_ten_seconds";
    command.args(["test", "--quiet", "--package", "landfast-registry", "--lib", test]);
    command.env("LANDFAST_TEST_KILLS", KILLS);
    command
}

/// A cell over a cluster that is away for two minutes, killed or standing still. Tests have a short form of it too.
pub(crate) fn outage() -> Command {
    let mut command = cargo();
    command.args(["test", "--quiet", "--package", "landfast-scenarios", "--test", "outage"]);
    command.env("LANDFAST_TEST_AWAY", AWAY);
    command
}

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
