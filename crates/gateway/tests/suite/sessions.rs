//! WebSockets of plain clients: the table of what ends a session, row by row, and what does not.

use std::time::{Duration, Instant};

use landfast_core::link::Close;
use landfast_core::record::Phase;
use landfast_core::ws::{self, Opcode};
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::far::Ended;
use landfast_registry::token::Scope;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Answer, Frame, Ws, bearer, masked, unmasked, websocket};
use crate::node::{Answer as Relay, FarEnd, Node};
use crate::world::{World, soon, until};

/// A session between a client and a far end, with all that is between them.
struct Session {
    world: World,
    node: Node,
    id: InstanceId,
    token: String,
    client: Ws,
    far: FarEnd,
}

impl Session {
    async fn start() -> Self {
        Self::over(World::start().await).await
    }

    async fn over(world: World) -> Self {
        let node = Node::start(world.cell.key()).await;
        let id = world.instance_at(&node).await;
        let token = bearer(&world.token(id));
        let client = attach(&world, id, &token).await.unwrap();
        let far = node.far_end().await;
        Self { world, node, id, token, client, far }
    }

    /// Says something in each direction and hears it.
    async fn works(&mut self, word: &str) {
        self.client.send(Opcode::Text, word.as_bytes()).await;
        self.far_hears(&masked(Opcode::Text, word.as_bytes())).await;
        self.far.pipe.write_all(&unmasked(Opcode::Text, word.as_bytes())).await.unwrap();
        assert_eq!(self.client.data().await, word.as_bytes());
    }

    async fn far_hears(&mut self, expected: &[u8]) {
        let mut heard = vec![0; expected.len()];
        soon("the far end hears", self.far.pipe.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, expected);
    }

    async fn far_ended(self) -> Ended {
        soon("the far end is told", self.far.ended).await.unwrap()
    }
}

async fn attach(world: &World, id: InstanceId, token: &str) -> Result<Ws, Answer> {
    websocket(world.gateway, &format!("/i/{id}/processes/x/attach?from=now"), &[("Authorization", token)]).await
}

fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    ws::encode_close(code, reason, &mut bytes);
    bytes
}

// --- opening ---

#[tokio::test]
async fn the_far_end_answers_the_upgrade_and_hears_it_as_it_was_asked() {
    let mut session = Session::start().await;
    let head = &session.far.head;
    assert_eq!((head.method.as_str(), head.target.as_str()), ("GET", "/processes/x/attach?from=now"));
    for (name, value) in [("upgrade", "websocket"), ("sec-websocket-version", "13"), ("host", "box.test")] {
        assert_eq!(head.headers.get(name), Some(value));
    }
    assert_eq!(head.headers.get("authorization"), None);
    let answer = &session.client.head.headers;
    assert_eq!(answer.get("sec-websocket-accept"), Some("accepted"));
    assert_eq!((answer.get("landfast-secret"), answer.get("landfast-attempts")), (None, Some("1")));
    session.works("hello").await;
}

#[tokio::test]
async fn a_far_ends_refusal_is_a_plain_answer() {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    let refused = websocket(world.gateway, &format!("/i/{id}/80/refused"), &[("Authorization", &token)]).await;
    let answer = refused.unwrap_err();
    assert_eq!(answer.cause(), (404, Some(ErrorCode::ProcessUnknown)));
    assert_eq!(answer.body, b"no such process");
    assert_eq!((node.sessions(), node.dials().len()), (0, 1), "a final answer is not asked for again");
}

#[tokio::test]
async fn bytes_sent_right_behind_the_upgrade_are_the_sessions_first() {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let mut request =
        crate::client::head("GET", &format!("/i/{id}/80/a"), &[("Authorization", &bearer(&world.token(id)))]);
    request.headers.push("Connection", "Upgrade");
    request.headers.push("Upgrade", "websocket");
    let mut socket = crate::client::connect(world.gateway).await;
    let eager = [request.encode(), masked(Opcode::Text, b"eager")].concat();
    socket.write_all(&eager).await.unwrap();
    let mut far = node.far_end().await;
    let mut heard = vec![0; masked(Opcode::Text, b"eager").len()];
    soon("the first bytes", far.pipe.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, masked(Opcode::Text, b"eager"));
}

