//! Plain requests to an instance: streamed both ways, and sent again elsewhere for as long as that is safe.

use std::time::Duration;

use landfast_core::record::Generation;
use landfast_core::route::Route;
use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::clock;
use landfast_net::head::{Headers, RequestHead, ResponseHead};
use landfast_net::http1::{Answered, Framing, answer_framing};
use landfast_net::relay::Target;

use crate::access::Record;
use crate::client::{BodySize, Client, Fault, Upgrade};
use crate::exchange::{Ended, Exchange, Failed, Upload, unless_gone};
use crate::gateway::Worker;
use crate::headers;
use crate::limits::entrance;
use crate::search::Search;
use crate::upstream::{Key, Upstream};

/// A request on its way to an instance.
#[derive(Debug)]
pub(crate) struct Call {
    /// The instance.
    pub(crate) instance: InstanceId,
    /// The place in it.
    pub(crate) target: Target,
    /// The request as the server is to see it.
    pub(crate) head: RequestHead,
    /// How long its body is.
    pub(crate) body: BodySize,
    /// What it asks to switch to.
    pub(crate) upgrade: Option<Upgrade>,
    /// What it says of waiting and waking.
    pub(crate) wishes: Wishes,
}

/// What a request may say of how it is to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes {
    /// How long it waits for its instance to be somewhere.
    pub(crate) wait: Duration,
    /// Whether it wakes an instance that sleeps.
    pub(crate) wakes: bool,
}

/// How a request ended after which nothing more can be said to its client.
#[derive(Debug)]
pub(crate) enum Forwarded {
    /// It was answered as a whole.
    Answered,
    /// Its answer broke off; the client must see that.
    Cut(ErrorCode),
    /// The client left.
    Gone,
    /// The server agreed to switch to the protocol that was asked for; the client was not told.
    Switched(Box<Switched>),
}

/// A server's yes to an upgrade.
#[derive(Debug)]
pub(crate) struct Switched {
    /// Its head, as the client is to see it.
    pub(crate) head: ResponseHead,
    /// The connection, right after it.
    pub(crate) upstream: Upstream,
    /// The generation it leads to.
    pub(crate) generation: Generation,
}

/// Why there is no answer but one of ours.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The client left.
    Gone,
    /// Ours to say.
    Refused(Problem),
}

impl<T: Into<Problem>> From<T> for Unanswered {
    fn from(problem: T) -> Self {
        Self::Refused(problem.into())
    }
}

impl From<Fault> for Unanswered {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Gone => Self::Gone,
            Fault::Broken(problem) => Self::Refused(problem),
        }
    }
}

impl Wishes {
    /// Reads them; `limit` is the longest that anything waits.
    ///
    /// # Errors
    ///
    /// `request.invalid`.
    pub(crate) fn of(headers: &Headers, limit: Duration) -> Result<Self, Problem> {
        let invalid = |detail: &str| Problem::new(ErrorCode::RequestInvalid, detail);
        let wait = match headers.get("landfast-wait") {
            None => limit,
            Some(text) => {
                let seconds = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0);
                let seconds = seconds.ok_or_else(|| invalid("landfast-wait is a number of seconds."))?;
                Duration::try_from_secs_f64(seconds).unwrap_or(limit).min(limit)
            }
        };
        let wakes = match headers.get("landfast-wake") {
            None => true,
            Some("never") => false,
            Some(_) => return Err(invalid("landfast-wake is never, or absent.")),
        };
        Ok(Self { wait, wakes })
    }
}

/// Sends a request to an instance, wherever it is, and passes its answer on.
///
/// Cancel safe in that the client's connection must be dropped.
///
/// # Errors
///
/// Why there is no answer.
pub(crate) async fn forward<C: Client>(
    worker: &Worker,
    client: &mut C,
    call: &Call,
    record: &mut Record,
) -> Result<Forwarded, Unanswered> {
    let Wishes { wait, wakes } = call.wishes;
    // Whatever waits is boxed: a request that waits for nothing carries no room for it.
    let mut search = match Search::known(&worker.gateway, call.instance, wait, wakes) {
        Some(search) => search,
        None => unless_gone(client, Box::pin(Search::new(&worker.gateway, call.instance, wait, wakes))).await??,
    };
    record.ask_instance(search.entry(), entrance(call.upgrade), &worker.gateway)?;
    let mut upload = None;
    loop {
        if let Some(forwarded) = attempt(worker, client, call, &mut search, &mut upload, record).await? {
            return Ok(forwarded);
        }
    }
}

