//! The server itself: found while it runs, and gone when told.

use super::*;

#[tokio::test]
async fn gateways_find_a_server_while_it_runs_and_no_longer() {
    let api = Api::start().await;
    let found = api.store.list(keys::APIS).await.unwrap().entries;
    let server: landfast_core::record::ApiServer = records::decode(&found[0].key, &found[0].value).unwrap();
    assert_eq!((found.len(), server.address), (1, api.running.address.to_string()));
    api.stop.cancel();
    let mut watch = api.store.watch(keys::APIS, None);
    soon(async {
        while !api.store.list(keys::APIS).await.unwrap().entries.is_empty() {
            watch.next().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_told_to_stop_ends() {
    let mut api = Api::start().await;
    let idle = TcpStream::connect(api.running.address).await.unwrap();
    api.stop.cancel();
    soon(&mut api.running.done).await.unwrap();
    assert!(TcpStream::connect(api.running.address).await.is_err());
    drop(idle);
}

#[tokio::test]
async fn a_second_server_of_the_cell_shows_the_same() {
    let api = Api::start().await;
    let id = api.create(json!({})).await;
    let stop = CancellationToken::new();
    let second = start(Config::default(), api.cell.clone(), api.cell.store().unwrap(), stop.clone()).await.unwrap();
    let second = Api {
        running: second,
        cell: api.cell.clone(),
        store: api.store.clone(),
        stop,
        description: api.description.clone(),
        _dir: tempfile::tempdir().unwrap(),
    };
    assert_eq!(second.get(&format!("/v1/instances/{id}")).await.status, 200);
}

#[test]
fn settings_that_do_not_exist_are_refused() {
    assert!(serde_json::from_value::<Config>(json!({"listen": "127.0.0.1:0"})).is_ok());
    assert!(serde_json::from_value::<Config>(json!({"lisen": "127.0.0.1:0"})).is_err());
}
