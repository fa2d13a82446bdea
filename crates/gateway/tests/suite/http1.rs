//! HTTP/1.1 through the gateway, byte for byte, to a server that no agent stands before.

use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_core::record::Phase;
use landfast_core::ws::Opcode;
use landfast_net::head::{HEAD_MAX, read_response, write_all};
use landfast_net::socket::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Answer, Frame, Ws, bearer, connect, head, masked, send, send_bytes, unmasked, websocket};
use crate::server::{Server, Talk, external, web};
use crate::world::{World, soon};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A gateway before a server, with what a request to it begins with.
struct Setting {
    world: World,
    server: Server,
    base: String,
    token: String,
}

impl Setting {
    async fn new() -> Self {
        Self::with(World::start().await).await
    }

    async fn with(world: World) -> Self {
        let server = Server::start().await;
        let id = external(&world, &server.address, |_| ()).await;
        let token = bearer(&world.token(id));
        Self { world, server, base: format!("/i/{id}/web"), token }
    }

    /// The bytes of a request.
    fn bytes(&self, method: &str, path: &str, lines: &str, body: &str) -> Vec<u8> {
        let (base, token) = (&self.base, &self.token);
        format!("{method} {base}{path} HTTP/1.1\r\nHost: box.test\r\nAuthorization: {token}\r\n{lines}\r\n{body}")
            .into_bytes()
    }

    async fn open(&self, bytes: &[u8]) -> Socket {
        let mut socket = connect(self.world.gateway).await;
        write_all(&mut socket, bytes).await.unwrap();
        socket
    }
}

/// Reads so many bytes.
async fn exactly(socket: &mut Socket, len: usize) -> String {
    let mut bytes = vec![0; len];
    soon("bytes", socket.read_exact(&mut bytes)).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Reads to the end of the connection; `None` if it was cut.
async fn rest(mut socket: Socket) -> Option<String> {
    let mut bytes = Vec::new();
    soon("the end", socket.read_to_end(&mut bytes)).await.ok()?;
    Some(String::from_utf8(bytes).unwrap())
}

#[tokio::test]
async fn every_shape_of_url_reaches_the_same_place_in_the_same_way() {
    let world = World::with(|config| config.domain = Some("box.test".into())).await;
    let server = Server::start().await;
    let id = external(&world, &server.address, |_| ()).await;
    let heard = server.answers(OK);
    let (token, id) = (bearer(&world.token(id)), id.to_string());
    let host = format!("web-{}.box.test", id.replace('_', "-"));
    let authorization = ("Authorization", token.as_str());
    for (target, lines) in [
        (format!("/i/{id}/web/a//b?x=1"), vec![authorization]),
        ("/a//b?x=1".into(), vec![authorization, ("Landfast-Instance", &id), ("Landfast-Service", "web")]),
    ] {
        assert_eq!(send(world.gateway, head("GET", &target, &lines), b"").await.cause(), (200, None), "{target}");
    }
    let text = format!("GET /a//b?x=1 HTTP/1.1\r\nHost: {host}\r\nAuthorization: {token}\r\nConnection: close\r\n\r\n");
    assert_eq!(send_bytes(world.gateway, text.as_bytes()).await.cause(), (200, None));
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 3);
    for request in &*heard {
        assert_eq!(request.target, "/a//b?x=1");
        assert!(request.headers.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with("landfast-")));
    }
}

