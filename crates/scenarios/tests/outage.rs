//! A cell whose registry is away for longer than a lease: what runs goes on, nothing new begins, and nothing is called gone.

use std::time::Duration;

use landfast_rig::Cluster;
use landfast_scenarios::attached::Attached;
use landfast_scenarios::cell::{Cell, Plan, eventually};
use landfast_scenarios::instance::Instance;
use landfast_scenarios::role::Role;
use landfast_scenarios::served::Served;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Longer than a node's lease, and than all that is done when one lapses. `LANDFAST_TEST_AWAY` says another number of seconds.
const AWAY: u64 = 20;

/// What a role may warn of besides: a node says what becomes of its lease.
const WARNINGS: usize = 4;

#[tokio::test]
async fn a_registry_that_is_killed_for_longer_than_a_lease_ends_nothing_that_runs() {
    rides_out(Cluster::kill, Cluster::start_again).await;
}

#[tokio::test]
async fn a_registry_that_stands_still_for_longer_than_a_lease_ends_nothing_that_runs() {
    rides_out(|etcd| etcd.freeze(), |etcd| etcd.thaw()).await;
}

async fn rides_out(away: impl FnOnce(&mut Cluster), back: impl FnOnce(&mut Cluster)) {
    let mut cell = Plan::default().over_etcd(3).start().await;
    let instance = cell.create().await;
    let generation = instance.record().await["generation"].clone();
    let served = Served::start(&cell).await;
    let mut viewer = instance.command("cat").await.attach("now").await;
    viewer.goes_live().await;
    away(etcd(&mut cell));
    let seconds = std::env::var("LANDFAST_TEST_AWAY").map_or(AWAY, |seconds| seconds.parse().expect("a number"));
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut round = 0;
    while Instant::now() < until {
        works(&cell, &instance, &served, &mut viewer, round).await;
        round += 1;
        sleep(Duration::from_millis(500)).await;
    }
    let refused = cell.operator.ask("POST", "/v1/instances", Some(&json!({}))).await;
    assert_eq!(refused.refusal(), (503, "registry.unavailable".to_owned()));
    back(etcd(&mut cell));
    let created = async || {
        let answer = cell.operator.ask("POST", "/v1/instances", Some(&json!({}))).await;
        (answer.status == 201).then_some(())
    };
    eventually("an instance can be created again", created).await;
    works(&cell, &instance, &served, &mut viewer, round).await;
    // A cluster that stood still may choose its leader more than once.
    let read = async || {
        let answer = cell.operator.ask("GET", &format!("/v1/instances/{}", instance.id), None).await;
        (answer.status == 200).then(|| answer.json())
    };
    let record = eventually("the record can be read", read).await;
    assert_eq!((record["phase"].as_str(), &record["generation"]), (Some("running"), &generation), "{record}");
    for role in [&cell.api, &cell.gateway, &cell.nodes[0].role] {
        says_it_once(role).await;
    }
}

/// A role says once that the registry fails, with the cause, and once that it works again, however many tried to use it.
async fn says_it_once(role: &Role) {
    let lines = |containing: &str| {
        let log = std::fs::read_to_string(role.log_file()).expect("a role has a log");
        log.lines().filter(|line| line.contains(containing)).map(str::to_owned).collect::<Vec<_>>()
    };
    let again = async || lines("the store works again").pop();
    eventually("it is said that the registry works again", again).await;
    let failed = lines("the store fails");
    assert!(failed.len() == 1 && failed[0].contains("registry.unavailable"), "{failed:#?}");
    assert_eq!(lines("the store works again").len(), 1);
    let warnings = [lines("\"WARN\""), lines("\"ERROR\"")].concat();
    assert!(warnings.len() <= WARNINGS, "{warnings:#?}");
}

/// A session goes on over a new link, a request is answered, and somebody new is let in.
async fn works(cell: &Cell, instance: &Instance, served: &Served, viewer: &mut Attached, round: usize) {
    cell.cut_links();
    viewer.types(&format!("round {round}\n")).await;
    viewer.shows(&format!("round {round}\n")).await;
    let answer = served.ask("POST", &format!("/{round}"), "body").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut late = instance.command(&format!("echo late {round}")).await.attach("0").await;
    late.shows(&format!("late {round}\n")).await;
    late.exits(0).await;
}

fn etcd(cell: &mut Cell) -> &mut Cluster {
    cell.etcd.as_mut().expect("a cell over etcd")
}
