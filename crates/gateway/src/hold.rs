//! WebSockets of ordinary clients: the gateway is the client end of their sessions, and holds their sockets while links
//! come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Response, StatusCode};
use landfast_core::link::Close;
use landfast_core::reason::Cause;
use landfast_core::record::Generation;
use landfast_core::redial::Presence;
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::head::{RequestHead, ResponseHead};
use landfast_net::hold::{Attempt, Dialer, Ending, Holder, Resumed};
use landfast_net::link::{self, LinkError, OpenRequest, ResumeRequest};
use landfast_net::relay::Target;
use landfast_net::socket::Socket;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::access::Record;
use crate::answer;
use crate::auth::Access;
use crate::body::Body;
use crate::first::{self, Asked, Granted, NoLink};
use crate::gateway::Gateway;
use crate::headers;
use crate::routes::Entry;
use crate::tap::Tap;

/// How long an agent may take to answer a resume: it has only to look a session up.
const RESUME_WITHIN: Duration = Duration::from_secs(5);

/// A session whose client is about to get its 101, or has it.
#[derive(Debug)]
pub(crate) struct Held {
    gateway: Arc<Gateway>,
    holder: Holder,
    redialer: Redialer,
    news: watch::Receiver<Presence>,
    access: Arc<Access>,
}

/// Opens a session for a client's upgrade request, and answers it with the far end's own head. `parts` is the request
/// that the far end is to see.
///
/// # Errors
///
/// What the client is answered instead, by us or by the far end.
pub(crate) async fn open(
    gateway: &Arc<Gateway>,
    id: InstanceId,
    access: Arc<Access>,
    parts: &Parts,
    record: &mut Record,
) -> Result<(Response<Body>, Held), NoLink> {
    let asked = Asked::Open(OpenRequest::new(request_head(parts)));
    let link = first::link(gateway, id, &asked, record).await?;
    let Granted::Opened(answer) = link.granted else { return Err(ErrorCode::Internal.into()) };
    let response = response(&answer.head);
    let holder = Holder::new(link.socket, &answer, link.generation);
    let news = link.entry.news();
    let redialer = Redialer { gateway: Arc::clone(gateway), entry: link.entry };
    Ok((response, Held { gateway: Arc::clone(gateway), holder, redialer, news, access }))
}

impl Held {
    /// Holds the session until it ends, and tells both its ends why. Without a client its 101 never went out.
    pub(crate) async fn run(mut self: Box<Self>, client: Option<Socket>, mut record: Box<Record>) {
        let Some(client) = client else {
            record.cause = Some(ErrorCode::ClientLost);
            return self.leave(Close::new(ErrorCode::ClientLost, "")).await;
        };
        let mut tap = Box::new(Tap::new(client, self.gateway.config.slow_client_timeout()));
        let cause = self.wait(&mut tap).await;
        let account = self.holder.account();
        (record.links, record.generation) = (account.links, Some(account.generation));
        let (up, down) = tap.bytes();
        record.up.store(up, Ordering::Relaxed);
        record.down = down;
        record.cause = Some(cause.close().code);
        self.end(tap, &cause).await;
    }

    /// Tells both ends. The far end is answered even if it was the one to end: until then it keeps the session for another
    /// link.
    fn end(self: Box<Self>, tap: Box<Tap<Socket>>, cause: &Cause) -> BoxFuture<'static, ()> {
        let close = cause.close();
        match cause {
            Cause::ClientClosed | Cause::ClientLost => self.leave(close),
            Cause::FarEnd(_)
            | Cause::Instance(..)
            | Cause::TokenRevoked
            | Cause::TokenExpired
            | Cause::SlowClient
            | Cause::GatewayDraining
            | Cause::Redial(_) => Box::pin(async move {
                let ((), goodbye) = tokio::join!(self.leave(close.clone()), tap.end(close.code, &close.reason));
                tracing::debug!(code = close.code.as_str(), ?goodbye, "session ended");
            }),
        }
    }

    fn leave(self: Box<Self>, close: Close) -> BoxFuture<'static, ()> {
        Box::pin(self.holder.leave(close))
    }

    async fn wait(&mut self, tap: &mut Tap<Socket>) -> Cause {
        let expiry_counts = self.gateway.config.end_sessions_at_expiry;
        tokio::select! {
            biased;
            cause = self.access.ended(expiry_counts) => cause,
            () = self.gateway.drain.over.cancelled() => Cause::GatewayDraining,
            ending = self.holder.run(tap, &mut self.redialer, &mut self.news) => match ending {
                Ending::Far(close) => Cause::FarEnd(close),
                Ending::Refused(code) => Cause::Redial(code),
                Ending::Local(_) => tap.cause(),
            },
        }
    }
}

/// Dials further links of one session.
#[derive(Debug)]
struct Redialer {
    gateway: Arc<Gateway>,
    entry: Arc<Entry>,
}

impl Dialer for Redialer {
    fn resume(&mut self, request: ResumeRequest) -> Attempt {
        let (gateway, entry) = (Arc::clone(&self.gateway), Arc::clone(&self.entry));
        Box::pin(async move { resume(&gateway, &entry, &request).await })
    }
}

async fn resume(gateway: &Gateway, entry: &Entry, request: &ResumeRequest) -> Result<Resumed, ErrorCode> {
    let route = first::route_now(entry).await?;
    let generation: Generation = route.generation;
    let socket = gateway.dial(&route, Target::Agent).await?;
    let resumed = timeout(RESUME_WITHIN, link::resume(socket, first::PATH, request, &[])).await;
    let resumed = resumed.map_err(|_| ErrorCode::NodeUnreachable)?;
    let (socket, received) = resumed.map_err(|error: LinkError| error.code())?;
    Ok(Resumed { socket, received, generation })
}

/// The request as the far end is to see it: an upgrade to WebSocket, which is what was asked of us.
fn request_head(parts: &Parts) -> RequestHead {
    let mut headers = headers::to_head(&parts.headers);
    headers.push("Connection", "Upgrade");
    headers.push("Upgrade", "websocket");
    RequestHead { method: parts.method.as_str().to_owned(), target: parts.uri.to_string(), headers }
}

/// The far end's 101 as ours.
fn response(head: &ResponseHead) -> Response<Body> {
    let mut response = answer::empty(StatusCode::SWITCHING_PROTOCOLS);
    *response.headers_mut() = headers::from_head(&head.headers);
    headers::remove_hop_by_hop(response.headers_mut());
    headers::remove_ours(response.headers_mut());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response
}
