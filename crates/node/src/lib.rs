//! The machine's daemon: it makes true what the registry says of its instances, and is the fence in front of them.
//!
//! ```text
//!  gateway ──CONNECT──▶ relay ──▶ fence: may this generation be reached now?  ──▶ agent, or a port of the instance
//!                                   ▲ opens and shuts
//!  store ──watch──▶ board ──▶ one task per instance ──▶ driver: agents in their sandboxes
//!    ▲ lease, steps of records ◀──────────┘
//! ```
//!
//! The daemon may be killed at any moment. Agents outlive it, the records say what each instance should be doing, and a
//! daemon that comes back with the same name adopts what it finds.

mod agent;
mod archiver;
mod board;
mod condition;
mod config;
mod crew;
mod dir;
mod driver;
mod fence;
mod identity;
mod instance;
mod isolation;
mod launch;
mod lease;
mod life;
mod moves;
mod node;
mod outbox;
mod private_network;
mod process;
mod relay;
mod reverse;
mod sleep;

pub use config::{Config, Isolation};
pub use node::{Counts, Running, start};
