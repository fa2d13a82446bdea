//! `/telemetry`: the instance's events as they happen, events of the caller's own, and what the browser is watched for.
//!
//! A stream is made of frames that have an `id:`, and of comments. Readers exist that take every frame for an event, so
//! there is none with only an `event:` or a `retry:`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use landfast_core::event::{Cursor, Event, Filter, Item, Reader, Source, Telemetry};
use landfast_core::{ErrorCode, Problem};
use landfast_net::clock;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::answer::{Body, Refused, json, read_json};
use crate::Agent;
use crate::events::Events;

/// How long a stream is silent at most: readers take a minute of silence for the end.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Bytes of events that are written in one piece: what a connection takes in at once.
const PIECE: usize = 64 * 1024;

/// The most bytes of what a caller says about an event beside its data: labels, not contents.
const METADATA_MAX: usize = 8 * 1024;

/// The longest type, kind and name of a caller's event.
const NAME_MAX: usize = 128;

/// A reader's stream.
struct Stream {
    events: Arc<Events>,
    reader: Reader,
    next: watch::Receiver<u64>,
    silent_since: Instant,
    tell: Tell,
}

/// How an item is written as a server-sent event.
pub(super) type Tell = fn(&Item, &mut String);

/// What a stream is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wish {
    filter: Filter,
    replays: bool,
}

/// `GET /telemetry/stream`.
pub(super) fn stream(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    open(&agent.events, request)
}

/// The same of events that have no agent.
pub(crate) fn stream_events(events: &Arc<Events>, request: &Request<Incoming>) -> Response<Body> {
    open(events, request).unwrap_or_else(Refused::into_response)
}

fn open(events: &Arc<Events>, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let wish = Wish::read(request.uri().query().unwrap_or(""))?;
    let last = request.headers().get("last-event-id").map(|id| read_cursor(id.as_bytes())).transpose()?;
    follow(events, wish, last, Item::write_frame)
}

/// The same in other words, for readers that know a number only: one of an earlier start, which may be higher than any so
/// far, means to them that everything is new.
pub(super) fn stream_in_other_words(
    agent: &Agent,
    request: &Request<Incoming>,
    tell: Tell,
) -> Result<Response<Body>, Refused> {
    let mut wish = Wish::read(request.uri().query().unwrap_or(""))?;
    let last = request.headers().get("last-event-id").and_then(|id| read_cursor(id.as_bytes()).ok());
    let is_known = last.is_none_or(|last| agent.events.ring().after(last).is_ok());
    wish.replays |= !is_known;
    follow(&agent.events, wish, last.filter(|_| is_known), tell)
}

fn follow(events: &Arc<Events>, wish: Wish, last: Option<Cursor>, tell: Tell) -> Result<Response<Body>, Refused> {
    let events = events.clone();
    // Before the reader: what is said in between is not missed.
    let next = events.watch();
    let reader = wish.reader(&events, last)?;
    let body = streamed(Stream { events, reader, next, silent_since: Instant::now(), tell });
    let builder = Response::builder().header(header::CACHE_CONTROL, "no-store");
    let response = builder.header(header::CONTENT_TYPE, "text/event-stream").body(body);
    Ok(response.expect("the headers are well formed"))
}

impl Wish {
    fn read(query: &str) -> Result<Self, Problem> {
        let mut wish = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                ("type" | "type[]", kinds) => wish.filter.kinds.extend(read_kinds(kinds)?),
                ("replay", "all") => wish.replays = true,
                ("replay", other) => return Err(invalid(format!("replay is {other:.50?}; say all, or leave it out."))),
                _ => {}
            }
        }
        Ok(wish)
    }

    fn reader(self, events: &Events, last: Option<Cursor>) -> Result<Reader, Problem> {
        let ring = events.ring();
        match last {
            Some(cursor) => Reader::after(&ring, cursor, self.filter).map_err(|error| {
                invalid(format!("Last-Event-ID: {error}; leave it out to begin now, or say replay=all."))
            }),
            None if self.replays => Ok(Reader::from_oldest(&ring, self.filter)),
            None => Ok(Reader::from_now(&ring, self.filter)),
        }
    }
}

impl Stream {
    /// The next bytes, within [`KEEPALIVE`].
    async fn next(&mut self) -> Bytes {
        let silent_until = self.silent_since + KEEPALIVE;
        loop {
            self.next.borrow_and_update();
            let mut items = self.reader.take(&self.events.ring(), PIECE);
            let is_late = Instant::now() >= silent_until;
            if items.is_empty() && is_late {
                items.extend(self.reader.skipped(&self.events.ring()));
            }
            if !items.is_empty() {
                let mut frames = String::new();
                items.iter().for_each(|item| (self.tell)(item, &mut frames));
                return frames.into();
            }
            if is_late {
                return Bytes::from_static(b":\n\n");
            }
            tokio::select! {
                Ok(()) = self.next.changed() => {}
                () = sleep_until(silent_until) => {}
            }
        }
    }
}

