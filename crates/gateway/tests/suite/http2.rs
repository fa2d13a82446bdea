//! HTTP/2 and TLS, with clients that are not ours: the h2 crate's and rustls'.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use landfast_core::link::Close;
use landfast_core::ws::Opcode;
use landfast_core::{ErrorCode, InstanceId};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{bearer, masked, unmasked};
use crate::node::Node;
use crate::server::{Server, external};
use crate::world::{World, soon};

/// An HTTP/2 connection to a gateway.
async fn client<S>(stream: S) -> SendRequest<Bytes>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

async fn plain(gateway: SocketAddr) -> SendRequest<Bytes> {
    client(TcpStream::connect(gateway).await.unwrap()).await
}

fn request(method: Method, path: &str, token: &str) -> Request<()> {
    let uri = format!("http://box.test{path}");
    Request::builder().method(method).uri(uri).header("authorization", token).body(()).unwrap()
}

/// Reads a body, and what came behind it.
async fn whole(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes, body.trailers().await?))
}

async fn send_all(mut stream: SendStream<Bytes>, mut body: &[u8]) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        let (now, later) = body.split_at(room.min(body.len()));
        stream.send_data(Bytes::copy_from_slice(now), false).unwrap();
        body = later;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "up".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
}

/// An instance whose program answers with what it is told.
async fn echo() -> (World, Node, InstanceId, String) {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let token = bearer(&world.token(id));
    (world, node, id, token)
}

async fn answer(client: &mut SendRequest<Bytes>, request: Request<()>) -> Response<RecvStream> {
    let (answer, _) = client.send_request(request, true).unwrap();
    soon("an answer", answer).await.unwrap()
}

#[tokio::test]
async fn a_hundred_requests_share_a_connection() {
    let (world, _node, id, token) = echo().await;
    let client = plain(world.gateway).await;
    let mut running = tokio::task::JoinSet::new();
    for number in 0..100u32 {
        let mut client = client.clone();
        let request = request(Method::POST, &format!("/i/{id}/80/{number}"), &token);
        running.spawn(async move {
            client = client.ready().await.unwrap();
            let (answer, stream) = client.send_request(request, false).unwrap();
            let body = vec![number as u8; 1000 * number as usize];
            let (answer, ()) = tokio::join!(answer, send_all(stream, &body));
            let answer = answer.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["landfast-attempts"]),
                (200, &"1".parse().unwrap())
            );
            assert!(whole(answer.into_body()).await.unwrap().0 == body, "{number}");
        });
    }
    while let Some(done) = soon("all answers", running.join_next()).await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_stream_is_the_same_request_that_http1_has() {
    let world = World::start().await;
    let mut server = Server::start().await;
    let id = external(&world, &server.address, |_| ()).await;
    let mut client = plain(world.gateway).await;
    let mut request = request(Method::POST, &format!("/i/{id}/web/x?y"), &bearer(&world.token(id)));
    for (name, value) in [("cookie", "a=b"), ("cookie", "c=d"), ("te", "trailers"), ("landfast-error", "x")] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let (answer, stream) = client.send_request(request, false).unwrap();
    let (answer, ()) = tokio::join!(answer, async {
        send_all(stream, b"hello").await;
        let mut talk = server.connection().await;
        let heard = talk.request().await.unwrap();
        assert_eq!((heard.target.as_str(), heard.header("host")), ("/x?y", Some("box.test")));
        assert_eq!((heard.header("cookie"), heard.header("landfast-error")), (Some("a=b; c=d"), None));
        assert_eq!(heard.trailers, [("x-sum".to_owned(), "up".to_owned())]);
        talk.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n").await;
        talk.say(b"2\r\nok\r\n0\r\nX-Sum: down\r\n\r\n").await;
    });
    let answer = soon("an answer", async { answer }).await.unwrap();
    assert!(!answer.headers().contains_key("x-hop") && !answer.headers().contains_key("connection"));
    let (body, trailers) = whole(answer.into_body()).await.unwrap();
    assert_eq!((body.as_slice(), &trailers.unwrap()["x-sum"]), (&b"ok"[..], &"down".parse().unwrap()));
}

