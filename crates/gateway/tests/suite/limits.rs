//! What is let in, and that whoever was let in is let out, in whatever way it ends.

use std::time::{Duration, Instant};

use landfast_core::link::Close;
use landfast_core::record::{Limits, Phase};
use landfast_core::session::WINDOW;
use landfast_core::ws::Opcode;
use landfast_core::{ErrorCode, InstanceId};
use landfast_gateway::Config;
use landfast_net::head::{HEAD_MAX, RequestHead, read_response, write_all};
use landfast_net::link::{self, LinkError, OpenRequest, ResumeRequest};
use landfast_net::socket::Socket;
use landfast_registry::token::Scope;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Answer, Ws, bearer, connect, head, send, send_bytes, websocket};
use crate::node::{Answer as Relay, Node};
use crate::world::{World, soon};

const ANY: Limits = Limits { rate: None, in_flight: None, sessions: None };
const ONE_AT_A_TIME: Limits = Limits { rate: None, in_flight: Some(1), sessions: Some(1) };

/// A gateway with limits, a node, and an instance on it.
struct Limited {
    world: World,
    node: Node,
    id: InstanceId,
    token: String,
}

impl Limited {
    async fn by(change: impl FnOnce(&mut Config)) -> Self {
        let world = World::with(change).await;
        let node = Node::start(world.cell.key()).await;
        let id = world.instance_at(&node).await;
        let token = bearer(&world.token(id));
        Self { world, node, id, token }
    }

    /// One request and one session at a time.
    async fn to_one() -> Self {
        Self::by(|config| config.limits.instance = ONE_AT_A_TIME).await
    }

    fn request(&self, method: &str, path: &str) -> RequestHead {
        head(method, &format!("/i/{}/80{path}", self.id), &[("Authorization", &self.token)])
    }

    async fn get(&self) -> Answer {
        send(self.world.gateway, self.request("GET", "/"), b"").await
    }

    async fn open(&self) -> Result<Ws, Answer> {
        let target = format!("/i/{}/processes/x/attach", self.id);
        websocket(self.world.gateway, &target, &[("Authorization", &self.token)]).await
    }

    /// A request whose server has it and whose answer has begun but does not end.
    async fn endless(&self) -> Socket {
        let mut socket = connect(self.world.gateway).await;
        write_all(&mut socket, &self.request("GET", "/half").encode()).await.unwrap();
        assert_eq!(soon("a head", read_response(&mut socket, HEAD_MAX)).await.unwrap().status, 200);
        socket
    }

    async fn is_full(&self) {
        assert_eq!(self.get().await.cause(), (429, Some(ErrorCode::LimitInFlight)));
    }

