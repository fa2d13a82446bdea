//! Machines that are namespaces of the network: each has an address, a filter of its own, and a wire to one switch.
//!
//! Nothing of the real machine's network is touched. Whoever looks into a namespace does so by `ip netns exec`; the clients'
//! namespace is entered by the thread that all clients run on.

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use landfast_scenarios::namespaces;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::plan::Host;

/// The switch, beside the hosts.
const SWITCH: &str = "switch";

/// The machines of one run.
#[derive(Debug)]
pub(crate) struct Hosts {
    prefix: String,
}

impl Hosts {
    /// Makes them, after sweeping what killed runs have left. Whoever ends them knows them by the prefix.
    pub(crate) fn make(prefix: String) -> Result<Self> {
        let hosts = Self { prefix };
        let switch = hosts.namespace_named(SWITCH);
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for host in Host::all() {
            let namespace = hosts.namespace(host);
            let wire = format!("v{host}");
            ip(&["netns", "add", &namespace])?;
            ip(&["link", "add", &wire, "netns", &switch, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
            ip(&["-n", &switch, "link", "set", &wire, "master", "br0", "up"])?;
            ip(&["-n", &namespace, "addr", "add", &format!("{}/24", address(host)), "dev", "eth0"])?;
            ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        Ok(hosts)
    }

    /// The namespace of a host.
    pub(crate) fn namespace(&self, host: Host) -> String {
        self.namespace_named(&host.to_string())
    }

    /// Lets this thread, and those that it starts, be on a host.
    pub(crate) fn enter(&self, host: Host) -> Result<()> {
        let namespace = File::open(namespaces::path(&self.namespace(host)))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// Lets no packet of `from` reach `to`, until [`Self::clear`] is told the same name.
    pub(crate) fn drop_packets(&self, name: &str, from: Host, to: Host) -> Result<()> {
        self.filter(name, to, &format!("ip saddr {} drop", address(from)))
    }

    /// Loses packets that come to a host.
    pub(crate) fn lose_packets(&self, name: &str, host: Host, percent: u8) -> Result<()> {
        self.filter(name, host, &format!("iifname eth0 numgen random mod 100 < {percent} drop"))
    }

    /// Takes a filter back. That there is none is as well: of several one may have failed.
    pub(crate) fn clear(&self, name: &str, host: Host) {
        let mut nft = self.command(host, "nft");
        let _ = nft.args(["delete", "table", "inet", name]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }

    /// Kills every TCP connection between two hosts, at the first.
    pub(crate) fn reset(&self, one: Host, other: Host) -> Result<()> {
        let mut ss = self.command(one, "ss");
        ss.args(["-K", "dst", &address(other).to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let status = ss.status().context("ss could not be started")?;
        if !status.success() {
            bail!("ss -K at {one}: {status}");
        }
        Ok(())
    }

    fn filter(&self, name: &str, host: Host, rule: &str) -> Result<()> {
        let mut nft = self.command(host, "nft");
        let mut child = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("nft could not be started")?;
        let script = format!(
            "add table inet {name}\nadd chain inet {name} in {{ type filter hook input priority 0; }}\nadd rule inet {name} in {rule}\n"
        );
        child.stdin.take().context("it is piped")?.write_all(script.as_bytes())?;
        let status = child.wait()?;
        if !status.success() {
            bail!("nft at {host}: {status}");
        }
        Ok(())
    }

    fn command(&self, host: Host, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host), program]);
        command
    }

    fn namespace_named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// Where a host is reached.
pub(crate) fn address(host: Host) -> Ipv4Addr {
    let place = Host::all().iter().position(|other| *other == host).expect("every host has a place");
    Ipv4Addr::new(10, 77, 0, place as u8 + 1)
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("ip could not be started")?;
    if !status.success() {
        bail!("`ip {}`: {status}; namespaces of the network take root and a kernel that has them", arguments.join(" "));
    }
    Ok(())
}
