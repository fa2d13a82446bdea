//! The fence in front of the instances.

use std::time::Duration;

use http_body_util::Full;
use landfast_core::record::{Generation, Instance, InstanceSpec, Network, Restart, Service, keys};
use landfast_core::{ErrorCode, lifecycle};
use landfast_net::credential::Credential;
use landfast_net::http::call;
use landfast_net::relay::{CellKey, DialError, Target, dial};
use landfast_net::{random, socket::Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::harness::{PATIENCE, TestCell, eventually, route};

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_the_cells_key_is_refused() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    let refused =
        dial(&route(&instance), Target::Agent, &Credential::plain(CellKey::generate()), PATIENCE).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::AuthForbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_generation_is_refused_with_the_present_one_and_an_unknown_instance_by_name() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    let older = Instance { generation: Generation(0), ..instance.clone() };
    let Err(DialError::Refused { code, generation }) = cell.dial(&older, Target::Agent).await else { panic!("no") };
    assert_eq!((code, generation), (ErrorCode::NodeStaleGeneration, Some(instance.generation)));
    let newer = Instance { generation: Generation(9), ..instance.clone() };
    assert_eq!(cell.refusal(&newer).await, ErrorCode::NodeNotHere);
    let unknown = Instance { id: random::instance_id(), ..instance };
    assert_eq!(cell.refusal(&unknown).await, ErrorCode::NodeNotHere);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_connection_after_create_waits_for_the_start_instead_of_losing_a_race() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    for _ in 0..5 {
        let instance = cell.run(&node).await;
        cell.dial(&instance, Target::Agent).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_the_instance_is_reached_and_a_closed_one_refused() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = Target::Port(listener.local_addr().unwrap().port());
    let (dialled, accepted) = tokio::join!(cell.dial(&instance, port), listener.accept());
    let (mut near, mut far) = (dialled.unwrap(), accepted.unwrap().0);
    near.write_all(b"ping").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = String::new();
    far.read_to_string(&mut heard).await.unwrap();
    far.write_all(b"pong").await.unwrap();
    drop((far, listener));
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    assert_eq!((heard.as_str(), answer.as_str()), ("ping", "pong"));
    assert_eq!(cell.dial(&instance, port).await.unwrap_err().code(), ErrorCode::UpstreamRefused);

    let spec = InstanceSpec { network: Network::None, ..InstanceSpec::default() };
    let alone = cell.run_with(&node, spec).await;
    assert_eq!(cell.dial(&alone, port).await.unwrap_err().code(), ErrorCode::UpstreamRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_cuts_what_it_had_let_in_before_the_next_generation_exists() {
    let cell = TestCell::new();
    let (a, b) = (cell.node("a").await, cell.node("b").await);
    let instance = cell.run(&a).await;
    let mut agent = cell.dial(&instance, Target::Agent).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = Target::Port(listener.local_addr().unwrap().port());
    let mut ported = cell.dial(&instance, port).await.unwrap();
    let moved = cell.move_to(instance.id, &b).await;
    assert_eq!(moved.generation, instance.generation.next());
    for socket in [&mut agent, &mut ported] {
        timeout(PATIENCE, ended(socket)).await.expect("the connection is cut");
    }
    assert_eq!(a.running.counts.inside(), 0);
    assert_ne!(cell.refusal(&instance).await, ErrorCode::InstanceMoving, "the move is over");
    cell.dial(&moved, Target::Agent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_port_outlives_the_node_that_let_it_in() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = Target::Port(listener.local_addr().unwrap().port());
    let mut near = cell.dial(&instance, port).await.unwrap();
    node.stop().await;
    near.write_all(b"ping").await.unwrap();
    let heard = async {
        // On the host's network anybody may come by and leave again.
        loop {
            let (mut far, mut heard) = (listener.accept().await.unwrap().0, [0; 4]);
            if far.read_exact(&mut heard).await.is_ok() {
                return heard;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, heard).await.expect("it goes on"), *b"ping");
    let again = cell.node("a").await;
    cell.shell(&cell.settled(instance.id).await, "true").await;
    drop(again);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_a_network_of_its_own_is_reached_by_name_and_by_port() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let shell = "python3 -m http.server --bind 127.0.0.1 $PORT".to_owned();
    let web = Service { shell: Some(shell), port: Some(8_000), ..Service::default() };
    let services = [("web".parse().unwrap(), web)].into();
    let spec = InstanceSpec { services, network: Network::None, ..InstanceSpec::default() };
    let instance = cell.run_with(&node, spec).await;
    for target in [Target::Service("web".parse().unwrap()), Target::Port(8_000)] {
        let socket = cell.dial(&instance, target).await.unwrap();
        let request = http::Request::get("/").header("host", "web").body(Full::default()).unwrap();
        assert_eq!(call(socket, request, PATIENCE).await.unwrap().status(), 200);
    }
    let unknown = cell.dial(&instance, Target::Service("other".parse().unwrap())).await;
    assert_eq!(unknown.unwrap_err().code(), ErrorCode::ServiceUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_the_agent_outlives_the_daemon_that_let_it_in_and_not_a_move() {
    let cell = TestCell::new();
    let mut a = cell.child_node("a").await;
    let id = cell.place(a.id, InstanceSpec::default()).await;
    let instance = cell.settled(id).await;
    let socket = cell.dial(&instance, Target::Agent).await.unwrap();
    let mut cut = cell.dial(&instance, Target::Agent).await.unwrap();
    a.kill().await;
    let request = http::Request::get("/processes").header("host", "agent").body(Full::default()).unwrap();
    assert!(call(socket, request, PATIENCE).await.unwrap().status().is_success());

    let (_a, b) = (cell.child_node("a").await, cell.node("b").await);
    let moved = cell.move_to(id, &b).await;
    assert_eq!(moved.node, Some(b.id()), "{:?}", moved.reason);
    timeout(PATIENCE, ended(&mut cut)).await.expect("the fence reaches what an earlier daemon let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_outlives_its_daemon_ends_before_the_lease_does() {
    let cell = TestCell::new();
    let mut a = cell.child_node("a").await;
    let spec = InstanceSpec { restart: Restart::Always, ..InstanceSpec::default() };
    let id = cell.place(a.id, spec).await;
    let instance = cell.settled(id).await;
    let mut carried = cell.dial(&instance, Target::Agent).await.unwrap();
    a.kill().await;
    timeout(PATIENCE, ended(&mut carried)).await.expect("the agent cuts it");
    assert!(cell.store.get(&keys::node(a.id)).await.unwrap().is_some(), "nobody can have been given the instance");
    let _a = cell.child_node("a").await;
    eventually("it is reached again", async || cell.dial(&instance, Target::Agent).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_at_its_limit_says_so() {
    let cell = TestCell::new();
    // Its agents never come up, so whoever asks for one waits.
    let agent_command = vec!["/bin/sleep".to_owned()];
    let config = landfast_node::Config { connections: 1, agent_command, ..cell.config("a") };
    let node = cell.try_node(config).await.unwrap();
    let id = cell.place(node.id(), InstanceSpec::default()).await;
    let instance = cell.until(id, |_| true).await;
    let waiting = async {
        let refused = cell.refusal(&instance).await;
        assert!(matches!(refused, ErrorCode::InstanceStarting | ErrorCode::InstanceFailed), "{refused}");
    };
    let refused = async {
        eventually("one waits", async || node.running.counts.carried() == 1).await;
        assert_eq!(cell.refusal(&instance).await, ErrorCode::LimitInFlight);
    };
    tokio::join!(waiting, refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_instance_moves_the_source_says_that_it_moves() {
    let cell = TestCell::new();
    let (a, b) = (cell.node("a").await, cell.node("b").await);
    let instance = cell.run(&a).await;
    // Prepared for a node that will not come: the source has fenced itself and finds nobody to give it to.
    let mut target = cell.node_record(b.id()).await;
    b.stop().await;
    target.id = random::node_id();
    cell.update(instance.id, |instance| {
        lifecycle::begin_move(instance, &target).unwrap();
    })
    .await;
    cell.shell(&instance, "true").await;
    let given_up = timeout(Duration::from_secs(20), cell.settled(instance.id)).await.expect("it is given up");
    assert_eq!(given_up.generation, instance.generation);
    assert!(given_up.reason.is_some_and(|reason| reason.contains("10 seconds")));
    cell.shell(&instance, "true").await;
}

/// Reads until the peer has ended, whichever way.
async fn ended(socket: &mut Socket) {
    let mut sink = [0; 1024];
    while matches!(socket.read(&mut sink).await, Ok(1..)) {}
}
