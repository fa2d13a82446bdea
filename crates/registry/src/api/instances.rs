//! Instances: made, listed, read, stopped and deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use landfast_core::lifecycle::{StepError, desire_deleted, desire_stopped, ended_external, will_restart};
use landfast_core::record::{Desired, Generation, Instance, InstanceSpec, Kind, Phase, keys};
use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::clock;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::Caller;
use super::describe::schema;
use super::input::{Id, Json, Params, invalid};
use super::refusal::Refusal;
use super::spec::{self, check_labels};
use super::view::InstanceView;
use super::{Api, idempotency, wait};
use crate::records::{self, UpdateError};

/// Items of a page if not said otherwise, and at most.
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 500;

/// Records read from the store at once, and by one request at most: a filter that fits nothing must not read a whole
/// cell. The page then has few items, and a cursor to go on from.
const SCAN_STEP: usize = 500;
const SCAN_MAX: usize = 5_000;

/// What is asked for.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = NewInstance)]
pub(super) struct Wish {
    /// The preset: `sandbox` if not said.
    #[schema(value_type = Option<schema::Kind>)]
    pub(super) kind: Option<Kind>,
    /// How it is to be.
    #[schema(value_type = schema::InstanceSpec)]
    pub(super) spec: InstanceSpec,
    /// Labels to find it by.
    pub(super) labels: BTreeMap<String, String>,
}

/// A page of instances.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InstancePage)]
pub(super) struct Page {
    /// The instances, oldest first.
    items: Vec<InstanceView>,
    /// What to send as `cursor` for the next page; null if this is the last.
    next_cursor: Option<String>,
}

/// Creates an instance.
///
/// It is placed on a node and started there; with `wait` the answer comes once it runs or has ended, or when the time is
/// up. Sent again with the same `Idempotency-Key` and body, within 24 hours, this answers with the same instance.
#[utoipa::path(
    post, path = "/v1/instances", operation_id = "create_instance", tag = "instances",
    params(
        ("wait" = Option<u64>, Query, description = "Seconds to wait until it runs or has ended; 60 at most."),
        ("Idempotency-Key" = Option<String>, Header, description = "Any text; makes it safe to send this again."),
    ),
    request_body(content = Wish, description = "What is asked for; everything has a default."),
    responses((status = 201, description = "The instance as it is now.", body = InstanceView)),
)]
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(Caller(caller)): Extension<Caller>,
    mut params: Params,
    headers: HeaderMap,
    Json(wish): Json<Wish>,
) -> Result<Response, Refusal> {
    let patience = params.wait()?;
    params.end()?;
    wish.check()?;
    let id = idempotency::claim(&*api.store, caller, &headers, &wish).await?;
    match records::create_instance(&*api.store, &wish.into_record(id)).await {
        // A conflict is the instance of an earlier request with the same key.
        Ok(_) | Err(UpdateError::Conflict) => {}
        Err(error) => return Err(error.into()),
    }
    let (_, instance) = wait::until(&api, id, patience, is_settled).await?;
    let location = [(LOCATION, format!("/v1/instances/{id}"))];
    Ok((StatusCode::CREATED, location, axum::Json(InstanceView::new(&api, &headers, instance))).into_response())
}

/// Lists instances.
///
/// Deleted ones are listed only if asked for by phase.
#[utoipa::path(
    get, path = "/v1/instances", operation_id = "list_instances", tag = "instances",
    params(
        ("limit" = Option<usize>, Query, description = "Items per page: 50 if not said, 500 at most."),
        ("cursor" = Option<String>, Query, description = "Where the page before this ended: its `next_cursor`."),
        ("label" = Option<Vec<String>>, Query, description = "`name=value`; several must all fit."),
        ("phase" = Option<Vec<schema::Phase>>, Query, description = "Only these phases."),
    ),
    responses((status = 200, description = "A page, oldest first.", body = Page)),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<axum::Json<Page>, Refusal> {
    let limit = params.one("limit")?.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(invalid(format!("limit is from 1 to {PAGE_MAX}.")).into());
    }
    let cursor: Option<InstanceId> = params.one("cursor")?;
    let filter = Filter::take(&mut params)?;
    params.end()?;
    let (found, next) = scan(&api, cursor, limit, &filter).await?;
    let items = found.into_iter().map(|instance| InstanceView::new(&api, &headers, instance)).collect();
    Ok(axum::Json(Page { items, next_cursor: next.map(|id| id.to_string()) }))
}

/// Reads an instance.
///
/// One that was deleted can be read for 24 hours, in phase `deleted`.
#[utoipa::path(
    get, path = "/v1/instances/{id}", operation_id = "read_instance", tag = "instances",
    params(("id" = String, Path, description = "The instance's id.")),
    responses((status = 200, description = "The instance as it is now.", body = InstanceView)),
)]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    headers: HeaderMap,
) -> Result<axum::Json<InstanceView>, Refusal> {
    let (instance, _) = records::instance(&*api.store, id).await?.ok_or(ErrorCode::InstanceUnknown)?;
    Ok(axum::Json(InstanceView::new(&api, &headers, instance)))
}

