//! An agent that gateways reach without a node, over real TCP.

use std::time::Duration;

use http_body_util::Full;
use landfast_agent::Listen;
use landfast_core::record::Generation;
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::credential::Credential;
use landfast_net::http::call;
use landfast_net::link::{OpenRequest, ResumeRequest, open, resume};
use landfast_net::relay::{CellKey, DialError, Route, Target, dial};
use landfast_net::socket::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::harness::{Agent, PATIENCE, attach_head, eventually};

struct Outside {
    agent: Agent,
    key: CellKey,
    route: Route,
}

impl Outside {
    async fn start() -> Self {
        let key = CellKey::generate();
        let listen = Listen { address: "127.0.0.1:0".parse().unwrap(), credential: Credential::plain(key.clone()) };
        let agent = Agent::start_with(|config| {
            config.generation = Generation(0);
            config.listen = Some(listen);
        })
        .await;
        let instance: InstanceId = agent.instance().parse().unwrap();
        let route = Route { instance, generation: Generation(0), address: address(&agent).await };
        Self { agent, key, route }
    }

    async fn dial(&self, generation: u64, target: Target) -> Result<Socket, DialError> {
        let route = Route { generation: Generation(generation), ..self.route.clone() };
        dial(&route, target, &Credential::plain(self.key.clone()), PATIENCE).await
    }

    async fn refusal(&self, generation: u64) -> (ErrorCode, Option<Generation>) {
        match self.dial(generation, Target::Agent).await {
            Err(DialError::Refused { code, generation }) => (code, generation),
            other => panic!("{other:?}"),
        }
    }
}

async fn address(agent: &Agent) -> String {
    agent.control("GET", "/healthz", "").await.json()["address"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_highest_generation_that_was_asked_with_is_its_own() {
    let outside = Outside::start().await;
    let mut older = outside.dial(2, Target::Agent).await.unwrap();
    let newer = outside.dial(4, Target::Agent).await.unwrap();
    let ended = timeout(PATIENCE, older.read(&mut [0])).await.expect("what came in before is cut");
    assert!(!matches!(ended, Ok(1..)));
    assert_eq!(outside.refusal(3).await, (ErrorCode::NodeStaleGeneration, Some(Generation(4))));
    let request = http::Request::get("/processes").header("host", "a").body(Full::default()).unwrap();
    assert_eq!(call(newer, request, PATIENCE).await.unwrap().status(), 200);
    outside.dial(4, Target::Agent).await.unwrap();
}

#[tokio::test]
async fn who_has_another_key_or_wants_another_instance_is_refused_and_changes_nothing() {
    let outside = Outside::start().await;
    let stranger = Outside { key: CellKey::generate(), agent: outside.agent, ..outside };
    assert_eq!(stranger.refusal(9).await.0, ErrorCode::AuthForbidden);
    let route = Route { instance: landfast_net::random::instance_id(), ..stranger.route };
    let elsewhere = Outside { key: outside.key, agent: stranger.agent, route };
    assert_eq!(elsewhere.refusal(9).await, (ErrorCode::NodeNotHere, None));
    let health = elsewhere.agent.control("GET", "/healthz", "").await.json();
    assert_eq!(health["generation"], 0);
}

#[tokio::test]
async fn a_port_is_reached_and_a_session_goes_on_with_the_next_generation() {
    let outside = Outside::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = Target::Port(listener.local_addr().unwrap().port());
    let mut client = outside.dial(1, port).await.unwrap();
    client.write_all(b"x").await.unwrap();
    timeout(PATIENCE, listener.accept().await.unwrap().0.read_exact(&mut [0])).await.unwrap().unwrap();

    let id = outside.agent.command("cat").await;
    let link = outside.dial(1, Target::Agent).await.unwrap();
    let (_link, answer) = open(link, "/links", &OpenRequest::new(attach_head(&id, "")), &[]).await.unwrap();
    let link = outside.dial(2, Target::Agent).await.unwrap();
    let request = ResumeRequest { session: answer.session, secret: answer.secret, link: 2, received: 0 };
    resume(link, "/links", &request, &[]).await.unwrap();
}

#[tokio::test]
async fn a_generation_outlives_the_agent() {
    let mut outside = Outside::start().await;
    outside.dial(7, Target::Agent).await.unwrap();
    outside.agent.stop().await;
    outside.agent.start_again().await;
    outside.route.address = address(&outside.agent).await;
    assert_eq!(outside.refusal(6).await, (ErrorCode::NodeStaleGeneration, Some(Generation(7))));
    outside.dial(7, Target::Agent).await.unwrap();
}

#[tokio::test]
async fn what_is_no_connect_is_answered_and_ended() {
    let outside = Outside::start().await;
    let before = outside.agent.tasks();
    let mut peer = TcpStream::connect(&outside.route.address).await.unwrap();
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, peer.read_to_string(&mut answer)).await.expect("it ends").unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("request.invalid"), "{answer}");
    drop(peer);
    let gone = eventually("nothing is left", async || (outside.agent.tasks() <= before).then_some(()));
    timeout(Duration::from_secs(5), gone).await.unwrap();
}
