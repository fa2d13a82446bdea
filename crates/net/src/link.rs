//! Opening and resuming links: the heads that cross before the first record.
//!
//! The formats are in docs/architecture.md, "Links". Both sides are here, so that they cannot drift apart.

use std::fmt;
use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use landfast_core::link::PROTOCOL;
use landfast_core::session::WINDOW;
use landfast_core::{ErrorCode, Problem, SessionId};
use tokio::io::AsyncReadExt;

use crate::head::{HEAD_MAX, HeadError, Headers, RequestHead, ResponseHead, read_response, write_all};
pub use crate::secret::Secret;
use crate::socket::Socket;

/// The smallest window that is granted or taken: a DATA record and the rest of one.
pub const WINDOW_MIN: u64 = 128 * 1024;

/// The largest: what one session may cost in memory at an end, for far and fast networks.
pub const WINDOW_MAX: u64 = 16 << 20;

/// The most bytes of a refusal's body that are passed on.
const REFUSAL_MAX: usize = 64 * 1024;

/// What a client end asks for with a new session.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    /// How much the client end lets the agent have unacknowledged.
    pub window: u64,
    /// The head of the client's upgrade request, its target being the agent's own path.
    pub head: RequestHead,
}

/// What an agent says yes with.
#[derive(Clone, Debug)]
pub struct OpenAnswer {
    /// The session.
    pub session: SessionId,
    /// What resumes it.
    pub secret: Secret,
    /// How much the agent lets the client end have unacknowledged.
    pub window: u64,
    /// The far end's 101.
    pub head: ResponseHead,
}

/// What a client end asks for with a further link.
#[derive(Clone, Debug)]
pub struct ResumeRequest {
    /// The session.
    pub session: SessionId,
    /// What came with it.
    pub secret: Secret,
    /// The link's number; grows with each attempt.
    pub link: u64,
    /// How many bytes of the session the client end has.
    pub received: u64,
}

/// A no, as a plain HTTP answer.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The answer's head.
    pub head: ResponseHead,
    /// The answer's body.
    pub body: Vec<u8>,
}

impl Refusal {
    /// The cause that stands in `landfast-error`; one that does not say is taken as internal.
    pub fn code(&self) -> ErrorCode {
        self.head.headers.get("landfast-error").and_then(ErrorCode::parse).unwrap_or(ErrorCode::Internal)
    }
}

/// Why there is no link.
#[derive(Debug)]
pub enum LinkError {
    /// The other side said no.
    Refused(Refusal),
    /// The connection failed, or what came was no answer.
    Connection(io::Error),
}

impl LinkError {
    /// The row of the error table.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Connection(_) => ErrorCode::NodeUnreachable,
        }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => write!(f, "refused: {}", refusal.code()),
            Self::Connection(error) => write!(f, "no answer: {error}"),
        }
    }
}

impl std::error::Error for LinkError {}

impl From<HeadError> for LinkError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Io(error) => Self::Connection(error),
            HeadError::Malformed(_) | HeadError::TooLarge => Self::Connection(io::Error::other(error)),
        }
    }
}

impl OpenRequest {
    /// A request with the default window.
    pub const fn new(head: RequestHead) -> Self {
        Self { window: WINDOW, head }
    }

    /// The head to send; `path` is `/links` toward an agent, `/i/{instance}/links` toward a gateway.
    pub fn encode(&self, path: &str) -> RequestHead {
        let mut headers = upgrade_headers();
        headers.push("landfast-window", self.window.to_string());
        headers.push("landfast-head", URL_SAFE_NO_PAD.encode(self.head.encode()));
        RequestHead { method: "GET".into(), target: path.into(), headers }
    }

    /// Reads the request out of its headers; `get` finds one by name.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Problem> {
        check_version(&get)?;
        let head = get("landfast-head").and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let head = head.as_deref().and_then(|bytes| RequestHead::parse(bytes).ok().flatten());
        let (head, _) = head.ok_or_else(|| protocol("landfast-head is missing or no request head in base64url."))?;
        Ok(Self { window: window(&get)?, head })
    }
}

