//! Finding out about peers that have gone without a word.
//!
//! A connection whose peer's machine was switched off, or which has closed what its far end keeps open, would be held for
//! ever. The kernel asks for us.

use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// A silent peer is asked after 30 s, and given up after three unanswered questions 10 s apart: within a minute.
const IDLE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// Has the kernel watch a connection. One that it does not watch is carried all the same.
pub fn watch(stream: &impl AsFd) {
    let wish = TcpKeepalive::new().with_time(IDLE).with_interval(INTERVAL).with_retries(PROBES);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&wish) {
        tracing::debug!(%error, "a connection is not watched by the kernel");
    }
}
