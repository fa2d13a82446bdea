//! Starting, watching, signalling and ending processes.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::harness::{Agent, eventually};

#[tokio::test]
async fn a_process_is_started_described_and_listed() {
    let agent = Agent::start().await;
    let id = agent.process(&json!({"argv": ["sleep", "100"]})).await;
    let record = agent.record(&id).await;
    assert_eq!(record["argv"], json!(["sleep", "100"]));
    assert_eq!((&record["state"], &record["exit"], &record["tty"]), (&json!("running"), &Value::Null, &Value::Null));
    assert_eq!(record["log"], json!({"from": 0, "to": 0}));
    assert!(record["pid"].as_i64() > Some(1) && record["started_at"].as_u64() > Some(1_600_000_000_000), "{record}");
    let list = agent.ask("GET", "/processes", "").await.json();
    assert_eq!(list["processes"], json!([record]));
}

#[tokio::test]
async fn an_exit_is_told_with_its_code_or_its_signal() {
    let agent = Agent::start().await;
    for (shell, exit) in [("exit 7", json!({"code": 7})), ("kill -9 $$", json!({"signal": 9}))] {
        let id = agent.command(shell).await;
        let record = agent.ends(&id).await;
        assert_eq!((&record["state"], &record["exit"]), (&json!("exited"), &exit), "{shell}");
    }
}

