//! Section 2 of the specification of sessions: the gateway's side, row by row.

use std::time::Duration;

use landfast_scenarios::attached::Said;
use landfast_scenarios::cell::{Cell, Plan};
use landfast_scenarios::leaks::{Footprint, returns_to};
use landfast_scenarios::plain::{Event, PlainClient};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

/// Everything of a session is freed within this time.
const FREED: Duration = Duration::from_secs(1);

// --- the client ---

#[tokio::test]
async fn a_client_that_closes_hears_its_own_close_and_leaves_nothing_behind() {
    let cell = Cell::for_counting().await;
    let instance = cell.create().await;
    let process = instance.command("read x").await;
    process.attach("now").await.goes_live().await;
    let before = cell.gateway.settled().await;
    let mut viewer = process.attach("now").await;
    viewer.goes_live().await;
    viewer.socket.send_close(1000, "enough").await;
    assert!(matches!(viewer.next().await, Said::Close(1000, _)));
    assert_eq!(viewer.socket.next().await, Event::Ended(None));
    drop(viewer);
    returns_to(cell.gateway.pid(), before, FREED).await;
    assert_eq!(process.record().await["state"], "running", "closing a view ends no process");
}

#[tokio::test]
async fn a_client_that_is_lost_only_detaches() {
    let cell = Cell::for_counting().await;
    let instance = cell.create().await;
    let process = instance.command("read x; echo $x").await;
    let before = cell.gateway.settled().await;
    let viewer = process.attach("now").await;
    viewer.socket.vanish();
    returns_to(cell.gateway.pid(), before, FREED).await;
    let mut again = process.attach("start").await;
    again.types("still here\n").await;
    again.exits(0).await;
    assert_eq!(again.text(), "still here\n");
}

#[tokio::test]
async fn a_client_that_reads_nothing_costs_bounded_memory_and_is_told_why_it_is_closed() {
    let cell = Plan::default().gateway("slow_client_timeout_ms", "2000").gateway("workers", "1").start().await;
    let instance = cell.create().await;
    let process = instance.command("head -c 40000000 /dev/zero; echo END; sleep 3; cat /dev/zero").await;
    let before = Footprint::of(cell.gateway.pid());
    let mut upgrade = process.upgrade("from=start");
    upgrade.receive_buffer = Some(4096);
    let mut stalled = PlainClient::open(&upgrade).await.expect("attached");
    // The healthy one beside it is unharmed.
    let mut healthy = process.attach("start").await;
    healthy.shows("END").await;
    let after = Footprint::of(cell.gateway.pid());
    let grown = after.resident.saturating_sub(before.resident);
    assert!(grown < 24 << 20, "the gateway grew by {grown} bytes for a client that reads nothing");
    assert!(after.descriptors <= before.descriptors + 4, "no further upstream links: {before:?} {after:?}");
    // It is closed after it took no byte for the time that was set; reading now, it finds its reason at the end.
    returns_to(cell.gateway.pid(), before, Duration::from_secs(10)).await;
    let mut last = stalled.next().await;
    while let Event::Binary(_) | Event::Text(_) | Event::Ping | Event::Pong(_) = last {
        last = stalled.next().await;
    }
    match last {
        Event::Close(code, reason) => assert_eq!((code, reason.as_str()), (1008, "session.slow_client")),
        // Where a frame was cut in the middle, no close frame may stand inside it.
        Event::Ended(how) => assert!(how.is_some(), "an end between frames without a close frame"),
        Event::Binary(_) | Event::Text(_) | Event::Ping | Event::Pong(_) => unreachable!("read past these"),
    }
}

// --- the link ---

#[tokio::test]
async fn a_lost_link_is_nothing_but_a_pause() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.terminal("cat").await.attach("start").await;
    for round in 0..5 {
        cell.cut_links();
        viewer.types(&format!("round {round}\n")).await;
        viewer.shows(&format!("round {round}\r\nround {round}\r\n")).await;
    }
    assert_eq!(viewer.text().matches("round").count(), 10, "nothing twice: {:?}", viewer.text());
}

#[tokio::test]
async fn an_orderly_end_of_a_link_is_a_loss_like_any_other() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("cat").await.attach("start").await;
    cell.node_ref("a").network.fin();
    viewer.types("on\n").await;
    viewer.shows("on\n").await;
}

// --- the instance ---

#[tokio::test]
async fn the_last_bytes_of_a_process_and_its_close_arrive_once() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.terminal("seq 1 20000; exit 3").await.attach("start").await;
    viewer.exits(3).await;
    let expected: String = (1..=20_000).map(|i| format!("{i}\r\n")).collect();
    assert_eq!(viewer.text(), expected);
}

#[tokio::test]
async fn a_stopped_instance_closes_with_1000_and_its_name() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("sleep 100").await.attach("now").await;
    instance.stops().await;
    viewer.socket.expect_close(1000, "instance.stopped").await;
}

#[tokio::test]
async fn a_deleted_instance_closes_with_4410() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("sleep 100").await.attach("now").await;
    instance.is_deleted().await;
    viewer.socket.expect_close(4410, "instance.gone").await;
    let refusal = PlainClient::open(&instance.upgrade("/processes/x/attach")).await.expect_err("it is gone");
    assert_eq!(refusal.refusal(), (410, "instance.gone".to_owned()));
}

