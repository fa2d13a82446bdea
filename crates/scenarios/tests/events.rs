//! What happens in an instance is told, kept, and read again after the instance's end.

use landfast_client::{Client, Events, Said, Since};
use landfast_core::{ErrorCode, InstanceId};
use landfast_scenarios::cell::{Cell, eventually};
use landfast_scenarios::instance::Instance;
use serde_json::{Value, json};

fn client(cell: &Cell) -> Client {
    Client::new(&format!("http://{}", cell.operator.address), &cell.operator.key).unwrap()
}

fn id(instance: &Instance) -> InstanceId {
    instance.id.parse().unwrap()
}

async fn say(instance: &Instance, n: u64) -> Value {
    let said = json!({"type": "mine", "data": {"n": n, "text": "ä\n\"x\""}});
    let answer = instance.ask("POST", "/telemetry/events", Some(&said)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Everything that was stored, as the control plane tells it.
async fn stored(cell: &Cell, instance: &Instance, query: &str) -> Vec<Value> {
    let (mut all, mut offset) = (Vec::new(), "0".to_owned());
    loop {
        let target = format!("/v1/instances/{}/telemetry/events?{query}&offset={offset}", instance.id);
        let answer = cell.operator.ask("GET", &target, None).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        all.extend(answer.json().as_array().unwrap().iter().cloned());
        offset = answer.header("x-next-offset").unwrap().to_owned();
        if offset == "0" {
            return all;
        }
    }
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|said| said["event"]["type"].as_str().unwrap()).collect()
}

/// The next event of a type; and whether a gap came before it.
async fn next(events: &mut Events, kind: &str) -> (Value, bool) {
    let mut is_after_gap = false;
    loop {
        match events.next().await.unwrap() {
            Said::Event(envelope) if envelope.event.kind == kind => {
                return (serde_json::to_value(envelope).unwrap(), is_after_gap);
            }
            Said::Event(_) => {}
            Said::Gap(_) => is_after_gap = true,
        }
    }
}

#[tokio::test]
async fn after_its_end_the_archive_returns_exactly_what_was_stored() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    for n in 0..25 {
        say(&instance, n).await;
    }
    instance.ask("POST", "/exec", Some(&json!({"argv": ["true"]}))).await;
    let live = stored(&cell, &instance, "limit=7").await;
    assert_eq!(kinds(&live).iter().filter(|kind| **kind == "mine").count(), 25);
    instance.is_deleted().await;
    instance.comes_to("deleted").await;
    let kept = stored(&cell, &instance, "limit=9").await;
    assert_eq!(kept[..live.len()], live[..], "what was read while it lived");
    assert!(kept.iter().map(|said| said["seq"].as_u64().unwrap()).eq(1..=kept.len() as u64), "and no hole");
    assert!(kinds(&kept).contains(&"instance_stopping"), "{:?}", kinds(&kept));
    eventually("its directory is gone", async || {
        (!cell.dir().join("instances").join(&instance.id).exists()).then_some(())
    })
    .await;
    assert_eq!(stored(&cell, &instance, "").await, kept);
    let newest_first: Vec<Value> = stored(&cell, &instance, "limit=3&order=desc").await.into_iter().rev().collect();
    assert_eq!(newest_first, kept);
}

#[tokio::test]
async fn a_read_at_any_moment_of_a_deletion_is_answered() {
    let cell = Cell::start().await;
    for _ in 0..3 {
        let instance = cell.create().await;
        let said = say(&instance, 1).await;
        let reading = async {
            // Until its record says so, and then once more.
            loop {
                let is_over = instance.record().await["phase"] == "deleted";
                assert_eq!(stored(&cell, &instance, "type=mine").await, std::slice::from_ref(&said));
                if is_over {
                    return;
                }
            }
        };
        tokio::join!(instance.is_deleted(), reading);
    }
}

#[tokio::test]
async fn an_instance_that_began_anew_on_another_host_has_its_events_of_both() {
    let mut cell = Cell::start().await;
    let instance = cell.create_with(&json!({"spec": {"restart": "always"}})).await;
    let first = say(&instance, 1).await;
    let archive = cell.dir().join("archive/events").join(&instance.id);
    eventually("it is archived", async || {
        let files = std::fs::read_dir(&archive).ok()?;
        let text: String = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok()).collect();
        text.contains("\"mine\"").then_some(())
    })
    .await;
    cell.add_host("b").await;
    cell.node("a").role.kill().await;
    instance.kill_agent();
    eventually("it runs on the other host", async || {
        let record = instance.record().await;
        (record["phase"] == "running" && record["generation"].as_u64() > Some(1)).then_some(())
    })
    .await;
    assert_eq!(cell.node_of(&instance).await.name, "b");
    let second = say(&instance, 2).await;
    for limit in [1, 3, 100] {
        let oldest_first = stored(&cell, &instance, &format!("type=mine&limit={limit}")).await;
        assert_eq!(oldest_first, [first.clone(), second.clone()], "{limit}");
        let newest_first = stored(&cell, &instance, &format!("type=mine&order=desc&limit={limit}")).await;
        assert_eq!(newest_first, [second.clone(), first.clone()], "{limit}");
    }
}

