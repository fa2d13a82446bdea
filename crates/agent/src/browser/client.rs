//! The agent's own conversation with the browser: calls with answers, and events.
//!
//! Chromium answers calls in any order and puts events between the answers. Nobody who reads events slowly may hold up an
//! answer, so events wait in a queue of their own, and what does not fit into it is dropped and counted.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use landfast_core::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::devtools::DevTools;

/// How long the connection to a browser on this host may take to stand.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// How long a call may take: longer than the slowest screenshot of a page that is being drawn.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// How long a browser may take to read what is said to it.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// The most bytes of one message from the browser: a full-page picture of 10,000 lines, in base64.
const MESSAGE_MAX: usize = 64 << 20;

/// The most calls that wait for their answers at once; further ones wait for their turn.
const CALLS_MAX: usize = 64;

/// The most events that wait for their reader, a busy page's of some seconds,
const EVENTS_MAX: usize = 4_096;

/// and the most bytes of them.
const EVENT_BYTES_MAX: usize = 16 << 20;

/// Calls a browser. It may be cloned; with the last one the connection ends.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    calls: mpsc::Sender<Call>,
}

/// What a browser says by itself.
#[derive(Debug)]
pub(crate) struct Events {
    queue: mpsc::Receiver<Event>,
    missed: Arc<AtomicU64>,
}

/// One thing that a browser says by itself.
#[derive(Debug)]
pub(crate) struct Event {
    /// What, such as `Page.loadEventFired`.
    pub(crate) method: String,
    pub(crate) params: Value,
    /// The session of the target that it is about; none of the browser itself.
    pub(crate) session: Option<String>,
    /// Its room in the queue, given back with it.
    _room: OwnedSemaphorePermit,
}

/// Why a call brought no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// The connection has ended. The call may have run.
    Ended,
    /// It was not answered in time. It may have run.
    Timeout,
    /// The browser said no.
    Refused { code: i64, message: String },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the connection to the browser has ended"),
            Self::Timeout => f.write_str("the browser did not answer in time"),
            Self::Refused { code, message } => write!(f, "the browser refused: {message} ({code})"),
        }
    }
}

impl std::error::Error for CallError {}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Ended => Self::new(ErrorCode::UpstreamLost, "The browser has ended."),
            CallError::Timeout => Self::new(ErrorCode::UpstreamTimeout, "The browser did not answer in time."),
            CallError::Refused { message, .. } => {
                Self::new(ErrorCode::RequestInvalid, format!("The browser: {message}"))
            }
        }
    }
}

/// A call on its way to the connection's task.
#[derive(Debug)]
struct Call {
    method: &'static str,
    params: Value,
    session: Option<String>,
    answer: oneshot::Sender<Result<Value, CallError>>,
}

/// A message of the browser: an answer if it has an id, else an event.
#[derive(Debug, Deserialize)]
struct Said {
    id: Option<u64>,
    #[serde(default)]
    result: Value,
    error: Option<Refusal>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(rename = "sessionId")]
    session: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    code: i64,
    message: String,
}

impl Client {
    /// Connects to a start of the browser. The connection lives in a task of its own.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::UpstreamRefused`], [`ErrorCode::UpstreamTimeout`].
    pub(crate) async fn connect(devtools: &DevTools) -> Result<(Self, Events), Problem> {
        Self::connect_within(devtools, CONNECT_DEADLINE).await
    }

    /// The same, with another deadline.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`].
    pub(crate) async fn connect_within(devtools: &DevTools, within: Duration) -> Result<(Self, Events), Problem> {
        let connected = timeout(within, connect(devtools)).await;
        let socket = connected.map_err(|_| Problem::from(ErrorCode::UpstreamTimeout))?.map_err(|error| {
            tracing::debug!(%error, "the browser was not reached");
            Problem::new(ErrorCode::UpstreamRefused, "The browser accepts no connection.")
        })?;
        let (calls, called) = mpsc::channel(1);
        let (said, queue) = mpsc::channel(EVENTS_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        let room = Arc::new(Semaphore::new(EVENT_BYTES_MAX));
        let line = Line { socket, called, waiting: HashMap::new(), last_id: 0, said, room, missed: missed.clone() };
        tokio::spawn(line.run());
        Ok((Self { calls }, Events { queue, missed }))
    }

    /// Calls a method, of the browser itself or in the session of a target.
    ///
    /// Cancel safe in that nothing is left of a call that was dropped; it may have run.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub(crate) async fn call(
        &self,
        method: &'static str,
        params: Value,
        session: Option<&str>,
    ) -> Result<Value, CallError> {
        self.call_within(method, params, session, CALL_DEADLINE).await
    }

