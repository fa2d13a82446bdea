//! `/browsers`: made, listed, read, changed and deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as JsonBody;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use landfast_core::lifecycle::desire_deleted;
use landfast_core::record::{Instance, Kind, Phase};
use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::random;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::super::input::{Json, Params, invalid};
use super::super::instances::is_settled;
use super::super::refusal::Refusal;
use super::super::{Api, forward, wait};
use super::label::Labels;
use super::view::{BrowserView, is_over};
use super::wish::{TelemetryWish, Wish, check_name, check_tags, check_url};
use super::{lease, names};
use crate::records;

/// How long a start may take before the answer comes without it: their clients hang up after a minute.
const START_PATIENCE: Duration = Duration::from_secs(45);

/// How long a delete waits for the end.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// Items of a page if not said otherwise, and at most; as there.
const PAGE_DEFAULT: usize = 20;
const PAGE_MAX: usize = 100;

/// What a browser is changed to.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Change {
    #[serde(deserialize_with = "stated")]
    name: Option<Option<String>>,
    #[serde(deserialize_with = "stated")]
    tags: Option<Option<BTreeMap<String, String>>>,
    start_url: Option<String>,
    #[serde(deserialize_with = "stated")]
    telemetry: Option<Option<TelemetryWish>>,
}

/// Tells null from absence.
fn stated<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// `POST /browsers`: answers once it runs.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Json(wish): Json<Wish>,
) -> Result<Response, Refusal> {
    wish.check()?;
    let id = random::instance_id();
    let first = First::of(&wish);
    if let Some(name) = &wish.name {
        names::take(&api, name, id).await?;
    }
    records::create_instance(&*api.store, &wish.instance(id, None)).await?;
    let (_, instance) = wait::until(&api, id, START_PATIENCE, is_settled).await?;
    if let Some(why) = has_not_come(&instance) {
        records::update_instance(&*api.store, id, |instance| Ok(desire_deleted(instance)?)).await?;
        return Err(why.into());
    }
    first.arrange(&api, id).await?;
    Ok(JsonBody(BrowserView::new(&api, &headers, &instance)).into_response())
}

/// `GET /browsers`.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let page = Page::take(&mut params)?;
    let filter = Filter::take(&mut params)?;
    params.end()?;
    let all = records::instances(&*api.store).await?;
    let fitting = all.into_iter().map(|(instance, _)| instance).filter(|instance| filter.fits(instance));
    let (shown, headers_of_page) = page.cut(fitting);
    let views: Vec<_> = shown.iter().map(|instance| BrowserView::new(&api, &headers, instance)).collect();
    Ok((headers_of_page, JsonBody(views)).into_response())
}

/// `GET /browsers/{id or name}`.
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Path(browser): Path<String>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let deleted_too = params.one("include_deleted")?.unwrap_or(false);
    params.end()?;
    let instance = find(&api, &browser).await?;
    if is_over(&instance) && !deleted_too {
        return Err(ErrorCode::InstanceGone.into());
    }
    Ok(JsonBody(BrowserView::new(&api, &headers, &instance)).into_response())
}

/// `PATCH /browsers/{id or name}`.
pub(super) async fn update(
    State(api): State<Arc<Api>>,
    Path(browser): Path<String>,
    headers: HeaderMap,
    Json(change): Json<Change>,
) -> Result<Response, Refusal> {
    change.check()?;
    let before = live(&api, &browser).await?;
    let id = before.id;
    if let Some(Some(name)) = &change.name {
        names::take(&api, name, id).await?;
    }
    let relabel = |instance: &mut Instance| {
        let mut labels = Labels::of(instance);
        if let Some(name) = &change.name {
            labels.name.clone_from(name);
        }
        if let Some(tags) = &change.tags {
            labels.tags = tags.clone().unwrap_or_default();
        }
        labels.start_url = change.start_url.clone().or(labels.start_url);
        instance.labels = labels.into_map();
        Ok(())
    };
    let after = records::update_instance(&*api.store, id, relabel).await?;
    if let Some(name) = Labels::of(&before).name.filter(|_| change.name.is_some())
        && Labels::of(&after).name.as_ref() != Some(&name)
    {
        names::release(&api, &name, id).await?;
    }
    let telemetry = change.telemetry.map(Option::unwrap_or_default);
    First { start_url: change.start_url, telemetry }.arrange(&api, id).await?;
    Ok(JsonBody(BrowserView::new(&api, &headers, &after)).into_response())
}

