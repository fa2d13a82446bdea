//! A node that is killed and never comes back: every gateway hears of it in the time of a lease, what may be given to another
//! node is, and of the rest is said what became of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use landfast_core::lease::TTL;
use landfast_scenarios::cell::Plan;
use landfast_scenarios::http::{self, Answer};
use landfast_scenarios::instance::Instance;
use landfast_scenarios::role::{Role, Settings};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

/// What the store and the keeper may take to say that a lease is over.
const SLACK: Duration = Duration::from_secs(1);

/// How long another node may take, beside that, to start what it is given.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// Between two requests to one gateway.
const PACE: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_killed_node_is_fenced_at_every_gateway_within_a_lease_and_what_may_run_elsewhere_does() {
    let mut cell = Plan::default().over_etcd(3).start().await;
    let others = join_all(["1", "2"].map(|name| cell.another_gateway(name, Settings::new()))).await;
    let gateways: Vec<_> = others.iter().chain([&cell.gateway]).map(Role::address).collect();
    let bound = cell.create().await;
    let always = cell.create_with(&json!({"spec": {"restart": "always"}})).await;
    // Anything that was heard of a generation is a sign of life for the time of a lease.
    let settled = Instant::now() + TTL;
    cell.add_host("b").await;
    for gateway in &gateways {
        assert_eq!([ask(*gateway, &bound).await.status, ask(*gateway, &always).await.status], [200, 200]);
    }
    sleep_until(settled).await;
    let node = cell.node_of(&bound).await.name;
    assert_eq!(cell.node_of(&always).await.name, node);
    let killed = Instant::now();
    cell.node(node).role.kill().await;
    let lost = gateways.iter().map(|gateway| comes_to(*gateway, &bound, killed, says_lost));
    let again = gateways.iter().map(|gateway| comes_to(*gateway, &always, killed, serves_generation_2));
    let (lost, again) = tokio::join!(join_all(lost), join_all(again));
    let latest = |seen: &[(Duration, Answer)]| seen.iter().map(|(after, _)| *after).max().unwrap();
    println!("fenced after {:?}, served again after {:?}", latest(&lost), latest(&again));
    assert!(latest(&lost) <= TTL + SLACK, "{lost:?}");
    assert!(latest(&again) <= TTL + SLACK + STARTS_WITHIN, "{again:?}");
    for (_, answer) in &lost {
        assert_eq!(answer.refusal(), (502, "instance.lost".to_owned()));
    }
    let record = bound.record().await;
    let reason = record["reason"].as_str().unwrap_or_default();
    assert!(record["phase"] == "lost" && reason.contains("lease") && reason.contains("lapsed"), "{record}");
    assert_eq!((cell.node_of(&always).await.name, &always.record().await["generation"]), ("b", &json!(2)));
}

/// Asks a gateway until it answers so, and says how long after `since` it did.
async fn comes_to(
    gateway: SocketAddr,
    instance: &Instance,
    since: Instant,
    is_it: impl Fn(&Answer) -> bool,
) -> (Duration, Answer) {
    let mut before = BTreeMap::new();
    loop {
        let answer = ask(gateway, instance).await;
        if is_it(&answer) {
            println!("{gateway}, {}: {:?} after {before:?}", instance.id, since.elapsed());
            return (since.elapsed(), answer);
        }
        *before.entry((answer.status, answer.header("landfast-error").unwrap_or_default().to_owned())).or_insert(0) +=
            1;
        assert!(since.elapsed() < TTL + SLACK + 2 * STARTS_WITHIN, "{gateway}: {before:?} and nothing else");
        sleep(PACE).await;
    }
}

fn says_lost(answer: &Answer) -> bool {
    answer.header("landfast-error") == Some("instance.lost")
}

fn serves_generation_2(answer: &Answer) -> bool {
    answer.status == 200 && answer.header("landfast-generation") == Some("2")
}

/// Asks the instance's agent by way of a gateway, and waits for nothing that is between places.
async fn ask(gateway: SocketAddr, instance: &Instance) -> Answer {
    let Instance { id, token, .. } = instance;
    let request = format!(
        "GET /i/{id}/processes HTTP/1.1\r\nHost: {gateway}\r\nAuthorization: Bearer {token}\r\n\
         landfast-wait: 0.1\r\nConnection: close\r\n\r\n"
    );
    http::send(gateway, request.as_bytes()).await
}
