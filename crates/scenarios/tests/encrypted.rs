//! A cell whose parts know each other by certificates, as they have to on several machines.

use std::time::Duration;

use landfast_scenarios::cell::Plan;
use landfast_scenarios::numbers::Numbers;
use landfast_scenarios::served::Served;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test]
async fn a_session_over_tls_outlives_links_moves_and_a_daemons_restart() {
    let mut cell = Plan::default().encrypted().start().await;
    cell.add_node("b", Default::default()).await;
    let instance = cell.create().await;
    let mut viewer = instance.command("cat").await.attach("now").await;
    viewer.goes_live().await;
    for round in 0..5 {
        cell.cut_links();
        viewer.types(&format!("cut {round}\n")).await;
        viewer.shows(&format!("cut {round}\n")).await;
    }
    for node in cell.route_of(&instance, 2).await {
        instance.moves_to(node).await;
        viewer.types(&format!("at {node}\n")).await;
        viewer.shows(&format!("at {node}\n")).await;
    }
    let (at, _) = cell.place_of(&instance).await;
    cell.node(at).restart().await;
    viewer.types("restarted\n").await;
    viewer.shows("restarted\n").await;
}

#[tokio::test]
async fn sixty_megabytes_each_way_are_the_same_bytes_over_links_that_are_slow_and_cut() {
    let cell = Plan::default().encrypted().start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("head -c 60000000").await.attach("now").await;
    viewer.goes_live().await;
    let input = Numbers::new(7).slice(0, 60_000_000);
    for piece in input.chunks(50_000) {
        viewer.socket.queue_binary(&[&[0], piece]);
    }
    for heard in [20_000_000, 40_000_000, 60_000_000] {
        cell.cut_links();
        viewer.reads(heard).await;
    }
    assert!(viewer.output == input, "what comes back is what was said");
    viewer.exits(0).await;
}

#[tokio::test]
async fn requests_to_a_service_pass_and_so_do_their_failures() {
    let cell = Plan::default().encrypted().start().await;
    let served = Served::start(&cell).await;
    for _ in 0..3 {
        let answer = served.ask("POST", "/anything?x=1", "body").await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b"POST /anything?x=1 body"[..]));
        cell.cut_links();
    }
    assert_eq!(served.ask("GET", "/refuse/503/x", "").await.status, 503);
}

#[tokio::test]
async fn a_relay_says_nothing_to_who_comes_in_the_clear() {
    let cell = Plan::default().encrypted().start().await;
    let key = std::fs::read_to_string(cell.operator.dir.join("cell.key")).unwrap();
    for address in [cell.node_ref("a").role.address(), cell.api.address()] {
        let mut stranger = TcpStream::connect(address).await.unwrap();
        let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nlandfast-cell-key: {}\r\n\r\n", key.trim());
        stranger.write_all(head.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        // An alert of TLS, or just the end.
        let _ = timeout(Duration::from_secs(30), stranger.read_to_end(&mut heard)).await.expect("it is left at once");
        assert!(!heard.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&heard));
    }
}
