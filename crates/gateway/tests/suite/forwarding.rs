//! Plain requests, to instances and to the control plane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use landfast_core::ErrorCode;
use landfast_core::record::{ApiServer, Generation, Phase, keys};
use landfast_net::head::{HEAD_MAX, read_response, write_all};
use landfast_net::random;
use landfast_registry::records;
use landfast_registry::store::{
    Entry, Expect, LeaseId, Listing, RenewError, Revision, Store, StoreError, Swap, Watch, WatchEvent, WatchSource,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::client::{Answer, bearer, connect, head, send, send_bytes};
use crate::node::{Answer as Relay, Node};
use crate::world::{World, record, soon, until};

/// A gateway, a node, and an instance on it with a token.
async fn one() -> (World, Node, String, String) {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    (world, node, format!("/i/{id}/80"), token)
}

async fn get(world: &World, target: &str, token: &str) -> Answer {
    send(world.gateway, head("GET", target, &[("Authorization", token)]), b"").await
}

async fn post(world: &World, target: &str, token: &str, body: &[u8]) -> Answer {
    send(world.gateway, head("POST", target, &[("Authorization", token)]), body).await
}

// --- what passes ---

#[tokio::test]
async fn a_request_reaches_the_instance_with_its_body_and_the_answer_says_where_it_was() {
    let (world, node, base, token) = one().await;
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let answer = post(&world, &format!("{base}/some/path?a=1&b=%20"), &token, &body).await;
    assert_eq!((answer.cause(), answer.body == body), ((200, None), true));
    let seen = &node.seen()[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/some/path?a=1&b=%20"));
    assert!(answer.header("landfast-request-id").unwrap().starts_with("req_"));
    assert_eq!(answer.header("landfast-instance"), base.strip_prefix("/i/").and_then(|rest| rest.strip_suffix("/80")));
    assert_eq!(answer.header("landfast-generation"), Some("1"));
    assert_eq!(answer.header("landfast-attempts"), Some("1"));
}

#[tokio::test]
async fn a_refusal_that_leaves_a_body_unread_says_that_its_connection_ends() {
    let world = World::start().await;
    for (length, sent, ends) in [("10", "ten bytes!", true), ("10", "ten", true), ("0", "", false)] {
        let mut socket = connect(world.gateway).await;
        let request = head("POST", "/nowhere", &[("Content-Length", length)]);
        write_all(&mut socket, &[&request.encode(), sent.as_bytes()].concat()).await.unwrap();
        let answer = soon("an answer", read_response(&mut socket, HEAD_MAX)).await.unwrap();
        assert_eq!((answer.status, answer.headers.has_token("connection", "close")), (404, ends), "{sent}");
    }
}

#[tokio::test]
async fn a_browser_is_told_under_which_url_it_was_asked_for() {
    let (world, node, base, bearer) = one().await;
    let (root, token) = (base.strip_suffix("/80").unwrap(), bearer.strip_prefix("Bearer ").unwrap());
    let forged = ("landfast-public-url", "http://evil.test");
    for (asked, before) in [("/json/version", ""), ("/cdp/json/version", "/cdp")] {
        let target = format!("{root}{asked}?x=1&token={token}");
        send(world.gateway, head("GET", &target, &[forged]), b"").await;
        let seen = node.seen().pop().unwrap();
        assert_eq!(seen.target, "/json/version?x=1");
        assert_eq!(seen.headers["landfast-public-url"], format!("http://box.test{root}{before}"));
        assert_eq!(seen.headers["landfast-public-query"], format!("token={token}"));
    }
    get(&world, &format!("{root}/processes"), &bearer).await;
    assert_eq!(node.seen().pop().unwrap().headers.get("landfast-public-url"), None);
}

#[tokio::test]
async fn both_directions_stream_at_once() {
    let (world, _node, base, token) = one().await;
    let mut socket = connect(world.gateway).await;
    let request = head("POST", &format!("{base}/echo"), &[("Authorization", &token), ("Transfer-Encoding", "chunked")]);
    write_all(&mut socket, &request.encode()).await.unwrap();
    socket.write_all(b"3\r\none\r\n").await.unwrap();
    let head = soon("a head", read_response(&mut socket, HEAD_MAX)).await.unwrap();
    assert_eq!(head.status, 200);
    for word in ["one", "two", "six"] {
        let mut heard = vec![0; format!("3\r\n{word}\r\n").len()];
        soon("a chunk", socket.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, format!("3\r\n{word}\r\n").as_bytes());
        let next = if word == "one" { "two" } else { "six" };
        socket.write_all(format!("3\r\n{next}\r\n").as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn what_concerns_one_hop_or_only_us_does_not_pass() {
    let (world, node, base, token) = one().await;
    let lines = [
        ("Authorization", token.as_str()),
        ("Connection", "X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "5"),
        ("Landfast-Error", "node.not_here"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
    ];
    send(world.gateway, head("GET", &format!("{base}/x"), &lines), b"").await;
    let headers = &node.seen()[0].headers;
    for absent in ["x-hop", "keep-alive", "landfast-error", "authorization"] {
        assert!(!headers.contains_key(absent), "{absent} passed");
    }
    assert_eq!(
        (&headers["x-forwarded-for"], &headers["host"]),
        (&"127.0.0.1".parse().unwrap(), &"box.test".parse().unwrap())
    );
    assert_eq!(headers.get_all("x-twice").iter().collect::<Vec<_>>(), ["1", "2"]);
}

#[tokio::test]
async fn requests_share_a_connection_and_another_generation_never_does() {
    let (world, node, base, token) = one().await;
    for _ in 0..5 {
        get(&world, &base, &token).await;
    }
    let before = node.dials().len();
    assert!((1..=2).contains(&before), "at most one dial for each worker: {before}");
    let id = base[3..base.len() - 3].parse().unwrap();
    world.moved(id, &node).await;
    soon("the new generation is dialled", async {
        while !node.dials().contains(&2) {
            get(&world, &base, &token).await;
        }
    })
    .await;
}

// --- what is sent again ---

#[tokio::test]
async fn a_request_that_reached_the_wrong_node_goes_on_to_the_right_one() {
    let world = World::start().await;
    let (old, new) = (Node::start(world.cell.key()).await, Node::start(world.cell.key()).await);
    let id = world.instance_at(&old).await;
    let (target, token) = (format!("/i/{id}/80/x"), bearer(&world.token(id)));
    assert_eq!(get(&world, &target, &token).await.cause(), (200, None));
    for refusal in [ErrorCode::NodeNotHere, ErrorCode::NodeStaleGeneration] {
        // No kept connection is left: one that waits for its next link would take the request, and lose it.
        old.break_programs();
        until("the session ends", || old.sessions() == 0).await;
        old.cut();
        old.answers(Relay::Refuse(refusal, None));
        world.moved(id, &new).await;
        let answer = post(&world, &target, &token, b"once").await;
        assert_eq!((answer.cause(), answer.body.as_slice()), ((200, None), &b"once"[..]));
    }
    let posts = new.seen().iter().filter(|seen| seen.method == "POST").count();
    assert_eq!(posts, 2, "each ran once");
}

#[tokio::test]
async fn what_a_node_proves_is_believed_before_the_watch_tells() {
    // The watch is blind, so only asking the registry can help.
    let (over, blind) = veil();
    let world = World::over(over, |_| ()).await;
    let (old, new) = (Node::start(world.cell.key()).await, Node::start(world.cell.key()).await);
    let id = world.instance_at(&old).await;
    let (target, token) = (format!("/i/{id}/80/x"), bearer(&world.token(id)));
    assert_eq!(get(&world, &target, &token).await.cause(), (200, None));
    blind.watches.store(true, Ordering::Relaxed);
    // A session would go on at the new node; there is to be none.
    old.break_programs();
    until("the session ends", || old.sessions() == 0).await;
    old.answers(Relay::Refuse(ErrorCode::NodeNotHere, None));
    world.moved(id, &new).await;
    let answer = post(&world, &target, &token, b"once").await;
    assert_eq!((answer.cause(), answer.header("landfast-attempts")), ((200, None), Some("2")));
    assert_eq!(answer.header("landfast-generation"), Some("2"));
    new.break_programs();
    until("the session ends", || new.sessions() == 0).await;
    new.answers(Relay::Refuse(ErrorCode::NodeNotHere, None));
    world.phase(id, Phase::Deleted).await;
    let answer = get(&world, &target, &token).await;
    assert_eq!((answer.cause(), answer.header("landfast-attempts")), ((410, Some(ErrorCode::InstanceGone)), Some("1")));
}

#[tokio::test]
async fn a_request_waits_while_its_instance_is_between_places() {
    let (world, node, base, token) = one().await;
    let id = base[3..base.len() - 3].parse().unwrap();
    for phase in [Phase::Pending, Phase::Starting] {
        world.phase(id, phase).await;
        // Until the gateway has heard of it, a kept connection may still answer.
        node.cut();
        node.answers(Relay::Refuse(ErrorCode::InstanceStarting, None));
        let answer = tokio::spawn({
            let (gateway, request) = (world.gateway, head("POST", &base, &[("Authorization", &token)]));
            async move { send(gateway, request, b"body").await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!answer.is_finished(), "answered while {phase:?}");
        node.answers(Relay::Serve);
        world.phase(id, Phase::Running).await;
        let answer = soon("an answer", answer).await.unwrap();
        assert_eq!((answer.cause(), answer.body.as_slice()), ((200, None), &b"body"[..]));
    }
}

#[tokio::test]
async fn an_instance_that_is_never_placed_is_waited_for_until_the_deadline() {
    let world = World::with(|config| config.route_deadline_ms = 300).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    world.phase(id, Phase::Starting).await;
    let began = Instant::now();
    let answer = get(&world, &format!("/i/{id}/80"), &bearer(&world.token(id))).await;
    assert_eq!(answer.cause(), (503, Some(ErrorCode::InstanceStarting)));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert_eq!(node.dials().len(), 0);
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_tried_a_few_times_and_not_called_dead() {
    let world = World::start().await;
    let node = Node::gone(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let answer = get(&world, &format!("/i/{id}/80"), &bearer(&world.token(id))).await;
    assert_eq!(answer.cause(), (503, Some(ErrorCode::NodeUnreachable)));
    assert_eq!(answer.header("landfast-attempts"), Some("3"), "the same failure at the same place");
}

#[tokio::test]
async fn a_node_that_hangs_up_on_a_dial_has_started_nothing() {
    let (world, node, base, token) = one().await;
    node.next([Relay::HangUp, Relay::HangUp]);
    let answer = post(&world, &base, &token, b"once").await;
    assert_eq!((answer.cause(), answer.header("landfast-attempts")), ((200, None), Some("3")));
    assert_eq!(node.seen().len(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_ended_costs_no_attempt() {
    let (world, node, base, token) = one().await;
    for _ in 0..4 {
        assert_eq!(get(&world, &base, &token).await.cause(), (200, None));
        node.break_programs();
        until("the sessions end", || node.sessions() == 0).await;
    }
    let answer = post(&world, &base, &token, b"x").await;
    assert_eq!((answer.cause(), answer.header("landfast-attempts")), ((200, None), Some("1")));
}

#[tokio::test]
async fn a_request_cut_after_it_was_sent_is_repeated_only_if_that_is_safe() {
    let (world, node, base, token) = one().await;
    let answer = post(&world, &format!("{base}/cut-before"), &token, b"x").await;
    assert_eq!(answer.cause(), (502, Some(ErrorCode::UpstreamLost)));
    assert_eq!(node.seen().len(), 1, "it may have run, and ran at most once");
    let answer = get(&world, &format!("{base}/cut-before"), &token).await;
    assert_eq!(answer.cause(), (502, Some(ErrorCode::UpstreamLost)));
    assert_eq!(node.seen().len(), 1 + 3);
}

#[tokio::test]
async fn a_request_in_flight_outlives_every_link_that_carries_it() {
    let (world, node, base, token) = one().await;
    let mut socket = connect(world.gateway).await;
    let request = head("POST", &format!("{base}/echo"), &[("Authorization", &token), ("Transfer-Encoding", "chunked")]);
    write_all(&mut socket, &request.encode()).await.unwrap();
    let head = soon("a head", read_response(&mut socket, HEAD_MAX)).await.unwrap();
    assert_eq!((head.status, head.headers.get("landfast-attempts")), (200, Some("1")));
    let mut heard = Vec::new();
    for number in 0..3u8 {
        let links = node.dials().len();
        node.cut();
        socket.write_all(&[&b"64\r\n"[..], &[number; 100], b"\r\n"].concat()).await.unwrap();
        while heard.len() < 100 * (usize::from(number) + 1) {
            soon("the echo", read_part(&mut socket, &mut heard)).await;
        }
        assert!(node.dials().len() > links, "the link was lost");
    }
    assert_eq!(node.seen().len(), 1, "it ran once");
}

/// Reads what the next chunk of an answer holds.
async fn read_part(socket: &mut landfast_net::socket::Socket, into: &mut Vec<u8>) {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(socket.read_u8().await.unwrap());
    }
    let len = usize::from_str_radix(std::str::from_utf8(line.trim_ascii()).unwrap(), 16).unwrap();
    let mut chunk = vec![0; len + 2];
    socket.read_exact(&mut chunk).await.unwrap();
    into.extend_from_slice(&chunk[..len]);
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client() {
    let (world, node, base, token) = one().await;
    let mut socket = connect(world.gateway).await;
    let request = head("GET", &format!("{base}/half"), &[("Authorization", &token)]);
    write_all(&mut socket, &request.encode()).await.unwrap();
    let head = soon("a head", read_response(&mut socket, HEAD_MAX)).await.unwrap();
    assert_eq!((head.status, head.headers.get("content-length")), (200, Some("100")));
    soon("a beginning", socket.read_exact(&mut [0; 5])).await.unwrap();
    node.break_programs();
    let mut rest = Vec::new();
    // Ended or reset, it is no whole answer.
    let _ = soon("the end", socket.read_to_end(&mut rest)).await;
    assert_eq!((rest, node.seen().len()), (vec![], 1));
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let (world, node, base, token) = one().await;
    node.answers(Relay::Silence);
    let mut socket = connect(world.gateway).await;
    write_all(&mut socket, &head("GET", &base, &[("Authorization", &token)]).encode()).await.unwrap();
    until("the dial arrives", || node.connections() == 1).await;
    drop(socket);
    until("the dial is given up", || node.connections() == 0).await;
}

// --- what the registry knows ---

#[tokio::test]
async fn an_instance_is_found_in_the_moment_it_was_made() {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    for _ in 0..20 {
        let id = world.instance_at(&node).await;
        assert_eq!(get(&world, &format!("/i/{id}/80"), &bearer(&world.token(id))).await.cause(), (200, None));
    }
}

#[tokio::test]
async fn each_end_of_an_instance_is_told_by_its_name() {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let unknown = random::instance_id();
    let answer = get(&world, &format!("/i/{unknown}/80"), &bearer(&world.token(unknown))).await;
    assert_eq!(answer.cause(), (404, Some(ErrorCode::InstanceUnknown)));
    for (phase, status, code) in [
        (Phase::Stopped, 409, ErrorCode::InstanceStopped),
        (Phase::Failed, 502, ErrorCode::InstanceFailed),
        (Phase::Lost, 502, ErrorCode::InstanceLost),
        (Phase::Deleted, 410, ErrorCode::InstanceGone),
    ] {
        let id = world.instance_at(&node).await;
        world.phase(id, phase).await;
        let answer = get(&world, &format!("/i/{id}/80"), &bearer(&world.token(id))).await;
        assert_eq!(answer.cause(), (status, Some(code)), "{phase:?}");
    }
}

#[tokio::test]
async fn a_registry_that_is_away_takes_no_known_route_along() {
    let (over, faults) = veil();
    let world = World::over(over, |_| ()).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    assert_eq!(get(&world, &format!("/i/{id}/80"), &token).await.cause(), (200, None));
    faults.reads.store(true, Ordering::Relaxed);
    faults.watches.store(true, Ordering::Relaxed);
    assert_eq!(get(&world, &format!("/i/{id}/80"), &token).await.cause(), (200, None));
    let other = random::instance_id();
    let answer = get(&world, &format!("/i/{other}/80"), &bearer(&world.token(other))).await;
    assert_eq!(answer.cause(), (503, Some(ErrorCode::RegistryUnavailable)));
}

#[tokio::test]
async fn a_path_that_leads_nowhere_is_said_to() {
    let world = World::start().await;
    for (target, status, code) in [
        ("/", 404, ErrorCode::RequestNotFound),
        ("/i/nonsense/x", 400, ErrorCode::RequestInvalid),
        ("/i/ins_00000000000000000000000000/exec/../b", 400, ErrorCode::RequestInvalid),
    ] {
        let answer = send(world.gateway, head("GET", target, &[]), b"").await;
        assert_eq!(answer.cause(), (status, Some(code)), "{target}");
        assert!(answer.header("landfast-request-id").is_some());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
}

// --- the control plane ---

/// An API server that answers with what it was asked, once for each connection.
async fn api_server(world: &World) -> tokio::task::JoinHandle<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = ApiServer { address: listener.local_addr().unwrap().to_string() };
    world.put(&format!("{}one", keys::APIS), records::encode(&server).unwrap()).await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"END") {
            assert!(stream.read_buf(&mut asked).await.unwrap() > 0);
        }
        stream.write_all(b"HTTP/1.1 201 Created\r\nX-Made: yes\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        String::from_utf8(asked).unwrap()
    })
}

#[tokio::test]
async fn the_control_plane_is_reached_with_its_credentials_and_the_address_the_client_used() {
    let world = World::with(|config| config.public_url = Some("https://cell.test".into())).await;
    let refused = post(&world, "/v1/instances", "Bearer key", b"END").await;
    assert_eq!(refused.cause(), (503, Some(ErrorCode::RegistryUnavailable)));
    let server = api_server(&world).await;
    let answer = soon("the API server is known", async {
        loop {
            let answer = post(&world, "/v1/instances?x=1", "Bearer key", b"END").await;
            if answer.head.status != 503 {
                return answer;
            }
        }
    })
    .await;
    assert_eq!((answer.head.status, answer.header("x-made"), answer.body.as_slice()), (201, Some("yes"), &b"ok"[..]));
    let asked = server.await.unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("post /v1/instances?x=1 http/1.1\r\n"), "{asked}");
    for line in ["authorization: bearer key", "x-forwarded-host: cell.test", "x-forwarded-proto: https"] {
        assert!(asked.contains(&format!("\r\n{line}\r\n")), "{line} is missing: {asked}");
    }
}

// --- the connection ---

#[tokio::test]
async fn a_head_that_never_ends_is_refused_after_ten_seconds_and_an_idle_connection_only_ended() {
    let world = World::with(|config| config.idle_timeout_ms = 500).await;
    let (half, idle) = tokio::join!(send_bytes(world.gateway, b"GET / HTTP/1.1\r\nHost:"), async {
        let mut socket = connect(world.gateway).await;
        let mut heard = Vec::new();
        soon("the end", socket.read_to_end(&mut heard)).await.unwrap();
        heard
    });
    assert_eq!(half.cause(), (408, Some(ErrorCode::RequestTimeout)));
    assert_eq!(idle, b"");
}

#[tokio::test]
async fn more_connections_than_allowed_wait_for_one_to_end() {
    let world = World::with(|config| config.connections = 2).await;
    let (mut first, mut second) = (connect(world.gateway).await, connect(world.gateway).await);
    // A connection that the kernel has taken is not served yet: the workers take turns of their own.
    for socket in [&mut first, &mut second] {
        write_all(socket, &head("GET", "/livez", &[]).encode()).await.unwrap();
        assert_eq!(soon("an answer", read_response(socket, HEAD_MAX)).await.unwrap().status, 200);
    }
    let third = tokio::spawn(send(world.gateway, head("GET", "/livez", &[]), b""));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!third.is_finished());
    drop((first, second));
    assert_eq!(soon("its turn", third).await.unwrap().head.status, 200);
}

// --- a store that fails on command ---

#[derive(Default)]
struct Faults {
    reads: AtomicBool,
    watches: AtomicBool,
}

/// A store whose reads and watches can fail.
struct Veil {
    store: Arc<dyn Store>,
    faults: Arc<Faults>,
}

type Over = Box<dyn FnOnce(Arc<dyn Store>) -> Arc<dyn Store>>;

/// Draws a veil over a store, and gives what makes it fail.
fn veil() -> (Over, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let given = Arc::clone(&faults);
    (Box::new(move |store| Arc::new(Veil { store, faults: given })), faults)
}

fn away<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("it is away".into()))
}

impl Store for Veil {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        if self.faults.reads.load(Ordering::Relaxed) {
            return Box::pin(async { away() });
        }
        self.store.get(key)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.store.list(prefix)
    }

    fn page<'a>(&'a self, prefix: &'a str, after: &'a str, limit: usize) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.store.page(prefix, after, limit)
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Bytes,
        lease: Option<&'a LeaseId>,
    ) -> BoxFuture<'a, Result<Swap, StoreError>> {
        self.store.put(key, expect, value, lease)
    }

    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<Swap, StoreError>> {
        self.store.delete(key, expect)
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        self.store.grant(ttl)
    }

    fn renew<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), RenewError>> {
        self.store.renew(lease)
    }

    fn revoke<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.revoke(lease)
    }

    fn watch(&self, prefix: &str, from: Option<Revision>) -> Watch {
        Watch::new(VeiledWatch { watch: self.store.watch(prefix, from), faults: Arc::clone(&self.faults) })
    }
}

struct VeiledWatch {
    watch: Watch,
    faults: Arc<Faults>,
}

impl WatchSource for VeiledWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<WatchEvent, StoreError>> {
        Box::pin(async move {
            let event = self.watch.next().await;
            while self.faults.watches.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            event
        })
    }
}

/// The record a test would write by hand is the one the gateway reads.
#[tokio::test]
async fn a_generation_is_that_of_the_record() {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let mut written = record(random::instance_id(), &node);
    written.generation = Generation(7);
    records::create_instance(&*world.store, &written).await.unwrap();
    let answer = get(&world, &format!("/i/{}/80", written.id), &bearer(&world.token(written.id))).await;
    assert_eq!((answer.header("landfast-generation"), node.dials()), (Some("7"), vec![7]));
}
