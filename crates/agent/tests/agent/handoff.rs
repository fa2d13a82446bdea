//! Connections that the node hands over, and the fence that ends them.

use std::time::Duration;

use landfast_core::record::{Generation, Service};
use landfast_net::clock;
use landfast_net::handoff::{self, Given};
use landfast_net::head::{HEAD_MAX, read_response, write_all};
use landfast_net::link::{OpenRequest, ResumeRequest, open, resume};
use landfast_net::relay::Target;
use landfast_net::socket::Socket;
use landfast_net::tenure::{Tenure, TenureFile};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

use crate::harness::{Agent, PATIENCE, attach_head, eventually};
use crate::programs::{DELAY_MS, server};
use crate::viewer::Viewer;

/// Connects to the agent through a node that hands the connection over, and returns what the relay's client hears first.
async fn connect(agent: &Agent, generation: u64, ahead: &[u8]) -> (Socket, u16, Option<String>) {
    let client = ask(agent, generation, Target::Agent, ahead).await;
    hear(client).await
}

async fn reach(agent: &Agent, target: Target) -> (Socket, u16, Option<String>) {
    hear(ask(agent, 3, target, b"").await).await
}

/// Asks through a node that hands the connection over.
async fn ask(agent: &Agent, generation: u64, target: Target, ahead: &[u8]) -> Socket {
    ask_under(agent, generation, target, ahead, None).await
}

/// Asks through a node that hands the connection over with what it says of its lease.
async fn ask_under(agent: &Agent, generation: u64, target: Target, ahead: &[u8], tenure: Option<Tenure>) -> Socket {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let accepted = Socket::tcp(listener.accept().await.unwrap().0).with_ahead(ahead.to_vec());
    let mut to = UnixStream::connect(agent.socket("handoff.sock")).await.unwrap();
    let given = Given { generation: Generation(generation), target, tenure, socket: accepted };
    handoff::send(&mut to, given).await.map_err(|(_, error)| error).unwrap();
    Socket::tcp(client)
}

async fn hear(mut client: Socket) -> (Socket, u16, Option<String>) {
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
async fn a_node_that_has_not_heard_of_a_later_generation_cuts_nothing_of_it() {
    let agent = Agent::start().await;
    agent.control("PUT", "/generation", r#"{"generation":4}"#).await;
    assert_eq!(agent.control("POST", "/fence?generation=3", "").await.status, 409);
    assert_eq!(connect(&agent, 4, b"").await.1, 200);
    assert_eq!(agent.control("POST", "/fence?generation=4", "").await.status, 204);
    assert_eq!(connect(&agent, 4, b"").await.1, 503);
}

#[tokio::test]
async fn what_is_no_hand_over_harms_nobody() {
    let agent = Agent::start().await;
    let mut to = UnixStream::connect(agent.socket("handoff.sock")).await.unwrap();
    AsyncWriteExt::write_all(&mut to, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, to.read_to_end(&mut rest)).await.expect("it ends");
    assert!(rest.is_empty(), "{ended:?}");
    assert_eq!(connect(&agent, 3, b"").await.1, 200);
}

#[tokio::test]
async fn what_a_node_handed_over_ends_with_its_lease_although_the_node_says_nothing() {
    let agent = Agent::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut lease = TenureFile::open(&dir.path().join("lease")).unwrap();
    let under = async |lease: &TenureFile| {
        let client = ask_under(&agent, 3, Target::Agent, b"", Some(lease.view())).await;
        hear(client).await
    };
    let mut client = loop {
        lease.hold_until(clock::now() + Duration::from_millis(500)).unwrap();
        match under(&lease).await {
            (client, 200, _) => break client,
            (_, status, code) => assert_eq!((status, code.as_deref()), (503, Some("node.draining"))),
        }
    };
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, client.read_to_end(&mut rest)).await.expect("it is cut");
    assert!(end.is_err() || rest.is_empty(), "{end:?}");
    let (_, status, code) = under(&lease).await;
    assert_eq!((status, code.as_deref()), (503, Some("node.draining")));
    lease.hold_until(clock::now() + PATIENCE).unwrap();
    assert_eq!(under(&lease).await.1, 200, "it holds its lease again");
}

async fn a_server() -> (TcpListener, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, Target::Port(port))
}

#[tokio::test]
async fn a_port_is_reached_with_both_directions_and_their_ends_and_a_closed_one_refused() {
    let agent = Agent::start().await;
    let (listener, port) = a_server().await;
    let (mut client, status, _) = reach(&agent, port).await;
    let mut program = listener.accept().await.unwrap().0;
    assert_eq!(status, 200);
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = String::new();
    timeout(PATIENCE, program.read_to_string(&mut heard)).await.unwrap().unwrap();
    program.write_all(b"pong").await.unwrap();
    drop((program, listener));
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!((heard.as_str(), answer.as_str()), ("ping", "pong"));
    assert_eq!(reach(&agent, port).await.2.as_deref(), Some("upstream.refused"));
    let unknown = Target::Service("web".parse().unwrap());
    assert_eq!(reach(&agent, unknown).await.2.as_deref(), Some("service.unknown"));
}

