//! What viewers of a process see, over a plain WebSocket.

use std::time::Duration;

use landfast_core::link::{Header, Kind};
use landfast_core::ws::Opcode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use crate::harness::{Agent, attach_head, eventually};
use crate::viewer::{Said, Viewer, frame};
use crate::way::Way;

#[tokio::test]
async fn input_goes_in_and_both_outputs_come_out_apart() {
    let agent = Agent::start().await;
    let id = agent.command("read line; echo out $line; sleep 0.1; echo err >&2").await;
    let mut viewer = agent.attach(&id, "from=start").await;
    assert_eq!(viewer.next().await, Said::Live(0));
    viewer.types("typed\n").await;
    assert_eq!(viewer.next().await, Said::Out(b"out typed\n".to_vec()));
    assert_eq!(viewer.next().await, Said::Err(b"err\n".to_vec()));
    viewer.exits(0).await;
}

#[tokio::test]
async fn a_pipe_carries_every_byte_as_it_is() {
    let agent = Agent::start().await;
    let id = agent.command("cat").await;
    let mut viewer = agent.attach(&id, "from=start").await;
    let said: Vec<u8> = (0..=255).cycle().take(100_000).chain("grüße, 世界 🌍".bytes()).collect();
    viewer.types(&said).await;
    viewer.reads(said.len()).await;
    assert!(viewer.output == said, "some byte was changed");
    viewer.controls(r#"{"eof":true}"#).await;
    viewer.exits(0).await;
}

#[tokio::test]
async fn both_outputs_keep_the_order_in_which_they_were_read() {
    let agent = Agent::start().await;
    let id = agent.command("for i in $(seq 1 30); do echo $i; read x; echo $i >&2; read x; done").await;
    let mut viewer = agent.attach(&id, "from=start").await;
    let expected: String = (1..=30).map(|i| format!("{i}\n{i}\n")).collect();
    for len in expected.split_inclusive('\n').scan(0, |len, line| {
        *len += line.len();
        Some(*len)
    }) {
        viewer.reads(len).await;
        viewer.types("\n").await;
    }
    viewer.exits(0).await;
    assert_eq!(viewer.text(), expected);
    let mut late = agent.attach(&id, "from=start").await;
    late.exits(0).await;
    assert_eq!((&late.output, late.errors.len() * 2), (&viewer.output, viewer.output.len()));
}

#[tokio::test]
async fn a_viewer_begins_where_it_asks_to() {
    let agent = Agent::start().await;
    let id = agent.command("printf 0123456789; read x; printf ab; read y").await;
    agent.attach(&id, "from=start").await.shows("0123456789").await;
    for (query, replayed) in
        [("from=start", "0123456789"), ("", "0123456789"), ("from=4", "456789"), ("from=10", ""), ("from=now", "")]
    {
        let mut viewer = agent.attach(&id, query).await;
        assert_eq!((viewer.goes_live().await, viewer.text().as_str()), (10, replayed), "{query}");
    }
    let mut viewer = agent.attach(&id, "from=8").await;
    viewer.types("\n").await;
    viewer.shows("89ab").await;
    assert_eq!(viewer.live, Some(10));
}

#[tokio::test]
async fn a_first_viewer_that_has_closed_holds_nobody_back_though_its_session_is_kept_a_while() {
    let agent = Agent::start().await;
    let shell = "until [ -e go ]; do sleep 0.05; done; head -c 9000000 /dev/zero";
    let id = agent.process(&json!({"shell": shell, "lossless": true})).await;
    let (mut link, _) = Way::to(&agent, 0).open(attach_head(&id, "from=start")).await.unwrap();
    let close = frame(true, Opcode::Close, &1000u16.to_be_bytes());
    let header = Header { kind: Kind::Data, len: close.len() }.encode();
    link.write_all(&[&header[..], &close].concat()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.windows(4).any(|bytes| bytes == [0x88, 2, 3, 0xe8]) {
        assert_ne!(link.read_buf(&mut heard).await.unwrap(), 0, "its close is echoed");
    }
    // Gone without a word on the link: the session waits for another one.
    drop(link);
    std::fs::write(agent.home().join("go"), "").unwrap();
    agent.ends(&id).await;
    assert_eq!(agent.sessions().await, 1);
}

#[tokio::test]
async fn a_process_that_exited_long_ago_still_tells_its_output_and_exit() {
    let agent = Agent::start().await;
    let id = agent.command("echo said; exit 6").await;
    agent.ends(&id).await;
    for _ in 0..2 {
        let mut viewer = agent.attach(&id, "from=start").await;
        viewer.exits(6).await;
        assert_eq!((viewer.text().as_str(), viewer.live), ("said\n", Some(5)));
    }
}

#[tokio::test]
async fn an_attachment_that_cannot_be_is_refused_before_the_101() {
    let agent = Agent::start().await;
    let id = agent.command("sleep 100").await;
    let refused = async |id: &str, query: &str| {
        let refusal = agent.try_attach(id, query).await.err().expect(query);
        (refusal.status, refusal.headers.get("landfast-error").map(str::to_owned))
    };
    let unknown = "prc_00000000000000000000000000";
    assert_eq!(refused(unknown, "from=now").await, (404, Some("process.unknown".into())));
    assert_eq!(refused(&id, "from=1").await, (400, Some("request.invalid".into())));
    assert_eq!(refused(&id, "from=-1").await, (400, Some("request.invalid".into())));
    assert_eq!(refused(&id, "input=maybe").await, (400, Some("request.invalid".into())));
    assert_eq!(refused(&id, "from=screen").await, (409, Some("process.no_terminal".into())));
    let mut no_key = attach_head(&id, "from=now");
    no_key.headers.remove("sec-websocket-key");
    assert_eq!(agent.upgrade(&no_key).await.1.status, 400);
    let mut no_upgrade = attach_head(&id, "from=now");
    no_upgrade.headers.remove("upgrade");
    assert_eq!(agent.upgrade(&no_upgrade).await.1.status, 400);
    agent.ask("DELETE", &format!("/processes/{id}"), "").await;
    assert_eq!(refused(&id, "from=now").await.0, 404);
}

#[tokio::test]
async fn the_subprotocol_is_agreed_only_if_it_was_offered() {
    let agent = Agent::start().await;
    let id = agent.command("sleep 100").await;
    let mut head = attach_head(&id, "from=now");
    let (_socket, answer) = agent.upgrade(&head).await;
    assert_eq!(answer.headers.get("sec-websocket-protocol"), Some("landfast.process.v1"));
    assert_eq!(answer.headers.get("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    head.headers.remove("sec-websocket-protocol");
    head.headers.push("Sec-WebSocket-Protocol", "chat");
    let (socket, answer) = agent.upgrade(&head).await;
    assert_eq!((answer.status, answer.headers.get("sec-websocket-protocol")), (101, None));
    assert_eq!(Viewer::new(socket).goes_live().await, 0);
}

#[tokio::test]
async fn an_evicted_range_is_told_as_an_exact_gap_and_then_comes_exactly_the_rest() {
    let agent = Agent::start_with(|config| config.limits.log = 300_000).await;
    let id = agent.command("seq 1 200000; read x").await;
    let all: String = (1..=200_000).map(|i| format!("{i}\n")).collect();
    eventually("all is said", async || (agent.record(&id).await["log"]["to"] == all.len()).then_some(())).await;
    for from in [0, 100, 999_999] {
        let mut viewer = agent.attach(&id, &format!("from={from}")).await;
        let end = viewer.goes_live().await as usize;
        let [(gap_from, gap_to)] = viewer.gaps[..] else { panic!("{:?}", viewer.gaps) };
        assert_eq!((gap_from, end), (from, all.len()));
        assert!(viewer.output == all.as_bytes()[gap_to as usize..], "from={from}");
        assert!((200_000..=300_000).contains(&viewer.output.len()), "{}", viewer.output.len());
    }
}

#[tokio::test]
async fn a_viewer_that_comes_in_the_middle_of_a_flood_misses_nothing_and_sees_nothing_twice() {
    let agent = Agent::start().await;
    // 20,000 numbered lines a second for three seconds, after 900 KB of history.
    let script = "import sys,time\n\
                  w=sys.stdout.write\n\
                  w(''.join('%014d\\n'%i for i in range(60000))); sys.stdout.flush()\n\
                  t=time.time()\n\
                  for k in range(300):\n\
                  \x20   w(''.join('%014d\\n'%i for i in range(60000+k*200,60200+k*200))); sys.stdout.flush()\n\
                  \x20   time.sleep(max(0,t+(k+1)*0.01-time.time()))\n";
    let id = agent.process(&json!({"argv": ["python3", "-c", script], "stdin": "closed"})).await;
    agent.attach(&id, "from=start").await.reads(900_000).await;
    let mut viewers = Vec::new();
    for n in 0..12u64 {
        sleep(Duration::from_millis(n * 17)).await;
        viewers.push(agent.attach(&id, "from=start").await);
    }
    for viewer in &mut viewers {
        viewer.exits(0).await;
        let expected: String = (0..120_000).map(|i| format!("{i:014}\n")).collect();
        assert!(viewer.output == expected.as_bytes(), "lost or doubled, of {} bytes", viewer.output.len());
        assert!(viewer.live >= Some(900_000) && viewer.gaps.is_empty());
    }
}

#[tokio::test]
async fn two_viewers_see_the_same_bytes_and_both_may_type() {
    let agent = Agent::start().await;
    let id = agent.terminal("stty -echo; echo set; cat").await;
    let (mut one, mut other) = (agent.attach(&id, "").await, agent.attach(&id, "").await);
    one.shows("set").await;
    one.types("from one\n").await;
    other.shows("from one").await;
    other.types("from the other\n").await;
    other.shows("from the other").await;
    one.shows("from the other\r\n").await;
    other.reads(one.output.len()).await;
    assert_eq!(one.output, other.output);
}

#[tokio::test]
async fn a_stalled_viewer_costs_nobody_else_anything_and_hears_exactly_what_it_missed() {
    let agent = Agent::start_with(|config| config.limits.log = 1 << 20).await;
    // 20 MB at some 20 MB/s: a viewer that reads keeps up, one that does not is overrun twenty times.
    let script = "import sys,time\n\
                  for k in range(320):\n\
                  \x20   sys.stdout.buffer.write(bytes([k%251])*65536); sys.stdout.flush(); time.sleep(0.003)\n";
    let id = agent.process(&json!({"argv": ["python3", "-c", script], "stdin": "closed"})).await;
    let mut stalled = agent.attach(&id, "from=start").await;
    let mut healthy = agent.attach(&id, "from=start").await;
    healthy.exits(0).await;
    let all: Vec<u8> = (0..320u32).flat_map(|k| vec![(k % 251) as u8; 65_536]).collect();
    assert!(healthy.output == all && healthy.gaps.is_empty(), "{:?}", healthy.gaps);
    stalled.exits(0).await;
    let missed: u64 = stalled.gaps.iter().map(|(from, to)| to - from).sum();
    assert!(missed > 10_000_000, "it was overrun: {missed}");
    // Put together, what it heard and what it was told it missed are everything.
    let mut heard = stalled.output.as_slice();
    let mut at = 0;
    for &(from, to) in &stalled.gaps {
        let (before, rest) = heard.split_at(from as usize - at);
        assert!(before == &all[at..from as usize], "before the gap at {from}");
        (heard, at) = (rest, to as usize);
    }
    assert!(heard == &all[at..], "after the last gap");
}

#[tokio::test]
async fn output_comes_in_large_frames_with_the_offset_at_most_every_64_kib() {
    let agent = Agent::start().await;
    let id = agent.command("head -c 1000000 /dev/zero").await;
    agent.ends(&id).await;
    let mut viewer = agent.attach(&id, "from=start").await;
    let (mut told, mut heard) = (vec![0], 0);
    while viewer.exit.is_none() {
        match viewer.next().await {
            Said::Offset(offset) => {
                assert_eq!(offset, heard, "the offset is that of what came before it");
                told.push(offset);
            }
            Said::Out(bytes) => heard += bytes.len() as u64,
            _ => {}
        }
    }
    assert!(told.len() > 5 && told.windows(2).all(|pair| pair[1] - pair[0] >= 65_536), "{told:?}");
    assert!((32_768..=65_536).contains(&viewer.largest_frame), "{}", viewer.largest_frame);
}

#[tokio::test]
async fn a_viewer_without_input_may_look_and_not_touch() {
    let agent = Agent::start().await;
    let id = agent.terminal("stty -echo; echo set; read x; echo got $x; stty size").await;
    let mut looker = agent.attach(&id, "from=start&input=false").await;
    looker.shows("set").await;
    looker.types("from the looker\n").await;
    looker.controls(r#"{"resize":{"rows":5,"cols":5}}"#).await;
    looker.controls(r#"{"signal":"KILL"}"#).await;
    looker.controls(r#"{"eof":true}"#).await;
    looker.sends(&frame(true, Opcode::Ping, b"heard")).await;
    assert_eq!(looker.next_pong().await, b"heard");
    let mut typist = agent.attach(&id, "from=start").await;
    typist.types("from the typist\n").await;
    looker.shows("got from the typist\r\n24 80").await;
}

#[tokio::test]
async fn signals_and_the_end_of_input_can_be_said_in_text() {
    let agent = Agent::start().await;
    let id = agent.command("cat; echo over").await;
    let mut viewer = agent.attach(&id, "from=start").await;
    viewer.types("in").await;
    viewer.controls(r#"{"eof":true}"#).await;
    viewer.exits(0).await;
    assert_eq!(viewer.text(), "inover\n");
    let id = agent.command("trap 'exit 9' TERM; echo set; while :; do sleep 0.05; done").await;
    let mut viewer = agent.attach(&id, "from=start").await;
    viewer.shows("set").await;
    viewer.controls(r#"{"signal":"TERM"}"#).await;
    viewer.exits(9).await;
}

#[tokio::test]
async fn a_mark_comes_back_once_everything_before_it_was_taken() {
    let agent = Agent::start().await;
    let id = agent.command("read go; wc -c").await;
    let mut looker = agent.attach(&id, "from=start&input=false").await;
    looker.controls(r#"{"mark":1}"#).await;
    assert_eq!(looker.next_mark().await, 1);
    let mut viewer = agent.attach(&id, "from=start").await;
    viewer.controls(r#"{"mark":7}"#).await;
    assert_eq!(viewer.next_mark().await, 7);
    viewer.types("go\n").await;
    // More than the agent and the pipe hold together: it is taken as it is read.
    viewer.types(vec![b'x'; 2_000_000]).await;
    viewer.controls(r#"{"mark":18446744073709551615}"#).await;
    assert_eq!(viewer.next_mark().await, u64::MAX);
    viewer.controls(r#"{"eof":true}"#).await;
    viewer.exits(0).await;
    assert_eq!(viewer.text().trim(), "2000000");
}

#[tokio::test]
async fn a_window_holds_output_back_until_it_was_taken() {
    let agent = Agent::start().await;
    let id = agent.command("head -c 900000 /dev/zero; exit 3").await;
    agent.ends(&id).await;
    let mut viewer = agent.attach(&id, "from=start&window=100000").await;
    let mut taken = 0;
    while taken < 900_000 {
        viewer.reads((taken + 100_000).min(900_000)).await;
        viewer.controls(r#"{"mark":1}"#).await;
        viewer.next_mark().await;
        assert!(viewer.output.len() < taken + 200_000, "{} bytes after {taken} were taken", viewer.output.len());
        taken = viewer.output.len();
        viewer.controls(&format!(r#"{{"taken":{taken}}}"#)).await;
    }
    viewer.exits(3).await;
}

#[tokio::test]
async fn messages_may_be_fragmented_empty_and_interrupted_by_pings() {
    let agent = Agent::start().await;
    let id = agent.command("read x; echo got $x").await;
    let mut viewer = agent.attach(&id, "from=start").await;
    viewer.sends(&frame(true, Opcode::Binary, b"")).await;
    viewer.sends(&frame(true, Opcode::Binary, b"\0")).await;
    viewer.sends(&frame(true, Opcode::Pong, b"unasked")).await;
    viewer.sends(&frame(false, Opcode::Binary, b"")).await;
    viewer.sends(&frame(false, Opcode::Continuation, b"\0in ")).await;
    viewer.sends(&frame(true, Opcode::Ping, b"there?")).await;
    viewer.sends(&frame(true, Opcode::Continuation, b"pieces\n")).await;
    assert_eq!(viewer.next_pong().await, b"there?");
    viewer.shows("got in pieces\n").await;
    assert_eq!(viewer.text(), "got in pieces\n");
}

#[tokio::test]
async fn a_clients_close_is_echoed_and_leaves_the_process_running() {
    let agent = Agent::start().await;
    let id = agent.command("sleep 100").await;
    let mut viewer = agent.attach(&id, "from=now").await;
    viewer.goes_live().await;
    viewer.sends(&frame(true, Opcode::Close, &[&3333u16.to_be_bytes()[..], b"bye"].concat())).await;
    assert_eq!(viewer.closes().await.0, 3333);
    viewer.hears_nothing_more().await;
    assert_eq!(agent.record(&id).await["state"], "running");
}

#[tokio::test]
async fn a_viewer_that_breaks_the_protocol_is_told_so_and_the_process_is_unharmed() {
    let agent = Agent::start().await;
    let id = agent.command("sleep 100").await;
    let text = |text: &str| frame(true, Opcode::Text, text.as_bytes());
    let cases = [
        (text("{"), 1002, "request.invalid"),
        (text("[]"), 1002, "request.invalid"),
        (text(r#"{"resise":1}"#), 1002, "request.invalid"),
        (text(r#"{"resize":{"rows":0,"cols":1}}"#), 1002, "request.invalid"),
        (text(r#"{"signal":"NONE"}"#), 1002, "request.invalid"),
        (text(&" ".repeat(10_000)), 1009, "limit.message"),
        (frame(true, Opcode::Binary, &[9, 1]), 1002, "request.invalid"),
        (frame(true, Opcode::Continuation, b"x"), 1002, "request.invalid"),
        (vec![0x82, 0x01, 0x00], 1002, "request.invalid"),
        (vec![0xf2, 0x81, 0, 0, 0, 0, 0], 1002, "request.invalid"),
    ];
    for (bytes, code, reason) in cases {
        let mut viewer = agent.attach(&id, "from=now").await;
        viewer.sends(&bytes).await;
        let (closed, said) = viewer.closes().await;
        assert!(closed == code && said.split(' ').next() == Some(reason), "{bytes:?}: {closed} {said}");
        viewer.hears_nothing_more().await;
    }
    assert_eq!(agent.record(&id).await["state"], "running");
}

#[tokio::test]
async fn a_client_that_does_not_hang_up_after_the_close_is_hung_up_on() {
    let agent = Agent::start().await;
    let before = agent.tasks();
    let id = agent.command("exit 0").await;
    let mut viewer = agent.attach(&id, "from=start").await;
    viewer.exits(0).await;
    let since = Instant::now();
    eventually("its task ends", async || (agent.tasks() <= before).then_some(())).await;
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    drop(viewer);
}