/// Tries once; nothing if it may be tried again.
async fn attempt<C: Client>(
    worker: &Worker,
    client: &mut C,
    call: &Call,
    search: &mut Search<'_>,
    upload: &mut Option<Upload>,
    record: &mut Record,
) -> Result<Option<Forwarded>, Unanswered> {
    let config = &worker.gateway.config;
    let route = match search.route_now() {
        Some(route) => route,
        None => unless_gone(client, Box::pin(search.route())).await??,
    };
    record.generation = Some(route.generation);
    let (is_repeatable, believes) = (is_repeatable(&call.head), believes(&route, call.target));
    let upload = upload.get_or_insert_with(|| Upload::new(call.body, config.body_max, is_repeatable || believes));
    let mut upstream = match connect(worker, client, &route, call.target, !is_repeatable).await? {
        Ok(upstream) => upstream,
        Err(code) => {
            record.attempts += 1;
            unless_gone(client, Box::pin(search.refused(code, &route))).await??;
            return Ok(None);
        }
    };
    let mut exchange = Exchange::new(client, &mut upstream, upload, &call.head, config.patience());
    let failed = match exchange.ask().await {
        Ok(answered) => {
            record.attempts += 1;
            if let Some(code) = signal(&answered.head).filter(|_| believes && exchange.is_repeatable()) {
                drop(exchange);
                tracing::debug!(instance = %call.instance, %code, "the program says that it did not run it");
                // What comes of it is read from the routes.
                let _ = worker.gateway.routes.refused(route.instance, route.generation).await;
                unless_gone(client, Box::pin(search.refused(ErrorCode::NodeNotHere, &route))).await??;
                return Ok(None);
            }
            if answered.head.status == 101 && call.upgrade.is_some() {
                drop(exchange);
                let (head, generation) = (switching(answered.head), route.generation);
                return Ok(Some(Forwarded::Switched(Box::new(Switched { head, upstream, generation }))));
            }
            let (ended, reusable) = pass_on(exchange, answered, &call.head.method, call.target, record).await?;
            if reusable {
                worker.pool.put(upstream);
            }
            return Ok(Some(ended));
        }
        Err(failed) => failed,
    };
    drop(exchange);
    let Failed::Lost(kind) = failed else {
        record.attempts += u32::from(!matches!(failed, Failed::Client(_)));
        return Err(unanswered(failed));
    };
    tracing::debug!(instance = %call.instance, ?kind, "lost after the request was sent");
    let may_repeat = is_repeatable && upload.is_whole();
    // That a kept connection has ended says nothing, and the next one may not be kept.
    if may_repeat && upstream.is_kept() {
        return Ok(None);
    }
    record.attempts += 1;
    if !may_repeat {
        return Err(ErrorCode::UpstreamLost.into());
    }
    unless_gone(client, Box::pin(search.refused(ErrorCode::UpstreamLost, &route))).await??;
    Ok(None)
}

fn unanswered(failed: Failed) -> Unanswered {
    match failed {
        Failed::Client(fault) => fault.into(),
        Failed::Lost(_) | Failed::Protocol(_) | Failed::Timeout => Problem::from(failed).into(),
    }
}

/// A connection for one attempt; with `surely`, one that has ended is not given out.
async fn connect<C: Client>(
    worker: &Worker,
    client: &mut C,
    route: &Route,
    target: Target,
    surely: bool,
) -> Result<Result<Upstream, ErrorCode>, Fault> {
    let key = Key::Instance(route.instance, route.generation, target);
    if let Some(kept) = worker.pool.take(&key, surely) {
        worker.counters.upstream_reused.add(1);
        return Ok(Ok(kept));
    }
    let opened = unless_gone(client, Box::pin(Upstream::open(&worker.gateway, route, target))).await?;
    worker.counters.upstream_opened.add(opened.is_ok().into());
    Ok(opened)
}

