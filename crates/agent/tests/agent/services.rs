//! Sessions whose far end is a server inside the instance.

use std::sync::atomic::Ordering;

use landfast_core::ErrorCode;
use landfast_core::record::Service;
use landfast_core::ws::{HEADER_MAX, Header, Opcode, apply_mask};
use landfast_net::head::{HEAD_MAX, Headers, RequestHead, read_request, write_all};
use landfast_net::hold::Ending;
use landfast_net::link::{LinkError, Refusal};
use landfast_net::socket::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;

use crate::harness::{Agent, PATIENCE, attach_head, eventually};
use crate::viewer::Viewer;
use crate::way::{Holding, Way};

/// The head of a session whose far end is a service's bytes.
pub(crate) fn bytes_of(service: impl std::fmt::Display) -> RequestHead {
    RequestHead { method: "CONNECT".into(), target: format!("/services/{service}"), headers: Headers::new() }
}

/// The head of a session whose far end is a service's WebSocket.
fn websocket_of(service: impl std::fmt::Display, path: &str) -> RequestHead {
    let mut headers = Headers::new();
    for (name, value) in [("Host", "a"), ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("X-Mine", "kept")] {
        headers.push(name, value);
    }
    RequestHead { method: "GET".into(), target: format!("/services/{service}{path}"), headers }
}

/// A server of the test's own, on a port.
async fn server() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn accepted(listener: &TcpListener) -> Socket {
    Socket::tcp(timeout(PATIENCE, listener.accept()).await.expect("it is dialled").unwrap().0)
}

