//! Links of clients that are the client end themselves: the gateway lets them in, finds the instance, and then only
//! copies bytes.
//!
//! Such a client dials again by itself, so everything that would move a session here just ends the link: the next one
//! finds the new place, or hears the reason why there is none.

use std::sync::Arc;

use landfast_core::record::Generation;
use landfast_core::redial::Presence;
use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::copy::{Copied, Ended, copy_both};
use landfast_net::head::{Headers, RequestHead, ResponseHead};
use landfast_net::link::{OpenRequest, ResumeRequest, resume_answer};
use landfast_net::socket::Socket;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::access::Record;
use crate::auth::{Access, Auth};
use crate::client::{BodySize, Upgrade};
use crate::counted::Counted;
use crate::first::{self, Asked, Granted, NoLink};
use crate::forward::Wishes;
use crate::gateway::Gateway;
use crate::headers::{self, Origin};
use crate::place;
use crate::routes::Entry;

/// A link on its way to its client, or with it.
#[derive(Debug)]
pub(crate) struct Relayed {
    gateway: Arc<Gateway>,
    upstream: Socket,
    generation: Generation,
    /// Held so that it hears all news.
    entry: Arc<Entry>,
    news: watch::Receiver<Presence>,
    access: Arc<Access>,
}

/// Reads what a client asks for at a path of its instance. The request inside an open is checked and cleaned like one from
/// outside.
///
/// # Errors
///
/// What is wrong with it, or what the token does not allow.
pub(crate) fn read(
    headers: &Headers,
    path: &str,
    auth: &Auth,
    access: &Access,
    origin: &Origin,
) -> Result<Asked, Problem> {
    let get = |name: &str| headers.get(name);
    if let Some(session) = session(path) {
        return ResumeRequest::decode(session, get).map(Asked::Resume);
    }
    if path != first::PATH {
        return Err(Problem::new(ErrorCode::LinkProtocol, "Links are at /i/{instance}/links."));
    }
    let mut request = OpenRequest::decode(get)?;
    request.head = inner_head(request.head, auth, access, origin)?;
    Ok(Asked::Open(request))
}

/// Asks the instance for the link; the head is what it said.
///
/// # Errors
///
/// What the client is answered instead, by us or by the far end.
pub(crate) async fn open(
    gateway: &Arc<Gateway>,
    id: InstanceId,
    access: Arc<Access>,
    asked: &Asked,
    wishes: Wishes,
    record: &mut Record,
) -> Result<(ResponseHead, Relayed), NoLink> {
    let link = first::link(gateway, id, asked, wishes, record).await?;
    let head = match link.granted {
        Granted::Opened(answer) => answer.encode(),
        Granted::Resumed(received) => resume_answer(received),
    };
    let relayed = Relayed {
        gateway: Arc::clone(gateway),
        upstream: link.socket,
        generation: link.generation,
        news: link.entry.news(),
        entry: link.entry,
        access,
    };
    Ok((head, relayed))
}

impl Relayed {
    /// Copies until either side ends, or the link must be given up.
    pub(crate) async fn run<S>(mut self: Box<Self>, client: S, mut record: Box<Record>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        record.links = 1;
        record.counters().links.add(1);
        let mut client = Counted::new(client);
        record.cause = tokio::select! {
            biased;
            cause = self.access.ended(self.gateway.config.end_sessions_at_expiry) => Some(cause.close().code),
            // Told at once and not at the deadline: these clients lose nothing, and have elsewhere to go.
            () = self.gateway.drain.begun.cancelled() => Some(ErrorCode::GatewayDraining),
            code = left_behind(&mut self.news, self.generation) => Some(code),
            Copied { ended_by, .. } = copy_both(&mut client, &mut self.upstream) => match ended_by {
                Ended::Clean => None,
                Ended::First(_) => Some(ErrorCode::ClientLost),
                Ended::Second(_) => Some(ErrorCode::UpstreamLost),
            },
        };
        tracing::trace!(instance = %self.entry.id(), cause = ?record.cause, "link ended");
        (record.up, record.down) = client.counts();
    }
}

/// Waits until the instance has ended, or lives on elsewhere.
async fn left_behind(news: &mut watch::Receiver<Presence>, generation: Generation) -> ErrorCode {
    let gone = |presence: &Presence| match *presence {
        Presence::Ended(_) => true,
        Presence::Here(newest) => newest > generation,
        Presence::Between(_) | Presence::Unknown => false,
    };
    let seen = news.wait_for(gone).await.map(|presence| *presence);
    match seen {
        Ok(Presence::Ended(code)) => code,
        Ok(_) => ErrorCode::NodeStaleGeneration,
        // The entry that is held keeps the sender.
        Err(_) => std::future::pending().await,
    }
}

/// The session in the path of a resume.
fn session(path: &str) -> Option<&str> {
    path.strip_prefix(first::PATH)?.strip_prefix('/').filter(|session| !session.contains('/'))
}

/// The request inside an open, as the agent is to see it.
fn inner_head(mut head: RequestHead, auth: &Auth, access: &Access, origin: &Origin) -> Result<RequestHead, Problem> {
    auth.remove(&mut head.headers, &mut head.target);
    let (target, path) = place::inner(&head.target)?;
    access.check(target, path)?;
    let upgrade = headers::upgrade(&head.headers);
    origin.mark(&mut head.headers, BodySize::None);
    if upgrade == Some(Upgrade::WebSocket) {
        head.headers.push("Connection", "Upgrade");
        head.headers.push("Upgrade", "websocket");
    }
    Ok(head)
}
