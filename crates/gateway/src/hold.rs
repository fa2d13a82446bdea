//! WebSockets of ordinary clients: the gateway is the client end of their sessions, and holds their sockets while links
//! come and go.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use landfast_core::ErrorCode;
use landfast_core::link::Close;
use landfast_core::reason::Cause;
use landfast_core::record::Generation;
use landfast_core::redial::Presence;
use landfast_core::time::Instant;
use landfast_net::carry::Local;
use landfast_net::clock;
use landfast_net::head::ResponseHead;
use landfast_net::hold::{Attempt, Dialer, Ending, Holder, Resumed};
use landfast_net::link::{self, LinkError, OpenRequest, ResumeRequest};
use landfast_net::relay::Target;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::access::Record;
use crate::auth::Access;
use crate::first::{self, Asked, Granted, NoLink};
use crate::forward::{Call, switching};
use crate::gateway::Gateway;
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

/// Opens a session for a client's upgrade request; the head is the far end's own.
///
/// # Errors
///
/// What the client is answered instead, by us or by the far end.
pub(crate) async fn open(
    gateway: &Arc<Gateway>,
    access: Arc<Access>,
    call: Call,
    record: &mut Record,
) -> Result<(ResponseHead, Held), NoLink> {
    let Call { instance, target, mut head, wishes, .. } = call;
    if target != Target::Agent {
        head.target = format!("/services/{target}{}", head.target);
    }
    let asked = Asked::Open(OpenRequest::new(head));
    let link = first::link(gateway, instance, &asked, wishes, record).await?;
    let Granted::Opened(answer) = link.granted else { return Err(ErrorCode::Internal.into()) };
    let holder = Holder::new(link.socket, &answer, link.generation);
    let news = link.entry.news();
    let redialer = Redialer::new(Arc::clone(gateway), link.entry);
    Ok((switching(answer.head), Held { gateway: Arc::clone(gateway), holder, redialer, news, access }))
}

impl Held {
    /// Holds the session until it ends, and tells both its ends why.
    pub(crate) async fn run<S>(mut self: Box<Self>, client: S, mut record: Box<Record>)
    where
        S: Local + Send + 'static,
    {
        let mut tap = Box::new(Tap::new(client, self.gateway.config.slow_client_timeout()));
        let cause = self.wait(&mut tap).await;
        let account = self.holder.account();
        (record.links, record.generation) = (account.links, Some(account.generation));
        (record.up, record.down) = tap.bytes();
        record.cause = Some(cause.close().code);
        self.end(tap, &cause).await;
    }

    /// Ends a session whose client left before its 101.
    pub(crate) async fn abandon(self: Box<Self>) {
        self.leave(Close::new(ErrorCode::ClientLost, "")).await;
    }

    /// Tells both ends; a program that ended its own connection speaks for itself. The far end is answered even if it was the one to end: until then it keeps the session for another
    /// link.
    fn end<S>(self: Box<Self>, tap: Box<Tap<S>>, cause: &Cause) -> BoxFuture<'static, ()>
    where
        S: Local + Send + 'static,
    {
        let close = cause.close();
        match cause {
            Cause::ClientClosed | Cause::ClientLost => self.leave(close),
            Cause::FarEnd(Close { code: ErrorCode::UpstreamEnded, .. }) => Box::pin(async move {
                let ((), goodbye) = tokio::join!(self.leave(close), tap.pass_end());
                tracing::debug!(?goodbye, "session ended by its program");
            }),
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

    async fn wait<S: Local>(&mut self, tap: &mut Tap<S>) -> Cause {
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
pub(crate) struct Redialer {
    gateway: Arc<Gateway>,
    entry: Arc<Entry>,
    /// Since when the session has no link.
    paused: Option<Instant>,
}

impl Redialer {
    /// Dials to where the instance is, as `entry` hears of it. The session's first link stands.
    pub(crate) fn new(gateway: Arc<Gateway>, entry: Arc<Entry>) -> Self {
        gateway.counters.links.add(1);
        Self { gateway, entry, paused: None }
    }
}

impl Dialer for Redialer {
    fn resume(&mut self, request: ResumeRequest) -> Attempt {
        let (gateway, entry) = (Arc::clone(&self.gateway), Arc::clone(&self.entry));
        Box::pin(async move { resume(&gateway, &entry, &request).await })
    }

    fn on_redial(&mut self, _attempt: usize, _last: Option<ErrorCode>) {
        self.paused.get_or_insert_with(clock::now);
    }

    fn on_linked(&mut self, _generation: Generation) {
        self.gateway.counters.links.add(1);
        if let Some(since) = self.paused.take() {
            self.gateway.counters.pauses.add(clock::now().since(since));
        }
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
