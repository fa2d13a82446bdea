//! The clocks: monotonic time for machines, Unix time for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use landfast_core::time::Instant;
use nix::time::{ClockId, clock_gettime};

/// The time on this machine's monotonic clock, which all its processes share and which stands still while it sleeps.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has a monotonic clock");
    Instant::from_nanos(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Milliseconds since 1970, for records that people read.
pub fn unix_millis() -> u64 {
    unix_micros() / 1_000
}

/// Microseconds since 1970, for events.
pub fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The runtime's instant for a point on the monotonic clock.
pub fn to_tokio(at: Instant) -> tokio::time::Instant {
    tokio::time::Instant::now() + at.since(now())
}

/// Waits until the deadline; for ever if there is none.
///
/// Cancel safe.
pub async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(to_tokio(at)).await,
        None => std::future::pending().await,
    }
}
