//! `/files`: the instance's files over plain HTTP.
//!
//! What is named stands in the query, as bytes that are percent-encoded: a path in the path would meet every proxy that
//! tidies slashes and dots. Contents and trees are streams in both directions, and never whole in memory.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use landfast_core::{ErrorCode, Problem};
use landfast_files::{Commit, Content, Draft, Info, Landing, Links, Packer, Range, Unpacker};
use serde::Serialize;

use super::answer::{Body, Refused, drain, empty, json};
use crate::Agent;
use crate::activity::Busy;
use crate::files::{Files, Gathered};
use crate::watch::{Change, Watch};

/// Entries of a directory in one answer, if nobody says; and the most.
const PAGE: usize = 1_000;
const PAGE_MAX: usize = 10_000;

/// How long a watch is silent at most: readers take a minute of silence for the end.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Files in a page.
#[derive(Debug, Serialize)]
struct Listed {
    items: Vec<Info>,
    next_cursor: Option<String>,
}

/// What is named in a query.
#[derive(Debug, Default)]
struct Query(Vec<(String, String)>);

/// `/files/{verb}`.
pub(super) async fn route(agent: &Agent, verb: &str, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let query = Query::read(request.uri().query().unwrap_or(""));
    let files = &agent.files;
    match (verb, request.method()) {
        ("content", &Method::GET | &Method::HEAD) => read(agent, &query, &request).await,
        ("content", &Method::PUT) => write(agent, &query, request).await,
        ("content", &Method::DELETE) => remove(files, &query, landfast_files::remove_file).await,
        ("content", _) => Err(Refused::method("GET, HEAD, PUT, DELETE")),
        ("stat", &Method::GET) => stat(files, &query).await,
        ("list", &Method::GET) => list(files, &query).await,
        ("stat" | "list", _) => Err(Refused::method("GET")),
        ("directory", &Method::PUT) => make_directory(files, &query).await,
        ("directory", &Method::DELETE) => remove(files, &query, landfast_files::remove_directory).await,
        ("directory", _) => Err(Refused::method("PUT, DELETE")),
        ("mode", &Method::PUT) => set_mode(files, &query).await,
        ("mode", _) => Err(Refused::method("PUT")),
        ("move", &Method::POST) => move_to(files, &query).await,
        ("move", _) => Err(Refused::method("POST")),
        ("tree", &Method::GET) => pack(agent, &query).await,
        ("tree", &Method::PUT) => unpack(agent, &query, request).await,
        ("tree", &Method::DELETE) => remove(files, &query, landfast_files::remove_tree).await,
        ("tree", _) => Err(Refused::method("GET, PUT, DELETE")),
        ("watch", &Method::GET) => watch(files, &query).await,
        ("watch", _) => Err(Refused::method("GET")),
        _ => Err(ErrorCode::RequestNotFound.into()),
    }
}

impl Query {
    fn read(query: &str) -> Self {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    fn path(&self, name: &str, files: &Files) -> Result<PathBuf, Problem> {
        let value = self.find(name).ok_or_else(|| invalid(format!("The query lacks {name}.")))?;
        files.path(&landfast_files::decode(value))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.find(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(invalid(format!("{name} is {other:.50?}; say true or false."))),
        }
    }

    fn mode(&self) -> Result<Option<u32>, Problem> {
        let Some(text) = self.find("mode") else { return Ok(None) };
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Some(mode)),
            Ok(_) | Err(_) => Err(invalid(format!("mode is {text:.50?}; say it as chmod takes it, such as 644."))),
        }
    }

    fn limit(&self) -> Result<usize, Problem> {
        let Some(text) = self.find("limit") else { return Ok(PAGE) };
        let limit = text.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
        limit.ok_or_else(|| invalid(format!("limit is {text:.50?}; say 1 to {PAGE_MAX}.")))
    }

    fn cursor(&self) -> Result<Option<std::ffi::OsString>, Problem> {
        use std::os::unix::ffi::OsStringExt as _;
        let Some(text) = self.find("cursor") else { return Ok(None) };
        let name = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid("cursor is not one of ours.".to_owned()))?;
        Ok(Some(std::ffi::OsString::from_vec(name)))
    }
}

