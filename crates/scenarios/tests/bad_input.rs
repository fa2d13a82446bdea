//! What is wrong is refused: typed, with a sentence, at once, and with nothing left behind.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use landfast_scenarios::cell::{Cell, eventually};
use landfast_scenarios::ground::Ground;
use landfast_scenarios::http::{self, Answer};
use landfast_scenarios::instance::Instance;
use landfast_scenarios::leaks::returns_to;
use landfast_scenarios::plain::PlainClient;
use landfast_scenarios::role::program;
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

fn code(answer: &Answer) -> (u16, String) {
    answer.refusal()
}

// --- upgrades ---

#[tokio::test]
async fn an_upgrade_that_is_none_is_refused() {
    let cell = Cell::for_counting().await;
    let instance = cell.create().await;
    let process = instance.command("cat").await;
    let before = cell.gateway.settled().await;
    let good = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let wrong = [
        ("no key", good.replace("Sec-WebSocket-Key", "X-Key")),
        ("a short key", good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhl")),
        ("a version that is not spoken", good.replace("13", "12")),
        ("no upgrade at all", String::new()),
    ];
    for (what, headers) in wrong {
        let request = format!(
            "GET /i/{}/processes/{}/attach?from=now HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n{headers}\r\n",
            instance.id, process.id, instance.token
        );
        let answer = http::send(cell.operator.address, request.as_bytes()).await;
        let (status, code) = code(&answer);
        assert!((400..500).contains(&status) && code.starts_with("request."), "{what}: {answer:?}");
    }
    for query in ["from=yesterday", "from=-1", "from=now&input=maybe"] {
        let refusal = PlainClient::open(&process.upgrade(query)).await.expect_err(query);
        assert_eq!(code(&refusal), (400, "request.invalid".to_owned()), "{query}");
    }
    returns_to(cell.gateway.pid(), before, Duration::from_secs(2)).await;
}

// --- tokens ---

#[tokio::test]
async fn a_token_that_does_not_open_this_door_is_refused_with_its_reason() {
    let cell = Cell::start().await;
    let (instance, other) = (cell.create().await, cell.create().await);
    let process = instance.command("cat").await;
    let short = cell.operator.token(&instance.id, &json!({"ttl_seconds": 1})).await.text;
    sleep(Duration::from_millis(2100)).await;
    let forged = instance.token.replace('.', ".e");
    let cases = [
        (None, (401, "auth.missing")),
        (Some("nonsense".to_owned()), (401, "auth.invalid")),
        (Some(forged), (401, "auth.invalid")),
        (Some(short), (401, "auth.expired")),
        (Some(other.token.clone()), (403, "auth.forbidden")),
        (Some(cell.operator.key.clone()), (401, "auth.invalid")),
    ];
    for (token, (status, expected)) in cases {
        let mut upgrade = process.upgrade("from=now");
        upgrade.token.clone_from(&token);
        let refusal = PlainClient::open(&upgrade).await.expect_err(expected);
        assert_eq!(code(&refusal), (status, expected.to_owned()), "{token:?}");
    }
    let answer = http::ask(cell.operator.address, "GET", "/v1/instances", Some(&instance.token), None).await;
    assert_eq!(code(&answer).0 / 100, 4, "an instance's token opens no control plane: {answer:?}");
}

#[tokio::test]
async fn a_token_may_stand_in_the_query_or_the_subprotocol_and_is_seen_by_no_process() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("cat").await;
    let mut upgrade = process.upgrade(&format!("from=now&token={}", instance.token));
    upgrade.token = None;
    PlainClient::open(&upgrade).await.expect("the query's token opens");
    assert!(!cell.gateway.log().contains(&instance.token), "a token was logged");
}

// --- requests ---

