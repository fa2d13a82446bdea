//! Sessions over links that are cut.

use std::sync::atomic::Ordering;
use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_core::link::{Close, Header, Kind};
use landfast_core::ws::Opcode;
use landfast_net::head::{HEAD_MAX, Headers, RequestHead, read_response, write_all};
use landfast_net::hold::Ending;
use landfast_net::link::{LinkError, OpenAnswer, OpenRequest, ResumeRequest, Secret, open, resume};
use landfast_net::socket::Socket;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use crate::harness::{Agent, PATIENCE, attach_head, eventually};
use crate::viewer::{Viewer, frame};
use crate::way::{Holding, Way};

/// A viewer whose session is held at its client end, as a gateway holds it.
struct Held {
    viewer: Viewer<DuplexStream>,
    holding: Holding,
}

async fn open_link(way: &Way, id: &str, query: &str) -> Result<(Socket, OpenAnswer), LinkError> {
    way.open(attach_head(id, query)).await
}

async fn hold(way: &Way, id: &str, query: &str) -> Held {
    let (near, answer, holding) = way.hold(&attach_head(id, query)).await;
    assert_eq!(answer.head.headers.get("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    Held { viewer: Viewer::new(near), holding }
}

impl Held {
    /// How it ended and over how many links it went.
    async fn ended(self) -> (Ending, u64) {
        let (ending, account) = timeout(PATIENCE, self.holding).await.expect("it ends").unwrap();
        (ending, account.links)
    }
}

#[tokio::test]
async fn numbered_bytes_pass_both_ways_through_a_hundred_cuts_once_and_in_order() {
    let agent = Agent::start().await;
    let id = agent.command("cat").await;
    let way = Way::to(&agent, 40_000);
    let Held { viewer, holding } = hold(&way, &id, "from=start").await;
    let said: Vec<u8> = (0..750_000u32).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_be_bytes()).collect();
    let (mut sender, mut receiver) = viewer.split();
    let heard = async {
        receiver.reads(said.len()).await;
        receiver
    };
    let typed = async {
        for (number, bytes) in said.chunks(777).enumerate() {
            // Some messages in two fragments, so that every kind of seam is cut.
            if number % 3 == 0 {
                let (one, two) = bytes.split_at(bytes.len() / 2);
                sender.sends(&frame(false, Opcode::Binary, &[&[0], one].concat())).await;
                sender.sends(&frame(true, Opcode::Continuation, two)).await;
            } else {
                sender.types(bytes).await;
            }
        }
        sender.controls(r#"{"eof":true}"#).await;
        sender
    };
    let (mut receiver, sender) = tokio::join!(heard, typed);
    assert!(receiver.output == said, "lost, doubled or out of order");
    way.budget.store(0, Ordering::Relaxed);
    receiver.exits(0).await;
    drop(sender);
    let (ending, links) = Held { viewer: Viewer::new(tokio::io::duplex(1).0), holding }.ended().await;
    assert!(matches!(ending, Ending::Far(close) if close.code == ErrorCode::ProcessExited));
    assert!(links > 100, "only {links} links");
}

#[tokio::test]
async fn a_terminal_survives_cuts_with_no_keystroke_lost() {
    let agent = Agent::start().await;
    let id = agent.terminal("stty raw -echo; echo set; exec cat").await;
    let way = Way::to(&agent, 2_000);
    let mut held = hold(&way, &id, "from=start").await;
    held.viewer.shows("set\n").await;
    let typed: Vec<u8> = (0..5_000u32).map(|i| b'a' + (i * 7 % 26) as u8).collect();
    for key in typed.chunks(1) {
        held.viewer.types(key).await;
    }
    held.viewer.reads("set\n".len() + typed.len()).await;
    assert!(held.viewer.output.ends_with(&typed));
}

#[tokio::test]
async fn what_happens_in_a_gap_arrives_after_it_and_the_exit_once() {
    let agent = Agent::start().await;
    let id = agent.command("echo before; read x; echo in the gap; exit 7").await;
    let way = Way::to(&agent, 0);
    let (mut link, answer) = open_link(&way, &id, "from=start").await.unwrap();
    // The link is lost unread; nobody is there while the process goes on and ends.
    link.shutdown().await.unwrap();
    drop(link);
    agent.ask("POST", &format!("/processes/{id}/stdin"), "\n").await;
    agent.ends(&id).await;
    let request = ResumeRequest { session: answer.session, secret: answer.secret, link: 2, received: 0 };
    let (link, received) = resume(way.dial().await.unwrap(), "/links", &request, &[]).await.unwrap();
    assert_eq!(received, 0);
    let said = read_session(link).await;
    let mut viewer = Viewer::new(std::io::Cursor::new(said));
    viewer.exits(7).await;
    assert_eq!(viewer.text(), "before\nin the gap\n");
    eventually("the session is gone", async || (agent.sessions().await == 0).then_some(())).await;
}

/// Reads a link to the agent's CLOSE, acknowledges it, and returns the session's bytes.
async fn read_session(mut link: Socket) -> Vec<u8> {
    let mut said = Vec::new();
    loop {
        let mut head = [0; 4];
        timeout(PATIENCE, link.read_exact(&mut head)).await.expect("a record").unwrap();
        let header = Header::decode(head).unwrap();
        let mut payload = vec![0; header.len];
        link.read_exact(&mut payload).await.unwrap();
        match header.kind {
            Kind::Data => said.extend(payload),
            Kind::Close => {
                let mut close = Vec::new();
                Close::new(ErrorCode::ClientClose, "").encode(&mut close);
                link.write_all(&close).await.unwrap();
                return said;
            }
            Kind::Ack | Kind::Ping | Kind::Pong => {}
        }
    }
}

#[tokio::test]
async fn a_session_that_cannot_be_is_refused_with_a_plain_answer_and_leaves_nothing() {
    let agent = Agent::start().await;
    let id = agent.command("sleep 100").await;
    let way = Way::to(&agent, 0);
    let refused = async |id: &str, query: &str| match open_link(&way, id, query).await {
        Err(LinkError::Refused(refusal)) => (refusal.head.status, refusal.code()),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("prc_00000000000000000000000000", "").await, (404, ErrorCode::ProcessUnknown));
    assert_eq!(refused(&id, "from=yesterday").await, (400, ErrorCode::RequestInvalid));
    assert_eq!(refused(&id, "from=screen").await, (409, ErrorCode::ProcessNoTerminal));
    let elsewhere = RequestHead { target: "/exec".into(), ..attach_head(&id, "") };
    let socket = way.dial().await.unwrap();
    let error = open(socket, "/links", &OpenRequest::new(elsewhere), &[]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::RequestNotFound);
    assert_eq!(agent.sessions().await, 0);
}

#[tokio::test]
async fn an_open_or_resume_that_is_none_is_refused() {
    let agent = Agent::start().await;
    let id = agent.command("sleep 100").await;
    let way = Way::to(&agent, 0);
    let (_link, answer) = open_link(&way, &id, "from=now").await.unwrap();
    let request = |link, received, secret: &Secret| ResumeRequest {
        session: answer.session,
        secret: secret.clone(),
        link,
        received,
    };
    let refused = async |request: ResumeRequest| {
        resume(way.dial().await.unwrap(), "/links", &request, &[]).await.expect_err("it must be refused").code()
    };
    assert_eq!(refused(request(2, 0, &Secret::generate())).await, ErrorCode::SessionForbidden);
    assert_eq!(refused(request(1, 0, &answer.secret)).await, ErrorCode::SessionSuperseded);
    assert_eq!(refused(request(2, 1 << 40, &answer.secret)).await, ErrorCode::LinkProtocol);
    let other = ResumeRequest { session: landfast_net::random::session_id(), ..request(2, 0, &answer.secret) };
    assert_eq!(refused(other).await, ErrorCode::SessionUnknown);

    let mut headers = Headers::new();
    headers.push("Host", "agent");
    headers.push("Connection", "Upgrade");
    headers.push("Upgrade", "landfast-link/9");
    let newer = RequestHead { method: "GET".into(), target: "/links".into(), headers };
    assert_eq!(agent.upgrade(&newer).await.1.headers.get("landfast-error"), Some("link.version"));
    assert_eq!(agent.ask("GET", "/links", "").await.refusal(), (400, "link.protocol".to_owned()));
    assert_eq!(agent.ask("POST", "/links", "").await.status, 405);
}

#[tokio::test]
async fn a_newer_link_ends_the_older_one() {
    let agent = Agent::start().await;
    let id = agent.command("sleep 100").await;
    let way = Way::to(&agent, 0);
    let (mut older, answer) = open_link(&way, &id, "from=now").await.unwrap();
    let request = ResumeRequest { session: answer.session, secret: answer.secret.clone(), link: 5, received: 0 };
    let (mut newer, _) = resume(way.dial().await.unwrap(), "/links", &request, &[]).await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, older.read_to_end(&mut rest)).await.expect("it ends").unwrap();
    let late = ResumeRequest { link: 4, ..request };
    let refused = resume(way.dial().await.unwrap(), "/links", &late, &[]).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SessionSuperseded);
    // The newer one carries what the older one did: the end of replay.
    let mut record = [0; 4];
    timeout(PATIENCE, newer.read_exact(&mut record)).await.expect("a record").unwrap();
    assert_eq!(agent.sessions().await, 1);
}

