//! `GET /telemetry/events`: what was said, page by page, exactly as it was: from disk, and what is not there yet from
//! memory. Where what is here begins stands beside it, so that an API server knows when to ask the archive.

use http::{Request, Response, header};
use hyper::body::Incoming;
use landfast_core::event::{self, Query};
use landfast_core::{ErrorCode, Problem};
use landfast_net::clock;

use super::answer::{Body, Refused, whole};
use crate::Agent;
use crate::events::Stored;

/// `GET /telemetry/events`.
pub(super) async fn get(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let query = request.uri().query().unwrap_or("");
    let query = Query::read(form_urlencoded::parse(query.as_bytes()), clock::unix_micros())
        .map_err(|detail| Problem::new(ErrorCode::RequestInvalid, detail))?;
    let is_part = request.headers().contains_key(event::OLDER);
    let Stored { json, next, oldest } = agent.events.page(query, is_part).await.map_err(|error| {
        tracing::error!(%error, "stored events cannot be read");
        ErrorCode::Internal
    })?;
    let builder = Response::builder().header(header::CONTENT_TYPE, "application/json");
    let builder = builder.header(header::CACHE_CONTROL, "no-store");
    let builder = builder.header("x-next-offset", next).header("x-has-more", if next > 0 { "true" } else { "false" });
    let builder = builder.header(event::OLDEST, oldest.to_string());
    Ok(builder.body(whole(json)).expect("the headers are well formed"))
}
