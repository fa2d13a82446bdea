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
use landfast_net::relay::{self, Target};
use landfast_net::role::{CancellationToken, Running};
use landfast_net::socket::Socket;
use landfast_net::{clock, head, http as net_http, random};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::{Config, openapi, start};
use crate::cell::Cell;
use crate::records;
use crate::store::conformance::{snapshot, soon};
use crate::store::{Expect, LeaseId, Store, WatchEvent};
use crate::token::{Scope, Verifier};

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

// --- who may ask, and how ---

#[tokio::test]
async fn only_an_api_key_of_the_cell_opens_the_control_plane() {
    let api = Api::start().await;
    for target in ["/v1/instances", "/v1/nodes"] {
        api.send("GET", target, &[], "").await.refuses(ErrorCode::AuthMissing);
        api.send("GET", target, &[("authorization", "Basic YTpi")], "").await.refuses(ErrorCode::AuthMissing);
        let other = format!("Bearer {}", crate::api_key::ApiKey::generate().to_text());
        api.send("GET", target, &[("authorization", &other)], "").await.refuses(ErrorCode::AuthInvalid);
        assert_eq!(api.get(target).await.status, 200);
    }
    let access_token = api.post("/v1/instances", json!({})).await.body["token"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {access_token}");
    api.send("GET", "/v1/nodes", &[("authorization", &bearer)], "").await.refuses(ErrorCode::AuthInvalid);
}

#[tokio::test]
async fn health_and_description_need_no_key() {
    let api = Api::start().await;
    assert_eq!(api.send("GET", "/livez", &[], "").await.body, "ok\n");
    assert_eq!(api.send("GET", "/readyz", &[], "").await.body, "ok\n");
    let described = api.send("GET", "/v1/openapi.json", &[], "").await;
    assert_eq!(described.body, api.description);
}

#[tokio::test]
async fn a_server_without_its_store_lives_but_is_not_ready() {
    let api = Api::start().await;
    let (from, to) = (api.cell.dir.join("cell.db"), api.cell.dir.join("moved"));
    std::fs::rename(from, to).unwrap();
    assert_eq!(api.send("GET", "/livez", &[], "").await.status, 200);
    api.send("GET", "/readyz", &[], "").await.refuses(ErrorCode::RegistryUnavailable);
    let detail = api.get("/v1/nodes").await.refuses(ErrorCode::RegistryUnavailable).to_owned();
    assert!(!detail.contains('/'), "no paths for clients: {detail}");
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_our_own_words() {
    let api = Api::start().await;
    for target in ["/", "/v1", "/v1/", "/v2/instances", "/v1/instances/", "/v1/instances/x/y/z", "/v1//nodes", "/%ff"] {
        api.get(target).await.refuses(ErrorCode::RequestNotFound);
    }
    for (method, target, allowed) in [
        ("PUT", "/v1/instances", "GET,HEAD,POST"),
        ("PATCH", "/v1/nodes", "GET,HEAD"),
        ("GET", "/v1/instances/x/stop", "POST"),
        ("DELETE", "/livez", "GET,HEAD"),
        ("BREW", "/v1/nodes", "GET,HEAD"),
    ] {
        let answer = api.ask(method, target, Value::Null).await;
        answer.refuses(ErrorCode::RequestMethod);
        let mut given: Vec<_> = answer.headers["allow"].to_str().unwrap().split(',').collect();
        given.sort_unstable();
        assert_eq!(given.join(","), allowed, "{method} {target}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_understood_is_refused_with_what_is_wrong() {
    let api = Api::start().await;
    for (body, named) in [
        ("{", "EOF"),
        ("[]", "object"),
        ("\u{0}", "object"),
        (r#"{"labls":{}}"#, "labls"),
        (r#"{"spec":{"restart":"sometimes"}}"#, "sometimes"),
        (r#"{"spec":{"cpu":2}}"#, "cpu"),
        (r#"{"kind":"browser"}"#, "browser"),
        (r#"{"labels":{"a":1}}"#, "integer"),
        (r#"{"labels":{"a=b":"c"}}"#, "a=b"),
        (r#"{"labels":{"":"c"}}"#, "labels"),
        (r#"{"spec":{"node_labels":{"a":"\n"}}}"#, "node_labels"),
        (r#"{"spec":{"env":{"A=B":"c"}}}"#, "A=B"),
        (r#"{"spec":{"env":{"A":"\u0000"}}}"#, "environment"),
        (r#"{"labels":{}} tail"#, "trailing"),
    ] {
        let answer = api.ask_with("POST", "/v1/instances", &[], body.to_owned()).await;
        let detail = answer.refuses(ErrorCode::RequestInvalid);
        assert!(detail.contains(named), "{body}: {detail}");
    }
    assert_eq!(api.get("/v1/instances").await.body["items"], json!([]));
}

#[tokio::test]
async fn a_query_that_is_not_understood_is_refused_with_what_is_wrong() {
    let api = Api::start().await;
    for (query, named) in [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=many", "many"),
        ("limit=1&limit=2", "more than once"),
        ("cursor=x", "cursor"),
        ("label=a", "name=value"),
        ("phase=asleep", "asleep"),
        ("colour=red", "colour"),
    ] {
        let answer = api.get(&format!("/v1/instances?{query}")).await;
        let detail = answer.refuses(ErrorCode::RequestInvalid);
        assert!(detail.contains(named), "{query}: {detail}");
    }
    for query in ["wait=-1", "wait=1.5", "wait=61", "wait=99999999999999999999", "waitt=1"] {
        api.post(&format!("/v1/instances?{query}"), json!({})).await.refuses(ErrorCode::RequestInvalid);
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let api = Api::start().await;
    let large = json!({"spec": {"env": {"A": "x".repeat(200_000)}}});
    api.post("/v1/instances", large).await.refuses(ErrorCode::LimitBody);
    let fits = json!({"spec": {"env": {"A": "x".repeat(100_000)}}});
    assert_eq!(api.post("/v1/instances", fits).await.status, 201);
}

#[tokio::test]
async fn a_panic_in_a_handler_is_an_answer() {
    async fn bug() {
        panic!("a bug");
    }
    let router = axum::Router::new().route("/", axum::routing::get(bug));
    let router = router.layer(axum::middleware::from_fn(super::refusal::guard));
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(super::serve::serve(listener, router, stop.clone()));
    let socket = Socket::tcp(TcpStream::connect(address).await.unwrap());
    let request = http::Request::builder().uri("/").header("host", "x").body(Full::default()).unwrap();
    let response = net_http::call(socket, request, Duration::from_secs(10)).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["landfast-error"]),
        (http::StatusCode::INTERNAL_SERVER_ERROR, &"internal".parse().unwrap())
    );
    stop.cancel();
    soon(serving).await.unwrap();
}

#[tokio::test]
async fn a_request_keeps_the_id_that_the_gateway_gave_it() {
    let api = Api::start().await;
    let id = random::request_id().to_string();
    let answer = api.send("GET", "/livez", &[("landfast-request-id", &id)], "").await;
    assert_eq!(answer.headers["landfast-request-id"], id.as_str());
    let answer = api.send("GET", "/livez", &[("landfast-request-id", "mine")], "").await;
    assert_ne!(answer.headers["landfast-request-id"], "mine");
}

// --- instances ---

#[tokio::test]
async fn a_new_instance_is_shown_with_the_way_to_it() {
    let api = Api::start().await;
    let wish = json!({"spec": {"restart": "always", "env": {"A": "b"}}, "labels": {"team": "blue"}});
    let forwarded = [("x-forwarded-host", "cell.example:8443"), ("x-forwarded-proto", "https")];
    let answer = api.ask_with("POST", "/v1/instances", &forwarded, wish.to_string()).await;
    let (id, shown) = (answer.id(), &answer.body);
    assert_eq!(answer.status, 201);
    assert_eq!(answer.headers["location"], format!("/v1/instances/{id}").as_str());
    assert_eq!(shown["base_url"], format!("https://cell.example:8443/i/{id}"));
    assert_eq!(
        (&shown["kind"], &shown["desired"], &shown["labels"]["team"]),
        (&json!("sandbox"), &json!("running"), &json!("blue"))
    );
    let spec = json!({"restart": "always", "network": "host", "env": {"A": "b"}, "node_labels": {}});
    assert_eq!(shown["spec"], spec);

    let verifier = Verifier::load(&*api.store).await.unwrap();
    let now = clock::unix_millis() / 1000;
    let claims = verifier.verify(shown["token"].as_str().unwrap(), now).unwrap();
    assert!(claims.ins == id && claims.scopes == [Scope::All] && claims.exp.abs_diff(now + 3600) <= 2);
    assert_eq!(shown["token_expires_at"], claims.exp * 1000);

    let read = api.get(&format!("/v1/instances/{id}")).await;
    assert_eq!((read.status, &read.body["spec"]), (200, &spec));
    assert_eq!(read.body["base_url"], format!("http://api.test/i/{id}"));
}

#[tokio::test]
async fn the_public_url_of_the_configuration_comes_first() {
    let config = Config { public_url: Some("https://my.example/cell/".to_owned()), ..Config::default() };
    let api = Api::start_with(config).await;
    let answer = api.ask_with("POST", "/v1/instances", &[("x-forwarded-host", "other")], String::new()).await;
    assert_eq!(answer.body["base_url"], format!("https://my.example/cell/i/{}", answer.id()));
}

#[tokio::test]
async fn a_create_that_waits_answers_once_the_instance_runs() {
    let api = Api::start().await;
    api.add_node("a", "h", "127.0.0.1:1").await;
    let wait = api.post("/v1/instances?wait=60", json!({"labels": {"mine": "yes"}}));
    let bring_up = async {
        let mut watch = api.store.watch(keys::INSTANCES, None);
        snapshot(&mut watch).await;
        let WatchEvent::Changes(changes) = soon(watch.next()).await.unwrap() else { panic!("a change is due") };
        let id = changes[0].key.strip_prefix(keys::INSTANCES).unwrap().parse().unwrap();
        api.bring_up(id).await
    };
    let (answer, running) = tokio::join!(wait, bring_up);
    assert_eq!((answer.status, answer.id()), (201, running.id));
    assert_eq!((&answer.body["phase"], &answer.body["generation"]), (&json!("running"), &json!(1)));
}

#[tokio::test]
async fn a_create_that_waits_answers_when_the_instance_ends_and_when_the_time_is_up() {
    let api = Api::start().await;
    let answer = api.post("/v1/instances?wait=1", json!({})).await;
    assert_eq!((answer.status, &answer.body["phase"]), (201, &json!("pending")));
    let id = answer.id();
    let headers = [("idempotency-key", "k")];
    let wish = json!({"labels": {"n": "2"}}).to_string();
    let id_2 = api.ask_with("POST", "/v1/instances", &headers, wish.clone()).await.id();
    let wait = api.ask_with("POST", "/v1/instances?wait=60", &headers, wish);
    let stop = format!("/v1/instances/{id_2}/stop");
    let (answer, stopped) = tokio::join!(wait, api.post(&stop, Value::Null));
    assert_eq!((stopped.status, answer.id()), (200, id_2));
    assert_eq!((&answer.body["phase"], &answer.body["token"]), (&json!("stopped"), &Value::Null));
    assert_ne!(id, id_2);
}

#[tokio::test]
async fn a_stopping_server_does_not_let_waiting_requests_hang() {
    let api = Api::start().await;
    let wait = api.post("/v1/instances?wait=60", json!({}));
    let stop = async {
        let mut watch = api.store.watch(keys::INSTANCES, None);
        while snapshot(&mut watch).await.entries.is_empty() {
            soon(watch.next()).await.unwrap();
            watch = api.store.watch(keys::INSTANCES, None);
        }
        api.stop.cancel();
    };
    let (answer, ()) = soon(async { tokio::join!(wait, stop) }).await;
    assert_eq!((answer.status, &answer.body["phase"]), (201, &json!("pending")));
}

#[tokio::test]
async fn requests_with_one_idempotency_key_make_one_instance() {
    let api = Api::start().await;
    let headers = [("idempotency-key", "once")];
    let send = || api.ask_with("POST", "/v1/instances", &headers, r#"{"labels":{"a":"1","b":"2"}}"#.to_owned());
    let answers = join_all((0..8).map(|_| send())).await;
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.id() == answers[0].id()));
    let same = r#"{ "labels": {"b":"2", "a":"1"}, "spec": {} }"#.to_owned();
    assert_eq!(api.ask_with("POST", "/v1/instances", &headers, same).await.id(), answers[0].id());
    assert_eq!(api.get("/v1/instances").await.body["items"].as_array().unwrap().len(), 1);
    let other = api.ask_with("POST", "/v1/instances", &headers, "{}".to_owned()).await;
    other.refuses(ErrorCode::RequestKeyReused);
    let next = api.ask_with("POST", "/v1/instances", &[("idempotency-key", "twice")], "{}".to_owned()).await;
    assert_ne!(next.id(), answers[0].id());
}

#[tokio::test]
async fn a_claim_without_its_instance_is_completed_by_the_next_attempt() {
    let api = Api::start().await;
    let headers = [("idempotency-key", "k")];
    let first = api.ask_with("POST", "/v1/instances", &headers, String::new()).await.id();
    // As if the first server had died between its two writes.
    let (_, revision) = records::instance(&*api.store, first).await.unwrap().unwrap();
    api.store.delete(&keys::instance(first), Expect::Revision(revision)).await.unwrap();
    let again = api.ask_with("POST", "/v1/instances", &headers, String::new()).await;
    assert_eq!((again.status, again.id()), (201, first));
}

#[tokio::test]
async fn a_key_that_is_no_key_is_refused() {
    let api = Api::start().await;
    let long = "k".repeat(256);
    for headers in [
        &[("idempotency-key", "")][..],
        &[("idempotency-key", &long)],
        &[("idempotency-key", "a"), ("idempotency-key", "b")],
    ] {
        let answer = api.ask_with("POST", "/v1/instances", headers, String::new()).await;
        assert!(answer.refuses(ErrorCode::RequestInvalid).contains("Idempotency-Key"));
    }
}

#[tokio::test]
async fn pages_of_a_list_hold_every_instance_once_and_in_order() {
    let api = Api::start().await;
    let mut ids = Vec::new();
    for number in 0..7 {
        ids.push(api.create(json!({"labels": {"n": number.to_string()}})).await.to_string());
    }
    ids.sort();
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/instances?limit=3{cursor}")).await.body;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        found.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, ids);
}

#[tokio::test]
async fn a_list_is_narrowed_by_label_and_phase_and_hides_the_deleted() {
    let api = Api::start().await;
    let a = api.create(json!({"labels": {"team": "blue", "stage": "x"}})).await;
    let b = api.create(json!({"labels": {"team": "blue"}})).await;
    let c = api.create(json!({"labels": {"team": "red"}})).await;
    api.ask("DELETE", &format!("/v1/instances/{c}"), Value::Null).await;
    api.comes_to(c, Phase::Deleted).await;
    api.post(&format!("/v1/instances/{b}/stop"), Value::Null).await;
    api.comes_to(b, Phase::Stopped).await;
    for (query, expected) in [
        ("", vec![a, b]),
        ("?label=team=blue", vec![a, b]),
        ("?label=team=blue&label=stage=x", vec![a]),
        ("?label=team=green", vec![]),
        ("?phase=deleted", vec![c]),
        ("?phase=stopped&phase=deleted", vec![b, c]),
        ("?phase=pending&label=team%3Dblue", vec![a]),
    ] {
        let page = api.get(&format!("/v1/instances{query}")).await.body;
        let found: Vec<InstanceId> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(found, expected, "{query}");
        assert_eq!(page["next_cursor"], Value::Null);
    }
}

#[tokio::test]
async fn an_instance_is_stopped_and_deleted_on_request() {
    let api = Api::start().await;
    let id = api.create(json!({})).await;
    let path = format!("/v1/instances/{id}");
    let stopped = api.post(&format!("{path}/stop"), Value::Null).await;
    assert_eq!((stopped.status, &stopped.body["desired"]), (200, &json!("stopped")));
    api.comes_to(id, Phase::Stopped).await;
    assert_eq!(api.post(&format!("{path}/stop"), Value::Null).await.status, 200, "asking again changes nothing");
    assert_eq!(api.ask("DELETE", &path, Value::Null).await.body["desired"], "deleted");
    api.comes_to(id, Phase::Deleted).await;
    let tombstone = api.get(&path).await;
    assert_eq!(
        (tombstone.status, &tombstone.body["phase"], &tombstone.body["token"]),
        (200, &json!("deleted"), &Value::Null)
    );
    api.ask("DELETE", &path, Value::Null).await.refuses(ErrorCode::InstanceGone);
    api.post(&format!("{path}/stop"), Value::Null).await.refuses(ErrorCode::InstanceGone);
    api.post(&format!("{path}/tokens"), Value::Null).await.refuses(ErrorCode::InstanceGone);
    api.post(&format!("{path}/move"), Value::Null).await.refuses(ErrorCode::InstanceGone);
}

#[tokio::test]
async fn an_instance_that_never_was_is_unknown() {
    let api = Api::start().await;
    for id in
        [random::instance_id().to_string(), "ins_short".to_owned(), random::node_id().to_string(), "%41".to_owned()]
    {
        let path = format!("/v1/instances/{id}");
        api.get(&path).await.refuses(ErrorCode::InstanceUnknown);
        api.ask("DELETE", &path, Value::Null).await.refuses(ErrorCode::InstanceUnknown);
        for verb in ["stop", "move", "tokens", "exec", "processes"] {
            api.post(&format!("{path}/{verb}"), json!({})).await.refuses(ErrorCode::InstanceUnknown);
        }
    }
}

// --- moves ---

#[tokio::test]
async fn a_move_that_waits_answers_once_the_target_has_the_instance() {
    let api = Api::start().await;
    let (a, _) = api.add_node("a", "h", "127.0.0.1:1").await;
    let instance = api.create_running(json!({})).await;
    let (b, _) = api.add_node("b", "h", "127.0.0.1:2").await;
    api.add_node("elsewhere", "other-host", "127.0.0.1:3").await;
    for (wish, from, to) in [(json!({"node": "b"}), a, b), (json!({"node": a.to_string()}), b, a), (json!({}), a, b)] {
        let target = format!("/v1/instances/{}/move?wait=60", instance.id);
        let (answer, moved) = tokio::join!(api.post(&target, wish), carry_out_move(&api, instance.id, from, to));
        assert_eq!((answer.status, &answer.body["node"]), (200, &json!(to.to_string())), "{}", answer.body);
        assert_eq!(answer.body["generation"], moved.generation.0);
    }
}

/// Writes what the two nodes of a move write.
async fn carry_out_move(api: &Api, id: InstanceId, from: NodeId, to: NodeId) -> Instance {
    let generation = api.comes_to(id, Phase::Moving).await.generation;
    let (target, _) = records::node(&*api.store, to).await.unwrap().unwrap();
    api.step(id, |record| Ok(lifecycle::prepared(record, to, generation)?)).await;
    api.step(id, |record| Ok(lifecycle::commit_move(record, from, generation, &target)?)).await
}

#[tokio::test]
async fn a_move_that_was_given_up_says_why() {
    let api = Api::start().await;
    let (a, _) = api.add_node("a", "h", "127.0.0.1:1").await;
    let instance = api.create_running(json!({})).await;
    api.add_node("b", "h", "127.0.0.1:2").await;
    let target = format!("/v1/instances/{}/move?wait=60", instance.id);
    let give_up = async {
        api.comes_to(instance.id, Phase::Moving).await;
        let step =
            |record: &mut Instance| Ok(lifecycle::give_up_move(record, a, instance.generation, "b did not answer.")?);
        api.step(instance.id, step).await;
    };
    let (answer, ()) = tokio::join!(api.post(&target, Value::Null), give_up);
    assert_eq!(answer.refuses(ErrorCode::MoveFailed), "b did not answer.");
}

#[tokio::test]
async fn a_move_without_wait_is_only_asked_for() {
    let api = Api::start().await;
    api.add_node("a", "h", "127.0.0.1:1").await;
    let instance = api.create_running(json!({})).await;
    let (b, _) = api.add_node("b", "h", "127.0.0.1:2").await;
    let path = format!("/v1/instances/{}/move", instance.id);
    let answer = api.post(&path, json!({"node": "b"})).await;
    assert_eq!((answer.status, &answer.body["phase"]), (202, &json!("moving")));
    assert_eq!(answer.body["move"], json!({"to": b.to_string(), "step": "preparing"}));
    api.post(&path, json!({"node": "b"})).await.refuses(ErrorCode::InstanceMoving);
}

#[tokio::test]
async fn a_move_that_cannot_be_is_refused_with_the_reason() {
    let api = Api::start().await;
    let pending = api.create(json!({})).await;
    api.post(&format!("/v1/instances/{pending}/move"), json!({})).await;
    let (a, _) = api.add_node("a", "h", "127.0.0.1:1").await;
    let instance = api.create_running(json!({"spec": {"node_labels": {"zone": "h"}}})).await;
    let path = format!("/v1/instances/{}/move", instance.id);
    let refused = async |wish: Value, code| api.post(&path, wish).await.refuses(code).to_owned();
    assert!(refused(json!({}), ErrorCode::MoveRefused).await.contains("no other live node"));
    refused(json!({"node": "nobody"}), ErrorCode::NodeUnknown).await;
    assert!(refused(json!({"node": "a"}), ErrorCode::MoveRefused).await.contains("already"));
    api.add_node("far", "other", "127.0.0.1:2").await;
    assert!(refused(json!({"node": "far"}), ErrorCode::MoveRefused).await.contains("another host"));
    let (b, lease) = api.add_node("b", "h", "127.0.0.1:3").await;
    let (mut node, _) = records::node(&*api.store, b).await.unwrap().unwrap();
    node.labels.clear();
    api.put_node(&node, Some(&lease)).await;
    assert!(refused(json!({"node": "b"}), ErrorCode::MoveRefused).await.contains("labels"));
    node.draining = true;
    api.put_node(&node, Some(&lease)).await;
    assert!(refused(json!({"node": "b"}), ErrorCode::MoveRefused).await.contains("draining"));
    let fail =
        |record: &mut Instance| Ok(lifecycle::failed(record, a, instance.generation, "it died", clock::unix_millis())?);
    api.step(instance.id, fail).await;
    refused(json!({"node": "b"}), ErrorCode::InstanceFailed).await;
    refused(json!({}), ErrorCode::InstanceFailed).await;
}

// --- tokens and nodes ---

#[tokio::test]
async fn a_token_is_made_as_asked_and_taken_back_by_its_id() {
    let api = Api::start().await;
    let id = api.create(json!({})).await;
    let path = format!("/v1/instances/{id}/tokens");
    let answer = api.post(&path, json!({"scopes": ["process"], "ttl_seconds": 90})).await;
    assert_eq!((answer.status, &answer.body["scopes"]), (201, &json!(["process"])));
    let verifier = Verifier::load(&*api.store).await.unwrap();
    let now = clock::unix_millis() / 1000;
    let claims = verifier.verify(answer.body["token"].as_str().unwrap(), now).unwrap();
    assert!(claims.ins == id && claims.scopes == [Scope::Process] && claims.exp - claims.iat == 90);
    assert_eq!((&answer.body["id"], &answer.body["expires_at"]), (&json!(claims.jti), &json!(claims.exp * 1000)));

    let token = format!("/v1/tokens/{}", claims.jti);
    for _ in 0..2 {
        let answer = api.ask("DELETE", &token, Value::Null).await;
        assert_eq!((answer.status, &answer.body), (204, &json!("")));
    }
    let revoked = api.store.get(&keys::revoked(claims.jti)).await.unwrap().unwrap();
    let revoked: landfast_core::record::RevokedToken = records::decode(&revoked.key, &revoked.value).unwrap();
    assert!(revoked.expires_at >= claims.exp, "a revocation is kept at least as long as its token");
    api.ask("DELETE", "/v1/tokens/tok_x", Value::Null).await.refuses(ErrorCode::RequestInvalid);
}

#[tokio::test]
async fn a_token_that_would_be_useless_or_endless_is_refused() {
    let api = Api::start().await;
    let id = api.create(json!({})).await;
    for wish in [
        json!({"scopes": []}),
        json!({"scopes": ["everything"]}),
        json!({"ttl_seconds": 0}),
        json!({"ttl_seconds": 86_401}),
        json!({"ttl": 5}),
    ] {
        api.post(&format!("/v1/instances/{id}/tokens"), wish).await.refuses(ErrorCode::RequestInvalid);
    }
}

#[tokio::test]
async fn live_nodes_are_listed_with_what_they_run() {
    let api = Api::start().await;
    let (a, lease) = api.add_node("a", "h", "127.0.0.1:1").await;
    api.create_running(json!({})).await;
    let nodes = api.get("/v1/nodes").await.body;
    let node = &nodes["items"][0];
    assert_eq!((&node["id"], &node["name"], &node["instances"]), (&json!(a.to_string()), &json!("a"), &json!(1)));
    assert_eq!(
        (&node["capacity"], &node["draining"], &node["labels"]),
        (&json!(10), &json!(false), &json!({"zone": "h"}))
    );
    api.store.revoke(&lease).await.unwrap();
    assert_eq!(api.get("/v1/nodes").await.body["items"], json!([]));
}

// --- calls to the agent ---

/// A relay that answers each connection as told: with a refusal, or as the agent.
struct Peer {
    listener: TcpListener,
    cell: Arc<Cell>,
}

impl Peer {
    /// Puts an instance where this peer is.
    async fn with_instance(api: &Api) -> (Self, Instance) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        api.add_node("a", "h", &listener.local_addr().unwrap().to_string()).await;
        let instance = api.create_running(json!({})).await;
        (Self { listener, cell: api.cell.clone() }, instance)
    }

    /// Takes the next connection to the agent of an instance.
    async fn accept(&self, instance: &Instance) -> Socket {
        let mut socket = Socket::tcp(soon(self.listener.accept()).await.unwrap().0);
        let connect = relay::read_connect(&mut socket).await.unwrap();
        assert!(connect.key == *self.cell.key() && connect.target == Target::Agent && connect.instance == instance.id);
        assert_eq!(connect.generation, instance.generation);
        socket
    }

    /// Answers the next call as an agent, and returns the call's head.
    async fn answer(&self, instance: &Instance, answer: &str) -> head::RequestHead {
        let mut socket = self.accept(instance).await;
        relay::accept(&mut socket).await.unwrap();
        let head = head::read_request(&mut socket, 65_536).await.unwrap();
        socket.write_all(answer.as_bytes()).await.unwrap();
        head
    }
}

#[tokio::test]
async fn a_call_is_forwarded_to_the_agent_and_its_answer_comes_back() {
    let api = Api::start().await;
    let (peer, instance) = Peer::with_instance(&api).await;
    let target = format!("/v1/instances/{}/processes/prc_1/output?from=4", instance.id);
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: 5\r\n\r\nhello";
    let headers = [("accept", "application/octet-stream"), ("landfast-cell-key", "guess")];
    let (got, sent) =
        tokio::join!(api.ask_with("GET", &target, &headers, String::new()), peer.answer(&instance, answer));
    assert_eq!((got.status, &got.body), (200, &json!("hello")));
    assert_eq!(got.headers["content-type"], "application/octet-stream");
    assert_eq!((sent.method.as_str(), sent.target.as_str()), ("GET", "/processes/prc_1/output?from=4"));
    assert_eq!(sent.headers.get("accept"), Some("application/octet-stream"));
    for secret in ["authorization", "landfast-cell-key"] {
        assert_eq!(sent.headers.get(secret), None, "the instance does not get {secret}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_agent_comes_back_as_it_is() {
    let api = Api::start().await;
    let (peer, instance) = Peer::with_instance(&api).await;
    let body = serde_json::to_string(&Problem::from(ErrorCode::ProcessUnknown).body()).unwrap();
    let answer = format!(
        "HTTP/1.1 404 Not Found\r\nlandfast-error: process.unknown\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let target = format!("/v1/instances/{}/processes/prc_1", instance.id);
    let (got, _) = tokio::join!(api.ask("DELETE", &target, Value::Null), peer.answer(&instance, &answer));
    got.refuses(ErrorCode::ProcessUnknown);
}

#[tokio::test]
async fn a_relay_that_refuses_has_started_nothing_and_is_asked_again() {
    let api = Api::start().await;
    let (peer, instance) = Peer::with_instance(&api).await;
    let target = format!("/v1/instances/{}/exec", instance.id);
    let refusing_first = async {
        let mut socket = peer.accept(&instance).await;
        relay::refuse(&mut socket, ErrorCode::InstanceStarting, None).await.unwrap();
        peer.answer(&instance, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await
    };
    let (got, sent) = tokio::join!(api.post(&target, json!({"argv": ["true"]})), refusing_first);
    assert_eq!((got.status, sent.target.as_str()), (200, "/exec"));
    let refusing = async {
        for _ in 0..4 {
            let mut socket = peer.accept(&instance).await;
            relay::refuse(&mut socket, ErrorCode::NodeNotHere, None).await.unwrap();
        }
    };
    let (got, ()) = tokio::join!(api.post(&target, json!({"argv": ["true"]})), refusing);
    got.refuses(ErrorCode::NodeNotHere);
}

#[tokio::test]
async fn a_call_that_may_have_run_is_not_sent_again() {
    let api = Api::start().await;
    let (peer, instance) = Peer::with_instance(&api).await;
    let target = format!("/v1/instances/{}/exec", instance.id);
    let dying = peer.answer(&instance, "");
    let (got, _) = tokio::join!(api.post(&target, json!({"argv": ["true"]})), dying);
    got.refuses(ErrorCode::UpstreamLost);
    let nobody = tokio::time::timeout(Duration::from_millis(500), peer.listener.accept()).await;
    assert!(nobody.is_err(), "it was sent again");
}

#[tokio::test]
async fn a_call_to_an_instance_that_starts_waits_for_it() {
    let api = Api::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    api.add_node("a", "h", &listener.local_addr().unwrap().to_string()).await;
    let peer = Peer { listener, cell: api.cell.clone() };
    let id = api.create(json!({})).await;
    let target = format!("/v1/instances/{id}/processes");
    let starting = async {
        let instance = api.bring_up(id).await;
        peer.answer(&instance, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await
    };
    let (got, sent) = tokio::join!(api.get(&target), starting);
    assert_eq!((got.status, sent.target.as_str()), (200, "/processes"));
}

#[tokio::test]
async fn what_cannot_be_forwarded_is_refused_before_it_is_sent() {
    let api = Api::start().await;
    let (peer, instance) = Peer::with_instance(&api).await;
    let path = format!("/v1/instances/{}", instance.id);
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    let attach = api.ask_with("GET", &format!("{path}/processes/prc_1/attach"), &upgrade, String::new()).await;
    assert!(attach.refuses(ErrorCode::RequestInvalid).contains("/i/"));
    let follow = api.get(&format!("{path}/processes/prc_1/output?from=0&follow=true")).await;
    assert!(follow.refuses(ErrorCode::RequestInvalid).contains("/i/"));
    let large = "x".repeat(16 * 1024 * 1024 + 1);
    let answer = api.ask_with("POST", &format!("{path}/processes/prc_1/stdin"), &[], large).await;
    answer.refuses(ErrorCode::LimitBody);
    drop(peer);
    api.post(&format!("{path}/exec"), json!({})).await.refuses(ErrorCode::NodeUnreachable);
    let fail = |record: &mut Instance| {
        Ok(lifecycle::failed(record, record.node.unwrap(), Generation(1), "x", clock::unix_millis())?)
    };
    api.step(instance.id, fail).await;
    api.post(&format!("{path}/exec"), json!({})).await.refuses(ErrorCode::InstanceFailed);
}

// --- the server itself ---

#[tokio::test]
async fn gateways_find_a_server_while_it_runs_and_no_longer() {
    let api = Api::start().await;
    let found = api.store.list(keys::APIS).await.unwrap().entries;
    let server: landfast_core::record::ApiServer = records::decode(&found[0].key, &found[0].value).unwrap();
    assert_eq!((found.len(), server.address), (1, api.running.address.to_string()));
    api.stop.cancel();
    let mut watch = api.store.watch(keys::APIS, None);
    soon(async {
        while !api.store.list(keys::APIS).await.unwrap().entries.is_empty() {
            watch.next().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_told_to_stop_ends() {
    let mut api = Api::start().await;
    let idle = TcpStream::connect(api.running.address).await.unwrap();
    api.stop.cancel();
    soon(&mut api.running.done).await.unwrap();
    assert!(TcpStream::connect(api.running.address).await.is_err());
    drop(idle);
}

#[tokio::test]
async fn a_second_server_of_the_cell_shows_the_same() {
    let api = Api::start().await;
    let id = api.create(json!({})).await;
    let stop = CancellationToken::new();
    let second = start(Config::default(), api.cell.clone(), api.cell.store().unwrap(), stop.clone()).await.unwrap();
    let second = Api {
        running: second,
        cell: api.cell.clone(),
        store: api.store.clone(),
        stop,
        description: api.description.clone(),
        _dir: tempfile::tempdir().unwrap(),
    };
    assert_eq!(second.get(&format!("/v1/instances/{id}")).await.status, 200);
}

#[test]
fn settings_that_do_not_exist_are_refused() {
    assert!(serde_json::from_value::<Config>(json!({"listen": "127.0.0.1:0"})).is_ok());
    assert!(serde_json::from_value::<Config>(json!({"lisen": "127.0.0.1:0"})).is_err());
}
