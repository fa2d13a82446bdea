//! The way to a node's relay: one CONNECT that carries the generation, one typed answer, then only bytes.
//!
//! A refusal comes before a byte of what follows was read, so the caller may go elsewhere with nothing lost.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use landfast_core::record::Generation;
use landfast_core::{ErrorCode, InstanceId, Problem, ServiceName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::credential::{Credential, Role};
use crate::head::{HEAD_MAX, HeadError, Headers, RequestHead, ResponseHead, read_request, read_response, write_all};
pub use crate::secret::CellKey;
use crate::socket::Socket;

/// How long a peer may take to send its CONNECT.
const CONNECT_HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// The most bytes of a condition: a few counts, and some names.
const CONDITION_MAX: usize = 16 * 1024;

/// What to reach inside an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Our agent.
    Agent,
    /// A TCP port.
    Port(u16),
    /// A service that the agent keeps running.
    Service(ServiceName),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent => f.write_str("agent"),
            Self::Port(port) => port.fmt(f),
            Self::Service(name) => name.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "agent" => Ok(Self::Agent),
            number if number.starts_with(|first: char| first.is_ascii_digit()) => {
                number.parse().ok().filter(|&port| port != 0).map(Self::Port).ok_or(())
            }
            name => name.parse().map(Self::Service).map_err(|_| ()),
        }
    }
}

/// Where an instance is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The instance.
    pub instance: InstanceId,
    /// Its generation there.
    pub generation: Generation,
    /// The relay's address, `host:port`.
    pub address: String,
}

/// Why a dial brought no connection. In each case nothing was started.
#[derive(Debug)]
pub enum DialError {
    /// The node answered, and said no.
    Refused {
        /// Why.
        code: ErrorCode,
        /// The generation the node runs, if it told.
        generation: Option<Generation>,
    },
    /// The node did not answer in time, or not in our language. This is not its death.
    Unreachable(io::Error),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, .. } => write!(f, "the node refused: {code}"),
            Self::Unreachable(error) => write!(f, "the node was not reached: {error}"),
        }
    }
}

impl std::error::Error for DialError {}

impl DialError {
    /// The row of the error table.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Unreachable(_) => ErrorCode::NodeUnreachable,
        }
    }
}

/// Connects to `target` inside an instance through its node's relay.
///
/// Cancel safe: a dropped dial leaves nothing behind.
///
/// # Errors
///
/// [`DialError`]; nothing was started.
pub async fn dial(
    route: &Route,
    target: Target,
    credential: &Credential,
    deadline: Duration,
) -> Result<Socket, DialError> {
    match timeout(deadline, connect(route, target, credential)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Unreachable(io::ErrorKind::TimedOut.into())),
    }
}

/// What a peer asked of a relay.
#[derive(Debug)]
pub struct Connect {
    /// The instance.
    pub instance: InstanceId,
    /// What to reach inside it.
    pub target: Target,
    /// The generation the peer knows.
    pub generation: Generation,
    /// The key the peer holds.
    pub key: CellKey,
}

/// What a peer wants of a node's relay.
#[derive(Debug)]
pub enum Asked {
    /// To be connected.
    Connect(Connect),
    /// To be told how the node is.
    Condition {
        /// Whether of itself or of its agents.
        of: Of,
        /// The key the peer holds.
        key: CellKey,
    },
}

/// Whose condition is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The node's own, which it says at once.
    Node,
    /// Its agents', which it asks.
    Agents,
}

impl Of {
    const fn target(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Agents => "agents",
        }
    }
}

/// Asks a node how it or its agents are.
///
/// Cancel safe.
///
/// # Errors
///
/// [`DialError`].
pub async fn condition<T: DeserializeOwned>(
    address: &str,
    of: Of,
    credential: &Credential,
    deadline: Duration,
) -> Result<T, DialError> {
    let asked = async {
        let mut socket = credential.connect(address, Role::Node).await.map_err(DialError::Unreachable)?;
        let mut headers = Headers::new();
        headers.push("landfast-cell-key", credential.key().to_hex());
        let request = RequestHead { method: "OPTIONS".into(), target: of.target().into(), headers };
        write_all(&mut socket, &request.encode()).await.map_err(DialError::Unreachable)?;
        let answer = read_answer(&mut socket).await?;
        if answer.status != 200 {
            return Err(refusal(&answer));
        }
        let length = answer.headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        if length > CONDITION_MAX {
            return Err(DialError::Unreachable(io::Error::other("what it says is too long")));
        }
        socket.read_exact(&mut body).await.map_err(DialError::Unreachable)?;
        serde_json::from_slice(&body).map_err(|error| DialError::Unreachable(io::Error::other(error)))
    };
    timeout(deadline, asked).await.unwrap_or_else(|_| Err(DialError::Unreachable(io::ErrorKind::TimedOut.into())))
}

