//! The access log: one JSON line for each request and each session, written when it is over.
//!
//! A line says what was asked, where it went and how it ended; never a token, and never a query, which may hold one.

use std::time::Instant;

use landfast_core::id::RequestId;
use landfast_core::record::Generation;
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::head::Headers;
use landfast_net::random;

/// What is known of one request or session. Dropping it writes the line.
#[derive(Debug)]
pub(crate) struct Record {
    id: RequestId,
    method: String,
    path: String,
    started: Instant,
    /// The instance it went to.
    pub(crate) instance: Option<InstanceId>,
    /// The generation that answered.
    pub(crate) generation: Option<Generation>,
    /// How often an upstream was tried.
    pub(crate) attempts: u32,
    /// How many links carried the session.
    pub(crate) links: u64,
    /// The answer's status; `None` if the client left before there was one.
    pub(crate) status: Option<u16>,
    /// Why it ended, where it did not simply end.
    pub(crate) cause: Option<ErrorCode>,
    /// Bytes of bodies or of the session, from the client.
    pub(crate) up: u64,
    /// The same, to the client.
    pub(crate) down: u64,
}

impl Record {
    /// Begins the record of a request.
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self {
            id: random::request_id(),
            method: method.to_owned(),
            path: target.split('?').next().unwrap_or("").to_owned(),
            started: Instant::now(),
            instance: None,
            generation: None,
            attempts: 0,
            links: 0,
            status: None,
            cause: None,
            up: 0,
            down: 0,
        }
    }

    /// Tells the client what is known: the request's id always, the rest where there is any.
    pub(crate) fn stamp(&self, headers: &mut Headers) {
        let mut set = |name: &'static str, value: &str| headers.push(name, value);
        set("landfast-request-id", &self.id.to_string());
        if let Some(instance) = self.instance {
            set("landfast-instance", &instance.to_string());
        }
        if let Some(generation) = self.generation {
            set("landfast-generation", &generation.to_string());
        }
        if self.attempts > 0 {
            set("landfast-attempts", &self.attempts.to_string());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.cause.get_or_insert(ErrorCode::ClientLost);
        }
        tracing::info!(
            target: "access",
            request = %self.id,
            method = %self.method,
            path = self.path,
            instance = self.instance.map(tracing::field::display),
            generation = self.generation.map(|generation| generation.0),
            status = self.status,
            cause = self.cause.map(ErrorCode::as_str),
            attempts = self.attempts,
            links = self.links,
            up = self.up,
            down = self.down,
            ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        );
    }
}
