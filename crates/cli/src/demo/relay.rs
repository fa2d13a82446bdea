//! The network between gateway and node: a TCP relay that resets everything on command.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use landfast_net::copy::{Ended, copy_both};
use landfast_net::socket::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long to wait when no connection can be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// A relay to one node. It ends with the value.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    cuts: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Listens on a free port.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (target, cuts) = (watch::Sender::new(None), watch::Sender::new(0));
        let accepting = tokio::spawn(accept(listener, target.subscribe(), cuts.clone()));
        Ok(Self { address, target, cuts, accepting })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections go from now on.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    /// Resets every connection. What was under way is lost.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, target: watch::Receiver<Option<SocketAddr>>, cuts: watch::Sender<u64>) {
    loop {
        match listener.accept().await {
            Ok((near, _)) => {
                let target = *target.borrow();
                // Subscribed here, so that a cut between here and the task's first step is not missed.
                tokio::spawn(serve(near, target, cuts.subscribe()));
            }
            // Out of descriptors; the connections that end give some back.
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
        }
    }
}

async fn serve(near: TcpStream, target: Option<SocketAddr>, mut cuts: watch::Receiver<u64>) {
    let mut near = Socket::tcp(near);
    let Some(target) = target else { return near.abort() };
    let Ok(far) = TcpStream::connect(target).await else { return near.abort() };
    let mut far = Socket::tcp(far);
    tokio::select! {
        biased;
        _ = cuts.changed() => {
            near.abort();
            far.abort();
        }
        copied = copy_both(&mut near, &mut far) => if copied.ended_by != Ended::Clean {
            // A reset of one side is a reset for the other.
            near.abort();
            far.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_until_the_cut_and_both_sides_hear_of_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let relay = Relay::start().await.unwrap();
        relay.lead_to(listener.local_addr().unwrap());
        let mut near = TcpStream::connect(relay.address()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        near.write_all(b"x").await.unwrap();
        assert_eq!(far.read(&mut [0]).await.unwrap(), 1);
        relay.cut();
        assert!(near.read(&mut [0]).await.is_err() && far.read(&mut [0]).await.is_err());
    }
}
