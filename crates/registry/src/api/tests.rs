//! The API over a socket. Where another role is needed, the test writes what that role would write, or is its peer on
//! the wire. Every answer is held against the description: its path, its status, its code.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use landfast_core::lifecycle;
use landfast_core::record::{Generation, Instance, Node, Phase, keys};
use landfast_core::{ErrorCode, InstanceId, NodeId, Problem};
use landfast_net::credential::Credential;
use landfast_net::relay::{self, CellKey, Target};
use landfast_net::role::{CancellationToken, Running};
use landfast_net::socket::Socket;
use landfast_net::{clock, head, http as net_http, random};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Config, openapi, start};
use crate::cell::Cell;
use crate::records;
use crate::store::conformance::{snapshot, soon};
use crate::store::{Expect, LeaseId, Store, WatchEvent};
use crate::token::{Scope, Verifier};

mod access;
mod api_keys;
mod external;
mod forward;
mod instances;
mod kernel;
mod moves;
mod nodes;
mod server;
mod sleep;
mod telemetry;
mod tokens;

/// An API server on a fresh cell.
struct Api {
    running: Running,
    cell: Arc<Cell>,
    store: Arc<dyn Store>,
    stop: CancellationToken,
    description: Value,
    _dir: TempDir,
}

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Value,
}

impl Api {
    async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    async fn start_with(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cell = Arc::new(Cell::open(&dir.path().join("data")).unwrap());
        let store = cell.store().unwrap();
        let stop = CancellationToken::new();
        let running = start(config, cell.clone(), store.clone(), stop.clone()).await.unwrap();
        let description = serde_json::from_str(&openapi()).unwrap();
        Self { running, cell, store, stop, description, _dir: dir }
    }

    /// Sends exactly these headers.
    async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = http::Request::builder().method(method).uri(target).header("host", "api.test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let socket = Socket::tcp(TcpStream::connect(self.running.address).await.unwrap());
        let response = net_http::call(socket, request, Duration::from_secs(60)).await.unwrap();
        let (head, body) = response.into_parts();
        let text = String::from_utf8_lossy(&body).into_owned();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        let answer = Answer { status: head.status.as_u16(), headers: head.headers, body };
        self.assert_described(method, target, &answer);
        answer
    }

    async fn ask(&self, method: &str, target: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.ask_with(method, target, &[], body).await
    }

    async fn ask_with(&self, method: &str, target: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let key = format!("Bearer {}", self.cell.api_key().to_text());
        let headers = [headers, &[("authorization", key.as_str())]].concat();
        self.send(method, target, &headers, body).await
    }

    async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, Value::Null).await
    }

    async fn post(&self, target: &str, body: Value) -> Answer {
        self.ask("POST", target, body).await
    }

    async fn create(&self, wish: Value) -> InstanceId {
        let answer = self.post("/v1/instances", wish).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.id()
    }

    fn assert_described(&self, method: &str, target: &str, answer: &Answer) {
        assert!(answer.headers.contains_key("landfast-request-id"));
        // Those paths are described by whoever thought of them.
        if target.starts_with("/browser") {
            return;
        }
        let path = target.split('?').next().unwrap();
        let found = self.description["paths"].as_object().unwrap().iter().find(|(template, _)| fits(template, path));
        let operation = found.map_or(&Value::Null, |(_, item)| &item[method.to_lowercase()]);
        let Some(responses) = operation["responses"].as_object() else {
            assert!(matches!(answer.status, 404 | 405), "{method} {target} is not described: {}", answer.status);
            return;
        };
        let described = responses.get(&answer.status.to_string());
        let described = described.unwrap_or_else(|| panic!("{method} {path} {} is not described", answer.status));
        if let Some(code) = answer.headers.get("landfast-error") {
            let code = code.to_str().unwrap();
            let text = described["description"].as_str().unwrap();
            assert!(text.contains(&format!("`{code}`")), "{method} {path} {} {code} is not described", answer.status);
        }
    }

    async fn add_node(&self, name: &str, host: &str, address: &str) -> (NodeId, LeaseId) {
        let node = Node {
            id: random::node_id(),
            name: name.to_owned(),
            host: host.to_owned(),
            address: address.to_owned(),
            capacity: 10,
            labels: [("zone".to_owned(), host.to_owned())].into(),
            draining: false,
            isolation: "none: test".to_owned(),
            started_at: 0,
        };
        let lease = self.store.grant(Duration::from_secs(60)).await.unwrap();
        self.put_node(&node, Some(&lease)).await;
        (node.id, lease)
    }

    async fn put_node(&self, node: &Node, lease: Option<&LeaseId>) {
        let key = keys::node(node.id);
        let found = self.store.get(&key).await.unwrap();
        let expect = found.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
        self.store.put(&key, expect, records::encode(node).unwrap(), lease).await.unwrap();
    }

    /// Writes what the node writes that was given the instance.
    async fn step(&self, id: InstanceId, step: impl Fn(&mut Instance) -> Result<(), Problem>) -> Instance {
        records::update_instance(&*self.store, id, step).await.unwrap()
    }

    /// Waits for the record as another role would see it.
    async fn comes_to(&self, id: InstanceId, phase: Phase) -> Instance {
        let mut watch = self.store.watch(&keys::instance(id), None);
        soon(async {
            loop {
                watch.next().await.unwrap();
                if let Some((instance, _)) = records::instance(&*self.store, id).await.unwrap()
                    && instance.phase == phase
                {
                    return instance;
                }
            }
        })
        .await
    }

    /// Creates an instance that runs on whichever node the keeper chooses.
    async fn create_running(&self, wish: Value) -> Instance {
        let id = self.create(wish).await;
        self.bring_up(id).await
    }

    async fn bring_up(&self, id: InstanceId) -> Instance {
        let placed = self.comes_to(id, Phase::Starting).await;
        let start = |record: &mut Instance| Ok(lifecycle::started(record, placed.node.unwrap(), placed.generation)?);
        self.step(id, start).await
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Answer {
    fn id(&self) -> InstanceId {
        self.body["id"].as_str().unwrap().parse().unwrap()
    }

    /// The answer is a refusal with this code, in the one form that refusals have. Returns its detail.
    fn refuses(&self, code: ErrorCode) -> &str {
        assert_eq!(self.body["code"], code.as_str(), "{}", self.body);
        assert_eq!(Some(self.status), code.status());
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.headers["landfast-error"], code.as_str());
        assert_eq!(self.status == 503, self.headers.contains_key("retry-after"));
        self.body["detail"].as_str().unwrap()
    }
}

fn fits(template: &str, path: &str) -> bool {
    let (mut parts, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (parts.next(), given.next()) {
            (None, None) => return true,
            (Some("{rest}"), Some(_)) => return true,
            (Some(part), Some(segment)) if part == segment || (part.starts_with('{') && !segment.is_empty()) => {}
            _ => return false,
        }
    }
}
