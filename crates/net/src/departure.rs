//! Notices that the other side of a connection has left, though what it said before waits unread.
//!
//! To whoever reads, an end stands behind the bytes before it, and who cannot take those bytes sees no end. The kernel
//! tells of it all the same. It has to be asked with a registration of its own: what is heard here must not be missed by
//! whoever reads later.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a connection for the other side's leaving. Costs a descriptor while it does.
#[derive(Debug)]
pub(crate) struct Departure(AsyncFd<OwnedFd>);

impl Departure {
    /// Watches a connected socket.
    ///
    /// # Errors
    ///
    /// The system has no descriptor left.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        watch(socket.try_clone_to_owned()?).map(Self)
    }

    /// Ready once the other side has ended its direction or reset the connection.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.0.poll_read_ready(cx) {
                Poll::Ready(Ok(guard)) if guard.ready().is_read_closed() => return Poll::Ready(()),
                // There are bytes, and maybe more of them tomorrow.
                Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                // The runtime ends, and everything with it.
                Poll::Ready(Err(_)) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[allow(unsafe_code)]
fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor for as long as it lives, and it lives in the `AsyncFd`, out of which
    // nobody takes it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}
