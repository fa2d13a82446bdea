//! Section 1 of the specification of sessions: the link protocol, as a link-aware client meets it through a gateway.

use std::time::Duration;

use landfast_core::link::{Close, DATA_MAX, Header, Kind, encode_number};
use landfast_scenarios::cell::Cell;
use landfast_scenarios::instance::Process;
use landfast_scenarios::raw_link::{RawLink, Ticket, input_frame};
use nix::sys::signal::Signal;
use tokio::time::{Instant, timeout};

/// A process that echoes, and an open link to it.
async fn linked(cell: &Cell) -> (Process, RawLink) {
    let process = cell.create().await.command("cat").await;
    let link = RawLink::open(&process, "from=now").await.expect("a session is opened");
    (process, link)
}

fn refused(result: Result<RawLink, landfast_scenarios::http::Answer>) -> (u16, String) {
    result.expect_err("refused").refusal()
}

// --- opening and resuming ---

#[tokio::test]
async fn an_opened_link_has_a_session_a_secret_a_window_and_the_far_ends_answer() {
    let cell = Cell::start().await;
    let (_, link) = linked(&cell).await;
    let Ticket { session, secret } = link.ticket();
    assert!(session.starts_with("ses_") && secret.len() == 32, "{session} {secret}");
    assert!(secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{secret}");
    assert_eq!(link.answer.header("landfast-window"), Some("1048576"));
    assert_eq!(link.answer.header("upgrade"), Some("landfast-link/1"));
    assert!(link.answer.header("landfast-head").is_some());
}

#[tokio::test]
async fn a_session_goes_on_over_a_new_link_from_what_each_end_has() {
    let cell = Cell::start().await;
    let (process, mut link) = linked(&cell).await;
    link.send_data(&input_frame("one\n")).await;
    // The end of replay (a frame of 11 bytes), then the echo (a frame of 7).
    let mut heard = link.next_data(18).await;
    let ticket = link.ticket();
    drop(link);
    // Half of it is claimed never to have arrived: it comes again.
    let mut link = RawLink::resume(&process.instance, &ticket, 2, 9).await.expect("resumed");
    assert_eq!(link.answer.header("landfast-received"), Some(&*input_frame("one\n").len().to_string()));
    assert_eq!(link.next_data(9).await, heard.split_off(9));
    link.send_data(&input_frame("two\n")).await;
    assert!(link.next_data(7).await.ends_with(b"two\n"));
}

#[tokio::test]
async fn a_resume_that_cannot_be_is_refused_with_its_reason() {
    let cell = Cell::start().await;
    let (process, mut link) = linked(&cell).await;
    let ticket = link.ticket();
    let instance = &process.instance;
    let wrong = Ticket { secret: "0".repeat(32), ..ticket.clone() };
    assert_eq!(refused(RawLink::resume(instance, &wrong, 2, 0).await), (403, "session.forbidden".to_owned()));
    let unknown = Ticket { session: "ses_00000000000000000000000000".to_owned(), ..ticket.clone() };
    assert_eq!(refused(RawLink::resume(instance, &unknown, 2, 0).await), (404, "session.unknown".to_owned()));
    assert_eq!(refused(RawLink::resume(instance, &ticket, 1, 0).await), (409, "session.superseded".to_owned()));
    assert_eq!(refused(RawLink::resume(instance, &ticket, 2, 1 << 40).await), (400, "link.protocol".to_owned()));
    let other = cell.create().await;
    assert_eq!(refused(RawLink::resume(&other, &ticket, 3, 0).await), (404, "session.unknown".to_owned()));
    // None of that has harmed the session.
    let mut again = RawLink::resume(instance, &ticket, 9, 0).await.expect("resumed");
    again.send_data(&input_frame("on\n")).await;
    assert!(again.next_data(17).await.ends_with(b"on\n"));
    link.ends().await;
}

#[tokio::test]
async fn a_version_that_is_not_spoken_is_refused_as_such() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let answer = RawLink::upgrade(&instance, "/links", "landfast-link/9", "landfast-window: 1\r\nlandfast-head: \r\n");
    assert_eq!(refused(answer.await), (426, "link.version".to_owned()));
}

