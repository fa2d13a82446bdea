//! Kernel's surface of the control plane, where it does not take a node to see it.

use super::*;

impl Api {
    /// A second server of the same cell.
    async fn second(&self) -> Self {
        let stop = CancellationToken::new();
        let running =
            start(Config::default(), self.cell.clone(), self.cell.store().unwrap(), stop.clone()).await.unwrap();
        Self {
            running,
            cell: self.cell.clone(),
            store: self.store.clone(),
            stop,
            description: self.description.clone(),
            _dir: tempfile::tempdir().unwrap(),
        }
    }

    async fn live_browsers(&self) -> usize {
        let all = records::instances(&*self.store).await.unwrap();
        let is_live = |instance: &Instance| {
            !instance.phase.is_end() && instance.desired == landfast_core::record::Desired::Running
        };
        all.iter().filter(|(instance, _)| is_live(instance)).count()
    }
}

#[tokio::test]
async fn servers_that_fill_a_pool_at_once_never_make_too_many() {
    let api = Api::start().await;
    let second = api.second().await;
    let pool = api.post("/browser_pools", json!({"size": 3, "name": "pool"})).await;
    assert_eq!(pool.status, 200, "{}", pool.body);
    assert_eq!(api.live_browsers().await, 3);
    for _ in 0..3 {
        let flushes = [&api, &second, &api, &second].map(|api| api.post("/browser_pools/pool/flush", json!({})));
        for answer in join_all(flushes).await {
            assert!(matches!(answer.status, 204 | 409), "{}", answer.body);
        }
        assert!(api.live_browsers().await <= 3);
    }
    soon(async {
        while api.live_browsers().await != 3 {
            second.post("/browser_pools/pool/flush", json!({})).await;
        }
    })
    .await;
    let pool = second.get("/browser_pools/pool").await;
    assert_eq!((&pool.body["browser_pool_config"]["size"], &pool.body["available_count"]), (&json!(3), &json!(0)));
    assert_eq!(api.ask("DELETE", "/browser_pools/pool", Value::Null).await.status, 204);
    assert_eq!(second.get("/browser_pools/pool").await.status, 404);
    assert_eq!(api.live_browsers().await, 0);
}

#[tokio::test]
async fn of_two_who_want_a_name_at_once_one_gets_it_and_the_other_is_told() {
    let api = Api::start().await;
    let (a, b) = (api.create(json!({"kind": "browser"})).await, api.create(json!({"kind": "browser"})).await);
    let (path_a, path_b) = (format!("/browsers/{a}"), format!("/browsers/{b}"));
    let wish = || json!({"name": "wanted", "tags": {"a": "b"}});
    let answers = tokio::join!(api.ask("PATCH", &path_a, wish()), api.ask("PATCH", &path_b, wish()));
    let (won, lost) = if answers.0.status == 200 { answers } else { (answers.1, answers.0) };
    assert_eq!((won.status, &won.body["name"]), (200, &json!("wanted")), "{}", won.body);
    assert_eq!((lost.status, &lost.body["code"]), (409, &json!("name.taken")));
    assert_eq!(lost.headers["x-should-retry"], "false");
    let winner = won.body["session_id"].as_str().unwrap().to_owned();
    assert_eq!(api.get("/browsers/wanted").await.body["session_id"], json!(winner));
    assert_eq!(api.get("/browsers?tags%5Ba%5D=b").await.body.as_array().unwrap().len(), 1);
    let freed = api.ask("PATCH", &format!("/browsers/{winner}"), json!({"name": null})).await;
    assert_eq!((freed.status, &freed.body["name"]), (200, &Value::Null));
    let loser = if winner == a.to_string() { &path_b } else { &path_a };
    assert_eq!(api.ask("PATCH", loser, wish()).await.status, 200);
}

#[tokio::test]
async fn a_refusal_says_whether_to_come_again() {
    let api = Api::start().await;
    let without_key = api.send("GET", "/browsers", &[], "").await;
    assert_eq!((without_key.status, &without_key.body["code"]), (401, &json!("auth.missing")));
    assert_eq!(without_key.headers["x-should-retry"], "false");
    let sandbox = api.create(json!({})).await;
    let none = api.get(&format!("/browsers/{sandbox}")).await;
    assert_eq!((none.status, &none.body["code"]), (404, &json!("instance.unknown")), "it is no browser");
    let browser = api.create(json!({"kind": "browser"})).await;
    assert_eq!(api.ask("DELETE", &format!("/browsers/{browser}"), Value::Null).await.status, 204);
    for target in [format!("/browsers/{browser}"), format!("/browsers/{browser}/process/prc_1/status")] {
        let gone = api.get(&target).await;
        assert_eq!((gone.status, &gone.body["code"]), (404, &json!("browser_gone")), "{target}");
    }
    let over = api.get(&format!("/browsers/{browser}?include_deleted=true")).await;
    assert_eq!((over.status, &over.body["base_url"]), (200, &Value::Null));
}