#[tokio::test]
async fn what_is_no_request_or_two_is_refused_and_the_connection_ended() {
    let cell = Cell::start().await;
    let Instance { id, token, .. } = cell.create().await;
    let post = format!("POST /i/{id}/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n");
    let cases = [
        ("no HTTP", "\x16\x03\x01\x02\x00\r\n\r\n".to_owned()),
        ("two lengths", format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}")),
        ("a length and chunks", format!("{post}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("a length that is no number", format!("{post}Content-Length: two\r\n\r\n{{}}")),
        ("a space before the colon", format!("{post}Content-Length : 2\r\n\r\n{{}}")),
    ];
    for (what, request) in cases {
        let answer = timeout(Duration::from_secs(5), http::send(cell.operator.address, request.as_bytes())).await;
        let answer = answer.unwrap_or_else(|_| panic!("{what}: no answer"));
        assert_eq!(answer.status, 400, "{what}: {answer:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let cell = Cell::start().await;
    let request = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(80_000));
    assert_eq!(http::send(cell.operator.address, request.as_bytes()).await.status, 431);
}

#[tokio::test]
async fn a_head_that_never_comes_to_its_end_is_given_up_after_ten_seconds() {
    let cell = Cell::start().await;
    let started = Instant::now();
    let answer = http::send(cell.operator.address, b"GET /livez HTTP/1.1\r\nHost: x\r\n").await;
    assert_eq!(code(&answer), (408, "request.timeout".to_owned()));
    let took = started.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(14)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn more_processes_than_an_instance_takes_are_refused_until_one_is_deleted() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let wish = json!({"argv": ["true"]});
    let first = instance.process(&wish).await;
    let refusal = loop {
        let answer = instance.ask("POST", "/processes", Some(&wish)).await;
        if answer.status != 201 {
            break answer;
        }
    };
    assert_eq!(code(&refusal), (429, "limit.processes".to_owned()));
    instance.ask("DELETE", &format!("/processes/{}", first.id), None).await;
    eventually("there is room again", async || {
        (instance.ask("POST", "/processes", Some(&wish)).await.status == 201).then_some(())
    })
    .await;
}

#[tokio::test]
async fn more_sessions_than_an_instance_takes_are_refused_at_once() {
    let cell = Cell::start().await;
    let process = cell.create().await.command("sleep 100").await;
    let mut open = Vec::new();
    let started = loop {
        let started = Instant::now();
        match PlainClient::open(&process.upgrade("from=now")).await {
            Ok(client) => open.push(client),
            Err(refusal) => {
                assert_eq!(code(&refusal), (429, "limit.sessions".to_owned()));
                break started;
            }
        }
    };
    assert!(started.elapsed() < Duration::from_secs(5), "a limit is not waited out: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_body_that_says_nothing_is_refused_by_what_is_wrong_with_it() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    for body in [
        json!({}),
        json!({"argv": []}),
        json!({"argv": "x"}),
        json!({"shell": "x", "argv": ["x"]}),
        json!({"shell": "x", "tty": {"rows": 0, "cols": 80}}),
        json!({"shel": "x"}),
    ] {
        let answer = instance.ask("POST", "/processes", Some(&body)).await;
        assert_eq!(code(&answer), (400, "request.invalid".to_owned()), "{body}");
    }
    for (method, target, expected) in [
        ("GET", "/processes/nonsense", (404, "process.unknown")),
        ("PATCH", "/processes", (405, "request.method")),
        ("GET", "/nowhere", (404, "service.unknown")),
    ] {
        let answer = instance.ask(method, target, None).await;
        assert_eq!(code(&answer), (expected.0, expected.1.to_owned()), "{method} {target}");
    }
}

#[tokio::test]
async fn an_instance_that_never_was_is_told_from_one_that_is_gone() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let nowhere = Instance { id: "ins_00000000000000000000000000".to_owned(), ..instance.clone() };
    let answer = cell.operator.ask("GET", &format!("/v1/instances/{}", nowhere.id), None).await;
    assert_eq!(code(&answer), (404, "instance.unknown".to_owned()));
    instance.is_deleted().await;
    instance.comes_to("deleted").await;
    assert_eq!(code(&instance.ask("GET", "/processes", None).await), (410, "instance.gone".to_owned()));
}

// --- the machine ---

#[tokio::test]
async fn a_taken_port_is_named_with_what_to_do() {
    let cell = Cell::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let said = refused_start(&cell, "gateway", &[("LANDFAST_GATEWAY_LISTEN", &address)]).await;
    assert!(said.contains("listen.in_use") && said.contains(&address), "{said}");
}

#[tokio::test]
async fn a_setting_that_does_not_exist_is_named() {
    let cell = Cell::start().await;
    let said = refused_start(&cell, "gateway", &[("LANDFAST_GATEWAY_LISTN", "x")]).await;
    assert!(said.contains("config.invalid") && said.contains("listn"), "{said}");
}

#[tokio::test]
async fn a_damaged_store_is_said_to_be_damaged_and_left_alone() {
    let mut cell = Cell::start().await;
    cell.create().await;
    cell.node("a").role.stop().await;
    cell.gateway.kill().await;
    cell.api.stop().await;
    let file = cell.dir().join("cell.db");
    for aside in ["cell.db-wal", "cell.db-shm"] {
        // There is none after an orderly end of the last one.
        let _ = std::fs::remove_file(cell.dir().join(aside));
    }
    let damaged = vec![0x5a; 64 * 1024];
    std::fs::write(&file, &damaged).expect("the file can be written");
    let said = refused_start(&cell, "api", &[("LANDFAST_API_LISTEN", "127.0.0.1:0")]).await;
    assert!(said.contains("store.corrupt"), "{said}");
    assert!(std::fs::read(&file).expect("it is still there") == damaged, "the evidence was changed");
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full_and_loses_nothing_that_was_acknowledged() {
    let ground = Ground::new();
    let path = ground.path().to_str().expect("a plain path");
    // A file system of three megabytes, seen by this process and its children only.
    let mut api = Command::new("bwrap")
        .args(["--dev-bind", "/", "/", "--perms", "0700", "--size", "3000000", "--tmpfs", path, "--die-with-parent"])
        .arg(program("landfast-under-test"))
        .args(["api", "--data", path])
        .env("LANDFAST_API_LISTEN", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("bubblewrap starts");
    let (address, key) = ready_with_key(&mut api, path).await;
    let mut ids = Vec::new();
    let full = loop {
        let filler = (0..60).map(|number| (format!("filler-{number}"), json!("x".repeat(250))));
        let body = json!({"labels": filler.collect::<serde_json::Map<_, _>>()});
        let answer = http::ask(address, "POST", "/v1/instances", Some(&key), Some(&body)).await;
        if answer.status != 201 {
            break answer;
        }
        ids.push(answer.json()["id"].as_str().expect("an id").to_owned());
        assert!(ids.len() < 1000, "three megabytes are never full");
    };
    assert_eq!(code(&full), (507, "store.full".to_owned()));
    for id in ids {
        let answer = http::ask(address, "GET", &format!("/v1/instances/{id}"), Some(&key), None).await;
        assert_eq!(answer.status, 200, "acknowledged and lost: {answer:?}");
    }
}

/// Starts a role that must not start, and returns what it says.
async fn refused_start(cell: &Cell, role: &str, env: &[(&str, &str)]) -> String {
    let mut command = Command::new(program("landfast-under-test"));
    command.arg(role).arg("--data").arg(cell.dir()).envs(env.iter().copied()).kill_on_drop(true);
    let output = timeout(Duration::from_secs(20), command.output()).await.expect("it ends").expect("it was built");
    assert!(!output.status.success(), "it started");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The API's address from its ready line, and its first key, which lies where only it can see it.
async fn ready_with_key(api: &mut tokio::process::Child, path: &str) -> (std::net::SocketAddr, String) {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut lines = BufReader::new(api.stdout.take().expect("stdout is a pipe")).lines();
    let address = loop {
        let line = timeout(Duration::from_secs(20), lines.next_line()).await.expect("ready").expect("text");
        if let Some(address) = line.expect("it says that it is ready").strip_prefix("ready api ") {
            break address.trim().parse().expect("an address");
        }
    };
    tokio::spawn(async move { while matches!(lines.next_line().await, Ok(Some(_))) {} });
    let bwrap = api.id().expect("it runs");
    let children = std::fs::read_to_string(format!("/proc/{bwrap}/task/{bwrap}/children")).expect("it has a child");
    let inside = children.split_whitespace().next().expect("it has a child").to_owned();
    let key = std::fs::read_to_string(format!("/proc/{inside}/root{path}/api-key")).expect("the first key");
    (address, key.trim().to_owned())
}