#[tokio::test]
async fn an_answer_that_is_cut_is_reset() {
    let (world, node, id, token) = echo().await;
    let mut client = plain(world.gateway).await;
    let mut body = answer(&mut client, request(Method::GET, &format!("/i/{id}/80/half"), &token)).await.into_body();
    assert_eq!(soon("the beginning", body.data()).await.unwrap().unwrap(), "begun");
    node.break_programs();
    let error = soon("the end", body.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn a_client_that_resets_its_stream_takes_the_request_with_it() {
    let world = World::start().await;
    let mut server = Server::start().await;
    let id = external(&world, &server.address, |_| ()).await;
    let mut client = plain(world.gateway).await;
    let asked = request(Method::GET, &format!("/i/{id}/web/"), &bearer(&world.token(id)));
    let (answer, mut stream) = client.send_request(asked, true).unwrap();
    let mut talk = server.connection().await;
    talk.request().await.unwrap();
    stream.send_reset(h2::Reason::CANCEL);
    assert!(soon("the end", talk.request()).await.is_none());
    drop(answer);
}

/// Opens a WebSocket in a stream of its own.
async fn websocket(
    client: &mut SendRequest<Bytes>,
    path: &str,
    token: &str,
) -> (Response<RecvStream>, SendStream<Bytes>) {
    soon("the settings", async {
        while !client.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut asked = request(Method::CONNECT, path, token);
    asked.extensions_mut().insert(Protocol::from_static("websocket"));
    asked.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    asked.headers_mut().insert("sec-websocket-protocol", "landfast.process.v1".parse().unwrap());
    let (answer, say) = client.send_request(asked, false).unwrap();
    (soon("an answer", answer).await.unwrap(), say)
}

#[tokio::test]
async fn a_websocket_over_http2_outlives_its_links() {
    let (world, node, id, token) = echo().await;
    let mut client = plain(world.gateway).await;
    let (answer, mut say) = websocket(&mut client, &format!("/i/{id}/processes/x/attach"), &token).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["sec-websocket-protocol"]),
        (200, &"landfast.process.v1".parse().unwrap())
    );
    let mut far = node.far_end().await;
    assert!(far.head.headers.get("sec-websocket-key").is_some());
    let mut hear = answer.into_body();
    for word in [&b"one"[..], b"two"] {
        say.send_data(masked(Opcode::Text, word).into(), false).unwrap();
        let mut heard = vec![0; masked(Opcode::Text, word).len()];
        soon("a frame", far.pipe.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, masked(Opcode::Text, word));
        far.pipe.write_all(&unmasked(Opcode::Text, word)).await.unwrap();
        assert_eq!(soon("an echo", hear.data()).await.unwrap().unwrap(), unmasked(Opcode::Text, word));
        node.cut();
    }
    say.send_data(Bytes::new(), true).unwrap();
}

#[tokio::test]
async fn the_end_that_a_program_makes_of_a_websocket_is_the_end_of_its_stream() {
    let (world, node, id, token) = echo().await;
    let mut client = plain(world.gateway).await;
    let (answer, _say) = websocket(&mut client, &format!("/i/{id}/80/socket"), &token).await;
    node.far_end().await.end(Close::new(ErrorCode::UpstreamEnded, ""));
    assert_eq!(soon("the end", whole(answer.into_body())).await.unwrap(), (vec![], None));
}

#[tokio::test]
async fn what_is_malformed_or_not_spoken_is_refused() {
    let world = World::start().await;
    let mut client = plain(world.gateway).await;
    let answer = answer(&mut client, request(Method::GET, "/nowhere", "x")).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["landfast-error"]),
        (404, &"request.not_found".parse().unwrap())
    );
    let mut two_hosts = request(Method::GET, "/livez", "x");
    two_hosts.headers_mut().insert("host", "other.test".parse().unwrap());
    let (refused, _) = client.send_request(two_hosts, true).unwrap();
    assert_eq!(soon("an end", refused).await.unwrap_err().reason(), Some(h2::Reason::PROTOCOL_ERROR));
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_takes_no_new_ones() {
    let mut world = World::start().await;
    let mut server = Server::start().await;
    let id = external(&world, &server.address, |_| ()).await;
    let mut client = plain(world.gateway).await;
    let asked = request(Method::GET, &format!("/i/{id}/web/"), &bearer(&world.token(id)));
    let (answer, _) = client.send_request(asked, true).unwrap();
    let mut talk = server.connection().await;
    talk.request().await.unwrap();
    world.stop.drain.cancel();
    talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let answer = soon("the answer", answer).await.unwrap();
    assert_eq!(whole(answer.into_body()).await.unwrap().0, b"ok");
    world.stopped().await;
}

// --- TLS ---

/// A certificate in files.
struct Files {
    dir: TempDir,
    certificate: CertificateDer<'static>,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificate = write(&dir);
        Self { dir, certificate }
    }

    async fn world(&self) -> (World, SocketAddr) {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let world = World::with(|config| {
            config.tls_listen = Some(address);
            config.tls_certificates = Some(self.dir.path().join("chain.pem"));
            config.tls_key = Some(self.dir.path().join("key.pem"));
        })
        .await;
        (world, address)
    }
}

