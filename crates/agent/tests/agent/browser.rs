//! A real Chromium, kept by the agent.

use std::os::unix::fs::PermissionsExt as _;

use landfast_core::record::Browser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::events::Stream;
use crate::harness::{Agent, eventually};

/// An agent with a browser, which may not be up yet.
pub(crate) async fn agent_with(flags: &[&str]) -> Agent {
    let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    agent_of(Browser { flags, ..Browser::default() }).await
}

/// The same, of this spec.
pub(crate) async fn agent_of(browser: Browser) -> Agent {
    assert!(
        std::process::Command::new("chromium").arg("--version").output().is_ok(),
        "these tests drive a real Chromium; install the package chromium"
    );
    Agent::start_with(|config| config.browser = Some(browser)).await
}

pub(crate) async fn status(agent: &Agent) -> Value {
    let answer = agent.ask("GET", "/browser", "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Waits until this start or a later one is up.
pub(crate) async fn is_up(agent: &Agent, start: u64) -> Value {
    eventually(&format!("start {start} is up"), async || {
        let status = status(agent).await;
        (status["state"] == "up" && status["start"].as_u64() >= Some(start)).then_some(status)
    })
    .await
}

/// Kills the browser, as a crash would.
pub(crate) fn kill_browser(status: &Value) {
    kill(Pid::from_raw(status["pid"].as_i64().unwrap() as i32), Signal::SIGKILL).unwrap();
}

/// The processes that have this agent's profile, zombies among them.
fn family(agent: &Agent) -> Vec<String> {
    let profile = agent.config().state.join("browser/profile").display().to_string();
    let lines = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&profile)).collect()
}

#[tokio::test]
async fn a_browser_comes_up_by_itself_and_is_a_service_among_the_others() {
    let began = Instant::now();
    let agent = agent_with(&["--lang=de"]).await;
    let status = is_up(&agent, 1).await;
    eprintln!("up after {:?}", began.elapsed());
    assert!(status["version"].as_str().unwrap().starts_with("Chrome/"), "{status}");
    assert_eq!((&status["start"], &status["flags"]), (&json!(1), &json!(["--lang=de"])));
    let is_root = nix::unistd::geteuid().is_root();
    assert!(status["sandbox"]["enabled"] == !is_root || status["sandbox"]["reason"].is_string(), "{status}");
    let services = agent.ask("GET", "/services", "").await.json();
    let service = &services["services"][0];
    assert_eq!((&service["name"], &service["state"]), (&json!("chromium"), &json!("up")));
    assert_eq!(service["pid"], status["pid"]);
    let output = agent.ask("GET", "/services/chromium/output", "").await;
    let output = String::from_utf8_lossy(&output.body).into_owned();
    assert!(output.contains("DevTools listening"), "{output}");
    assert!(!output.contains("dbus"), "{output}");
}

