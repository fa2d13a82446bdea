//! Moves between two nodes of one host.

use std::time::{Duration, Instant};

use landfast_core::record::{Instance, Phase};
use landfast_net::hold::Ending;
use landfast_net::relay::{Target, dial};
use tokio::time::timeout;

use crate::harness::{PATIENCE, TestCell, eventually, route};
use crate::session::Talk;

#[tokio::test(flavor = "multi_thread")]
async fn a_move_takes_the_instance_along_as_it_is() {
    let cell = TestCell::new();
    let (a, b) = (cell.node("a").await, cell.node("b").await);
    let instance = cell.run(&a).await;
    cell.shell(&instance, "echo here > file; sleep 4711 >/dev/null 2>&1 &").await;
    let moved = cell.move_to(instance.id, &b).await;
    assert_eq!((moved.phase, moved.node, moved.generation), (Phase::Running, Some(b.id()), instance.generation.next()));
    assert_eq!(cell.shell(&moved, "cat file; pgrep -c sleep").await.0, "here\n1\n");
    eventually("the source lets go", async || a.running.counts.instances() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pause_of_a_move_is_short() {
    let cell = TestCell::new();
    let (a, b) = (cell.node("a").await, cell.node("b").await);
    let mut instance = cell.run(&a).await;
    let mut pauses = Vec::new();
    for to in [&b, &a].into_iter().cycle().take(10) {
        let target = cell.node_record(to.id()).await;
        let id = instance.id;
        cell.update(id, |instance| landfast_core::lifecycle::begin_move(instance, &target).unwrap()).await;
        let (pause, moved) = pause_of(&cell, &instance).await;
        pauses.push(pause);
        instance = moved;
    }
    pauses.sort();
    assert!(pauses[5] < Duration::from_millis(100), "{pauses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_moves_under_a_talking_session_lose_and_double_nothing() {
    let cell = TestCell::new();
    let (a, b) = (cell.node("a").await, cell.node("b").await);
    let instance = cell.run(&a).await;
    let process = cell.start(&instance, &["cat"]).await;
    let mut talk = Talk::attach(&cell, &instance, &process).await;
    for (number, to) in [&b, &a].into_iter().cycle().take(20).enumerate() {
        let talking = async {
            for line in 0..100 {
                talk.say(format!("line {line} of move {number}\n").as_bytes()).await;
                tokio::task::yield_now().await;
            }
            let said: String = (0..100).map(|line| format!("line {line} of move {number}\n")).collect();
            assert_eq!(String::from_utf8(talk.hear(said.len()).await).unwrap(), said);
        };
        let (talked, moved) = tokio::join!(timeout(PATIENCE, talking), cell.move_to(instance.id, to));
        talked.expect("the echo");
        assert_eq!(moved.node, Some(to.id()), "{:?}", moved.reason);
        // The echo may have come before the cut; this one comes over the new link.
        talk.say(b"still there?\n").await;
        assert_eq!(timeout(PATIENCE, talk.hear(13)).await.expect("the echo"), b"still there?\n");
    }
    let (ending, account) = talk.leave().await;
    assert_eq!(ending, Ending::Local(None), "only the client's own leaving ended it");
    assert!(account.links >= 21, "{account:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_after_it_prepared_is_not_waited_for_for_ever() {
    let cell = TestCell::new();
    let (a, mut b) = (cell.node("a").await, cell.child_node("b").await);
    let instance = cell.run(&a).await;
    let target = cell.node_record(b.id).await;
    b.kill().await;
    cell.update(instance.id, |instance| landfast_core::lifecycle::begin_move(instance, &target).unwrap()).await;
    let stayed = cell.settled(instance.id).await;
    assert_eq!((stayed.node, stayed.generation), (Some(a.id()), instance.generation));
    cell.shell(&stayed, "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_killed_in_the_middle_of_a_move_finishes_it_when_it_is_back() {
    let cell = TestCell::new();
    let mut a = cell.child_node("a").await;
    let b = cell.node("b").await;
    let id = cell.place(a.id, Default::default()).await;
    let instance = cell.settled(id).await;
    a.kill().await;
    let target = cell.node_record(b.id()).await;
    cell.update(id, |instance| landfast_core::lifecycle::begin_move(instance, &target).unwrap()).await;
    cell.until(id, |instance| {
        instance.moving.as_ref().is_some_and(|moving| moving.step == landfast_core::record::MoveStep::Prepared)
    })
    .await;
    let _a = cell.child_node("a").await;
    let moved = cell.settled(id).await;
    assert_eq!((moved.node, moved.generation), (Some(b.id()), instance.generation.next()));
    cell.shell(&moved, "true").await;
}

/// How long no dial succeeds, from the last at the old place to the first at the new one; as a gateway does it, with the
/// route from the record and no pause between tries.
async fn pause_of(cell: &TestCell, from: &Instance) -> (Duration, Instance) {
    let key = cell.cell.credential();
    let mut last = Instant::now();
    while dial(&route(from), Target::Agent, key, PATIENCE).await.is_ok() {
        last = Instant::now();
    }
    let moved = cell.until(from.id, |instance| instance.generation > from.generation).await;
    dial(&route(&moved), Target::Agent, key, PATIENCE).await.unwrap();
    (last.elapsed(), moved)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_cannot_take_over_says_so_at_once() {
    let cell = TestCell::new();
    let (a, b) = (cell.node("a").await, cell.node("b").await);
    let instance = cell.run(&a).await;
    // By this note the target finds the agent; the source does not need it any more.
    std::fs::remove_file(cell.instance_dir(instance.id).join("agent.json")).unwrap();
    let asked = Instant::now();
    let stayed = cell.move_to(instance.id, &b).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!((stayed.node, stayed.generation), (instance.node, instance.generation));
    assert_eq!(stayed.reason.as_deref(), Some("The target node does not find the agent on its host."));
    cell.shell(&instance, "true").await;
}
