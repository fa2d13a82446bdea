//! One buffer per thread for bytes that stay only as long as a poll.
//!
//! Ten thousand idle connections then own no buffer at all, and a busy one reads as much as the kernel has.

use std::cell::RefCell;

/// Twice the largest link record: one system call takes what the peer wrote in two, and it still fits a core's cache.
const LEN: usize = 128 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; LEN].into_boxed_slice());
}

/// Lends this thread's buffer. What `f` leaves in it is gone.
///
/// # Panics
///
/// If `f` asks for it again.
pub fn with<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| f(scratch))
}
