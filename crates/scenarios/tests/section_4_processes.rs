//! Section 4 of the specification of sessions: processes, and attaching to them.

use landfast_scenarios::attached::Said;
use landfast_scenarios::cell::{Cell, eventually};
use landfast_scenarios::numbers::{Checker, Numbers};
use landfast_scenarios::plain::{Event, PlainClient};
use serde_json::{Value, json};

// --- what is asked of the agent ---

#[tokio::test]
async fn a_process_is_started_listed_and_described() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.process(&json!({"argv": ["sleep", "100"], "env": {"A": "1"}})).await;
    let record = process.record().await;
    assert_eq!((record["state"].as_str(), record["exit"].is_null()), (Some("running"), true), "{record}");
    assert!(record["pid"].as_u64() > Some(0) && record["started_at"].as_u64() > Some(0), "{record}");
    let list = instance.ask("GET", "/processes", None).await.json();
    assert!(list.to_string().contains(&process.id), "{list}");
}

#[tokio::test]
async fn an_exit_is_recorded_once_with_its_code_or_its_signal() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    for (shell, exit) in [("exit 7", json!({"code": 7})), ("kill -9 $$", json!({"signal": 9}))] {
        let process = instance.command(shell).await;
        let record = eventually("it exits", async || {
            let record = process.record().await;
            (record["state"] == "exited").then_some(record)
        });
        assert_eq!(record.await["exit"], exit, "{shell}");
    }
}

#[tokio::test]
async fn a_process_gets_the_environment_and_the_folder_it_was_given() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let wish = json!({"shell": "echo $GREETING; pwd", "env": {"GREETING": "hail"}, "cwd": "/usr"});
    let mut viewer = instance.process(&wish).await.attach("start").await;
    viewer.exits(0).await;
    assert_eq!(viewer.text(), "hail\n/usr\n");
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_refused_with_its_name() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let answer = instance.ask("POST", "/processes", Some(&json!({"argv": ["no-such-program"]}))).await;
    assert_eq!(answer.refusal(), (422, "process.spawn".to_owned()));
    assert!(answer.json()["detail"].as_str().is_some_and(|detail| detail.contains("no-such-program")), "{answer:?}");
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group_and_delete_kills_it() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("trap 'echo caught; exit 3' INT; echo set; sleep 100 & wait").await;
    let mut viewer = process.attach("start").await;
    viewer.shows("set\n").await;
    assert_eq!(process.signal("INT").await.status / 100, 2);
    viewer.exits(3).await;

    let stubborn = instance.command("trap '' TERM INT HUP; sleep 1000 & echo child $!; wait").await;
    let mut viewer = stubborn.attach("start").await;
    viewer.shows("child ").await;
    let deleted = instance.ask("DELETE", &format!("/processes/{}", stubborn.id), None).await;
    assert_eq!(deleted.status / 100, 2, "{deleted:?}");
    viewer.exits(128 + 9).await;
    eventually("it is forgotten", async || {
        let answer = instance.ask("GET", &format!("/processes/{}", stubborn.id), None).await;
        (answer.status == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn input_and_its_end_can_be_posted() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("cat; echo over").await;
    let path = |verb: &str| format!("/processes/{}/{verb}", process.id);
    assert_eq!(instance.post_bytes(&path("stdin"), b"posted\n").await.status / 100, 2);
    assert_eq!(instance.ask("POST", &path("eof"), None).await.status / 100, 2);
    let mut viewer = process.attach("start").await;
    viewer.exits(0).await;
    assert_eq!(viewer.text(), "posted\nover\n");
}

#[tokio::test]
async fn a_terminal_is_resized_from_either_side() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.terminal("trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done").await;
    let mut viewer = process.attach("start").await;
    viewer.shows("24 80").await;
    viewer.resizes(30, 100).await;
    viewer.shows("30 100").await;
    let wish = json!({"rows": 31, "cols": 101});
    let resized = instance.ask("POST", &format!("/processes/{}/resize", process.id), Some(&wish)).await;
    assert_eq!(resized.status / 100, 2, "{resized:?}");
    viewer.shows("31 101").await;
}

#[tokio::test]
async fn the_log_can_be_read_from_any_offset() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("printf 0123456789").await;
    process.attach("start").await.exits(0).await;
    let output = |query: &str| format!("/processes/{}/output?{query}", process.id);
    assert_eq!(instance.ask("GET", &output("from=0"), None).await.body, b"0123456789");
    assert_eq!(instance.ask("GET", &output("from=7&follow=true"), None).await.body, b"789");
}

