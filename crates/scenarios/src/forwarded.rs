//! `landfast forward` as its user runs it: a port of this machine that leads into an instance.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::instance::Instance;
use crate::role::program;

/// A forwarded port. It ends with the value.
#[derive(Debug)]
pub struct Forwarded {
    /// Where it listens.
    pub address: SocketAddr,
    /// Ends with the value.
    _child: Child,
}

impl Forwarded {
    /// Starts `landfast forward` to a place in an instance, and waits until it listens.
    ///
    /// # Panics
    ///
    /// It does not.
    pub async fn start(instance: &Instance, place: &str) -> Self {
        let operator = &instance.operator;
        let mut command = Command::new(program("landfast-under-test"));
        command.args(["forward", &instance.id, place, "0"]);
        command.env("LANDFAST_URL", format!("http://{}", operator.address)).env("LANDFAST_API_KEY", &operator.key);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program was built");
        let mut said = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let line = said.next_line().await.expect("it can be read").expect("it says where it listens");
        let address = line.strip_prefix("http://").unwrap_or(&line).parse().expect("an address");
        Self { address, _child: child }
    }
}
