//! A client beside the gateway: straight to the agent through a node's relay, with no network that fails in between and no
//! session. The measure that sessions are held against.

use std::net::SocketAddr;

use crate::attached::Attached;
use crate::cell::Cell;
use crate::http;
use crate::instance::Process;
use crate::plain::PlainClient;

/// The way to a process beside the gateway, as long as its instance stays where it is.
#[derive(Clone, Debug)]
pub struct Way {
    relay: SocketAddr,
    key: String,
    generation: u64,
    process: Process,
}

impl Way {
    /// Finds the way to a process.
    ///
    /// # Panics
    ///
    /// Its instance is nowhere.
    pub async fn to(cell: &Cell, process: &Process) -> Self {
        let key = std::fs::read_to_string(cell.dir().join("cell.key")).expect("a cell has a key");
        let record = process.instance.record().await;
        Self {
            relay: cell.node_of(&process.instance).await.role.address(),
            key: key.trim().to_owned(),
            generation: record["generation"].as_u64().expect("a generation"),
            process: process.clone(),
        }
    }

    /// Attaches over a connection of its own to the agent.
    ///
    /// # Panics
    ///
    /// The relay or the agent refuses.
    pub async fn attach(&self, query: &str) -> Attached {
        let socket = http::connect(self.relay, None).await;
        let connect = format!(
            "CONNECT {}:agent HTTP/1.1\r\nlandfast-generation: {}\r\nlandfast-cell-key: {}\r\n\r\n",
            self.process.instance.id, self.generation, self.key
        );
        http::write(&socket, connect.as_bytes()).await;
        let (answer, ahead) = http::read_head(&socket).await;
        assert!(answer.status == 200 && ahead.is_empty(), "{answer:?}");
        let mut upgrade = self.process.upgrade(query);
        upgrade.target = format!("/processes/{}/attach?{query}", self.process.id);
        upgrade.token = None;
        Attached::new(PlainClient::over(socket, &upgrade).await.unwrap_or_else(|answer| panic!("refused: {answer:?}")))
    }
}

/// Attaches to a process beside the gateway.
///
/// # Panics
///
/// The relay or the agent refuses.
pub async fn attach(cell: &Cell, process: &Process, query: &str) -> Attached {
    Way::to(cell, process).await.attach(query).await
}
