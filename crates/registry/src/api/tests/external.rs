//! Instances that somebody else runs: made, moved as announced, ended.

use super::*;

const OUTSIDE: &str =
    r#"{"spec": {"external": {"agent": "127.0.0.1:9"}, "services": {"web": {"address": "127.0.0.1:80"}}}}"#;

async fn outside(api: &Api) -> (InstanceId, String) {
    let id = api.create(serde_json::from_str(OUTSIDE).unwrap()).await;
    (id, format!("/v1/instances/{id}"))
}

#[tokio::test]
async fn an_external_instance_runs_from_its_creation_on_no_node_and_is_never_placed() {
    let api = Api::start().await;
    api.add_node("a", "h", "127.0.0.1:1").await;
    let (id, path) = outside(&api).await;
    let shown = api.get(&path).await.body;
    assert_eq!((&shown["phase"], &shown["generation"], &shown["node"]), (&json!("running"), &json!(1), &Value::Null));
    let other = api.create(json!({})).await;
    api.comes_to(other, Phase::Starting).await;
    let (record, _) = records::instance(&*api.store, id).await.unwrap().unwrap();
    assert_eq!((record.phase, record.address.as_deref()), (Phase::Running, Some("127.0.0.1:9")));
}

#[tokio::test]
async fn its_platform_moves_it_in_two_steps() {
    let api = Api::start().await;
    let (id, path) = outside(&api).await;
    api.post(&format!("{path}/move/commit"), json!({})).await.refuses(ErrorCode::MoveRefused);
    let begun = api.post(&format!("{path}/move/begin"), Value::Null).await;
    assert_eq!((begun.status, &begun.body["phase"], &begun.body["move"]), (200, &json!("moving"), &Value::Null));
    assert_eq!(api.post(&format!("{path}/move/begin"), Value::Null).await.status, 200, "announced again");
    let unknown = json!({"services": {"db": "127.0.0.1:81"}});
    api.post(&format!("{path}/move/commit"), unknown).await.refuses(ErrorCode::ServiceUnknown);
    let bad = api.post(&format!("{path}/move/commit"), json!({"services": {"web": "nowhere"}})).await;
    assert!(bad.refuses(ErrorCode::RequestInvalid).contains("services.web is host:port"));
    let to = json!({"agent": "127.0.0.2:9", "services": {"web": "127.0.0.2:80"}});
    let moved = api.post(&format!("{path}/move/commit"), to).await.body;
    assert_eq!((&moved["phase"], &moved["generation"]), (&json!("running"), &json!(2)));
    assert_eq!(moved["spec"]["external"]["agent"], "127.0.0.2:9");
    assert_eq!(moved["spec"]["services"]["web"]["address"], "127.0.0.2:80");
    let (record, _) = records::instance(&*api.store, id).await.unwrap().unwrap();
    assert_eq!(record.address.as_deref(), Some("127.0.0.2:9"));
}

#[tokio::test]
async fn a_move_that_was_called_off_changes_nothing() {
    let api = Api::start().await;
    let (_, path) = outside(&api).await;
    api.post(&format!("{path}/move/abort"), Value::Null).await.refuses(ErrorCode::MoveRefused);
    api.post(&format!("{path}/move/begin"), Value::Null).await;
    let shown = api.post(&format!("{path}/move/abort"), Value::Null).await.body;
    assert_eq!((&shown["phase"], &shown["generation"]), (&json!("running"), &json!(1)));
    assert!(shown["reason"].as_str().unwrap().contains("called the move off"));
}

#[tokio::test]
async fn each_kind_of_instance_has_its_own_way_to_move() {
    let api = Api::start().await;
    api.add_node("a", "h", "127.0.0.1:1").await;
    let ours = api.create_running(json!({})).await.id;
    for verb in ["begin", "commit", "abort"] {
        let answer = api.post(&format!("/v1/instances/{ours}/move/{verb}"), json!({})).await;
        assert!(answer.refuses(ErrorCode::MoveRefused).contains("not external"));
    }
    let (_, path) = outside(&api).await;
    let answer = api.post(&format!("{path}/move"), Value::Null).await;
    assert!(answer.refuses(ErrorCode::MoveRefused).contains("move/begin"));
}

#[tokio::test]
async fn it_is_stopped_and_deleted_at_once_because_no_node_will() {
    let api = Api::start().await;
    let (_, path) = outside(&api).await;
    api.post(&format!("{path}/move/begin"), Value::Null).await;
    for _ in 0..2 {
        let stopped = api.post(&format!("{path}/stop"), Value::Null).await.body;
        assert_eq!((&stopped["phase"], &stopped["token"]), (&json!("stopped"), &Value::Null));
    }
    let deleted = api.ask("DELETE", &path, Value::Null).await.body;
    assert_eq!(deleted["phase"], "deleted");
    api.post(&format!("{path}/move/begin"), Value::Null).await.refuses(ErrorCode::InstanceGone);
}

#[tokio::test]
async fn calls_to_an_agent_that_it_does_not_have_are_refused_at_once() {
    let api = Api::start().await;
    let spec = json!({"external": {}, "services": {"web": {"address": "127.0.0.1:80"}}});
    let id = api.create(json!({"spec": spec})).await;
    let answer = api.post(&format!("/v1/instances/{id}/exec"), json!({"shell": "true"})).await;
    assert!(answer.refuses(ErrorCode::UpstreamRefused).contains("no agent"));
}
