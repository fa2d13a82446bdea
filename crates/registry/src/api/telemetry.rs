//! An instance's events, by way of the control plane: from its agent while there is one, and from the archive afterwards.
//!
//! What has happened can be read for 30 days, whatever has become of the instance and of its record; and to read it wakes
//! nobody.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use landfast_core::event::{EventId, OLDER, OLDEST, Page, Query};
use landfast_core::record::{Generation, Instance, Phase};
use landfast_core::{Blame, ErrorCode, InstanceId, Retry};
use landfast_net::clock;
use landfast_net::relay::Route;
use landfast_net::role::CancellationToken;
use tokio::time::{Instant, sleep};

use super::input::{Id, invalid};
use super::refusal::Refusal;
use super::{Api, forward, wait};
use crate::archive::Archive;

/// How long to wait for an instance that moves, or falls asleep: then it is known who has its events.
const PLACE_DEADLINE: Duration = Duration::from_secs(30);

/// How long to wait for news of an instance whose agent refused, before it is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The offset of the next page, and whether there is one.
const NEXT_OFFSET: &str = "x-next-offset";
const HAS_MORE: &str = "x-has-more";

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
    let (parts, _) = request.into_parts();
    let deadline = Instant::now() + PLACE_DEADLINE;
    let mut tried: Option<(Route, Refusal)> = None;
    loop {
        // An agent that is being ended refuses before its record says so: then who has its events is about to change.
        let patience = tried.as_ref().map_or(PLACE_DEADLINE, |_| AGAIN_AFTER);
        let is_news = |instance: &Instance| {
            keeper_of(instance).filter(|keeper| !tried.as_ref().is_some_and(|(route, _)| keeper.is_agent(route)))
        };
        let (keeper, instance) = match wait::until(&api, id, patience, is_news).await {
            Ok(found) => found,
            // Its record was removed, and its events are still there; or there never was one.
            Err(Refusal(problem)) if problem.code == ErrorCode::InstanceUnknown => {
                if !api.archive.knows(id).await? {
                    return Err(problem.into());
                }
                return page(Page::new(query), &api.archive, id).await;
            }
            Err(refusal) => return Err(refusal),
        };
        let route = match (keeper, tried) {
            (Some(Keeper::Archive), _) => return page(Page::new(query), &api.archive, id).await,
            (Some(Keeper::Agent(route)), _) => route,
            (None, None) => return Err(forward::still(instance.phase).into()),
            (None, Some((_, refusal))) if Instant::now() >= deadline || api.stop.is_cancelled() => return Err(refusal),
            (None, Some((route, _))) => route,
        };
        tried = match of_agent(&api, id, &parts, &query, &route).await {
            Ok(response) => return Ok(response),
            Err(refusal) if is_passing(&refusal) => Some((route, refusal)),
            Err(refusal) => return Err(refusal),
        };
    }
}

/// Who has the events of an instance.
#[derive(Debug)]
enum Keeper {
    Agent(Route),
    Archive,
}

impl Keeper {
    fn is_agent(&self, route: &Route) -> bool {
        matches!(self, Self::Agent(own) if own == route)
    }
}

/// Whether a refusal to read is of the moment: to ask again changes nothing in the instance.
fn is_passing(Refusal(problem): &Refusal) -> bool {
    matches!(
        problem.code,
        ErrorCode::InstanceGone
            | ErrorCode::InstanceStopped
            | ErrorCode::InstanceFailed
            | ErrorCode::InstanceLost
            | ErrorCode::UpstreamLost
            | ErrorCode::UpstreamRefused
    ) || problem.code.retry() == Retry::Safe && problem.code.blame() == Blame::Platform
}

/// A page of what the agent has, or, where that is older, of what only the archive has: an agent begins anew on another
/// host, and makes room on its own.
async fn of_agent(api: &Api, id: InstanceId, parts: &Parts, query: &Query, route: &Route) -> Result<Response, Refusal> {
    let mut parts = parts.clone();
    parts.headers.insert(OLDER, HeaderValue::from_static("archive"));
    let mut response = forward::forward_to(api, id, &parts, route).await?;
    let oldest = response.headers_mut().remove(OLDEST);
    let oldest = oldest.and_then(|id| id.to_str().ok()?.parse::<EventId>().ok());
    let Some(oldest) = oldest.filter(|_| response.status().is_success()) else { return Ok(response) };
    // The first life of an instance begins with the first event of its first agent.
    let is_all = route.generation == Generation(1) && oldest.seq <= 1;
    if is_all {
        return Ok(response);
    }
    if query.is_below(oldest) || (!query.is_newest_first() && query.reaches_below(oldest)) {
        let (json, next) = api.archive.page(id, Page::below(query.clone(), oldest)).await?;
        let is_empty_handed = next == 0 && json == "[]";
        return match query.is_newest_first() {
            // Nothing older is kept, so the agent's answer is whole.
            false if is_empty_handed => Ok(response),
            false => Ok(told(json, if next > 0 { next } else { oldest.position() - 1 })),
            true => Ok(told(json, next)),
        };
    }
    let is_at_its_end = response.headers().get(NEXT_OFFSET).is_some_and(|next| next == "0");
    if query.is_newest_first() && is_at_its_end {
        let headers = response.headers_mut();
        headers.insert(NEXT_OFFSET, oldest.position().into());
        headers.insert(HAS_MORE, HeaderValue::from_static("true"));
    }
    Ok(response)
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

async fn page(page: Page, archive: &Archive, id: InstanceId) -> Result<Response, Refusal> {
    let (json, next) = archive.page(id, page).await?;
    Ok(told(json, next))
}

fn told(json: String, next: u64) -> Response {
    let mut response = json.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(NEXT_OFFSET, next.into());
    headers.insert(HAS_MORE, HeaderValue::from_static(if next > 0 { "true" } else { "false" }));
    response
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
