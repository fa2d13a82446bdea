//! A cell whose registry is away for longer than a lease: what runs goes on, nothing new begins, and nothing is called gone.

use std::time::Duration;

use landfast_rig::Cluster;
use landfast_scenarios::attached::Attached;
use landfast_scenarios::cell::{Cell, Plan, eventually};
use landfast_scenarios::instance::Instance;
use landfast_scenarios::served::Served;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Longer than a node's lease, and than all that is done when one lapses.
const AWAY: Duration = Duration::from_secs(20);

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
    let until = Instant::now() + AWAY;
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
