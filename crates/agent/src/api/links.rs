//! The two ways to a far end: a WebSocket that dies with its connection, and a session over links.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use landfast_core::ErrorCode;
use landfast_core::cdp::START_BUDGET;
use landfast_core::link::Close;
use landfast_core::session::WINDOW;
use landfast_net::copy::copy_both;
use landfast_net::far::{Commands, Ended, Far, LINGER, serve};
use landfast_net::head::{Headers, RequestHead, ResponseHead};
use landfast_net::link::{OpenAnswer, OpenRequest, ResumeRequest, resume_answer};
use landfast_net::relay::Target;
use landfast_net::socket::{Socket, from_upgraded};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::answer::{Body, Refused, cut, head, whole};
use crate::Agent;
use crate::activity::Observed;
use crate::browser::cdp::{self, Endpoint};
use crate::browser::screencast;
use crate::service::{self, Answer, Refusal, Speech, Wanted};
use crate::sessions::Place;
use crate::upgrade;

/// How long a client may take to receive its 101.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a client may take to end its side after the last close frame.
const FAREWELL: Duration = Duration::from_secs(5);

/// `GET /processes/{id}/attach`.
pub(super) fn attach(
    agent: &Arc<Agent>,
    cut: &CancellationToken,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let (answer, attachment) = upgrade::open(&agent.processes, &request_head(&request))?;
    let upgraded = hyper::upgrade::on(&mut request);
    let over = attachment.over();
    agent.until(cut.clone(), carry(Observed::new(attachment, &agent.activity), over, upgraded));
    Ok(head(&answer))
}

/// `GET /cdp`, and the browser's own paths.
pub(super) async fn connect(
    agent: &Arc<Agent>,
    cut: &CancellationToken,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let wish = request_head(&request);
    let endpoint = Endpoint::read(wish.path()).ok_or(ErrorCode::RequestNotFound)?;
    match cdp::open(agent, endpoint, &wish, START_BUDGET).await? {
        Answer::Refused(refusal) => Ok(passed_on(refusal)),
        Answer::Accepted(answer, socket) => {
            let upgraded = hyper::upgrade::on(&mut request);
            let over = socket.over();
            agent.until(cut.clone(), carry(Observed::new(*socket, &agent.activity), over, upgraded));
            Ok(head(&answer))
        }
    }
}

/// `GET /browser/screencast`.
pub(super) async fn watch(
    agent: &Arc<Agent>,
    cut: &CancellationToken,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let (answer, shown) = screencast::open(agent, &request_head(&request)).await?;
    let upgraded = hyper::upgrade::on(&mut request);
    let over = shown.over();
    agent.until(cut.clone(), carry(Observed::new(shown, &agent.activity), over, upgraded));
    Ok(head(&answer))
}

/// `GET /links`.
pub(super) async fn open(agent: &Arc<Agent>, mut request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let asked = OpenRequest::decode(|name| text(request.headers(), name))?;
    // Whoever asks for an answer in time gets the one that is true then; a service's own limits may be shorter.
    let within = landfast_net::link::wait(|name| text(request.headers(), name)).unwrap_or(START_BUDGET);
    // First, so that no more services are dialled at once than there may be sessions.
    let (place, commands) = agent.sessions.open()?;
    let opening = Opening { window: asked.window, place, commands };
    match Wanted::read(&asked.head)? {
        None => opening.attach(agent, &mut request, &asked.head, within).await,
        Some(Wanted { target: Target::Agent, speech: Speech::WebSocket(wish) }) => {
            opening.attach(agent, &mut request, &wish, within).await
        }
        Some(Wanted { target, speech: Speech::Bytes }) => {
            let pipe = service::dial(agent, target, within).await?;
            let answer = ResponseHead { status: 200, headers: Headers::new() };
            Ok(opening.begin(agent, &mut request, &asked.head.target, answer, pipe))
        }
        Some(Wanted { target, speech: Speech::WebSocket(wish) }) => {
            match service::upgrade(agent, target, &wish, within).await? {
                Answer::Accepted(answer, socket) => {
                    let far = Observed::new(*socket, &agent.activity);
                    Ok(opening.begin(agent, &mut request, &asked.head.target, answer, far))
                }
                Answer::Refused(refusal) => Ok(passed_on(refusal)),
            }
        }
    }
}

