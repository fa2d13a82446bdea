//! Calls to the agent: at most once, and none that cannot end well.

use super::*;

/// A relay that answers each connection as told: with a refusal, or as the agent.
pub(super) struct Peer {
    listener: TcpListener,
    cell: Arc<Cell>,
}

impl Peer {
    /// Puts an instance where this peer is.
    pub(super) async fn with_instance(api: &Api) -> (Self, Instance) {
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

    /// Refuses the next connection as a relay.
    pub(super) async fn refuse(&self, instance: &Instance, code: ErrorCode) {
        let mut socket = self.accept(instance).await;
        relay::refuse(&mut socket, code, None).await.unwrap();
    }

    /// Answers the next call as an agent, and returns the call's head.
    pub(super) async fn answer(&self, instance: &Instance, answer: &str) -> head::RequestHead {
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

#[tokio::test]
async fn files_are_carried_as_they_come_with_what_is_asked_of_them() {
    let api = Api::start().await;
    let (peer, instance) = Peer::with_instance(&api).await;
    let path = format!("/v1/instances/{}/files/content?path=%2Ftmp%2Fa&follow=true", instance.id);
    let part = "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 1-2/5\r\ncontent-length: 2\r\n\r\nel";
    let headers = [("range", "bytes=1-2"), ("if-range", "\"x\"")];
    let (got, sent) = tokio::join!(api.ask_with("GET", &path, &headers, String::new()), peer.answer(&instance, part));
    assert_eq!(
        (got.status, &got.body, got.headers["content-range"].to_str().unwrap()),
        (206, &json!("el"), "bytes 1-2/5")
    );
    assert_eq!(sent.target, "/files/content?path=%2Ftmp%2Fa&follow=true");
    assert_eq!((sent.headers.get("range"), sent.headers.get("if-range")), (Some("bytes=1-2"), Some("\"x\"")));
    // More than is held of any other call.
    let large = "x".repeat(16 * 1024 * 1024 + 1);
    let taking = async {
        let mut socket = peer.accept(&instance).await;
        relay::accept(&mut socket).await.unwrap();
        let head = head::read_request(&mut socket, 65_536).await.unwrap();
        let mut body = vec![0; large.len()];
        socket.read_exact(&mut body).await.unwrap();
        socket.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        head
    };
    let (got, sent) = tokio::join!(api.ask_with("PUT", &path, &[("if-none-match", "*")], large.clone()), taking);
    assert_eq!((got.status, sent.headers.get("if-none-match")), (201, Some("*")));
    assert_eq!(sent.headers.get("content-length"), Some(&*large.len().to_string()));
}

#[tokio::test]
async fn a_browsers_lists_lead_to_the_data_plane_and_services_are_served() {
    let api = Api::start().await;
    let (peer, instance) = Peer::with_instance(&api).await;
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let target = format!("/v1/instances/{}/json/version", instance.id);
    let headers = [("host", "cell.example"), ("x-forwarded-proto", "https")];
    let (got, sent) =
        tokio::join!(api.ask_with("GET", &target, &headers, String::new()), peer.answer(&instance, answer));
    assert_eq!((got.status, sent.target.as_str()), (200, "/json/version"));
    let public = format!("/i/{}", instance.id);
    assert!(sent.headers.get("landfast-public-url").unwrap().ends_with(&public));
    let token = sent.headers.get("landfast-public-query").unwrap().strip_prefix("token=").unwrap().to_owned();
    assert!(token.split('.').count() == 3, "an access token: {token}");
    for (method, path) in [("GET", "services"), ("POST", "services/web/restart"), ("GET", "json")] {
        let target = format!("/v1/instances/{}/{path}", instance.id);
        let (got, sent) =
            tokio::join!(api.ask_with(method, &target, &[], String::new()), peer.answer(&instance, answer));
        assert_eq!((got.status, sent.target), (200, format!("/{path}")));
    }
}
