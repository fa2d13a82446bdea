//! From given to gone.

use std::collections::BTreeMap;

use landfast_core::record::{Desired, InstanceSpec, Phase};
use landfast_core::{ErrorCode, NodeId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{TestCell, eventually, processes_of};

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_given_to_a_node_runs_there_with_its_environment() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let env = BTreeMap::from([("GREETING".to_owned(), "good day".to_owned())]);
    let instance = cell.run_with(&node, InstanceSpec { env, ..InstanceSpec::default() }).await;
    assert_eq!(instance.node, Some(node.id()));
    assert_eq!(cell.shell(&instance, "echo $GREETING; pwd").await, ("good day\n/home/user\n".to_owned(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_instance_keeps_its_files_and_a_deleted_one_leaves_nothing() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    for (desired, phase, code) in [
        (Desired::Stopped, Phase::Stopped, ErrorCode::InstanceStopped),
        (Desired::Deleted, Phase::Deleted, ErrorCode::InstanceGone),
    ] {
        let instance = cell.run(&node).await;
        cell.shell(&instance, "echo kept > file").await;
        cell.desire(instance.id, desired).await;
        let ended = cell.until(instance.id, |instance| instance.phase.is_end()).await;
        assert_eq!(ended.phase, phase);
        eventually("it is told", async || cell.refusal(&instance).await == code).await;
        let home = cell.instance_dir(instance.id).join("home/file");
        match desired {
            Desired::Stopped => assert_eq!(std::fs::read_to_string(home).unwrap(), "kept\n"),
            Desired::Running | Desired::Sleeping | Desired::Deleted => {
                eventually("its files go", async || !cell.instance_dir(instance.id).exists()).await;
            }
        }
    }
    eventually("nothing is left", async || node.running.counts.instances() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_is_a_failed_instance_with_the_reason_and_nothing_of_it_runs_on() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    cell.shell(&instance, "setsid sleep 4711 >/dev/null 2>&1 &").await;
    kill(Pid::from_raw(agent_process(&cell, instance.id)), Signal::SIGKILL).unwrap();
    let failed = cell.until(instance.id, |instance| instance.phase.is_end()).await;
    assert_eq!(failed.phase, Phase::Failed);
    assert_eq!(failed.reason.as_deref(), Some("The agent was killed by signal 9."));
    assert!(processes_of(instance.id).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_start_is_a_failed_instance_with_the_reason() {
    let cell = TestCell::new();
    let config = landfast_node::Config { agent_command: vec!["/bin/false".to_owned()], ..cell.config("a") };
    let node = cell.try_node(config).await.unwrap();
    let id = cell.place(node.id(), InstanceSpec::default()).await;
    let failed = cell.settled(id).await;
    assert_eq!(failed.phase, Phase::Failed);
    assert_eq!(failed.reason.as_deref(), Some("The agent did not come up. The agent exited with status 1."));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_fork_bomb_leaves_is_gone_after_delete() {
    let cell = TestCell::new();
    let config = landfast_node::Config { processes: 200, ..cell.config("a") };
    let node = cell.try_node(config).await.unwrap();
    let instance = cell.run(&node).await;
    // It would stop by itself at 500, in case the limit does not stop it.
    let bomb = "bomb() { [ $1 -gt 8 ] || { setsid sleep 60 & bomb $(($1 + 1)) & bomb $(($1 + 1)); }; }";
    let bomb = format!("{bomb}; (bomb 0 >/dev/null 2>&1 &) ; echo lit");
    cell.shell(&instance, &bomb).await;
    eventually("it has grown", async || processes_of(instance.id).len() > 100).await;
    cell.desire(instance.id, Desired::Deleted).await;
    cell.until(instance.id, |instance| instance.phase == Phase::Deleted).await;
    assert_eq!(processes_of(instance.id), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_node_of_the_host_left_is_cleared_away() {
    let cell = TestCell::new();
    let (dead, alive) = (cell.node("dead").await, cell.node("alive").await);
    let instance = cell.run(&dead).await;
    dead.stop().await;
    assert!(!processes_of(instance.id).is_empty());
    cell.update(instance.id, |instance| {
        landfast_core::lifecycle::lost(instance, instance.generation, 1).unwrap();
    })
    .await;
    eventually("its processes are gone", async || processes_of(instance.id).is_empty()).await;
    assert!(cell.instance_dir(instance.id).join("home").exists());
    drop(alive);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_another_node_is_none_of_this_ones_business() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    let elsewhere = cell.update(instance.id, |instance| instance.node = Some(NodeId::new(1, 1))).await;
    eventually("it lets go", async || node.running.counts.instances() == 0).await;
    assert_eq!(cell.refusal(&elsewhere).await, ErrorCode::NodeNotHere);
    assert!(!processes_of(instance.id).is_empty(), "and does not kill what it does not own");
}

/// The host's number of the agent's own process.
fn agent_process(cell: &TestCell, id: landfast_core::InstanceId) -> i32 {
    let processes = processes_of(id);
    let agent = processes.iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Around it stand bubblewrap's two processes, whose arguments also end in the agent's.
        !String::from_utf8_lossy(&line).contains("bwrap") && String::from_utf8_lossy(&line).contains("--instance")
    });
    *agent.unwrap_or_else(|| panic!("no agent among {processes:?}\n{}", cell.agent_log(id)))
}
