//! Nodes: shown as they are, and drained on request.

use super::*;

#[tokio::test]
async fn a_drained_node_says_so_and_is_no_target_until_it_is_drained_no_more() {
    let api = Api::start().await;
    api.add_node("a", "h", "127.0.0.1:1").await;
    let instance = api.create_running(json!({})).await;
    let (b, lease) = api.add_node("b", "h", "127.0.0.1:2").await;
    let draining = async |name: &str| {
        let nodes = api.get("/v1/nodes").await.body;
        nodes["items"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap()["draining"].clone()
    };
    for named in ["b".to_owned(), b.to_string()] {
        assert_eq!(api.ask("PUT", &format!("/v1/nodes/{named}/drain"), Value::Null).await.status, 204);
    }
    assert_eq!((draining("a").await, draining("b").await), (json!(false), json!(true)));
    let path = format!("/v1/instances/{}/move", instance.id);
    api.post(&path, json!({"node": "b"})).await.refuses(ErrorCode::MoveRefused);
    api.post(&path, json!({})).await.refuses(ErrorCode::MoveRefused);
    assert_eq!(api.ask("DELETE", "/v1/nodes/b/drain", Value::Null).await.status, 204);
    assert_eq!(draining("b").await, false);
    assert_eq!(api.post(&path, json!({"node": "b"})).await.status, 202);

    api.ask("PUT", "/v1/nodes/b/drain", Value::Null).await;
    api.store.revoke(&lease).await.unwrap();
    for method in ["PUT", "DELETE"] {
        api.ask(method, "/v1/nodes/b/drain", Value::Null).await.refuses(ErrorCode::NodeUnknown);
    }
    assert_eq!(api.ask("DELETE", &format!("/v1/nodes/{b}/drain"), Value::Null).await.status, 204, "found by its id");
    assert!(records::drains(&*api.store).await.unwrap().is_empty());
}
