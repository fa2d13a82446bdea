//! A file descriptor that the runtime watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A watched descriptor.
pub(crate) type Watched = AsyncFd<OwnedFd>;

/// Has the runtime watch a descriptor, which does not block.
///
/// # Errors
///
/// The kernel's, such as that too many are watched.
#[allow(unsafe_code)]
pub(crate) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<Watched> {
    // SAFETY: an `OwnedFd` is one open descriptor for as long as it lives, and it lives in the `AsyncFd`, out of which
    // nothing here takes or replaces it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}
