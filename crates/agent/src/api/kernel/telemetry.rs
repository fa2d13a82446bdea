//! `GET /kernel/telemetry/stream`: the agent's events, in the words that such a client knows.

use http::{Request, Response};
use hyper::body::Incoming;
use landfast_core::event::Item;
use landfast_core::kernel;

use super::super::answer::{Body, Refused};
use super::super::telemetry::stream_in_other_words;
use crate::Agent;

/// Begins now, at the oldest with `replay=all`, or after `Last-Event-ID`.
pub(super) fn stream(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    stream_in_other_words(agent, request, tell)
}

fn tell(item: &Item, frames: &mut String) {
    match item {
        Item::Event(record) => {
            let told = serde_json::from_str(record.json()).ok().and_then(|envelope| kernel::event(&envelope));
            // What has no word there still moves the reader on.
            let data = told.map(|told| format!("data: {told}\n")).unwrap_or_default();
            frames.push_str(&format!("id: {}\n{data}\n", record.id()));
        }
        Item::Gap(gap) => frames.push_str(&format!(": events are missing: {}\n\n", gap.json())),
        Item::Skipped(_) => item.write_frame(frames),
    }
}
