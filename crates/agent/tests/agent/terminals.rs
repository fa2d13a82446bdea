//! Processes on terminals, with a real shell in them.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use crate::harness::{Agent, eventually};
use crate::viewer::Viewer;

/// A shell that shows what it is told and nothing else.
async fn shell(agent: &Agent) -> (String, Viewer<landfast_net::socket::Socket>) {
    let inputrc = agent.home().join("inputrc");
    std::fs::write(&inputrc, "set enable-bracketed-paste off\n").unwrap();
    let env = json!({"PS1": "$ ", "INPUTRC": inputrc});
    let wish = json!({"argv": ["bash", "--norc", "-i"], "env": env, "tty": {"rows": 24, "cols": 80}});
    let id = agent.process(&wish).await;
    let mut viewer = agent.attach(&id, "from=start").await;
    viewer.shows("$ ").await;
    (id, viewer)
}

#[tokio::test]
async fn it_is_a_terminal_with_a_size_a_type_and_job_control() {
    let agent = Agent::start().await;
    let (id, mut viewer) = shell(&agent).await;
    assert_eq!(agent.record(&id).await["tty"], json!({"rows": 24, "cols": 80}));
    assert!(!viewer.text().contains("no job control"), "{}", viewer.text());
    viewer.types("stty size; echo $TERM; tty; ps -o sid= -p $$ | grep -qw $$ && echo leads\n").await;
    viewer.shows("24 80\r\nxterm-256color\r\n/dev/pts/").await;
    viewer.shows("\r\nleads\r\n").await;
    viewer.types("exit 5\n").await;
    viewer.exits(5).await;
}

