//! Each leg is really broken once, and `landfast netcheck` names it, and no other.

use std::time::Duration;

use landfast_registry::authority;
use landfast_scenarios::cell::{Cell, Plan, eventually};
use landfast_scenarios::peer::free_address;
use landfast_scenarios::role::Settings;
use landfast_scenarios::user::User;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A leg that is not well: its ends, its code, and what is said of it.
#[derive(Debug)]
struct Unwell {
    ends: String,
    code: String,
    says: String,
}

/// What `landfast netcheck` finds, and whether its exit status says the same.
async fn netcheck(user: &User, arguments: &[&str]) -> Vec<Unwell> {
    let ran = user.command(&[arguments, &["netcheck", "-o", "json"]].concat()).output().await.unwrap();
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let text = |leg: &Value, name: &str| leg[name].as_str().unwrap_or_default().to_owned();
    let legs = report["legs"].as_array().expect("it has legs");
    let broken = legs.iter().any(|leg| leg["health"] == "broken");
    assert_eq!((report["ok"].as_bool(), ran.status.code()), (Some(!broken), Some(i32::from(broken))), "{ran:?}");
    let unwell = legs.iter().filter(|leg| leg["health"] != "ok");
    unwell
        .map(|leg| {
            assert!(!text(leg, "advice").is_empty(), "{leg}");
            let ends = format!("{} → {}", text(leg, "from"), text(leg, "to"));
            Unwell { ends, code: text(leg, "code"), says: text(leg, "says") }
        })
        .collect()
}

/// Asserts that one leg is broken, and what is said of it.
fn is_only(unwell: &[Unwell], ends: &str, code: &str, says: &str) {
    let [leg] = unwell else { panic!("not one leg: {unwell:?}") };
    assert!(leg.ends.ends_with(ends) && leg.code == code && leg.says.contains(says), "{leg:?}");
}

/// Somebody who knows the cell's gateway.
fn user(cell: &Cell) -> User {
    User::of(&cell.operator, &[cell.gateway.address()])
}

#[tokio::test]
async fn a_cell_that_is_well_has_no_other_leg_and_its_lines_say_so() {
    let cell = Cell::with_two_nodes().await;
    cell.create().await;
    assert!(netcheck(&user(&cell), &[]).await.is_empty());
    let ran = user(&cell).command(&["netcheck"]).output().await.unwrap();
    let text = String::from_utf8(ran.stdout).unwrap();
    let legs = ["→ registry", "→ API", "→ node a", "→ node b", "node a → registry", "node b → agents"];
    assert!(legs.iter().all(|leg| text.contains(leg)) && text.contains(" ms"), "{text}");
    assert!(text.lines().count() == 9 && text.lines().all(|line| line.contains("  ok  ")), "{text}");
}

#[tokio::test]
async fn a_gateway_that_is_gone_frozen_or_cannot_be_found_is_named() {
    let cell = Cell::start().await;
    let mut second = cell.another_gateway("1", Settings::new()).await;
    let gone = second.address();
    let mut user = User::of(&cell.operator, &[cell.gateway.address(), gone]);
    assert!(netcheck(&user, &[]).await.is_empty());
    second.freeze();
    is_only(&netcheck(&user, &[]).await, &format!("client → http://{gone}"), "gateway.unreachable", "in time");
    second.kill().await;
    is_only(&netcheck(&user, &[]).await, &format!("client → http://{gone}"), "gateway.unreachable", "nothing listens");
    user.urls = format!("http://{},http://nowhere.invalid:1", cell.gateway.address());
    is_only(
        &netcheck(&user, &[]).await,
        "client → http://nowhere.invalid:1",
        "gateway.unreachable",
        "name is not known",
    );
    user.urls = format!("http://{},https://{0}", cell.gateway.address());
    let https = format!("client → https://{}", cell.gateway.address());
    is_only(&netcheck(&user, &[]).await, &https, "gateway.unreachable", "TLS");
}

#[tokio::test]
async fn who_has_no_key_or_a_wrong_one_hears_so_and_of_the_gateway_all_the_same() {
    let cell = Cell::start().await;
    is_only(&netcheck(&user(&cell), &["--api-key", "lf_wrong"]).await, "→ API", "auth.invalid", "");
    is_only(
        &netcheck(&user(&cell), &["--api-key", "", "--data", "/nowhere"]).await,
        "→ API",
        "auth.missing",
        "no API key",
    );
}

