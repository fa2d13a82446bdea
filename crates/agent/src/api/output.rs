//! `GET /processes/{id}/output`: a process's log over plain HTTP, as bytes or as server-sent events.
//!
//! Bytes carry no place for a gap, so an answer that was overrun by the log is cut where every client sees it; the first
//! byte's offset stands in `landfast-offset`. Events carry offsets and gaps, and go on from `Last-Event-ID`.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use landfast_core::{ErrorCode, Problem};

use super::answer::{Body, Refused};
use crate::attach::From;
use crate::exit::Exit;
use crate::log::{Piece, Stream};
use crate::process::{Life, Process, Viewer};
use crate::upgrade::read_from;

/// The most bytes of output in one event: base64 adds a third, and readers of events keep whole ones.
pub(super) const EVENT_MAX: usize = 16 * 1024;

/// Reads a log from an offset to its end, or on.
pub(super) struct Reader {
    viewer: Viewer,
    at: u64,
    /// Where to end; `None` ends with the process.
    until: Option<u64>,
    is_over: bool,
}

/// How an answer carries output.
#[derive(Clone, Copy)]
enum Form {
    Bytes,
    Events,
}

/// The next thing in the log.
pub(super) enum Next {
    Data { stream: Stream, offset: u64, bytes: Bytes },
    Gap { from: u64, to: u64 },
    End(Option<Exit>),
}

/// `GET /processes/{id}/output?from=&follow=`.
pub(super) fn get(process: Arc<Process>, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let accepts = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let wants_events = accepts.split(',').any(|kind| kind.trim().starts_with("text/event-stream"));
    let last = request.headers().get("last-event-id").and_then(|value| value.to_str().ok());
    let (mut from, follows) = read_query(request.uri().query().unwrap_or(""))?;
    if let Some(last) = last.filter(|_| wants_events) {
        from = read_from(last)?;
    }
    let mut reader = Reader::new(process, from, follows)?;
    let builder = Response::builder().header(header::CACHE_CONTROL, "no-store");
    let (builder, body) = if wants_events {
        (builder.header(header::CONTENT_TYPE, "text/event-stream"), streamed(reader, Form::Events))
    } else {
        reader.skip_gap();
        let builder = builder.header("landfast-offset", reader.at);
        (builder.header(header::CONTENT_TYPE, "application/octet-stream"), streamed(reader, Form::Bytes))
    };
    Ok(builder.body(body).expect("the headers are well formed"))
}

impl Reader {
    /// Begins there; one that follows goes on until the process has ended.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RequestInvalid`] for a place that is not in the log.
    pub(super) fn new(process: Arc<Process>, from: From, follows: bool) -> Result<Self, Problem> {
        let end = process.state().log.end();
        let invalid = |detail: String| Err(Problem::new(ErrorCode::RequestInvalid, detail));
        let at = match from {
            From::Start => 0,
            From::Now => end,
            From::Offset(at) if at <= end => at,
            From::Offset(at) => return invalid(format!("from is {at}, and the log ends at {end}.")),
            From::Screen => return invalid("from is screen; only an attachment can be drawn one.".to_owned()),
        };
        let viewer = if follows { Viewer::attach(process) } else { Viewer::watch(process) };
        Ok(Self { viewer, at, until: (!follows).then_some(end), is_over: false })
    }

    /// Begins after what was let go.
    fn skip_gap(&mut self) {
        self.at = self.at.max(self.viewer.process().state().log.start());
    }

    /// The offset that comes next.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// What comes next, at most so many bytes of it.
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self, most: usize) -> Next {
        let (at, until) = (self.at, self.until);
        let next = self.viewer.until(|state| match state.log.read(at) {
            Piece::Data(stream, bytes) if until.is_none_or(|until| at < until) => {
                let left = until.map_or(u64::MAX, |until| until - at);
                let n = bytes.len().min(most).min(usize::try_from(left).unwrap_or(usize::MAX));
                Some(Next::Data { stream, offset: at, bytes: Bytes::copy_from_slice(&bytes[..n]) })
            }
            Piece::Gap { to } if until.is_none_or(|until| at < until) => Some(Next::Gap { from: at, to }),
            Piece::Data(..) | Piece::Gap { .. } | Piece::End => match state.life {
                Life::Running if until.is_none() => None,
                life => Some(Next::End(life.exit())),
            },
        });
        let next = next.await;
        match &next {
            Next::Data { bytes, .. } => self.at += bytes.len() as u64,
            Next::Gap { to, .. } => self.at = *to,
            Next::End(_) => self.is_over = true,
        }
        next
    }

    async fn bytes(&mut self) -> io::Result<Option<Bytes>> {
        match self.next(usize::MAX).await {
            Next::Data { bytes, .. } => Ok(Some(bytes)),
            Next::Gap { from, to } => Err(io::Error::other(format!("the bytes from {from} to {to} were let go"))),
            Next::End(_) => Ok(None),
        }
    }

    async fn event(&mut self) -> io::Result<Option<Bytes>> {
        let text = match self.next(EVENT_MAX).await {
            Next::Data { stream, offset, bytes } => format!(
                "id: {}\ndata: {{\"offset\":{offset},\"stream\":\"{}\",\"data\":\"{}\"}}\n\n",
                self.at,
                stream.as_str(),
                STANDARD.encode(&bytes)
            ),
            Next::Gap { from, to } => {
                format!("event: gap\nid: {to}\ndata: {{\"from\":{from},\"to\":{to}}}\n\n")
            }
            Next::End(Some(exit)) => {
                let exit = serde_json::to_string(&exit).expect("an exit is JSON");
                format!("event: exit\nid: {}\ndata: {exit}\n\n", self.at)
            }
            Next::End(None) => return Ok(None),
        };
        Ok(Some(text.into()))
    }
}

/// A body that asks the reader for each next piece.
fn streamed(reader: Reader, form: Form) -> Body {
    let pieces = stream::unfold(Some(reader), move |reader| async move {
        let mut reader = reader.filter(|reader| !reader.is_over)?;
        let piece = match form {
            Form::Bytes => reader.bytes().await,
            Form::Events => reader.event().await,
        };
        match piece {
            Ok(piece) => piece.map(|bytes| (Ok(Frame::data(bytes)), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn read_query(query: &str) -> Result<(From, bool), Problem> {
    let (mut from, mut follows) = (From::Start, false);
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("from", value)) => from = read_from(value)?,
            Some(("follow", "true")) => follows = true,
            Some(("follow", "false")) => follows = false,
            Some(("follow", other)) => {
                let detail = format!("follow is {other:?}; say true or false.");
                return Err(Problem::new(ErrorCode::RequestInvalid, detail));
            }
            Some(_) | None => {}
        }
    }
    Ok((from, follows))
}
