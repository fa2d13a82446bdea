//! The rows whose times are long, with exactly those times. They sleep nearly all the while, beside one another.

use std::time::Duration;

use landfast_scenarios::cell::Cell;
use landfast_scenarios::forwarded::Forwarded;
use landfast_scenarios::leaks::returns_to;
use landfast_scenarios::plain::Event;
use landfast_scenarios::served::{NAME, Served};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// From the first unanswered ping to the end: two more periods of 20 s, and what a busy machine adds.
const TWO_PINGS: Duration = Duration::from_secs(75);

#[tokio::test]
async fn a_client_that_answers_no_ping_is_given_up_after_two() {
    let cell = Cell::for_counting().await;
    let instance = cell.create().await;
    let process = instance.command("read x").await;
    let before = cell.gateway.settled().await;
    let mut viewer = process.attach("now").await;
    viewer.goes_live().await;
    viewer.socket.answers_pings = false;
    for ping in 1..=2 {
        let heard = viewer.socket.next_within(TWO_PINGS).await;
        assert_eq!(heard, Some(Event::Ping), "ping {ping}");
    }
    let third = viewer.socket.next_within(TWO_PINGS).await;
    assert!(matches!(third, Some(Event::Close(..) | Event::Ended(_))), "{third:?}");
    returns_to(cell.gateway.pid(), before, Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_client_that_says_anything_at_all_lives_and_pongs_go_no_further() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("cat").await;
    let (mut answers, mut talks) = (process.attach("now").await, process.attach("now").await);
    talks.socket.answers_pings = false;
    let mut pings = 0;
    let deadline = Instant::now() + TWO_PINGS;
    while Instant::now() < deadline {
        talks.types("x").await;
        let heard = answers.socket.next_within(Duration::from_secs(1)).await;
        pings += usize::from(heard == Some(Event::Ping));
    }
    talks.types("alive\n").await;
    talks.shows("alive").await;
    answers.shows("alive").await;
    assert_eq!(pings, 3, "one every 20 s");
}

#[tokio::test]
async fn a_node_that_stays_away_ends_the_session_after_sixty_seconds() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("cat").await.attach("now").await;
    viewer.goes_live().await;
    let started = Instant::now();
    cell.node_ref("a").network.refuse(true);
    cell.cut_links();
    let mut heard = Some(Event::Ping);
    while matches!(heard, Some(Event::Ping)) {
        heard = viewer.socket.next_within(Duration::from_secs(70)).await;
    }
    assert_eq!(heard, Some(Event::Close(1013, "node.unreachable".to_owned())));
    let took = started.elapsed();
    assert!((Duration::from_secs(59)..Duration::from_secs(68)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_forwarded_connection_waits_for_its_far_end_for_longer_than_a_minute() {
    let cell = Cell::start().await;
    let served = Served::start(&cell).await;
    let forwarded = Forwarded::start(&served.instance, NAME).await;
    cell.node_ref("a").network.refuse(true);
    cell.cut_links();
    let back = async {
        // A browser may take 90 s to start, and may be dialled as soon as its instance is asked for.
        sleep(Duration::from_secs(70)).await;
        cell.node_ref("a").network.refuse(false);
    };
    let mut socket = TcpStream::connect(forwarded.address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    let read = timeout(Duration::from_secs(100), socket.read_exact(&mut answer));
    let ((), read) = tokio::join!(back, read);
    read.expect("an answer in time").expect("no reset");
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn an_upstream_that_fell_silent_is_found_within_two_ping_periods() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("cat").await.attach("now").await;
    viewer.goes_live().await;
    let started = Instant::now();
    cell.node_ref("a").network.silence();
    viewer.types("through the silence\n").await;
    let mut heard = None;
    while heard.is_none() {
        let event = viewer.socket.next_within(Duration::from_secs(35)).await.expect("within two ping periods");
        heard = (event != Event::Ping).then_some(event);
    }
    assert_eq!(heard, Some(Event::Binary(b"\x01through the silence\n".to_vec())));
    assert!(started.elapsed() < Duration::from_secs(32), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_client_that_fell_silent_is_found_within_two_ping_periods() {
    let cell = Cell::for_counting().await;
    let instance = cell.create().await;
    let process = instance.command("cat").await;
    let before = cell.gateway.settled().await;
    let mut viewer = process.attach("now").await;
    viewer.goes_live().await;
    cell.downstream.silence();
    returns_to(cell.gateway.pid(), before, TWO_PINGS).await;
    assert_eq!(process.record().await["state"], "running", "its process runs on");
}
