//! Calls that the control plane carries without holding them: files and trees in both directions, and what is watched.
//!
//! A body is passed on as it comes, so there is no limit to its size and none to how long it takes, as long as it moves.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, TRANSFER_ENCODING, UPGRADE};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use landfast_core::InstanceId;
use landfast_net::http::CallError;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::Api;
use super::forward::{ANSWER_DEADLINE, agent_request, agent_target, forward, lost, reach};
use super::input::Id;
use super::refusal::Refusal;
use super::view::{TOKEN_SECONDS, origin, sign};
use crate::token::Scope;

/// The files of an instance: read, write, list, move, remove, carry as trees, watch.
///
/// Forwarded to the instance's agent, as streams in both directions.
#[utoipa::path(
    method(get, put, post, delete), path = "/v1/instances/{id}/files/{verb}", operation_id = "forward_files", tag = "files",
    params(
        ("id" = String, Path, description = "The instance's id."),
        ("verb" = String, Path, description = "`content`, `stat`, `list`, `directory`, `mode`, `move`, `tree` or `watch`."),
        ("path" = String, Query, description = "The file: absolute, or from the instance's home; bytes are percent-encoded."),
        ("to" = Option<String>, Query, description = "Where a file is moved."),
        ("mode" = Option<String>, Query, description = "Who may do what, in octal as for chmod."),
        ("parents" = Option<bool>, Query, description = "Whether missing directories above are made."),
        ("overwrite" = Option<bool>, Query, description = "Whether a move may replace what is there."),
        ("follow" = Option<bool>, Query, description = "Whether `stat` follows a link; it does if not said."),
        ("links" = Option<String>, Query, description = "Which symbolic links a tree may bring: `inside` or `any`."),
        ("recursive" = Option<bool>, Query, description = "Whether all below a directory is watched."),
        ("limit" = Option<u32>, Query, description = "At most so many entries: 1 to 10000, 1000 if not said."),
        ("cursor" = Option<String>, Query, description = "What `next_cursor` said."),
    ),
    responses(
        (status = 200, description = "What the agent answers."), (status = 201, description = "It was not there before."),
        (status = 204, description = "It is removed."), (status = 206, description = "The part that was asked for."),
    ),
)]
pub(super) async fn files(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    carry(&api, id, request).await
}

/// The services of an instance, and how they are.
///
/// Forwarded to the instance's agent.
#[utoipa::path(
    get, path = "/v1/instances/{id}/services", operation_id = "forward_services", tag = "services",
    params(("id" = String, Path, description = "The instance's id.")),
    responses((status = 200, description = "What the agent answers.")),
)]
pub(super) async fn services(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    forward(&api, id, request).await
}

/// One service of an instance: `POST restart`, `GET output`.
///
/// Forwarded to the instance's agent. Following is for the data plane, and so is what the service itself answers.
#[utoipa::path(
    method(get, post), path = "/v1/instances/{id}/services/{*rest}", operation_id = "forward_service", tag = "services",
    params(
        ("id" = String, Path, description = "The instance's id."),
        ("rest" = String, Path, description = "The service's name, and what of it."),
    ),
    responses((status = 200, description = "What the agent answers.")),
)]
pub(super) async fn service(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    forward(&api, id, request).await
}

/// The browser of an instance as Chromium lists it: `version`, `list`, `protocol`, `new`, `activate/…`, `close/…`.
///
/// Forwarded to the instance's agent. The URLs in it lead to the data plane, with a token that is valid for an hour.
#[utoipa::path(
    method(get, put), path = "/v1/instances/{id}/json/{*rest}", operation_id = "forward_json", tag = "browsers",
    params(
        ("id" = String, Path, description = "The instance's id."),
        ("rest" = String, Path, description = "What of it."),
    ),
    responses((status = 200, description = "What Chromium answers.")),
)]
pub(super) async fn json(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    list_of_pages(&api, id, request).await
}

/// The pages of an instance's browser, as Chromium lists them.
///
/// Forwarded to the instance's agent. The URLs in it lead to the data plane, with a token that is valid for an hour.
#[utoipa::path(
    get, path = "/v1/instances/{id}/json", operation_id = "forward_json_list", tag = "browsers",
    params(("id" = String, Path, description = "The instance's id.")),
    responses((status = 200, description = "What Chromium answers.")),
)]
pub(super) async fn json_list(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    list_of_pages(&api, id, request).await
}

/// What the browser names is opened on the data plane, to which an API key is no way in.
async fn list_of_pages(api: &Api, id: InstanceId, mut request: Request) -> Result<Response, Refusal> {
    let (token, _) = sign(api, id, vec![Scope::Browser], TOKEN_SECONDS);
    let said = [
        ("landfast-public-url", format!("{}/i/{id}", origin(api, request.headers()))),
        ("landfast-public-query", format!("token={token}")),
    ];
    for (name, value) in said {
        if let Ok(value) = HeaderValue::try_from(value) {
            request.headers_mut().insert(name, value);
        }
    }
    forward(api, id, request).await
}

/// Forwards a call and its answer as they come. It is sent once.
async fn carry(api: &Api, id: InstanceId, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let target = agent_target(&parts, id)?;
    let socket = reach(api, id, true).await?;
    let broken = |error| Refusal(lost(&CallError::Connection(error)));
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(broken)?;
    let stop = api.stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(connection).await });
    let moved = Arc::new(Notify::new());
    let body = Moving { body, moved: moved.clone() };
    let answer = sender.send_request(agent_request(&parts, &target, body));
    let mut answer = std::pin::pin!(answer);
    let answer = loop {
        tokio::select! {
            answer = &mut answer => break answer.map_err(broken)?,
            () = moved.notified() => {}
            () = sleep(ANSWER_DEADLINE) => return Err(lost(&CallError::Timeout).into()),
        }
    };
    let (mut head, body) = answer.into_parts();
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        head.headers.remove(name);
    }
    Ok(Response::from_parts(head, Body::new(body)))
}

/// A body that says when it moves.
struct Moving {
    body: Body,
    moved: Arc<Notify>,
}

impl HttpBody for Moving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.moved.notify_one();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