/// Tells a peer what it asked for.
///
/// # Errors
///
/// The connection's.
pub async fn tell(socket: &mut Socket, condition: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(condition).map_err(io::Error::other)?;
    let mut headers = Headers::new();
    headers.push("Content-Type", "application/json");
    headers.push("Content-Length", body.len().to_string());
    headers.push("Connection", "close");
    write_all(socket, &[ResponseHead { status: 200, headers }.encode(), body].concat()).await
}

/// Reads a peer's CONNECT, within ten seconds.
///
/// # Errors
///
/// What is wrong with it, in words the peer may read.
pub async fn read_connect(socket: &mut Socket) -> Result<Connect, Problem> {
    parse_connect(&read_head(socket).await?)
}

/// Reads what a peer wants of a node, within ten seconds.
///
/// # Errors
///
/// As [`read_connect`].
pub async fn read_asked(socket: &mut Socket) -> Result<Asked, Problem> {
    let head = read_head(socket).await?;
    if head.method != "OPTIONS" {
        return parse_connect(&head).map(Asked::Connect);
    }
    let of = [Of::Node, Of::Agents].into_iter().find(|of| of.target() == head.target);
    let of = of.ok_or_else(|| Problem::new(ErrorCode::RequestInvalid, "The target is neither node nor agents."))?;
    Ok(Asked::Condition { of, key: key_in(&head)? })
}

async fn read_head(socket: &mut Socket) -> Result<RequestHead, Problem> {
    timeout(CONNECT_HEAD_DEADLINE, read_request(socket, HEAD_MAX))
        .await
        .map_err(|_| Problem::from(ErrorCode::RequestTimeout))?
        .map_err(|error| match error {
            HeadError::Malformed(_) | HeadError::Io(_) => Problem::new(ErrorCode::RequestInvalid, error.to_string()),
            HeadError::TooLarge => ErrorCode::LimitHeader.into(),
        })
}

/// Says yes to a CONNECT.
///
/// # Errors
///
/// The connection's.
pub async fn accept(socket: &mut Socket) -> io::Result<()> {
    write_all(socket, b"HTTP/1.1 200 OK\r\n\r\n").await
}

/// Says no to a CONNECT; `generation` is the one the node runs, if it does.
///
/// # Errors
///
/// The connection's.
pub async fn refuse(socket: &mut Socket, code: ErrorCode, generation: Option<Generation>) -> io::Result<()> {
    let mut headers = Headers::new();
    headers.push("landfast-error", code.as_str());
    if let Some(generation) = generation {
        headers.push("landfast-generation", generation.to_string());
    }
    headers.push("Content-Length", "0");
    headers.push("Connection", "close");
    write_all(socket, &ResponseHead { status: code.status_or_500(), headers }.encode()).await
}

async fn connect(route: &Route, target: Target, credential: &Credential) -> Result<Socket, DialError> {
    let mut socket = credential.connect(&route.address, Role::Node).await.map_err(DialError::Unreachable)?;
    let mut headers = Headers::new();
    headers.push("landfast-generation", route.generation.to_string());
    headers.push("landfast-cell-key", credential.key().to_hex());
    let request = RequestHead { method: "CONNECT".into(), target: format!("{}:{target}", route.instance), headers };
    write_all(&mut socket, &request.encode()).await.map_err(DialError::Unreachable)?;
    let answer = read_answer(&mut socket).await?;
    if answer.status == 200 { Ok(socket) } else { Err(refusal(&answer)) }
}

async fn read_answer(socket: &mut Socket) -> Result<ResponseHead, DialError> {
    read_response(socket, HEAD_MAX).await.map_err(|error| match error {
        HeadError::Io(error) => DialError::Unreachable(error),
        HeadError::Malformed(_) | HeadError::TooLarge => DialError::Unreachable(io::Error::other(error)),
    })
}

fn refusal(answer: &ResponseHead) -> DialError {
    match answer.headers.get("landfast-error").and_then(ErrorCode::parse) {
        Some(code) => {
            let generation = answer.headers.get("landfast-generation").and_then(|text| text.parse().ok());
            DialError::Refused { code, generation: generation.map(Generation) }
        }
        None => DialError::Unreachable(io::Error::other(format!("status {} without a cause", answer.status))),
    }
}

fn parse_connect(head: &RequestHead) -> Result<Connect, Problem> {
    let invalid = |what: &str| Problem::new(ErrorCode::RequestInvalid, what);
    if head.method != "CONNECT" {
        return Err(invalid("A relay takes CONNECT only."));
    }
    let (instance, target) =
        head.target.split_once(':').ok_or_else(|| invalid("The target is not instance:target."))?;
    let instance = instance.parse().map_err(|error| invalid(&format!("The target's instance: {error}.")))?;
    let target = target.parse().map_err(|()| invalid("The target is neither agent, a port nor a service."))?;
    let generation = head.headers.get("landfast-generation").and_then(|text| text.parse().ok());
    let generation =
        generation.map(Generation).ok_or_else(|| invalid("landfast-generation is missing or no number."))?;
    Ok(Connect { instance, target, generation, key: key_in(head)? })
}