#[tokio::test]
async fn a_reset_passes_as_one_in_both_directions() {
    let agent = Agent::start().await;
    let (listener, port) = a_server().await;
    let (mut client, ..) = reach(&agent, port).await;
    Socket::tcp(listener.accept().await.unwrap().0).abort();
    timeout(PATIENCE, client.read(&mut [0])).await.unwrap().expect_err("no clean end");
    let (client, ..) = reach(&agent, port).await;
    let mut program = listener.accept().await.unwrap().0;
    client.abort();
    timeout(PATIENCE, program.read(&mut [0])).await.unwrap().expect_err("no clean end");
}

#[tokio::test]
async fn a_fence_cuts_what_leads_to_a_port() {
    let agent = Agent::start().await;
    let (listener, port) = a_server().await;
    let (mut client, ..) = reach(&agent, port).await;
    let mut program = listener.accept().await.unwrap().0;
    fence(&agent).await;
    for ended in [timeout(PATIENCE, client.read(&mut [0])).await, timeout(PATIENCE, program.read(&mut [0])).await] {
        assert!(!matches!(ended.expect("it is cut"), Ok(1..)));
    }
    assert_eq!(reach(&agent, port).await.2.as_deref(), Some("instance.moving"));
}

#[tokio::test]
async fn who_wants_a_service_that_starts_is_held_and_a_death_of_it_is_no_clean_end() {
    let agent = Agent::start_with(|config| {
        let mut web = Service { socket: Some("web.sock".to_owned()), ..server() };
        web.env.insert(DELAY_MS.to_owned(), "300".to_owned());
        config.services.insert("web".parse().unwrap(), web);
    })
    .await;
    let web = Target::Service("web".parse().unwrap());
    let (mut client, status, _) = reach(&agent, web).await;
    assert_eq!(status, 200);
    client.write_all(b"hello\n").await.unwrap();
    let mut heard = [0; 6];
    timeout(PATIENCE, client.read_exact(&mut heard)).await.unwrap().unwrap();
    client.write_all(b"die\n").await.unwrap();
    timeout(PATIENCE, client.read(&mut [0])).await.unwrap().expect_err("no clean end");
}

#[tokio::test]
async fn who_is_held_and_leaves_is_not_waited_for() {
    let agent = Agent::start_with(|config| {
        let web = Service { port: Some(1), shell: Some("sleep 1000".to_owned()), ..Service::default() };
        config.services.insert("web".parse().unwrap(), web);
        config.limits.connections = 1;
    })
    .await;
    // There is room for one: whoever is refused at once finds it taken, whoever hears nothing is held.
    let is_held = async || {
        let client = ask(&agent, 3, Target::Port(1), b"early").await;
        timeout(Duration::from_millis(1_500), hear(client)).await.is_err()
    };
    let began = tokio::time::Instant::now();
    let held = ask(&agent, 3, Target::Port(1), b"early").await;
    assert!(!is_held().await);
    drop(held);
    eventually("there is room again", async || is_held().await.then_some(())).await;
    assert!(began.elapsed() < Duration::from_secs(5), "before it would be told");
}

#[tokio::test]
async fn a_half_closed_connection_ends_once_nothing_moves_on_it_and_an_open_one_stays() {
    let agent = Agent::start_with(|config| config.limits.half_closed = Duration::from_secs(1)).await;
    let (listener, port) = a_server().await;
    let (mut open, ..) = reach(&agent, port).await;
    let mut of_open = listener.accept().await.unwrap().0;
    let (mut half, ..) = reach(&agent, port).await;
    let mut of_half = listener.accept().await.unwrap().0;
    half.shutdown().await.unwrap();
    assert_eq!(of_half.read(&mut [0]).await.unwrap(), 0);
    // As long as something moves it is not silent.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        of_half.write_all(b"x").await.unwrap();
        timeout(PATIENCE, half.read_exact(&mut [0])).await.unwrap().expect("it goes on");
    }
    timeout(PATIENCE, half.read(&mut [0])).await.unwrap().expect_err("it is cut, not ended");
    of_open.write_all(b"x").await.unwrap();
    timeout(PATIENCE, open.read_exact(&mut [0])).await.unwrap().expect("it stays");
}

#[tokio::test]
async fn an_agent_that_has_no_room_says_so() {
    let agent = Agent::start_with(|config| config.limits.connections = 1).await;
    let (listener, port) = a_server().await;
    let (client, status, _) = reach(&agent, port).await;
    let program = listener.accept().await.unwrap();
    assert_eq!(status, 200);
    let (_, status, code) = reach(&agent, port).await;
    assert_eq!((status, code.as_deref()), (429, Some("limit.in_flight")));
    drop((client, program));
    eventually("there is room again", async || (reach(&agent, port).await.1 == 200).then_some(())).await;
}