    /// The same, with another deadline.
    ///
    /// Cancel safe as [`Self::call`].
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub(crate) async fn call_within(
        &self,
        method: &'static str,
        params: Value,
        session: Option<&str>,
        within: Duration,
    ) -> Result<Value, CallError> {
        let (answer, answered) = oneshot::channel();
        let call = Call { method, params, session: session.map(str::to_owned), answer };
        let exchange = async {
            self.calls.send(call).await.map_err(|_| CallError::Ended)?;
            answered.await.unwrap_or(Err(CallError::Ended))
        };
        timeout(within, exchange).await.unwrap_or(Err(CallError::Timeout))
    }
}

impl Events {
    /// The next event; `None` once the connection has ended.
    ///
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.queue.recv().await
    }

    /// How many events did not fit into the queue since this was last asked.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

async fn connect(devtools: &DevTools) -> Result<WebSocketStream<TcpStream>, tungstenite::Error> {
    let stream = TcpStream::connect(("127.0.0.1", devtools.port)).await?;
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    Ok(client_async_with_config(devtools.url(), stream, Some(config)).await?.0)
}

/// The connection's task.
struct Line {
    socket: WebSocketStream<TcpStream>,
    called: mpsc::Receiver<Call>,
    /// Who waits for the answer with this id.
    waiting: HashMap<u64, oneshot::Sender<Result<Value, CallError>>>,
    last_id: u64,
    said: mpsc::Sender<Event>,
    /// For the bytes of events in the queue.
    room: Arc<Semaphore>,
    missed: Arc<AtomicU64>,
}

