//! How a role runs: it listens, says where, works until told to stop.

use std::io;
use std::net::SocketAddr;

use landfast_core::{ErrorCode, Problem};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
pub use tokio_util::sync::CancellationToken;

/// Connections that wait to be accepted: as many as the kernel allows by default.
const BACKLOG: i32 = 4096;

/// A role that listens and works.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Ends when the role has stopped.
    pub done: JoinHandle<()>,
}

/// Listens on an address. With `reuse_port` several listeners, one per runtime, share it and the kernel spreads the
/// connections.
///
/// # Errors
///
/// [`ErrorCode::ListenInUse`] if another program listens there, [`ErrorCode::ConfigInvalid`] if this machine has no such
/// address or the port is not allowed.
pub fn listen(address: SocketAddr, reuse_port: bool) -> Result<TcpListener, Problem> {
    bind(address, reuse_port).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            Problem::new(ErrorCode::ListenInUse, format!("Another program listens on {address}."))
        }
        _ => Problem::new(ErrorCode::ConfigInvalid, format!("Cannot listen on {address}: {error}.")),
    })
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted role must not wait for its predecessor's connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_what_to_do() {
        let first = listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let problem = listen(first.local_addr().unwrap(), false).unwrap_err();
        assert_eq!(problem.code, ErrorCode::ListenInUse);
        assert!(problem.to_string().contains("port 0"), "{problem}");
    }

    #[tokio::test]
    async fn listeners_that_agree_share_a_port() {
        let first = listen("127.0.0.1:0".parse().unwrap(), true).unwrap();
        assert!(listen(first.local_addr().unwrap(), true).is_ok());
    }
}