impl OpenAnswer {
    /// The 101 to send.
    pub fn encode(&self) -> ResponseHead {
        let mut headers = upgrade_headers();
        headers.push("landfast-session", self.session.to_string());
        headers.push("landfast-secret", self.secret.to_hex());
        headers.push("landfast-window", self.window.to_string());
        headers.push("landfast-head", URL_SAFE_NO_PAD.encode(self.head.encode()));
        ResponseHead { status: 101, headers }
    }

    /// Reads a 101.
    ///
    /// # Errors
    ///
    /// If a part is missing.
    pub fn decode(head: &ResponseHead) -> Result<Self, Problem> {
        let get = |name: &str| head.headers.get(name);
        let session = get("landfast-session").and_then(|text| text.parse().ok());
        let secret = get("landfast-secret").and_then(Secret::from_hex);
        let far = get("landfast-head").and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let far = far.as_deref().and_then(|bytes| ResponseHead::parse(bytes).ok().flatten());
        match (session, secret, far) {
            (Some(session), Some(secret), Some((head, _))) => Ok(Self { session, secret, window: window(get)?, head }),
            _ => Err(protocol("The 101 lacks its session, secret or head.")),
        }
    }
}

impl ResumeRequest {
    /// The head to send; `path` as in [`OpenRequest::encode`].
    pub fn encode(&self, path: &str) -> RequestHead {
        let mut headers = upgrade_headers();
        headers.push("landfast-secret", self.secret.to_hex());
        headers.push("landfast-link", self.link.to_string());
        headers.push("landfast-received", self.received.to_string());
        RequestHead { method: "GET".into(), target: format!("{path}/{}", self.session), headers }
    }

    /// Reads the request out of its path's last segment and its headers.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode<'a>(session: &str, get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Problem> {
        check_version(&get)?;
        let session = session.parse().map_err(|_| Problem::from(ErrorCode::SessionUnknown))?;
        let secret = get("landfast-secret").and_then(Secret::from_hex);
        let secret = secret.ok_or_else(|| Problem::from(ErrorCode::SessionForbidden))?;
        let number = |name: &str| get(name).and_then(|text| text.parse().ok());
        let link = number("landfast-link").ok_or_else(|| protocol("landfast-link is missing or no number."))?;
        let received = number("landfast-received");
        let received = received.ok_or_else(|| protocol("landfast-received is missing or no number."))?;
        Ok(Self { session, secret, link, received })
    }
}

/// How long who asks for a link waits for an answer, in `landfast-wait`, in seconds; nothing if it does not say.
pub fn wait<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Duration> {
    get(WAIT).and_then(|text| Duration::try_from_secs_f64(text.parse().ok()?).ok())
}

/// The header that says so.
pub const WAIT: &str = "landfast-wait";

/// The 101 that answers a resume.
pub fn resume_answer(received: u64) -> ResponseHead {
    let mut headers = upgrade_headers();
    headers.push("landfast-received", received.to_string());
    ResponseHead { status: 101, headers }
}

/// Opens a session over a connected socket. `credentials` are further headers, such as a token.
///
/// Cancel safe: with the socket goes the session.
///
/// # Errors
///
/// [`LinkError`]; no session exists then.
pub async fn open(
    mut socket: Socket,
    path: &str,
    request: &OpenRequest,
    credentials: &[(&str, &str)],
) -> Result<(Socket, OpenAnswer), LinkError> {
    let head = exchange(&mut socket, request.encode(path), credentials).await?;
    let answer = OpenAnswer::decode(&head).map_err(|problem| LinkError::Connection(io::Error::other(problem)))?;
    Ok((socket, answer))
}

/// Resumes a session over a connected socket and returns what the agent has received.
///
/// Cancel safe: with the socket goes the link, and the next attempt has a higher number.
///
/// # Errors
///
/// [`LinkError`].
pub async fn resume(
    mut socket: Socket,
    path: &str,
    request: &ResumeRequest,
    credentials: &[(&str, &str)],
) -> Result<(Socket, u64), LinkError> {
    let head = exchange(&mut socket, request.encode(path), credentials).await?;
    let received = head.headers.get("landfast-received").and_then(|text| text.parse().ok());
    match received {
        Some(received) => Ok((socket, received)),
        None => Err(LinkError::Connection(io::Error::other("the 101 lacks landfast-received"))),
    }
}