/// Ends an instance for ever.
///
/// The answer comes before the end; a tombstone tells of it for 24 hours.
#[utoipa::path(
    delete, path = "/v1/instances/{id}", operation_id = "delete_instance", tag = "instances",
    params(("id" = String, Path, description = "The instance's id.")),
    responses((status = 200, description = "The instance, now desired to be deleted.", body = InstanceView)),
)]
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    headers: HeaderMap,
) -> Result<axum::Json<InstanceView>, Refusal> {
    let instance = end(&api, id, desire_deleted).await?;
    Ok(axum::Json(InstanceView::new(&api, &headers, instance)))
}

/// Ends an instance and keeps its record.
///
/// The answer comes before the end.
#[utoipa::path(
    post, path = "/v1/instances/{id}/stop", operation_id = "stop_instance", tag = "instances",
    params(("id" = String, Path, description = "The instance's id.")),
    responses((status = 200, description = "The instance, now desired to be stopped.", body = InstanceView)),
)]
pub(super) async fn stop(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    headers: HeaderMap,
) -> Result<axum::Json<InstanceView>, Refusal> {
    let instance = end(&api, id, desire_stopped).await?;
    Ok(axum::Json(InstanceView::new(&api, &headers, instance)))
}

/// Writes that an instance should end. Nobody else ends one that runs elsewhere.
async fn end(
    api: &Api,
    id: InstanceId,
    desire: impl Fn(&mut Instance) -> Result<(), StepError>,
) -> Result<Instance, UpdateError> {
    let now = clock::unix_millis();
    let change = |instance: &mut Instance| {
        desire(instance)?;
        let has_ended = instance.phase.is_end() && instance.desired == Desired::Stopped;
        if instance.spec.external.is_some() && !has_ended {
            ended_external(instance, now)?;
        }
        Ok(())
    };
    records::update_instance(&*api.store, id, change).await
}

impl Wish {
    pub(super) fn check(&self) -> Result<(), Problem> {
        check_labels("labels", &self.labels)?;
        spec::check(self.kind(), &self.spec)
    }

    fn kind(&self) -> Kind {
        self.kind.unwrap_or(Kind::Sandbox)
    }

    /// The record to begin with. What runs elsewhere runs already, and is never placed.
    pub(super) fn into_record(mut self, id: InstanceId) -> Instance {
        if self.kind() == Kind::Browser {
            self.spec.browser.get_or_insert_default();
        }
        Instance {
            id,
            kind: self.kind(),
            desired: Desired::Running,
            phase: if self.spec.external.is_some() { Phase::Running } else { Phase::Pending },
            generation: Generation(u64::from(self.spec.external.is_some())),
            node: None,
            host: None,
            address: self.spec.external.as_ref().and_then(|external| external.agent.clone()),
            spec: self.spec,
            moving: None,
            reason: None,
            labels: self.labels,
            created_at: clock::unix_millis(),
            ended_at: None,
        }
    }
}

/// Whether there is nothing to wait for after a create.
pub(super) fn is_settled(instance: &Instance) -> Option<()> {
    match instance.phase {
        Phase::Pending | Phase::Starting => None,
        Phase::Running | Phase::Moving | Phase::Sleeping => Some(()),
        Phase::Stopped | Phase::Failed | Phase::Lost | Phase::Deleted => (!will_restart(instance)).then_some(()),
    }
}

/// Which instances to list.
struct Filter {
    labels: Vec<(String, String)>,
    phases: Vec<Phase>,
}

impl Filter {
    fn take(params: &mut Params) -> Result<Self, Problem> {
        let label = |text: String| {
            let pair = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            pair.ok_or_else(|| invalid(format!("label is name=value, not {text:?}.")))
        };
        let phase = |text: String| {
            let parsed = serde_json::from_value(text.clone().into());
            parsed.map_err(|_| invalid(format!("There is no phase {text:?}.")))
        };
        Ok(Self {
            labels: params.all("label").into_iter().map(label).collect::<Result<_, _>>()?,
            phases: params.all("phase").into_iter().map(phase).collect::<Result<_, _>>()?,
        })
    }

    fn fits(&self, instance: &Instance) -> bool {
        let phase = if self.phases.is_empty() {
            instance.phase != Phase::Deleted
        } else {
            self.phases.contains(&instance.phase)
        };
        phase && self.labels.iter().all(|(name, value)| instance.labels.get(name) == Some(value))
    }
}

/// Reads instances that fit, in the order of their ids, which is that of their creation.
async fn scan(
    api: &Api,
    cursor: Option<InstanceId>,
    limit: usize,
    filter: &Filter,
) -> Result<(Vec<Instance>, Option<InstanceId>), Refusal> {
    let mut found = Vec::new();
    let mut after = cursor;
    for _ in 0..SCAN_MAX.div_ceil(SCAN_STEP) {
        let key = after.map(keys::instance).unwrap_or_default();
        let page = api.store.page(keys::INSTANCES, &key, SCAN_STEP).await?;
        let is_last = page.entries.len() < SCAN_STEP;
        for (instance, _) in records::readable::<Instance>(page.entries) {
            if found.len() == limit {
                return Ok((found, after));
            }
            after = Some(instance.id);
            if filter.fits(&instance) {
                found.push(instance);
            }
        }
        if is_last {
            return Ok((found, None));
        }
    }
    Ok((found, after))
}