#[tokio::test]
async fn an_open_that_cannot_be_read_is_refused() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    for headers in [
        "",
        "landfast-window: 1048576\r\n",
        "landfast-window: x\r\nlandfast-head: R0VU\r\n",
        "landfast-window: 1048576\r\nlandfast-head: !\r\n",
    ] {
        let (status, code) = refused(RawLink::upgrade(&instance, "/links", "landfast-link/1", headers).await);
        assert_eq!(status, 400, "{headers:?}: {code}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_far_end_stands_in_the_place_of_the_upgrade() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let nowhere = Process { instance, id: "prc_00000000000000000000000000".to_owned() };
    assert_eq!(refused(RawLink::open(&nowhere, "from=now").await), (404, "process.unknown".to_owned()));
}

#[tokio::test]
async fn a_newer_link_ends_the_older_and_what_that_says_is_ignored() {
    let cell = Cell::start().await;
    let (process, mut older) = linked(&cell).await;
    let mut newer = RawLink::resume(&process.instance, &older.ticket(), 2, 0).await.expect("resumed");
    older.send_data(&input_frame("from the older\n")).await;
    older.ends().await;
    newer.send_data(&input_frame("from the newer\n")).await;
    let heard = newer.next_data(11 + 3 + 15).await;
    assert!(heard.ends_with(b"from the newer\n"), "{heard:?}");
}

#[tokio::test]
async fn a_session_outlives_the_gateway_it_came_through() {
    let mut cell = Cell::start().await;
    let (process, link) = linked(&cell).await;
    cell.gateway.restart().await;
    cell.downstream.lead_to(cell.gateway.address());
    let mut again = RawLink::resume(&process.instance, &link.ticket(), 2, 0).await.expect("resumed");
    again.send_data(&input_frame("still here\n")).await;
    assert!(again.next_data(11 + 14).await.ends_with(b"still here\n"));
}

#[tokio::test]
async fn a_draining_gateway_ends_links_at_once_for_they_are_taken_up_elsewhere() {
    let mut cell = Cell::start().await;
    let (process, mut link) = linked(&cell).await;
    cell.gateway.signal(Signal::SIGTERM);
    timeout(Duration::from_secs(2), link.ends()).await.expect("it need not wait for the deadline");
    cell.gateway.ends().await;
    cell.gateway.start_again().await;
    cell.downstream.lead_to(cell.gateway.address());
    RawLink::resume(&process.instance, &link.ticket(), 2, 0).await.expect("resumed");
}

// --- records ---

#[tokio::test]
async fn what_was_handed_on_is_acknowledged_within_a_moment() {
    let cell = Cell::start().await;
    let (_, mut link) = linked(&cell).await;
    let frame = input_frame("x");
    let started = Instant::now();
    link.send_data(&frame).await;
    while link.next_number(Kind::Ack).await < frame.len() as u64 {}
    assert!(started.elapsed() < Duration::from_secs(1), "50 ms are asked for: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_ping_is_answered_with_its_number() {
    let cell = Cell::start().await;
    let (_, mut link) = linked(&cell).await;
    link.send_ping(4711).await;
    assert_eq!(link.next_number(Kind::Pong).await, 4711);
}

#[tokio::test]
async fn a_record_that_is_not_allowed_ends_the_link_and_not_the_session() {
    let cell = Cell::start().await;
    let (process, link) = linked(&cell).await;
    let ticket = link.ticket();
    drop(link);
    let wrong: [(&str, Vec<u8>); 5] = [
        ("an unknown kind", vec![9, 0, 0, 0]),
        ("an oversized record", Header { kind: Kind::Data, len: DATA_MAX + 1 }.encode().to_vec()),
        ("an empty record", vec![1, 0, 0, 0]),
        ("an acknowledgement of what was never sent", encode_number(Kind::Ack, 1 << 40).to_vec()),
        ("a close that cannot be read", vec![5, 0, 0, 2, 99, 0]),
    ];
    for (number, (what, record)) in (2..).zip(wrong) {
        let mut link = RawLink::resume(&process.instance, &ticket, number, 0).await.expect(what);
        link.send(&record).await;
        timeout(Duration::from_secs(5), link.ends()).await.expect(what);
    }
    let mut link = RawLink::resume(&process.instance, &ticket, 99, 0).await.expect("resumed");
    link.send_data(&input_frame("unharmed\n")).await;
    assert!(link.next_data(11 + 12).await.ends_with(b"unharmed\n"));
}

#[tokio::test]
async fn data_past_the_window_ends_the_link() {
    let cell = Cell::start().await;
    let process = cell.create().await.command("sleep 100").await;
    let mut link = RawLink::open(&process, "from=now").await.expect("opened");
    // One endless frame, so that nothing of it can be handed on to the process as input that is whole.
    let mut data = vec![0; DATA_MAX];
    data[..14].copy_from_slice(&[0x82, 0xff, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    let flood = async {
        for _ in 0..64 {
            link.send_data(&data).await;
        }
    };
    timeout(Duration::from_secs(10), flood).await.expect("the link is read or ended");
    link.ends().await;
}

#[tokio::test]
async fn a_close_ends_the_session_for_both() {
    let cell = Cell::start().await;
    let (process, mut link) = linked(&cell).await;
    let ticket = link.ticket();
    let mut record = Vec::new();
    Close::new(landfast_core::ErrorCode::ClientClose, "").encode(&mut record);
    link.send(&record).await;
    loop {
        match link.next().await {
            Some((Kind::Close, _)) | None => break,
            Some(_) => {}
        }
    }
    link.ends().await;
    assert_eq!(refused(RawLink::resume(&process.instance, &ticket, 2, 0).await), (404, "session.unknown".to_owned()));
    assert_eq!(process.record().await["state"], "running");
}