#[tokio::test]
async fn an_upgrade_waits_until_its_instance_runs() {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    world.phase(id, Phase::Starting).await;
    let token = bearer(&world.token(id));
    let (client, ()) = tokio::join!(attach(&world, id, &token), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(node.dials().len(), 0, "nothing is dialled while nothing can be there");
        world.phase(id, Phase::Running).await;
    });
    assert!(client.is_ok());
}

#[tokio::test]
async fn the_first_dial_is_repeated_like_every_other() {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    node.next([
        Relay::HangUp,
        Relay::HangUp,
        Relay::Refuse(ErrorCode::NodeNotHere, None),
        Relay::HangUp,
        Relay::HangUp,
    ]);
    let client = attach(&world, id, &bearer(&world.token(id))).await.unwrap();
    assert_eq!(client.head.headers.get("landfast-attempts"), Some("6"));
}

#[tokio::test]
async fn an_upgrade_that_cannot_be_is_refused_before_its_101() {
    let world = World::with(|config| config.route_deadline_ms = 500).await;
    let node = Node::start(world.cell.key()).await;
    for (phase, status, code) in [
        (Phase::Stopped, 409, ErrorCode::InstanceStopped),
        (Phase::Deleted, 410, ErrorCode::InstanceGone),
        (Phase::Starting, 503, ErrorCode::InstanceStarting),
    ] {
        let id = world.instance_at(&node).await;
        world.phase(id, phase).await;
        let refused = attach(&world, id, &bearer(&world.token(id))).await.unwrap_err();
        assert_eq!(refused.cause(), (status, Some(code)));
    }
    let id = world.instance_at(&node).await;
    node.answers(Relay::HangUp);
    let refused = attach(&world, id, &bearer(&world.token(id))).await.unwrap_err();
    assert_eq!(refused.cause(), (503, Some(ErrorCode::NodeUnreachable)));
    let refused = attach(&world, id, "Bearer x").await.unwrap_err();
    assert_eq!(refused.cause(), (401, Some(ErrorCode::AuthInvalid)));
}

