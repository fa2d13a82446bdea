//! Tells what the browser's pages do as events, for as long as somebody has asked for it.
//!
//! It is one more client of the browser beside the user's own, attached to every page and to the frames in them. It says
//! what it saw and never what it guesses: after a restart, or when Chromium speaks faster than this can tell, an event
//! says that something may be missing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use landfast_core::Problem;
use landfast_core::event::{Event as Told, Source, Telemetry};
use landfast_net::clock;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::client::{CallError, Client, Event, Events};
use super::{Browser, DevTools};
use crate::events::Events as Ring;

/// The most characters of a text in an event: a console takes whole documents.
const TEXT_MAX: usize = 8 * 1024;

/// Arguments of one console call that are told.
const ARGUMENTS_MAX: usize = 16;

/// Between two tries to reach a browser that is up and does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Watches whatever start of the browser is up, for what is wanted. Runs until dropped.
pub(crate) async fn run(browser: Arc<Browser>, ring: Arc<Ring>) {
    let mut wanted = ring.telemetry();
    let mut was_lost = false;
    loop {
        if wanted.wait_for(|wanted| *wanted != Telemetry::default()).await.is_err() {
            return;
        }
        let Ok(devtools) = browser.up().await else {
            sleep(PAUSE).await;
            continue;
        };
        let watched = tokio::select! {
            watched = watch_one(&devtools, &wanted, &ring, was_lost) => watched,
            // Nothing more is wanted: Chromium need not say it either.
            Ok(_) = nothing_wanted(wanted.clone()) => {
                was_lost = false;
                continue;
            }
        };
        if let Err(problem) = watched {
            tracing::debug!(%problem, "the browser is not watched for now");
            sleep(PAUSE).await;
        } else {
            ring.say("monitor_disconnected", json!({"reason": "the browser has ended"}));
            was_lost = true;
        }
    }
}

async fn nothing_wanted(mut wanted: watch::Receiver<Telemetry>) -> Result<(), watch::error::RecvError> {
    wanted.wait_for(|wanted| *wanted == Telemetry::default()).await.map(drop)
}

/// Watches one start of the browser until it ends.
async fn watch_one(
    devtools: &DevTools,
    wanted: &watch::Receiver<Telemetry>,
    ring: &Ring,
    was_lost: bool,
) -> Result<(), Problem> {
    let (client, mut events) = Client::connect(devtools).await?;
    // Only of targets that are discovered it says that they crashed.
    client.call("Target.setDiscoverTargets", json!({"discover": true}), None).await?;
    follow(&client, None).await?;
    if was_lost {
        ring.say("monitor_reconnected", json!({}));
    }
    // Each by itself: a page that has died does not answer, and must not keep others waiting.
    let mut beginning = FuturesUnordered::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(begun) = beginning.next() => {
                if let Err(problem) = begun {
                    // It may have been closed meanwhile, which another event says.
                    tracing::debug!(%problem, "a page is not watched");
                }
                continue;
            }
        };
        let Some(event) = event else { return Ok(()) };
        if event.method == "Target.attachedToTarget"
            && let Some(session) = event.params["sessionId"].as_str()
        {
            beginning.push(begin(&client, session.to_owned()));
        }
        let wanted = *wanted.borrow();
        if let Some((kind, data)) = told(&event, wanted) {
            let source = Source { event: Some(event.method.clone()), ..Source::new("cdp") };
            ring.emit(&Told::new(kind, clock::unix_micros()).with_data(data).with_source(source));
        }
        say_missed(&events, ring);
    }
}

fn say_missed(events: &Events, ring: &Ring) {
    let missed = events.missed();
    if missed > 0 {
        ring.say("monitor_missed", json!({"events": missed}));
    }
}

