//! What a request is for, and who answers it.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use landfast_core::link::PROTOCOL;
use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::socket::Socket;

use crate::access::Record;
use crate::answer;
use crate::api;
use crate::auth::Access;
use crate::body::{Body, Upload};
use crate::first::NoLink;
use crate::forward::{self, Origin};
use crate::gateway::{Gateway, Worker};
use crate::headers;
use crate::hold::{self, Held};
use crate::links::{self, Relayed};
use crate::place::Place;

/// What goes on with a client's connection after a 101.
#[derive(Debug)]
pub(crate) struct Upgraded {
    kind: Kind,
    record: Box<Record>,
}

#[derive(Debug)]
enum Kind {
    Held(Box<Held>),
    Relayed(Box<Relayed>),
}

/// Where an answer leaves what goes on after it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot(Arc<Mutex<Option<Upgraded>>>);

/// An answer, and what goes on after it.
struct Reply {
    response: Response<Body>,
    upgrade: Option<Kind>,
}

impl Upgraded {
    /// Goes on with the client's socket; without one, the client left before its 101. Boxed by itself, so that a session
    /// costs what it needs and not what the largest of them would.
    pub(crate) fn run(self, client: Option<Socket>) -> BoxFuture<'static, ()> {
        match self.kind {
            Kind::Held(held) => Box::pin(held.run(client, self.record)),
            Kind::Relayed(relayed) => Box::pin(relayed.run(client, self.record)),
        }
    }
}

impl Slot {
    /// What goes on, if anything does.
    pub(crate) fn take(&self) -> Option<Upgraded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether something goes on.
    pub(crate) fn is_full(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn put(&self, upgraded: Upgraded) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgraded);
    }
}

/// Answers one request.
///
/// Cancel safe: a client that leaves takes everything with it that was begun for it.
pub(crate) async fn respond(
    worker: &Worker,
    origin: &Origin,
    slot: &Slot,
    request: Request<Incoming>,
) -> Response<Body> {
    if let Some(response) = health(&worker.gateway, request.uri().path()) {
        return response;
    }
    let mut record = Box::new(Record::new(request.method(), request.uri()));
    let reply = match Place::of(request.uri()) {
        Ok(Place::Api) => api(worker, origin, request, &mut record).await,
        Ok(Place::Instance(id, uri)) => instance(worker, origin, id, uri, request, &mut record).await,
        Err(problem) => Err(problem.into()),
    };
    let Reply { mut response, upgrade } = reply.unwrap_or_else(|refused| Reply::plain(refused.answer()));
    record.status = Some(response.status().as_u16());
    record.cause = answer::cause(&response);
    record.stamp(response.headers_mut());
    match upgrade {
        Some(kind) => slot.put(Upgraded { kind, record }),
        None => response.body_mut().carry(record),
    }
    response
}

/// The answers for whoever watches over this process; they come too often to be logged.
fn health(gateway: &Gateway, path: &str) -> Option<Response<Body>> {
    match path {
        "/livez" => Some(answer::empty(StatusCode::OK)),
        "/readyz" if gateway.drain.has_begun() => Some(answer::refusal(&ErrorCode::GatewayDraining.into())),
        "/readyz" if gateway.is_loaded() => Some(answer::empty(StatusCode::OK)),
        "/readyz" => Some(answer::refusal(&ErrorCode::RegistryUnavailable.into())),
        _ => None,
    }
}

async fn api(
    worker: &Worker,
    origin: &Origin,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Reply, NoLink> {
    Ok(Reply::plain(api::forward(worker, request, origin, record).await?))
}

async fn instance(
    worker: &Worker,
    origin: &Origin,
    id: InstanceId,
    uri: Uri,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Reply, NoLink> {
    let gateway = &worker.gateway;
    record.instance = Some(id);
    let (mut parts, body) = request.into_parts();
    parts.uri = uri;
    let access = gateway.auth.admit(&mut parts.headers, &mut parts.uri, id)?;
    access.check_path(parts.uri.path())?;
    let upgrade = match headers::upgrade(&parts.headers).filter(|_| parts.version >= Version::HTTP_11) {
        Some(protocol) if protocol.eq_ignore_ascii_case("websocket") => Some(Protocol::WebSocket),
        Some(protocol) if is_link(protocol) => Some(Protocol::Link),
        // Whoever does not know a protocol goes on with HTTP, and HTTP/1.0 knows none (RFC 9110, section 7.8).
        Some(_) | None => None,
    };
    let Some(protocol) = upgrade else {
        origin.mark(&mut parts.headers);
        let request = Request::from_parts(parts, Upload::new(body, record.up.clone()));
        return Ok(Reply::plain(forward::forward(worker, id, request, record).await?));
    };
    check_upgrade(gateway, &parts, &body)?;
    match protocol {
        Protocol::WebSocket => websocket(gateway, origin, access, id, parts, record).await,
        Protocol::Link => link(gateway, origin, access, id, &parts, record).await,
    }
}

/// The protocols that are spoken after a 101.
enum Protocol {
    WebSocket,
    Link,
}

async fn websocket(
    gateway: &Arc<Gateway>,
    origin: &Origin,
    access: Arc<Access>,
    id: InstanceId,
    mut parts: Parts,
    record: &mut Record,
) -> Result<Reply, NoLink> {
    origin.mark(&mut parts.headers);
    let (response, held) = hold::open(gateway, id, access, &parts, record).await?;
    Ok(Reply { response, upgrade: Some(Kind::Held(Box::new(held))) })
}

async fn link(
    gateway: &Arc<Gateway>,
    origin: &Origin,
    access: Arc<Access>,
    id: InstanceId,
    parts: &Parts,
    record: &mut Record,
) -> Result<Reply, NoLink> {
    if !links::is_path(parts.uri.path()) {
        let detail = "Links are at /i/{instance}/links.";
        return Err(Problem::new(ErrorCode::LinkProtocol, detail).into());
    }
    let asked = links::read(parts, &gateway.auth, &access, origin)?;
    let (response, relayed) = links::open(gateway, id, access, &asked, record).await?;
    Ok(Reply { response, upgrade: Some(Kind::Relayed(Box::new(relayed))) })
}

fn check_upgrade(gateway: &Gateway, parts: &Parts, body: &Incoming) -> Result<(), Problem> {
    if gateway.drain.has_begun() {
        return Err(ErrorCode::GatewayDraining.into());
    }
    if parts.method != Method::GET || !body.is_end_stream() {
        return Err(Problem::new(ErrorCode::RequestInvalid, "An upgrade is asked for with GET and without a body."));
    }
    Ok(())
}

/// Whether a protocol is a version of ours; the one that is not spoken is refused by name.
fn is_link(protocol: &str) -> bool {
    let family = PROTOCOL.split_once('/').map_or(PROTOCOL, |(family, _)| family);
    protocol.split_once('/').is_some_and(|(name, _)| name.eq_ignore_ascii_case(family))
}

impl Reply {
    const fn plain(response: Response<Body>) -> Self {
        Self { response, upgrade: None }
    }
}
