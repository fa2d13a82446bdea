//! `/kernel/computer`: what the browser shows.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use landfast_core::Problem;
use serde::Deserialize;
use serde_json::json;

use super::super::answer::{Body, Refused, json as answer, parse, read_body, whole};
use crate::Agent;
use crate::browser::client::Client;
use crate::browser::pages::{attach, page};
use crate::browser::picture::{Picture, Region, Wish};

/// `POST computer/screenshot`: a PNG of what the window shows. To look twice changes nothing.
pub(super) async fn screenshot(agent: &Agent, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    #[derive(Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        region: Option<Region>,
    }
    let body = read_body(request).await?;
    let asked = if body.is_empty() { Asked::default() } else { parse(&body)? };
    let devtools = agent.services.browser()?.up().await?;
    let Picture { kind, bytes } = Wish::of(asked.region).take(&devtools).await?;
    let mut response = Response::new(whole(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `POST open {url}`: the page that was used last goes there. What comes of it is for the page to show.
pub(super) async fn open(agent: Arc<Agent>, body: Bytes) -> Result<Response<Body>, Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        url: String,
    }
    let Asked { url } = parse(&body)?;
    let devtools = agent.services.browser()?.up().await?;
    let page = page(&devtools, None).await?;
    let (client, _events) = Client::connect(&devtools).await?;
    let session = attach(&client, &page).await?;
    client.call("Page.navigate", json!({"url": url}), Some(&session)).await.map_err(Problem::from)?;
    Ok(answer(StatusCode::OK, &json!({"ok": true})))
}