/// `GET /files/content`.
async fn read(agent: &Agent, query: &Query, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let path = query.path("path", &agent.files)?;
    let content = agent.files.run(move || Content::open(&path)).await?;
    let (etag, size) = (content.etag(), content.left());
    let mut response = empty(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // A file is what its bytes are, and no page of the origin that it is read from.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::ETAG, value(&etag));
    if wants(request.headers(), header::IF_NONE_MATCH, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let range = wanted_range(request.headers(), &etag, size.unwrap_or(0));
    let content = match range {
        Range::Outside => return Ok(outside(size.unwrap_or(0))),
        Range::Whole => content,
        Range::Part(first, last) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let part = format!("bytes {first}-{last}/{}", size.unwrap_or(0));
            headers_of(&mut response).insert(header::CONTENT_RANGE, value(&part));
            agent.files.step(content, move |content| content.select(first, last)).await?.0
        }
    };
    if let Some(len) = content.left() {
        headers_of(&mut response).insert(header::CONTENT_LENGTH, len.into());
    }
    if request.method() != Method::HEAD {
        *response.body_mut() = streamed(agent, content, Content::piece);
    }
    Ok(response)
}

fn headers_of(response: &mut Response<Body>) -> &mut HeaderMap {
    response.headers_mut()
}

/// The part that is asked for, if the asker's copy is still of this content.
fn wanted_range(headers: &HeaderMap, etag: &str, size: u64) -> Range {
    let is_same = headers.get(header::IF_RANGE).is_none_or(|of| of.as_bytes() == etag.as_bytes() && is_strong(etag));
    match headers.get(header::RANGE).and_then(|range| range.to_str().ok()).filter(|_| is_same) {
        Some(range) => Range::read(range, size),
        None => Range::Whole,
    }
}

/// Whether an etag names one version only (RFC 9110, section 8.8.1).
fn is_strong(etag: &str) -> bool {
    !etag.starts_with("W/")
}

fn outside(size: u64) -> Response<Body> {
    let problem = Problem::new(ErrorCode::FileRange, format!("The file has {size} bytes."));
    let mut response = Refused::from(problem).into_response();
    response.headers_mut().insert(header::CONTENT_RANGE, value(&format!("bytes */{size}")));
    response
}

/// Whether a header with etags names this one, which is this version's alone, or any.
fn wants(headers: &HeaderMap, name: header::HeaderName, etag: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || (tag == etag && is_strong(etag)))
}

/// `PUT /files/content`: the body becomes the file, whole or not at all.
async fn write(agent: &Agent, query: &Query, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let files = &agent.files;
    let (path, mode, parents) = (query.path("path", files)?, query.mode()?, query.flag("parents", false)?);
    let text = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let is_new = match text(header::IF_NONE_MATCH) {
        None => false,
        Some("*") => true,
        Some(_) => return Err(invalid("If-None-Match of what is written is *, or is left out.".to_owned()).into()),
    };
    let replaces = text(header::IF_MATCH).map(ToOwned::to_owned);
    let commit = Commit { mode, modified: None, is_new, replaces };
    let mut body = request.into_body();
    let place = path.clone();
    let written = async {
        let draft = files.run(move || Draft::at(&place, parents)).await?;
        let draft = receive(files, &mut body, draft, Draft::write).await?;
        files
            .run(move || {
                let is_new = draft.commit(&commit)?;
                Ok((is_new, landfast_files::stat(&path, true)?))
            })
            .await
    };
    match written.await {
        Ok((is_new, info)) => Ok(json(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &info)),
        Err(problem) => {
            agent.until_stopped(drain(body));
            Err(problem.into())
        }
    }
}

/// Takes a body piece by piece into what is made of it.
pub(super) async fn receive<S: Send + 'static>(
    files: &Files,
    body: &mut Incoming,
    mut sink: S,
    push: fn(&mut S, &[u8]) -> Result<(), Problem>,
) -> Result<S, Problem> {
    let mut gathered = Gathered::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| invalid("The body broke off.".to_owned()))?;
        let Some(piece) = frame.data_ref().and_then(|data| gathered.add(data)) else { continue };
        (sink, ()) = files.step(sink, move |sink| push(sink, &piece)).await?;
    }
    let rest = gathered.rest();
    Ok(files.step(sink, move |sink| push(sink, &rest)).await?.0)
}

/// `GET /files/stat`.
async fn stat(files: &Files, query: &Query) -> Result<Response<Body>, Refused> {
    let (path, follows) = (query.path("path", files)?, query.flag("follow", true)?);
    let info = files.run(move || landfast_files::stat(&path, follows)).await?;
    Ok(json(StatusCode::OK, &info))
}

/// `GET /files/list`.
async fn list(files: &Files, query: &Query) -> Result<Response<Body>, Refused> {
    use std::os::unix::ffi::OsStrExt as _;
    let (path, limit, after) = (query.path("path", files)?, query.limit()?, query.cursor()?);
    let page = files.run(move || landfast_files::list(&path, after.as_deref(), limit)).await?;
    let next_cursor = page.next.map(|name| URL_SAFE_NO_PAD.encode(name.as_bytes()));
    Ok(json(StatusCode::OK, &Listed { items: page.items, next_cursor }))
}

/// `PUT /files/directory`.
async fn make_directory(files: &Files, query: &Query) -> Result<Response<Body>, Refused> {
    let (path, parents, mode) = (query.path("path", files)?, query.flag("parents", false)?, query.mode()?);
    let made = files.run(move || {
        let is_new = landfast_files::make_directory(&path, parents, mode)?;
        Ok((is_new, landfast_files::stat(&path, true)?))
    });
    let (is_new, info) = made.await?;
    Ok(json(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &info))
}