#[tokio::test]
async fn what_is_sealed_is_in_the_archive_within_seconds_while_the_instance_lives() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let said = say(&instance, 7).await;
    let archive = cell.dir().join("archive/events").join(&instance.id);
    eventually("it is archived", async || {
        let files = std::fs::read_dir(&archive).ok()?;
        let text: String = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok()).collect();
        text.lines().any(|line| serde_json::from_str::<Value>(line).unwrap() == said).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_reader_goes_on_over_the_death_of_the_agent_and_learns_that_there_is_a_gap() {
    let cell = Cell::start().await;
    let instance = cell.create_with(&json!({"spec": {"restart": "always"}})).await;
    let mut events = client(&cell).events(id(&instance), &[], Since::Oldest);
    let (first, is_after_gap) = next(&mut events, "instance_started").await;
    assert!(!is_after_gap && first["event"]["data"]["generation"] == 1);
    say(&instance, 1).await;
    next(&mut events, "mine").await;
    eventually("it is on disk", async || {
        let files = std::fs::read_dir(cell.dir().join("instances").join(&instance.id).join("state/events")).ok()?;
        let text: String = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok()).collect();
        text.contains("\"mine\"").then_some(())
    })
    .await;
    instance.kill_agent();
    let (again, is_after_gap) = next(&mut events, "instance_started").await;
    assert!(is_after_gap && again["event"]["data"]["generation"] == 2, "{again}");
    say(&instance, 2).await;
    let (said, is_after_gap) = next(&mut events, "mine").await;
    assert!(!is_after_gap && said["event"]["data"]["n"] == 2);
    let mine: Vec<Value> = stored(&cell, &instance, "type=mine").await;
    assert_eq!(mine.iter().map(|said| said["event"]["data"]["n"].clone()).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_reader_whose_connections_are_cut_misses_nothing() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut events = client(&cell).events(id(&instance), &["mine".to_owned()], Since::Now);
    // It is there once something that was said has come.
    let mut n = 0;
    let first = loop {
        say(&instance, n).await;
        n += 1;
        match tokio::time::timeout(std::time::Duration::from_millis(300), next(&mut events, "mine")).await {
            Ok((said, _)) => break said["event"]["data"]["n"].as_u64().unwrap(),
            Err(_) => assert!(n < 100, "nothing comes"),
        }
    };
    for expected in first + 1..n {
        assert_eq!(next(&mut events, "mine").await.0["event"]["data"]["n"], expected);
    }
    for round in n..n + 5 {
        cell.downstream.cut();
        say(&instance, round).await;
        let (said, is_after_gap) = next(&mut events, "mine").await;
        assert!(!is_after_gap && said["event"]["data"]["n"] == round, "{said}");
    }
}

#[tokio::test]
async fn to_read_what_happened_wakes_nobody() {
    let cell = Cell::start().await;
    let service = json!({"shell": "sleep 1000", "port": 1});
    let instance = cell.create_with(&json!({"kind": "actor", "spec": {"services": {"web": service}}})).await;
    let said = say(&instance, 1).await;
    instance.demand("sleep?wait=30", &json!({})).await;
    instance.comes_to("sleeping").await;
    assert_eq!(stored(&cell, &instance, "type=mine").await, [said]);
    for path in ["telemetry/stream?replay=all", "services/web/output?follow=true"] {
        let refused = instance.ask("GET", &format!("/{path}"), None).await;
        assert_eq!(refused.refusal(), (409, "instance.sleeping".to_owned()), "{path}");
        let path = path.replace("?follow=true", "");
        let target = format!("/v1/instances/{}/{path}", instance.id);
        let refused = cell.operator.ask("GET", &target, None).await;
        assert_eq!(refused.refusal(), (409, "instance.sleeping".to_owned()), "{path}");
    }
    let services = client(&cell).services(id(&instance)).await.unwrap_err();
    assert_eq!(services.code(), Some(ErrorCode::InstanceSleeping));
    assert_eq!(instance.record().await["phase"], "sleeping");
}

#[tokio::test]
async fn the_control_plane_forwards_the_stream_and_what_the_browser_is_watched_for() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let target = format!("/v1/instances/{}/telemetry", instance.id);
    let wanted = json!({"console": true, "network": false, "page": false});
    assert_eq!(cell.operator.demand("PUT", &target, Some(&json!({"console": true}))).await, wanted);
    assert_eq!(cell.operator.demand("GET", &target, None).await, wanted);
    let said = cell.operator.demand("POST", &format!("{target}/events"), Some(&json!({"type": "x"}))).await;
    assert_eq!(stored(&cell, &instance, "type=x").await, [said]);
    // A token that is only for processes does not open events.
    let token = cell.operator.token(&instance.id, &json!({"scopes": ["process"]})).await;
    let limited = Instance { token: token.text, ..instance.clone() };
    assert_eq!(limited.ask("GET", "/telemetry", None).await.refusal(), (403, "auth.forbidden".to_owned()));
    let token = cell.operator.token(&instance.id, &json!({"scopes": ["telemetry"]})).await;
    let limited = Instance { token: token.text, ..instance.clone() };
    assert_eq!(limited.ask("GET", "/telemetry", None).await.status, 200);
    assert_eq!(limited.ask("GET", "/processes", None).await.refusal(), (403, "auth.forbidden".to_owned()));
}