#[tokio::test]
async fn a_process_has_the_environment_and_folder_it_was_given_over_the_instances() {
    let agent = Agent::start().await;
    assert_eq!(agent.says("echo $FROM_INSTANCE; pwd").await, format!("yes\n{}\n", agent.home().display()));
    let wish = json!({"shell": "echo $FROM_INSTANCE; pwd", "env": {"FROM_INSTANCE": "no"}, "cwd": "/usr"});
    let answer = agent.ask("POST", "/exec", wish.to_string()).await.json();
    assert_eq!(answer["stdout"], "no\n/usr\n");
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_in_the_systems_words() {
    let agent = Agent::start().await;
    let too_long = "x".repeat(200_000);
    for (wish, said) in [
        (json!({"argv": ["no-such-program"]}), "no-such-program: No such file"),
        (json!({"argv": ["/"]}), "Permission denied"),
        (json!({"argv": ["true"], "cwd": "/nowhere"}), "/nowhere"),
        (json!({"argv": ["true", too_long]}), "Argument list too long"),
        (json!({"argv": ["true"], "env": {"A": too_long}}), "Argument list too long"),
        (json!({"argv": ["tr\0ue"]}), "nul byte"),
    ] {
        let answer = agent.ask("POST", "/processes", wish.to_string()).await;
        assert_eq!(answer.refusal(), (422, "process.spawn".to_owned()));
        let detail = answer.json()["detail"].to_string();
        assert!(detail.contains(said), "{said}: {detail}");
    }
    assert_eq!(agent.ask("GET", "/processes", "").await.json()["processes"], json!([]), "nothing is left of them");
}

#[tokio::test]
async fn bad_requests_are_refused_by_what_is_wrong_with_them() {
    let agent = Agent::start().await;
    let id = agent.command("sleep 100").await;
    let gone = "/processes/prc_00000000000000000000000000";
    for (method, path, body, expected) in [
        ("GET", "/nowhere", "", (404, "request.not_found")),
        ("GET", "/processes/", "", (404, "process.unknown")),
        ("GET", "/processes/nonsense", "", (404, "process.unknown")),
        ("GET", gone, "", (404, "process.unknown")),
        ("DELETE", gone, "", (404, "process.unknown")),
        ("PATCH", "/processes", "", (405, "request.method")),
        ("PUT", gone, "", (405, "request.method")),
        ("GET", "/exec", "", (405, "request.method")),
        ("POST", "/processes", "{", (400, "request.invalid")),
        ("POST", "/processes", "{\"shel\":\"x\"}", (400, "request.invalid")),
        ("POST", &format!("/processes/{id}/signal"), "{\"signal\":\"NONE\"}", (400, "request.invalid")),
        ("POST", &format!("/processes/{id}/signal"), "{}", (400, "request.invalid")),
        ("POST", &format!("/processes/{id}/resize"), "{\"rows\":1,\"cols\":0}", (400, "request.invalid")),
        ("POST", &format!("/processes/{id}/resize"), "{\"rows\":1,\"cols\":1}", (409, "process.no_terminal")),
        ("GET", &format!("/processes/{id}/output?from=1"), "", (400, "request.invalid")),
        ("GET", &format!("/processes/{id}/output?follow=maybe"), "", (400, "request.invalid")),
    ] {
        let answer = agent.ask(method, path, body.to_owned()).await;
        assert_eq!(answer.refusal(), (expected.0, expected.1.to_owned()), "{method} {path} {body}");
    }
    let answer = agent.ask("PATCH", "/processes", "").await;
    assert_eq!(answer.headers["allow"], "GET, POST");
}

#[tokio::test]
async fn an_exited_process_takes_no_signal_input_or_size() {
    let agent = Agent::start().await;
    let id = agent.terminal("exit 0").await;
    agent.ends(&id).await;
    for (verb, body) in
        [("signal", "{\"signal\":\"INT\"}"), ("stdin", "x"), ("eof", ""), ("resize", "{\"rows\":1,\"cols\":1}")]
    {
        let answer = agent.ask("POST", &format!("/processes/{id}/{verb}"), body.to_owned()).await;
        assert_eq!(answer.refusal(), (409, "process.not_running".to_owned()), "{verb}");
    }
}

#[tokio::test]
async fn input_is_posted_and_ended() {
    let agent = Agent::start().await;
    let id = agent.command("cat; echo over").await;
    let post = async |verb: &str, body: Vec<u8>| agent.ask("POST", &format!("/processes/{id}/{verb}"), body).await;
    assert_eq!(post("stdin", b"one\n".to_vec()).await.status, 204);
    let large: Vec<u8> = (0..1_000_000u32).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    assert_eq!(post("stdin", large.clone()).await.status, 204);
    assert_eq!(post("eof", vec![]).await.status, 204);
    let mut viewer = agent.attach(&id, "from=start").await;
    agent.ends(&id).await;
    viewer.exits(0).await;
    assert_eq!(viewer.gaps.len(), usize::from(viewer.output.len() < large.len() + 9));
    let expected = [b"one\n".as_slice(), &large, b"over\n"].concat();
    assert!(expected.ends_with(&viewer.output), "cat says what it was told");
}

#[tokio::test]
async fn nothing_can_be_said_after_the_end_of_input() {
    let agent = Agent::start().await;
    let id = agent.command("cat; sleep 100").await;
    let post = async |verb: &str| agent.ask("POST", &format!("/processes/{id}/{verb}"), "x").await;
    assert_eq!(post("eof").await.status, 204);
    for verb in ["stdin", "eof"] {
        assert_eq!(post(verb).await.refusal(), (409, "process.stdin_closed".to_owned()));
    }
}

#[tokio::test]
async fn input_waits_for_a_process_that_does_not_read() {
    let agent = Agent::start().await;
    let id = agent.command("sleep 100").await;
    let head = format!("POST /processes/{id}/stdin HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n");
    let mut socket = agent.connect("agent.sock").await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut written = 0;
    // It stops being read: what a pipe, our queue and the sockets hold, and not the whole.
    while let Ok(n) = timeout(Duration::from_secs(1), socket.write(&[0; 64 * 1024])).await {
        written += n.unwrap();
        assert!(written < 20_000_000, "nothing holds it back");
    }
    assert_eq!(agent.record(&id).await["state"], "running");
}

#[tokio::test]
async fn a_process_started_without_input_reads_its_end() {
    let agent = Agent::start().await;
    let id = agent.process(&json!({"shell": "cat; echo over", "stdin": "closed"})).await;
    let answer = agent.ask("POST", &format!("/processes/{id}/stdin"), "x").await;
    assert_eq!(answer.status, 409, "{answer:?}");
    agent.attach(&id, "").await.exits(0).await;
}

#[tokio::test]
async fn a_signal_reaches_the_group() {
    let agent = Agent::start().await;
    let id = agent.command("trap 'echo caught; exit 3' INT; echo set; sleep 100 & wait").await;
    let mut viewer = agent.attach(&id, "from=start").await;
    viewer.shows("set").await;
    let answer = agent.ask("POST", &format!("/processes/{id}/signal"), "{\"signal\":\"SIGINT\"}").await;
    assert_eq!(answer.status, 204);
    viewer.exits(3).await;
    assert_eq!(viewer.text(), "set\ncaught\n");
}

#[tokio::test]
async fn delete_kills_the_whole_session_and_forgets_the_process() {
    let agent = Agent::start().await;
    // A background child in a group of its own, that ignores everything it can.
    let shell = "trap '' TERM INT HUP; set -m; sleep 1000 & echo child $!; wait";
    let id = agent.process(&json!({"argv": ["bash", "-c", shell]})).await;
    let mut viewer = agent.attach(&id, "from=start").await;
    viewer.shows("child ").await;
    viewer.shows("\n").await;
    let child: i32 = viewer.text().split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(is_alive(child));
    assert_eq!(agent.ask("DELETE", &format!("/processes/{id}"), "").await.status, 204);
    viewer.exits(128 + 9).await;
    assert_eq!(agent.ask("GET", &format!("/processes/{id}"), "").await.status, 404);
    eventually("the child is gone", async || (!is_alive(child)).then_some(())).await;
}

#[tokio::test]
async fn a_background_child_that_holds_the_output_does_not_hold_back_the_exit() {
    let agent = Agent::start().await;
    for on_terminal in [false, true] {
        let shell = "trap '' HUP; (sleep 0.05; echo late) & sleep 10 & echo said; exit 4";
        let id = if on_terminal { agent.terminal(shell).await } else { agent.command(shell).await };
        let mut viewer = agent.attach(&id, "from=start").await;
        timeout(Duration::from_secs(5), viewer.exits(4)).await.expect("the exit comes");
        assert_eq!(viewer.text().replace('\r', ""), "said\nlate\n", "what a child says soon is still heard");
    }
}

#[tokio::test]
async fn a_background_child_that_never_falls_silent_does_not_hold_back_the_exit_either() {
    let agent = Agent::start().await;
    let id = agent.command("(while :; do echo more; sleep 0.01; done) & echo said; exit 4").await;
    let mut viewer = agent.attach(&id, "from=start").await;
    timeout(Duration::from_secs(10), viewer.exits(4)).await.expect("the exit comes");
    let end = agent.record(&id).await["log"]["to"].as_u64();
    assert_eq!(end, Some(viewer.output.len() as u64), "nothing follows in the log");
}

#[tokio::test]
async fn the_last_output_comes_before_the_exit_however_much_it_is() {
    let agent = Agent::start().await;
    for _ in 0..20 {
        let id = agent.command("head -c 60000 /dev/zero; printf END; exit 1").await;
        let mut viewer = agent.attach(&id, "from=start").await;
        viewer.exits(1).await;
        assert_eq!(viewer.output.len(), 60_003);
    }
}

#[tokio::test]
async fn a_process_past_its_timeout_is_killed_and_says_so() {
    let agent = Agent::start().await;
    let id = agent.process(&json!({"shell": "trap '' TERM; sleep 100", "timeout": 0.2})).await;
    let record = agent.ends(&id).await;
    assert_eq!((&record["exit"], &record["killed_by"]), (&json!({"signal": 9}), &json!("timeout")));
}

#[tokio::test]
async fn a_process_may_be_left_alone_for_so_long_after_its_last_viewer_left() {
    let agent = Agent::start().await;
    let id = agent.process(&json!({"shell": "sleep 100", "max_run_after_detach": 0.3})).await;
    let first = agent.attach(&id, "from=now").await;
    let second = agent.attach(&id, "from=now").await;
    drop(first);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(agent.record(&id).await["state"], "running", "somebody is attached");
    drop(second);
    let record = agent.ends(&id).await;
    assert_eq!((&record["exit"], &record["killed_by"]), (&json!({"signal": 9}), &json!("detach")));
}

#[tokio::test]
async fn an_exit_is_still_known_to_an_agent_started_again_and_a_lost_one_is_unknown() {
    let mut agent = Agent::start().await;
    let exited = agent.command("printf hello; exit 6").await;
    agent.ends(&exited).await;
    let lost = agent.command("exec sleep 100").await;
    agent.crash().await;
    agent.start_again().await;
    let record = agent.record(&exited).await;
    assert_eq!((&record["state"], &record["exit"]), (&json!("exited"), &json!({"code": 6})));
    let mut viewer = agent.attach(&exited, "from=start").await;
    viewer.exits(6).await;
    assert_eq!(
        (viewer.gaps.as_slice(), viewer.output.len()),
        ([(0, 5)].as_slice(), 0),
        "its output is gone, and said so"
    );
    let record = agent.record(&lost).await;
    assert_eq!((&record["state"], &record["exit"]), (&json!("unknown"), &Value::Null));
    let refusal = agent.try_attach(&lost, "from=start").await.err().unwrap();
    assert_eq!((refusal.status, refusal.headers.get("landfast-error")), (409, Some("process.not_running")));
    assert_eq!(agent.ask("DELETE", &format!("/processes/{lost}"), "").await.status, 204);
    assert_eq!(agent.ask("GET", &format!("/processes/{lost}"), "").await.status, 404);
}

/// Whether a process is there and no zombie.
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
