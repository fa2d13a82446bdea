//! A plain HTTP server that no agent stands before, told byte for byte what to say.

use std::sync::{Arc, Mutex};

use landfast_core::record::{External, Service};
use landfast_core::{InstanceId, ServiceName};
use landfast_net::http1::{BodyReader, Received, read_request};
use landfast_net::random;
use landfast_registry::records;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::world::{World, record, soon};

/// A request as the server read it.
#[derive(Clone, Debug)]
pub struct Heard {
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Heard {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A server whose connections are given to the test.
pub struct Server {
    pub address: String,
    connections: mpsc::Receiver<TcpStream>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, connections) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if sender.send(stream).await.is_err() {
                    return;
                }
            }
        });
        Self { address, connections, heard: Arc::default() }
    }

    /// The next connection.
    pub async fn connection(&mut self) -> Talk {
        let stream = soon("a connection", self.connections.recv()).await.expect("the server lives");
        Talk { stream, input: Vec::new(), heard: Arc::clone(&self.heard) }
    }

    /// Answers every request on every connection with the same bytes.
    pub fn answers(mut self, answer: &'static [u8]) -> Arc<Mutex<Vec<Heard>>> {
        let heard = Arc::clone(&self.heard);
        tokio::spawn(async move {
            while let Some(stream) = self.connections.recv().await {
                let mut talk = Talk { stream, input: Vec::new(), heard: Arc::clone(&self.heard) };
                tokio::spawn(async move {
                    while talk.request().await.is_some() {
                        talk.say(answer).await;
                    }
                });
            }
        });
        heard
    }
}

/// One connection of a server.
pub struct Talk {
    pub stream: TcpStream,
    input: Vec<u8>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Talk {
    /// Reads a whole request; `None` at the end of the connection.
    pub async fn request(&mut self) -> Option<Heard> {
        let received = self.head().await?;
        let mut reader = BodyReader::new(received.framing);
        let mut body = Vec::new();
        while !reader.is_done() {
            if self.input.is_empty() && !self.read().await {
                return None;
            }
            let mut bytes = std::mem::take(&mut self.input);
            let decoded = reader.decode(&mut bytes).expect("a well-formed body");
            self.input = bytes.split_off(decoded.consumed);
            body.extend_from_slice(&bytes[..decoded.payload]);
        }
        let text = |headers: &landfast_net::head::Headers| {
            headers.iter().map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned())).collect()
        };
        let heard = Heard {
            target: received.head.target,
            headers: text(&received.head.headers),
            body,
            trailers: reader.trailers().unwrap().as_ref().map(text).unwrap_or_default(),
        };
        self.heard.lock().unwrap().push(heard.clone());
        Some(heard)
    }

    /// Reads the head of a request.
    pub async fn head(&mut self) -> Option<Received> {
        loop {
            if let Some((received, len)) = read_request(&self.input).expect("a well-formed head") {
                self.input.drain(..len);
                return Some(received);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    pub async fn say(&mut self, bytes: &[u8]) {
        // A peer that has left is what some tests are about.
        let _ = self.stream.write_all(bytes).await;
    }

    async fn read(&mut self) -> bool {
        soon("a request", self.stream.read_buf(&mut self.input)).await.is_ok_and(|n| n > 0)
    }
}

/// An external instance with this server as its service `web`.
pub async fn external(world: &World, address: &str, change: impl FnOnce(&mut Service)) -> InstanceId {
    let mut instance = record(random::instance_id(), &crate::node::Node::gone(world.cell.key()).await);
    (instance.node, instance.host, instance.address) = (None, None, None);
    let mut service = Service { address: Some(address.into()), ..Service::default() };
    change(&mut service);
    instance.spec.external = Some(External::default());
    instance.spec.services.insert(web(), service);
    records::create_instance(&*world.store, &instance).await.unwrap();
    instance.id
}

pub fn web() -> ServiceName {
    "web".parse().unwrap()
}
