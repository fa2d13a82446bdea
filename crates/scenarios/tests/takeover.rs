//! Any gateway goes on with what another began: its clients lose nothing when it is killed, frozen or shut down, and need
//! nobody to start it again.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use landfast_client::{Attach, Attached, Event, From, Since, State};
use landfast_core::{InstanceId, ProcessId};
use landfast_scenarios::cell::{Cell, Plan};
use landfast_scenarios::instance::{Instance, Process};
use landfast_scenarios::numbers::Numbers;
use landfast_scenarios::plain::{self, PATIENCE, PlainClient, Upgrade};
use landfast_scenarios::role::{Role, Settings};
use landfast_scenarios::served::{NAME, Served};
use landfast_scenarios::user::User;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A cell with two gateways, and a user who knows both. The control plane's helpers go through the second one.
struct Pair {
    cell: Cell,
    second: Role,
    user: User,
}

impl Pair {
    async fn start() -> Self {
        Self::of(Cell::start().await).await
    }

    async fn of(cell: Cell) -> Self {
        let second = cell.another_gateway("1", Settings::new()).await;
        cell.downstream.lead_to(second.address());
        let user = User::of(&cell.operator, &[cell.gateway.address(), second.address()]);
        Self { cell, second, user }
    }

    /// A client that is attached through the first gateway.
    async fn attached(&self, process: &Process) -> Viewer {
        let ids = (process.instance.id.parse::<InstanceId>(), process.id.parse::<ProcessId>());
        let (Ok(instance), Ok(process)) = ids else { panic!("these are ids") };
        let attached = self.user.client().attach(instance, process, Attach::from(From::Start)).await.unwrap();
        Viewer { attached, heard: Vec::new(), attempts: 0 }
    }
}

/// What somebody sees who is attached.
struct Viewer {
    attached: Attached,
    heard: Vec<u8>,
    /// The most attempts that a link has taken.
    attempts: usize,
}

impl Viewer {
    async fn reads(&mut self, len: usize) {
        let reading = timeout(4 * PATIENCE, async {
            while self.heard.len() < len {
                match self.attached.next().await.unwrap().expect("it has not exited") {
                    Event::Output { bytes, .. } => self.heard.extend_from_slice(&bytes),
                    Event::State(State::Reconnecting { attempt, .. }) => self.attempts = self.attempts.max(attempt),
                    Event::Gap { from, to } => panic!("{from} to {to} is lost"),
                    Event::InputUnsure => panic!("input may be lost"),
                    Event::Exit(_) | Event::ReplayEnd { .. } | Event::State(State::Connected) => {}
                }
            }
        });
        reading.await.unwrap_or_else(|_| panic!("{} bytes were heard instead of {len}", self.heard.len()));
    }

    /// Types it and reads it back.
    async fn converses(&mut self, bytes: &[u8]) {
        let before = self.heard.len();
        let (input, bytes) = (self.attached.input(), bytes.to_vec());
        let typing = tokio::spawn({
            let bytes = bytes.clone();
            async move { input.write(bytes).await.unwrap() }
        });
        self.reads(before + bytes.len()).await;
        typing.await.unwrap();
        assert!(self.heard[before..] == bytes, "what comes back is what was said");
    }
}

/// A terminal that says back every byte it is given.
async fn echoing(instance: &Instance) -> Process {
    let process = instance.terminal("stty raw -echo; echo ready; cat").await;
    process.attach("start").await.shows("ready").await;
    process
}

async fn websocket(address: SocketAddr) -> PlainClient {
    let target = "/".to_owned();
    let upgrade = Upgrade { address, target, token: None, subprotocol: None, receive_buffer: None };
    PlainClient::open(&upgrade).await.expect("an echo")
}

#[tokio::test]
async fn a_terminal_outlives_a_gateway_that_is_killed_and_never_started_again() {
    let mut pair = Pair::start().await;
    let instance = pair.cell.create().await;
    let process = echoing(&instance).await;
    let mut viewer = pair.attached(&process).await;
    viewer.reads("ready\n".len()).await;
    let numbers = Numbers::new(1);
    viewer.converses(&numbers.slice(0, 2_000_000)).await;
    pair.cell.gateway.kill().await;
    viewer.converses(&numbers.slice(2_000_000, 2_000_000)).await;
}

#[tokio::test]
async fn a_terminal_outlives_its_only_gateway_that_is_away_for_five_seconds() {
    let mut cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.terminal("i=0; while [ $i -lt 600 ]; do i=$((i+1)); echo line $i; sleep 0.01; done").await;
    let ids = (instance.id.parse().unwrap(), process.id.parse().unwrap());
    let user = User::of(&cell.operator, &[cell.operator.address]);
    let attached = user.client().attach(ids.0, ids.1, Attach::from(From::Start)).await.unwrap();
    let mut viewer = Viewer { attached, heard: Vec::new(), attempts: 0 };
    viewer.reads(500).await;
    cell.gateway.kill().await;
    let back = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        cell.gateway.start_again().await;
        cell.downstream.lead_to(cell.gateway.address());
    };
    let wanted: String = (1..=600).map(|line| format!("line {line}\r\n")).collect();
    tokio::join!(back, viewer.reads(wanted.len()));
    assert!(viewer.heard == wanted.as_bytes() && viewer.attempts > 0, "byte for byte, over another link");
}

