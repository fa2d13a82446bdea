//! Everything inside a browser, by way of the control plane: for clients that know no direct way, or a name only.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use landfast_core::event::Category;
use landfast_core::{ErrorCode, InstanceId, kernel};
use serde_json::Value;

use super::super::input::{Id, invalid, read_body};
use super::super::refusal::Refusal;
use super::super::{Api, forward as agents, telemetry};
use super::{browsers, names};

/// The most of stored events that is translated: a page of the largest ones.
const PAGE_MAX: usize = 64 * 1024 * 1024;

/// A type that no event has.
const NOTHING: &str = "gap";

/// Headers that are for the control plane, or that the next hop writes anew.
const NOT_PASSED: [&str; 5] = ["connection", "cookie", "keep-alive", "te", "upgrade"];

/// Asks the browser's agent, which answers in the client's words, and passes on what comes as it comes.
pub(super) async fn forward(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    let inner = path.strip_prefix("/browsers/").and_then(|rest| rest.split_once('/'));
    let (browser, rest) = inner.ok_or_else(|| invalid("The path is written in an unusual way."))?;
    let instance = browsers::live(&api, browser).await?;
    let body = read_body(body, agents::BODY_MAX).await?;
    let asked = put_together(&mut parts, &format!("/kernel/{rest}"), body)?;
    agents::open(&api, instance.id, asked, agents::ANSWER_DEADLINE).await
}

/// What has happened in a browser, also after its end.
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    Path(browser): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let id = names::find(&api, &browser).await?;
    let request = in_our_words(id, request)?;
    let (head, body) = telemetry::read(State(api), Id(id), request).await?.into_parts();
    let page = body_of(body).await?;
    let envelopes: Vec<Value> = serde_json::from_slice(&page).map_err(|_| ErrorCode::UpstreamLost)?;
    let told: Vec<Value> = envelopes.iter().filter_map(kernel::event).collect();
    let body = serde_json::to_vec(&told).map_err(|_| ErrorCode::Internal)?;
    let mut answer = Response::from_parts(head, body.into());
    answer.headers_mut().remove(CONTENT_LENGTH);
    Ok(answer)
}

/// The question as it is asked on our own surface, without the categories that there are only there: nothing here is of one.
fn in_our_words(id: InstanceId, mut request: Request) -> Result<Request, Refusal> {
    let (mut query, mut asked, mut known) = (form_urlencoded::Serializer::new(String::new()), false, false);
    for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or("").as_bytes()) {
        // Their clients write a list as name[]=value, or with commas.
        let name = name.strip_suffix("[]").unwrap_or(&name);
        if name != "category" {
            query.append_pair(name, &value);
            continue;
        }
        asked = true;
        for word in value.split(',').filter(|word| Category::ALL.iter().any(|known| known.as_str() == *word)) {
            known = true;
            query.append_pair("category", word);
        }
    }
    if asked && !known {
        query.append_pair("type", NOTHING);
    }
    let path = format!("/v1/instances/{id}/telemetry/events?{}", query.finish());
    *request.uri_mut() = path.parse().map_err(|_| invalid("The query is written in an unusual way."))?;
    Ok(request)
}

async fn body_of(body: axum::body::Body) -> Result<Bytes, Refusal> {
    let read = http_body_util::Limited::new(body, PAGE_MAX).collect().await;
    Ok(read.map_err(|_| ErrorCode::UpstreamLost)?.to_bytes())
}

/// The request as the agent is to see it. Its body is whole, whatever it was.
fn put_together(parts: &mut Parts, target: &str, body: Bytes) -> Result<http::Request<Full<Bytes>>, Refusal> {
    let mut asked = http::Request::new(Full::new(body));
    *asked.method_mut() = parts.method.clone();
    *asked.uri_mut() = target.parse().map_err(|_| invalid("The path is written in an unusual way."))?;
    let mut headers = std::mem::take(&mut parts.headers);
    for name in [AUTHORIZATION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    for name in NOT_PASSED {
        headers.remove(name);
    }
    headers.insert(HOST, http::HeaderValue::from_static("agent"));
    *asked.headers_mut() = headers;
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: &str) -> String {
        let request = Request::builder().uri(format!("/x?{query}")).body(axum::body::Body::empty()).unwrap();
        in_our_words(InstanceId::new(1, 2), request).unwrap().uri().query().unwrap().to_owned()
    }

    #[test]
    fn a_category_of_theirs_finds_nothing_and_hides_none_of_ours() {
        assert_eq!(asked("category=page&category=captcha&limit=3"), "category=page&limit=3");
        assert_eq!(asked("category=captcha"), "type=gap");
        assert_eq!(asked("category=page,system&order=asc"), "category=page&category=system&order=asc");
    }
}
