//! An instance as the API shows it: its record's public fields, and how to reach it.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use landfast_core::lifecycle::will_restart;
use landfast_core::record::{Desired, Generation, Instance, InstanceSpec, Kind, Move, Phase};
use landfast_core::{InstanceId, NodeId};
use landfast_net::{clock, random};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::describe::schema;
use crate::token::{Claims, Scope};

/// How long a token that comes with an instance is good: an SDK's session of work, after which it asks again.
pub(super) const TOKEN_SECONDS: u64 = 60 * 60;

/// An instance.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Instance)]
pub(super) struct InstanceView {
    /// Its id.
    #[schema(value_type = String, example = "ins_06f4n6b8p0h2k4m6p8r0t2v4w6")]
    id: InstanceId,
    /// The preset it was made from.
    #[schema(value_type = schema::Kind)]
    kind: Kind,
    /// What was asked for.
    #[schema(value_type = schema::InstanceSpec)]
    spec: InstanceSpec,
    /// What should be.
    #[schema(value_type = schema::Desired)]
    desired: Desired,
    /// What is.
    #[schema(value_type = schema::Phase)]
    phase: Phase,
    /// The number of its placements so far.
    #[schema(value_type = u64)]
    generation: Generation,
    /// The node it was given to; null while it sleeps, and always of an external one.
    #[schema(value_type = Option<String>)]
    node: Option<NodeId>,
    /// The host of that node; kept while it sleeps, because its files are there.
    host: Option<String>,
    /// The move in progress, in phase `moving`; null of an external one.
    #[serde(rename = "move")]
    #[schema(value_type = Option<schema::Move>)]
    moving: Option<Move>,
    /// Why it ended, why its last move was given up, or why no node takes it.
    reason: Option<String>,
    /// The user's labels.
    labels: BTreeMap<String, String>,
    /// Unix time in milliseconds.
    created_at: u64,
    /// Unix time in milliseconds; null while it is live.
    ended_at: Option<u64>,
    /// Where its data plane is.
    #[schema(example = "https://cell.example/i/ins_06f4n6b8p0h2k4m6p8r0t2v4w6")]
    base_url: String,
    /// Where clients of CDP connect, token included; null of what is no browser, and once it has ended or is to end.
    #[schema(example = "wss://cell.example/i/ins_06f4n6b8p0h2k4m6p8r0t2v4w6/cdp?token=…")]
    cdp_url: Option<String>,
    /// An access token for everything in it; null once it has ended or is to end.
    token: Option<String>,
    /// Unix time in milliseconds at which the token expires.
    token_expires_at: Option<u64>,
}

impl InstanceView {
    /// Shows an instance to the sender of a request with these headers.
    pub(super) fn new(api: &Api, headers: &HeaderMap, instance: Instance) -> Self {
        let is_live = !instance.phase.is_end() || will_restart(&instance);
        let is_to_stay = matches!(instance.desired, Desired::Running | Desired::Sleeping);
        let token = (is_live && is_to_stay).then(|| sign(api, instance.id, vec![Scope::All], TOKEN_SECONDS));
        let (token, claims) = token.unzip();
        let base_url = format!("{}/i/{}", origin(api, headers), instance.id);
        let is_browser = instance.kind == Kind::Browser;
        let cdp_url = token.as_ref().filter(|_| is_browser).map(|token| cdp_url(&base_url, token));
        Self {
            id: instance.id,
            kind: instance.kind,
            spec: instance.spec,
            desired: instance.desired,
            phase: instance.phase,
            generation: instance.generation,
            node: instance.node,
            host: instance.host,
            moving: instance.moving,
            reason: instance.reason,
            labels: instance.labels,
            created_at: instance.created_at,
            ended_at: instance.ended_at,
            base_url,
            cdp_url,
            token,
            token_expires_at: claims.map(|claims| claims.exp * 1000),
        }
    }
}

/// A WebSocket's URL has the scheme of the page that it belongs to: ws beside http, wss beside https.
fn cdp_url(base_url: &str, token: &str) -> String {
    format!("ws{}/cdp?token={token}", base_url.strip_prefix("http").unwrap_or(base_url))
}

/// Makes an access token.
pub(super) fn sign(api: &Api, instance: InstanceId, scopes: Vec<Scope>, seconds: u64) -> (String, Claims) {
    let now = clock::unix_millis() / 1000;
    let claims = Claims { jti: random::token_id(), ins: instance, scopes, exp: now + seconds, iat: now };
    (api.cell.signer().sign(&claims), claims)
}

/// Where the client believes the cell to be: what the operator says, or what the client asked the gateway for.
pub(super) fn origin(api: &Api, headers: &HeaderMap) -> String {
    if let Some(url) = &api.public_url {
        return url.clone();
    }
    let first = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()?.split(',').next());
    let host = first("x-forwarded-host").or_else(|| first(HOST.as_str())).unwrap_or_default().trim();
    let host = host.parse::<Authority>().map_or_else(|_| "localhost".to_owned(), |host| host.to_string());
    let scheme =
        if first("x-forwarded-proto").is_some_and(|scheme| scheme.trim() == "https") { "https" } else { "http" };
    format!("{scheme}://{host}")
}
