//! Instances: created once, found again, ended on request.

use super::*;

#[tokio::test]
async fn a_new_browser_is_shown_with_the_way_to_its_cdp() {
    let api = Api::start().await;
    let shown = api.post("/v1/instances", json!({"kind": "browser"})).await.body;
    let (id, token) = (shown["id"].as_str().unwrap(), shown["token"].as_str().unwrap());
    assert_eq!(shown["cdp_url"], format!("ws://api.test/i/{id}/cdp?token={token}"));
    assert_eq!(shown["spec"]["browser"], json!({"flags": []}));
}

#[tokio::test]
async fn a_new_instance_is_shown_with_the_way_to_it() {
    let api = Api::start().await;
    let wish = json!({"spec": {"restart": "always", "env": {"A": "b"}}, "labels": {"team": "blue"}});
    let forwarded = [("x-forwarded-host", "cell.example:8443"), ("x-forwarded-proto", "https")];
    let answer = api.ask_with("POST", "/v1/instances", &forwarded, wish.to_string()).await;
    let (id, shown) = (answer.id(), &answer.body);
    assert_eq!(answer.status, 201);
    assert_eq!(answer.headers["location"], format!("/v1/instances/{id}").as_str());
    assert_eq!(shown["base_url"], format!("https://cell.example:8443/i/{id}"));
    assert_eq!(
        (&shown["kind"], &shown["desired"], &shown["labels"]["team"]),
        (&json!("sandbox"), &json!("running"), &json!("blue"))
    );
    let spec = json!({
        "restart": "always", "network": "auto", "env": {"A": "b"}, "node_labels": {}, "services": {},
        "idle_timeout": null, "limits": {"rate": null, "in_flight": null, "sessions": null}, "external": null,
        "browser": null,
    });
    assert_eq!((&shown["spec"], &shown["cdp_url"]), (&spec, &json!(null)));

    let verifier = Verifier::load(&*api.store).await.unwrap();
    let now = clock::unix_millis() / 1000;
    let claims = verifier.verify(shown["token"].as_str().unwrap(), now).unwrap();
    assert!(claims.ins == id && claims.scopes == [Scope::All] && claims.exp.abs_diff(now + 3600) <= 2);
    assert_eq!(shown["token_expires_at"], claims.exp * 1000);

    let read = api.get(&format!("/v1/instances/{id}")).await;
    assert_eq!((read.status, &read.body["spec"]), (200, &spec));
    assert_eq!(read.body["base_url"], format!("http://api.test/i/{id}"));
}

#[tokio::test]
async fn what_an_instance_cannot_be_is_refused_with_the_fields_name() {
    let api = Api::start().await;
    for (wish, field) in [
        (json!({"kind": "actor"}), "spec.services"),
        (json!({"spec": {"services": {"web": {"port": 80}}}}), "spec.services.web"),
        (json!({"spec": {"services": {"agent": {"shell": "a", "port": 80}}}}), "agent"),
        (json!({"spec": {"env": {"": "b"}}}), "spec.env"),
        (json!({"labels": {"a=b": "c"}}), "labels"),
    ] {
        let answer = api.post("/v1/instances", wish).await;
        assert!(answer.refuses(ErrorCode::RequestInvalid).contains(field), "{}", answer.body);
    }
    let actor = json!({"kind": "actor", "spec": {"idle_timeout": 60, "services": {"web": {"shell": "a", "port": 80}}}});
    let shown = api.post("/v1/instances", actor).await.body;
    assert_eq!((&shown["kind"], &shown["spec"]["idle_timeout"]), (&json!("actor"), &json!(60)));
    assert_eq!(shown["spec"]["services"]["web"]["ready"], json!({"path": null, "within": 60}));
}

#[tokio::test]
async fn an_instance_that_no_node_takes_says_why_until_one_does() {
    let api = Api::start().await;
    let id = api.create(json!({"spec": {"node_labels": {"gpu": "yes"}}})).await;
    api.add_node("a", "h", "127.0.0.1:1").await;
    let mut watch = api.store.watch(&keys::instance(id), None);
    let why = soon(async {
        loop {
            watch.next().await.unwrap();
            let shown = api.get(&format!("/v1/instances/{id}")).await.body;
            if let Some(why) = shown["reason"].as_str() {
                assert_eq!(shown["phase"], "pending");
                return why.to_owned();
            }
        }
    })
    .await;
    assert!(why.contains("label") || why.contains("No node is live"), "{why}");
    let id = api.create(json!({})).await;
    assert_eq!(api.comes_to(id, Phase::Starting).await.reason, None);
}

