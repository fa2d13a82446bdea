//! An attachment over sessions that are cut, forgotten and refused, against the session protocol's real far end.

mod cell;

use landfast_client::{Attach, Attached, Client, Error, Event, ExitStatus, From, State, Stream};
use landfast_core::ErrorCode;
use tokio::time::{Duration, timeout};

use crate::cell::{Cell, INSTANCE, PROCESS, REDRAW};

/// Longer than anything here takes; a test that waits it out has failed.
const PATIENCE: Duration = Duration::from_secs(20);

async fn attach(cell: &Cell, from: From) -> Result<Attached, Error> {
    attach_with(cell, Attach::from(from)).await
}

async fn attach_with(cell: &Cell, how: Attach) -> Result<Attached, Error> {
    let client = Client::new(&cell.url(), "lf_key").unwrap();
    timeout(PATIENCE, client.attach(*INSTANCE, *PROCESS, how)).await.expect("attaching takes too long")
}

/// The next event that is no state.
async fn next(attached: &mut Attached) -> Result<Option<Event>, Error> {
    loop {
        match timeout(PATIENCE, attached.next()).await.expect("no event came") {
            Ok(Some(Event::State(_))) => {}
            other => return other,
        }
    }
}

/// Events up to and with `last`, output joined.
async fn until(attached: &mut Attached, last: &Event) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut heard = Vec::new();
    loop {
        let event = next(attached).await.unwrap().expect("it goes on");
        if let Event::Output { bytes, .. } = &event {
            heard.extend_from_slice(bytes);
            let joined = output(&heard);
            if joined == *last {
                events.push(joined);
                return events;
            }
            continue;
        }
        if !heard.is_empty() {
            events.push(output(&std::mem::take(&mut heard)));
        }
        events.push(event);
        if events.last() == Some(last) {
            return events;
        }
    }
}

fn output(bytes: &[u8]) -> Event {
    Event::Output { stream: Stream::Stdout, bytes: bytes.to_vec().into() }
}

#[tokio::test]
async fn an_attachment_replays_goes_live_and_tells_the_exit_once() {
    let cell = Cell::start().await;
    cell.say(b"before ");
    let mut attached = attach(&cell, From::Start).await.unwrap();
    until(&mut attached, &output(b"before ")).await;
    assert_eq!(next(&mut attached).await.unwrap(), Some(Event::ReplayEnd { offset: 7 }));
    cell.say(b"after");
    until(&mut attached, &output(b"after")).await;
    assert_eq!(attached.offset(), Some(12));
    cell.exit(3);
    assert_eq!(next(&mut attached).await.unwrap(), Some(Event::Exit(ExitStatus(3))));
    assert_eq!(next(&mut attached).await.unwrap(), None);
}

#[tokio::test]
async fn a_cut_link_is_nothing_but_a_state() {
    let cell = Cell::start().await;
    let mut attached = attach(&cell, From::Start).await.unwrap();
    for _ in 0..5 {
        cell.say(b"x");
        until(&mut attached, &output(b"x")).await;
        cell.cut();
    }
    cell.exit(0);
    assert_eq!(next(&mut attached).await.unwrap(), Some(Event::Exit(ExitStatus(0))));
    assert_eq!(cell.sessions_opened(), 1);
}

#[tokio::test]
async fn a_session_that_was_forgotten_goes_on_at_the_offset_with_one_replay_end() {
    let cell = Cell::start().await;
    let mut attached = attach(&cell, From::Now).await.unwrap();
    assert_eq!(next(&mut attached).await.unwrap(), Some(Event::ReplayEnd { offset: 0 }));
    cell.say(b"one ");
    until(&mut attached, &output(b"one ")).await;
    cell.forget_sessions();
    cell.say(b"two ");
    until(&mut attached, &output(b"two ")).await;
    cell.say(b"three");
    until(&mut attached, &output(b"three")).await;
    cell.exit(0);
    assert_eq!(next(&mut attached).await.unwrap(), Some(Event::Exit(ExitStatus(0))));
    assert_eq!(cell.sessions_opened(), 2);
}

#[tokio::test]
async fn only_what_was_evicted_meanwhile_is_a_gap() {
    let cell = Cell::start().await;
    let mut attached = attach(&cell, From::Start).await.unwrap();
    cell.say(b"kept ");
    until(&mut attached, &output(b"kept ")).await;
    cell.hold();
    cell.say(b"evicted rest");
    cell.evict_before(13);
    cell.forget_sessions();
    cell.release();
    let events = until(&mut attached, &output(b"rest")).await;
    assert!(events.contains(&Event::Gap { from: 5, to: 13 }), "{events:?}");
}

