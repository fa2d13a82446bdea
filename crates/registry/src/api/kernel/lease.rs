//! Browsers of a pool change hands: acquired, and given back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as JsonBody;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use landfast_core::id::PoolId;
use landfast_core::lifecycle::desire_deleted;
use landfast_core::record::{Desired, Instance, Phase, keys};
use landfast_core::{ErrorCode, InstanceId, Problem};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::super::Api;
use super::super::input::{Json, invalid};
use super::super::refusal::Refusal;
use super::browsers::First;
use super::label::Labels;
use super::names;
use super::pool::{self, Pool};
use super::view::BrowserView;
use super::wish::{TelemetryWish, check_name, check_tags, check_url};
use crate::records::{self, UpdateError};
use crate::store::WatchEvent;

/// How long an acquire waits if nobody says: less than their clients do.
const PATIENCE: Duration = Duration::from_secs(45);

/// How long it waits at most; a gateway waits no longer for an answer.
const PATIENCE_MAX: Duration = Duration::from_secs(240);

/// What is asked of a browser of a pool.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Acquire {
    acquire_timeout_seconds: Option<u64>,
    name: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    start_url: Option<String>,
    telemetry: Option<TelemetryWish>,
    profile: Option<Value>,
}

/// Which browser is given back, and whether the next one gets it as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    session_id: InstanceId,
    reuse: Option<bool>,
}

/// `POST /browser_pools/{id or name}/acquire`: a browser, or 204 if none was free for all that time.
pub(super) async fn acquire(
    State(api): State<Arc<Api>>,
    Path(pool): Path<String>,
    headers: HeaderMap,
    Json(wish): Json<Acquire>,
) -> Result<Response, Refusal> {
    wish.check()?;
    let pool = pool::find(&api, &pool).await?;
    let patience =
        wish.acquire_timeout_seconds.map_or(PATIENCE, |seconds| Duration::from_secs(seconds).min(PATIENCE_MAX));
    let Some(instance) = wait_for(&api, &pool, &wish, Instant::now() + patience).await? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let first = First { start_url: wish.start_url, telemetry: wish.telemetry };
    first.arrange(&api, instance.id).await?;
    Ok(JsonBody(BrowserView::new(&api, &headers, &instance)).into_response())
}

/// `POST /browser_pools/{id or name}/release`: back into the pool as it is, or replaced by a new one.
pub(super) async fn release(
    State(api): State<Arc<Api>>,
    Path(pool): Path<String>,
    Json(release): Json<Release>,
) -> Result<StatusCode, Refusal> {
    let pool = pool::find(&api, &pool).await?;
    let (id, reuses) = (release.session_id, release.reuse.unwrap_or(true));
    let mut name = None;
    let give_back = |instance: &mut Instance| {
        let mut labels = Labels::of(instance);
        if labels.pool != Some(pool.id) || !labels.is_lent {
            return Err(Problem::new(ErrorCode::RequestInvalid, "That browser is not acquired from this pool."));
        }
        name = labels.name.take();
        if !reuses {
            return Ok(desire_deleted(instance)?);
        }
        labels.is_lent = false;
        labels.tags = pool.wish.tags.clone().unwrap_or_default();
        instance.labels = labels.into_map();
        instance.spec.idle_timeout = None;
        Ok(())
    };
    records::update_instance(&*api.store, id, give_back).await?;
    if let Some(name) = name {
        names::release(&api, &name, id).await?;
    }
    pool::fill(&api, pool.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replaces what has ended in a pool. If that fails now, it is done again soon.
pub(super) async fn tidy(api: &Api, pool: PoolId) {
    if let Err(Refusal(problem)) = pool::fill(api, pool).await {
        tracing::warn!(%pool, %problem, "a pool is not filled; trying again later");
    }
}

/// Waits for a free member, and takes it. Who else waits may be quicker; then it waits for the next.
async fn wait_for(api: &Api, pool: &Pool, wish: &Acquire, until: Instant) -> Result<Option<Instance>, Refusal> {
    // Before the first look, so that nothing is missed.
    let mut watch = api.store.watch(keys::INSTANCES, None);
    loop {
        pool::fill(api, pool.id).await?;
        let pool = pool::read(api, pool.id).await?.ok_or(ErrorCode::RequestNotFound)?;
        for member in pool::members(api, &pool).await?.into_iter().filter(pool::Member::is_free) {
            if let Some(instance) = lend(api, &pool, member.instance.id, wish).await? {
                return Ok(Some(instance));
            }
        }
        loop {
            let event = tokio::select! {
                event = timeout_at(until, watch.next()) => event,
                () = api.stop.cancelled() => return Ok(None),
            };
            let Ok(event) = event else { return Ok(None) };
            if concerns(&event?, &pool) {
                break;
            }
        }
    }
}

/// Whether a member may have become free, or has ended.
fn concerns(event: &WatchEvent, pool: &Pool) -> bool {
    match event {
        WatchEvent::Snapshot(_) | WatchEvent::Resync => true,
        WatchEvent::Back => false,
        WatchEvent::Changes(changes) => {
            let member = |key: &str| key.strip_prefix(keys::INSTANCES)?.parse().ok();
            changes.iter().filter_map(|change| member(&change.key)).any(|id| pool.members.contains(&id))
        }
    }
}

/// Gives a member to the asker, unless somebody else was quicker.
async fn lend(api: &Api, pool: &Pool, id: InstanceId, wish: &Acquire) -> Result<Option<Instance>, Refusal> {
    if let Some(name) = &wish.name {
        names::take(api, name, id).await?;
    }
    let take = |instance: &mut Instance| {
        let mut labels = Labels::of(instance);
        if labels.is_lent || instance.phase != Phase::Running || instance.desired != Desired::Running {
            return Err(ErrorCode::RequestConflict.into());
        }
        labels.is_lent = true;
        labels.name.clone_from(&wish.name);
        labels.start_url = wish.start_url.clone().or(labels.start_url);
        labels.tags = wish.tags.clone().or(pool.wish.tags.clone()).unwrap_or_default();
        instance.labels = labels.into_map();
        instance.spec.idle_timeout = Some(pool.wish.timeout());
        Ok(())
    };
    match records::update_instance(&*api.store, id, take).await {
        Ok(instance) => Ok(Some(instance)),
        Err(UpdateError::Refused(_) | UpdateError::Unknown) => Ok(None),
        Err(error @ (UpdateError::Conflict | UpdateError::Store(_))) => Err(error.into()),
    }
}

impl Acquire {
    fn check(&self) -> Result<(), Problem> {
        if self.profile.as_ref().is_some_and(|profile| !profile.is_null()) {
            return Err(invalid("profile cannot be had here; leave it out."));
        }
        self.name.as_deref().map_or(Ok(()), check_name)?;
        self.tags.as_ref().map_or(Ok(()), check_tags)?;
        self.start_url.as_deref().map_or(Ok(()), check_url)?;
        self.telemetry.as_ref().map_or(Ok(()), TelemetryWish::check)
    }
}