    /// Waits until a request is let in again, and none is counted that is over.
    async fn is_free(&self) {
        soon("the request is let out", async {
            while self.get().await.cause() != (200, None) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        // Twice, so that a permit that was given back twice would show: one more stays out.
        let endless = self.endless().await;
        self.is_full().await;
        drop(endless);
    }

    /// Waits until a session is let in again, and one only.
    async fn is_open_to_one(&self) {
        let ws = soon("the session is let out", async {
            loop {
                match self.open().await {
                    Ok(ws) => break ws,
                    Err(refusal) => assert_eq!(refusal.cause(), (429, Some(ErrorCode::LimitSessions))),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(self.open().await.unwrap_err().cause(), (429, Some(ErrorCode::LimitSessions)));
        drop(ws);
    }
}

// --- what is refused ---

#[tokio::test]
async fn a_rate_lets_a_burst_through_and_says_when_to_come_back() {
    let limited = Limited::by(|config| config.limits.instance.rate = Some(2)).await;
    let began = Instant::now();
    let (mut passed, mut refusal) = (0, None);
    while refusal.is_none() {
        let answer = limited.get().await;
        match answer.cause() {
            (200, None) => passed += 1,
            _ => refusal = Some(answer),
        }
        assert!(passed < 1000, "nothing is refused");
    }
    let most = 6 + 2 * (began.elapsed().as_secs() + 1);
    assert!((6..=most).contains(&passed), "{passed} passed in {:?}", began.elapsed());
    let refusal = refusal.unwrap();
    assert_eq!(refusal.cause(), (429, Some(ErrorCode::LimitRate)));
    assert_eq!(refusal.header("retry-after"), Some("1"));
    assert_eq!(limited.node.seen().len() as u64, passed, "what is refused reaches nobody");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(limited.get().await.cause(), (200, None), "after what Retry-After said");
}

#[tokio::test]
async fn an_instances_own_limits_stand_before_the_gateways_and_change_with_its_record() {
    let limited = Limited::by(|config| config.limits.instance.in_flight = Some(1)).await;
    limited.world.change(limited.id, |instance| instance.spec.limits = Limits { in_flight: Some(2), ..ANY }).await;
    let first = limited.endless().await;
    let second = soon("the gateway hears of the change", async {
        loop {
            let mut socket = connect(limited.world.gateway).await;
            write_all(&mut socket, &limited.request("GET", "/half").encode()).await.unwrap();
            if read_response(&mut socket, HEAD_MAX).await.unwrap().status == 200 {
                break socket;
            }
        }
    })
    .await;
    limited.is_full().await;
    drop((first, second));
}

#[tokio::test]
async fn each_token_has_its_own_and_another_instance_is_not_concerned() {
    let limited = Limited::by(|config| config.limits.token = ONE_AT_A_TIME).await;
    let endless = limited.endless().await;
    limited.is_full().await;
    let other_token = bearer(&limited.world.token(limited.id));
    let request = head("GET", &format!("/i/{}/80/", limited.id), &[("Authorization", &other_token)]);
    assert_eq!(send(limited.world.gateway, request, b"").await.cause(), (200, None));
    // The same token carried in another place is the same token.
    let bare = limited.token.strip_prefix("Bearer ").unwrap();
    let request = head("GET", &format!("/i/{}/80/?token={bare}", limited.id), &[]);
    assert_eq!(send(limited.world.gateway, request, b"").await.cause(), (429, Some(ErrorCode::LimitInFlight)));
    drop(endless);
    limited.is_free().await;
}

#[tokio::test]
async fn a_limit_for_sessions_is_none_for_requests() {
    let limited = Limited::to_one().await;
    let ws = limited.open().await.unwrap();
    assert_eq!(limited.open().await.unwrap_err().cause(), (429, Some(ErrorCode::LimitSessions)));
    assert_eq!(limited.get().await.cause(), (200, None));
    drop(ws);
    limited.is_open_to_one().await;
}

// --- who is let out ---

#[tokio::test]
async fn a_request_that_was_answered_is_let_out() {
    let limited = Limited::to_one().await;
    for _ in 0..20 {
        let answer = send(limited.world.gateway, limited.request("POST", "/x"), b"body").await;
        assert!(matches!(answer.cause(), (200, None) | (429, _)), "{answer:?}");
    }
    limited.is_free().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_its_request_is_parked_is_let_out() {
    let limited = Limited::to_one().await;
    limited.get().await;
    limited.world.phase(limited.id, Phase::Starting).await;
    limited.node.cut();
    limited.node.answers(Relay::Refuse(ErrorCode::InstanceStarting, None));
    let parked = soon("one is parked", async {
        loop {
            let mut parked = connect(limited.world.gateway).await;
            write_all(&mut parked, &limited.request("GET", "/").encode()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut impatient = limited.request("GET", "/");
            impatient.headers.push("landfast-wait", "0");
            if send(limited.world.gateway, impatient, b"").await.cause().1 == Some(ErrorCode::LimitInFlight) {
                break parked;
            }
        }
    })
    .await;
    drop(parked);
    limited.node.answers(Relay::Serve);
    limited.world.phase(limited.id, Phase::Running).await;
    limited.is_free().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_its_node_is_silent_is_let_out() {
    let limited = Limited::to_one().await;
    limited.node.next([Relay::Silence]);
    let mut waiting = connect(limited.world.gateway).await;
    write_all(&mut waiting, &limited.request("GET", "/").encode()).await.unwrap();
    soon("it is dialled", async {
        while limited.node.dials().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    limited.is_full().await;
    drop(waiting);
    limited.is_free().await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_an_answer_is_let_out() {
    let limited = Limited::to_one().await;
    let endless = limited.endless().await;
    limited.is_full().await;
    drop(endless);
    limited.is_free().await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_is_let_out() {
    let limited = Limited::to_one().await;
    let mut half = connect(limited.world.gateway).await;
    let mut request = limited.request("POST", "/x");
    request.headers.push("Content-Length", "100");
    write_all(&mut half, &[request.encode().as_slice(), b"half"].concat()).await.unwrap();
    assert_eq!(soon("a head", read_response(&mut half, HEAD_MAX)).await.unwrap().status, 200);
    limited.is_full().await;
    drop(half);
    limited.is_free().await;
}

#[tokio::test]
async fn a_request_whose_program_breaks_is_let_out() {
    let limited = Limited::to_one().await;
    for path in ["/cut-before", "/half"] {
        let mut socket = connect(limited.world.gateway).await;
        let mut request = limited.request("POST", path);
        request.headers.push("Connection", "close");
        write_all(&mut socket, &request.encode()).await.unwrap();
        let _ = soon("an answer begins", socket.read_u8()).await;
        limited.node.break_programs();
        let _ = soon("it is cut", socket.read_to_end(&mut Vec::new())).await;
        limited.is_free().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_its_upgrade_is_let_out() {
    let limited = Limited::to_one().await;
    limited.node.next([Relay::Silence]);
    let mut request =
        head("GET", &format!("/i/{}/processes/x/attach", limited.id), &[("Authorization", &limited.token)]);
    request.headers.push("Connection", "Upgrade");
    request.headers.push("Upgrade", "websocket");
    let mut upgrading = connect(limited.world.gateway).await;
    write_all(&mut upgrading, &request.encode()).await.unwrap();
    soon("it is dialled", async {
        while limited.node.dials().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(limited.open().await.unwrap_err().cause(), (429, Some(ErrorCode::LimitSessions)));
    drop(upgrading);
    limited.is_open_to_one().await;
}

#[tokio::test]
async fn a_session_that_ended_is_let_out_however_it_did() {
    let limited = Limited::to_one().await;
    // The client vanishes.
    drop(limited.open().await.unwrap());
    limited.node.far_end().await;
    limited.is_open_to_one().await;
    limited.node.far_end().await;
    // The process exits.
    let mut ws = limited.open_when_free().await;
    limited.node.far_end().await.end(Close::new(ErrorCode::ProcessExited, "")).await.unwrap();
    assert_eq!(ws.closed().await.0, 1000);
    limited.is_open_to_one().await;
    limited.node.far_end().await;
    // Its token is taken back.
    let (id, token) = limited.world.token_of(limited.id, &[Scope::All], 600);
    let revoked = Limited { token: bearer(&token), ..limited };
    let mut ws = revoked.open_when_free().await;
    revoked.world.revoke(id).await;
    assert_eq!(ws.closed().await.0, 1008);
    let limited = Limited { token: bearer(&revoked.world.token(revoked.id)), ..revoked };
    limited.is_open_to_one().await;
}

impl Limited {
    async fn open_when_free(&self) -> Ws {
        soon("a session", async {
            loop {
                if let Ok(ws) = self.open().await {
                    break ws;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

#[tokio::test]
async fn a_drain_lets_everybody_out() {
    let mut limited = Limited::by(|config| {
        config.limits.instance = ONE_AT_A_TIME;
        config.drain_timeout_ms = 300;
    })
    .await;
    let (mut ws, endless) = (limited.open().await.unwrap(), limited.endless().await);
    ws.send(Opcode::Text, b"still here").await;
    let (closed, ()) = tokio::join!(ws.closed(), limited.world.stopped());
    assert_eq!(closed.0, 1012);
    drop(endless);
}

// --- by other ways in ---

#[tokio::test]
async fn requests_on_one_connection_of_http2_are_counted_one_by_one() {
    let limited = Limited::by(|config| config.limits.instance.in_flight = Some(2)).await;
    let stream = tokio::net::TcpStream::connect(limited.world.gateway).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = || {
        let uri = format!("http://box.test/i/{}/80/half", limited.id);
        http::Request::get(uri).header("authorization", &limited.token).body(()).unwrap()
    };
    let mut begun = Vec::new();
    for status in [200, 200, 429] {
        let (answer, _) = client.send_request(request(), true).unwrap();
        begun.push(soon("an answer", answer).await.unwrap());
        assert_eq!(begun.last().unwrap().status(), status);
    }
    assert_eq!(begun[2].headers()["landfast-error"], "limit.in_flight");
    // Both that were let in are reset.
    drop(begun);
    soon("both are let out", async {
        let mut begun = Vec::new();
        while begun.len() < 2 {
            let (answer, _) = client.send_request(request(), true).unwrap();
            begun.extend(answer.await.ok().filter(|answer| answer.status() == 200));
        }
    })
    .await;
}

#[tokio::test]
async fn a_session_that_was_let_in_gets_its_next_link_beside_the_last() {
    let limited = Limited::to_one().await;
    let (path, lines) = (format!("/i/{}/links", limited.id), [("Authorization", limited.token.as_str())]);
    let inner = head("GET", "/processes/x/attach", &[("Connection", "Upgrade"), ("Upgrade", "websocket")]);
    let open = OpenRequest { window: WINDOW, head: inner };
    let socket = connect(limited.world.gateway).await;
    let (first, answer) = soon("a link", link::open(socket, &path, &open, &lines)).await.unwrap();
    let socket = connect(limited.world.gateway).await;
    match soon("an answer", link::open(socket, &path, &open, &lines)).await {
        Err(LinkError::Refused(refusal)) => assert_eq!(refusal.code(), ErrorCode::LimitSessions),
        other => panic!("a second session: {other:?}"),
    }
    let resume = ResumeRequest { session: answer.session, secret: answer.secret, link: 2, received: 0 };
    let socket = connect(limited.world.gateway).await;
    let (second, _) = soon("the next link", link::resume(socket, &path, &resume, &lines)).await.unwrap();
    drop((first, second));
    limited.is_open_to_one().await;
}

// --- bodies ---

#[tokio::test]
async fn a_body_that_says_it_is_too_long_is_refused_at_once_and_one_that_does_not_when_it_is() {
    let limited = Limited::by(|config| config.body_max = Some(1000)).await;
    let post = |body: Vec<u8>| send(limited.world.gateway, limited.request("POST", "/x"), &body.leak()[..]);
    assert_eq!(post(vec![1; 1000]).await.cause(), (200, None));
    let mut request = limited.request("POST", "/x");
    request.headers.push("Content-Length", "1001");
    request.headers.push("Expect", "100-continue");
    assert_eq!(send_bytes(limited.world.gateway, &request.encode()).await.cause(), (413, Some(ErrorCode::LimitBody)));
    assert_eq!(limited.node.seen().len(), 1, "nobody heard of it");

    let mut request = limited.request("POST", "/half");
    request.headers.push("Transfer-Encoding", "chunked");
    let mut socket = connect(limited.world.gateway).await;
    write_all(&mut socket, &request.encode()).await.unwrap();
    assert_eq!(soon("the answer begins", read_response(&mut socket, HEAD_MAX)).await.unwrap().status, 200);
    let sent = async {
        for _ in 0..200 {
            if socket.write_all(&[b"3e8\r\n".as_slice(), &[b'x'; 1000], b"\r\n"].concat()).await.is_err() {
                break;
            }
        }
        let mut rest = Vec::new();
        (socket.read_to_end(&mut rest).await.is_err() || rest.len() < 100, rest)
    };
    let (is_cut, rest) = soon("it is cut", sent).await;
    assert!(is_cut, "an answer that had begun is cut, not ended: {rest:?}");
}

#[tokio::test]
async fn a_body_in_chunks_that_grows_too_long_before_the_answer_is_refused() {
    let limited = Limited::by(|config| config.body_max = Some(1000)).await;
    // A parked request's body is read by nobody; one whose server waits for all of it is.
    let waiting = limited.request("POST", "/whole");
    let mut bytes =
        [waiting.encode().strip_suffix(b"\r\n").unwrap(), b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"]
            .concat();
    for _ in 0..2 {
        bytes.extend_from_slice(&[b"258\r\n".as_slice(), &[b'x'; 600], b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(send_bytes(limited.world.gateway, &bytes).await.cause(), (413, Some(ErrorCode::LimitBody)));
}
