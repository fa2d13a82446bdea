//! Namespaces of the network with names, which nothing but their removal ends: the run that made them may be killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where `ip netns` keeps them.
const PLACE: &str = "/run/netns";

/// What the names of ours begin with; then comes the number of the process that made them.
const OURS: &str = "lfchaos-";

/// Where a namespace is.
pub fn path(name: &str) -> PathBuf {
    Path::new(PLACE).join(name)
}

/// What the names of this process's namespaces begin with.
pub fn prefix() -> String {
    format!("{OURS}{}-", std::process::id())
}

/// The namespaces whose names begin so.
pub fn beginning_with(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(PLACE).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(prefix)).collect()
}

/// The processes in a namespace.
pub fn processes(name: &str) -> Vec<i32> {
    let output = Command::new("ip").args(["netns", "pids", name]).output();
    let text = output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Removes the namespaces whose names begin so, and ends what runs in them, but for this process and the one that
/// started it: the one that made a namespace may be in it, and ends by itself.
pub fn remove(prefix: &str) {
    let spared = [std::process::id(), std::os::unix::process::parent_id()].map(|pid| pid as i32);
    for name in beginning_with(prefix) {
        for pid in processes(&name).into_iter().filter(|pid| !spared.contains(pid)) {
            // Gone already: as well.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // What cannot be removed is tried again by the next run.
        let _ = Command::new("ip").args(["netns", "del", &name]).status();
    }
}

/// Removes the namespaces of runs that are not there any more.
pub fn sweep() {
    for name in beginning_with(OURS) {
        let owner = name[OURS.len()..].split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            remove(&format!("{OURS}{owner}-"));
        }
    }
}