#[tokio::test]
async fn an_api_server_that_is_gone_is_named() {
    let mut cell = Cell::start().await;
    cell.api.kill().await;
    is_only(&netcheck(&user(&cell), &[]).await, "→ API", "registry.unavailable", "nothing listens there");
}

#[tokio::test]
async fn a_gateway_whose_store_does_not_answer_says_so() {
    let cell = Cell::start().await;
    let stalled = cell.gateway.stall("landfast-read");
    is_only(&netcheck(&user(&cell), &[]).await, "→ registry", "registry.unavailable", "did not answer");
    drop(stalled);
    eventually("it is well again", async || netcheck(&user(&cell), &[]).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_node_that_is_frozen_or_behind_a_broken_network_is_named() {
    let cell = Cell::start().await;
    let node = cell.node_ref("a");
    node.network.refuse(true);
    is_only(&netcheck(&user(&cell), &[]).await, "→ node a", "node.unreachable", "hung up");
    node.network.refuse(false);
    node.network.hold();
    is_only(&netcheck(&user(&cell), &[]).await, "→ node a", "node.unreachable", "no answer");
    node.network.release();
    node.network.lead_to(free_address().unwrap());
    is_only(&netcheck(&user(&cell), &[]).await, "→ node a", "node.unreachable", "");
    node.network.lead_to(node.role.address());
    assert!(netcheck(&user(&cell), &[]).await.is_empty());
    node.role.freeze();
    is_only(&netcheck(&user(&cell), &[]).await, "→ node a", "node.unreachable", "no answer");
    node.role.thaw();
}

#[tokio::test]
async fn a_slow_way_to_a_node_is_slow_and_not_broken() {
    let cell = Cell::start().await;
    cell.node_ref("a").network.delay(Duration::from_millis(300));
    is_only(&netcheck(&user(&cell), &[]).await, "→ node a", "", "took long");
}

#[tokio::test]
async fn a_node_that_cannot_renew_its_lease_says_so() {
    let cell = Cell::start().await;
    let _stalled = cell.node_ref("a").role.stall("landfast-write");
    eventually("its lease is over", async || {
        let unwell = netcheck(&user(&cell), &[]).await;
        let is_over = |leg: &Unwell| leg.ends == "node a → registry" && leg.code == "store.lease_lapsed";
        unwell.iter().any(is_over).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cell_without_a_node_says_so() {
    let mut cell = Cell::start().await;
    cell.node("a").role.kill().await;
    eventually("no node is live", async || {
        let unwell = netcheck(&user(&cell), &[]).await;
        unwell.iter().any(|leg| leg.ends.ends_with("→ nodes") && leg.code == "node.none_fits").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_named_with_its_instance() {
    let cell = Cell::start().await;
    let (_fine, frozen) = (cell.create().await, cell.create().await);
    let agent = Pid::from_raw(i32::try_from(frozen.agent()).unwrap());
    landfast_rig::freeze(frozen.agent());
    let unwell = netcheck(&user(&cell), &[]).await;
    kill(agent, Signal::SIGCONT).unwrap();
    is_only(&unwell, "node a → agents", "agent.silent", &frozen.id);
    assert!(unwell[0].says.contains("Of 2 agents 1"), "{unwell:?}");
}

#[tokio::test]
async fn a_node_that_shows_a_certificate_of_another_role_is_not_believed() {
    let cell = Plan::default().encrypted().start().await;
    assert!(netcheck(&user(&cell), &[]).await.is_empty());
    let (ca, fresh) = (cell.dir().join("ca"), cell.dir().join("fresh"));
    let not_a_node = [authority::Role::Gateway, authority::Role::Api];
    authority::issue(&ca, &not_a_node, Duration::from_secs(3600), &fresh).unwrap();
    for file in ["ca.pem", "role.pem", "role-key.pem"] {
        std::fs::rename(fresh.join(file), cell.dir().join("tls").join(file)).unwrap();
    }
    // The files are looked at every five seconds.
    let unwell = eventually("the new certificates are shown", async || {
        let unwell = netcheck(&user(&cell), &[]).await;
        (!unwell.is_empty()).then_some(unwell)
    })
    .await;
    is_only(&unwell, "→ node a", "node.untrusted", "certificate");
}
