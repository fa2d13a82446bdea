//! What an operator sees: the page of metrics, and spans at a collector.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use landfast_core::ErrorCode;
use landfast_core::record::Phase;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;

use crate::client::{bearer, connect, head, send, websocket};
use crate::node::Node;
use crate::world::{PATIENCE, World, soon, until};

// --- metrics ---

/// Any free port of the loopback address.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn page(at: SocketAddr) -> String {
    let answer = send(at, head("GET", "/metrics", &[]), b"").await;
    assert_eq!(answer.head.status, 200);
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    String::from_utf8(answer.body).unwrap()
}

/// The value of a line of the page, by its name and labels.
fn value(page: &str, name: &str) -> Option<f64> {
    let line =
        page.lines().find_map(|line| line.strip_prefix("landfast_gateway_")?.strip_prefix(name)?.strip_prefix(' '));
    line.map(|text| text.parse().unwrap())
}

#[tokio::test]
async fn the_page_tells_what_was_served_refused_and_held() {
    let world = World::with(|config| {
        config.metrics_listen = Some(ANY);
        config.limits.instance.sessions = Some(1);
    })
    .await;
    let at = world.metrics.unwrap();
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    let request = |method: &str| head(method, &format!("/i/{id}/80/x"), &[("Authorization", &token)]);
    send(world.gateway, request("POST"), b"12345").await;
    send(world.gateway, request("BREW"), b"").await;
    send(world.gateway, head("GET", &format!("/i/{id}/80"), &[("Authorization", "Bearer none")]), b"").await;
    let target = format!("/i/{id}/processes/x/attach");
    let ws = websocket(world.gateway, &target, &[("Authorization", &token)]).await.unwrap();
    let refused = websocket(world.gateway, &target, &[("Authorization", &token)]).await.unwrap_err();
    assert_eq!(refused.cause().1, Some(ErrorCode::LimitSessions));

    let expected = [
        ("requests_total{method=\"POST\",status=\"2xx\"}", 1.0),
        ("requests_total{method=\"other\",status=\"2xx\"}", 1.0),
        ("requests_total{method=\"GET\",status=\"4xx\"}", 2.0),
        ("causes_total{code=\"auth.invalid\"}", 1.0),
        ("limited_total{whose=\"instance\",code=\"limit.sessions\"}", 1.0),
        ("up_bytes_total", 5.0),
        ("request_duration_seconds_count", 4.0),
        ("first_byte_seconds_bucket{le=\"+Inf\"}", 4.0),
        ("sessions_open", 1.0),
        ("sessions_opened_total", 1.0),
        ("token_checks_total{result=\"good\"}", 1.0),
        ("token_checks_total{result=\"bad\"}", 1.0),
        ("parked", 0.0),
        ("routes", 1.0),
        ("watch_age_seconds", 0.0),
    ];
    // A request is counted once its answer is out, which its client may see a moment before.
    let (mut text, deadline) = (page(at).await, std::time::Instant::now() + PATIENCE);
    while let Some((name, value)) = expected.iter().find(|(name, expected)| value(&text, name) != Some(*expected)) {
        assert!(std::time::Instant::now() < deadline, "{name} is not {value} in\n{text}");
        text = page(at).await;
    }
    let reached = ["upstream_connections_total", "upstream_reuses_total"].map(|name| value(&text, name).unwrap());
    assert_eq!(reached[0] + reached[1], 2.0, "each request went on a connection");
    assert!(value(&text, "connections_open").unwrap() >= 1.0 && value(&text, "links_total").unwrap() >= 2.0, "{text}");
    assert!(text.ends_with("# EOF\n") && !text.contains(&id.to_string()), "no label is made by a client");

    drop(ws);
    assert_eq!(send(at, head("GET", "/", &[]), b"").await.head.status, 404);
    assert_eq!(send(world.gateway, head("GET", "/metrics", &[]), b"").await.head.status, 404, "not for clients");
}

