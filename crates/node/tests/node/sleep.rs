//! Instances that sleep while nobody needs them.

use std::time::{Duration, Instant};

use landfast_core::record::{Instance, InstanceSpec, Phase, Service};
use landfast_core::{ErrorCode, lifecycle};
use landfast_net::relay::Target;

use crate::harness::{TestCell, TestNode, eventually, processes_of};

fn sleepy(seconds: u64) -> InstanceSpec {
    InstanceSpec { idle_timeout: Some(seconds), ..InstanceSpec::default() }
}

/// A spec with a service that does what `on_term` says when it is asked to end, and is up once it has said so.
fn serving(on_term: &str) -> InstanceSpec {
    let shell = format!("trap '{on_term}' TERM; echo set > set; while :; do sleep 0.05; done");
    let service = Service { shell: Some(shell), port: Some(1), ..Service::default() };
    InstanceSpec { services: [("web".parse().unwrap(), service)].into(), ..InstanceSpec::default() }
}

async fn is_set(cell: &TestCell, instance: &Instance) {
    let set = cell.instance_dir(instance.id).join("home/set");
    eventually("its service is set", async || set.exists()).await;
}

async fn sleeps(cell: &TestCell, id: landfast_core::InstanceId) -> Instance {
    cell.until(id, |instance| instance.phase == Phase::Sleeping || instance.phase.is_end()).await
}

/// Wakes an instance and places it, as the keeper does.
async fn wake(cell: &TestCell, node: &TestNode, id: landfast_core::InstanceId) -> Instance {
    let target = cell.node_record(node.id()).await;
    cell.update(id, |instance| {
        lifecycle::desire_awake(instance).unwrap();
        lifecycle::place(instance, &target).unwrap();
    })
    .await;
    cell.settled(id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_instance_sleeps_and_wakes_with_its_files_and_its_next_generation() {
    let cell = TestCell::new();
    let (node, _other) = (cell.node("a").await, cell.node("b").await);
    // Long enough for a busy machine to come by with the next command.
    let instance = cell.run_with(&node, sleepy(5)).await;
    cell.shell(&instance, "echo kept > file").await;
    let mut open = cell.dial(&instance, Target::Agent).await.unwrap();
    let asleep = sleeps(&cell, instance.id).await;
    assert_eq!((asleep.phase, asleep.node, asleep.generation), (Phase::Sleeping, None, instance.generation));
    assert!(processes_of(instance.id).is_empty());
    assert!(!matches!(tokio::io::AsyncReadExt::read(&mut open, &mut [0]).await, Ok(1..)));
    assert!(matches!(cell.refusal(&instance).await, ErrorCode::InstanceWaking | ErrorCode::NodeNotHere));

    let awake = wake(&cell, &node, instance.id).await;
    assert_eq!((awake.phase, awake.generation), (Phase::Running, instance.generation.next()));
    assert_eq!(cell.shell(&awake, "cat file").await.0, "kept\n");
    assert_eq!(sleeps(&cell, instance.id).await.generation, awake.generation, "and it sleeps again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_used_does_not_sleep() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run_with(&node, sleepy(1)).await;
    let until = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < until {
        cell.shell(&instance, "sleep 0.2").await;
    }
    assert_eq!(cell.until(instance.id, |_| true).await.phase, Phase::Running);
    let used = Instant::now();
    assert_eq!(sleeps(&cell, instance.id).await.phase, Phase::Sleeping);
    assert!(used.elapsed() >= Duration::from_millis(800), "{:?}", used.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_asked_to_end_before_the_instance_sleeps() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run_with(&node, serving("sleep 6; echo told > told; exit 0")).await;
    is_set(&cell, &instance).await;
    cell.update(instance.id, |instance| lifecycle::desire_sleeping(instance).unwrap()).await;
    assert_eq!(sleeps(&cell, instance.id).await.phase, Phase::Sleeping);
    assert!(cell.instance_dir(instance.id).join("home/told").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_while_an_instance_falls_asleep_puts_it_to_sleep_when_it_is_back() {
    let cell = TestCell::new();
    let mut node = cell.child_node("a").await;
    let id = cell.place(node.id, serving("exit 0")).await;
    let instance = cell.settled(id).await;
    is_set(&cell, &instance).await;
    // Its agent does not end, so that the daemon is killed in between.
    let agents: Vec<_> = processes_of(id);
    let stop = |signal| {
        for &pid in &agents {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    };
    stop(nix::sys::signal::Signal::SIGSTOP);
    cell.update(id, |instance| lifecycle::desire_sleeping(instance).unwrap()).await;
    eventually("it has begun", async || cell.instance_dir(id).join("doze.json").exists()).await;
    node.kill().await;
    crate::harness::kill_all(id);
    // Woken too late: what has begun is done to the end, and then it is placed again.
    cell.update(id, |instance| lifecycle::desire_awake(instance).unwrap()).await;
    let _node = cell.child_node("a").await;
    let asleep = sleeps(&cell, id).await;
    assert_eq!(asleep.phase, Phase::Sleeping, "{:?}", asleep.reason);
    assert!(processes_of(id).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_agent_dies_while_it_should_sleep_has_not_failed() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    node.stop().await;
    cell.update(instance.id, |instance| lifecycle::desire_sleeping(instance).unwrap()).await;
    crate::harness::kill_all(instance.id);
    let _node = cell.node("a").await;
    assert_eq!(sleeps(&cell, instance.id).await.phase, Phase::Sleeping);
}
