//! Ends many connections at once, wherever their sockets are by then.
//!
//! A fence must reach a connection that has long been given to a session's task, or is in the middle of an HTTP answer.
//! Instead of telling each owner, the sockets are on a leash: it knows their descriptors, and shuts them down in the
//! kernel, so that every owner finds the end of its connection at its next read or write.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{Shutdown, shutdown};

/// The sockets of one owner that can be ended together. Clones are the same leash.
#[derive(Clone, Debug, Default)]
pub struct Leash(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    next: u64,
    /// Each descriptor is open for as long as it is in here: its [`Hold`] is dropped before it is closed.
    sockets: HashMap<u64, RawFd>,
}

/// Keeps one socket on its leash.
#[derive(Debug)]
pub(crate) struct Hold {
    leash: Leash,
    number: u64,
}

impl Leash {
    /// Ends every connection that is on the leash now.
    pub fn cut(&self) {
        for &fd in self.lock().sockets.values() {
            // A connection that has failed already needs no end.
            let _ = shutdown(fd, Shutdown::Both);
        }
    }

    /// How many connections are on the leash.
    pub fn len(&self) -> usize {
        self.lock().sockets.len()
    }

    /// Whether no connection is on the leash.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn hold(&self, fd: RawFd) -> Hold {
        let mut held = self.lock();
        held.next += 1;
        let number = held.next;
        held.sockets.insert(number, fd);
        Hold { leash: self.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.leash.lock().sockets.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;
    use crate::socket::Socket;

    #[tokio::test]
    async fn everything_on_the_leash_ends_at_once_and_what_is_gone_is_off_it() {
        let leash = Leash::default();
        let (near, mut far) = UnixStream::pair().unwrap();
        let (gone, _) = UnixStream::pair().unwrap();
        let near = Socket::unix(near).on_leash(&leash);
        drop(Socket::unix(gone).on_leash(&leash));
        assert_eq!(leash.len(), 1);

        leash.cut();
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
        let mut near = near;
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        drop(near);
        assert!(leash.is_empty());
    }
}