/// `DELETE /browsers/{id or name}`: answers once it has ended.
pub(super) async fn delete(State(api): State<Arc<Api>>, Path(browser): Path<String>) -> Result<StatusCode, Refusal> {
    let instance = live(&api, &browser).await?;
    end(&api, instance.id).await?;
    let has_ended = |instance: &Instance| (instance.phase == Phase::Deleted).then_some(());
    wait::until(&api, instance.id, END_PATIENCE, has_ended).await?;
    if let Some(pool) = Labels::of(&instance).pool {
        lease::tidy(&api, pool).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Has a browser end, and its name free for another.
pub(super) async fn end(api: &Api, id: InstanceId) -> Result<(), Refusal> {
    let instance = records::update_instance(&*api.store, id, |instance| Ok(desire_deleted(instance)?)).await?;
    if let Some(name) = Labels::of(&instance).name {
        names::release(api, &name, id).await?;
    }
    Ok(())
}

/// A browser, by its id or name, whatever has become of it.
///
/// # Errors
///
/// [`ErrorCode::InstanceUnknown`], also for an instance of another kind.
pub(super) async fn find(api: &Api, id_or_name: &str) -> Result<Instance, Refusal> {
    let id = names::find(api, id_or_name).await?;
    let found = records::instance(&*api.store, id).await?.map(|(instance, _)| instance);
    Ok(found.filter(|instance| instance.kind == Kind::Browser).ok_or(ErrorCode::InstanceUnknown)?)
}

/// A browser that has not ended.
///
/// # Errors
///
/// As [`find`], and [`ErrorCode::InstanceGone`].
pub(super) async fn live(api: &Api, id_or_name: &str) -> Result<Instance, Refusal> {
    let instance = find(api, id_or_name).await?;
    if is_over(&instance) { Err(ErrorCode::InstanceGone.into()) } else { Ok(instance) }
}

/// What is done with a browser once it runs.
#[derive(Clone, Debug, Default)]
pub(super) struct First {
    pub(super) start_url: Option<String>,
    pub(super) telemetry: Option<TelemetryWish>,
}

impl First {
    pub(super) fn of(wish: &Wish) -> Self {
        Self { start_url: wish.start_url.clone(), telemetry: wish.telemetry.clone() }
    }

    /// Watches what is to be watched, and opens what is to be opened; nobody waits for the latter, and that it could not be
    /// opened is for the page to say.
    pub(super) async fn arrange(self, api: &Arc<Api>, id: InstanceId) -> Result<(), Refusal> {
        if let Some(telemetry) = self.telemetry {
            let wanted = serde_json::to_vec(&telemetry.wanted()).map_err(|_| ErrorCode::Internal)?;
            ask(api, id, Method::PUT, "/telemetry", wanted.into()).await?;
        }
        if let Some(url) = self.start_url {
            let (api, body) = (api.clone(), json!({"url": url}).to_string());
            tokio::spawn(async move {
                if let Err(Refusal(problem)) = ask(&api, id, Method::POST, "/kernel/open", body.into()).await {
                    tracing::debug!(instance = %id, %problem, "the first page was not opened");
                }
            });
        }
        Ok(())
    }
}

async fn ask(api: &Api, id: InstanceId, method: Method, target: &str, body: Bytes) -> Result<(), Refusal> {
    let answer = forward::ask(api, id, method, target, body).await?;
    if answer.status().is_success() {
        return Ok(());
    }
    let said: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let code = said["code"].as_str().and_then(ErrorCode::parse).unwrap_or(ErrorCode::UpstreamLost);
    Err(Problem::new(code, said["detail"].as_str().unwrap_or_default()).into())
}

/// Why a browser is not there after all that time.
fn has_not_come(instance: &Instance) -> Option<Problem> {
    let why = instance.reason.clone().unwrap_or_default();
    match instance.phase {
        Phase::Pending => Some(Problem::new(ErrorCode::NodeNoneFits, why)),
        Phase::Failed | Phase::Lost | Phase::Stopped | Phase::Deleted => {
            Some(Problem::new(ErrorCode::NodeUnreachable, format!("The browser did not start. {why}")))
        }
        Phase::Starting | Phase::Running | Phase::Moving | Phase::Sleeping => None,
    }
}

impl Change {
    fn check(&self) -> Result<(), Problem> {
        self.name.iter().flatten().try_for_each(|name| check_name(name))?;
        self.tags.iter().flatten().try_for_each(check_tags)?;
        self.start_url.as_deref().map_or(Ok(()), check_url)?;
        self.telemetry.iter().flatten().try_for_each(TelemetryWish::check)
    }
}

/// Which part of a list is asked for.
pub(super) struct Page {
    offset: usize,
    limit: usize,
}

impl Page {
    pub(super) fn take(params: &mut Params) -> Result<Self, Problem> {
        let limit = params.one("limit")?.unwrap_or(PAGE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(invalid(format!("limit is from 1 to {PAGE_MAX}.")));
        }
        Ok(Self { offset: params.one("offset")?.unwrap_or(0), limit })
    }

    /// The items of this page, and the headers that tell of the next.
    pub(super) fn cut<T>(&self, items: impl Iterator<Item = T>) -> (Vec<T>, [(&'static str, String); 2]) {
        let mut shown: Vec<T> = items.skip(self.offset).take(self.limit + 1).collect();
        let has_more = shown.len() > self.limit;
        shown.truncate(self.limit);
        let next = if has_more { self.offset + self.limit } else { 0 };
        (shown, [("x-has-more", has_more.to_string()), ("x-next-offset", next.to_string())])
    }
}

/// Which browsers to list.
struct Filter {
    /// Live ones, and ended ones.
    shows: (bool, bool),
    query: Option<String>,
    region: Option<String>,
    tags: Vec<(String, String)>,
}

impl Filter {
    fn take(params: &mut Params) -> Result<Self, Problem> {
        let deleted_too = params.one("include_deleted")?.unwrap_or(false);
        let shows = match params.one::<String>("status")?.as_deref() {
            None => (true, deleted_too),
            Some("active") => (true, false),
            Some("deleted") => (false, true),
            Some("all") => (true, true),
            Some(other) => return Err(invalid(format!("status is active, deleted or all, not {other:.50?}."))),
        };
        let tags = params.bracketed("tags");
        Ok(Self { shows, query: params.one("query")?, region: params.one("region")?, tags })
    }

    fn fits(&self, instance: &Instance) -> bool {
        if instance.kind != Kind::Browser {
            return false;
        }
        let labels = Labels::of(instance);
        // What waits in a pool is nobody's.
        let is_shown = if is_over(instance) { self.shows.1 } else { self.shows.0 };
        let is_somebodys = labels.pool.is_none() || labels.is_lent;
        let named = |query: &String| {
            instance.id.to_string().contains(query.as_str())
                || labels.name.as_ref().is_some_and(|name| name.contains(query.as_str()))
        };
        is_shown
            && is_somebodys
            && self.query.as_ref().is_none_or(named)
            && self.region.as_ref().is_none_or(|region| labels.region.as_deref().unwrap_or("us-east") == region)
            && self.tags.iter().all(|(name, value)| labels.tags.get(name) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_where_the_next_begins_and_the_last_says_zero() {
        let cut = |offset, limit| {
            let (shown, [(_, more), (_, next)]) = Page { offset, limit }.cut(0..5);
            (shown, more, next)
        };
        assert_eq!(cut(0, 2), (vec![0, 1], "true".into(), "2".into()));
        assert_eq!(cut(2, 3), (vec![2, 3, 4], "false".into(), "0".into()));
        assert_eq!(cut(9, 3), (vec![], "false".into(), "0".into()));
    }

    #[test]
    fn what_is_taken_away_is_not_what_is_left_as_it_is() {
        let read = |text: &str| serde_json::from_str::<Change>(text).unwrap();
        assert_eq!((read("{}").name, read(r#"{"name": null}"#).name), (None, Some(None)));
        assert_eq!(read(r#"{"name": "a"}"#).name, Some(Some("a".to_owned())));
    }
}
