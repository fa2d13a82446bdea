//! Connections that the node hands over, and the fence that ends them.

use landfast_core::record::Generation;
use landfast_net::handoff;
use landfast_net::head::{HEAD_MAX, read_response, write_all};
use landfast_net::link::{OpenRequest, ResumeRequest, open, resume};
use landfast_net::socket::Socket;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

use crate::harness::{Agent, PATIENCE, attach_head};
use crate::viewer::Viewer;

/// Connects through a node that hands the connection over, and returns what the relay's client hears first.
async fn connect(agent: &Agent, generation: u64, ahead: &[u8]) -> (Socket, u16, Option<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let accepted = Socket::tcp(listener.accept().await.unwrap().0).with_ahead(ahead.to_vec());
    let mut to = UnixStream::connect(agent.socket("handoff.sock")).await.unwrap();
    handoff::send(&mut to, Generation(generation), accepted).await.map_err(|(_, error)| error).unwrap();
    let mut client = Socket::tcp(client);
    let answer = timeout(PATIENCE, read_response(&mut client, HEAD_MAX)).await.unwrap().unwrap();
    (client, answer.status, answer.headers.get("landfast-error").map(str::to_owned))
}

async fn fence(agent: &Agent) {
    assert_eq!(agent.control("POST", "/fence", "").await.status, 204);
}

#[tokio::test]
async fn a_connection_that_was_handed_over_is_served_from_its_first_byte() {
    let agent = Agent::start().await;
    let (mut client, status, _) = connect(&agent, 3, b"GET /processes HTTP/1.1\r\nhost: a\r\n").await;
    assert_eq!(status, 200);
    write_all(&mut client, b"connection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(r#"{"processes":[]}"#), "{answer}");
}

#[tokio::test]
async fn only_the_present_generation_is_taken() {
    let agent = Agent::start().await;
    for (generation, status, code) in
        [(2, 503, Some("node.stale_generation")), (3, 200, None), (4, 503, Some("instance.starting"))]
    {
        let (_client, answered, said) = connect(&agent, generation, b"").await;
        assert_eq!((answered, said.as_deref()), (status, code), "{generation}");
    }
}

#[tokio::test]
async fn a_fence_cuts_everything_before_it_is_answered_and_sessions_go_on_over_new_links() {
    let agent = Agent::start().await;
    let id = agent.command("cat").await;
    let (client, ..) = connect(&agent, 3, b"").await;
    let (mut link, answer) =
        open(client, "/links", &OpenRequest::new(attach_head(&id, "from=now")), &[]).await.unwrap();
    let (mut plain, ..) = connect(&agent, 3, b"").await;
    write_all(&mut plain, &attach_head(&id, "from=now").encode()).await.unwrap();
    assert_eq!(read_response(&mut plain, HEAD_MAX).await.unwrap().status, 101);
    let (mut waiting, ..) = connect(&agent, 3, b"").await;
    let body = json!({"shell": "echo $$ > pid; sleep 1000"}).to_string();
    let exec = format!("POST /exec HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    write_all(&mut waiting, exec.as_bytes()).await.unwrap();
    let mut viewer = Viewer::new(plain);
    viewer.goes_live().await;

    fence(&agent).await;
    let mut rest = Vec::new();
    for socket in [&mut link, viewer.stream(), &mut waiting] {
        let ended = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("it is cut");
        assert!(ended.is_ok() || rest.is_empty(), "{ended:?}");
    }
    let (_, status, code) = connect(&agent, 3, b"").await;
    assert_eq!((status, code.as_deref()), (503, Some("instance.moving")));

    agent.control("PUT", "/generation", r#"{"generation":4}"#).await;
    let (_, status, code) = connect(&agent, 3, b"").await;
    assert_eq!((status, code.as_deref()), (503, Some("node.stale_generation")));
    let (client, status, _) = connect(&agent, 4, b"").await;
    assert_eq!(status, 200);
    let request = ResumeRequest { session: answer.session, secret: answer.secret, link: 2, received: 0 };
    let (mut link, _) = resume(client, "/links", &request, &[]).await.unwrap();
    let mut record = [0; 4];
    timeout(PATIENCE, link.read_exact(&mut record)).await.expect("the session says what it said").unwrap();
    assert_eq!(agent.record(&id).await["state"], "running");
}

#[tokio::test]
async fn a_move_that_was_given_up_lifts_the_fence() {
    let agent = Agent::start().await;
    fence(&agent).await;
    fence(&agent).await;
    agent.control("PUT", "/generation", r#"{"generation":3}"#).await;
    assert_eq!(connect(&agent, 3, b"").await.1, 200);
}

#[tokio::test]
async fn what_is_no_hand_over_harms_nobody() {
    let agent = Agent::start().await;
    let mut to = UnixStream::connect(agent.socket("handoff.sock")).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut to, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, to.read_to_end(&mut rest)).await.expect("it ends");
    assert!(rest.is_empty(), "{ended:?}");
    assert_eq!(connect(&agent, 3, b"").await.1, 200);
}
