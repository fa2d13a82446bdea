//! Moves: asked for, carried out by two nodes, refused.

use super::*;

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
