//! What this gateway finds when it looks at its own legs: the registry, an API server, and every node's relay.
//!
//! Links fare as their last user saw them, and an idle one has no user. So nothing is remembered: each relay is asked when
//! somebody wants to know, over a connection like any other, with a deadline. Who may see the nodes is the API's to say: it
//! is asked for them with the credentials that came, and what it refuses is refused.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use landfast_core::netcheck::{AgentsCondition, Failure, GatewayReport, NodeCondition, NodeReport};
use landfast_core::record::keys;
use landfast_core::{ErrorCode, NodeId, Problem};
use landfast_net::clock;
use landfast_net::credential::{Role, is_distrust};
use landfast_net::head::{Headers, ResponseHead};
use landfast_net::relay::{self, DialError, Of};
use landfast_registry::store::Store;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::answer::Answer;
use crate::gateway::Gateway;

/// Where it is asked for. The control plane's paths are the API's; this one is answered here.
pub(crate) const PATH: &str = "/v1/netcheck";

/// How long an API server may take to say which nodes there are.
const API_WITHIN: Duration = Duration::from_secs(5);

/// How long the registry may take for a few records.
const REGISTRY_WITHIN: Duration = Duration::from_secs(3);

/// How long a node may take for each of two answers: longer than it asks its agents.
const NODE_WITHIN: Duration = Duration::from_secs(3);

/// Nodes that are asked at once.
const AT_ONCE: usize = 64;

/// Nodes that are asked at all: then it takes less than a minute though all of them are away.
const NODES_MAX: usize = 512;

/// The registry's store.
pub(crate) struct Registry(pub(crate) Arc<dyn Store>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

/// As much of a node as matters here.
#[derive(Debug, Deserialize)]
struct Listed {
    id: NodeId,
    name: String,
    address: String,
}

#[derive(Debug, Deserialize)]
struct Listing {
    items: Vec<Listed>,
}

/// Looks, for whoever came with these headers.
///
/// Cancel safe.
///
/// # Errors
///
/// `registry.unavailable` if no API server can be reached, which nobody else can say either.
pub(crate) async fn look(gateway: &Gateway, headers: &Headers) -> Result<Answer, Problem> {
    let begun = clock::now();
    let answer = ask_api(gateway, headers.get("authorization").unwrap_or_default()).await?;
    let api_ms = millis(clock::now().since(begun));
    if answer.status() != StatusCode::OK {
        return Ok(passed_on(&answer));
    }
    let Listing { items } = serde_json::from_slice(answer.body()).map_err(|error| {
        Problem::new(ErrorCode::Internal, format!("What the API server says of the nodes is not understood: {error}."))
    })?;
    let begun = clock::now();
    let read = within(REGISTRY_WITHIN, async {
        gateway.registry.0.list(keys::TOKEN_KEYS).await.map_err(|error| io::Error::other(error.to_string()))
    });
    let registry_failure = read.await.err().map(|error| in_words(&error));
    let registry_ms = millis(clock::now().since(begun));
    let not_asked = items.len().saturating_sub(NODES_MAX);
    let asked = stream::iter(items.into_iter().take(NODES_MAX)).map(|node| look_at(gateway, node));
    let mut nodes: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    let registry_silent_ms = u64::try_from(gateway.routes.silence().as_millis()).unwrap_or(u64::MAX);
    let report = GatewayReport { registry_silent_ms, registry_ms, registry_failure, api_ms, nodes, not_asked };
    let body = serde_json::to_vec(&report).expect("a report is plain data");
    Ok(whole(200, None, body))
}

/// Asks the first API server that can be reached.
async fn ask_api(gateway: &Gateway, credentials: &str) -> Result<http::Response<Bytes>, Problem> {
    let mut failures = Vec::new();
    for address in gateway.apis.in_turn() {
        let asked = async {
            let socket = gateway.credential.connect(&address, Role::Api).await?;
            let request = Request::get("/v1/nodes")
                .header(header::HOST, &address)
                .header(header::AUTHORIZATION, credentials)
                .body(Full::new(Bytes::new()))
                .map_err(io::Error::other)?;
            landfast_net::http::call(socket, request, API_WITHIN).await.map_err(io::Error::other)
        };
        match within(API_WITHIN, asked).await {
            Ok(answer) => return Ok(answer),
            Err(error) => failures.push(format!("{address}: {}", in_words(&error))),
        }
    }
    let what = if failures.is_empty() { "none is registered".to_owned() } else { failures.join("; ") };
    Err(Problem::new(ErrorCode::RegistryUnavailable, format!("This gateway reaches no API server: {what}.")))
}

async fn look_at(gateway: &Gateway, node: Listed) -> NodeReport {
    let begun = clock::now();
    let condition: Result<NodeCondition, _> = ask(gateway, &node.address, Of::Node).await;
    let millis = millis(clock::now().since(begun));
    let (failure, condition) = match condition {
        Ok(condition) => (None, Some(condition)),
        // It knows the cell's key and speaks, and is of an older release that says nothing of itself.
        Err(DialError::Refused { code: ErrorCode::RequestInvalid, .. }) => (None, None),
        Err(error) => (Some(failure(&node.address, &error)), None),
    };
    let agents: Option<AgentsCondition> =
        if condition.is_some() { ask(gateway, &node.address, Of::Agents).await.ok() } else { None };
    NodeReport { id: node.id, name: node.name, address: node.address, millis, failure, condition, agents }
}

async fn ask<T: DeserializeOwned>(gateway: &Gateway, address: &str, of: Of) -> Result<T, DialError> {
    relay::condition(address, of, &gateway.credential, NODE_WITHIN).await
}

fn failure(address: &str, error: &DialError) -> Failure {
    match error {
        DialError::Refused { code: ErrorCode::AuthForbidden, .. } => Failure {
            code: ErrorCode::NodeUntrusted,
            detail: format!("The node at {address} has another cell's key: compare `cell.key` of both machines."),
        },
        DialError::Refused { code, .. } => {
            Failure { code: *code, detail: format!("The node at {address} refuses: {}", code.sentence()) }
        }
        DialError::Unreachable(error) => {
            let code = if is_distrust(error) { ErrorCode::NodeUntrusted } else { ErrorCode::NodeUnreachable };
            Failure { code, detail: format!("At {address}: {}.", in_words(error)) }
        }
    }
}

/// What it means that a connection failed.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::TimedOut => {
            format!(
                "no answer within {} s; it is stopped, overloaded, or packets are dropped on the way",
                NODE_WITHIN.as_secs()
            )
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "it hung up without a word; it may not believe this gateway's certificate, or be something else".to_owned()
        }
        _ => error.to_string(),
    }
}

async fn within<T>(deadline: Duration, asked: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(deadline, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What an API server has refused, as it did.
fn passed_on(answer: &http::Response<Bytes>) -> Answer {
    let code = answer.headers().get("landfast-error").and_then(|value| value.to_str().ok()).and_then(ErrorCode::parse);
    whole(answer.status().as_u16(), code, answer.body().to_vec())
}

fn whole(status: u16, cause: Option<ErrorCode>, body: Vec<u8>) -> Answer {
    let mut headers = Headers::new();
    headers.push("content-type", if cause.is_some() { "application/problem+json" } else { "application/json" });
    if let Some(code) = cause {
        headers.push("landfast-error", code.as_str());
    }
    headers.push("content-length", body.len().to_string());
    Answer { head: ResponseHead { status, headers }, body, cause }
}

fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
