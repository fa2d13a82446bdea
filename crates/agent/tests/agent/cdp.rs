//! CDP connections with a real Chromium, and what is told of their ends.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use landfast_core::ErrorCode;
use landfast_core::link::Close;
use landfast_core::record::{Browser, Generation};
use landfast_net::head::{HEAD_MAX, Headers, RequestHead, ResponseHead, read_response, write_all};
use landfast_net::hold::{Ending, Holder};
use landfast_net::link::{self, LinkError, OpenRequest};
use landfast_net::socket::Socket;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{PidfdFlags, pidfd_open};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::browser::{agent_of, agent_with, is_up, kill_browser, status};
use crate::events::Stream;
use crate::harness::{Agent, PATIENCE, eventually};
use crate::services::{bytes_of, ending};
use crate::way::{Holding, Way};

/// A client of CDP.
pub(crate) struct Cdp<S> {
    pub(crate) socket: WebSocketStream<S>,
    last_id: u64,
}

/// The upgrade request of a client, as one in a page would send it.
fn head(path: &str) -> RequestHead {
    let mut headers = Headers::new();
    for (name, value) in [
        ("Host", "agent"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Origin", "https://elsewhere.example"),
    ] {
        headers.push(name, value);
    }
    RequestHead { method: "GET".into(), target: path.into(), headers }
}

pub(crate) async fn connect(agent: &Agent, path: &str) -> Cdp<Socket> {
    let (socket, answer) = upgrade(agent, path).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    Cdp::over(socket).await
}

/// Like the harness's, for as long as a start may take.
async fn upgrade(agent: &Agent, path: &str) -> (Socket, ResponseHead) {
    let mut socket = agent.connect("agent.sock").await.unwrap();
    write_all(&mut socket, &head(path).encode()).await.unwrap();
    let head = timeout(PATIENCE, read_response(&mut socket, HEAD_MAX)).await.expect("an answer").unwrap();
    (socket, head)
}

async fn connect_over_links(agent: &Agent, path: &str, budget: u64) -> (Cdp<DuplexStream>, Holding) {
    let (near, answer, holding) = Way::to(agent, budget).hold(&head(path)).await;
    assert_eq!(answer.head.status, 101);
    (Cdp::over(near).await, holding)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Cdp<S> {
    async fn over(stream: S) -> Self {
        Self { socket: WebSocketStream::from_raw_socket(stream, Role::Client, None).await, last_id: 0 }
    }

    /// Calls, and does not wait for the answer.
    pub(crate) async fn calls(&mut self, method: &str, params: Value) -> u64 {
        self.last_id += 1;
        let call = json!({"id": self.last_id, "method": method, "params": params});
        self.socket.send(Message::text(call.to_string())).await.unwrap();
        self.last_id
    }

    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.calls(method, params).await;
        loop {
            let said = timeout(PATIENCE, self.socket.next()).await.expect("an answer").unwrap().unwrap();
            let Message::Text(text) = said else { panic!("{said:?}") };
            let said: Value = serde_json::from_str(&text).unwrap();
            if said["id"] == id {
                return said["result"].clone();
            }
        }
    }

    pub(crate) async fn evaluates(&mut self, expression: &str) -> Value {
        self.call("Runtime.evaluate", json!({"expression": expression})).await["result"]["value"].clone()
    }

    /// Waits for the close frame, and returns what it says and when it came.
    async fn closes(&mut self) -> (u16, String, Instant) {
        loop {
            let said = timeout(PATIENCE, self.socket.next()).await.expect("a close");
            match said {
                Some(Ok(Message::Close(Some(close)))) => {
                    return (close.code.into(), close.reason.to_string(), Instant::now());
                }
                Some(Ok(_)) => {}
                other => panic!("no close frame but {other:?}"),
            }
        }
    }

    /// Checks that it is closed because the browser was started anew.
    pub(crate) async fn is_told_of_the_change(&mut self) -> Instant {
        let (code, reason, at) = self.closes().await;
        assert_eq!((code, reason.as_str()), (1012, "upstream.changed"));
        at
    }
}

/// Finds out when the browser's process dies.
fn death_of(status: &Value) -> JoinHandle<Instant> {
    let pid = status["pid"].as_i64().unwrap() as i32;
    let pidfd = pidfd_open(rustix::process::Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    tokio::task::spawn_blocking(move || {
        rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
        Instant::now()
    })
}

/// What is told of connections, from the first on.
pub(crate) async fn told(agent: &Agent) -> Stream {
    Stream::open(agent, "type=cdp_connect,cdp_disconnect&replay=all", None).await
}

/// The next end that is told.
pub(crate) async fn reason(told: &mut Stream) -> String {
    told.event_of("cdp_disconnect").await["data"]["reason"].as_str().unwrap().to_owned()
}

/// The path of a page's own socket.
pub(crate) async fn page(agent: &Agent) -> String {
    let list = agent.ask("GET", "/json/list", "").await.json();
    let page = list.as_array().unwrap().iter().find(|target| target["type"] == "page").unwrap();
    format!("/devtools/page/{}", page["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_client_is_parked_until_the_browser_is_up_and_reaches_it_by_every_path() {
    let agent = agent_with(&[]).await;
    for path in ["/cdp", "/", "/cdp/", "/cdp?token=x"] {
        let mut client = connect(&agent, path).await;
        let version = client.call("Browser.getVersion", json!({})).await;
        assert!(version["product"].as_str().unwrap().starts_with("Chrome/"), "{path}: {version}");
    }
    let version = agent.ask("GET", "/json/version", "").await.json();
    let own = version["webSocketDebuggerUrl"].as_str().unwrap().strip_prefix("ws://agent").unwrap().to_owned();
    assert!(connect(&agent, &own).await.call("Browser.getVersion", json!({})).await["product"].is_string());
    assert_eq!(connect(&agent, &page(&agent).await).await.evaluates("6 * 7").await, 42);
    let plain = agent.ask("GET", "/cdp", "").await;
    assert_eq!(plain.refusal(), (400, "request.invalid".to_owned()));
}

#[tokio::test]
async fn a_connection_in_a_session_survives_its_links() {
    let agent = agent_with(&[]).await;
    let (mut client, _holding) = connect_over_links(&agent, &page(&agent).await, 3_000).await;
    for n in 0..50 {
        assert_eq!(client.evaluates(&format!("'x'.repeat(1000) + {n}")).await, format!("{}{n}", "x".repeat(1000)));
    }
    let (mut through, _holding) = connect_over_links(&agent, "/services/cdp/cdp", 0).await;
    assert!(through.call("Browser.getVersion", json!({})).await["product"].is_string());
    let (mut bare, _holding) = connect_over_links(&agent, "/services/cdp", 0).await;
    assert!(bare.call("Browser.getVersion", json!({})).await["product"].is_string());
}

#[tokio::test]
async fn row_1_a_client_that_closes_or_vanishes_is_told_with_what_it_carried() {
    let agent = agent_with(&[]).await;
    is_up(&agent, 1).await;
    let mut told = told(&agent).await;
    let mut polite = connect(&agent, "/cdp").await;
    for _ in 0..3 {
        polite.call("Browser.getVersion", json!({})).await;
    }
    let began = told.event_of("cdp_connect").await;
    polite.socket.close(None).await.unwrap();
    assert!(matches!(polite.socket.next().await, None | Some(Ok(Message::Close(_)) | Err(_))));
    let ended = told.event_of("cdp_disconnect").await;
    let (data, bytes) = (&ended["data"], |name: &str| ended["data"][name].as_u64().unwrap());
    assert_eq!(data["connection_id"], began["data"]["connection_id"]);
    assert_eq!(
        (&data["reason"], &data["message_count"], &data["start"]),
        (&json!("client_close"), &json!(6), &json!(1))
    );
    assert!(bytes("bytes_in") > 100 && bytes("bytes_out") > 500 && bytes("duration_ms") < 30_000, "{ended}");
    assert!(ended["ts"].as_u64() >= began["ts"].as_u64());
    drop(connect(&agent, "/cdp").await);
    assert_eq!(reason(&mut told).await, "client_close");
    let (mut held, holding) = connect_over_links(&agent, "/cdp", 0).await;
    held.call("Browser.getVersion", json!({})).await;
    drop(held);
    assert_eq!(reason(&mut told).await, "client_close");
    assert!(matches!(timeout(PATIENCE, holding).await.unwrap().unwrap().0, Ending::Local(_)));
}

#[tokio::test]
async fn row_2_a_session_that_is_called_off_is_a_cancellation() {
    let agent = agent_with(&[]).await;
    is_up(&agent, 1).await;
    let mut told = told(&agent).await;
    let (socket, opened) = Way::to(&agent, 0).open(head("/cdp")).await.unwrap();
    let holder = Holder::new(socket, &opened, Generation(3));
    holder.leave(Close::new(ErrorCode::GatewayDraining, "")).await;
    assert_eq!(reason(&mut told).await, "context_cancelled");
}

#[tokio::test]
async fn row_3_who_is_in_the_middle_of_a_call_when_the_browser_dies_is_told_at_once() {
    let agent = agent_with(&[]).await;
    let mut told = told(&agent).await;
    for start in 1..=3 {
        let before = is_up(&agent, start).await;
        let path = page(&agent).await;
        let mut plain = connect(&agent, &path).await;
        let (mut held, holding) = connect_over_links(&agent, &path, 0).await;
        for call in [plain.evaluates("1").await, held.evaluates("1").await] {
            assert_eq!(call, 1);
        }
        plain.calls("Runtime.evaluate", json!({"expression": "new Promise(() => {})", "awaitPromise": true})).await;
        held.calls("Runtime.evaluate", json!({"expression": "new Promise(() => {})", "awaitPromise": true})).await;
        let killed = Instant::now();
        let death = death_of(&before);
        kill_browser(&before);
        let at = plain.is_told_of_the_change().await;
        let died = death.await.unwrap();
        eprintln!("told {:?} after the kill, {:?} after the death", at - killed, at.saturating_duration_since(died));
        assert!(at - killed < Duration::from_secs(1));
        held.is_told_of_the_change().await;
        assert_eq!(ending(holding).await, ErrorCode::UpstreamChanged);
        for _ in 0..2 {
            let ended = told.event_of("cdp_disconnect").await;
            assert_eq!(
                (&ended["data"]["reason"], &ended["data"]["start"]),
                (&json!("upstream_changed"), &json!(start))
            );
        }
    }
}

#[tokio::test]
async fn row_3_a_browser_that_a_client_closes_is_started_anew_and_all_its_clients_are_told() {
    let agent = agent_with(&[]).await;
    is_up(&agent, 1).await;
    let mut told = told(&agent).await;
    let (mut one, mut other) = (connect(&agent, "/cdp").await, connect(&agent, &page(&agent).await).await);
    assert_eq!(other.evaluates("1").await, 1);
    one.calls("Browser.close", json!({})).await;
    // It closes its connections first, and dies some time after.
    for client in [&mut one, &mut other] {
        client.is_told_of_the_change().await;
    }
    for _ in 0..2 {
        assert_eq!(reason(&mut told).await, "upstream_changed");
    }
}

#[tokio::test]
async fn a_client_that_comes_during_a_restart_gets_a_browser_that_works() {
    let agent = agent_with(&[]).await;
    let first = is_up(&agent, 1).await;
    kill_browser(&first);
    let (mut plain, (mut held, _holding)) =
        tokio::join!(connect(&agent, "/cdp"), connect_over_links(&agent, "/cdp", 0));
    assert!(plain.call("Browser.getVersion", json!({})).await["product"].is_string());
    assert!(held.call("Browser.getVersion", json!({})).await["product"].is_string());
}

#[tokio::test]
async fn row_5_a_browser_that_is_started_anew_lets_its_clients_go_at_once() {
    let agent = agent_with(&[]).await;
    is_up(&agent, 1).await;
    let mut told = told(&agent).await;
    let mut client = connect(&agent, "/cdp").await;
    client.call("Browser.getVersion", json!({})).await;
    let asked = Instant::now();
    let (restarted, at) = tokio::join!(agent.ask("POST", "/browser/restart", ""), client.is_told_of_the_change());
    eprintln!("told {:?} after the wish", at - asked);
    assert_eq!(restarted.json()["start"], 2);
    assert_eq!(reason(&mut told).await, "upstream_changed");
}

#[tokio::test]
async fn row_6_a_death_and_a_restart_at_once_are_a_change() {
    let agent = agent_with(&[]).await;
    let mut told = told(&agent).await;
    for start in [1, 2] {
        let before = is_up(&agent, start).await;
        let mut client = connect(&agent, "/cdp").await;
        client.call("Browser.getVersion", json!({})).await;
        kill_browser(&before);
        let (restarted, _) = tokio::join!(agent.ask("POST", "/browser/restart", ""), client.is_told_of_the_change());
        assert_eq!(restarted.status, 200);
        assert_eq!(reason(&mut told).await, "upstream_changed");
        // The restart that was asked for may have followed the one that the death caused.
        let present = status(&agent).await["start"].as_u64().unwrap();
        if present > start + 1 {
            return;
        }
    }
}

/// An agent whose browser is started by a script, which can be made to fail.
async fn agent_with_script() -> (Agent, tempfile::TempDir) {
    let programs = tempfile::tempdir().unwrap();
    write_script(&programs, "exec /usr/bin/chromium \"$@\"");
    (script_in(&programs).await, programs)
}

async fn script_in(programs: &tempfile::TempDir) -> Agent {
    Agent::start_with(|config| {
        config.browser = Some(unasked());
        let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
        config.env.insert("PATH".to_owned(), path);
    })
    .await
}

fn write_script(programs: &tempfile::TempDir, line: &str) {
    let (script, new) = (programs.path().join("chromium"), programs.path().join("new"));
    std::fs::write(&new, format!("#!/bin/sh\n{line}\n")).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(new, script).unwrap();
}

/// A browser that may be stopped, and to which the test's own connections are the only ones.
fn unasked() -> Browser {
    Browser { unresponsive_after: Some(0), ..Browser::default() }
}

/// How many connections there are to the browser's port.
fn dialled(agent: &Agent) -> usize {
    let file = agent.config().state.join("browser/profile/DevToolsActivePort");
    let port: u16 = std::fs::read_to_string(file).unwrap().lines().next().unwrap().parse().unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().filter(|line| line.contains(&format!(" 0100007F:{port:04X} 01 "))).count()
}

fn signal(status: &Value, signal: Signal) {
    kill(Pid::from_raw(status["pid"].as_i64().unwrap() as i32), signal).unwrap();
}

#[tokio::test]
async fn rows_4_10_and_13_a_browser_that_does_not_come_back_is_an_error() {
    let (agent, programs) = agent_with_script().await;
    let first = is_up(&agent, 1).await;
    let mut told = told(&agent).await;
    let mut carried = connect(&agent, "/cdp").await;
    carried.call("Browser.getVersion", json!({})).await;
    // It accepts, and answers nothing.
    signal(&first, Signal::SIGSTOP);
    let dialling = upgrade(&agent, "/cdp");
    let dies = async {
        write_script(&programs, "exit 7");
        eventually("it is dialled", async || (dialled(&agent) == 2).then_some(())).await;
        kill_browser(&first);
        carried.is_told_of_the_change().await;
        let ended = told.event_of("cdp_disconnect").await;
        assert_eq!(ended["data"]["reason"], "upstream_error");
        assert!(
            ended["data"]["duration_ms"].as_u64().unwrap() < 9_000,
            "the search for a reason is no connection: {ended}"
        );
    };
    let ((_, refused), ()) = tokio::join!(dialling, dies);
    assert_eq!((refused.status, refused.headers.get("landfast-error")), (503, Some("browser.down")));
    assert_eq!(status(&agent).await["state"], "gave_up");
    assert_eq!(reason(&mut told).await, "upstream_error", "that it was dialled is told");
    // From now on there is nothing to dial, and nothing to tell.
    assert_eq!(upgrade(&agent, "/cdp").await.1.status, 503);
    write_script(&programs, "exec /usr/bin/chromium \"$@\"");
    assert_eq!(agent.ask("POST", "/browser/restart", "").await.status, 200);
    drop(connect(&agent, "/cdp").await);
    assert_eq!(reason(&mut told).await, "client_close", "the next that is told");
}

#[tokio::test]
async fn a_client_that_waits_for_less_than_a_start_may_take_is_told_so_when_its_time_is_over() {
    let programs = tempfile::tempdir().unwrap();
    write_script(&programs, "sleep 1000");
    let agent = script_in(&programs).await;
    let began = Instant::now();
    let open = OpenRequest::new(head("/cdp"));
    let socket = Way::to(&agent, 0).dial().await.unwrap();
    let refused = link::open(socket, "/links", &open, &[(link::WAIT, "1.5")]).await.unwrap_err();
    let LinkError::Refused(refusal) = refused else { panic!("{refused:?}") };
    assert_eq!((refusal.head.status, refusal.code()), (503, ErrorCode::InstanceStarting));
    assert!(String::from_utf8_lossy(&refusal.body).contains("not up within 2 seconds"), "{refusal:?}");
    assert!(began.elapsed() >= Duration::from_millis(1_500));
}

#[tokio::test]
async fn row_11_a_client_that_leaves_while_its_browser_is_dialled_is_a_cancellation() {
    let agent = agent_of(unasked()).await;
    let first = is_up(&agent, 1).await;
    let mut told = told(&agent).await;
    signal(&first, Signal::SIGSTOP);
    let mut socket = agent.connect("agent.sock").await.unwrap();
    write_all(&mut socket, &head("/cdp").encode()).await.unwrap();
    eventually("it is dialled", async || (dialled(&agent) == 1).then_some(())).await;
    drop(socket);
    assert_eq!(reason(&mut told).await, "context_cancelled");
    signal(&first, Signal::SIGCONT);
}

#[tokio::test]
async fn row_12_a_dial_that_gets_no_answer_goes_on_with_the_next_start() {
    let agent = agent_of(unasked()).await;
    let first = is_up(&agent, 1).await;
    let mut told = told(&agent).await;
    signal(&first, Signal::SIGSTOP);
    let dies = async {
        eventually("it is dialled", async || (dialled(&agent) == 1).then_some(())).await;
        kill_browser(&first);
    };
    let (mut client, ()) = tokio::join!(connect(&agent, "/cdp"), dies);
    assert!(client.call("Browser.getVersion", json!({})).await["product"].is_string());
    assert_eq!(told.event_of("cdp_connect").await["data"]["start"], 2);
    // It is the newer one that is compared from now on.
    kill_browser(&is_up(&agent, 2).await);
    client.is_told_of_the_change().await;
    let ended = told.event_of("cdp_disconnect").await;
    assert_eq!((&ended["data"]["reason"], &ended["data"]["start"]), (&json!("upstream_changed"), &json!(2)));
}

#[tokio::test]
async fn the_browsers_own_no_is_passed_on_and_is_no_connection() {
    let agent = agent_with(&[]).await;
    let first = is_up(&agent, 1).await;
    let version = agent.ask("GET", "/json/version", "").await.json();
    let own = version["webSocketDebuggerUrl"].as_str().unwrap().strip_prefix("ws://agent").unwrap().to_owned();
    kill_browser(&first);
    is_up(&agent, 2).await;
    let mut told = told(&agent).await;
    for (path, status) in [(own.as_str(), 404), ("/devtools/page/NONE", 500)] {
        let (_, refused) = upgrade(&agent, path).await;
        assert_eq!((refused.status, refused.headers.get("landfast-origin")), (status, Some("service")), "{path}");
        let refused = Way::to(&agent, 0).open(head(path)).await;
        assert!(matches!(refused, Err(LinkError::Refused(refusal)) if refusal.head.status == status), "{path}");
    }
    assert_eq!(agent.sessions().await, 0);
    drop(connect(&agent, "/cdp").await);
    assert_eq!(told.event_of("cdp_connect").await["data"]["start"], 2);
    assert_eq!(reason(&mut told).await, "client_close", "the first that is told");
}

#[tokio::test]
async fn the_browsers_port_is_nobodys_to_ask_for() {
    let agent = agent_with(&[]).await;
    is_up(&agent, 1).await;
    let file = agent.config().state.join("browser/profile/DevToolsActivePort");
    let port = std::fs::read_to_string(file).unwrap().lines().next().unwrap().to_owned();
    for (service, code) in [(port.as_str(), ErrorCode::AuthForbidden), ("chromium", ErrorCode::ServiceUnknown)] {
        let upgrade = RequestHead { target: format!("/services/{service}/json"), ..head("") };
        for wish in [bytes_of(service), upgrade] {
            let Err(LinkError::Refused(refusal)) = Way::to(&agent, 0).open(wish).await else { panic!("{service}") };
            assert_eq!(refusal.code(), code, "{service}");
        }
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_by_its_header() {
    let agent = agent_with(&[]).await;
    is_up(&agent, 1).await;
    let mut told = told(&agent).await;
    let (mut socket, _) = upgrade(&agent, "/cdp").await;
    let len: u64 = (256 << 20) + 1;
    let header = [&[0x81, 0xff], len.to_be_bytes().as_slice(), &[0; 4]].concat();
    socket.write_all(&header).await.unwrap();
    let mut said = vec![0; 256];
    let n = timeout(PATIENCE, socket.read(&mut said)).await.expect("a close").unwrap();
    assert_eq!((said[0], &said[2..4]), (0x88, 1009u16.to_be_bytes().as_slice()));
    assert!(said[4..n].starts_with(b"limit.message"));
    assert_eq!(reason(&mut told).await, "client_close");
}

#[tokio::test]
async fn a_client_in_the_middle_of_a_message_is_cut_there_and_the_end_is_told_at_once() {
    let agent = agent_with(&[]).await;
    let first = is_up(&agent, 1).await;
    let mut told = told(&agent).await;
    let (mut socket, _) = upgrade(&agent, &page(&agent).await).await;
    let call = r#"{"id":1,"method":"Runtime.evaluate","params":{"expression":"'x'.repeat(50<<20)"}}"#;
    let frame = [&[0x81, 0x80 | call.len() as u8, 0, 0, 0, 0], call.as_bytes()].concat();
    socket.write_all(&frame).await.unwrap();
    let mut header = [0; 10];
    timeout(PATIENCE, socket.read_exact(&mut header)).await.expect("the message begins").unwrap();
    assert_eq!(header[..2], [0x81, 127]);
    // It reads no further, and cannot be told; everybody else can.
    kill_browser(&first);
    assert_eq!(reason(&mut told).await, "upstream_changed");
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("it ends");
    assert!(rest.len() < 50 << 20 && rest.iter().all(|&byte| byte != 0x88), "no frame stands inside another: {end:?}");
}

#[tokio::test]
async fn a_page_that_is_closed_ends_its_own_socket_which_chromium_does_without_a_word() {
    let agent = agent_with(&[]).await;
    is_up(&agent, 1).await;
    let made = agent.ask("PUT", "/json/new?about:blank", "").await.json();
    let id = made["id"].as_str().unwrap();
    let (mut socket, _) = upgrade(&agent, &format!("/devtools/page/{id}")).await;
    agent.ask("GET", &format!("/json/close/{id}"), "").await;
    let mut said = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut said)).await.expect("it ends").unwrap();
    // 1014, after the browser's own last words.
    let close = [&[0x88, 15, 3, 246], b"upstream.lost".as_slice()].concat();
    assert!(said.ends_with(&close), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn connections_leave_nothing_behind_however_they_end() {
    let agent = agent_with(&[]).await;
    is_up(&agent, 1).await;
    let mut told = told(&agent).await;
    drop(connect(&agent, "/cdp").await);
    reason(&mut told).await;
    let before = agent.tasks();
    for start in 1..=2 {
        let present = is_up(&agent, start).await;
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(connect(&agent, "/cdp").await);
        }
        drop(clients.split_off(5));
        kill_browser(&present);
        for mut client in clients {
            client.is_told_of_the_change().await;
        }
    }
    let mut reasons = Vec::new();
    for _ in 0..20 {
        reasons.push(reason(&mut told).await);
    }
    reasons.sort();
    assert_eq!(reasons, [vec!["client_close"; 10], vec!["upstream_changed"; 10]].concat());
    // Each has begun once and ended once.
    let mut ids = [Vec::new(), Vec::new()];
    for (ids, kind) in ids.iter_mut().zip(["cdp_connect", "cdp_disconnect"]) {
        let mut told = self::told(&agent).await;
        for _ in 0..21 {
            ids.push(told.event_of(kind).await["data"]["connection_id"].to_string());
        }
        ids.sort();
        ids.dedup();
    }
    assert!(ids[0] == ids[1] && ids[0].len() == 21, "{ids:?}");
    is_up(&agent, 3).await;
    eventually("all tasks are gone", async || (agent.tasks() <= before + 2).then_some(())).await;
}

/// The value that so many hundredths of all are at most.
fn percentile(sorted: &[Duration], hundredths: usize) -> Duration {
    sorted[(sorted.len() - 1) * hundredths / 100]
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn rows_3_and_6_fifty_times_each_are_a_change_every_time() {
    let agent = agent_with(&[]).await;
    let mut told = told(&agent).await;
    let (mut after_kill, mut after_death, mut up_again) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..100 {
        let before = is_up(&agent, 1).await;
        let start = before["start"].as_u64().unwrap();
        let mut client = connect(&agent, "/cdp").await;
        client.call("Browser.getVersion", json!({})).await;
        let death = death_of(&before);
        let killed = Instant::now();
        kill_browser(&before);
        let at = if round % 2 == 0 {
            client.is_told_of_the_change().await
        } else {
            let restart = agent.ask("POST", "/browser/restart", "");
            let (restarted, at) = tokio::join!(restart, client.is_told_of_the_change());
            assert_eq!(restarted.status, 200);
            at
        };
        let died = death.await.unwrap();
        is_up(&agent, start + 1).await;
        up_again.push(killed.elapsed());
        after_kill.push(at - killed);
        after_death.push(at.saturating_duration_since(died));
        assert_eq!(reason(&mut told).await, "upstream_changed", "round {round}");
        // Ten deaths within a minute would be one too many; a restart forgets them.
        if round % 8 == 7 {
            assert_eq!(agent.ask("POST", "/browser/restart", "").await.status, 200);
        }
    }
    for (what, mut times) in [("after the kill", after_kill), ("after the death", after_death), ("up again", up_again)]
    {
        times.sort();
        let [half, most, worst] = [50, 95, 100].map(|hundredths| percentile(&times, hundredths));
        eprintln!("{what}: p50 {half:?}, p95 {most:?}, worst {worst:?}");
    }
}
