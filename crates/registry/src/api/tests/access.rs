//! Who may ask, and in which words.

use super::*;

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
        (r#"{"kind":"machine"}"#, "machine"),
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
    let router = router.layer(axum::middleware::from_fn(crate::api::refusal::guard));
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let credential = Credential::plain(CellKey::generate());
    let serving = tokio::spawn(crate::api::serve::serve(listener, credential, router, stop.clone()));
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
