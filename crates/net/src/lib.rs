//! IO that roles share: sockets, HTTP heads, the relay's CONNECT, links, the one byte pump, and how a role runs.
//!
//! Everything that decides is in `landfast-core`; what is here moves bytes and keeps time.

pub mod alarm;
pub mod carry;
pub mod clock;
pub mod copy;
pub mod credential;
mod departure;
pub mod far;
pub mod handoff;
pub mod head;
pub mod hold;
pub mod http;
pub mod http1;
pub mod keepalive;
pub mod leash;
pub mod link;
pub mod memory;
pub mod program;
pub mod random;
pub mod relay;
pub mod reverse;
pub mod role;
pub mod scratch;
pub mod secret;
pub mod socket;
pub mod tenure;
pub mod tls;
pub mod trust;
