//! A client beside the gateway: straight to the agent through a node's relay, with no network that fails in between and no
//! session. The measure that sessions are held against.

use crate::attached::Attached;
use crate::cell::Cell;
use crate::http;
use crate::instance::Process;
use crate::plain::PlainClient;

/// Attaches to a process over a connection of its own to the agent.
///
/// # Panics
///
/// The relay or the agent refuses.
pub async fn attach(cell: &Cell, process: &Process, query: &str) -> Attached {
    let record = process.instance.record().await;
    let node = cell.node_of(&process.instance).await;
    let key = std::fs::read_to_string(cell.dir().join("cell.key")).expect("a cell has a key");
    let generation = record["generation"].as_u64().expect("a generation");
    let socket = http::connect(node.role.address(), None).await;
    let connect = format!(
        "CONNECT {}:agent HTTP/1.1\r\nlandfast-generation: {generation}\r\nlandfast-cell-key: {}\r\n\r\n",
        process.instance.id,
        key.trim()
    );
    http::write(&socket, connect.as_bytes()).await;
    let (answer, ahead) = http::read_head(&socket).await;
    assert!(answer.status == 200 && ahead.is_empty(), "{answer:?}");
    let mut upgrade = process.upgrade(query);
    upgrade.target = format!("/processes/{}/attach?{query}", process.id);
    upgrade.token = None;
    Attached::new(PlainClient::over(socket, &upgrade).await.unwrap_or_else(|answer| panic!("refused: {answer:?}")))
}
