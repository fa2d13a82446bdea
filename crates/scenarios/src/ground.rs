//! A data directory that leaves nothing behind.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::role::program;

/// Three times what the largest measurement opens in one process.
const ENOUGH_DESCRIPTORS: u64 = 65_536;

/// A data directory. What was started for it ends with the value, or with the test, however that ends.
#[derive(Debug)]
pub struct Ground {
    reaper: Child,
    dir: PathBuf,
}

impl Ground {
    /// Makes a fresh data directory, closed to others.
    ///
    /// # Panics
    ///
    /// None can be made.
    pub fn new() -> Self {
        Self::with_namespaces("")
    }

    /// Makes a fresh data directory, and ends the namespaces whose names begin with `prefix` with it.
    ///
    /// # Panics
    ///
    /// None can be made.
    pub fn with_namespaces(prefix: &str) -> Self {
        raise_descriptor_limit();
        let closed = Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("lf-").permissions(closed).tempdir().expect("a temporary directory");
        let dir = dir.keep();
        let mut reaper = Command::new(program("landfast-reaper"));
        // In a group of its own, or the interrupt that ends the test would end it too.
        reaper.arg(&dir).arg(prefix).stdin(Stdio::piped()).process_group(0);
        Self { reaper: reaper.spawn().expect("the reaper was built"), dir }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Default for Ground {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        // It ends within a second; how matters to nobody.
        let _ = self.reaper.wait();
    }
}

/// Lets roles and tests open as many descriptors as they are allowed to, whatever the shell's default says, and says how
/// many that are. Ten thousand sessions are twenty thousand sockets in the gateway.
///
/// # Panics
///
/// The system does not know the limit.
pub fn raise_descriptor_limit() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("every process has this limit");
    let enough = hard.max(ENOUGH_DESCRIPTORS);
    // Only a privileged process may go past the hard limit.
    if setrlimit(Resource::RLIMIT_NOFILE, enough, enough).is_ok() {
        return enough;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit is allowed");
    hard
}