#[tokio::test]
async fn a_browser_that_dies_is_up_again_with_nothing_left_of_the_old_one() {
    let mut agent = agent_with(&[]).await;
    let first = is_up(&agent, 1).await;
    let began = Instant::now();
    kill_browser(&first);
    let second = is_up(&agent, 2).await;
    eprintln!("up again after {:?}", began.elapsed());
    assert_eq!((&second["start"], &second["exit"]), (&json!(2), &json!({"signal": 9})));
    assert_ne!(second["pid"], first["pid"]);
    assert!(!family(&agent).is_empty());
    agent.stop().await;
    eventually("all of it is gone", async || family(&agent).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_lock_that_a_killed_browser_left_keeps_no_other_from_starting() {
    let mut agent = agent_with(&[]).await;
    is_up(&agent, 1).await;
    agent.stop().await;
    let profile = agent.config().state.join("browser/profile");
    // A process that lives, and is no browser.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim_end();
    let _ = std::fs::remove_file(profile.join("SingletonLock"));
    std::os::unix::fs::symlink(format!("{host}-{}", std::process::id()), profile.join("SingletonLock")).unwrap();
    std::fs::write(profile.join("DevToolsActivePort"), "1\n/devtools/browser/00000000-0000-0000-0000-000000000000")
        .unwrap();
    agent.start_again().await;
    is_up(&agent, 1).await;
}

#[tokio::test]
async fn flags_are_replaced_by_a_start_that_has_them_and_outlive_the_agent() {
    let mut agent = agent_with(&["--lang=de"]).await;
    let answer = agent.ask("PATCH", "/browser/flags", r#"{"flags":["--lang=fr","--window-size=900,700"]}"#).await;
    let status = answer.json();
    assert_eq!((answer.status, &status["state"]), (200, &json!("up")));
    let line = std::fs::read(format!("/proc/{}/cmdline", status["pid"])).unwrap();
    assert!(String::from_utf8_lossy(&line).contains("--window-size=900,700"));
    assert_eq!(status["flags"], json!(["--lang=fr", "--window-size=900,700"]));
    for (flags, named) in [
        (r#"["--remote-debugging-port=1"]"#, "--remote-debugging-port"),
        (r#"["--user-data-dir=/tmp"]"#, "--user-data-dir"),
        (r#"["lang"]"#, "lang"),
    ] {
        let refused = agent.ask("PATCH", "/browser/flags", format!(r#"{{"flags":{flags}}}"#)).await;
        assert_eq!(refused.refusal(), (400, "request.invalid".to_owned()));
        assert!(refused.json()["detail"].as_str().unwrap().contains(named));
    }
    assert_eq!(self::status(&agent).await["start"], status["start"], "what is refused starts nothing");
    agent.stop().await;
    agent.start_again().await;
    assert_eq!(is_up(&agent, 1).await["flags"], status["flags"]);
}

#[tokio::test]
async fn all_who_ask_for_a_restart_at_once_share_one() {
    let agent = agent_with(&[]).await;
    let first = is_up(&agent, 1).await;
    let began = Instant::now();
    let asked = (0..5).map(|_| agent.ask("POST", "/browser/restart", ""));
    for answer in futures_util::future::join_all(asked).await {
        let status = answer.json();
        assert_eq!((answer.status, &status["state"], &status["start"]), (200, &json!("up"), &json!(2)));
        assert_ne!(status["pid"], first["pid"]);
    }
    eprintln!("restarted in {:?}", began.elapsed());
    let again = agent.ask("POST", "/browser/restart", "").await.json();
    assert_eq!(again["start"], 3);
}

#[tokio::test]
async fn a_browser_that_cannot_start_is_given_up_and_says_why() {
    let programs = tempfile::tempdir().unwrap();
    let chromium = programs.path().join("chromium");
    std::fs::write(&chromium, "#!/bin/sh\nexit 7\n").unwrap();
    std::fs::set_permissions(&chromium, std::fs::Permissions::from_mode(0o755)).unwrap();
    let agent = Agent::start_with(|config| {
        config.browser = Some(Browser::default());
        let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
        config.env.insert("PATH".to_owned(), path);
    })
    .await;
    // Who comes meanwhile is parked, and refused once it is known that there is nothing to wait for.
    let (version, restart) =
        tokio::join!(agent.ask("GET", "/json/version", ""), agent.ask("POST", "/browser/restart", ""));
    for refused in [version, restart, agent.ask("GET", "/json", "").await] {
        assert_eq!(refused.refusal(), (503, "browser.down".to_owned()));
        assert!(refused.json()["detail"].as_str().unwrap().contains("status 7"), "{refused:?}");
    }
    let status = status(&agent).await;
    assert_eq!((&status["state"], &status["exit"]), (&json!("gave_up"), &json!({"code": 7})));
    let mut told = Stream::open(&agent, "type=service_crashed&replay=all", None).await;
    // The wish for a restart may have come after the first of them, and made them begin anew.
    let mut crashes = 0;
    let last = loop {
        let crash = told.event_of("service_crashed").await["data"].clone();
        assert_eq!(crash["service"], "chromium");
        if crash["phase"] != "startup" {
            break crash;
        }
        crashes += 1;
    };
    assert!(crashes >= 10 && last["phase"] == "gave_up" && last["start"] == status["start"], "{crashes} {last}");
    std::fs::remove_file(&chromium).unwrap();
    let status = agent.ask("POST", "/browser/restart", "").await.json();
    assert_eq!(status["state"], "up");
    kill_browser(&status);
    assert_eq!(told.event_of("service_crashed").await["data"]["phase"], "running");
}

#[tokio::test]
async fn an_instance_without_a_browser_has_none_of_its_paths() {
    let agent = Agent::start().await;
    for (method, path) in [("GET", "/browser"), ("POST", "/browser/restart"), ("GET", "/json/version"), ("GET", "/cdp")]
    {
        assert_eq!(agent.ask(method, path, "").await.refusal(), (404, "service.unknown".to_owned()), "{path}");
    }
    assert!(!agent.config().state.join("browser").exists());
}

#[tokio::test]
async fn the_browser_names_itself_as_its_asker_can_reach_it() {
    let agent = agent_with(&[]).await;
    // Not up yet: the asker is parked.
    let version = agent.ask("GET", "/json/version/", "").await;
    assert_eq!(version.status, 200, "{version:?}");
    let socket = version.json()["webSocketDebuggerUrl"].as_str().unwrap().to_owned();
    assert!(socket.starts_with("ws://agent/devtools/browser/"), "{socket}");
    let public = [("landfast-public-url", "https://cell.example/i/ins_1/cdp"), ("landfast-public-query", "token=a.b")];
    for path in ["/json", "/json/", "/json/list"] {
        let list = agent.ask_with(path, &public).await.json();
        let page = list.as_array().unwrap().iter().find(|target| target["type"] == "page").unwrap();
        let id = page["id"].as_str().unwrap();
        let way = format!("cell.example/i/ins_1/cdp/devtools/page/{id}");
        assert_eq!(page["webSocketDebuggerUrl"], format!("wss://{way}?token=a.b"));
        let frontend = page["devtoolsFrontendUrl"].as_str().unwrap();
        assert!(frontend.ends_with(&format!("?wss={way}%3Ftoken%3Da.b")), "{frontend}");
        assert!(!list.to_string().contains("127.0.0.1"), "{list}");
    }
    let made = agent.ask("PUT", "/json/new?data:text/html,hi", "").await.json();
    assert_eq!(made["url"], "data:text/html,hi");
    let id = made["id"].as_str().unwrap();
    assert_eq!(agent.ask("GET", &format!("/json/activate/{id}"), "").await.body, "Target activated");
    assert_eq!(agent.ask("GET", &format!("/json/close/{id}"), "").await.status, 200);
    assert!(agent.ask("GET", "/json/protocol", "").await.json()["domains"].is_array());
    assert_eq!(agent.ask("GET", "/json/new?about:blank", "").await.status, 405, "as Chromium says");
    assert_eq!(agent.ask("GET", "/json/nothing", "").await.status, 404);
}
