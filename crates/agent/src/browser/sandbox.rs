//! Whether Chromium's own sandbox works here.
//!
//! It is made of user namespaces, and the kernel does not let everybody have them. A browser without it must be told so, or
//! it does not start; and its user must be able to see that.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::process::geteuid;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde::Serialize;

/// Whether the sandbox is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Sandbox {
    enabled: bool,
    /// Why it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Sandbox {
    /// Finds out, by trying what Chromium will do.
    pub(super) fn probe() -> Self {
        if geteuid().is_root() {
            return Self::off("Chromium has no sandbox for root; run the instance as another user.");
        }
        match try_namespaces() {
            Ok(()) => Self { enabled: true, reason: None },
            Err(error) => Self::off(&format!("The kernel gives no user namespace: {error}.")),
        }
    }

    /// It is off, for this reason.
    pub(super) fn off(reason: &str) -> Self {
        Self { enabled: false, reason: Some(reason.to_owned()) }
    }

    /// Whether it is on.
    pub(super) const fn is_on(&self) -> bool {
        self.enabled
    }
}

/// Has a child take the namespaces that the sandbox is made of.
#[allow(unsafe_code)]
fn try_namespaces() -> io::Result<()> {
    let mut command = Command::new("true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let in_child = || {
        let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWPID | UnshareFlags::NEWNET;
        // SAFETY: the child has one thread, shares no open file that matters, and ends after this.
        unsafe { unshare_unsafe(flags) }?;
        Ok(())
    };
    // SAFETY: the closure makes one system call, and allocates nothing.
    unsafe { command.pre_exec(in_child) };
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("a child in one ended with {status}"))) }
}
