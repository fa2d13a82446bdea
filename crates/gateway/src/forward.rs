//! Plain requests to an instance: streamed both ways, and sent again elsewhere for as long as nothing was started.

use std::net::SocketAddr;

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri};
use landfast_core::route::Route;
use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::relay::Target;

use crate::access::Record;
use crate::body::{Body, Upload};
use crate::config::Config;
use crate::gateway::Worker;
use crate::headers;
use crate::search::Search;
use crate::upstream::{Answer, Connection, Key, SendError};

/// Where a request came from, as the next hop is told.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    client: HeaderValue,
    public: Option<(HeaderValue, HeaderValue)>,
}

impl Origin {
    /// A client's address, and the public address that the operator has named.
    pub(crate) fn new(client: SocketAddr, config: &Config) -> Self {
        let value = |text: &str| HeaderValue::from_str(text).expect("addresses are visible ASCII");
        let public = config.public().map(|(scheme, authority)| (value(&scheme), value(authority.as_str())));
        Self { client: value(&client.ip().to_string()), public }
    }

    /// Removes what concerns the last hop and what only Landfast may say, and tells the next hop where the request came
    /// from. What a client says about that itself is not believed.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        headers::remove_hop_by_hop(headers);
        headers::remove_ours(headers);
        headers.remove(FORWARDED);
        let (scheme, host) = match &self.public {
            Some((scheme, host)) => (scheme.clone(), Some(host.clone())),
            None => (HeaderValue::from_static("http"), headers.get(HOST).cloned()),
        };
        headers.insert(HeaderName::from_static("x-forwarded-for"), self.client.clone());
        headers.insert(HeaderName::from_static("x-forwarded-proto"), scheme);
        match host {
            Some(host) => drop(headers.insert(HeaderName::from_static("x-forwarded-host"), host)),
            None => drop(headers.remove("x-forwarded-host")),
        }
    }
}

/// Sends a request to an instance, wherever it is, and returns its answer.
///
/// # Errors
///
/// Why there is none.
pub(crate) async fn forward(
    worker: &Worker,
    instance: InstanceId,
    request: Request<Upload>,
    record: &mut Record,
) -> Result<Response<Body>, Problem> {
    let gateway = &worker.gateway;
    let mut search = Search::new(&gateway.routes, instance, gateway.config.route_deadline()).await?;
    let spare = Spare::of(&request);
    let mut request = request;
    loop {
        let route = search.route().await?;
        record.generation = Some(route.generation);
        let connection = match connect(worker, &route, Target::Agent).await {
            Ok(connection) => connection,
            Err(code) => {
                record.attempts += 1;
                search.refused(code, &route).await?;
                continue;
            }
        };
        let is_kept = connection.is_kept();
        match connection.send(request).await {
            Ok(response) => {
                record.attempts += 1;
                return Ok(passed_on(response));
            }
            Err(SendError::NotSent(unsent)) => {
                request = *unsent;
                // A kept connection that had ended says nothing, and the next one may not be kept.
                if !is_kept {
                    record.attempts += 1;
                    search.refused(ErrorCode::NodeUnreachable, &route).await?;
                }
            }
            Err(SendError::Lost(error)) => {
                record.attempts += 1;
                tracing::debug!(%instance, %error, "lost after the request was sent");
                request = spare.as_ref().ok_or(ErrorCode::UpstreamLost)?.request();
                search.refused(ErrorCode::UpstreamLost, &route).await?;
            }
        }
    }
}

/// A target without scheme and authority, which are between the client and us.
pub(crate) fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// An upstream's answer as ours.
pub(crate) fn passed_on(response: Response<Answer>) -> Response<Body> {
    let mut response = response.map(Body::upstream);
    headers::remove_hop_by_hop(response.headers_mut());
    response
}

async fn connect(worker: &Worker, route: &Route, target: Target) -> Result<Connection, ErrorCode> {
    let key = Key::Instance(route.instance, route.generation, target);
    if let Some(connection) = worker.pool.take(&key) {
        return Ok(connection);
    }
    let socket = worker.gateway.dial(route, target).await?;
    worker.pool.open(key, socket).await.map_err(|_| ErrorCode::NodeUnreachable)
}

/// What is needed to send a request once more although it may have run.
struct Spare {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Spare {
    /// Only a request that is safe to repeat and has no body can be sent again.
    fn of(request: &Request<Upload>) -> Option<Self> {
        let repeatable = request.method().is_idempotent() && request.body().is_empty();
        repeatable.then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        })
    }

    fn request(&self) -> Request<Upload> {
        let mut request = Request::new(Upload::empty());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method) -> Request<Upload> {
        let mut request = Request::new(Upload::empty());
        *request.method_mut() = method;
        request
    }

    #[test]
    fn only_what_is_safe_to_repeat_is_kept_for_it() {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE] {
            assert!(Spare::of(&request(method.clone())).is_some(), "{method}");
        }
        for method in [Method::POST, Method::PATCH, Method::CONNECT] {
            assert!(Spare::of(&request(method.clone())).is_none(), "{method}");
        }
    }

    #[test]
    fn the_next_hop_hears_who_asked_from_us_and_not_from_the_client() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "box.test"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-host", "evil.test"),
            ("forwarded", "for=6.6.6.6"),
            ("landfast-error", "node.not_here"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let client = SocketAddr::from(([127, 0, 0, 9], 1));
        Origin::new(client, &Config::default()).mark(&mut headers);
        let told = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(told("x-forwarded-for"), Some("127.0.0.9"));
        assert_eq!((told("x-forwarded-host"), told("x-forwarded-proto")), (Some("box.test"), Some("http")));
        assert_eq!(headers.len(), 4, "{headers:?}");
        let config = Config { public_url: Some("https://cell.example.test".into()), ..Config::default() };
        Origin::new(client, &config).mark(&mut headers);
        assert_eq!(headers["x-forwarded-host"], "cell.example.test");
        assert_eq!(headers["x-forwarded-proto"], "https");
    }
}