#[tokio::test]
async fn a_thousand_sessions_leave_nothing_behind() {
    let agent = Agent::start().await;
    let id = agent.process(&json!({"argv": ["sleep", "1000"]})).await;
    let way = Way::to(&agent, 0);
    let before = agent.tasks();
    for round in 0..20 {
        let mut held = Vec::new();
        for _ in 0..50 {
            held.push(hold(&way, &id, "from=start").await);
        }
        for (number, mut one) in held.into_iter().enumerate() {
            one.viewer.goes_live().await;
            if number % 2 == 0 {
                // Says goodbye.
                one.viewer.sends(&frame(true, Opcode::Close, &1000u16.to_be_bytes())).await;
                assert_eq!(one.viewer.closes().await.0, 1000);
                let (ending, _) = one.ended().await;
                assert!(matches!(ending, Ending::Far(close) if close.code == ErrorCode::ClientClose), "round {round}");
            } else {
                // Vanishes; its holder says so.
                let Held { viewer, holding } = one;
                drop(viewer);
                let (ending, _) = timeout(PATIENCE, holding).await.expect("it ends").unwrap();
                assert!(matches!(ending, Ending::Local(_)), "{ending:?}");
            }
        }
    }
    eventually("all sessions are gone", async || (agent.sessions().await == 0).then_some(())).await;
    eventually("all tasks are gone", async || (agent.tasks() <= before).then_some(())).await;
    assert_eq!(agent.record(&id).await["state"], "running", "the process is what stays");
}

