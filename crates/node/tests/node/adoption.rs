//! A daemon that comes back goes on where its predecessor was killed.

use std::time::{Duration, Instant};

use landfast_core::ErrorCode;
use landfast_core::record::{Desired, InstanceSpec, Network, Phase, Service};
use landfast_net::relay::Target;
use landfast_registry::store::Expect;

use crate::harness::{TestCell, eventually, kill_all, processes_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_killed_and_started_again_goes_on_within_half_a_second() {
    let cell = TestCell::new();
    let mut node = cell.child_node("a").await;
    let id = cell.place(node.id, InstanceSpec::default()).await;
    let instance = cell.settled(id).await;
    cell.shell(&instance, "echo before > file").await;
    let before = processes_of(id);
    let mut pauses = Vec::new();
    for _ in 0..5 {
        node.kill().await;
        let killed = Instant::now();
        node = cell.child_node("a").await;
        eventually("it serves", async || cell.dial(&instance, Target::Agent).await.is_ok()).await;
        pauses.push(killed.elapsed());
        assert_eq!(cell.shell(&instance, "cat file").await.0, "before\n");
    }
    // The best of five: what else the machine does meanwhile is not the node's.
    assert!(pauses.iter().min() < Some(&Duration::from_millis(500)), "{pauses:?}");
    assert_eq!(processes_of(id), before, "the same processes, not new ones");
    assert_eq!(cell.settled(id).await.generation, instance.generation, "nobody has seen it away");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_run_on_while_their_daemon_is_away() {
    let cell = TestCell::new();
    let mut node = cell.child_node("a").await;
    let shell = "python3 -m http.server --bind 127.0.0.1 $PORT";
    let web = Service { shell: Some(shell.to_owned()), port: Some(8_000), ..Service::default() };
    let services = [("web".parse().unwrap(), web)].into();
    let spec = InstanceSpec { services, network: Network::None, ..InstanceSpec::default() };
    let id = cell.place(node.id, spec).await;
    let instance = cell.settled(id).await;
    let service = async || {
        let list = cell.get(&instance, "/services").await;
        (list["services"][0]["state"].clone(), list["services"][0]["start"].clone(), list["services"][0]["pid"].clone())
    };
    eventually("it is up", async || service().await.0 == "up").await;
    let before = service().await;
    assert_eq!(before.1, 1);
    node.kill().await;
    node = cell.child_node("a").await;
    eventually("it serves", async || cell.dial(&instance, Target::Agent).await.is_ok()).await;
    assert_eq!(service().await, before);
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_seen_away_claims_its_instances_before_it_serves_them() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    let (id, key) = (node.id(), landfast_core::record::keys::node(node.id()));
    node.stop().await;
    // As when its lease lapses.
    let entry = cell.store.get(&key).await.unwrap().unwrap();
    cell.store.delete(&key, Expect::Revision(entry.revision)).await.unwrap();
    let node = cell.node("a").await;
    let claimed = cell.settled(instance.id).await;
    assert_eq!((claimed.node, claimed.generation), (Some(id), instance.generation.next()));
    assert_eq!(cell.refusal(&instance).await, ErrorCode::NodeStaleGeneration);
    cell.shell(&claimed, "true").await;
    // Once is enough.
    node.stop().await;
    let _node = cell.node("a").await;
    let again = cell.settled(instance.id).await;
    assert_eq!(again.generation, claimed.generation);
    cell.shell(&again, "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_killed_while_an_instance_started_brings_it_up_once() {
    let cell = TestCell::new();
    let mut node = cell.child_node("a").await;
    let id = cell.place(node.id, InstanceSpec::default()).await;
    node.kill().await;
    let _node = cell.child_node("a").await;
    let instance = cell.settled(id).await;
    assert_eq!(instance.phase, Phase::Running, "{:?}", instance.reason);
    cell.shell(&instance, "true").await;
    assert_eq!(agents(id), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_should_have_ended_while_the_daemon_was_away_is_ended_when_it_is_back() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let (deleted, lost) = (cell.run(&node).await, cell.run(&node).await);
    node.stop().await;
    cell.desire(deleted.id, Desired::Deleted).await;
    cell.update(lost.id, |instance| {
        landfast_core::lifecycle::lost(instance, instance.generation, 1).unwrap();
    })
    .await;
    let node = cell.node("a").await;
    assert!(processes_of(lost.id).is_empty(), "before anything is served");
    cell.until(deleted.id, |instance| instance.phase == Phase::Deleted).await;
    eventually("its files are gone", async || !cell.instance_dir(deleted.id).exists()).await;
    assert_eq!(cell.refusal(&lost).await, ErrorCode::InstanceLost);
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_host_was_given_while_the_daemon_was_away_does_not_run_on_here() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    node.stop().await;
    assert!(!processes_of(instance.id).is_empty(), "its agent outlives its daemon");
    let elsewhere = landfast_core::NodeId::new(1, 1);
    cell.update(instance.id, |instance| {
        instance.generation = instance.generation.next();
        (instance.node, instance.host) = (Some(elsewhere), Some("elsewhere".to_owned()));
    })
    .await;
    let _node = cell.node("a").await;
    eventually("nothing of it runs here", async || processes_of(instance.id).is_empty()).await;
    assert!(cell.instance_dir(instance.id).exists(), "its files are kept until it is deleted");
    cell.update(instance.id, |instance| instance.phase = Phase::Deleted).await;
    eventually("its files are gone", async || !cell.instance_dir(instance.id).exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_died_while_the_daemon_was_away_is_a_failed_instance() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    node.stop().await;
    kill_all(instance.id);
    let _node = cell.node("a").await;
    let failed = cell.until(instance.id, |instance| instance.phase.is_end()).await;
    assert_eq!(failed.phase, Phase::Failed);
    assert_eq!(failed.reason.as_deref(), Some("The agent was gone when its node looked for it."));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_no_record_knows_is_ended_and_its_files_are_kept() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    node.stop().await;
    let key = landfast_core::record::keys::instance(instance.id);
    let entry = cell.store.get(&key).await.unwrap().unwrap();
    cell.store.delete(&key, Expect::Revision(entry.revision)).await.unwrap();
    let _node = cell.node("a").await;
    assert!(processes_of(instance.id).is_empty(), "before anything is served");
    assert!(cell.instance_dir(instance.id).join("home").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_of_the_same_name_is_refused() {
    let cell = TestCell::new();
    let _node = cell.node("a").await;
    let Err(problem) = cell.try_node(cell.config("a")).await else { panic!("two nodes are one") };
    assert_eq!(problem.code, ErrorCode::ConfigInvalid);
    assert!(problem.detail.contains("another name"), "{problem}");
}

/// How many agents of the instance there are on this host.
fn agents(id: landfast_core::InstanceId) -> usize {
    let is_agent = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("--instance") && !line.contains("bwrap")
    };
    processes_of(id).into_iter().filter(is_agent).count()
}