#[tokio::test]
async fn bytes_under_way_in_both_directions_when_a_gateway_is_killed_all_arrive_once() {
    let mut pair = Pair::start().await;
    let instance = pair.cell.create().await;
    let mut child = pair.user.command(&["exec", "-i", &instance.id, "--", "cat"]);
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    let said = Numbers::new(2).slice(0, 40_000_000);
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let saying = tokio::spawn({
        let said = said.clone();
        async move { input.write_all(&said).await.unwrap() }
    });
    let mut heard = vec![0; 1_000_000];
    output.read_exact(&mut heard).await.unwrap();
    pair.cell.gateway.kill().await;
    timeout(4 * PATIENCE, output.read_to_end(&mut heard)).await.expect("it goes on").unwrap();
    saying.await.unwrap();
    assert!(heard == said, "{} bytes came back of {}", heard.len(), said.len());
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_forwarded_websocket_outlives_a_gateway_that_is_killed_and_new_ones_come_about() {
    let mut pair = Pair::start().await;
    let served = Served::start(&pair.cell).await;
    let forwarded = pair.user.forwards(&served.instance, NAME).await;
    let mut client = websocket(forwarded.address).await;
    let numbers = Numbers::new(3);
    for round in 0..8 {
        if round == 4 {
            pair.cell.gateway.kill().await;
        }
        let message = numbers.slice(round * 200_000, 200_000);
        client.send_binary(&[&message]).await;
        assert!(client.next().await == plain::Event::Binary(message), "round {round}");
    }
    websocket(forwarded.address).await.send_text("new").await;
}

#[tokio::test]
async fn a_gateway_that_drains_is_left_without_a_pause_by_whoever_knows_another() {
    // It would wait for others for minutes, and has no need to.
    let mut pair = Pair::of(Plan::default().gateway("drain_timeout_ms", "120000").start().await).await;
    let served = Served::start(&pair.cell).await;
    let process = echoing(&served.instance).await;
    let mut viewer = pair.attached(&process).await;
    viewer.reads("ready\n".len()).await;
    let forwarded = pair.user.forwards(&served.instance, NAME).await;
    let mut client = websocket(forwarded.address).await;
    viewer.converses(b"before").await;
    let status = pair.cell.gateway.stop().await;
    assert!(status.success(), "it has stopped: {status}");
    viewer.converses(b"after").await;
    client.send_text("after").await;
    assert_eq!(client.next().await, plain::Event::Text("after".to_owned()));
    // The first attempt goes on to the other gateway; a second one would be that a listener had not closed yet.
    assert!((1..=2).contains(&viewer.attempts), "{} attempts", viewer.attempts);
}

#[tokio::test]
async fn a_gateway_that_falls_silent_is_left_for_the_other() {
    let pair = Pair::start().await;
    let instance = pair.cell.create().await;
    let process = echoing(&instance).await;
    let mut viewer = pair.attached(&process).await;
    viewer.reads("ready\n".len()).await;
    pair.cell.gateway.freeze();
    viewer.converses(b"over the other one").await;
    // The frozen one answers nobody, so one attempt at it would have been waited out.
    assert_eq!(viewer.attempts, 1);
    pair.cell.gateway.thaw();
}

#[tokio::test]
async fn calls_and_streams_go_on_at_the_other_gateway() {
    let mut pair = Pair::start().await;
    let instance = pair.cell.create().await;
    let (client, id) = (pair.user.client(), instance.id.parse::<InstanceId>().unwrap());
    client.nodes().await.unwrap();
    let mut events = client.events(id, &[], Since::Now);
    let hears = async |events: &mut landfast_client::Events, wanted: &str| {
        let heard = timeout(PATIENCE, async {
            loop {
                let said = serde_json::to_string(&events.next().await.unwrap()).unwrap();
                if said.contains(wanted) {
                    return;
                }
            }
        });
        heard.await.unwrap_or_else(|_| panic!("{wanted} was never heard"));
    };
    let says = async |word: &str| {
        let body = json!({"type": "said", "data": word});
        let path = format!("/v1/instances/{}/telemetry/events", instance.id);
        pair.cell.operator.demand("POST", &path, Some(&body)).await;
    };
    // What is said before the stream stands is not heard.
    let stands = async {
        for _ in 0..100 {
            says("first-word").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = hears(&mut events, "first-word") => {}
        () = stands => panic!("it does not stand"),
    }
    pair.cell.gateway.kill().await;
    says("second-word").await;
    hears(&mut events, "second-word").await;
    assert_eq!(client.nodes().await.unwrap().len(), 1);
    let ran = pair.user.command(&["exec", &instance.id, "--", "echo", "fine"]).output().await.unwrap();
    assert_eq!((ran.status.code(), &ran.stdout[..]), (Some(0), &b"fine\n"[..]), "{ran:?}");
    drop(pair.second);
}