#[tokio::test]
async fn no_more_sessions_than_allowed_are_opened() {
    let agent = Agent::start_with(|config| config.limits.sessions = 2).await;
    let id = agent.command("sleep 100").await;
    let way = Way::to(&agent, 0);
    let first = open_link(&way, &id, "").await.unwrap();
    let _second = open_link(&way, &id, "").await.unwrap();
    let refused = open_link(&way, &id, "").await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::LimitSessions);
    drop(first);
}

#[tokio::test]
async fn a_session_over_a_lost_agent_is_unknown_to_the_next_one() {
    let mut agent = Agent::start().await;
    let id = agent.command("exec sleep 100").await;
    let way = Way::to(&agent, 0);
    let held = hold(&way, &id, "from=now").await;
    agent.crash().await;
    agent.start_again().await;
    assert_eq!(held.ended().await.0, Ending::Refused(ErrorCode::SessionUnknown));
    assert_eq!(agent.record(&id).await["state"], "unknown");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let agent = Agent::start().await;
    let mut socket = agent.connect("agent.sock").await.unwrap();
    let head = format!("GET /processes HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "x".repeat(200_000));
    write_all(&mut socket, head.as_bytes()).await.unwrap();
    let answer = timeout(Duration::from_secs(20), read_response(&mut socket, HEAD_MAX)).await.unwrap().unwrap();
    assert_eq!(answer.status, 431);
}
