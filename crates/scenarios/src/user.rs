//! Somebody who has the program and the addresses of a cell's gateways, and nothing between them and these.

use std::net::SocketAddr;
use std::process::Stdio;

use landfast_client::Client;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::cell::Operator;
use crate::forwarded::Forwarded;
use crate::instance::Instance;
use crate::role::program;

/// A user.
#[derive(Clone, Debug)]
pub struct User {
    /// What `LANDFAST_URL` says.
    pub urls: String,
    key: String,
}

impl User {
    /// Somebody who knows these gateways, in this order.
    pub fn of(operator: &Operator, gateways: &[SocketAddr]) -> Self {
        let urls: Vec<_> = gateways.iter().map(|address| format!("http://{address}")).collect();
        Self { urls: urls.join(","), key: operator.key.clone() }
    }

    /// The program, to be run with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("landfast-under-test"));
        command.args(arguments).env("LANDFAST_URL", &self.urls).env("LANDFAST_API_KEY", &self.key);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// The Rust SDK.
    ///
    /// # Panics
    ///
    /// The URLs are none.
    pub fn client(&self) -> Client {
        Client::new(&self.urls, &self.key).expect("they are URLs")
    }

    /// Starts `landfast forward` to a place in an instance, and waits until it listens.
    ///
    /// # Panics
    ///
    /// It does not.
    pub async fn forwards(&self, instance: &Instance, place: &str) -> Forwarded {
        let mut child = self.command(&["forward", &instance.id, place, "0"]).spawn().expect("the program was built");
        let mut said = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let line = said.next_line().await.expect("it can be read").expect("it says where it listens");
        let address = line.strip_prefix("http://").unwrap_or(&line).parse().expect("an address");
        Forwarded { address, _child: child }
    }
}