/// Has the browser, or a page, attach us to what it opens. That waits for us, or a page that loads at once would have
/// navigated before it was watched.
async fn follow(client: &Client, session: Option<&str>) -> Result<(), Problem> {
    let excluded = ["browser", "tab", "browser_ui"].map(|kind| json!({"type": kind, "exclude": true}));
    // An empty entry lets in all others. What Chromium shows around its pages is nobody's page.
    let filter: Vec<Value> = excluded.into_iter().chain([json!({})]).collect();
    let how = json!({"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true, "filter": filter});
    client.call("Target.setAutoAttach", how, session).await.map(drop).map_err(Problem::from)
}

/// Has a target say what it does, then lets it go on. One that is no page knows only some of it.
async fn begin(client: &Client, session: String) -> Result<(), Problem> {
    let session = session.as_str();
    let methods = ["Runtime.enable", "Network.enable", "Page.enable"];
    // All at once: the page waits.
    let enabled = join_all(methods.map(|method| client.call(method, json!({}), Some(session)))).await;
    let followed = follow(client, Some(session)).await;
    client.call("Runtime.runIfWaitingForDebugger", json!({}), Some(session)).await?;
    for answer in enabled {
        match answer {
            Ok(_) | Err(CallError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    followed
}

/// What an event of the browser is told as, if it is wanted.
fn told(event: &Event, wanted: Telemetry) -> Option<(&'static str, Value)> {
    let (said, session) = (&event.params, &event.session);
    let (is_wanted, kind, mut data) = match event.method.as_str() {
        "Runtime.consoleAPICalled" => (wanted.console, console_kind(said), console(said)),
        "Runtime.exceptionThrown" => (wanted.console, "console_error", exception(&said["exceptionDetails"])),
        "Network.requestWillBeSent" => (wanted.network, "network_request", request(said)),
        "Network.responseReceived" => (wanted.network, "network_response", response(said)),
        "Network.loadingFailed" => (wanted.network, "network_loading_failed", failure(said)),
        "Page.frameNavigated" if said["frame"]["parentId"].is_null() => (
            wanted.page,
            "page_navigation",
            json!({"url": text(&said["frame"]["url"]), "frame_id": said["frame"]["id"]}),
        ),
        "Page.domContentEventFired" => (wanted.page, "page_dom_content_loaded", json!({})),
        "Page.loadEventFired" => (wanted.page, "page_load", json!({})),
        "Target.attachedToTarget" if said["targetInfo"]["type"] == "page" => {
            (wanted.page, "page_tab_opened", tab(&said["targetInfo"], &said["sessionId"]))
        }
        "Target.detachedFromTarget" if session.is_none() => {
            (wanted.page, "page_tab_closed", json!({"target_id": said["targetId"], "session_id": said["sessionId"]}))
        }
        "Target.targetCrashed" => (wanted.page, "page_crashed", crash(said)),
        _ => return None,
    };
    if let Some(session) = session {
        data["session_id"] = session.as_str().into();
    }
    is_wanted.then_some((kind, data))
}

fn console_kind(said: &Value) -> &'static str {
    if matches!(said["type"].as_str(), Some("error" | "assert")) { "console_error" } else { "console_log" }
}

fn console(said: &Value) -> Value {
    let arguments: Vec<Value> =
        said["args"].as_array().into_iter().flatten().take(ARGUMENTS_MAX).map(argument).collect();
    let top = &said["stackTrace"]["callFrames"][0];
    json!({"level": said["type"], "args": arguments, "url": text(&top["url"]), "line": top["lineNumber"]})
}

/// A value as the page's console would show it.
fn argument(argument: &Value) -> Value {
    match &argument["value"] {
        Value::Null => text(&argument["description"]),
        value @ (Value::Bool(_) | Value::Number(_)) => value.clone(),
        value @ Value::String(_) => text(value),
        value @ (Value::Array(_) | Value::Object(_)) => text(&Value::String(value.to_string())),
    }
}

fn exception(details: &Value) -> Value {
    let what = &details["exception"]["description"];
    let what = if what.is_null() { &details["text"] } else { what };
    json!({"level": "exception", "args": [text(what)], "url": text(&details["url"]), "line": details["lineNumber"]})
}

fn request(said: &Value) -> Value {
    json!({
        "request_id": said["requestId"], "method": said["request"]["method"], "url": text(&said["request"]["url"]),
        "resource_type": said["type"], "frame_id": said["frameId"],
    })
}

fn response(said: &Value) -> Value {
    let response = &said["response"];
    json!({
        "request_id": said["requestId"], "status": response["status"], "url": text(&response["url"]),
        "mime_type": response["mimeType"], "resource_type": said["type"], "from_cache": response["fromDiskCache"],
    })
}

fn failure(said: &Value) -> Value {
    json!({
        "request_id": said["requestId"], "error": said["errorText"], "resource_type": said["type"],
        "canceled": said["canceled"],
    })
}

fn crash(said: &Value) -> Value {
    json!({"target_id": said["targetId"], "status": said["status"], "error_code": said["errorCode"]})
}

fn tab(target: &Value, session: &Value) -> Value {
    json!({
        "target_id": target["targetId"], "title": text(&target["title"]), "url": text(&target["url"]),
        "session_id": session,
    })
}

/// A text, cut where it is too long for an event.
fn text(value: &Value) -> Value {
    match value.as_str() {
        Some(text) if text.len() > TEXT_MAX => text.chars().take(TEXT_MAX).collect::<String>().into(),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Telemetry = Telemetry { console: true, network: true, page: true };

    fn said(method: &str, params: Value, wanted: Telemetry) -> Option<(&'static str, Value)> {
        told(&Event::new(method, params, Some("S")), wanted)
    }

    #[test]
    fn what_a_page_does_has_a_name_of_ours() {
        for (method, params, kind) in [
            ("Runtime.consoleAPICalled", json!({"type": "log", "args": []}), "console_log"),
            ("Runtime.consoleAPICalled", json!({"type": "error", "args": []}), "console_error"),
            ("Runtime.exceptionThrown", json!({}), "console_error"),
            ("Network.requestWillBeSent", json!({}), "network_request"),
            ("Network.responseReceived", json!({}), "network_response"),
            ("Network.loadingFailed", json!({}), "network_loading_failed"),
            ("Page.frameNavigated", json!({"frame": {"url": "http://x/"}}), "page_navigation"),
            ("Page.domContentEventFired", json!({}), "page_dom_content_loaded"),
            ("Page.loadEventFired", json!({}), "page_load"),
            ("Target.attachedToTarget", json!({"targetInfo": {"type": "page"}}), "page_tab_opened"),
            ("Target.targetCrashed", json!({}), "page_crashed"),
        ] {
            assert_eq!(said(method, params, ALL).map(|(kind, _)| kind), Some(kind), "{method}");
        }
    }

    #[test]
    fn what_nobody_wants_is_not_told() {
        let console = Telemetry { console: true, ..Telemetry::default() };
        assert_eq!(said("Page.loadEventFired", json!({}), console), None);
        assert_eq!(said("Network.requestWillBeSent", json!({}), console), None);
        assert_eq!(said("Page.frameNavigated", json!({"frame": {"parentId": "f"}}), ALL), None);
        assert_eq!(said("Network.dataReceived", json!({}), ALL), None);
    }

    #[test]
    fn a_console_call_is_told_as_it_was_shown_and_never_at_length() {
        let args = json!([
            {"type": "string", "value": "x".repeat(TEXT_MAX + 1)},
            {"type": "number", "value": 7},
            {"type": "object", "description": "Object"},
        ]);
        let (_, data) = said("Runtime.consoleAPICalled", json!({"type": "log", "args": args}), ALL).unwrap();
        assert_eq!(data["args"][0].as_str().unwrap().len(), TEXT_MAX);
        assert_eq!(
            (&data["args"][1], &data["args"][2], &data["session_id"]),
            (&json!(7), &json!("Object"), &json!("S"))
        );
    }
}
