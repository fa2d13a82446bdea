//! `/browser_pools`: made, listed, read, changed, emptied and deleted.

use std::sync::Arc;

use axum::Json as JsonBody;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use landfast_core::id::PoolId;
use landfast_core::kernel::time;
use landfast_core::{ErrorCode, Problem};
use landfast_net::{clock, random};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::Api;
use super::super::input::{Json, Params, invalid};
use super::super::refusal::Refusal;
use super::browsers::{Page, end};
use super::pool::{self, Member, Pool, SIZE_MAX};
use super::wish::{Wish, check_name};

/// A pool as its clients see it.
#[derive(Debug, Serialize)]
struct PoolView {
    id: PoolId,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    acquired_count: usize,
    available_count: usize,
    browser_pool_config: Value,
    created_at: String,
    extension_ids: [String; 0],
    region: String,
}

/// What is said of a pool beside what each of its browsers is to be.
#[derive(Debug, Default)]
struct Said {
    size: Option<usize>,
    name: Option<String>,
    fill_rate_per_minute: Option<u64>,
    discard_all_idle: bool,
    /// The rest.
    browser: Map<String, Value>,
}

/// `POST /browser_pools`.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Json(body): Json<Map<String, Value>>,
) -> Result<Response, Refusal> {
    let said = Said::read(body)?;
    let size = said.size.ok_or_else(|| invalid("size is missing: how many browsers are to run?"))?;
    let wish = read_wish(said.browser)?;
    if let Some(name) = &said.name {
        check_free(&api, name, None).await?;
    }
    let pool = Pool {
        id: random::pool_id(),
        name: said.name,
        size,
        wish,
        fill_rate_per_minute: said.fill_rate_per_minute,
        members: Default::default(),
        created_at: clock::unix_millis(),
    };
    pool::create(&api, &pool).await?;
    pool::fill(&api, pool.id).await?;
    shown(&api, &pool).await
}

/// `GET /browser_pools`.
pub(super) async fn list(State(api): State<Arc<Api>>, mut params: Params) -> Result<Response, Refusal> {
    let page = Page::take(&mut params)?;
    let (name, query): (Option<String>, Option<String>) = (params.one("name")?, params.one("query")?);
    let region: Option<String> = params.one("region")?;
    params.end()?;
    let fits = |pool: &Pool| {
        name.as_ref().is_none_or(|name| pool.name.as_ref() == Some(name))
            && query.as_ref().is_none_or(|query| {
                pool.name.as_ref().is_some_and(|name| name.contains(query.as_str()))
                    || pool.id.to_string().contains(query.as_str())
            })
            && region.as_ref().is_none_or(|region| *region == region_of(pool))
    };
    let (pools, headers) = page.cut(pool::all(&api).await?.into_iter().filter(fits));
    let mut views = Vec::new();
    for pool in &pools {
        views.push(PoolView::new(pool, &pool::members(&api, pool).await?));
    }
    Ok((headers, JsonBody(views)).into_response())
}

/// `GET /browser_pools/{id or name}`.
pub(super) async fn read(State(api): State<Arc<Api>>, Path(pool): Path<String>) -> Result<Response, Refusal> {
    let pool = pool::find(&api, &pool).await?;
    shown(&api, &pool).await
}

/// `PATCH /browser_pools/{id or name}`: browsers that run already stay as they are, unless all that are free are to go.
pub(super) async fn update(
    State(api): State<Arc<Api>>,
    Path(pool): Path<String>,
    Json(body): Json<Map<String, Value>>,
) -> Result<Response, Refusal> {
    let before = pool::find(&api, &pool).await?;
    let said = Said::read(body)?;
    if let Some(name) = &said.name {
        check_free(&api, name, Some(before.id)).await?;
    }
    let mut wish = as_map(&before.wish);
    wish.extend(said.browser);
    let wish = read_wish(wish)?;
    let change = |pool: &mut Pool| {
        pool.size = said.size.unwrap_or(pool.size);
        pool.name = said.name.clone().or(pool.name.take());
        pool.fill_rate_per_minute = said.fill_rate_per_minute.or(pool.fill_rate_per_minute);
        pool.wish = wish.clone();
    };
    let pool = pool::change(&api, before.id, change).await?.ok_or(ErrorCode::RequestNotFound)?;
    if said.discard_all_idle {
        discard_free(&api, &pool).await?;
    }
    pool::fill(&api, pool.id).await?;
    shown(&api, &pool).await
}

