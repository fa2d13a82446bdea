//! What is true without IO: ids, records, the error table and the state machines.
//!
//! Nothing here knows a runtime, a socket, a clock or a source of randomness. Time comes in as [`time::Instant`],
//! randomness as numbers. Every machine has the same three verbs: `handle_*(fact, now)`, `poll(now)` and
//! `next_deadline()`; after a `handle_*` call, call `poll` until it returns `None`, then sleep until the deadline or the
//! next fact.

pub mod cdp;
pub mod chunked;
pub mod error;
pub mod event;
pub mod id;
pub mod keeper;
pub mod kernel;
pub mod lease;
pub mod lifecycle;
pub mod limit;
pub mod link;
pub mod netcheck;
pub mod origins;
pub mod outage;
pub mod placement;
pub mod reason;
pub mod record;
pub mod redial;
pub mod reverse;
pub mod ring;
pub mod route;
pub mod service;
pub mod session;
pub mod supervise;
pub mod time;
pub mod ws;

pub use error::{Blame, ErrorCode, Problem, Retry};
pub use id::{InstanceId, NodeId, ProcessId, SessionId, TokenId};
pub use service::ServiceName;
