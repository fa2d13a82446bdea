//! The gateway before a real agent: what the far ends of the other tests only play.

#![allow(unreachable_pub, dead_code, reason = "the modules of another test program, of which this one uses a part")]

#[path = "suite/client.rs"]
mod client;
#[path = "suite/node.rs"]
mod node;
#[path = "suite/world.rs"]
mod world;

use std::path::{Path, PathBuf};

use landfast_agent::run;
use landfast_core::record::Generation;
use landfast_core::ws::Opcode;
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::copy::copy_both;
use landfast_net::leash::Leash;
use landfast_net::relay;
use landfast_net::role::CancellationToken;
use landfast_net::secret::CellKey;
use landfast_net::socket::Socket;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixStream};

use crate::client::{Frame, Ws, bearer, head, send, websocket};
use crate::node::Node;
use crate::world::{World, soon};

/// A gateway, a relay that copies, and a real agent.
struct Setting {
    world: World,
    id: InstanceId,
    token: String,
    /// The connections between the gateway and the relay.
    links: Leash,
    stop: CancellationToken,
    _dir: TempDir,
}

impl Setting {
    async fn start() -> Self {
        let world = World::start().await;
        let links = Leash::default();
        let dir = tempfile::tempdir().unwrap();
        let address = relay(world.cell.key().clone(), dir.path().join("run/agent.sock"), links.clone()).await;
        let id = world.instance_at(&Node::gone(world.cell.key()).await).await;
        let stop = CancellationToken::new();
        tokio::spawn(run(agent(id, dir.path()), stop.clone()));
        world.change(id, |instance| instance.address = Some(address.clone())).await;
        let token = bearer(&world.token(id));
        Self { world, id, token, links, stop, _dir: dir }
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let lines = [("Authorization", self.token.as_str()), ("Content-Type", "application/json")];
        let request = head("POST", &format!("/i/{}{path}", self.id), &lines);
        let answer = send(self.world.gateway, request, body.to_string().as_bytes()).await;
        assert!(answer.head.status < 300, "{answer:?}");
        serde_json::from_slice(&answer.body).unwrap()
    }

    async fn attach(&self, process: &Value) -> Ws {
        let process = process["id"].as_str().unwrap();
        let target = format!("/i/{}/processes/{process}/attach?from=start", self.id);
        let lines = [("Authorization", self.token.as_str()), ("Sec-WebSocket-Protocol", "landfast.process.v1")];
        websocket(self.world.gateway, &target, &lines).await.unwrap()
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn agent(instance: InstanceId, dir: &Path) -> landfast_agent::Config {
    let part = |name: &str| {
        let path = dir.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    landfast_agent::Config::new(instance, Generation(1), part("run"), part("state"), part("home"))
}

/// A relay that leads to an agent's socket, and from then on copies.
async fn relay(key: CellKey, agent: PathBuf, links: Leash) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (key, agent, links) = (key.clone(), agent.clone(), links.clone());
            tokio::spawn(async move {
                let mut socket = Socket::tcp(stream).on_leash(&links);
                let asked = relay::read_connect(&mut socket).await.unwrap();
                assert!(asked.key == key);
                let Ok(inside) = UnixStream::connect(&agent).await else {
                    return drop(relay::refuse(&mut socket, ErrorCode::InstanceStarting, None).await);
                };
                // A link that was cut in this moment is one that was cut.
                let _ = relay::accept(&mut socket).await;
                copy_both(&mut socket, &mut Socket::unix(inside)).await;
            });
        }
    });
    address
}

/// The data frames of an attachment until its close frame.
async fn until_closed(ws: &mut Ws) -> (Vec<Vec<u8>>, (u16, String)) {
    let mut frames = Vec::new();
    loop {
        match ws.next().await.expect("a close frame comes first") {
            Frame::Data(frame) => frames.push(frame),
            Frame::Close(code, reason) => return (frames, (code, reason)),
            Frame::Ping(_) | Frame::Pong(_) => {}
        }
    }
}

/// What the process said, out of the frames of its channels.
fn output(frames: &[Vec<u8>]) -> String {
    let said = frames.iter().filter(|frame| frame[0] == 1).flat_map(|frame| &frame[1..]);
    String::from_utf8(said.copied().collect()).unwrap()
}

#[tokio::test]
async fn a_command_runs_and_says_what_came_of_it() {
    let setting = Setting::start().await;
    let done = setting.post("/exec", &json!({"shell": "cat; echo err >&2; exit 3", "input": "hello"})).await;
    assert_eq!(
        (&done["exit"]["code"], &done["stdout"], &done["stderr"]),
        (&json!(3), &json!("hello"), &json!("err\n"))
    );
}

#[tokio::test]
async fn a_process_is_typed_to_and_heard_through_cut_links_and_its_end_comes_once() {
    let setting = Setting::start().await;
    let script = "while read line; do echo got $line; [ $line = 9 ] && exit 7; done";
    let process = setting.post("/processes", &json!({"shell": script, "stdin": "open"})).await;
    let mut ws = setting.attach(&process).await;
    assert_eq!(ws.head.headers.get("sec-websocket-protocol"), Some("landfast.process.v1"));
    for number in 0..10 {
        ws.send(Opcode::Binary, format!("\0{number}\n").as_bytes()).await;
        setting.links.cut();
    }
    let (frames, close) = soon("the end", until_closed(&mut ws)).await;
    let expected: String = (0..10).map(|number| format!("got {number}\n")).collect();
    assert_eq!(output(&frames), expected);
    let exits: Vec<_> = frames.iter().filter(|frame| frame[0] == 3).collect();
    assert_eq!(exits, [&[3, 0, 0, 0, 7]]);
    assert_eq!(close, (1000, "process.exited".into()));
}

#[tokio::test]
async fn a_process_that_is_not_there_is_refused_before_the_101() {
    let setting = Setting::start().await;
    setting.post("/exec", &json!({"argv": ["true"]})).await;
    let target = format!("/i/{}/processes/prc_00000000000000000000000000/attach", setting.id);
    let refused = websocket(setting.world.gateway, &target, &[("Authorization", &setting.token)]).await.unwrap_err();
    assert_eq!(refused.cause(), (404, Some(ErrorCode::ProcessUnknown)));
}

#[tokio::test]
async fn a_handshake_without_a_key_is_refused_by_what_is_missing() {
    let setting = Setting::start().await;
    let process = setting.post("/processes", &json!({"argv": ["cat"]})).await;
    let target = format!("/i/{}/processes/{}/attach", setting.id, process["id"].as_str().unwrap());
    let lines = [("Authorization", setting.token.as_str()), ("Connection", "Upgrade"), ("Upgrade", "websocket")];
    let answer = send(setting.world.gateway, head("GET", &target, &lines), b"").await;
    let (status, code) = answer.cause();
    assert!((400..500).contains(&status) && code.is_some(), "{answer:?}");
}