/// Passes an answer on: how it ended, and whether its connection can serve another.
pub(crate) async fn pass_on<C: Client>(
    mut exchange: Exchange<'_, C>,
    answered: Answered,
    method: &str,
    target: Target,
    record: &mut Record,
) -> Result<(Forwarded, bool), Unanswered> {
    let Answered { mut head, keep_alive } = answered;
    let framing = match head.status {
        101 => Err("The answer switches to a protocol that nobody asked for."),
        _ => answer_framing(method, &head),
    };
    let framing = framing.map_err(|detail| Problem::new(ErrorCode::UpstreamProtocol, detail))?;
    let size = size(method, &head, framing);
    match target {
        // What our agent says of itself is for the client too, but what is said of the request is said once.
        Target::Agent => {
            headers::remove_hop_by_hop(&mut head.headers);
            Record::unstamp(&mut head.headers);
        }
        Target::Port(_) | Target::Service(_) => headers::remove_hop_by_hop_and_ours(&mut head.headers),
    }
    record.status = Some(head.status);
    record.cause = head.headers.get("landfast-error").and_then(ErrorCode::parse);
    record.stamp(&mut head.headers);
    let began = clock::now();
    record.begins(began);
    exchange.begin(head, size);
    let ended = exchange.answer(framing).await;
    // An answer that came in one piece ended when it began: the clock is read once for it.
    record.ends(if exchange.has_waited() { clock::now() } else { began });
    record.up = exchange.up();
    record.down = exchange.down();
    Ok(match ended {
        Ok(Ended::Whole) => (Forwarded::Answered, keep_alive && framing != Framing::Close && exchange.is_clean()),
        Ok(Ended::Cut(code)) => (Forwarded::Cut(code), false),
        Err(Fault::Gone) => (Forwarded::Gone, false),
        Err(Fault::Broken(problem)) => (Forwarded::Cut(problem.code), false),
    })
}

/// The head of an answer that switches to WebSocket, as the client is to see it.
pub(crate) fn switching(mut head: ResponseHead) -> ResponseHead {
    headers::remove_hop_by_hop_and_ours(&mut head.headers);
    head.headers.push("connection", "Upgrade");
    head.headers.push("upgrade", "websocket");
    head
}

/// Whether a request may be sent again although it may have run (RFC 9110, section 9.2.2, and the draft on
/// `Idempotency-Key`).
fn is_repeatable(head: &RequestHead) -> bool {
    matches!(head.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE")
        || head.headers.contains("idempotency-key")
}

/// Whether a server's own refusals are believed to say that nothing was run.
fn believes(route: &Route, target: Target) -> bool {
    match target {
        Target::Service(name) => route.services.get(name).is_some_and(|service| service.retry_signals),
        Target::Agent | Target::Port(_) => false,
    }
}

/// What a server says of a request that it did not run.
pub(crate) fn signal(head: &ResponseHead) -> Option<ErrorCode> {
    head.headers.get("landfast-error").filter(|_| head.status == 503).and_then(ErrorCode::parse)
}

fn size(method: &str, head: &ResponseHead, framing: Framing) -> BodySize {
    match framing {
        _ if method == "HEAD" || matches!(head.status, 204 | 304) => BodySize::None,
        Framing::Length(length) => BodySize::Exactly(length),
        Framing::Chunked | Framing::Close => BodySize::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, lines: &[(&str, &str)]) -> RequestHead {
        let mut headers = Headers::new();
        lines.iter().for_each(|(name, value)| headers.push(name, value));
        RequestHead { method: method.into(), target: "/".into(), headers }
    }

    #[test]
    fn only_what_is_safe_to_repeat_is_repeated() {
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"] {
            assert!(is_repeatable(&head(method, &[])), "{method}");
        }
        for method in ["POST", "PATCH", "get", "LOCK"] {
            assert!(!is_repeatable(&head(method, &[])), "{method}");
        }
        assert!(is_repeatable(&head("POST", &[("Idempotency-Key", "1")])));
    }

    #[test]
    fn a_request_says_how_long_it_waits_and_whether_it_wakes() {
        let wishes = |lines: &[(&str, &str)]| Wishes::of(&head("GET", lines).headers, Duration::from_secs(30));
        let said = wishes(&[("landfast-wait", "1.5"), ("landfast-wake", "never")]).unwrap();
        assert_eq!((said.wait, said.wakes), (Duration::from_millis(1500), false));
        let said = wishes(&[("landfast-wait", "1e300")]).unwrap();
        assert_eq!((said.wait, said.wakes), (Duration::from_secs(30), true));
        for wrong in [("landfast-wait", "-1"), ("landfast-wait", "soon"), ("landfast-wake", "always")] {
            assert_eq!(wishes(&[wrong]).unwrap_err().code, ErrorCode::RequestInvalid, "{wrong:?}");
        }
    }
}