#[tokio::test]
async fn the_public_url_of_the_configuration_comes_first() {
    let config = Config { public_url: Some("https://my.example/cell/".to_owned()), ..Config::default() };
    let api = Api::start_with(config).await;
    let answer = api.ask_with("POST", "/v1/instances", &[("x-forwarded-host", "other")], String::new()).await;
    assert_eq!(answer.body["base_url"], format!("https://my.example/cell/i/{}", answer.id()));
}

#[tokio::test]
async fn a_create_that_waits_answers_once_the_instance_runs() {
    let api = Api::start().await;
    api.add_node("a", "h", "127.0.0.1:1").await;
    let wait = api.post("/v1/instances?wait=60", json!({"labels": {"mine": "yes"}}));
    let bring_up = async {
        let mut watch = api.store.watch(keys::INSTANCES, None);
        snapshot(&mut watch).await;
        let WatchEvent::Changes(changes) = soon(watch.next()).await.unwrap() else { panic!("a change is due") };
        let id = changes[0].key.strip_prefix(keys::INSTANCES).unwrap().parse().unwrap();
        api.bring_up(id).await
    };
    let (answer, running) = tokio::join!(wait, bring_up);
    assert_eq!((answer.status, answer.id()), (201, running.id));
    assert_eq!((&answer.body["phase"], &answer.body["generation"]), (&json!("running"), &json!(1)));
}

#[tokio::test]
async fn a_create_that_waits_answers_when_the_instance_ends_and_when_the_time_is_up() {
    let api = Api::start().await;
    let answer = api.post("/v1/instances?wait=1", json!({})).await;
    assert_eq!((answer.status, &answer.body["phase"]), (201, &json!("pending")));
    let id = answer.id();
    let headers = [("idempotency-key", "k")];
    let wish = json!({"labels": {"n": "2"}}).to_string();
    let id_2 = api.ask_with("POST", "/v1/instances", &headers, wish.clone()).await.id();
    let wait = api.ask_with("POST", "/v1/instances?wait=60", &headers, wish);
    let stop = format!("/v1/instances/{id_2}/stop");
    let (answer, stopped) = tokio::join!(wait, api.post(&stop, Value::Null));
    assert_eq!((stopped.status, answer.id()), (200, id_2));
    assert_eq!((&answer.body["phase"], &answer.body["token"]), (&json!("stopped"), &Value::Null));
    assert_ne!(id, id_2);
}

#[tokio::test]
async fn a_stopping_server_does_not_let_waiting_requests_hang() {
    let api = Api::start().await;
    let wait = api.post("/v1/instances?wait=60", json!({}));
    let stop = async {
        let mut watch = api.store.watch(keys::INSTANCES, None);
        while snapshot(&mut watch).await.entries.is_empty() {
            soon(watch.next()).await.unwrap();
            watch = api.store.watch(keys::INSTANCES, None);
        }
        api.stop.cancel();
    };
    let (answer, ()) = soon(async { tokio::join!(wait, stop) }).await;
    assert_eq!((answer.status, &answer.body["phase"]), (201, &json!("pending")));
}

#[tokio::test]
async fn requests_with_one_idempotency_key_make_one_instance() {
    let api = Api::start().await;
    let headers = [("idempotency-key", "once")];
    let send = || api.ask_with("POST", "/v1/instances", &headers, r#"{"labels":{"a":"1","b":"2"}}"#.to_owned());
    let answers = join_all((0..8).map(|_| send())).await;
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.id() == answers[0].id()));
    let same = r#"{ "labels": {"b":"2", "a":"1"}, "spec": {} }"#.to_owned();
    assert_eq!(api.ask_with("POST", "/v1/instances", &headers, same).await.id(), answers[0].id());
    assert_eq!(api.get("/v1/instances").await.body["items"].as_array().unwrap().len(), 1);
    let other = api.ask_with("POST", "/v1/instances", &headers, "{}".to_owned()).await;
    other.refuses(ErrorCode::RequestKeyReused);
    let next = api.ask_with("POST", "/v1/instances", &[("idempotency-key", "twice")], "{}".to_owned()).await;
    assert_ne!(next.id(), answers[0].id());
}

#[tokio::test]
async fn a_claim_without_its_instance_is_completed_by_the_next_attempt() {
    let api = Api::start().await;
    let headers = [("idempotency-key", "k")];
    let first = api.ask_with("POST", "/v1/instances", &headers, String::new()).await.id();
    // As if the first server had died between its two writes.
    let (_, revision) = records::instance(&*api.store, first).await.unwrap().unwrap();
    api.store.delete(&keys::instance(first), Expect::Revision(revision)).await.unwrap();
    let again = api.ask_with("POST", "/v1/instances", &headers, String::new()).await;
    assert_eq!((again.status, again.id()), (201, first));
}

