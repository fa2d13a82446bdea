//! The Rust client: instances, processes and terminals that resume.
//!
//! ```no_run
//! use landfast_client::{Attach, Client, Event, From, StartProcess};
//!
//! # async fn example(id: landfast_core::InstanceId) -> Result<(), landfast_client::Error> {
//! let client = Client::new("http://127.0.0.1:7070", std::env::var("LANDFAST_API_KEY").unwrap_or_default())?;
//! let process = client.start_process(id, &StartProcess::argv(["make", "-j8"])).await?;
//! let mut attached = client.attach(id, process.id, Attach::from(From::Start)).await?;
//! while let Some(event) = attached.next().await? {
//!     if let Event::Output { bytes, .. } = event {
//!         println!("{} bytes", bytes.len());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! An attachment outlives its connections: the gateway, the node and the network between may go and come back. Only the
//! end of the process ends it, or somebody with authority over the instance.

mod attach;
#[cfg(test)]
mod cases;
mod client;
mod content;
mod control;
mod conversation;
mod error;
mod events;
mod files;
mod follow;
pub mod frames;
mod gateways;
mod keeper;
mod keys;
mod netcheck;
mod origin;
mod process;
mod retry;
mod service;
mod stream;
mod talk;
mod tunnel;
mod way;

pub use attach::{Attach, Attached, INPUT_MAX, Input, InputClosed};
pub use client::Client;
pub use control::{AccessToken, CreateInstance, Instance, MovedTo};
pub use conversation::{Event, ExitStatus, From, State, Stream};
pub use error::{Error, Refusal};
pub use events::{EventGap, EventPage, Events, Output, OutputPiece, Said, Since};
pub use files::{FileChange, FileChangeKind, Files, Watching, WriteFile};
pub use keys::{ApiKey, NewApiKey};
pub use landfast_core::event::{Envelope, Telemetry};
pub use landfast_core::netcheck::{Health, Leg};
pub use landfast_core::record::Node;
pub use landfast_files::{FileKind, Info as FileInfo, Links, Unpacked};
pub use process::{Executed, Exit, LogRange, Process, ProcessState, StartProcess, Stdin, Tty};
pub use service::{ServiceState, ServiceStatus};
pub use stream::{Count, Incoming, Source};
pub use tunnel::Tunnel;