async fn exchange(
    socket: &mut Socket,
    mut request: RequestHead,
    credentials: &[(&str, &str)],
) -> Result<ResponseHead, LinkError> {
    for &(name, value) in credentials {
        request.headers.push(name, value);
    }
    write_all(socket, &request.encode()).await.map_err(LinkError::Connection)?;
    let head = read_response(socket, 2 * HEAD_MAX).await?;
    if head.status == 101 {
        return Ok(head);
    }
    let body = read_refusal_body(socket, &head).await;
    Err(LinkError::Refused(Refusal { head, body }))
}

/// Reads what there is of a refusal's body; its head alone says why, so a body that breaks off is no error.
async fn read_refusal_body(socket: &mut Socket, head: &ResponseHead) -> Vec<u8> {
    let announced = head.headers.get("content-length").and_then(|text| text.parse().ok());
    let mut body = Vec::new();
    let most = announced.unwrap_or(REFUSAL_MAX).min(REFUSAL_MAX) as u64;
    let _ = socket.take(most).read_to_end(&mut body).await;
    body
}

fn upgrade_headers() -> Headers {
    let mut headers = Headers::new();
    headers.push("Host", "landfast");
    headers.push("Connection", "Upgrade");
    headers.push("Upgrade", PROTOCOL);
    headers
}

fn check_version<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<(), Problem> {
    match get("upgrade") {
        Some(version) if version.eq_ignore_ascii_case(PROTOCOL) => Ok(()),
        Some(version) if version.starts_with("landfast-link/") => Err(ErrorCode::LinkVersion.into()),
        _ => Err(protocol(&format!("This path takes Upgrade: {PROTOCOL} only."))),
    }
}

fn window<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<u64, Problem> {
    let asked: u64 = match get("landfast-window") {
        None => WINDOW,
        Some(text) => text.parse().map_err(|_| protocol("landfast-window is no number."))?,
    };
    if asked < WINDOW_MIN {
        return Err(protocol(&format!("landfast-window is less than {WINDOW_MIN}.")));
    }
    Ok(asked.min(WINDOW_MAX))
}

fn protocol(what: &str) -> Problem {
    Problem::new(ErrorCode::LinkProtocol, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    fn request_head() -> RequestHead {
        let mut headers = Headers::new();
        headers.push("Upgrade", "websocket");
        RequestHead { method: "GET".into(), target: "/processes/prc_1/attach?from=now".into(), headers }
    }

    #[test]
    fn an_open_survives_its_heads() {
        let sent = OpenRequest::new(request_head());
        let head = sent.encode("/links");
        let got = OpenRequest::decode(|name| head.headers.get(name)).unwrap();
        assert_eq!((got.window, got.head), (WINDOW, request_head()));
        let answer = OpenAnswer {
            session: random::session_id(),
            secret: Secret::generate(),
            window: WINDOW,
            head: ResponseHead { status: 101, headers: Headers::new() },
        };
        let got = OpenAnswer::decode(&answer.encode()).unwrap();
        assert_eq!((got.session, got.secret, got.head), (answer.session, answer.secret, answer.head));
    }

    #[test]
    fn a_resume_survives_its_head() {
        let sent = ResumeRequest { session: random::session_id(), secret: Secret::generate(), link: 7, received: 4711 };
        let head = sent.encode("/i/x/links");
        let session = head.target.rsplit('/').next().unwrap();
        let got = ResumeRequest::decode(session, |name| head.headers.get(name)).unwrap();
        assert_eq!((got.session, got.secret, got.link, got.received), (sent.session, sent.secret, 7, 4711));
    }

    #[test]
    fn what_is_wrong_with_a_request_is_named() {
        let with = |changes: &[(&str, &str)]| {
            let mut head = OpenRequest::new(request_head()).encode("/links");
            for (name, value) in changes {
                head.headers.remove(name);
                head.headers.push(*name, *value);
            }
            OpenRequest::decode(|name| head.headers.get(name)).unwrap_err()
        };
        assert_eq!(with(&[("upgrade", "landfast-link/9")]).code, ErrorCode::LinkVersion);
        assert_eq!(with(&[("upgrade", "websocket")]).code, ErrorCode::LinkProtocol);
        assert!(with(&[("landfast-head", "%%%")]).detail.contains("landfast-head"));
        assert!(with(&[("landfast-window", "12")]).detail.contains("less than"));
    }
}
