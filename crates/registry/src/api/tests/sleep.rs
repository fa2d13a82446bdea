//! Sleep and waking, over the API. The test is the node.

use landfast_core::record::Desired;

use super::*;

/// Writes what the node writes that was asked to put an instance to sleep.
async fn fall_asleep(api: &Api, instance: &Instance) {
    let (node, generation) = (instance.node.unwrap(), instance.generation);
    until(api, instance.id, lifecycle::is_dozing).await;
    api.step(instance.id, |record| Ok(lifecycle::asleep(record, node, generation)?)).await;
}

#[tokio::test]
async fn an_instance_is_put_to_sleep_and_woken_where_its_files_are() {
    let api = Api::start().await;
    api.add_node("a", "h", "127.0.0.1:1").await;
    let instance = api.create_running(json!({})).await;
    api.add_node("b", "elsewhere", "127.0.0.1:2").await;
    let path = format!("/v1/instances/{}", instance.id);

    let asked = api.post(&format!("{path}/sleep"), Value::Null).await;
    assert_eq!(
        (asked.status, &asked.body["phase"], &asked.body["desired"]),
        (202, &json!("running"), &json!("sleeping"))
    );
    let target = format!("{path}/sleep?wait=60");
    let (asleep, ()) = tokio::join!(api.post(&target, Value::Null), fall_asleep(&api, &instance));
    assert_eq!((asleep.status, &asleep.body["phase"], &asleep.body["node"]), (200, &json!("sleeping"), &Value::Null));
    assert!(asleep.body["token"].is_string(), "whoever has a token can wake it");
    assert_eq!(api.get("/v1/instances?phase=sleeping").await.body["items"].as_array().unwrap().len(), 1);
    api.post(&format!("{path}/move"), Value::Null).await.refuses(ErrorCode::InstanceSleeping);

    let target = format!("{path}/wake?wait=60");
    let (awake, placed) = tokio::join!(api.post(&target, Value::Null), api.bring_up(instance.id));
    assert_eq!((awake.status, &awake.body["phase"], &awake.body["generation"]), (200, &json!("running"), &json!(2)));
    assert_eq!((placed.host.as_deref(), placed.node), (Some("h"), instance.node));
    assert_eq!(
        api.post(&format!("{path}/wake"), Value::Null).await.status,
        200,
        "waking what is awake changes nothing"
    );
}

#[tokio::test]
async fn any_number_of_callers_wake_an_instance_once() {
    let api = Api::start().await;
    api.add_node("a", "h", "127.0.0.1:1").await;
    let instance = api.create_running(json!({})).await;
    assert_eq!(records::wake(&*api.store, instance.id).await.unwrap(), instance, "it is awake");
    api.post(&format!("/v1/instances/{}/sleep", instance.id), Value::Null).await;
    fall_asleep(&api, &instance).await;
    let woken = join_all((0..8).map(|_| records::wake(&*api.store, instance.id))).await;
    assert!(woken.iter().all(|woken| woken.as_ref().is_ok_and(|instance| !lifecycle::is_dozing(instance))));
    assert_eq!(api.bring_up(instance.id).await.generation, Generation(2));
    let nobody = random::instance_id();
    assert_eq!(records::wake(&*api.store, nobody).await, Err(records::UpdateError::Unknown));
}

/// Waits until the record is as wished.
async fn until(api: &Api, id: InstanceId, is_so: impl Fn(&Instance) -> bool) {
    let mut watch = api.store.watch(&keys::instance(id), None);
    soon(async {
        while !is_so(&records::instance(&*api.store, id).await.unwrap().unwrap().0) {
            watch.next().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_call_to_the_agent_wakes_the_instance_as_often_as_somebody_puts_it_to_sleep() {
    let api = Api::start().await;
    let (_, lease) = api.add_node("a", "h", "127.0.0.1:1").await;
    let instance = api.create_running(json!({})).await;
    let id = instance.id;
    api.post(&format!("/v1/instances/{id}/sleep"), Value::Null).await;
    fall_asleep(&api, &instance).await;
    api.store.revoke(&lease).await.unwrap();
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let serve = async {
        // There is no node that it could wake on, so it can be put to sleep once more.
        until(&api, id, |record| record.reason.as_ref().is_some_and(|why| why.contains("No"))).await;
        api.step(id, |record| Ok(lifecycle::desire_sleeping(record)?)).await;
        until(&api, id, |record| record.desired == Desired::Running).await;
        api.add_node("b", "h", &relay.local_addr().unwrap().to_string()).await;
        let woken = api.bring_up(id).await;
        drop(relay.accept().await.unwrap());
        woken.generation
    };
    let target = format!("/v1/instances/{id}/exec");
    let generation = soon(async {
        tokio::select! {
            answer = api.post(&target, json!({"shell": "true"})) => panic!("{}", answer.body),
            generation = serve => generation,
        }
    })
    .await;
    assert_eq!(generation, Generation(2));
}

#[tokio::test]
async fn what_cannot_sleep_is_refused_with_the_reason() {
    let api = Api::start().await;
    let id = api.create(json!({})).await;
    let path = format!("/v1/instances/{id}");
    api.post(&format!("{path}/sleep"), Value::Null).await.refuses(ErrorCode::InstanceStarting);
    api.post(&format!("{path}/stop"), Value::Null).await;
    api.comes_to(id, Phase::Stopped).await;
    api.post(&format!("{path}/sleep"), Value::Null).await.refuses(ErrorCode::InstanceStopped);
    api.post(&format!("{path}/wake"), Value::Null).await.refuses(ErrorCode::InstanceStopped);
    let outside = api.create(json!({"spec": {"external": {"agent": "127.0.0.1:9"}}})).await;
    api.post(&format!("/v1/instances/{outside}/sleep"), Value::Null).await.refuses(ErrorCode::SleepRefused);
}

#[tokio::test]
async fn a_sleeping_instance_is_ended_without_being_woken() {
    let api = Api::start().await;
    api.add_node("a", "h", "127.0.0.1:1").await;
    let instance = api.create_running(json!({})).await;
    let path = format!("/v1/instances/{}", instance.id);
    api.post(&format!("{path}/sleep"), Value::Null).await;
    fall_asleep(&api, &instance).await;
    api.ask("DELETE", &path, Value::Null).await;
    let deleted = api.comes_to(instance.id, Phase::Deleted).await;
    assert_eq!((deleted.generation, deleted.host.as_deref()), (Generation(1), Some("h")));
}