#[tokio::test]
async fn a_key_that_is_no_key_is_refused() {
    let api = Api::start().await;
    let long = "k".repeat(256);
    for headers in [
        &[("idempotency-key", "")][..],
        &[("idempotency-key", &long)],
        &[("idempotency-key", "a"), ("idempotency-key", "b")],
    ] {
        let answer = api.ask_with("POST", "/v1/instances", headers, String::new()).await;
        assert!(answer.refuses(ErrorCode::RequestInvalid).contains("Idempotency-Key"));
    }
}

#[tokio::test]
async fn pages_of_a_list_hold_every_instance_once_and_in_order() {
    let api = Api::start().await;
    let mut ids = Vec::new();
    for number in 0..7 {
        ids.push(api.create(json!({"labels": {"n": number.to_string()}})).await.to_string());
    }
    ids.sort();
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/instances?limit=3{cursor}")).await.body;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        found.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, ids);
}

#[tokio::test]
async fn a_list_is_narrowed_by_label_and_phase_and_hides_the_deleted() {
    let api = Api::start().await;
    let a = api.create(json!({"labels": {"team": "blue", "stage": "x"}})).await;
    let b = api.create(json!({"labels": {"team": "blue"}})).await;
    let c = api.create(json!({"labels": {"team": "red"}})).await;
    api.ask("DELETE", &format!("/v1/instances/{c}"), Value::Null).await;
    api.comes_to(c, Phase::Deleted).await;
    api.post(&format!("/v1/instances/{b}/stop"), Value::Null).await;
    api.comes_to(b, Phase::Stopped).await;
    for (query, expected) in [
        ("", vec![a, b]),
        ("?label=team=blue", vec![a, b]),
        ("?label=team=blue&label=stage=x", vec![a]),
        ("?label=team=green", vec![]),
        ("?phase=deleted", vec![c]),
        ("?phase=stopped&phase=deleted", vec![b, c]),
        ("?phase=pending&label=team%3Dblue", vec![a]),
    ] {
        let page = api.get(&format!("/v1/instances{query}")).await.body;
        let found: Vec<InstanceId> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(found, expected, "{query}");
        assert_eq!(page["next_cursor"], Value::Null);
    }
}

#[tokio::test]
async fn an_instance_is_stopped_and_deleted_on_request() {
    let api = Api::start().await;
    let id = api.create(json!({})).await;
    let path = format!("/v1/instances/{id}");
    let stopped = api.post(&format!("{path}/stop"), Value::Null).await;
    assert_eq!((stopped.status, &stopped.body["desired"]), (200, &json!("stopped")));
    api.comes_to(id, Phase::Stopped).await;
    assert_eq!(api.post(&format!("{path}/stop"), Value::Null).await.status, 200, "asking again changes nothing");
    assert_eq!(api.ask("DELETE", &path, Value::Null).await.body["desired"], "deleted");
    api.comes_to(id, Phase::Deleted).await;
    let tombstone = api.get(&path).await;
    assert_eq!(
        (tombstone.status, &tombstone.body["phase"], &tombstone.body["token"]),
        (200, &json!("deleted"), &Value::Null)
    );
    api.ask("DELETE", &path, Value::Null).await.refuses(ErrorCode::InstanceGone);
    api.post(&format!("{path}/stop"), Value::Null).await.refuses(ErrorCode::InstanceGone);
    api.post(&format!("{path}/tokens"), Value::Null).await.refuses(ErrorCode::InstanceGone);
    api.post(&format!("{path}/move"), Value::Null).await.refuses(ErrorCode::InstanceGone);
}

#[tokio::test]
async fn an_instance_that_is_about_to_end_is_shown_without_a_way_in() {
    let api = Api::start().await;
    api.add_node("a", "h", "127.0.0.1:1").await;
    for (method, end) in [("DELETE", ""), ("POST", "/stop")] {
        let id = api.create_running(json!({})).await.id;
        let path = format!("/v1/instances/{id}");
        assert!(api.get(&path).await.body["token"].is_string());
        api.ask(method, &format!("{path}{end}"), Value::Null).await;
        let shown = api.get(&path).await.body;
        assert_eq!((&shown["phase"], &shown["token"]), (&json!("running"), &Value::Null));
        assert_eq!(shown["token_expires_at"], Value::Null);
    }
}

#[tokio::test]
async fn an_instance_that_never_was_is_unknown() {
    let api = Api::start().await;
    for id in
        [random::instance_id().to_string(), "ins_short".to_owned(), random::node_id().to_string(), "%41".to_owned()]
    {
        let path = format!("/v1/instances/{id}");
        api.get(&path).await.refuses(ErrorCode::InstanceUnknown);
        api.ask("DELETE", &path, Value::Null).await.refuses(ErrorCode::InstanceUnknown);
        for verb in ["stop", "move", "tokens", "exec", "processes"] {
            api.post(&format!("{path}/{verb}"), json!({})).await.refuses(ErrorCode::InstanceUnknown);
        }
    }
}
