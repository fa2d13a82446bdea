//! The instance's events without the rest of its agent, for whoever measures what readers cost.
//!
//! The ring, its lock and the streams are the agent's own; what is left out is who says events and the disk.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use landfast_core::event::Event;
use tokio::net::UnixStream;

use crate::api::{HEAD_MAX, stream_events};
use crate::events::Events;

/// Events that anybody may say, and streams of them.
#[derive(Clone, Debug)]
pub struct EventsApart(Arc<Events>);

impl EventsApart {
    /// The events of an agent that begins now and keeps its state there.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn open(state: &Path) -> io::Result<Self> {
        Events::open(state).map(Self)
    }

    /// Says that something happened. Never waits.
    pub fn emit(&self, event: &Event) {
        self.0.emit(event);
    }

    /// The number of the oldest event that is kept.
    pub fn oldest(&self) -> u64 {
        self.0.ring().oldest()
    }

    /// Answers requests for streams on a connection until it ends.
    ///
    /// Cancel safe in that its reader sees the connection end.
    pub async fn serve(self, connection: UnixStream) {
        let service = service_fn(move |request| {
            let answer = stream_events(&self.0, &request);
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        // A reader that leaves is no error here.
        let _ = http1::Builder::new().max_buf_size(HEAD_MAX).serve_connection(TokioIo::new(connection), service).await;
    }
}
