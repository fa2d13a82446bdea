//! The TypeScript SDK: what it takes to check it, and the checks. Its tests run the program that is in the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::steps::{Step, cargo};
use crate::system;

/// Where it is.
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk/typescript");

/// A list of one Node, for systems whose own one is too old.
const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/node");

/// The files of a list.
const FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// The first Node that the SDK runs on, as its `package.json` says.
const OLDEST: (u32, u32) = (20, 16);

/// Makes sure of a Node that is new enough, and puts what the checks need beside the SDK, unless just that is there.
///
/// # Errors
///
/// It cannot be had; what was tried is on the terminal.
pub(crate) fn provide() -> Result<()> {
    system::provide(&system::NODE)?;
    if !is_new_enough(Path::new("node")) {
        provide_node()?;
    }
    install(Path::new(SDK), "what the TypeScript SDK needs")
}

/// Its checks, in the order in which a person wants to hear of failures.
///
/// # Errors
///
/// The target directory is not known.
pub(crate) fn steps() -> Result<Vec<Step>> {
    let node = node()?;
    let with = |arguments: &[&str]| {
        let mut command = Command::new(&node);
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
    let compiler = "node_modules/typescript/bin/tsc";
    let mut tests = with(&["scripts/test.mjs"]);
    tests.env("LANDFAST_BINARY", crate::target()?.join("debug/landfast-under-test"));
    Ok(vec![
        Step::new(
            "typescript: format and lints",
            with(&["node_modules/@biomejs/biome/bin/biome", "ci", "--colors=off"]),
        ),
        // Tests and examples are checked against what was built, as users are.
        Step::new("typescript: build", with(&[compiler, "--project", "tsconfig.build.json"])),
        Step::new("typescript: types", with(&[compiler, "--project", "tsconfig.json"])),
        Step::new("typescript: program", build),
        Step::new("typescript: tests", tests),
    ])
}

/// The Node to run: the system's own, unless that is too old.
fn node() -> Result<PathBuf> {
    let system = PathBuf::from("node");
    Ok(if is_new_enough(&system) { system } else { node_of_ours()? })
}

/// Puts a Node into the target directory: a registry has it as a package.
fn provide_node() -> Result<()> {
    let folder = node_folder()?;
    fs::create_dir_all(&folder)?;
    for file in FILES {
        fs::copy(Path::new(NODE).join(file), folder.join(file)).with_context(|| format!("{file} of a Node"))?;
    }
    install(&folder, "a newer Node")?;
    if !is_new_enough(&node_of_ours()?) {
        let (major, minor) = OLDEST;
        bail!(
            "the TypeScript SDK needs Node {major}.{minor} or newer, and there is none for this machine: install one"
        );
    }
    Ok(())
}

fn node_folder() -> Result<PathBuf> {
    Ok(crate::target()?.join("node"))
}

fn node_of_ours() -> Result<PathBuf> {
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    Ok(node_folder()?.join(format!("node_modules/node-linux-{machine}/bin/node")))
}

/// Has npm put into a folder what its list says, with the hash of each.
fn install(folder: &Path, what: &str) -> Result<()> {
    let wanted = fs::read(folder.join(FILES[1])).with_context(|| format!("the list of {what}"))?;
    let done = folder.join("node_modules/.landfast-installed.json");
    if fs::read(&done).is_ok_and(|present| present == wanted) {
        return Ok(());
    }
    println!("xtask: putting {what} into {}", folder.display());
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(folder);
    if !npm.status().context("npm could not be started")?.success() {
        bail!("npm could not install {what}; it needs a registry of npm packages");
    }
    // Written last, so that what was interrupted is begun again.
    fs::write(done, wanted)?;
    Ok(())
}

fn is_new_enough(node: &Path) -> bool {
    let mut ask = Command::new(node);
    ask.arg("--version").stderr(Stdio::null());
    let said = ask.output().map_or_else(|_| Vec::new(), |output| output.stdout);
    version(&String::from_utf8_lossy(&said)).is_some_and(|found| found >= OLDEST)
}

/// The first two numbers of `v20.16.1`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.trim().strip_prefix('v')?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_node_is_read_and_compared_as_numbers() {
        assert_eq!(version("v20.16.1\n"), Some((20, 16)));
        assert_eq!(version("v22.0.0"), Some((22, 0)));
        assert!(version("v18.19.0").unwrap() < OLDEST && version("v20.9.9").unwrap() < OLDEST);
        assert_eq!([version(""), version("20"), version("vnext.1")], [None; 3]);
    }
}
