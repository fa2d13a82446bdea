//! The ways to a server: straight, and through the gateway in each manner there is.

use std::net::SocketAddr;

use landfast_scenarios::cell::Cell;
use landfast_scenarios::external;
use serde_json::json;

/// The way without the gateway, to which the others are compared.
pub(crate) const DIRECT: &str = "direct";

/// A way to a server.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Where to connect.
    pub(crate) address: SocketAddr,
    /// What stands before the server's own paths.
    prefix: String,
    /// What stands behind them, for the gateway.
    query: String,
}

/// Every way to a server on this machine. An agent reaches it as a port of an instance that shares the machine's network,
/// and without an agent it is an external instance's service.
pub(crate) async fn ways(cell: &Cell, server: SocketAddr) -> [Way; 3] {
    let external = external::create(cell.dir(), &[("echo", server)]).await.to_string();
    let token = cell.operator.token(&external, &json!({})).await.text;
    let instance = cell.create().await;
    let gateway =
        |name, prefix, token| Way { name, address: cell.gateway.address(), prefix, query: format!("&token={token}") };
    [
        Way { name: DIRECT, address: server, prefix: String::new(), query: String::new() },
        gateway("external", format!("/i/{external}/echo"), token),
        gateway("instance", format!("/i/{}/{}", instance.id, server.port()), instance.token),
    ]
}

impl Way {
    /// What stands behind the host and port of a path and query of the server's own. The query has a parameter at least.
    pub(crate) fn target(&self, own: &str) -> String {
        format!("{}{own}{}", self.prefix, self.query)
    }
}
