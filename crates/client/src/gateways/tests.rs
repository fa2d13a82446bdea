use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::client::Client;

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
const DRAINING: &str =
    "HTTP/1.1 503 Service Unavailable\r\nlandfast-error: gateway.draining\r\nContent-Length: 0\r\n\r\n";
const MISSING: &str = "HTTP/1.1 404 Not Found\r\nlandfast-error: instance.unknown\r\nContent-Length: 0\r\n\r\n";
/// It takes the request and hangs up.
const DEAD: &str = "";

/// A gateway that says the same to everybody, and counts.
struct Fake {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Fake {
    async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                counted.fetch_add(1, Ordering::SeqCst);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { address, asked, task }
    }

    /// A gateway that is not there any more.
    async fn gone() -> Self {
        let fake = Self::start(FINE).await;
        fake.task.abort();
        while tokio::net::TcpStream::connect(fake.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        fake
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn client(gateways: &[&Fake]) -> Client {
    let urls: Vec<_> = gateways.iter().map(|fake| format!("http://{}", fake.address)).collect();
    Client::new(&urls.join(","), "key").unwrap()
}

fn get() -> Call {
    Call::new(Method::GET, "/v1/nodes", Duration::from_secs(20))
}

/// Changes something, and has no key.
fn post() -> Call {
    Call::new(Method::POST, "/v1/instances/x/stop", Duration::from_secs(20))
}

#[tokio::test]
async fn what_could_not_be_sent_goes_to_the_next_and_so_does_what_comes_after() {
    let (dead, alive) = (Fake::gone().await, Fake::start(FINE).await);
    let client = client(&[&dead, &alive]);
    for calls in 1..=5 {
        client.control_raw(&post()).await.unwrap();
        assert_eq!(alive.asked(), calls);
    }
}

#[tokio::test]
async fn a_gateway_that_drains_is_left_at_once_with_whatever_was_to_be_sent() {
    let (draining, alive) = (Fake::start(DRAINING).await, Fake::start(FINE).await);
    let client = client(&[&draining, &alive]);
    // This is one attempt, in which nothing waits.
    client.gateways().call(&post(), "key").await.unwrap();
    client.gateways().call(&post(), "key").await.unwrap();
    assert_eq!((draining.asked(), alive.asked()), (1, 2));
}

#[tokio::test]
async fn what_may_have_run_and_has_no_key_is_sent_to_nobody_else() {
    let (dead, alive) = (Fake::start(DEAD).await, Fake::start(FINE).await);
    let error = client(&[&dead, &alive]).control_raw(&post()).await.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error}");
    assert_eq!((dead.asked(), alive.asked()), (1, 0));
}

#[tokio::test]
async fn what_may_run_twice_is_sent_to_the_next() {
    for call in [get(), post().idempotent()] {
        let (dead, alive) = (Fake::start(DEAD).await, Fake::start(FINE).await);
        client(&[&dead, &alive]).control_raw(&call).await.unwrap();
        assert_eq!((dead.asked(), alive.asked()), (1, 1));
    }
}

#[tokio::test]
async fn that_it_may_have_run_is_not_forgotten_over_a_later_failure() {
    let (broken, draining) = (Fake::start(DEAD).await, Fake::start(DRAINING).await);
    let error = client(&[&broken, &draining]).control_raw(&post().idempotent()).await.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error}");
}

#[tokio::test]
async fn a_refusal_that_every_gateway_would_give_is_asked_for_once() {
    let (first, second) = (Fake::start(MISSING).await, Fake::start(FINE).await);
    let error = client(&[&first, &second]).control_raw(&get()).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InstanceUnknown));
    assert_eq!(second.asked(), 0);
}

#[tokio::test]
async fn a_name_is_tried_address_by_address() {
    let (dead, alive) = (Fake::gone().await, Fake::start(FINE).await);
    let gateways = Gateways::parse("http://cell.example", None).unwrap();
    for tries in 0..2 {
        let mut walk = gateways.walk(None);
        walk.origins.clear();
        walk.line_up(&Arc::clone(&gateways.origins[0]), 0, &[dead.address, alive.address]);
        assert_eq!(walk.doors[0].address, if tries == 0 { dead.address } else { alive.address });
        let (socket, door) = walk.next().await.unwrap();
        assert_eq!(door.address, alive.address);
        assert!(walk.settle(&door, door.call(socket, &get(), "key").await).unwrap().is_ok());
        assert!(gateways.has_fresh(), "one dead address does not make the name a dead one");
    }
}

#[tokio::test]
async fn where_none_can_be_reached_each_is_named() {
    let (one, two) = (Fake::gone().await, Fake::gone().await);
    let error = client(&[&one, &two]).gateways().call(&get(), "key").await.unwrap_err().to_string();
    for gone in [&one, &two] {
        assert!(error.contains(&gone.address.to_string()), "{error}");
    }
    assert!(error.ends_with("cannot be reached: nothing listens there."), "{error}");
}

#[test]
fn a_list_is_read_as_it_is_written() {
    let parse = |urls| Gateways::parse(urls, None);
    assert_eq!(parse("http://a:1, http://b:2,,http://a:1").unwrap().to_string(), "http://a:1,http://b:2");
    for wrong in ["", ",", "http://a:1,b:2"] {
        assert!(matches!(parse(wrong), Err(Error::Invalid(_))), "{wrong}");
    }
}

#[test]
fn an_authority_that_is_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    for content in [None, Some("no certificate")] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let error = Gateways::parse("https://a", Some(&file)).unwrap_err().to_string();
        assert!(error.contains("ca.pem"), "{error}");
    }
}