/// A body that asks for the next piece once its reader has taken the last: one that stalls holds nothing.
fn streamed(stream: Stream) -> Body {
    let pieces = stream::unfold(stream, async |mut stream| {
        let piece = stream.next().await;
        stream.silent_since = Instant::now();
        Some((Ok(Frame::data(piece)), stream))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// Reads names that stand between commas.
///
/// # Errors
///
/// [`ErrorCode::RequestInvalid`].
pub(super) fn read_kinds(kinds: &str) -> Result<Vec<String>, Problem> {
    kinds.split(',').map(|kind| check_kind(kind.trim()).map(ToOwned::to_owned)).collect()
}

fn read_cursor(text: &[u8]) -> Result<Cursor, Problem> {
    let text = String::from_utf8_lossy(text);
    text.trim().parse().map_err(|error| invalid(format!("Last-Event-ID is {text:.50?}; {error}.")))
}

/// `POST /telemetry/events`: says an event, and answers with its envelope.
pub(super) async fn inject(agent: &Agent, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let event = read_json::<Said>(request).await?.into_event()?;
    let json = agent.events.emit(&event).json().to_owned();
    let mut response = Response::new(super::answer::whole(json));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// An event as a caller says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    r#type: String,
    ts: Option<u64>,
    #[serde(default)]
    source: SaidBy,
    data: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SaidBy {
    kind: String,
    event: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl Default for SaidBy {
    fn default() -> Self {
        Self { kind: "caller".to_owned(), event: None, metadata: BTreeMap::new() }
    }
}

impl Said {
    fn into_event(self) -> Result<Event, Problem> {
        let SaidBy { kind, event, metadata } = self.source;
        check_kind(&self.r#type)?;
        if kind == "agent" {
            return Err(invalid("source.kind is agent; only the agent itself is one.".to_owned()));
        }
        let is_long = |text: &str| text.is_empty() || text.len() > NAME_MAX;
        if is_long(&kind) || event.as_deref().is_some_and(is_long) {
            return Err(invalid(format!("source.kind and source.event have 1 to {NAME_MAX} bytes.")));
        }
        if metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > METADATA_MAX {
            return Err(invalid(format!("source.metadata has at most {METADATA_MAX} bytes; say more in data.")));
        }
        let source = Source { kind: Cow::Owned(kind), event, metadata };
        let event = Event::new(self.r#type, self.ts.unwrap_or_else(clock::unix_micros)).with_source(source);
        Ok(Event { data: self.data, ..event })
    }
}

/// Types stand between commas in queries, and a gap is no event.
fn check_kind(kind: &str) -> Result<&str, Problem> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if kind.is_empty() || kind.len() > NAME_MAX || !kind.bytes().all(is_plain) || kind == "gap" {
        let detail = format!("An event's type has 1 to {NAME_MAX} letters, digits, _, - and ., and is not gap.");
        return Err(invalid(detail));
    }
    Ok(kind)
}

/// `GET /telemetry`.
pub(super) fn config(agent: &Agent) -> Response<Body> {
    json(StatusCode::OK, &*agent.events.telemetry().borrow())
}

/// `PUT /telemetry`: exactly this. `PATCH /telemetry`: only what is named changes.
pub(super) async fn configure(
    agent: &Agent,
    merges: bool,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        console: Option<bool>,
        network: Option<bool>,
        page: Option<bool>,
    }
    let wanted: Wanted = read_json(request).await?;
    let before = if merges { *agent.events.telemetry().borrow() } else { Telemetry::default() };
    let telemetry = Telemetry {
        console: wanted.console.unwrap_or(before.console),
        network: wanted.network.unwrap_or(before.network),
        page: wanted.page.unwrap_or(before.page),
    };
    agent.events.configure(telemetry).map_err(|error| {
        tracing::error!(%error, "what the browser is watched for was not written down");
        ErrorCode::Internal
    })?;
    Ok(json(StatusCode::OK, &telemetry))
}

fn invalid(detail: String) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader_of(events: &Arc<Events>, kinds: &str) -> Stream {
        let wish = Wish::read(&format!("type={kinds}")).unwrap();
        let reader = wish.reader(events, None).unwrap();
        Stream {
            events: events.clone(),
            reader,
            next: events.watch(),
            silent_since: Instant::now(),
            tell: Item::write_frame,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_never_silent_for_longer_than_fifteen_seconds() {
        let dir = tempfile::tempdir().unwrap();
        let events = Events::open(dir.path()).unwrap();
        let mut stream = reader_of(&events, "wanted");
        let before = Instant::now();
        assert!(stream.next().await.starts_with(b"id: "), "where it begins");
        assert_eq!(&stream.next().await[..], b":\n\n");
        assert_eq!(before.elapsed(), KEEPALIVE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_wants_nothing_of_what_happens_learns_how_far_it_is_instead() {
        let dir = tempfile::tempdir().unwrap();
        let events = Events::open(dir.path()).unwrap();
        let mut stream = reader_of(&events, "wanted");
        stream.next().await;
        events.say("other", Value::Null);
        let before = Instant::now();
        let piece = stream.next().await;
        let id = events.ring().id(1);
        assert_eq!((before.elapsed(), std::str::from_utf8(&piece).unwrap()), (KEEPALIVE, &*format!("id: {id}\n\n")));
    }
}