#[tokio::test]
async fn it_is_resized_from_either_side_and_its_program_is_told() {
    let agent = Agent::start().await;
    let id = agent.terminal("trap 'stty size' WINCH; echo set; while :; do sleep 0.05; done").await;
    let mut viewer = agent.attach(&id, "from=start").await;
    viewer.shows("set").await;
    viewer.controls(r#"{"resize":{"rows":30,"cols":100}}"#).await;
    viewer.shows("30 100").await;
    let answer = agent.ask("POST", &format!("/processes/{id}/resize"), r#"{"rows":31,"cols":101}"#).await;
    assert_eq!(answer.status, 204);
    viewer.shows("31 101").await;
    assert_eq!(agent.record(&id).await["tty"], json!({"rows": 31, "cols": 101}));
}

#[tokio::test]
async fn a_key_and_a_signal_reach_what_is_in_the_foreground() {
    let agent = Agent::start().await;
    let (id, mut viewer) = shell(&agent).await;
    for by_key in [true, false] {
        let before = viewer.output.len();
        viewer.types("echo on''ly; sleep 100; echo wen''t on\n").await;
        viewer.shows_after(before, "only\r\n").await;
        eventually("sleep is in the foreground", async || {
            // The foreground group stands in the shell's state; between fork and exec it is still the shell's copy.
            let pid = agent.record(&id).await["pid"].to_string();
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let foreground = stat.rsplit_once(") ").unwrap().1.split(' ').nth(5).unwrap().to_owned();
            std::fs::read_to_string(format!("/proc/{foreground}/comm")).ok().filter(|name| name == "sleep\n")
        })
        .await;
        if by_key {
            viewer.types("\x03").await;
        } else {
            let answer = agent.ask("POST", &format!("/processes/{id}/signal"), r#"{"signal":"INT"}"#).await;
            assert_eq!(answer.status, 204);
        }
        viewer.shows_after(before, "\r\n$ ").await;
        let said = String::from_utf8_lossy(&viewer.output[before..]).into_owned();
        assert!(!said.contains("went on"), "the shell's list is interrupted: {said}");
    }
    viewer.types("exit\n").await;
    viewer.exits(130).await;
}

#[tokio::test]
async fn the_end_of_input_is_a_key_on_a_terminal() {
    let agent = Agent::start().await;
    let (id, mut viewer) = shell(&agent).await;
    viewer.types("echo rea''dy; cat; echo over\n").await;
    viewer.shows("ready\r\n").await;
    viewer.types("line\n").await;
    viewer.shows("line\r\nline\r\n").await;
    viewer.controls(r#"{"eof":true}"#).await;
    viewer.shows("over\r\n$ ").await;
    assert_eq!(agent.ask("POST", &format!("/processes/{id}/eof"), "").await.status, 204);
    viewer.exits(0).await;
}

#[tokio::test]
async fn a_million_lines_through_a_wide_terminal_are_byte_for_byte_what_was_written() {
    let agent = Agent::start_with(|config| config.limits.log = 16 << 20).await;
    let wish = json!({"argv": ["seq", "1", "1000000"], "tty": {"rows": 50, "cols": 200}});
    let id = agent.process(&wish).await;
    let mut viewer = agent.attach(&id, "from=start").await;
    viewer.exits(0).await;
    let expected: String = (1..=1_000_000).map(|i| format!("{i}\r\n")).collect();
    assert!(viewer.output == expected.as_bytes(), "{} of {} bytes", viewer.output.len(), expected.len());
}

#[tokio::test]
async fn a_terminals_text_may_be_any_utf_8() {
    let agent = Agent::start().await;
    let (_, mut viewer) = shell(&agent).await;
    viewer.types("printf '%s\\n' 'grüße, 世界 🌍'\n").await;
    viewer.shows("\r\ngrüße, 世界 🌍\r\n").await;
    // The kernel erases a whole character with one key.
    viewer.types("stty -echo; echo rea''dy; cat\n").await;
    viewer.shows("ready\r\n").await;
    viewer.types("ab世\x7fc\n").await;
    viewer.shows("abc\r\n").await;
}

#[tokio::test]
async fn a_program_that_closes_its_terminal_and_opens_it_again_is_still_heard() {
    let agent = Agent::start().await;
    let id = agent.terminal("exec 0<&- 1>&- 2>&-; sleep 0.3; echo back > /dev/tty; exit 2").await;
    let mut viewer = agent.attach(&id, "from=start").await;
    timeout(Duration::from_secs(5), viewer.exits(2)).await.expect("it ends");
    assert_eq!(viewer.text(), "back\r\n");
}

#[tokio::test]
async fn keystrokes_typed_fast_all_arrive_in_order() {
    let agent = Agent::start().await;
    let id = agent.terminal("stty raw -echo; echo set; exec cat").await;
    let mut viewer = agent.attach(&id, "from=start").await;
    viewer.shows("set\n").await;
    let typed: Vec<u8> = (0..20_000u32).map(|i| b'a' + (i * 7 % 26) as u8).collect();
    for key in typed.chunks(1) {
        viewer.types(key).await;
    }
    viewer.reads("set\n".len() + typed.len()).await;
    assert!(viewer.output.ends_with(&typed), "lost, doubled or out of order");
}

#[tokio::test]
async fn a_deleted_terminal_takes_its_background_jobs_along() {
    let agent = Agent::start().await;
    let (id, mut viewer) = shell(&agent).await;
    viewer.types("(trap '' HUP; exec sleep 12345) & echo job $!\n").await;
    viewer.shows("\njob ").await;
    viewer.shows("\r\n$ ").await;
    let text = viewer.text();
    let job = text.rsplit_once("\njob ").unwrap().1.split_whitespace().next().unwrap().to_owned();
    let cmdline = format!("/proc/{job}/cmdline");
    eventually("it sleeps", async || std::fs::read_to_string(&cmdline).ok().filter(|line| line.contains("12345")))
        .await;
    assert_eq!(agent.ask("DELETE", &format!("/processes/{id}"), "").await.status, 204);
    viewer.exits(128 + 9).await;
    let is_there = || std::fs::read_to_string(&cmdline).is_ok_and(|line| line.contains("12345"));
    eventually("the job is gone", async || (!is_there()).then_some(())).await;
}