/// How long the agent was told that its answer is waited for, in seconds.
fn told_to_wait(node: &Node) -> f64 {
    node.asked().last().unwrap().headers["landfast-wait"].to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_agent_is_told_how_long_its_answer_is_waited_for_and_a_browser_is_waited_for_as_long_as_it_may_take() {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    for (path, asked, told) in [
        ("processes/x/attach", None, 28.0..=30.0),
        ("8080/", None, 28.0..=30.0),
        ("cdp", None, 85.0..=90.0),
        ("devtools/page/1", None, 85.0..=90.0),
        ("cdp", Some("7"), 5.0..=7.0),
        ("cdp", Some("1000"), 85.0..=90.0),
        ("8080/", Some("1000"), 28.0..=30.0),
    ] {
        let mut lines = vec![("Authorization", token.as_str())];
        lines.extend(asked.map(|seconds| ("landfast-wait", seconds)));
        websocket(world.gateway, &format!("/i/{id}/{path}"), &lines).await.unwrap();
        let wait = told_to_wait(&node);
        assert!(told.contains(&wait), "{path} {asked:?}: {wait}");
    }
}

#[tokio::test]
async fn an_agent_that_says_nothing_in_its_time_was_late_and_not_out_of_reach() {
    let world = World::with(|config| config.route_deadline_ms = 300).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let lines = [("Authorization", bearer(&world.token(id)))];
    let lines = lines.each_ref().map(|(name, value)| (*name, value.as_str()));
    let refused = websocket(world.gateway, &format!("/i/{id}/8080/silent"), &lines).await.unwrap_err();
    assert_eq!(refused.cause(), (504, Some(ErrorCode::UpstreamTimeout)));
    assert_eq!(node.dials().len(), 1, "what may have been started is not asked for again");
}

#[tokio::test]
async fn an_upgrade_that_is_none_is_refused_by_what_is_wrong_with_it() {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    let upgrade = |protocol| [("Authorization", token.as_str()), ("Connection", "Upgrade"), ("Upgrade", protocol)];
    for (method, path, protocol, status, code) in [
        ("POST", "/attach", "websocket", 400, ErrorCode::RequestInvalid),
        ("GET", "/attach", "landfast-link/1", 400, ErrorCode::LinkProtocol),
        ("GET", "/links", "landfast-link/9", 426, ErrorCode::LinkVersion),
        ("GET", "/links", "landfast-link/1", 400, ErrorCode::LinkProtocol),
        ("GET", "/links/nonsense", "landfast-link/1", 404, ErrorCode::SessionUnknown),
    ] {
        let request = crate::client::head(method, &format!("/i/{id}{path}"), &upgrade(protocol));
        let answer = crate::client::send(world.gateway, request, b"").await;
        assert_eq!(answer.cause(), (status, Some(code)), "{method} {path} {protocol}");
    }
    assert_eq!(node.dials().len(), 0);
}

// --- what ends it ---

#[tokio::test]
async fn a_client_that_closes_is_heard_by_the_far_end_and_hears_its_echo() {
    let mut session = Session::start().await;
    session.client.send(Opcode::Close, &close_frame(1000, "enough")[2..]).await;
    session.far_hears(&masked(Opcode::Close, &close_frame(1000, "enough")[2..])).await;
    session.far.pipe.write_all(&close_frame(1000, "enough")).await.unwrap();
    let ended = session.far.end(Close::new(ErrorCode::ClientClose, ""));
    assert_eq!(session.client.next().await, Some(Frame::Close(1000, "enough".into())));
    assert_eq!(session.client.next().await, None);
    assert_eq!(soon("the end", ended).await.unwrap(), Ended::Far(Close::new(ErrorCode::ClientClose, "")));
}

#[tokio::test]
async fn a_client_that_is_lost_is_lost_to_the_far_end_too() {
    let session = Session::start().await;
    let Session { client, far, world, .. } = session;
    drop(client);
    let ended = soon("the far end is told", far.ended).await.unwrap();
    assert_eq!(ended, Ended::Client(Close::new(ErrorCode::ClientLost, "")));
    drop(world);
}

#[tokio::test]
async fn the_last_bytes_and_the_close_of_an_exited_process_come_once() {
    for (code, number) in [(ErrorCode::ProcessExited, 1000), (ErrorCode::UpstreamChanged, 1012)] {
        let mut session = Session::start().await;
        let last = [unmasked(Opcode::Binary, &[7; 3000]), close_frame(number, code.as_str())].concat();
        session.far.pipe.write_all(&last).await.unwrap();
        let ended = session.far.end(Close::new(code, ""));
        assert_eq!(session.client.data().await, [7; 3000]);
        assert_eq!(session.client.closed().await, (number, code.as_str().to_owned()));
        assert_eq!(soon("the end", ended).await.unwrap(), Ended::Far(Close::new(code, "")));
    }
}

#[tokio::test]
async fn a_program_that_ends_its_connection_is_not_spoken_over() {
    let mut session = Session::start().await;
    session.far.pipe.write_all(&unmasked(Opcode::Binary, &[7; 3000])).await.unwrap();
    let ended = session.far.end(Close::new(ErrorCode::UpstreamEnded, ""));
    assert_eq!(session.client.data().await, [7; 3000]);
    assert_eq!(session.client.next().await, None, "a frame that nobody behind the gateway said");
    assert_eq!(soon("the end", ended).await.unwrap(), Ended::Far(Close::new(ErrorCode::UpstreamEnded, "")));
}

#[tokio::test]
async fn the_registrys_word_ends_a_session_by_its_name() {
    for (phase, code, reason) in [
        (Phase::Stopped, 1000, "instance.stopped"),
        (Phase::Deleted, 4410, "instance.gone"),
        (Phase::Failed, 1011, "instance.failed"),
        (Phase::Lost, 1011, "instance.lost"),
    ] {
        let mut session = Session::start().await;
        session.works("alive").await;
        session.world.phase(session.id, phase).await;
        assert_eq!(session.client.closed().await, (code, reason.to_owned()));
        assert!(matches!(session.far_ended().await, Ended::Client(close) if close.code.as_str() == reason));
    }
}

#[tokio::test]
async fn the_registrys_word_ends_the_wait_for_a_link_at_once() {
    let mut session = Session::start().await;
    session.works("alive").await;
    session.node.answers(Relay::HangUp);
    session.node.cut();
    session.world.phase(session.id, Phase::Deleted).await;
    assert_eq!(session.client.closed().await.0, 4410);
}

#[tokio::test]
async fn a_revoked_token_ends_its_sessions_and_no_others() {
    let mut session = Session::start().await;
    let (jti, second) = session.world.token_of(session.id, &[Scope::All], 3600);
    let mut other = attach(&session.world, session.id, &bearer(&second)).await.unwrap();
    session.world.revoke(jti).await;
    assert_eq!(other.closed().await, (1008, "auth.revoked".into()));
    session.works("unharmed").await;
    let refused = attach(&session.world, session.id, &bearer(&second)).await.unwrap_err();
    assert_eq!(refused.cause(), (403, Some(ErrorCode::AuthRevoked)));
}

#[tokio::test]
async fn an_expired_token_ends_its_sessions_where_that_is_asked_for() {
    let world = World::with(|config| config.end_sessions_at_expiry = true).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token_of(id, &[Scope::All], 2).1);
    let mut client = attach(&world, id, &token).await.unwrap();
    assert_eq!(client.closed().await, (1008, "auth.expired".into()));
}