#[tokio::test]
async fn headers_pass_in_their_order_with_their_repeats_and_bytes() {
    let mut setting = Setting::new().await;
    let mut bytes = setting.bytes("GET", "/", "X-A: 1\r\nx-b: 2\r\nX-A: 3\r\n", "");
    let at = bytes.windows(4).position(|four| four == b"x-b:").unwrap();
    bytes.splice(at..at, *b"X-Raw: \xff\xfe\r\n");
    let mut socket = setting.open(&bytes).await;
    let mut talk = setting.server.connection().await;
    let received = talk.head().await.unwrap();
    let own: Vec<_> = received.head.headers.iter().filter(|(name, _)| name.to_lowercase().starts_with("x-")).collect();
    assert_eq!(own[..4], [("X-A", &b"1"[..]), ("X-Raw", b"\xff\xfe"), ("x-b", b"2"), ("X-A", b"3")]);
    talk.say(b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nX-Z: 1\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n").await;
    let head = read_response(&mut socket, HEAD_MAX).await.unwrap();
    assert_eq!(head.headers.get_all("set-cookie").collect::<Vec<_>>(), [b"a", b"b"]);
}

#[tokio::test]
async fn requests_that_were_sent_ahead_are_answered_in_their_order() {
    let mut setting = Setting::new().await;
    let ahead: Vec<u8> = (0..3).flat_map(|number| setting.bytes("GET", &format!("/{number}"), "", "")).collect();
    let mut socket = setting.open(&ahead).await;
    let mut talk = setting.server.connection().await;
    for number in 0..3 {
        assert_eq!(talk.request().await.unwrap().target, format!("/{number}"));
        talk.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}").as_bytes()).await;
        read_response(&mut socket, HEAD_MAX).await.unwrap();
        assert_eq!(exactly(&mut socket, 1).await, number.to_string());
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let mut setting = Setting::new().await;
    let lines = "Transfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Sum\r\n";
    let body = "5\r\nhello\r\n0\r\nX-Sum: up\r\nContent-Length: 9\r\n\r\n";
    let mut socket = setting.open(&setting.bytes("POST", "/", lines, body)).await;
    let mut talk = setting.server.connection().await;
    let heard = talk.request().await.unwrap();
    assert_eq!((heard.body.as_slice(), heard.header("te")), (&b"hello"[..], Some("trailers")));
    assert_eq!(heard.trailers, [("X-Sum".to_owned(), "up".to_owned())]);
    talk.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: down\r\n\r\n").await;
    read_response(&mut socket, HEAD_MAX).await.unwrap();
    let body = "2\r\nok\r\n0\r\nX-Sum: down\r\n\r\n";
    assert_eq!(exactly(&mut socket, body.len()).await, body);
}

#[tokio::test]
async fn a_client_that_waits_for_its_permission_gets_it_from_the_server() {
    let mut setting = Setting::new().await;
    let lines = "Expect: 100-continue\r\nContent-Length: 4\r\n";
    let mut socket = setting.open(&setting.bytes("PUT", "/", lines, "")).await;
    let mut talk = setting.server.connection().await;
    assert_eq!(talk.head().await.unwrap().head.headers.get("expect"), Some("100-continue"));
    talk.say(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
    let early = read_response(&mut socket, HEAD_MAX).await.unwrap();
    assert_eq!((early.status, early.headers.get("link")), (103, Some("</x>")));
    assert_eq!(read_response(&mut socket, HEAD_MAX).await.unwrap().status, 100);
    socket.write_all(b"body").await.unwrap();
    let mut body = [0; 4];
    soon("the body", talk.stream.read_exact(&mut body)).await.unwrap();
    talk.say(OK).await;
    assert_eq!(read_response(&mut socket, HEAD_MAX).await.unwrap().status, 200);
}

#[tokio::test]
async fn an_answer_without_a_body_keeps_what_it_says_of_one() {
    for (method, answer, length) in [
        ("HEAD", &b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"[..], Some("500")),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", Some("7")),
    ] {
        let mut setting = Setting::new().await;
        let mut socket = setting.open(&setting.bytes(method, "/", "", "")).await;
        let mut talk = setting.server.connection().await;
        talk.request().await.unwrap();
        talk.say(answer).await;
        let head = read_response(&mut socket, HEAD_MAX).await.unwrap();
        assert_eq!(head.headers.get("content-length"), length, "{method}");
        // The connection goes on behind it.
        socket.write_all(&setting.bytes("GET", "/next", "", "")).await.unwrap();
        assert_eq!(talk.request().await.unwrap().target, "/next");
    }
}

#[tokio::test]
async fn what_cannot_be_repeated_goes_on_no_connection_that_its_server_may_be_about_to_drop() {
    const IDLE: Duration = Duration::from_millis(1100);
    let mut setting = Setting::new().await;
    let mut socket = setting.open(&setting.bytes("POST", "/", "", "")).await;
    let mut kept = setting.server.connection().await;
    for (idle, method, target) in [(Duration::ZERO, "POST", "/at-once"), (IDLE, "GET", "/repeatable")] {
        answer(&mut kept, &mut socket).await;
        tokio::time::sleep(idle).await;
        socket.write_all(&setting.bytes(method, target, "", "")).await.unwrap();
    }
    answer(&mut kept, &mut socket).await;
    tokio::time::sleep(IDLE).await;
    socket.write_all(&setting.bytes("POST", "/later", "", "")).await.unwrap();
    let mut fresh = setting.server.connection().await;
    assert_eq!(fresh.request().await.unwrap().target, "/later");
}

/// Hears a request, answers it, and lets the client hear that.
async fn answer(talk: &mut Talk, client: &mut Socket) {
    soon("a request", talk.request()).await.expect("the connection stands");
    talk.say(OK).await;
    read_response(client, HEAD_MAX).await.unwrap();
    assert_eq!(exactly(client, 2).await, "ok");
}

#[tokio::test]
async fn each_event_of_a_stream_arrives_when_it_was_said() {
    let mut setting = Setting::new().await;
    let mut socket = setting.open(&setting.bytes("GET", "/events", "Accept: text/event-stream\r\n", "")).await;
    let mut talk = setting.server.connection().await;
    talk.request().await.unwrap();
    talk.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
    let head = soon("the head", read_response(&mut socket, HEAD_MAX)).await.unwrap();
    assert_eq!(head.headers.get("transfer-encoding"), Some("chunked"));
    for number in 0..3 {
        talk.say(format!("data: {number}\n\n").as_bytes()).await;
        assert_eq!(exactly(&mut socket, 14).await, format!("9\r\ndata: {number}\n\n\r\n"));
    }
    drop(talk);
    assert_eq!(exactly(&mut socket, 5).await, "0\r\n\r\n");
}

#[tokio::test]
async fn an_old_client_gets_what_it_understands() {
    let mut setting = Setting::new().await;
    let text = String::from_utf8(setting.bytes("GET", "/", "", "")).unwrap().replace("HTTP/1.1", "HTTP/1.0");
    let socket = setting.open(text.as_bytes()).await;
    let mut talk = setting.server.connection().await;
    talk.request().await.unwrap();
    talk.say(
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nold\r\n0\r\n\r\n",
    )
    .await;
    let heard = rest(socket).await.unwrap();
    assert!(heard.starts_with("HTTP/1.1 200 OK\r\n") && heard.ends_with("\r\n\r\nold"), "{heard}");
    assert!(!heard.to_ascii_lowercase().contains("transfer-encoding"), "{heard}");
}

#[tokio::test]
async fn an_answer_that_is_cut_is_never_whole() {
    for (answer, whole) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"[..], "half"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nXX", "0\r\n\r\n"),
    ] {
        let mut setting = Setting::new().await;
        let socket = setting.open(&setting.bytes("GET", "/", "Connection: close\r\n", "")).await;
        let mut talk = setting.server.connection().await;
        talk.request().await.unwrap();
        talk.say(answer).await;
        drop(talk);
        if let Some(heard) = rest(socket).await {
            assert!(whole == "half" || !heard.ends_with(whole), "{heard}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_not_passed_on() {
    for answer in [
        &b"SSH-2.0-x\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ] {
        let mut setting = Setting::new().await;
        let mut socket = setting.open(&setting.bytes("POST", "/", "", "")).await;
        let mut talk = setting.server.connection().await;
        talk.request().await.unwrap();
        talk.say(answer).await;
        let head = soon("a refusal", read_response(&mut socket, HEAD_MAX)).await.unwrap();
        assert_eq!((head.status, head.headers.get("landfast-error")), (502, Some("upstream.protocol")));
    }
}

#[tokio::test]
async fn a_server_that_answers_early_is_heard_though_the_body_is_not_read() {
    let mut setting = Setting::new().await;
    let mut socket = setting.open(&setting.bytes("POST", "/", "Content-Length: 100000000\r\n", "begun")).await;
    let mut talk = setting.server.connection().await;
    talk.head().await.unwrap();
    talk.say(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    drop(talk);
    assert_eq!(soon("the answer", read_response(&mut socket, HEAD_MAX)).await.unwrap().status, 413);
}

#[tokio::test]
async fn a_kept_connection_that_has_ended_costs_nobody_a_request() {
    let mut setting = Setting::new().await;
    for method in ["GET", "POST", "POST"] {
        let mut socket = setting.open(&setting.bytes(method, "/", "", "")).await;
        let mut talk = setting.server.connection().await;
        talk.request().await.unwrap();
        talk.say(OK).await;
        let head = soon("the answer", read_response(&mut socket, HEAD_MAX)).await.unwrap();
        assert_eq!((head.status, head.headers.get("landfast-attempts")), (200, Some("1")));
        exactly(&mut socket, 2).await;
        // It is in the pool now, and ends there.
        drop(talk);
    }
}

#[tokio::test]
async fn a_request_runs_at_most_once_unless_it_may_be_repeated() {
    for (method, lines, body, runs) in [
        ("GET", "", "", 2),
        ("PUT", "Content-Length: 4\r\n", "body", 2),
        ("POST", "Idempotency-Key: 1\r\nContent-Length: 4\r\n", "body", 2),
        ("POST", "Content-Length: 4\r\n", "body", 1),
        ("PATCH", "", "", 1),
    ] {
        let mut setting = Setting::new().await;
        let mut socket = setting.open(&setting.bytes(method, "/", lines, body)).await;
        let mut first = setting.server.connection().await;
        assert_eq!(first.request().await.unwrap().body, body.as_bytes());
        drop(first);
        if runs == 2 {
            let mut second = setting.server.connection().await;
            assert_eq!(second.request().await.unwrap().body, body.as_bytes());
            second.say(OK).await;
        }
        let head = soon("an answer", read_response(&mut socket, HEAD_MAX)).await.unwrap();
        let expected = if runs == 2 { (200, None) } else { (502, Some("upstream.lost")) };
        assert_eq!((head.status, head.headers.get("landfast-error")), expected, "{method} {lines}");
        assert_eq!(head.headers.get("landfast-attempts"), Some(runs.to_string().as_str()));
    }
}

#[tokio::test]
async fn a_body_too_large_to_keep_makes_a_request_unrepeatable() {
    let mut setting = Setting::new().await;
    let body = "x".repeat(100_000);
    let lines = format!("Content-Length: {}\r\n", body.len());
    let mut socket = setting.open(&setting.bytes("PUT", "/", &lines, &body)).await;
    let mut talk = setting.server.connection().await;
    talk.request().await.unwrap();
    drop(talk);
    let head = soon("an answer", read_response(&mut socket, HEAD_MAX)).await.unwrap();
    assert_eq!((head.status, head.headers.get("landfast-error")), (502, Some("upstream.lost")));
}

#[tokio::test]
async fn a_programs_word_that_it_did_not_run_a_request_counts_only_if_its_spec_says_so() {
    const NOT_HERE: &[u8] =
        b"HTTP/1.1 503 X\r\nLandfast-Error: actor.gone\r\nLandfast-Error: node.not_here\r\nContent-Length: 4\r\n\r\nmine";
    const SIGNAL: &[u8] = b"HTTP/1.1 503 X\r\nLandfast-Error: node.not_here\r\nContent-Length: 0\r\n\r\n";
    let world = World::start().await;
    for believed in [false, true] {
        let mut server = Server::start().await;
        let id = external(&world, &server.address, |service| service.retry_signals = believed).await;
        let request = head("POST", &format!("/i/{id}/web/"), &[("Authorization", &bearer(&world.token(id)))]);
        let answer = tokio::spawn(send(world.gateway, request, b"once"));
        let mut talk = server.connection().await;
        assert_eq!(talk.request().await.unwrap().body, b"once");
        talk.say(if believed { SIGNAL } else { NOT_HERE }).await;
        if believed {
            let mut again = server.connection().await;
            assert_eq!(again.request().await.unwrap().body, b"once");
            again.say(OK).await;
        }
        let answer: Answer = soon("an answer", answer).await.unwrap();
        let expected = if believed { (200, &b"ok"[..], Some("2")) } else { (503, &b"mine"[..], Some("1")) };
        let attempts = answer.header("landfast-attempts");
        assert_eq!((answer.head.status, answer.body.as_slice(), attempts), expected);
        assert_eq!(answer.header("landfast-error"), None, "a program cannot speak for us");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_missed_by_the_server() {
    let mut setting = Setting::new().await;
    let socket = setting.open(&setting.bytes("GET", "/slow", "", "")).await;
    let mut talk = setting.server.connection().await;
    talk.request().await.unwrap();
    drop(socket);
    assert!(soon("the end", talk.request()).await.is_none());
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_its_connection_closed() {
    let setting = Setting::new().await;
    let mut heard = setting.server;
    for (text, status, code) in [
        ("GET /livez HTTP/1.1\r\n\r\n", 400, "request.invalid"),
        (
            "POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "request.invalid",
        ),
        ("GET /livez HTTP/1.1\nHost: a\n\n", 400, "request.invalid"),
        ("GET /livez HTTP/3.0\r\nHost: a\r\n\r\n", 505, "request.version"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405, "request.method"),
    ] {
        let answer = send_bytes(setting.world.gateway, text.as_bytes()).await;
        assert_eq!((answer.head.status, answer.header("landfast-error")), (status, Some(code)), "{text:?}");
        assert_eq!(
            (answer.header("connection"), answer.header("content-type")),
            (Some("close"), Some("application/problem+json"))
        );
    }
    let huge = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(HEAD_MAX));
    assert_eq!(send_bytes(setting.world.gateway, huge.as_bytes()).await.cause(), (431, Some(ErrorCode::LimitHeader)));
    let unexpected = tokio::time::timeout(Duration::from_millis(50), heard.connection()).await;
    assert!(unexpected.is_err(), "nothing of it reached the server");
}

#[tokio::test]
async fn a_body_that_breaks_its_framing_reaches_nobody_as_whole() {
    let mut setting = Setting::new().await;
    let bytes = setting.bytes("POST", "/", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\nzz\r\n");
    let mut socket = setting.open(&bytes).await;
    let mut talk = setting.server.connection().await;
    talk.head().await.unwrap();
    let head = soon("a refusal", read_response(&mut socket, HEAD_MAX)).await.unwrap();
    assert_eq!((head.status, head.headers.get("landfast-error")), (400, Some("request.invalid")));
    let mut body = Vec::new();
    let _ = soon("the end", talk.stream.read_to_end(&mut body)).await;
    assert!(!body.ends_with(b"0\r\n\r\n"), "{body:?}");
}

#[tokio::test]
async fn an_external_instance_is_left_alone_while_its_platform_moves_it() {
    let setting = Setting::new().await;
    let id = setting.base[3..33].parse().unwrap();
    let new = Server::start().await;
    let address = new.address.clone();
    setting.world.phase(id, Phase::Starting).await;
    let request = head("POST", &format!("{}/", setting.base), &[("Authorization", &setting.token)]);
    let answer = tokio::spawn(send(setting.world.gateway, request, b"once"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!answer.is_finished(), "it waits");
    let heard = new.answers(OK);
    setting
        .world
        .change(id, move |instance| {
            instance.phase = Phase::Running;
            instance.generation = instance.generation.next();
            instance.spec.services.get_mut(&web()).unwrap().address = Some(address.clone());
        })
        .await;
    let answer = soon("an answer", answer).await.unwrap();
    assert_eq!((answer.cause(), answer.header("landfast-generation")), ((200, None), Some("2")));
    assert_eq!(heard.lock().unwrap().len(), 1);
}

// --- WebSockets to a server without an agent ---

async fn accept(talk: &mut Talk) {
    talk.head().await.unwrap();
    talk.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n").await;
}

/// A WebSocket and the server's side of it.
async fn opened(setting: &mut Setting) -> (Ws, Talk) {
    let target = format!("{}/socket", setting.base);
    let lines = [("Authorization", setting.token.as_str()), ("Sec-WebSocket-Extensions", "permessage-deflate")];
    let (ws, talk) = tokio::join!(websocket(setting.world.gateway, &target, &lines), async {
        let mut talk = setting.server.connection().await;
        accept(&mut talk).await;
        talk
    });
    (ws.unwrap(), talk)
}

#[tokio::test]
async fn a_websocket_passes_as_it_is_and_its_loss_is_told() {
    let mut setting = Setting::new().await;
    let (mut ws, mut talk) = opened(&mut setting).await;
    assert_eq!(ws.head.headers.get("sec-websocket-extensions"), Some("permessage-deflate"));
    ws.send(Opcode::Text, b"up").await;
    let mut heard = vec![0; masked(Opcode::Text, b"up").len()];
    soon("a frame", talk.stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, masked(Opcode::Text, b"up"));
    talk.say(&unmasked(Opcode::Binary, b"down")).await;
    assert_eq!(ws.next().await, Some(Frame::Data(b"down".to_vec())));
    Socket::tcp(talk.stream).abort();
    assert_eq!(ws.closed().await, (1014, "upstream.lost".into()));
}

#[tokio::test]
async fn a_server_that_ends_its_connection_is_not_spoken_over() {
    for last in [unmasked(Opcode::Text, b"bye"), unmasked(Opcode::Text, b"bye")[..3].to_vec(), vec![]] {
        let mut setting = Setting::new().await;
        let (mut ws, mut talk) = opened(&mut setting).await;
        talk.say(&last).await;
        drop(talk);
        let mut heard = Vec::new();
        soon("the end", ws.socket.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, last);
    }
}

#[tokio::test]
async fn an_upgrade_that_the_server_refuses_is_a_plain_answer() {
    let mut setting = Setting::new().await;
    let target = format!("{}/socket", setting.base);
    let lines = [("Authorization", setting.token.as_str())];
    let (refused, ()) = tokio::join!(websocket(setting.world.gateway, &target, &lines), async {
        let mut talk = setting.server.connection().await;
        talk.request().await.unwrap();
        talk.say(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    });
    let answer = refused.unwrap_err();
    assert_eq!((answer.head.status, answer.body.as_slice()), (403, &b"no"[..]));
    assert!(answer.header("landfast-request-id").is_some());
}