fn key_in(head: &RequestHead) -> Result<CellKey, Problem> {
    let key = head.headers.get("landfast-cell-key").and_then(CellKey::from_hex);
    key.ok_or_else(|| Problem::new(ErrorCode::AuthForbidden, "landfast-cell-key is missing or no key."))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::random;

    async fn with_relay<T>(
        relay: impl AsyncFnOnce(&mut Socket, Connect),
        test: impl AsyncFnOnce(Result<Socket, DialError>) -> T,
    ) -> T {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let route = Route { instance: random::instance_id(), generation: Generation(3), address };
        let key = CellKey::generate();
        let served = async {
            let mut socket = Socket::tcp(listener.accept().await.unwrap().0);
            let connect = read_connect(&mut socket).await.unwrap();
            assert_eq!((connect.instance, connect.generation), (route.instance, route.generation));
            assert!(connect.key == key && connect.target == Target::Port(8080));
            relay(&mut socket, connect).await;
        };
        let dialled = async {
            test(dial(&route, Target::Port(8080), &Credential::plain(key.clone()), Duration::from_secs(5)).await).await
        };
        tokio::join!(served, dialled).1
    }

    #[tokio::test]
    async fn an_accepted_dial_is_a_plain_byte_stream() {
        let echo = async |socket: &mut Socket, _| {
            accept(socket).await.unwrap();
            socket.write_all(b"hello").await.unwrap();
        };
        with_relay(echo, async |dialled| {
            let mut hello = String::new();
            dialled.unwrap().read_to_string(&mut hello).await.unwrap();
            assert_eq!(hello, "hello");
        })
        .await;
    }

    #[tokio::test]
    async fn a_refusal_tells_its_cause_and_the_generation() {
        let no = async |socket: &mut Socket, _| {
            refuse(socket, ErrorCode::NodeStaleGeneration, Some(Generation(4))).await.unwrap();
        };
        with_relay(no, async |dialled| {
            let Err(DialError::Refused { code, generation }) = dialled else { panic!("not refused") };
            assert_eq!((code, generation), (ErrorCode::NodeStaleGeneration, Some(Generation(4))));
        })
        .await;
    }

    #[tokio::test]
    async fn a_relay_that_hangs_up_is_unreachable_and_not_dead() {
        with_relay(
            async |_, _| (),
            async |dialled| {
                assert_eq!(dialled.unwrap_err().code(), ErrorCode::NodeUnreachable);
            },
        )
        .await;
    }

    #[tokio::test]
    async fn a_condition_is_told_to_who_has_the_key_and_what_is_none_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, key) = (listener.local_addr().unwrap().to_string(), CellKey::generate());
        let credential = Credential::plain(key.clone());
        let told = async {
            let mut socket = Socket::tcp(listener.accept().await.unwrap().0);
            let Ok(Asked::Condition { of: Of::Agents, key: shown }) = read_asked(&mut socket).await else { panic!() };
            assert!(shown == key);
            tell(&mut socket, &[1, 2, 3]).await.unwrap();
        };
        let asked = condition::<Vec<u8>>(&address, Of::Agents, &credential, Duration::from_secs(5));
        let (condition_heard, ()) = tokio::join!(asked, told);
        assert_eq!(condition_heard.unwrap(), [1, 2, 3]);
        let refused = async {
            let mut socket = Socket::tcp(listener.accept().await.unwrap().0);
            assert!(read_connect(&mut socket).await.is_err(), "an agent knows no such question");
            refuse(&mut socket, ErrorCode::RequestInvalid, None).await.unwrap();
        };
        let (heard, ()) =
            tokio::join!(condition::<()>(&address, Of::Node, &credential, Duration::from_secs(5)), refused);
        assert_eq!(heard.unwrap_err().code(), ErrorCode::RequestInvalid);
    }

    #[test]
    fn a_connect_without_generation_or_key_is_refused_by_name() {
        let instance = random::instance_id();
        let parse = |text: String| parse_connect(&RequestHead::parse(text.as_bytes()).unwrap().unwrap().0).unwrap_err();
        let error = parse(format!("CONNECT {instance}:agent HTTP/1.1\r\n\r\n"));
        assert!(error.detail.contains("landfast-generation"));
        let error = parse(format!("CONNECT {instance}:agent HTTP/1.1\r\nlandfast-generation: 1\r\n\r\n"));
        assert_eq!(error.code, ErrorCode::AuthForbidden);
        let error = parse(format!("CONNECT {instance}:99999 HTTP/1.1\r\n\r\n"));
        assert!(error.detail.contains("port"));
    }
}
