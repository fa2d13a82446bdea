//! Programs of the system that Landfast or its tests use: installed where we may, named exactly where we may not.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// A Debian package, and the program by which we see that it is there.
#[derive(Clone, Copy)]
pub(crate) struct Package {
    name: &'static str,
    program: &'static str,
}

/// Keeps instances apart from the machine and from one another.
pub(crate) const BUBBLEWRAP: Package = Package { name: "bubblewrap", program: "bwrap" };

/// Gives instances networks of their own.
pub(crate) const SLIRP4NETNS: Package = Package { name: "slirp4netns", program: "slirp4netns" };

/// What instances of kind `browser` are.
pub(crate) const CHROMIUM: Package = Package { name: "chromium", program: "chromium" };

/// What the tests run inside instances: browsers, and the full-screen programs whose screens must survive.
pub(crate) const FOR_TESTS: [Package; 6] = [
    BUBBLEWRAP,
    SLIRP4NETNS,
    CHROMIUM,
    Package { name: "vim", program: "vim" },
    Package { name: "htop", program: "htop" },
    Package { name: "less", program: "less" },
];

/// What the gateway is measured and tested beside.
pub(crate) const PEERS: [Package; 2] =
    [Package { name: "haproxy", program: "haproxy" }, Package { name: "nginx-light", program: "nginx" }];

/// Compiles what etcd speaks, for its client.
pub(crate) const PROTOC: Package = Package { name: "protobuf-compiler", program: "protoc" };

/// The store of many machines.
pub(crate) const ETCD: Package = Package { name: "etcd-server", program: "etcd" };

/// Makes hosts of namespaces, and strikes the network between them.
pub(crate) const HOSTS: [Package; 2] =
    [Package { name: "iproute2", program: "ip" }, Package { name: "nftables", program: "nft" }];

/// Gives a daemon a time of day of its own.
pub(crate) const FAKETIME: Package = Package { name: "faketime", program: "faketime" };

/// Runs the clients of CDP.
pub(crate) const NODE: [Package; 2] =
    [Package { name: "nodejs", program: "node" }, Package { name: "npm", program: "npm" }];

/// Loads the gateway over HTTP/2.
pub(crate) const H2LOAD: Package = Package { name: "nghttp2-client", program: "h2load" };

/// Makes sure that the packages are there.
///
/// # Errors
///
/// Some are missing and could not be installed; the error says which command installs them.
pub(crate) fn provide(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|package| !is_in_path(package.program)).map(|package| package.name).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

/// Installs packages by their names.
///
/// # Errors
///
/// They could not be installed; the error says which command does.
pub(crate) fn install(missing: &[&str]) -> Result<()> {
    let names = missing.join(" ");
    if !is_in_path("apt-get") {
        bail!("this machine lacks {names}: install them with its package manager (the names are Debian's)");
    }
    if !is_root()? {
        bail!("this machine lacks {names}: sudo apt-get update && sudo apt-get install -y {names}");
    }
    println!("xtask: installing {names}");
    apt_get(&["update", "-q"])?;
    apt_get(&[&["install", "-q", "-y", "--no-install-recommends"], missing].concat())
}

/// Makes sure that the toolchain has what a minimal one lacks.
///
/// # Errors
///
/// A component is missing and could not be added.
pub(crate) fn provide_components() -> Result<()> {
    for (program, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        let answers = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
        if !answers && !Command::new("rustup").args(["component", "add", component]).status()?.success() {
            bail!("the Rust toolchain lacks {component}: rustup component add {component}");
        }
    }
    Ok(())
}

fn is_in_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).exists()))
}

fn is_root() -> Result<bool> {
    let id = Command::new("id").arg("-u").output().context("`id` could not be started")?;
    Ok(id.stdout.trim_ascii() == b"0")
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("apt-get could not be started")?;
    if !status.success() {
        bail!("`apt-get {}` failed", arguments.join(" "));
    }
    Ok(())
}
