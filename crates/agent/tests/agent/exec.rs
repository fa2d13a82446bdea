//! Commands that are run and waited for.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::harness::{Agent, eventually};

async fn exec(agent: &Agent, wish: Value) -> Value {
    let answer = agent.ask("POST", "/exec", wish.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn everything_it_said_is_answered_and_nothing_of_it_stays() {
    let agent = Agent::start().await;
    let outcome = exec(&agent, json!({"shell": "cat; echo bad >&2; exit 4", "input": "good\n"})).await;
    let expected = json!({"exit": {"code": 4}, "stdout": "good\n", "stderr": "bad\n", "truncated": false});
    assert_eq!(outcome, expected);
    eventually("it is forgotten", async || {
        (agent.ask("GET", "/processes", "").await.json()["processes"] == json!([])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn output_that_is_no_text_is_answered_in_base64() {
    let agent = Agent::start().await;
    let outcome = exec(&agent, json!({"shell": r"printf '\377\376'; printf text >&2"})).await;
    assert_eq!(outcome, json!({"exit": {"code": 0}, "stdout_base64": "//4=", "stderr": "text", "truncated": false}));
}

#[tokio::test]
async fn more_than_is_kept_is_answered_with_its_end_and_said_to_be_cut() {
    let agent = Agent::start_with(|config| config.limits.log = 200_000).await;
    let outcome = exec(&agent, json!({"shell": "head -c 3000000 /dev/zero | tr '\\0' x; printf END"})).await;
    let stdout = outcome["stdout"].as_str().unwrap();
    assert!(stdout.ends_with("xEND") && (60_000..=200_000).contains(&stdout.len()), "{}", stdout.len());
    assert_eq!(outcome["truncated"], true);
}

#[tokio::test]
async fn a_command_that_does_not_read_its_input_has_not_failed_by_that() {
    let agent = Agent::start().await;
    let outcome = exec(&agent, json!({"shell": "exit 0", "input": "x".repeat(1_000_000)})).await;
    assert_eq!(outcome["exit"], json!({"code": 0}));
}

#[tokio::test]
async fn a_command_without_input_reads_its_end() {
    let agent = Agent::start().await;
    assert_eq!(exec(&agent, json!({"argv": ["cat"]})).await["exit"], json!({"code": 0}));
}

#[tokio::test]
async fn a_command_whose_asker_leaves_is_killed() {
    let agent = Agent::start().await;
    let wish = json!({"shell": "echo $$ > pid; sleep 1000"}).to_string();
    let mut socket = agent.connect("agent.sock").await.unwrap();
    let request = format!("POST /exec HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{wish}", wish.len());
    socket.write_all(request.as_bytes()).await.unwrap();
    let pid = agent.home().join("pid");
    let pid =
        eventually("it runs", async || std::fs::read_to_string(&pid).ok().filter(|pid| pid.ends_with('\n'))).await;
    drop(socket);
    eventually("it is gone", async || (!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists()).then_some(()))
        .await;
    assert_eq!(agent.ask("GET", "/processes", "").await.json()["processes"], json!([]));
}

#[tokio::test]
async fn a_command_that_is_waited_for_has_no_terminal() {
    let agent = Agent::start().await;
    let wish = json!({"shell": "x", "tty": {"rows": 1, "cols": 1}});
    assert_eq!(agent.ask("POST", "/exec", wish.to_string()).await.refusal(), (400, "request.invalid".to_owned()));
    let wish = json!({"shell": "x", "input": 7});
    assert_eq!(agent.ask("POST", "/exec", wish.to_string()).await.refusal(), (400, "request.invalid".to_owned()));
}