/// A session that is being opened.
struct Opening {
    window: u64,
    place: Place,
    commands: Commands,
}

impl Opening {
    /// Leads to the browser, a picture of it, or a process, as the head asks.
    async fn attach(
        self,
        agent: &Arc<Agent>,
        request: &mut Request<Incoming>,
        wish: &RequestHead,
        within: Duration,
    ) -> Result<Response<Body>, Refused> {
        if let Some(endpoint) = Endpoint::read(wish.path()) {
            return match cdp::open(agent, endpoint, wish, within).await? {
                Answer::Accepted(answer, socket) => {
                    Ok(self.begin(agent, request, &wish.target, answer, Observed::new(*socket, &agent.activity)))
                }
                Answer::Refused(refusal) => Ok(passed_on(refusal)),
            };
        }
        if wish.path() == screencast::PATH {
            let (answer, shown) = screencast::open(agent, wish).await?;
            return Ok(self.begin(agent, request, &wish.target, answer, Observed::new(shown, &agent.activity)));
        }
        let (answer, attachment) = upgrade::open(&agent.processes, wish)?;
        Ok(self.begin(agent, request, &wish.target, answer, Observed::new(attachment, &agent.activity)))
    }

    /// Says yes, and carries the session from then on.
    fn begin<F: Far + Send + 'static>(
        self,
        agent: &Agent,
        request: &mut Request<Incoming>,
        to: &str,
        answer: ResponseHead,
        far: F,
    ) -> Response<Body> {
        let Self { window, place, commands } = self;
        let opened = OpenAnswer { session: place.id, secret: place.secret.clone(), window: WINDOW, head: answer };
        let upgraded = hyper::upgrade::on(request);
        let mut told = agent.events.session_open(place.id, to);
        // A fence cuts the link, not the session.
        agent.until_stopped(async move {
            let Some(link) = socket(upgraded).await else { return told.end(Ended::Abandoned) };
            let ended = serve(far, window, link, commands, LINGER).await;
            tracing::debug!(session = %place.id, ?ended, "session ended");
            told.end(ended);
            // Naming it whole moves it in here: its place in the table lasts as long as the session.
            drop(place);
        });
        head(&opened.encode())
    }
}

/// A service's own refusal. If it had more to say, the body claims a byte that never comes: every reader sees the cut.
fn passed_on(Refusal { head: said, body, is_cut }: Refusal) -> Response<Body> {
    let mut response = head(&said);
    let length = body.len() + usize::from(is_cut);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    *response.body_mut() = if is_cut { cut(body) } else { whole(body) };
    response
}

/// `GET /links/{session}`.
pub(super) async fn resume(
    agent: &Arc<Agent>,
    session: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let asked = ResumeRequest::decode(session, |name| text(request.headers(), name))?;
    let resumed = agent.sessions.resume(&asked).await?;
    agent.events.session_resume(asked.session, asked.link);
    let upgraded = hyper::upgrade::on(&mut request);
    agent.until_stopped(async move {
        if let Some(link) = socket(upgraded).await {
            resumed.handle.attach(asked.link, asked.received, link).await;
        }
    });
    Ok(head(&resume_answer(resumed.received)))
}

/// Carries an attachment over its one connection.
async fn carry<F: Far>(mut far: F, over: CancellationToken, upgraded: OnUpgrade) {
    let Some(mut socket) = socket(upgraded).await else { return };
    tokio::select! {
        copied = copy_both(&mut socket, &mut far) => {
            tracing::debug!(?copied, "an attachment ended");
            far.handle_left(&Close::new(ErrorCode::ClientLost, ""));
        }
        () = async { over.cancelled().await; sleep(FAREWELL).await } => tracing::debug!("a client did not hang up"),
    }
}

/// The connection beneath an upgrade, once the 101 is out; `None` if the client is gone.
async fn socket(upgraded: OnUpgrade) -> Option<Socket> {
    let upgraded = timeout(UPGRADE_DEADLINE, upgraded).await.ok()?.ok()?;
    from_upgraded(upgraded).inspect_err(|error| tracing::error!(%error, "an upgraded connection was not taken")).ok()
}

fn request_head(request: &Request<Incoming>) -> RequestHead {
    let mut headers = Headers::new();
    for (name, value) in request.headers() {
        headers.push(name.as_str(), value.as_bytes());
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    RequestHead { method: request.method().to_string(), target, headers }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
