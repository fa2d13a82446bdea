//! Sleep, and the end of it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use landfast_core::InstanceId;
use landfast_core::lifecycle::{StepError, desire_awake, desire_sleeping, end_code, will_restart};
use landfast_core::record::{Desired, Instance, Phase};
use landfast_core::{ErrorCode, Problem};

use super::input::{Id, Params};
use super::refusal::Refusal;
use super::view::InstanceView;
use super::{Api, wait};
use crate::records;

/// Puts an instance to sleep.
///
/// Its processes end, its files stay, and its sessions end with `upstream.changed`. The next request to it wakes it. With
/// `wait` the answer comes once it sleeps, or was woken before it did, or when the time is up.
#[utoipa::path(
    post, path = "/v1/instances/{id}/sleep", operation_id = "sleep_instance", tag = "instances",
    params(
        ("id" = String, Path, description = "The instance's id."),
        ("wait" = Option<u64>, Query, description = "Seconds to wait until it sleeps; 60 at most."),
    ),
    responses(
        (status = 200, description = "It sleeps.", body = InstanceView),
        (status = 202, description = "It is about to sleep.", body = InstanceView),
    ),
)]
pub(super) async fn sleep(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let sleeps = |instance: &Instance| {
        let is_over = instance.phase == Phase::Sleeping || instance.desired != Desired::Sleeping;
        is_over.then_some(instance.phase == Phase::Sleeping)
    };
    desire(&api, id, params, &headers, desire_sleeping, sleeps).await
}

/// Wakes an instance.
///
/// It is started where its files are, as the next generation. Waking one that is awake changes nothing. With `wait` the
/// answer comes once it runs, or when the time is up.
#[utoipa::path(
    post, path = "/v1/instances/{id}/wake", operation_id = "wake_instance", tag = "instances",
    params(
        ("id" = String, Path, description = "The instance's id."),
        ("wait" = Option<u64>, Query, description = "Seconds to wait until it runs; 60 at most."),
    ),
    responses(
        (status = 200, description = "It runs.", body = InstanceView),
        (status = 202, description = "It is waking.", body = InstanceView),
    ),
)]
pub(super) async fn wake(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let runs = |instance: &Instance| matches!(instance.phase, Phase::Running | Phase::Moving).then_some(true);
    desire(&api, id, params, &headers, desire_awake, runs).await
}

/// Writes what should be of an instance, and waits as long as the caller wants until `settled` says whether it is so.
async fn desire(
    api: &Api,
    id: InstanceId,
    mut params: Params,
    headers: &HeaderMap,
    change: fn(&mut Instance) -> Result<(), StepError>,
    settled: impl Fn(&Instance) -> Option<bool>,
) -> Result<Response, Refusal> {
    let patience = params.wait()?;
    params.end()?;
    records::update_instance(&*api.store, id, |instance| Ok(change(instance)?)).await?;
    let settled = |instance: &Instance| ended(instance).or_else(|| settled(instance).map(Ok));
    let (outcome, instance) = wait::until(api, id, patience, settled).await?;
    let is_done = outcome.transpose()?.unwrap_or(false);
    let status = if is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, axum::Json(InstanceView::new(api, headers, instance))).into_response())
}

/// The refusal, if it has ended for good meanwhile.
fn ended(instance: &Instance) -> Option<Result<bool, Problem>> {
    let code: ErrorCode = end_code(instance.phase).filter(|_| !will_restart(instance))?;
    Some(Err(Problem::new(code, instance.reason.clone().unwrap_or_default())))
}
