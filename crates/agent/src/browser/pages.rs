//! The browser's pages: which there are, and which of them a person would be looking at.

use std::io;
use std::time::Duration;

use landfast_core::{ErrorCode, Problem};
use landfast_net::head::{HEAD_MAX, Headers, RequestHead, read_response, write_all};
use landfast_net::socket::Socket;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::DevTools;
use super::client::Client;

/// How long the browser may take to list its targets.
const DEADLINE: Duration = Duration::from_secs(10);

/// The most bytes of that list: some thousand tabs with long addresses.
const LIST_MAX: usize = 8 << 20;

/// A target of the browser.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Page {
    pub(crate) id: String,
    #[serde(rename = "type")]
    kind: String,
    pub(crate) title: String,
    pub(crate) url: String,
}

/// The page with this id, or the one that was used last.
///
/// # Errors
///
/// [`ErrorCode::RequestNotFound`] if there is none, or the browser's failure.
pub(crate) async fn page(devtools: &DevTools, wanted: Option<&str>) -> Result<Page, Problem> {
    let listed = timeout(DEADLINE, list(devtools)).await.map_err(|_| Problem::from(ErrorCode::UpstreamTimeout))?;
    let targets = listed.map_err(|error| {
        tracing::debug!(%error, "the browser did not list its targets");
        Problem::new(ErrorCode::UpstreamLost, "The browser did not say which pages it has.")
    })?;
    let mut pages = targets.into_iter().filter(|target| target.kind == "page");
    match wanted {
        Some(id) => pages.find(|page| page.id == id).ok_or_else(|| {
            Problem::new(ErrorCode::RequestNotFound, format!("No page {id:.50?} is open; /json/list says which are."))
        }),
        None => pages
            .next()
            .ok_or_else(|| Problem::new(ErrorCode::RequestNotFound, "No page is open; PUT /json/new opens one.")),
    }
}

/// Begins to speak with a page. The session ends with the client.
///
/// # Errors
///
/// The browser's failure; also if the page has just been closed.
pub(crate) async fn attach(client: &Client, page: &Page) -> Result<String, Problem> {
    let wish = json!({"targetId": page.id, "flatten": true});
    let attached = client.call("Target.attachToTarget", wish, None).await?;
    let session = attached["sessionId"].as_str().map(str::to_owned);
    session.ok_or_else(|| Problem::new(ErrorCode::UpstreamLost, "The browser gave no session for the page."))
}

/// All targets, the one that was used last first: an order that only this list has.
async fn list(devtools: &DevTools) -> io::Result<Vec<Page>> {
    let mut socket = Socket::tcp(TcpStream::connect(("127.0.0.1", devtools.port)).await?);
    let mut headers = Headers::new();
    headers.push("Host", "localhost");
    headers.push("Connection", "close");
    let request = RequestHead { method: "GET".to_owned(), target: "/json/list".to_owned(), headers };
    write_all(&mut socket, &request.encode()).await?;
    let head = read_response(&mut socket, HEAD_MAX).await.map_err(io::Error::other)?;
    let len = head.headers.get("content-length").and_then(|len| len.parse().ok()).filter(|&len| len <= LIST_MAX);
    let mut body = vec![0; len.ok_or(io::ErrorKind::InvalidData)?];
    socket.read_exact(&mut body).await?;
    serde_json::from_slice(&body).map_err(io::Error::other)
}
