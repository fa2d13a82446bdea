//! An instance's events, by way of the control plane: from its agent while there is one, and from the archive afterwards.
//!
//! What has happened can be read for 30 days, whatever has become of the instance and of its record; and to read it wakes
//! nobody.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use landfast_core::event::Query;
use landfast_core::record::{Instance, Phase};
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::clock;
use landfast_net::relay::Route;
use landfast_net::role::CancellationToken;
use tokio::time::sleep;

use super::input::{Id, invalid};
use super::refusal::Refusal;
use super::{Api, forward, wait};
use crate::archive::Archive;

/// How long to wait for an instance that moves, or falls asleep: then it is known who has its events.
const PLACE_DEADLINE: Duration = Duration::from_secs(30);

/// Between two removals of what has had its time: of thirty days that is nothing, and a list of everything costs.
const SWEEP_EVERY: Duration = Duration::from_secs(6 * 3600);

/// The first one: not with everything else that a start does.
const FIRST_SWEEP: Duration = Duration::from_secs(300);

/// What an instance's browser is watched for: read it, set it, change it.
///
/// Forwarded to the instance's agent.
#[utoipa::path(
    method(get, put, patch), path = "/v1/instances/{id}/telemetry", operation_id = "forward_telemetry", tag = "telemetry",
    params(("id" = String, Path, description = "The instance's id.")),
    responses((status = 200, description = "What the browser is watched for: `console`, `network` and `page`.")),
)]
pub(super) async fn config(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    forward::forward(&api, id, request).await
}

/// An instance's events as they happen, as server-sent events.
///
/// Forwarded to the instance's agent. `Last-Event-ID` goes on after an event.
#[utoipa::path(
    get, path = "/v1/instances/{id}/telemetry/stream", operation_id = "stream_events", tag = "telemetry",
    params(
        ("id" = String, Path, description = "The instance's id."),
        ("type" = Option<String>, Query, description = "Only these types, with commas between them."),
        ("replay" = Option<String>, Query, description = "`all` begins with the oldest that is remembered."),
        ("Last-Event-ID" = Option<String>, Header, description = "Goes on after this event; wins over `replay`."),
    ),
    responses((status = 200, description = "Frames with an id and an envelope, and comments.", content_type = "text/event-stream")),
)]
pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    forward::stream(&api, id, request).await
}

/// Says an event of the caller's.
///
/// Forwarded to the instance's agent.
#[utoipa::path(
    post, path = "/v1/instances/{id}/telemetry/events", operation_id = "say_event", tag = "telemetry",
    params(("id" = String, Path, description = "The instance's id.")),
    responses((status = 200, description = "The event's envelope.")),
)]
pub(super) async fn say(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    forward::forward(&api, id, request).await
}

/// Reads what has happened in an instance, page by page, also after its end.
///
/// `X-Next-Offset` is the next page's offset, 0 at the end. A page may be empty although more follow.
#[utoipa::path(
    get, path = "/v1/instances/{id}/telemetry/events", operation_id = "read_events", tag = "telemetry",
    params(
        ("id" = String, Path, description = "The instance's id."),
        ("since" = Option<String>, Query, description = "Microseconds since 1970, RFC 3339, or how long ago, such as `5m`."),
        ("until" = Option<String>, Query, description = "As `since`; not included."),
        ("limit" = Option<u32>, Query, description = "At most so many: 1 to 1000, 100 if not said."),
        ("offset" = Option<u64>, Query, description = "What `X-Next-Offset` said."),
        ("order" = Option<String>, Query, description = "`asc` or `desc`."),
        ("category" = Option<String>, Query, description = "Only these categories, with commas between them."),
        ("type" = Option<String>, Query, description = "Only these types, with commas between them."),
    ),
    responses((status = 200, description = "An array of envelopes, and gaps.")),
)]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or("");
    let query = Query::read(form_urlencoded::parse(query.as_bytes()), clock::unix_micros()).map_err(invalid)?;
    match wait::until(&api, id, PLACE_DEADLINE, keeper_of).await {
        Ok((Some(Keeper::Agent(route)), _)) => forward::forward_to(&api, id, request, route).await,
        Ok((Some(Keeper::Archive), _)) => page(&api.archive, id, query).await,
        Ok((None, instance)) => Err(forward::still(instance.phase).into()),
        // Its record was removed, and its events are still there; or there never was one.
        Err(Refusal(problem)) if problem.code == ErrorCode::InstanceUnknown => {
            if !api.archive.knows(id).await? {
                return Err(problem.into());
            }
            page(&api.archive, id, query).await
        }
        Err(refusal) => Err(refusal),
    }
}

/// Who has the events of an instance.
enum Keeper {
    Agent(Route),
    Archive,
}

/// Who has them now; nothing while that is about to change.
fn keeper_of(instance: &Instance) -> Option<Keeper> {
    let has_agent = instance.spec.external.as_ref().is_none_or(|external| external.agent.is_some());
    match instance.phase {
        Phase::Running | Phase::Moving if has_agent => forward::place(instance)?.ok().map(Keeper::Agent),
        Phase::Pending
        | Phase::Starting
        | Phase::Running
        | Phase::Moving
        | Phase::Sleeping
        | Phase::Stopped
        | Phase::Failed
        | Phase::Lost
        | Phase::Deleted => Some(Keeper::Archive),
    }
}

async fn page(archive: &Archive, id: InstanceId, query: Query) -> Result<Response, Refusal> {
    let (json, next) = archive.page(id, query).await?;
    let mut response = json.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-next-offset", next.into());
    headers.insert("x-has-more", HeaderValue::from_static(if next > 0 { "true" } else { "false" }));
    Ok(response)
}

/// Removes what is older than 30 days, now and then, until told to stop.
pub(super) async fn sweep(archive: Archive, stop: CancellationToken) {
    let sweeping = async {
        sleep(FIRST_SWEEP).await;
        loop {
            match archive.sweep().await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "old events were removed from the archive"),
                Err(problem) => tracing::warn!(%problem, "old events cannot be removed; trying again later"),
            }
            sleep(SWEEP_EVERY).await;
        }
    };
    stop.run_until_cancelled(sweeping).await;
}
