//! `GET /kernel/process/{id}/stdout/stream`: what a process says, from its first byte, for any number of readers.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::json;

use super::super::answer::{Body, Refused};
use super::super::output::{EVENT_MAX, Next, Reader};
use super::stream::{self, Told};
use crate::attach::From;
use crate::process::Process;
use crate::upgrade::read_from;

/// A process's output and then its exit.
struct Output {
    reader: Reader,
    is_over: bool,
}

/// Begins at the start, or goes on after `Last-Event-ID`.
pub(super) fn get(process: Arc<Process>, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
    let from = last.map(read_from).transpose()?.unwrap_or(From::Start);
    Ok(stream::answer(Output { reader: Reader::new(process, from, true)?, is_over: false }))
}

impl Told for Output {
    async fn next(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        let said = match self.reader.next(EVENT_MAX).await {
            Next::Data { stream, bytes, .. } => {
                json!({"stream": stream.as_str(), "data_b64": STANDARD.encode(&bytes)})
            }
            // There is no word for it that such a client would not choke on; the ids show it.
            Next::Gap { from, to } => return Some(format!(": the bytes from {from} to {to} were let go\n\n")),
            Next::End(exit) => {
                self.is_over = true;
                json!({"event": "exit", "exit_code": exit?.status()})
            }
        };
        Some(format!("id: {}\ndata: {said}\n\n", self.reader.at()))
    }
}