#[tokio::test]
async fn a_terminal_is_redrawn_after_a_gap_and_goes_on_live() {
    let cell = Cell::start().await;
    let mut attached = attach_with(&cell, Attach { redraw: true, ..Attach::from(From::Start) }).await.unwrap();
    cell.say(b"kept ");
    until(&mut attached, &output(b"kept ")).await;
    attached.input().resize(40, 120).await.unwrap();
    cell.until_told(r#"{"resize":{"rows":40,"cols":120}}"#, 1).await;
    cell.hold();
    cell.say(b"evicted rest");
    cell.evict_before(13);
    cell.forget_sessions();
    cell.release();
    let events = until(&mut attached, &output(REDRAW)).await;
    assert!(events.ends_with(&[Event::Gap { from: 5, to: 13 }, output(REDRAW)]), "{events:?}");
    cell.say(b"live");
    until(&mut attached, &output(b"live")).await;
    assert_eq!((attached.offset(), cell.sessions_opened()), (Some(21), 3));
    attached.input().write("typed").await.unwrap();
    cell.until_typed(b"typed").await;
    cell.until_told(r#"{"resize":{"rows":40,"cols":120}}"#, 3).await;
}

#[tokio::test]
async fn input_under_way_when_the_session_is_forgotten_is_told_and_not_typed_twice() {
    let cell = Cell::start().await;
    let mut attached = attach(&cell, From::Now).await.unwrap();
    next(&mut attached).await.unwrap();
    let input = attached.input();
    input.write("first").await.unwrap();
    cell.until_typed(b"first").await;
    cell.hold();
    input.write("lost").await.unwrap();
    cell.forget_sessions();
    cell.release();
    assert_eq!(next(&mut attached).await.unwrap(), Some(Event::InputUnsure));
    input.write("second").await.unwrap();
    cell.until_typed(b"firstsecond").await;
}

#[tokio::test]
async fn a_terminals_size_is_told_to_the_new_session() {
    let cell = Cell::start().await;
    let mut attached = attach(&cell, From::Now).await.unwrap();
    next(&mut attached).await.unwrap();
    attached.input().resize(40, 120).await.unwrap();
    cell.until_told(r#"{"resize":{"rows":40,"cols":120}}"#, 1).await;
    cell.forget_sessions();
    cell.until_told(r#"{"resize":{"rows":40,"cols":120}}"#, 2).await;
}

#[tokio::test]
async fn a_token_that_has_expired_is_replaced_without_a_word() {
    let cell = Cell::start().await;
    let mut attached = attach(&cell, From::Start).await.unwrap();
    cell.expire_token();
    cell.cut();
    cell.say(b"still here");
    until(&mut attached, &output(b"still here")).await;
    assert_eq!((cell.tokens_made(), cell.sessions_opened()), (2, 1));
}

#[tokio::test]
async fn a_refusal_is_typed_and_comes_at_once() {
    let cell = Cell::start().await;
    cell.refuse(ErrorCode::ProcessUnknown);
    let error = attach(&cell, From::Start).await.unwrap_err();
    assert_eq!((error.code(), error.status()), (Some(ErrorCode::ProcessUnknown), Some(404)));
    assert_eq!(error.request_id(), Some("req_test"));
}

#[tokio::test]
async fn an_instance_that_ends_under_an_attachment_is_named_once() {
    let cell = Cell::start().await;
    let mut attached = attach(&cell, From::Now).await.unwrap();
    next(&mut attached).await.unwrap();
    cell.refuse(ErrorCode::InstanceGone);
    cell.cut();
    assert_eq!(next(&mut attached).await.unwrap_err().code(), Some(ErrorCode::InstanceGone));
    assert_eq!(next(&mut attached).await.unwrap(), None);
}

#[tokio::test]
async fn states_tell_of_a_loss_and_of_its_end() {
    let cell = Cell::start().await;
    let mut attached = attach(&cell, From::Now).await.unwrap();
    assert_eq!(attached.next().await.unwrap(), Some(Event::State(State::Connected)));
    next(&mut attached).await.unwrap();
    cell.hold();
    cell.cut();
    let lost = timeout(PATIENCE, attached.next()).await.unwrap().unwrap();
    assert!(matches!(lost, Some(Event::State(State::Reconnecting { attempt: 1.., .. }))), "{lost:?}");
    cell.release();
    loop {
        if timeout(PATIENCE, attached.next()).await.unwrap().unwrap() == Some(Event::State(State::Connected)) {
            return;
        }
    }
}

#[tokio::test]
async fn detaching_closes_in_order_after_what_was_typed() {
    let cell = Cell::start().await;
    let attached = attach(&cell, From::Now).await.unwrap();
    attached.input().write("last words").await.unwrap();
    timeout(PATIENCE, attached.detach()).await.expect("detaching takes too long");
    cell.until_typed(b"last words").await;
    cell.until_left().await;
}