/// `DELETE`, of what each path is for.
async fn remove(
    files: &Files,
    query: &Query,
    how: fn(&std::path::Path) -> Result<(), Problem>,
) -> Result<Response<Body>, Refused> {
    let path = query.path("path", files)?;
    files.run(move || how(&path)).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `PUT /files/mode`.
async fn set_mode(files: &Files, query: &Query) -> Result<Response<Body>, Refused> {
    let path = query.path("path", files)?;
    let mode = query.mode()?.ok_or_else(|| invalid("The query lacks mode.".to_owned()))?;
    let set = files.run(move || {
        landfast_files::set_mode(&path, mode)?;
        landfast_files::stat(&path, true)
    });
    Ok(json(StatusCode::OK, &set.await?))
}

/// `POST /files/move`.
async fn move_to(files: &Files, query: &Query) -> Result<Response<Body>, Refused> {
    let (from, to) = (query.path("path", files)?, query.path("to", files)?);
    let overwrites = query.flag("overwrite", false)?;
    let moved = files.run(move || {
        landfast_files::move_to(&from, &to, overwrites)?;
        landfast_files::stat(&to, false)
    });
    Ok(json(StatusCode::OK, &moved.await?))
}

/// `GET /files/tree`: a tar stream.
async fn pack(agent: &Agent, query: &Query) -> Result<Response<Body>, Refused> {
    let path = query.path("path", &agent.files)?;
    let packer = agent.files.run(move || Packer::open(&path)).await?;
    let mut response = Response::new(streamed(agent, packer, Packer::piece));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `PUT /files/tree`: a tar stream that lands below the path.
async fn unpack(agent: &Agent, query: &Query, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let files = &agent.files;
    let (path, parents) = (query.path("path", files)?, query.flag("parents", false)?);
    let links = match query.find("links") {
        None | Some("inside") => Links::Inside,
        Some("any") => Links::Any,
        Some(other) => return Err(invalid(format!("links is {other:.50?}; say inside or any.")).into()),
    };
    let mut body = request.into_body();
    let unpacked = async {
        let unpacker = files.run(move || Ok(Unpacker::new(Landing::open(&path, parents, links)?))).await?;
        let unpacker = receive(files, &mut body, unpacker, Unpacker::push).await?;
        files.run(move || unpacker.finish()).await
    };
    match unpacked.await {
        Ok(unpacked) => Ok(json(StatusCode::OK, &unpacked)),
        Err(problem) => {
            agent.until_stopped(drain(body));
            Err(problem.into())
        }
    }
}

/// A body that asks for the next piece once its reader has taken the last. Until then the instance is not idle.
pub(super) fn streamed<S: Send + 'static>(
    agent: &Agent,
    subject: S,
    piece: fn(&mut S) -> Result<Option<Bytes>, Problem>,
) -> Body {
    struct Stream<S>(Arc<Files>, S, Busy);
    let first = Stream(agent.files.clone(), subject, agent.activity.begin());
    let pieces = stream::unfold(Some(first), move |stream| async move {
        let Stream(files, subject, busy) = stream?;
        match files.step(subject, piece).await {
            Ok((subject, Some(bytes))) => Some((Ok(Frame::data(bytes)), Some(Stream(files, subject, busy)))),
            Ok((_, None)) => None,
            Err(problem) => {
                tracing::debug!(%problem, "a file cannot be read on");
                Some((Err(io::Error::other(problem)), None))
            }
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// `GET /files/watch`: server-sent events, of which each is one change.
async fn watch(files: &Arc<Files>, query: &Query) -> Result<Response<Body>, Refused> {
    let (path, recursive) = (query.path("path", files)?, query.flag("recursive", false)?);
    let watch = Watch::open(files, path, recursive).await?;
    // A head alone may wait on its way for more to come.
    let first = stream::once(async { Ok(Frame::data(Bytes::from_static(b":\n\n"))) });
    let changes = stream::unfold(watch, async |mut watch| {
        let frames: String = watch.next(KEEPALIVE).await?.iter().map(frame).collect();
        let bytes = if frames.is_empty() { Bytes::from_static(b":\n\n") } else { frames.into() };
        Some((Ok(Frame::data(bytes)), watch))
    });
    let body = StreamBody::new(futures_util::StreamExt::chain(first, changes)).boxed_unsync();
    let builder = Response::builder().header(header::CACHE_CONTROL, "no-store");
    let response = builder.header(header::CONTENT_TYPE, "text/event-stream").body(body);
    Ok(response.expect("the headers are well formed"))
}

fn frame(change: &Change) -> String {
    format!("data: {}\n\n", serde_json::to_string(change).expect("a change is JSON"))
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("etags and ranges are plain text")
}

fn invalid(detail: String) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}
