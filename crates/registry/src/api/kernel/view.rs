//! A browser as such a client sees it.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use landfast_core::InstanceId;
use landfast_core::id::PoolId;
use landfast_core::kernel::time;
use landfast_core::lifecycle::will_restart;
use landfast_core::record::{Desired, Instance};
use landfast_net::clock;
use serde::Serialize;

use super::super::Api;
use super::super::tokens::TTL_MAX_SECONDS;
use super::super::view::{origin, sign};
use super::label::Labels;
use crate::token::Scope;

/// Where a browser is said to be, and how large: their clients do not take no for an answer.
const REGION: &str = "us-east";
const MEMORY: &str = "1GiB";

/// A browser.
#[derive(Debug, Serialize)]
pub(super) struct BrowserView {
    session_id: InstanceId,
    cdp_ws_url: String,
    /// Empty: there is no driver for WebDriver.
    webdriver_ws_url: &'static str,
    created_at: String,
    headless: bool,
    stealth: bool,
    memory: String,
    region: String,
    timeout_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    browser_live_view_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    viewport: Option<ViewportView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<PoolRef>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct ViewportView {
    width: u32,
    height: u32,
}

#[derive(Debug, Serialize)]
struct PoolRef {
    id: PoolId,
}

#[derive(Debug, Serialize)]
struct Usage {
    uptime_ms: u64,
}

impl BrowserView {
    /// Shows an instance to the sender of a request with these headers. Of one that has ended nothing leads to it any
    /// more: these clients go straight to wherever an answer leads.
    pub(super) fn new(api: &Api, headers: &HeaderMap, instance: &Instance) -> Self {
        let labels = Labels::of(instance);
        let base = format!("{}/i/{}", origin(api, headers), instance.id);
        let token = (!is_over(instance)).then(|| sign(api, instance.id, vec![Scope::All], TTL_MAX_SECONDS).0);
        let socket = format!("ws{}/cdp", base.strip_prefix("http").unwrap_or(&base));
        let ended_at = is_over(instance).then(|| instance.ended_at.unwrap_or_else(clock::unix_millis));
        Self {
            session_id: instance.id,
            cdp_ws_url: token.as_ref().map_or_else(|| socket.clone(), |token| format!("{socket}?jwt={token}")),
            webdriver_ws_url: "",
            created_at: time(instance.created_at),
            headless: true,
            stealth: false,
            memory: labels.memory.unwrap_or_else(|| MEMORY.to_owned()),
            region: labels.region.unwrap_or_else(|| REGION.to_owned()),
            timeout_seconds: instance.spec.idle_timeout.unwrap_or(0),
            base_url: token.as_ref().map(|_| format!("{base}/kernel")),
            browser_live_view_url: token.map(|token| format!("{base}/browser/view?token={token}")),
            deleted_at: ended_at.map(time),
            name: labels.name,
            start_url: labels.start_url,
            viewport: labels.viewport.map(|(width, height)| ViewportView { width, height }),
            pool: labels.pool.map(|id| PoolRef { id }),
            tags: labels.tags,
            usage: Usage { uptime_ms: ended_at.unwrap_or_else(clock::unix_millis).saturating_sub(instance.created_at) },
        }
    }
}

/// Whether a browser has ended for these clients: it is gone, or is to be.
pub(super) fn is_over(instance: &Instance) -> bool {
    instance.desired == Desired::Deleted || instance.phase.is_end() && !will_restart(instance)
}
