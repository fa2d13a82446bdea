//! A real Chromium that lives and does not answer.

use std::time::Duration;

use landfast_core::record::Browser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::browser::{agent_of, is_up, status};
use crate::cdp::{connect, page, reason, told};
use crate::events::Stream;
use crate::harness::Agent;

/// The least that a spec may say, in seconds.
const SILENCE: u64 = 3;

async fn watched(silence: u64) -> Agent {
    agent_of(Browser { unresponsive_after: Some(silence), ..Browser::default() }).await
}

fn signal(status: &Value, signal: Signal) {
    kill(Pid::from_raw(status["pid"].as_i64().unwrap() as i32), signal).unwrap();
}

#[tokio::test]
async fn a_browser_that_is_stopped_is_started_anew_and_its_clients_are_told_why() {
    let agent = watched(SILENCE).await;
    let first = is_up(&agent, 1).await;
    let mut crashes = Stream::open(&agent, "type=service_crashed&replay=all", None).await;
    let mut told = told(&agent).await;
    let mut client = connect(&agent, "/cdp").await;
    client.call("Browser.getVersion", json!({})).await;
    let stopped = Instant::now();
    signal(&first, Signal::SIGSTOP);
    client.calls("Browser.getVersion", json!({})).await;
    client.is_told_of_the_change().await;
    eprintln!("told {:?} after the stop", stopped.elapsed());
    assert!(stopped.elapsed() >= Duration::from_secs(SILENCE));
    assert_eq!(reason(&mut told).await, "upstream_changed");
    let crash = crashes.event_of("service_crashed").await["data"].clone();
    assert_eq!(
        (&crash["service"], &crash["phase"], &crash["start"]),
        (&json!("chromium"), &json!("running"), &json!(1))
    );
    assert_eq!(crash["error"], "It was up and did not answer any more.");
    let second = is_up(&agent, 2).await;
    assert!(second["start"] == 2 && second["pid"] != first["pid"]);
    assert!(connect(&agent, "/cdp").await.call("Browser.getVersion", json!({})).await["product"].is_string());
}

/// What a debugger stops is a page, and the browser around it answers.
#[tokio::test]
async fn a_page_that_hangs_or_is_stopped_by_a_debugger_is_no_browser_that_does() {
    let agent = watched(SILENCE).await;
    let first = is_up(&agent, 1).await;
    let mut debugged = connect(&agent, &page(&agent).await).await;
    debugged.call("Debugger.enable", json!({})).await;
    debugged.calls("Runtime.evaluate", json!({"expression": "debugger; 1"})).await;
    let other = agent.ask("PUT", "/json/new?about:blank", "").await.json();
    let mut busy = connect(&agent, &format!("/devtools/page/{}", other["id"].as_str().unwrap())).await;
    busy.calls("Runtime.evaluate", json!({"expression": "for (;;) {}"})).await;
    // As long as two such browsers would have been given up in.
    sleep(Duration::from_secs(4 * SILENCE)).await;
    let still = status(&agent).await;
    assert_eq!((&still["state"], &still["start"], &still["pid"]), (&json!("up"), &json!(1), &first["pid"]));
}

#[tokio::test]
async fn a_browser_that_answers_again_in_time_and_one_that_nobody_asks_are_left_alone() {
    let (brief, unasked) = (watched(20 * SILENCE).await, watched(0).await);
    let stopped = [is_up(&brief, 1).await, is_up(&unasked, 1).await];
    for status in &stopped {
        signal(status, Signal::SIGSTOP);
    }
    sleep(Duration::from_secs(4 * SILENCE)).await;
    for (agent, stopped) in [&brief, &unasked].into_iter().zip(&stopped) {
        signal(stopped, Signal::SIGCONT);
        let mut client = connect(agent, "/cdp").await;
        assert!(client.call("Browser.getVersion", json!({})).await["product"].is_string());
        assert_eq!(status(agent).await["pid"], stopped["pid"]);
    }
}
