//! `POST /kernel/curl`: a request made from inside of the instance, and its answer as JSON.
//!
//! It is made by the agent, which has the browser's network but not its cookies, and not its manners.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use landfast_core::{ErrorCode, Problem};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::json;

use super::super::answer::{Body, Refused, json as answer, parse};
use crate::Agent;

/// How long a request may take if nobody says, and at most.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_MAX: Duration = Duration::from_secs(240);

/// How long a connection may take, and a silence of who answers.
const CONNECT_PATIENCE: Duration = Duration::from_secs(15);
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The most bytes of an answer that is given as a whole.
const BODY_MAX: usize = 16 << 20;

/// As browsers do it.
const REDIRECTS_MAX: usize = 20;

/// The longest URL in a refusal.
const SHOWN_MAX: usize = 200;

/// A request that is to be made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    url: String,
    #[serde(default = "get")]
    method: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    response_encoding: Encoding,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Utf8,
    Base64,
}

/// One for all: it keeps connections. Made at first use, because it reads the certificates that are trusted.
static CLIENT: LazyLock<Option<Client>> = LazyLock::new(|| {
    // A second installation of the same changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .no_proxy()
        .redirect(Policy::limited(REDIRECTS_MAX))
        .connect_timeout(CONNECT_PATIENCE)
        .read_timeout(SILENCE_MAX);
    builder.build().inspect_err(|error| tracing::error!(%error, "requests cannot be made")).ok()
});

/// Makes the request. What the agent is asked twice is answered once, so it is not made again either.
pub(super) async fn post(_: Arc<Agent>, body: Bytes) -> Result<Response<Body>, Refused> {
    let wish: Wish = parse(&body)?;
    let since = Instant::now();
    let patience = wish.timeout_ms.map_or(PATIENCE, Duration::from_millis).min(PATIENCE_MAX);
    let encoding = wish.response_encoding;
    let (status, headers, body) = tokio::time::timeout(patience, wish.make())
        .await
        .map_err(|_| Problem::new(ErrorCode::UpstreamTimeout, "The target did not answer in time."))??;
    let body = match encoding {
        Encoding::Utf8 => String::from_utf8_lossy(&body).into_owned(),
        Encoding::Base64 => STANDARD.encode(&body),
    };
    let told = json!({
        "status": status.as_u16(), "headers": lists(&headers), "body": body,
        "duration_ms": since.elapsed().as_millis() as u64,
    });
    Ok(answer(StatusCode::OK, &told))
}

impl Wish {
    async fn make(self) -> Result<(StatusCode, HeaderMap, Bytes), Problem> {
        let method = Method::from_bytes(self.method.as_bytes()).map_err(|_| invalid("method is none."))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::try_from(name).map_err(|_| invalid(format!("headers: {name:.50?} is no name.")))?;
            let value =
                HeaderValue::try_from(value).map_err(|_| invalid(format!("headers: the value of {name} is none.")))?;
            headers.insert(name, value);
        }
        let body = self.body.map(reqwest::Body::from);
        let (parts, body) = send(method, &self.url, headers, body).await?.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await.map_err(|error| {
            Problem::new(ErrorCode::UpstreamLost, format!("The target's answer broke off, or is too large: {error}."))
        })?;
        Ok((parts.status, parts.headers, body.to_bytes()))
    }
}

/// Sends a request, and waits for the answer's head.
///
/// # Errors
///
/// [`ErrorCode::RequestInvalid`] for a URL that is none, and why there is no answer.
pub(super) async fn send(
    method: Method,
    url: &str,
    headers: HeaderMap,
    body: Option<reqwest::Body>,
) -> Result<Response<reqwest::Body>, Problem> {
    let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let parsed = parsed.ok_or_else(|| invalid(format!("url is no URL of http or https: {url:.SHOWN_MAX$?}.")))?;
    let client = CLIENT.as_ref().ok_or(ErrorCode::Internal)?;
    let mut request = client.request(method, parsed).headers(headers);
    if let Some(body) = body {
        request = request.body(body);
    }
    Ok(request.send().await.map_err(|error| lost(&error))?.into())
}

/// Why there is no answer. That nothing listens there now is no reason for the asker to come again at once.
fn lost(error: &reqwest::Error) -> Problem {
    tracing::debug!(%error, "a request from the instance was not answered");
    let (code, what) = if error.is_timeout() {
        (ErrorCode::UpstreamTimeout, "The target did not answer in time.")
    } else if error.is_connect() {
        (ErrorCode::UpstreamProtocol, "The target was not reached.")
    } else if error.is_redirect() {
        (ErrorCode::UpstreamProtocol, "The target leads elsewhere again and again.")
    } else {
        (ErrorCode::UpstreamLost, "The target ended the connection.")
    };
    Problem::new(code, what)
}

fn lists(headers: &HeaderMap) -> BTreeMap<&str, Vec<String>> {
    let mut lists: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        lists.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    lists
}

fn get() -> String {
    "GET".to_owned()
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}
