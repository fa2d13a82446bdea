//! Connections that are open and silent, and the memory that a side needs for each of them.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};

use super::open;
use super::side::Side;
use super::usage;

/// Buffers are given back a moment after the last byte.
const SETTLE: Duration = Duration::from_secs(2);

/// What the connections are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Idle<'a> {
    /// WebSockets that have echoed this.
    WebSockets(&'a [u8]),
    /// Lasting connections that have carried a request with this body.
    Requests(&'a [u8]),
}

/// Opens so many connections and says how many bytes of resident memory the side took for each. All must still work
/// afterwards.
///
/// # Errors
///
/// One could not be opened or did not work any more.
pub(crate) fn memory(side: &Side, request: &[u8], count: usize, what: Idle<'_>) -> Result<f64> {
    let before = usage::resident(&side.pids);
    let open = |number: usize| -> Result<TcpStream> {
        let opened = match what {
            Idle::WebSockets(message) => open::websocket(side.address, request, message),
            Idle::Requests(body) => open::connect(side.address).and_then(|mut socket| {
                open::get(&mut socket, request, body)?;
                Ok(socket)
            }),
        };
        opened.with_context(|| format!("connection {number} of {count}"))
    };
    let mut connections = (0..count).map(open).collect::<Result<Vec<_>>>()?;
    std::thread::sleep(SETTLE);
    let after = usage::resident(&side.pids);
    for (number, socket) in connections.iter_mut().enumerate() {
        let works = match what {
            Idle::WebSockets(message) => open::echo(socket, message),
            Idle::Requests(body) => open::get(socket, request, body),
        };
        works.with_context(|| format!("connection {number} of {count} after its silence"))?;
    }
    Ok(after.saturating_sub(before) as f64 / count as f64)
}
