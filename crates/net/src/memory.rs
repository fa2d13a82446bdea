//! Gives memory back to the system that is free.
//!
//! glibc keeps what a program has freed as long as anything above it is in use. A listing of a large cell takes tens of
//! megabytes for a moment, and what is kept of it comes to lie behind it, so that nothing of it would ever go back.

use std::time::Duration;

/// After how long it is given back a second time: what a listing came in, a connection's buffers for one, is put away only with
/// what comes next.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Gives back what is free, now and once more in a moment, in a thread for blocking work: it walks the whole heap, which takes
/// milliseconds. Returns at once.
///
/// # Panics
///
/// Outside of a Tokio runtime.
pub fn give_back() {
    drop(tokio::spawn(async {
        // It fails only where the runtime ends, and then the program does.
        let _ = tokio::task::spawn_blocking(trim).await;
        tokio::time::sleep(AGAIN_AFTER).await;
        drop(tokio::task::spawn_blocking(trim));
    }));
}

/// The most that each of the allocator's arenas keeps at its end for the next who needs some; left alone it learns to keep twice
/// the largest block that it ever gave back, which is a table of all routes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: i32 = 4 * 1024 * 1024;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn trim() {
    use nix::libc::{M_TRIM_THRESHOLD, malloc_trim, mallopt};
    // SAFETY: neither takes a pointer, any thread may call them, and they touch only what the allocator itself knows to be free.
    unsafe {
        mallopt(M_TRIM_THRESHOLD, KEPT);
        malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}
