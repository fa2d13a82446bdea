//! `/browser`: how it is, its flags, and starting it anew; `/json`: what it says of itself over HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use landfast_core::cdp::START_BUDGET;
use landfast_core::{ErrorCode, Problem};
use landfast_net::http::{CallError, call};
use landfast_net::socket::Socket;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::answer::{Body, Refused, json, read_json, whole};
use crate::Agent;
use crate::browser::picture::{self, Picture};
use crate::browser::{Browser, DevTools, Public, late};

/// The page of `/browser/view`.
const VIEW: &str = include_str!("../browser/view.html");

/// How long the browser may take to answer: it makes a page for some of these.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// How long to wait for news of a browser that accepts no connection although it is up.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// `GET /browser`.
pub(super) fn get(agent: &Agent) -> Result<Response<Body>, Refused> {
    Ok(described(agent.services.browser()?))
}

/// `POST /browser/restart`: answers once it is up.
pub(super) async fn restart(agent: &Agent) -> Result<Response<Body>, Refused> {
    let browser = agent.services.browser()?;
    browser.restart().await?;
    Ok(described(browser))
}

/// `PATCH /browser/flags`: answers once it is up with them.
pub(super) async fn set_flags(agent: &Agent, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        flags: Vec<String>,
    }
    let browser = agent.services.browser()?;
    let Wanted { flags } = read_json(request).await?;
    browser.set_flags(flags).await?;
    Ok(described(browser))
}

/// `GET /browser/screenshot`: what a page looks like now.
pub(super) async fn screenshot(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let wish = picture::Wish::read(request.uri().query().unwrap_or(""))?;
    let devtools = agent.services.browser()?.up().await?;
    let Picture { kind, bytes } = wish.take(&devtools).await?;
    let mut response = Response::new(whole(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `GET /browser/view`: a page that shows the screencast.
pub(super) fn view() -> Response<Body> {
    let mut response = Response::new(whole(VIEW));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    // Its URL may hold a token.
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn described(browser: &Browser) -> Response<Body> {
    json(StatusCode::OK, &browser.describe())
}

/// `/json` and everything below it: the browser's answer, with every URL in it as the asker can reach it. Clients differ in
/// whether they put a slash at the end, and the browser does not take it everywhere.
pub(super) async fn forward(agent: &Agent, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let browser = agent.services.browser()?;
    let (socket, devtools) = dial(browser).await?;
    let (path, query) = (request.uri().path().trim_end_matches('/'), request.uri().query());
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let asked = Request::builder().method(request.method()).uri(target).header(header::HOST, devtools.host());
    let asked = asked.body(Full::new(Bytes::new())).expect("its parts were well formed");
    let answer = call(socket, asked, ANSWER_DEADLINE).await.map_err(|error| lost(&error))?;
    let public = Public::read(|name| request.headers().get(name)?.to_str().ok());
    Ok(told(answer, path, &public))
}

/// Connects to the browser, waiting for it while it is starting.
async fn dial(browser: &Arc<Browser>) -> Result<(Socket, Arc<DevTools>), Problem> {
    let (until, mut status) = (Instant::now() + START_BUDGET, browser.handle().watch());
    loop {
        status.mark_unchanged();
        let devtools = browser.up().await?;
        match TcpStream::connect(("127.0.0.1", devtools.port)).await {
            Ok(stream) => return Ok((Socket::tcp(stream), devtools)),
            Err(_) if Instant::now() >= until => return Err(late(START_BUDGET)),
            // It has just ended, or will be found to have; then there are news.
            Err(error) => tracing::debug!(%error, "the browser was not reached"),
        }
        let _ = timeout(REDIAL_PAUSE, status.changed()).await;
    }
}

fn lost(error: &CallError) -> Problem {
    tracing::debug!(%error, "the browser did not answer");
    match error {
        CallError::Timeout => ErrorCode::UpstreamTimeout.into(),
        CallError::Connection(_) | CallError::Body(_) => {
            Problem::new(ErrorCode::UpstreamLost, "The browser ended the connection.")
        }
    }
}

fn told(answer: Response<Bytes>, path: &str, public: &Public) -> Response<Body> {
    let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
    let is_json = kind.as_ref().is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let status = answer.status();
    let mut body = answer.into_body();
    // The protocol is a megabyte that names nothing of this browser.
    if is_json
        && !path.starts_with("/json/protocol")
        && let Ok(mut value) = serde_json::from_slice::<Value>(&body)
    {
        public.rewrite(&mut value);
        body = serde_json::to_vec_pretty(&value).expect("it was JSON").into();
    }
    let mut response = Response::new(whole(body));
    *response.status_mut() = status;
    let kind = kind.unwrap_or(HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