impl Line {
    /// Carries calls and what is said until either side has ended. Whoever still waits then is told by the end of this.
    async fn run(mut self) {
        loop {
            tokio::select! {
                said = self.socket.next() => match said {
                    Some(Ok(Message::Text(text))) => self.handle_said(&text),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    // Answering a ping is the library's; Chromium says nothing in bytes.
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_))) => {}
                },
                call = self.called.recv(), if self.waiting.len() < CALLS_MAX => {
                    let Some(call) = call else { break };
                    if self.say(call).await.is_err() {
                        return;
                    }
                }
            }
        }
        // Nobody calls any more. A browser that does not hear it sees the connection end.
        let _ = timeout(SEND_DEADLINE, self.socket.close(None)).await;
    }

    /// Sends a call. Nothing is read meanwhile: what the agent says is small, and Chromium reads it before it writes.
    async fn say(&mut self, call: Call) -> Result<(), ()> {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": call.method, "params": call.params});
        if let Some(session) = call.session {
            message["sessionId"] = session.into();
        }
        // Those who have stopped waiting make room for those who begin.
        self.waiting.retain(|_, answer| !answer.is_closed());
        self.waiting.insert(self.last_id, call.answer);
        let sent = timeout(SEND_DEADLINE, self.socket.send(Message::text(message.to_string()))).await;
        if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(()) }
    }

    fn handle_said(&mut self, text: &str) {
        let said = match serde_json::from_str::<Said>(text) {
            Ok(said) => said,
            Err(error) => return tracing::debug!(%error, "the browser said something that is no CDP"),
        };
        match said {
            Said { id: Some(id), result, error, .. } => {
                let Some(answer) = self.waiting.remove(&id) else { return };
                let result = match error {
                    None => Ok(result),
                    Some(Refusal { code, message }) => Err(CallError::Refused { code, message }),
                };
                // Whoever called may have left.
                let _ = answer.send(result);
            }
            Said { method: Some(method), params, session, .. } => self.queue(method, params, session, text.len()),
            Said { method: None, .. } => {}
        }
    }

    fn queue(&self, method: String, params: Value, session: Option<String>, len: usize) {
        let room = u32::try_from(len).ok().and_then(|len| self.room.clone().try_acquire_many_owned(len).ok());
        let event = room.map(|room| Event { method, params, session, _room: room });
        if event.is_none_or(|event| self.said.try_send(event).is_err()) {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
impl Event {
    /// An event as a browser would say it.
    pub(crate) fn new(method: &str, params: Value, session: Option<&str>) -> Self {
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("nobody else takes it");
        Self { method: method.to_owned(), params, session: session.map(str::to_owned), _room: room }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_tungstenite::accept_async;

    use super::*;

    /// A browser of the test's own, which does with its connection as it is told.
    async fn browser<F: Future<Output = ()> + Send + 'static>(
        behave: impl FnOnce(WebSocketStream<TcpStream>) -> F + Send + 'static,
    ) -> (Client, Events) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            behave(accept_async(stream).await.unwrap()).await;
        });
        Client::connect(&DevTools::at(port, "/devtools/browser/x")).await.unwrap()
    }

    async fn hears(socket: &mut WebSocketStream<TcpStream>) -> Value {
        serde_json::from_str(socket.next().await.unwrap().unwrap().to_text().unwrap()).unwrap()
    }

    async fn says(socket: &mut WebSocketStream<TcpStream>, message: Value) {
        socket.send(Message::text(message.to_string())).await.unwrap();
    }

    #[tokio::test]
    async fn answers_find_their_calls_in_any_order_past_events() {
        let (client, mut events) = browser(|mut socket| async move {
            let (first, second) = (hears(&mut socket).await, hears(&mut socket).await);
            says(&mut socket, json!({"method": "A.b", "params": {"n": 1}, "sessionId": "s"})).await;
            for call in [second, first] {
                says(&mut socket, json!({"id": call["id"], "result": {"heard": call["method"]}})).await;
            }
        })
        .await;
        let (one, two) =
            tokio::join!(client.call("One.x", json!({}), None), client.call("Two.x", json!({"a": 1}), Some("s")));
        assert_eq!((one.unwrap()["heard"].as_str(), two.unwrap()["heard"].as_str()), (Some("One.x"), Some("Two.x")));
        let event = events.next().await.unwrap();
        assert_eq!(
            (event.method.as_str(), event.session.as_deref(), &event.params["n"]),
            ("A.b", Some("s"), &json!(1))
        );
        assert!(events.next().await.is_none() && events.missed() == 0);
    }

    #[tokio::test]
    async fn a_no_is_told_as_the_browser_said_it() {
        let (client, _events) = browser(|mut socket| async move {
            let call = hears(&mut socket).await;
            says(&mut socket, json!({"id": call["id"], "error": {"code": -32601, "message": "not found"}})).await;
        })
        .await;
        let refused = CallError::Refused { code: -32601, message: "not found".to_owned() };
        assert_eq!(client.call("No.such", json!({}), None).await, Err(refused));
    }

    #[tokio::test]
    async fn who_waits_when_the_browser_ends_is_told_at_once_and_who_calls_later_too() {
        let (client, _events) = browser(|mut socket| async move {
            hears(&mut socket).await;
        })
        .await;
        assert_eq!(client.call("A.b", json!({}), None).await, Err(CallError::Ended));
        assert_eq!(client.call("A.b", json!({}), None).await, Err(CallError::Ended));
    }

    #[tokio::test]
    async fn a_browser_that_does_not_answer_is_not_waited_for_for_ever() {
        let (client, _events) = browser(|mut socket| async move { while socket.next().await.is_some() {} }).await;
        tokio::time::pause();
        assert_eq!(client.call("A.b", json!({}), None).await, Err(CallError::Timeout));
    }

    #[tokio::test]
    async fn events_that_nobody_reads_are_dropped_and_counted_and_hold_up_no_answer() {
        let (client, mut events) = browser(|mut socket| async move {
            let call = hears(&mut socket).await;
            for n in 0..EVENTS_MAX + 10 {
                says(&mut socket, json!({"method": "A.b", "params": {"n": n}})).await;
            }
            let large = "x".repeat(EVENT_BYTES_MAX);
            says(&mut socket, json!({"method": "A.b", "params": {"large": large}})).await;
            says(&mut socket, json!({"id": call["id"], "result": {}})).await;
            while socket.next().await.is_some() {}
        })
        .await;
        assert_eq!(client.call("A.b", json!({}), None).await, Ok(json!({})));
        assert_eq!((events.missed(), events.missed()), (11, 0));
        assert_eq!(events.next().await.unwrap().params["n"], 0);
    }

    #[tokio::test]
    async fn the_connection_ends_with_the_last_who_could_call() {
        let (ended, has_ended) = oneshot::channel();
        let (client, mut events) = browser(|mut socket| async move {
            while let Some(Ok(_)) = socket.next().await {}
            ended.send(()).unwrap();
        })
        .await;
        drop(client);
        timeout(CALL_DEADLINE, has_ended).await.unwrap().unwrap();
        assert!(events.next().await.is_none());
    }
}