#[tokio::test]
async fn links_that_die_without_progress_end_as_flapping() {
    let mut session = Session::start().await;
    let node = session.node.clone();
    let cutting = tokio::spawn(async move {
        let mut seen = 0;
        loop {
            until("a link", || node.dials().len() > seen && node.connections() > 0).await;
            seen = node.dials().len();
            tokio::time::sleep(Duration::from_millis(30)).await;
            node.cut();
        }
    });
    assert_eq!(session.client.closed().await, (1011, "upstream.flapping".into()));
    cutting.abort();
    assert_eq!(session.node.dials().len(), 4, "the first link and three redials");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_as_slow() {
    let world = World::with(|config| config.slow_client_timeout_ms = 700).await;
    let Session { mut far, client, world, .. } = Session::over(world).await;
    // No client reads: the frame fills every buffer on the way, and stands there.
    let flood = tokio::spawn(async move {
        let header = ws::Header::server(Opcode::Binary, 64 << 20);
        let mut bytes = [0; ws::HEADER_MAX];
        let len = header.encode(&mut bytes);
        far.pipe.write_all(&bytes[..len]).await.unwrap();
        let written = far.pipe.write_all(&vec![0; 64 << 20]).await;
        (written.is_err(), far.ended)
    });
    let (cut, ended) = soon("the far end is told", flood).await.unwrap();
    let ended = soon("the far end is told", ended).await.unwrap();
    assert_eq!((cut, ended), (true, Ended::Client(Close::new(ErrorCode::SessionSlowClient, ""))));
    drop((client, world));
}

#[tokio::test]
async fn a_frame_cut_by_an_end_has_nothing_of_ours_inside_it() {
    let mut session = Session::start().await;
    let header = unmasked(Opcode::Binary, &[7; 5000]);
    session.far.pipe.write_all(&header[..2000]).await.unwrap();
    let mut heard = vec![0; 2000];
    soon("half a frame", session.client.socket.read_exact(&mut heard)).await.unwrap();
    session.world.phase(session.id, Phase::Stopped).await;
    let mut rest = Vec::new();
    soon("the end", session.client.socket.read_to_end(&mut rest)).await.unwrap();
    assert_eq!((heard, rest), (header[..2000].to_vec(), vec![]));
}

// --- what does not end it ---

#[tokio::test]
async fn a_session_outlives_its_links_and_loses_nothing() {
    let mut session = Session::start().await;
    for round in 0..10 {
        session.node.cut();
        session.works(&format!("round {round}")).await;
    }
    assert!(session.node.dials().len() > 5, "links were cut: {:?}", session.node.dials());
}

#[tokio::test]
async fn a_stream_each_way_passes_through_cuts_unharmed() {
    let session = Session::start().await;
    let payload: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (said, told) = (masked(Opcode::Binary, &payload), unmasked(Opcode::Binary, &payload));
    let (mut far_in, mut far_out) = tokio::io::split(session.far.pipe);
    let (mut client_in, mut client_out) = tokio::io::split(session.client.socket);
    let node = session.node.clone();
    let cutting = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            node.cut();
        }
    });
    let rounds = 20;
    let up = async {
        for _ in 0..rounds {
            client_out.write_all(&said).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let down = async {
        for _ in 0..rounds {
            far_out.write_all(&told).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let up_heard = async {
        let mut heard = vec![0; said.len()];
        for round in 0..rounds {
            far_in.read_exact(&mut heard).await.unwrap();
            assert!(heard == said, "round {round} upward");
        }
    };
    let down_heard = async {
        let mut heard = vec![0; told.len()];
        for round in 0..rounds {
            client_in.read_exact(&mut heard).await.unwrap();
            assert!(heard == told, "round {round} downward");
        }
    };
    soon("everything arrives", async { tokio::join!(up, down, up_heard, down_heard) }).await;
    cutting.abort();
}

#[tokio::test]
async fn a_move_is_nothing_but_a_pause_even_if_the_old_side_goes_silent() {
    let mut session = Session::start().await;
    session.works("before").await;
    let new = Node::start(session.world.cell.key()).await;
    new.take_over(&session.node);
    // The old link stands and says nothing; only the newer generation tells.
    session.node.answers(Relay::Silence);
    session.world.moved(session.id, &new).await;
    until("the new node is dialled", || new.dials() == [2]).await;
    session.works("after").await;
    until("the old link is gone", || session.node.connections() == 0).await;
}

#[tokio::test]
async fn while_its_instance_is_between_places_a_session_waits_for_the_watch_and_dials_nobody() {
    let mut session = Session::start().await;
    session.world.phase(session.id, Phase::Starting).await;
    session.node.answers(Relay::Refuse(ErrorCode::InstanceStarting, None));
    session.node.cut();
    until("the link is gone", || session.node.connections() == 0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = session.node.dials().len();
    assert!(before <= 2, "dialled while nothing can be there: {before}");
    session.node.answers(Relay::Serve);
    session.client.send(Opcode::Text, b"typed meanwhile").await;
    session.world.phase(session.id, Phase::Running).await;
    session.far_hears(&masked(Opcode::Text, b"typed meanwhile")).await;
}

#[tokio::test]
async fn a_client_that_leaves_during_a_redial_is_not_redialled_for() {
    let Session { client, node, world, .. } = Session::start().await;
    node.answers(Relay::HangUp);
    node.cut();
    until("it redials", || node.dials().len() > 2).await;
    drop(client);
    let left = Instant::now();
    let mut last = node.dials().len();
    // Redials come every two seconds at the most seldom: silence for longer means that nobody redials.
    while left.elapsed() < Duration::from_secs(4) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = node.dials().len();
        assert!(now == last || left.elapsed() < Duration::from_secs(1), "redialled for a client that left");
        last = now;
    }
    drop(world);
}

#[tokio::test]
async fn two_clients_of_one_instance_do_not_disturb_each_other() {
    let mut session = Session::start().await;
    let mut other = attach(&session.world, session.id, &session.token).await.unwrap();
    let far = session.node.far_end().await;
    let ended = far.end(Close::new(ErrorCode::ProcessExited, ""));
    assert_eq!(other.closed().await, (1000, "process.exited".into()));
    soon("the end", ended).await.unwrap();
    session.works("still here").await;
}
