//! The clients: a thousand requests a second over lasting connections, whatever comes back.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use landfast_registry::cell::Cell;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::truth::{SERVICE, Truth};

/// Requests a second.
const RATE: u32 = 1_000;

/// Connections that share them.
const CONNECTIONS: u32 = 64;

/// Longer than any answer takes that is not lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests to every instance.
pub(super) struct Load {
    gateway: SocketAddr,
    truth: Arc<Truth>,
    /// By the instance's number.
    requests: Arc<Vec<Vec<u8>>>,
}

/// What came of some of them.
#[derive(Default)]
pub(super) struct Came {
    pub(super) times: Vec<Duration>,
    /// Answers other than 200.
    pub(super) refused: usize,
    /// Answers of a server that the record did not name at any moment of the request.
    pub(super) stale: usize,
}

impl Load {
    /// Signs a token for each instance.
    ///
    /// # Errors
    ///
    /// The cell has no key.
    pub(super) fn new(gateway: SocketAddr, dir: &Path, truth: Arc<Truth>) -> Result<Self> {
        let cell = Cell::open(dir)?;
        let requests = truth.instances().into_iter().enumerate().map(|(number, ins)| {
            let token = crate::token(&cell, ins)?;
            let request = format!(
                "GET /i/{ins}/{SERVICE}/{number} HTTP/1.1\r\nHost: {gateway}\r\nAuthorization: Bearer {token}\r\n\r\n"
            );
            anyhow::Ok(request.into_bytes())
        });
        Ok(Self { gateway, requests: Arc::new(requests.collect::<Result<_>>()?), truth })
    }

    /// Asks every instance once, so that the gateway knows every route and every token.
    pub(super) async fn visit_all(&self) {
        let turns = self.requests.len() as u32 / CONNECTIONS + 1;
        let came = self
            .on_all_connections(move |lane, turn| (turn < turns).then(|| (None, (turn * CONNECTIONS + lane) as usize)));
        let came = came.await;
        assert!(came.refused + came.stale == 0, "{} of the first answers were no good", came.refused + came.stale);
    }

    /// Asks any instances for some time.
    pub(super) async fn flow(&self, time: Duration) -> Came {
        let began = Instant::now();
        self.on_all_connections(move |lane, turn| {
            let after = Duration::from_secs(1) / RATE * (turn * CONNECTIONS + lane);
            (after < time).then(|| (Some(began + after), rand::random_range(0..usize::MAX)))
        })
        .await
    }

    /// Makes the requests that `next` tells for each connection and turn: when, and to which instance.
    async fn on_all_connections<F>(&self, next: F) -> Came
    where
        F: Fn(u32, u32) -> Option<(Option<Instant>, usize)> + Copy + Send + Sync + 'static,
    {
        let lanes = (0..CONNECTIONS).map(|lane| {
            let (gateway, requests, truth) = (self.gateway, Arc::clone(&self.requests), Arc::clone(&self.truth));
            tokio::spawn(async move {
                let (mut client, mut came) = (Client::connect(gateway).await?, Came::default());
                for (due, number) in (0..).map_while(|turn| next(lane, turn)) {
                    let number = number % requests.len();
                    let began = wait(due).await;
                    let (status, body) = client.ask(&requests[number]).await?;
                    let ended = Instant::now();
                    came.times.push(ended - began);
                    if status != 200 {
                        came.refused += 1;
                    } else if !truth.has_named(number, body.parse()?, began, ended) {
                        came.stale += 1;
                    }
                }
                anyhow::Ok(came)
            })
        });
        let mut all = Came::default();
        for lane in futures_util::future::join_all(lanes).await {
            let lane = lane.expect("no client panics").unwrap_or_else(|error| panic!("a client: {error:#}"));
            all.times.extend(lane.times);
            all.refused += lane.refused;
            all.stale += lane.stale;
        }
        all
    }
}

/// Waits until a request is due, and says when it has begun: when it was due, if the one before it was still under way. How
/// late the timer is is nobody's time.
async fn wait(due: Option<Instant>) -> Instant {
    match due {
        Some(due) if due > Instant::now() => sleep_until(due).await,
        Some(due) => return due,
        None => {}
    }
    Instant::now()
}

struct Client {
    socket: TcpStream,
    heard: Vec<u8>,
}

impl Client {
    async fn connect(gateway: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(gateway).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, heard: Vec::new() })
    }

    /// Asks and reads the whole answer: its status and its body.
    async fn ask(&mut self, request: &[u8]) -> Result<(u16, String)> {
        timeout(PATIENCE, async {
            self.socket.write_all(request).await?;
            loop {
                if let Some((status, from, to)) = parse(&self.heard)? {
                    let body = String::from_utf8_lossy(&self.heard[from..to]).into_owned();
                    self.heard.drain(..to);
                    return Ok((status, body));
                }
                if self.socket.read_buf(&mut self.heard).await? == 0 {
                    bail!("the gateway has ended the connection");
                }
            }
        })
        .await
        .context("no answer in time")?
    }
}

/// The status, and where the body lies, once it is whole.
fn parse(heard: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(from) = response.parse(heard)? else { return Ok(None) };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length: usize = std::str::from_utf8(length.context("no length")?.value)?.parse()?;
    let status = response.code.context("no status")?;
    Ok((heard.len() >= from + length).then_some((status, from, from + length)))
}