/// Writes a new certificate with its key, whole or not at all.
fn write(dir: &TempDir) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["box.test".to_owned()]).unwrap();
    for (name, text) in [("chain.pem", cert.pem()), ("key.pem", signing_key.serialize_pem())] {
        let next = dir.path().join(format!("{name}.next"));
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, dir.path().join(name)).unwrap();
    }
    cert.der().clone()
}

async fn tls(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("box.test").unwrap(), stream).await
}

#[tokio::test]
async fn both_versions_are_spoken_inside_tls_and_the_server_behind_hears_so() {
    let files = Files::new();
    let (world, address) = files.world().await;
    let server = Server::start().await;
    let id = external(&world, &server.address, |_| ()).await;
    let heard = server.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let (target, token) = (format!("/i/{id}/web/"), bearer(&world.token(id)));
    let mut old = tls(address, &files.certificate, &["http/1.1"]).await.unwrap();
    let text =
        format!("GET {target} HTTP/1.1\r\nHost: box.test\r\nAuthorization: {token}\r\nConnection: close\r\n\r\n");
    old.write_all(text.as_bytes()).await.unwrap();
    let mut answered = String::new();
    soon("an answer", old.read_to_string(&mut answered)).await.unwrap();
    assert!(answered.starts_with("HTTP/1.1 200 OK\r\n") && answered.ends_with("ok"), "{answered}");
    let mut client = client(tls(address, &files.certificate, &["h2", "http/1.1"]).await.unwrap()).await;
    assert_eq!(answer(&mut client, request(Method::GET, &target, &token)).await.status(), 200);
    for request in &*heard.lock().unwrap() {
        assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    }
}

#[tokio::test]
async fn the_end_that_a_program_makes_of_a_websocket_is_an_orderly_end_of_tls() {
    let files = Files::new();
    let (world, address) = files.world().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let mut client = tls(address, &files.certificate, &["http/1.1"]).await.unwrap();
    let token = bearer(&world.token(id));
    let head = format!(
        "GET /i/{id}/80/socket HTTP/1.1\r\nHost: box.test\r\nAuthorization: {token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    node.far_end().await.end(Close::new(ErrorCode::UpstreamEnded, ""));
    let mut heard = String::new();
    // An end without a close_notify would be an error.
    soon("the end", client.read_to_string(&mut heard)).await.unwrap();
    assert!(heard.starts_with("HTTP/1.1 101") && heard.ends_with("\r\n\r\n"), "{heard}");
}

#[tokio::test]
async fn large_bodies_pass_through_tls_though_the_client_reads_slowly() {
    let files = Files::new();
    let (world, address) = files.world().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    let stream = tls(address, &files.certificate, &["http/1.1"]).await.unwrap();
    let (mut from, mut to) = tokio::io::split(stream);
    let body: Vec<u8> = (0..5_000_000u32).map(|at| (at % 251) as u8).collect();
    let token = bearer(&world.token(id));
    let head = format!(
        "POST /i/{id}/80/ HTTP/1.1\r\nHost: box.test\r\nAuthorization: {token}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut heard = Vec::new();
    let talk = async {
        tokio::join!(
            async {
                to.write_all(head.as_bytes()).await.unwrap();
                to.write_all(&body).await.unwrap();
                to.flush().await.unwrap();
            },
            async {
                let mut piece = vec![0; 30_000];
                loop {
                    let n = from.read(&mut piece).await.unwrap();
                    if n == 0 {
                        return;
                    }
                    heard.extend_from_slice(&piece[..n]);
                    tokio::task::yield_now().await;
                }
            }
        )
    };
    soon("all of it", talk).await;
    let text = String::from_utf8_lossy(&heard[..300]).into_owned();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    assert!(heard.len() > body.len() && sum(&heard) > sum(&body));
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_over_and_no_connection_is_dropped() {
    let files = Files::new();
    let (world, address) = files.world().await;
    let mut before = client(tls(address, &files.certificate, &["h2"]).await.unwrap()).await;
    assert_eq!(answer(&mut before, request(Method::GET, "/livez", "x")).await.status(), 200);
    let renewed = write(&files.dir);
    soon("the new certificate", async {
        while tls(address, &renewed, &["h2"]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(tls(address, &files.certificate, &["h2"]).await.is_err(), "the old one is not shown any more");
    assert_eq!(answer(&mut before, request(Method::GET, "/livez", "x")).await.status(), 200);
    drop(world);
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused_by_the_files_name() {
    let files = Files::new();
    let other = Files::new();
    std::fs::copy(other.dir.path().join("key.pem"), files.dir.path().join("key.pem")).unwrap();
    let key = files.dir.path().join("key.pem");
    let error = landfast_net::tls::Tls::load(&files.dir.path().join("chain.pem"), &key).unwrap_err();
    assert!(error.detail.contains("key.pem"), "{error}");
}