#[tokio::test]
async fn the_page_tells_who_waits_and_what_is_over() {
    let world = World::with(|config| config.metrics_listen = Some(ANY)).await;
    let at = world.metrics.unwrap();
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    let target = format!("/i/{id}/processes/x/attach");
    drop(websocket(world.gateway, &target, &[("Authorization", &token)]).await.unwrap());
    world.phase(id, Phase::Starting).await;
    let request = || head("GET", &format!("/i/{id}/80/x"), &[("Authorization", &token)]);
    soon("the gateway hears of it", async {
        let mut impatient = request();
        impatient.headers.push("landfast-wait", "0");
        while send(world.gateway, impatient.clone(), b"").await.cause().1 != Some(ErrorCode::InstanceStarting) {}
    })
    .await;
    let parked = tokio::spawn({
        let (gateway, request) = (world.gateway, request());
        async move { send(gateway, request, b"").await }
    });
    soon("a request is parked and a session over", async {
        loop {
            let text = page(at).await;
            let ended = value(&text, "sessions_ended_total{code=\"client.lost\"}");
            if value(&text, "parked") >= Some(1.0) && ended == Some(1.0) && value(&text, "sessions_open") == Some(0.0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    parked.abort();
}

#[tokio::test]
async fn a_pause_between_two_links_is_measured() {
    let world = World::with(|config| config.metrics_listen = Some(ANY)).await;
    let at = world.metrics.unwrap();
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    let target = format!("/i/{id}/processes/x/attach");
    let _ws = websocket(world.gateway, &target, &[("Authorization", &token)]).await.unwrap();
    node.cut();
    soon("the next link", async {
        while value(&page(at).await, "pause_seconds_count") != Some(1.0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let text = page(at).await;
    assert!(value(&text, "pause_seconds_sum").unwrap() > 0.0 && value(&text, "links_total") == Some(2.0), "{text}");
}

// --- traces ---

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A collector that remembers what it was sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    async fn start() -> (String, Self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (url, collector) = (format!("http://{}", listener.local_addr().unwrap()), Self::default());
        let seen = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = seen.clone();
                let service = service_fn(move |request| seen.clone().take(request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        (url, collector)
    }

    async fn take(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        let bytes = request.into_body().collect().await?.to_bytes();
        let export = ExportTraceServiceRequest::decode(bytes).expect("OTLP");
        let scopes = export.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(Full::default()))
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().clone()
    }
}

fn attribute(span: &Span, name: &str) -> Option<Value> {
    span.attributes.iter().find(|attribute| attribute.key == name)?.value.clone()?.value
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a program was told of the trace.
fn told(node: &Node, number: usize) -> String {
    node.seen()[number].headers["traceparent"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_span_stands_between_its_caller_and_the_program_and_reaches_the_collector() {
    let (url, collector) = Collector::start().await;
    let mut world = World::with(|config| config.otlp_endpoint = Some(url)).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let lines = [("Authorization", token.as_str()), ("traceparent", &parent), ("tracestate", "vendor=1")];
    assert_eq!(send(world.gateway, head("GET", &format!("/i/{id}/80/a?secret=1"), &lines), b"").await.head.status, 200);
    send(world.gateway, head("POST", &format!("/i/{id}/80/cut-before"), &[("Authorization", &token)]), b"").await;
    world.stopped().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 2, "{spans:?}");

    let span = spans.iter().find(|span| span.name == "GET").unwrap();
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), CALLER.into()));
    assert_eq!(told(&node, 0), format!("00-{TRACE}-{}-01", hex(&span.span_id)));
    assert_eq!(node.seen()[0].headers["tracestate"], "vendor=1");
    assert_eq!(node.seen()[0].headers.get_all("traceparent").iter().count(), 1);
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    for (name, value) in [
        ("http.response.status_code", Value::IntValue(200)),
        ("landfast.instance", Value::StringValue(id.to_string())),
        ("url.path", Value::StringValue(format!("/i/{id}/80/a"))),
        ("client.address", Value::StringValue("127.0.0.1".into())),
    ] {
        assert_eq!(attribute(span, name), Some(value), "{name}");
    }

    let failed = spans.iter().find(|span| span.name == "POST").unwrap();
    assert!(failed.parent_span_id.is_empty() && told(&node, 1).contains(&hex(&failed.trace_id)), "a trace of its own");
    assert_eq!(attribute(failed, "error.type"), Some(Value::StringValue("upstream.lost".into())));
}

#[tokio::test]
async fn a_trace_that_its_caller_does_not_record_passes_as_it_was() {
    let (url, collector) = Collector::start().await;
    let mut world = World::with(|config| config.otlp_endpoint = Some(url)).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let parent = format!("00-{TRACE}-{CALLER}-00");
    let lines = [("Authorization", bearer(&world.token(id))), ("traceparent", parent.clone())];
    let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
    send(world.gateway, head("GET", &format!("/i/{id}/80/a"), &lines), b"").await;
    world.stopped().await;
    assert_eq!((told(&node, 0), collector.spans().len()), (parent, 0));
}

#[tokio::test]
async fn without_a_collector_what_a_caller_says_of_its_trace_passes_as_it_was() {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let lines = [("Authorization", bearer(&world.token(id))), ("traceparent", parent.clone())];
    let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
    send(world.gateway, head("GET", &format!("/i/{id}/80/a"), &lines), b"").await;
    assert_eq!(told(&node, 0), parent);
    send(world.gateway, head("GET", &format!("/i/{id}/80/b"), &[("Authorization", lines[0].1)]), b"").await;
    assert!(!node.seen()[1].headers.contains_key("traceparent"), "nothing is made up");
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nobody_up() {
    let gone = std::net::TcpListener::bind(ANY).unwrap().local_addr().unwrap();
    let mut world = World::with(|config| config.otlp_endpoint = Some(format!("http://{gone}"))).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    let request = head("GET", &format!("/i/{id}/80/a"), &[("Authorization", &token)]);
    assert_eq!(send(world.gateway, request, b"").await.head.status, 200);
    let began = std::time::Instant::now();
    world.stopped().await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

// --- who asked ---

#[tokio::test]
async fn behind_a_listed_proxy_the_program_hears_of_the_proxys_client() {
    let world = World::with(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    let lines = [("Authorization", token.as_str()), ("X-Forwarded-For", "6.6.6.6, 203.0.113.9")];
    send(world.gateway, head("GET", &format!("/i/{id}/80/a"), &lines), b"").await;
    assert_eq!(node.seen()[0].headers["x-forwarded-for"], "203.0.113.9");
    assert!(node.seen()[0].headers["forwarded"].to_str().unwrap().starts_with("for=203.0.113.9;"));
    let _ = connect(world.gateway).await;
    until("it is served", || !node.seen().is_empty()).await;
}
