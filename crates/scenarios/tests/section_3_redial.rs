//! Section 3 of the specification of sessions: redialling.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use landfast_scenarios::cell::Cell;
use landfast_scenarios::instance::Process;
use landfast_scenarios::leaks::returns_to;
use landfast_scenarios::numbers::Numbers;
use landfast_scenarios::plain::PlainClient;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

#[tokio::test]
async fn the_first_redial_comes_at_once() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("cat").await.attach("now").await;
    viewer.goes_live().await;
    let mut pauses = Vec::new();
    for round in 0..9 {
        cell.cut_links();
        let started = Instant::now();
        viewer.types(&format!("{round}\n")).await;
        viewer.shows(&format!("{round}\n")).await;
        pauses.push(started.elapsed());
    }
    pauses.sort();
    assert!(pauses[4] < Duration::from_millis(100), "the median pause is that of one dial: {pauses:?}");
}

#[tokio::test]
async fn redials_come_ever_more_seldom() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    // Started by way of the API: a request of the gateway's own would leave a session in its pool, which redials too.
    let wish = json!({"shell": "cat"});
    let started = cell.operator.demand("POST", &format!("/v1/instances/{}/processes", instance.id), Some(&wish)).await;
    let id = started["id"].as_str().expect("a process has an id").to_owned();
    let mut viewer = Process { instance, id }.attach("now").await;
    viewer.goes_live().await;
    let network = &cell.node_ref("a").network;
    let before = network.accepted();
    network.refuse(true);
    network.cut();
    sleep(Duration::from_secs(4)).await;
    let dials = network.accepted() - before;
    // At once, then after 50, 150, 350, 750, 1,550 and 3,150 ms, each a fifth sooner or later.
    assert!((6..=8).contains(&dials), "{dials} dials in 4 s");
    network.refuse(false);
    viewer.types("back\n").await;
    viewer.shows("back").await;
}

#[tokio::test]
async fn the_first_dial_of_a_session_is_repeated_like_any_other() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("cat").await;
    let network = &cell.node_ref("a").network;
    network.refuse(true);
    network.cut();
    let (mut viewer, ()) = tokio::join!(process.attach("now"), async {
        sleep(Duration::from_millis(500)).await;
        network.refuse(false);
    });
    viewer.types("hello\n").await;
    viewer.shows("hello").await;
}

#[tokio::test]
async fn an_attach_while_the_instance_is_starting_waits_for_it() {
    let mut cell = Cell::start().await;
    let first = cell.create().await;
    cell.node("a").role.freeze();
    let instance = cell.create_unawaited(&json!({})).await;
    let (answer, ()) = tokio::join!(instance.ask("GET", "/processes", None), async {
        sleep(Duration::from_millis(700)).await;
        cell.node_ref("a").role.thaw();
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    drop(first);
}

#[tokio::test]
async fn a_move_is_nothing_but_a_pause() {
    let cell = Cell::with_two_nodes().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("cat").await.attach("now").await;
    viewer.goes_live().await;
    for node in cell.route_of(&instance, 4).await {
        instance.moves_to(node).await;
        viewer.types(&format!("at {node}\n")).await;
        viewer.shows(&format!("at {node}\n")).await;
    }
}

#[tokio::test]
async fn after_a_move_a_link_that_went_silent_is_left_at_once() {
    let cell = Cell::with_two_nodes().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("cat").await.attach("now").await;
    viewer.goes_live().await;
    let (from, to) = cell.place_of(&instance).await;
    cell.node_ref(from).network.hold();
    instance.moves_to(to).await;
    let started = Instant::now();
    viewer.types("there\n").await;
    viewer.shows("there").await;
    assert!(started.elapsed() < Duration::from_secs(3), "pings alone take half a minute: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_deleted_instance_ends_the_wait_for_it_at_once() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("cat").await.attach("now").await;
    viewer.goes_live().await;
    cell.node_ref("a").network.refuse(true);
    cell.cut_links();
    instance.is_deleted().await;
    viewer.socket.expect_close(4410, "instance.gone").await;
}

#[tokio::test]
async fn an_instance_that_was_started_anew_ends_its_sessions_and_says_so() {
    let cell = Cell::start().await;
    let instance = cell.create_with(&json!({"spec": {"restart": "always"}})).await;
    let mut viewer = instance.command("cat").await.attach("now").await;
    viewer.goes_live().await;
    instance.kill_agent();
    viewer.socket.expect_close(1011, "instance.failed").await;
}

#[tokio::test]
async fn links_that_die_without_progress_trip_the_breaker() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("cat").await.attach("now").await;
    viewer.goes_live().await;
    let network = &cell.node_ref("a").network;
    let flapping = async {
        loop {
            network.cut();
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = viewer.socket.expect_close(1011, "upstream.flapping") => {}
        () = flapping => {}
    }
}

#[tokio::test]
async fn links_that_make_progress_trip_nothing() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("cat").await.attach("now").await;
    for round in 0..20 {
        cell.cut_links();
        viewer.types(&format!("{round}.")).await;
        viewer.types("\n").await;
        viewer.shows(&format!("{round}.\n")).await;
    }
}

#[tokio::test]
async fn what_is_typed_while_there_is_no_link_is_kept_and_more_than_a_window_is_not_read() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("head -c 60000000 | sha256sum").await.attach("now").await;
    viewer.goes_live().await;
    let network = &cell.node_ref("a").network;
    network.refuse(true);
    network.cut();
    let input = Numbers::new(5).slice(0, 60_000_000);
    for piece in input.chunks(50_000) {
        viewer.socket.queue_binary(&[&[0], piece]);
    }
    // A window, and six socket buffers on the way that may grow to 6 MB each: then it must come to a stand.
    while timeout(Duration::from_secs(1), viewer.socket.turn()).await.is_ok() {}
    assert!(viewer.socket.queued() > 20_000_000, "only {} bytes were held back", viewer.socket.queued());
    network.refuse(false);
    viewer.shows(&sha256(&input)).await;
}

#[tokio::test]
async fn a_wait_ends_at_once_when_the_client_leaves() {
    let cell = Cell::for_counting().await;
    let instance = cell.create().await;
    let process = instance.command("cat").await;
    let before = cell.gateway.settled().await;
    let viewers = [process.attach("now").await, process.attach("now").await];
    cell.node_ref("a").network.refuse(true);
    cell.cut_links();
    for viewer in viewers {
        viewer.socket.vanish();
    }
    returns_to(cell.gateway.pid(), before, Duration::from_secs(1)).await;
    let opening = process.upgrade("from=now");
    let opening = tokio::spawn(async move { PlainClient::open(&opening).await.map(drop) });
    sleep(Duration::from_millis(200)).await;
    opening.abort();
    returns_to(cell.gateway.pid(), before, Duration::from_secs(1)).await;
}

/// The very program that runs in the instance.
fn sha256(bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    let output = Command::new("sha256sum").arg(file.path()).output().expect("coreutils");
    String::from_utf8_lossy(&output.stdout[..64]).into_owned()
}