#[tokio::test]
async fn the_log_can_be_followed_as_events_with_their_offsets() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("printf 12345; read x; printf 678 >&2; exit 3").await;
    process.attach("start").await.shows("12345").await;
    let target = format!("/processes/{}/output?from=2&follow=true", process.id);
    let (answer, ()) = tokio::join!(instance.ask_with(&target, "Accept: text/event-stream"), async {
        process.attach("now").await.types("\n").await;
    });
    let body = String::from_utf8(answer.body).expect("events are text");
    let events: Vec<Value> =
        body.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok()).collect();
    let of = |stream: &str| events.iter().find(|event| event["stream"] == stream).expect(stream).clone();
    assert_eq!((&of("stdout")["offset"], &of("stdout")["data"]), (&json!(2), &json!("MzQ1")), "{body}");
    assert_eq!((&of("stderr")["offset"], &of("stderr")["data"]), (&json!(5), &json!("Njc4")), "{body}");
}

#[tokio::test]
async fn exec_waits_and_answers_with_everything() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let wish = json!({"shell": "cat; echo bad >&2; exit 4", "input": "good\n"});
    let answer = instance.ask("POST", "/exec", Some(&wish)).await.json();
    assert_eq!(
        (&answer["exit"], &answer["stdout"], &answer["stderr"]),
        (&json!({"code": 4}), &json!("good\n"), &json!("bad\n"))
    );
}

#[tokio::test]
async fn a_process_past_its_timeout_is_killed() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.process(&json!({"shell": "sleep 100", "timeout": 1})).await;
    process.attach("start").await.exits(128 + 9).await;
}

#[tokio::test]
async fn a_process_that_may_not_outlive_its_viewers_by_long_does_not() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.process(&json!({"shell": "sleep 100", "max_run_after_detach": 1})).await;
    let viewer = process.attach("start").await;
    assert_eq!(process.record().await["state"], "running");
    viewer.socket.vanish();
    eventually("it is ended", async || (process.record().await["state"] == "exited").then_some(())).await;
}

// --- what a viewer sees ---

#[tokio::test]
async fn input_goes_in_and_both_outputs_come_out_apart() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("read line; echo out $line; echo err >&2").await;
    let mut viewer = process.attach("start").await;
    viewer.types("typed\n").await;
    let is_output = |said: &Said| matches!(said, Said::Out(_) | Said::Err(_));
    // They are two pipes: which of them is read first is nobody's promise.
    let mut said = [viewer.next_of(is_output).await, viewer.next_of(is_output).await];
    said.sort_by_key(|said| matches!(said, Said::Err(_)));
    assert_eq!(said, [Said::Out(b"out typed\n".to_vec()), Said::Err(b"err\n".to_vec())]);
    viewer.exits(0).await;
}

#[tokio::test]
async fn the_exit_comes_once_after_the_last_output_and_then_the_close() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    for (shell, code) in [("echo bye; exit 5", 5), ("echo bye; kill -TERM $$", 128 + 15)] {
        let mut viewer = instance.command(shell).await.attach("start").await;
        viewer.exits(code).await;
        assert_eq!(viewer.text(), "bye\n");
        let mut later = instance.command(shell).await.attach("start").await;
        later.exits(code).await;
    }
}

#[tokio::test]
async fn a_process_that_has_exited_long_ago_still_tells_its_output_and_exit() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("echo said; exit 6").await;
    process.attach("start").await.exits(6).await;
    let mut late = process.attach("start").await;
    late.exits(6).await;
    assert_eq!((late.text().as_str(), late.live), ("said\n", Some(5)));
}

#[tokio::test]
async fn replay_ends_exactly_once_with_the_logs_offset() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("printf 12345; read x; printf 678; read y").await;
    process.attach("start").await.shows("12345").await;
    let mut viewer = process.attach("start").await;
    assert_eq!(viewer.goes_live().await, 5);
    assert_eq!(viewer.text(), "12345");
    viewer.types("\n").await;
    viewer.shows("678").await;
}

#[tokio::test]
async fn a_viewer_begins_where_it_asks_to() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("printf 0123456789; read x; printf ab; read y").await;
    process.attach("start").await.shows("0123456789").await;
    for (from, replayed) in [("start", "0123456789"), ("4", "456789"), ("10", ""), ("now", "")] {
        let mut viewer = process.attach(from).await;
        assert_eq!(viewer.goes_live().await, 10, "from={from}");
        assert_eq!(viewer.text(), replayed, "from={from}");
    }
}

#[tokio::test]
async fn an_evicted_range_is_told_as_an_exact_gap() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    // More than any log keeps.
    let process = instance.command("head -c 20000000 /dev/zero; printf END; read x").await;
    process.attach("start").await.shows("END").await;
    let mut viewer = process.attach("100").await;
    let end = viewer.goes_live().await;
    let [(from, to)] = viewer.gaps[..] else { panic!("{:?}", viewer.gaps) };
    assert_eq!((from, end), (100, 20_000_003));
    assert_eq!(viewer.output.len() as u64, end - to, "after the gap comes exactly the rest");
    assert!(viewer.output.ends_with(b"\0END"));
}