async fn refusal(way: &Way, head: RequestHead) -> Refusal {
    match way.open(head).await {
        Err(LinkError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// What the holder heard at the end.
pub(crate) async fn ending(holding: Holding) -> ErrorCode {
    match timeout(PATIENCE, holding).await.expect("it ends").unwrap().0 {
        Ending::Far(close) => close.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn bytes_to_a_service_pass_both_ways_through_a_hundred_cuts_once_and_in_order() {
    let agent = Agent::start().await;
    let (listener, port) = server().await;
    let echo = tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(accepted(&listener).await);
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    });
    let way = Way::to(&agent, 40_000);
    let (near, answer, holding) = way.hold(&bytes_of(port)).await;
    assert_eq!(answer.head.status, 200);
    let said: Vec<u8> = (0..750_000u32).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_be_bytes()).collect();
    let (mut hearing, mut saying) = tokio::io::split(near);
    let mut heard = vec![0; said.len()];
    let talk = async { tokio::join!(hearing.read_exact(&mut heard), saying.write_all(&said)) };
    let (read, written) = timeout(2 * PATIENCE, talk).await.expect("all passes");
    assert!(read.is_ok() && written.is_ok() && heard == said, "lost, doubled or out of order");
    way.budget.store(0, Ordering::Relaxed);
    drop((hearing, saying));
    let (ended, account) = timeout(PATIENCE, holding).await.expect("it ends").unwrap();
    assert!(matches!(ended, Ending::Local(_)) && account.links > 70, "{ended:?} after {} links", account.links);
    timeout(PATIENCE, echo).await.expect("the service's socket is closed").unwrap();
    eventually("the session is gone", async || (agent.sessions().await == 0).then_some(())).await;
}

#[tokio::test]
async fn an_end_is_told_as_what_it_was() {
    let agent = Agent::start().await;
    let (listener, port) = server().await;
    let way = Way::to(&agent, 0);
    for (is_reset, code) in [(false, ErrorCode::UpstreamEnded), (true, ErrorCode::UpstreamLost)] {
        let (mut near, _, holding) = way.hold(&bytes_of(port)).await;
        let mut program = accepted(&listener).await;
        program.write_all(b"last words").await.unwrap();
        let mut heard = [0; 10];
        timeout(PATIENCE, near.read_exact(&mut heard)).await.expect("they arrive").unwrap();
        if is_reset {
            program.abort();
        } else {
            drop(program);
        }
        assert_eq!(ending(holding).await, code);
    }
}

#[tokio::test]
async fn a_named_service_is_reached_where_its_spec_says() {
    let (listener, port) = server().await;
    let agent = Agent::start_with(|config| {
        let web = Service { port: Some(port), ..Service::default() };
        let side = Service { socket: Some("side.sock".to_owned()), ..Service::default() };
        config.services = [("web".parse().unwrap(), web), ("side".parse().unwrap(), side)].into();
    })
    .await;
    let side = UnixListener::bind(agent.home().join("side.sock")).unwrap();
    let way = Way::to(&agent, 0);
    let _held = way.hold(&bytes_of("web")).await;
    accepted(&listener).await;
    let _held = way.hold(&bytes_of("side")).await;
    timeout(PATIENCE, side.accept()).await.expect("it is dialled").unwrap();
}

#[tokio::test]
async fn the_agent_itself_is_a_service() {
    let agent = Agent::start().await;
    let (mut near, _, holding) = Way::to(&agent, 0).hold(&bytes_of("agent")).await;
    near.write_all(b"GET /processes HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    assert_eq!(ending(holding).await, ErrorCode::UpstreamEnded);
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with(r#"{"processes":[]}"#), "{answer}");
}

#[tokio::test]
async fn a_process_is_attached_through_the_agent_as_a_service() {
    let agent = Agent::start().await;
    let id = agent.command("echo hello").await;
    let way = Way::to(&agent, 0);
    let head = attach_head(&id, "");
    let through = |target: String| RequestHead { target: format!("/services/agent{target}"), ..head.clone() };
    let (near, _, _holding) = way.hold(&through(head.target.clone())).await;
    let mut viewer = Viewer::new(near);
    viewer.exits(0).await;
    assert_eq!(viewer.text(), "hello\n");
    let refused = refusal(&way, through("/processes/none/attach".to_owned())).await;
    assert_eq!(refused.code(), ErrorCode::ProcessUnknown);
    assert_eq!(refused.head.headers.get("landfast-origin"), None);
}

#[tokio::test]
async fn what_cannot_be_reached_is_refused_and_leaves_nothing() {
    let agent = Agent::start().await;
    let (listener, port) = server().await;
    drop(listener);
    let way = Way::to(&agent, 0);
    for (head, status, code) in [
        (bytes_of("web"), 404, ErrorCode::ServiceUnknown),
        (bytes_of("No-Name"), 404, ErrorCode::ServiceUnknown),
        (bytes_of(port), 502, ErrorCode::UpstreamRefused),
        (websocket_of(port, "/"), 502, ErrorCode::UpstreamRefused),
        (bytes_of("web/path"), 400, ErrorCode::RequestInvalid),
    ] {
        let refused = refusal(&way, head).await;
        assert_eq!((refused.head.status, refused.code()), (status, code));
    }
    assert_eq!(agent.sessions().await, 0);
}

/// Reads an upgrade's head and gives it an answer.
async fn answers(program: &mut Socket, answer: &[u8]) -> RequestHead {
    let head = timeout(PATIENCE, read_request(program, HEAD_MAX)).await.expect("it is asked").unwrap();
    write_all(program, answer).await.unwrap();
    head
}

fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let (mut header, mask) = ([0; HEADER_MAX], [7, 77, 177, 27]);
    let header_of = Header { fin: true, rsv: 0, opcode, mask: Some(mask), len: payload.len() as u64 };
    let len = header_of.encode(&mut header);
    let mut frame = [&header[..len], payload].concat();
    apply_mask(mask, 0, &mut frame[len..]);
    frame
}

const YES: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX-Theirs: kept\r\n\r\n";

#[tokio::test]
async fn a_websocket_reaches_the_program_as_it_was_sent_without_the_gateways_pongs() {
    let agent = Agent::start().await;
    let (listener, port) = server().await;
    // Cut often, so that frames come in every possible piece.
    let way = Way::to(&agent, 3_000);
    let large: Vec<u8> = (0..16u32 << 20).map(|n| (n >> 3) as u8).collect();
    let kept = [
        frame(Opcode::Text, b"hello"),
        frame(Opcode::Pong, b"landing"),
        frame(Opcode::Ping, b"landfast:1"),
        frame(Opcode::Binary, &large),
        frame(Opcode::Text, b"bye"),
    ];
    let program = async {
        let mut program = accepted(&listener).await;
        let head = answers(&mut program, &[YES, b"ahead"].concat()).await;
        assert_eq!((head.target.as_str(), head.headers.get("x-mine")), ("/chat?x=1", Some("kept")));
        let mut heard = vec![0; kept.iter().map(Vec::len).sum()];
        program.read_exact(&mut heard).await.unwrap();
        // Something to be cut in as well.
        program.write_all(&vec![7; 400_000]).await.unwrap();
        heard
    };
    let client = async {
        let (mut near, answer, _holding) = way.hold(&websocket_of(port, "/chat?x=1")).await;
        assert_eq!((answer.head.status, answer.head.headers.get("x-theirs")), (101, Some("kept")));
        for frame_of in &kept {
            near.write_all(frame_of).await.unwrap();
            near.write_all(&frame(Opcode::Pong, b"landfast:8 a gateway's")).await.unwrap();
        }
        let mut heard = vec![0; 400_005];
        near.read_exact(&mut heard).await.unwrap();
        assert!(heard.starts_with(b"ahead"));
    };
    let (heard, ()) = timeout(2 * PATIENCE, async { tokio::join!(program, client) }).await.expect("all passes");
    assert!(heard == kept.concat());
}

#[tokio::test]
async fn a_websocket_that_its_program_ends_is_ended_with_or_without_a_close_frame_and_one_that_is_reset_is_lost() {
    let agent = Agent::start().await;
    let (listener, port) = server().await;
    let way = Way::to(&agent, 0);
    let (close, text, half) = (&[0x88, 2, 3, 232][..], &b"\x81\x01x"[..], &b"\x81\x09x"[..]);
    for (last, is_reset, code) in [
        (close, false, ErrorCode::UpstreamEnded),
        (text, false, ErrorCode::UpstreamEnded),
        (half, false, ErrorCode::UpstreamEnded),
        (text, true, ErrorCode::UpstreamLost),
    ] {
        let (mut program, (mut near, _, holding)) = tokio::join!(
            async {
                let mut program = accepted(&listener).await;
                answers(&mut program, YES).await;
                program
            },
            async { way.hold(&websocket_of(port, "/")).await },
        );
        program.write_all(last).await.unwrap();
        let mut heard = vec![0; last.len()];
        timeout(PATIENCE, near.read_exact(&mut heard)).await.expect("it arrives").unwrap();
        if is_reset {
            program.abort();
        } else {
            drop(program);
        }
        assert_eq!((ending(holding).await, heard.as_slice()), (code, last));
    }
}

#[tokio::test]
async fn a_programs_refusal_is_its_own_and_no_signal_unless_its_spec_says_so() {
    let (listener, port) = server().await;
    let agent = Agent::start_with(|config| {
        let actor = Service { port: Some(port), retry_signals: true, ..Service::default() };
        config.services.insert("actor".parse().unwrap(), actor);
    })
    .await;
    let way = Way::to(&agent, 0);
    let no = b"HTTP/1.1 503 Gone\r\nX-Why: moved\r\nlandfast-error: node.not_here\r\nlandfast-attempts: 9\r\n\r\nno";
    let (_, refused) = tokio::join!(async { answers(&mut accepted(&listener).await, no).await }, async {
        refusal(&way, websocket_of("actor", "/")).await
    });
    let header = |name: &str| refused.head.headers.get(name).map(str::to_owned);
    assert_eq!((refused.head.status, refused.body.as_slice()), (503, b"no".as_slice()));
    assert_eq!(header("x-why").as_deref(), Some("moved"));
    assert_eq!(header("landfast-origin").as_deref(), Some("service"));
    assert_eq!(header("landfast-error").as_deref(), Some("node.not_here"));
    assert_eq!(header("landfast-attempts"), None);
    assert_eq!(agent.sessions().await, 0);
}

#[tokio::test]
async fn a_programs_refusal_that_is_too_long_is_cut_where_it_is_seen() {
    let agent = Agent::start().await;
    let (listener, port) = server().await;
    let way = Way::to(&agent, 0);
    let no = [b"HTTP/1.1 500 No\r\n\r\n".as_slice(), &[b'x'; 100_000]].concat();
    let (_, refused) = tokio::join!(async { answers(&mut accepted(&listener).await, &no).await }, async {
        refusal(&way, websocket_of(port, "/")).await
    });
    let length: usize = refused.head.headers.get("content-length").unwrap().parse().unwrap();
    assert_eq!((refused.body.len(), length), (64 * 1024, 64 * 1024 + 1));
}
