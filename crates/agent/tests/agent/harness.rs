//! An agent of its own for a test, and ways to ask it.

use std::future::Future;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use landfast_agent::{Config, run};
use landfast_core::Problem;
use landfast_core::record::Generation;
use landfast_net::head::{HEAD_MAX, Headers, RequestHead, ResponseHead, read_response, write_all};
use landfast_net::socket::Socket;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::viewer::Viewer;

/// How long anything may take that should take milliseconds, on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An agent in a thread of its own, with a runtime as its process has. It ends with the test.
pub(crate) struct Agent {
    _dir: TempDir,
    config: Config,
    running: Option<Running>,
}

struct Running {
    runtime: Handle,
    stop: CancellationToken,
    /// Ends the runtime where it stands, and with it everything the agent does: as a crash would.
    crash: CancellationToken,
    thread: JoinHandle<Option<Result<(), Problem>>>,
}

/// An answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Agent {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::Builder::new().prefix("lf").tempdir().unwrap();
        let part = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let instance = landfast_net::random::instance_id();
        let mut config = Config::new(instance, Generation(3), part("run"), part("state"), part("home"));
        config.env.insert("FROM_INSTANCE".to_owned(), "yes".to_owned());
        change(&mut config);
        let mut agent = Self { _dir: dir, config, running: None };
        agent.start_again().await;
        agent
    }

    /// Starts an agent over the same directories.
    pub(crate) async fn start_again(&mut self) {
        let (stop, crash) = (CancellationToken::new(), CancellationToken::new());
        let agent = run(self.config.clone(), stop.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let crashed = crash.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    ended = agent => Some(ended),
                    () = crashed.cancelled() => None,
                }
            })
        });
        self.running = Some(Running { runtime: handle, stop, crash, thread });
        eventually("the agent listens", async || self.connect("agent.sock").await.ok()).await;
    }

    /// Ends it in good order.
    pub(crate) async fn stop(&mut self) {
        self.running().stop.cancel();
        self.ended().await;
    }

    /// Ends it as a crash would.
    pub(crate) async fn crash(&mut self) {
        let Running { crash, thread, .. } = self.running.take().expect("it runs");
        crash.cancel();
        join(thread).await;
        // A child that another test has just forked holds our descriptors until its exec, and the sockets open with them.
        eventually("its socket is closed", async || self.connect("agent.sock").await.err()).await;
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) {
        let Running { thread, .. } = self.running.take().expect("it runs");
        join(thread).await.expect("it was not crashed").expect("it ended well");
    }

    /// How many tasks it has.
    pub(crate) fn tasks(&self) -> usize {
        self.running().runtime.metrics().num_alive_tasks()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.config.home.clone()
    }

    pub(crate) fn config(&self) -> Config {
        self.config.clone()
    }

    pub(crate) fn instance(&self) -> String {
        self.config.instance.to_string()
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.config.run.join(name)
    }

    pub(crate) async fn connect(&self, socket: &str) -> std::io::Result<Socket> {
        Ok(Socket::unix(UnixStream::connect(self.config.run.join(socket)).await?))
    }

    /// Asks over `agent.sock`.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        self.ask_door("agent.sock", method, path, &[], body.into()).await
    }

    pub(crate) async fn ask_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask_door("agent.sock", "GET", path, headers, Bytes::new()).await
    }

    /// Asks over `control.sock`.
    pub(crate) async fn control(&self, method: &str, path: &str, body: &str) -> Answer {
        self.ask_door("control.sock", method, path, &[], body.to_owned().into()).await
    }

    pub(crate) async fn ask_door(
        &self,
        door: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let mut request = http::Request::builder().method(method).uri(path).header("host", "agent");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let socket = self.connect(door).await.unwrap();
        let answer = landfast_net::http::call(socket, request.body(Full::new(body)).unwrap(), PATIENCE).await.unwrap();
        Answer { status: answer.status().as_u16(), headers: answer.headers().clone(), body: answer.into_body() }
    }

    /// Starts a process and returns its id.
    pub(crate) async fn process(&self, wish: &Value) -> String {
        let answer = self.ask("POST", "/processes", wish.to_string()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Starts a shell command on pipes.
    pub(crate) async fn command(&self, shell: &str) -> String {
        self.process(&json!({"shell": shell})).await
    }

    /// Starts a shell command on a terminal.
    pub(crate) async fn terminal(&self, shell: &str) -> String {
        self.process(&json!({"shell": shell, "tty": {"rows": 24, "cols": 80}})).await
    }

    pub(crate) async fn record(&self, id: &str) -> Value {
        self.ask("GET", &format!("/processes/{id}"), "").await.json()
    }

    /// Waits until a process is no longer running, and returns its record.
    pub(crate) async fn ends(&self, id: &str) -> Value {
        eventually("it ends", async || {
            let record = self.record(id).await;
            (record["state"] != "running").then_some(record)
        })
        .await
    }

    /// Runs a command to its end and returns what it said.
    pub(crate) async fn says(&self, shell: &str) -> String {
        let answer = self.ask("POST", "/exec", json!({"shell": shell}).to_string()).await;
        answer.json()["stdout"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn sessions(&self) -> u64 {
        self.control("GET", "/healthz", "").await.json()["sessions"].as_u64().unwrap()
    }

    /// Attaches to a process by a plain WebSocket.
    pub(crate) async fn attach(&self, id: &str, query: &str) -> Viewer<Socket> {
        self.try_attach(id, query).await.unwrap_or_else(|refusal| panic!("refused: {refusal:?}"))
    }

    pub(crate) async fn try_attach(&self, id: &str, query: &str) -> Result<Viewer<Socket>, ResponseHead> {
        let (socket, head) = self.upgrade(&attach_head(id, query)).await;
        if head.status == 101 { Ok(Viewer::new(socket)) } else { Err(head) }
    }

    /// Sends a head and reads the answer's.
    pub(crate) async fn upgrade(&self, request: &RequestHead) -> (Socket, ResponseHead) {
        let mut socket = self.connect("agent.sock").await.unwrap();
        write_all(&mut socket, &request.encode()).await.unwrap();
        let head = timeout(PATIENCE, read_response(&mut socket, HEAD_MAX)).await.unwrap().unwrap();
        (socket, head)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // In good order, so that nothing it runs outlives the test.
        if let Some(Running { stop, thread, .. }) = self.running.take() {
            stop.cancel();
            let _ = thread.join();
        }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The status and code of a refusal, which says the same in its head and its body.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let body = self.json();
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.headers["landfast-error"], body["code"].as_str().unwrap());
        assert_eq!(body["status"], self.status);
        (self.status, body["code"].as_str().unwrap().to_owned())
    }
}

async fn join<T: Send + 'static>(thread: JoinHandle<T>) -> T {
    let joined = tokio::task::spawn_blocking(|| thread.join());
    timeout(PATIENCE, joined).await.expect("it ends").unwrap().expect("it did not panic")
}

/// The upgrade request of an attachment.
pub(crate) fn attach_head(id: &str, query: &str) -> RequestHead {
    let mut headers = Headers::new();
    for (name, value) in [
        ("Host", "agent"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", "landfast.process.v1"),
    ] {
        headers.push(name, value);
    }
    RequestHead { method: "GET".into(), target: format!("/processes/{id}/attach?{query}"), headers }
}

/// Waits until `look` finds something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let found = timeout(PATIENCE, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(Duration::from_millis(5)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("not in time: {what}"))
}