/// `DELETE /browser_pools/{id or name}`: with all its browsers; those that are lent keep it, unless forced.
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Path(pool): Path<String>,
    Json(mut body): Json<Map<String, Value>>,
) -> Result<StatusCode, Refusal> {
    let pool = pool::find(&api, &pool).await?;
    let is_forced = body.remove("force").is_some_and(|force| force == true);
    let members = pool::members(&api, &pool).await?;
    let lent = members.iter().filter(|member| member.is_lent).count();
    if lent > 0 && !is_forced {
        return Err(Problem::new(ErrorCode::PoolInUse, format!("{lent} of its browsers are acquired.")).into());
    }
    pool::remove(&api, pool.id).await?;
    for member in members {
        end(&api, member.instance.id).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /browser_pools/{id or name}/flush`: those that are free are replaced.
pub(super) async fn flush(State(api): State<Arc<Api>>, Path(pool): Path<String>) -> Result<StatusCode, Refusal> {
    let pool = pool::find(&api, &pool).await?;
    discard_free(&api, &pool).await?;
    pool::fill(&api, pool.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn discard_free(api: &Api, pool: &Pool) -> Result<(), Refusal> {
    for member in pool::members(api, pool).await?.into_iter().filter(|member| !member.is_lent) {
        pool::discard(api, pool, member.instance.id).await?;
    }
    Ok(())
}

async fn shown(api: &Api, pool: &Pool) -> Result<Response, Refusal> {
    let pool = pool::read(api, pool.id).await?.unwrap_or_else(|| pool.clone());
    let members = pool::members(api, &pool).await?;
    Ok(JsonBody(PoolView::new(&pool, &members)).into_response())
}

async fn check_free(api: &Api, name: &str, owner: Option<PoolId>) -> Result<(), Refusal> {
    check_name(name)?;
    let is_taken = |pool: &Pool| pool.name.as_deref() == Some(name) && Some(pool.id) != owner;
    if pool::all(api).await?.iter().any(is_taken) {
        return Err(Problem::new(ErrorCode::NameTaken, "Another pool has the name.").into());
    }
    Ok(())
}

fn read_wish(fields: Map<String, Value>) -> Result<Wish, Problem> {
    let wish: Wish =
        serde_json::from_value(Value::Object(fields)).map_err(|error| invalid(format!("The body: {error}.")))?;
    wish.check()?;
    Ok(wish)
}

fn as_map(wish: &Wish) -> Map<String, Value> {
    match serde_json::to_value(wish) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => Map::new(),
    }
}

fn region_of(pool: &Pool) -> String {
    pool.wish.region.clone().unwrap_or_else(|| "us-east".to_owned())
}

impl Said {
    fn read(mut body: Map<String, Value>) -> Result<Self, Problem> {
        let mut take = |name: &str| body.remove(name).filter(|value| !value.is_null());
        let size = take("size").map(|size| read_size(&size)).transpose()?;
        let name = take("name").map(|name| read_name(&name)).transpose()?;
        let fill_rate_per_minute = take("fill_rate_per_minute").and_then(|rate| rate.as_u64());
        let discard_all_idle = take("discard_all_idle").is_some_and(|discards| discards == true);
        // There are no profiles that could be updated.
        take("refresh_on_profile_update");
        Ok(Self { size, name, fill_rate_per_minute, discard_all_idle, browser: body })
    }
}

fn read_size(size: &Value) -> Result<usize, Problem> {
    let size = size.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= SIZE_MAX);
    size.ok_or_else(|| invalid(format!("size is from 0 to {SIZE_MAX}.")))
}

fn read_name(name: &Value) -> Result<String, Problem> {
    let name = name.as_str().ok_or_else(|| invalid("name is no text."))?;
    check_name(name)?;
    Ok(name.to_owned())
}

impl PoolView {
    fn new(pool: &Pool, members: &[Member]) -> Self {
        let mut config = as_map(&pool.wish);
        config.insert("size".to_owned(), pool.size.into());
        config.insert("timeout_seconds".to_owned(), pool.wish.timeout().into());
        config.insert("headless".to_owned(), true.into());
        config.remove("tags");
        if let Some(name) = &pool.name {
            config.insert("name".to_owned(), json!(name));
        }
        if let Some(rate) = pool.fill_rate_per_minute {
            config.insert("fill_rate_per_minute".to_owned(), rate.into());
        }
        Self {
            id: pool.id,
            name: pool.name.clone(),
            acquired_count: members.iter().filter(|member| member.is_lent).count(),
            available_count: members.iter().filter(|member| member.is_free()).count(),
            browser_pool_config: config.into(),
            created_at: time(pool.created_at),
            extension_ids: [],
            region: region_of(pool),
        }
    }
}
