//! Where a server inside the instance listens.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::time::Duration;

use landfast_core::{ErrorCode, Problem};
use landfast_net::socket::Socket;
use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// How long a server may take to accept: it is on this host, and its kernel does it.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(5);

/// A port of the loopback that the instance sees, or a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Port(u16),
    Socket(PathBuf),
}

impl Place {
    /// Connects to what listens there.
    ///
    /// Cancel safe: nothing is left of a dial that was dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::UpstreamRefused`], [`ErrorCode::UpstreamTimeout`]; nothing was started.
    pub(crate) async fn connect(&self) -> Result<Socket, Problem> {
        let connected = match self {
            Self::Port(port) => timeout(ACCEPT_DEADLINE, connect_port(*port)).await,
            Self::Socket(path) => timeout(ACCEPT_DEADLINE, connect_socket(path)).await,
        };
        match connected {
            Ok(Ok(socket)) => Ok(socket),
            Ok(Err(error)) => {
                tracing::debug!(place = ?self, %error, "nothing listens there");
                Err(Problem::new(ErrorCode::UpstreamRefused, format!("Nothing listens on {}.", self.name())))
            }
            Err(_) => Err(Problem::new(
                ErrorCode::UpstreamTimeout,
                format!("What listens on {} accepts nothing.", self.name()),
            )),
        }
    }

    /// Takes away the socket that an earlier start of a server left, which would be in the way of the next. Nobody may
    /// listen there any more.
    pub(crate) fn clear(&self) {
        if let Self::Socket(path) = self
            && fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
            && let Err(error) = fs::remove_file(path)
        {
            tracing::debug!(%error, "a service's old socket stays");
        }
    }

    /// The place in words for a client.
    fn name(&self) -> String {
        match self {
            Self::Port(port) => format!("port {port} of the instance"),
            Self::Socket(_) => "the service's socket".to_owned(),
        }
    }
}

async fn connect_port(port: u16) -> io::Result<Socket> {
    // Some servers call the IPv6 loopback localhost, and only that.
    let stream = match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await
        }
        connected => connected,
    };
    stream.map(Socket::tcp)
}

/// By descriptor, so that the path may be of any length.
async fn connect_socket(path: &std::path::Path) -> io::Result<Socket> {
    let file = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}", file.as_raw_fd())).await.map(Socket::unix)
}