#[tokio::test]
async fn a_failed_instance_closes_with_1011() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("sleep 100").await.attach("now").await;
    viewer.goes_live().await;
    instance.kill_agent();
    viewer.socket.expect_close(1011, "instance.failed").await;
}

#[tokio::test]
async fn a_lost_instance_closes_with_1011() {
    let mut cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("sleep 100").await.attach("now").await;
    viewer.goes_live().await;
    cell.node("a").role.kill().await;
    viewer.socket.expect_close(1011, "instance.lost").await;
}

// --- the token ---

#[tokio::test]
async fn a_revoked_token_closes_its_sessions_with_1008_and_no_others() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("cat").await;
    let mut other = process.attach("now").await;
    let second = cell.operator.token(&instance.id, &json!({})).await;
    let mut upgrade = process.upgrade("from=now");
    upgrade.token = Some(second.text.clone());
    let mut viewer = PlainClient::open(&upgrade).await.expect("attached");
    cell.operator.revokes(&second).await;
    viewer.expect_close(1008, "auth.revoked").await;
    let refusal = PlainClient::open(&upgrade).await.expect_err("the token is revoked");
    assert_eq!(refusal.refusal(), (403, "auth.revoked".to_owned()));
    other.types("unharmed\n").await;
    other.shows("unharmed").await;
}

#[tokio::test]
async fn a_token_that_expires_closes_its_sessions_with_1008_where_that_is_asked_for() {
    let cell = Plan::default().gateway("end_sessions_at_expiry", "true").start().await;
    let instance = cell.create().await;
    let process = instance.command("cat").await;
    let mut upgrade = process.upgrade("from=now");
    upgrade.token = Some(cell.operator.token(&instance.id, &json!({"ttl_seconds": 2})).await.text);
    let mut viewer = PlainClient::open(&upgrade).await.expect("attached");
    viewer.expect_close(1008, "auth.expired").await;
}

// --- the gateway ---

#[tokio::test]
async fn a_draining_gateway_gives_plain_clients_until_the_deadline_and_then_says_so() {
    let mut cell = Plan::default().gateway("drain_timeout_ms", "1500").start().await;
    let instance = cell.create().await;
    let process = instance.command("cat").await;
    let mut viewer = process.attach("now").await;
    viewer.goes_live().await;
    let started = Instant::now();
    cell.gateway.signal(Signal::SIGTERM);
    viewer.types("still served\n").await;
    viewer.shows("still served").await;
    viewer.socket.expect_close(1012, "gateway.draining").await;
    assert!(started.elapsed() >= Duration::from_millis(1400), "{:?}", started.elapsed());
    assert!(cell.gateway.ends().await.success());
}

#[tokio::test]
async fn a_gateway_that_is_killed_leaves_the_process_and_its_log_to_be_attached_again() {
    let mut cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("printf 12345; read x; printf 678; read y").await;
    process.attach("start").await.shows("12345").await;
    cell.gateway.restart().await;
    cell.downstream.lead_to(cell.gateway.address());
    let mut viewer = process.attach(3).await;
    viewer.types("\n").await;
    viewer.shows("45678").await;
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_frame_puts_nothing_inside_it() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("cat /dev/zero").await;
    let mut upgrade = process.upgrade("from=start");
    upgrade.receive_buffer = Some(4096);
    let mut stalled = PlainClient::open(&upgrade).await.expect("attached");
    // Far more than all buffers on the way to the other one take.
    process.attach("start").await.reads(30_000_000).await;
    instance.is_deleted().await;
    instance.comes_to("deleted").await;
    // The client's own parser is the judge: it takes no byte that is not of a whole, unmasked, known frame.
    let last = loop {
        match stalled.next().await {
            Event::Binary(bytes) => {
                assert!(bytes[0] != 1 || bytes[1..].iter().all(|byte| *byte == 0), "something stands inside a frame");
            }
            Event::Text(_) | Event::Ping | Event::Pong(_) => {}
            last @ (Event::Close(..) | Event::Ended(_)) => break last,
        }
    };
    match last {
        Event::Close(code, reason) => assert_eq!((code, reason.as_str()), (4410, "instance.gone")),
        how => assert!(matches!(how, Event::Ended(Some(_))), "{how:?}"),
    }
}

#[tokio::test]
async fn an_answer_says_once_which_request_it_is_of_whoever_wrote_it() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let answers = [
        cell.operator.ask("GET", "/v1/nodes", None).await,
        cell.operator.ask("GET", "/v1/nothing", None).await,
        instance.ask("GET", "/processes", None).await,
        instance.ask("GET", "/processes/prc_1", None).await,
    ];
    for answer in answers {
        for (name, most) in [("landfast-request-id", 1), ("landfast-attempts", 1), ("landfast-generation", 1)] {
            let count = answer.headers.iter().filter(|(header, _)| header == name).count();
            assert!(count <= most && (name != "landfast-request-id" || count == 1), "{name}: {answer:?}");
        }
    }
}