#[tokio::test]
async fn a_viewer_without_input_may_look_and_not_touch() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("read x; echo got $x").await;
    let mut looker = process.view("from=start&input=false").await;
    looker.types("from the looker\n").await;
    let mut typist = process.attach("start").await;
    typist.types("from the typist\n").await;
    looker.shows("got from the typist").await;
}

#[tokio::test]
async fn signal_and_end_of_input_can_be_said_in_text_frames() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("cat; echo over").await.attach("start").await;
    viewer.types("in").await;
    viewer.ends_input().await;
    viewer.shows("inover").await;
    let mut viewer =
        instance.command("trap 'exit 9' TERM; echo set; while :; do sleep 0.05; done").await.attach("start").await;
    viewer.shows("set").await;
    viewer.signals("TERM").await;
    viewer.exits(9).await;
}

#[tokio::test]
async fn a_client_is_told_the_offset_at_most_every_64_kib() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("head -c 1000000 /dev/zero").await.attach("start").await;
    let (mut told, mut heard) = (vec![0], 0);
    while viewer.exit.is_none() {
        match viewer.next().await {
            Said::Offset(offset) => {
                assert_eq!(offset, heard, "the offset is that of what came before it");
                told.push(offset);
            }
            Said::Out(bytes) => heard += bytes.len() as u64,
            Said::Err(_) | Said::Exit(_) | Said::Live(_) | Said::Gap(..) | Said::Close(..) => {}
        }
    }
    assert!(told.len() > 5 && told.windows(2).all(|pair| pair[1] - pair[0] >= 65_536), "{told:?}");
}

#[tokio::test]
async fn an_empty_frame_is_nothing() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("read x; echo got $x").await.attach("start").await;
    viewer.socket.send_binary(&[]).await;
    viewer.socket.send_binary(&[&[0]]).await;
    viewer.types("it\n").await;
    viewer.shows("got it").await;
}

#[tokio::test]
async fn a_viewer_that_comes_in_the_middle_of_a_flood_misses_nothing_and_sees_nothing_twice() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let program = instance.brings("landfast-numbers");
    let process = instance.process(&json!({"argv": [program, "11", "800000", "400000"], "stdin": "closed"})).await;
    for _ in 0..10 {
        let mut viewer = process.attach("start").await;
        viewer.reads(viewer.output.len() + 10_000).await;
        let said = &viewer.output[b"ready\n".len()..];
        Checker::new(Numbers::new(11)).take(said).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

#[tokio::test]
async fn several_viewers_see_the_same_bytes_and_may_all_type() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.terminal("stty -echo; echo set; cat").await;
    let (mut one, mut other) = (process.attach("start").await, process.attach("start").await);
    one.shows("set").await;
    one.types("from one\n").await;
    other.shows("from one").await;
    other.types("from the other\n").await;
    one.shows("from the other").await;
    other.shows("from the other").await;
    assert_eq!(one.output, other.output);
}

#[tokio::test]
async fn without_a_terminal_both_outputs_keep_the_order_in_which_they_were_read() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    // One is said when the other was heard, so that there is an order to keep.
    let process = instance.command("for i in 1 2 3 4 5; do echo $i; read x; echo $i >&2; read x; done").await;
    let mut viewer = process.attach("start").await;
    let mut expected = String::new();
    for said in (1..=5).flat_map(|i| [i, i]) {
        expected += &format!("{said}\n");
        viewer.reads(expected.len()).await;
        viewer.types("\n").await;
    }
    viewer.exits(0).await;
    assert_eq!(viewer.text(), expected);
    let mut late = process.attach("start").await;
    late.exits(0).await;
    assert_eq!(late.text(), expected);
}

#[tokio::test]
async fn a_viewer_that_breaks_the_protocol_is_told_so() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("read x").await;
    for text in ["{", "{\"resise\":1}", "[]"] {
        let mut viewer = process.attach("now").await;
        viewer.socket.send_text(text).await;
        viewer.socket.expect_close(1002, "request.invalid").await;
    }
    let mut viewer = process.attach("now").await;
    viewer.socket.send_binary(&[&[9], b"?"]).await;
    viewer.socket.expect_close(1002, "request.invalid").await;
    assert_eq!(process.record().await["state"], "running", "the process is unharmed");
}

#[tokio::test]
async fn a_ping_of_the_client_is_answered_by_the_far_end() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("read x").await.attach("now").await;
    viewer.goes_live().await;
    viewer.socket.send_ping(b"are you there").await;
    assert_eq!(viewer.socket.next().await, Event::Pong(b"are you there".to_vec()));
}

#[tokio::test]
async fn a_process_that_is_not_there_is_refused_before_the_upgrade() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let nowhere = instance.upgrade("/processes/prc_00000000000000000000000000/attach?from=now");
    let refusal = PlainClient::open(&nowhere).await.expect_err("there is no such process");
    assert_eq!(refusal.refusal(), (404, "process.unknown".to_owned()));
}
