//! API keys: made for somebody, listed without what they are good for, taken back.

use super::*;

/// How a key is answered that asks for the nodes.
async fn status_with(api: &Api, key: &str) -> u16 {
    api.send("GET", "/v1/nodes", &[("authorization", &format!("Bearer {key}"))], "").await.status
}

#[tokio::test]
async fn a_new_key_opens_the_control_plane_until_it_is_taken_back() {
    let api = Api::start().await;
    let made = api.post("/v1/keys", json!({"name": "ci"})).await;
    assert_eq!((made.status, &made.body["name"]), (201, &json!("ci")));
    let (id, key) = (made.body["id"].as_str().unwrap(), made.body["key"].as_str().unwrap());
    assert_eq!(status_with(&api, key).await, 200);
    let listed = api.get("/v1/keys").await.body;
    assert!(!listed.to_string().contains(key));
    let items = listed["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["current"], &items[1]["current"]), (2, &json!(true), &json!(false)));
    assert_eq!((&items[1]["id"], &items[1]["name"]), (&json!(id), &json!("ci")));
    let path = format!("/v1/keys/{id}");
    assert_eq!(api.ask("DELETE", &path, Value::Null).await.status, 204);
    assert_eq!(status_with(&api, key).await, 401);
    api.ask("DELETE", &path, Value::Null).await.refuses(ErrorCode::KeyUnknown);
    api.ask("DELETE", "/v1/keys/key_x", Value::Null).await.refuses(ErrorCode::KeyUnknown);
}

#[tokio::test]
async fn the_last_key_stays_whoever_asks_at_the_same_moment() {
    let api = Api::start().await;
    let first = api.get("/v1/keys").await.body["items"][0]["id"].as_str().unwrap().to_owned();
    api.ask("DELETE", &format!("/v1/keys/{first}"), Value::Null).await.refuses(ErrorCode::KeyLast);
    let mut paths = vec![format!("/v1/keys/{first}")];
    let mut keys = vec![api.cell.api_key().to_text()];
    for name in ["a", "b", "c"] {
        let made = api.post("/v1/keys", json!({"name": name})).await.body;
        paths.push(format!("/v1/keys/{}", made["id"].as_str().unwrap()));
        keys.push(made["key"].as_str().unwrap().to_owned());
    }
    join_all(paths.iter().map(|path| api.ask("DELETE", path, Value::Null))).await;
    let statuses = join_all(keys.iter().map(|key| status_with(&api, key))).await;
    assert!(statuses.contains(&200), "{statuses:?}");
}

#[tokio::test]
async fn a_first_key_that_was_taken_back_does_not_return_with_the_next_server() {
    let api = Api::start().await;
    let other = api.post("/v1/keys", json!({"name": "other"})).await.body["key"].as_str().unwrap().to_owned();
    let first = api.get("/v1/keys").await.body["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(api.ask("DELETE", &format!("/v1/keys/{first}"), Value::Null).await.status, 204);
    let stop = CancellationToken::new();
    start(Config::default(), api.cell.clone(), api.store.clone(), stop.clone()).await.unwrap();
    stop.cancel();
    assert_eq!((status_with(&api, &api.cell.api_key().to_text()).await, status_with(&api, &other).await), (401, 200));
}

#[tokio::test]
async fn a_key_has_a_name_that_can_be_shown() {
    let api = Api::start().await;
    for wish in [json!({}), json!({"name": ""}), json!({"name": "a\u{7}"}), json!({"name": "n".repeat(65)})] {
        assert!(api.post("/v1/keys", wish).await.refuses(ErrorCode::RequestInvalid).contains("name"));
    }
}
