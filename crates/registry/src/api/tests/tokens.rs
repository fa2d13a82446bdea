//! Tokens and nodes.

use super::*;

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
