//! `/kernel/fs/watch`: changes of files, asked for first and read then.
//!
//! The kernel keeps what nobody has read yet, and a reader that comes again goes on there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use landfast_core::{ErrorCode, Problem};
use landfast_net::random;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use super::super::answer::{Body, Refused, empty, json as answer, parse, read_body};
use crate::Agent;
use crate::watch::{Change, Watch};

/// How long a reader hears nothing at most: such a client takes a minute of silence for the end.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The watches of an agent, by the id that their asker got. The agent bounds how many there are.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    by_id: Mutex<HashMap<String, Held>>,
}

/// A watch, for one reader at a time.
#[derive(Clone, Debug)]
struct Held {
    watch: Arc<Turn<Watch>>,
    over: CancellationToken,
}

/// `POST fs/watch {path, recursive}`.
pub(super) async fn start(agent: &Agent, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        path: String,
        #[serde(default)]
        recursive: bool,
    }
    let asked: Asked = parse(&read_body(request).await?)?;
    let path = agent.files.path(asked.path.as_ref())?;
    let watch = Watch::open(&agent.files, path, asked.recursive).await?;
    let id = format!("{:016x}{:016x}", random::bits(), random::bits());
    let held = Held { watch: Arc::new(Turn::new(watch)), over: CancellationToken::new() };
    agent.watches.by_id().insert(id.clone(), held);
    Ok(answer(StatusCode::CREATED, &json!({"watch_id": id})))
}

/// `GET fs/watch/{id}/events`.
pub(super) fn events(agent: &Agent, id: &str) -> Result<Response<Body>, Refused> {
    let Held { watch, over } = agent.watches.by_id().get(id).cloned().ok_or_else(unknown)?;
    let watch = watch.try_lock_owned().map_err(|_| {
        Problem::new(ErrorCode::RequestConflict, "Somebody reads this watch already; one reader at a time.")
    })?;
    // A head alone may wait on its way for more to come.
    let first = stream::once(async { Ok(Frame::data(Bytes::from_static(b":\n\n"))) });
    let changes = stream::unfold((watch, over), async |(mut watch, over): (OwnedMutexGuard<Watch>, _)| {
        let changes = over.run_until_cancelled(watch.next(KEEPALIVE)).await??;
        let frames: String = changes.iter().map(frames).collect();
        let bytes = if frames.is_empty() { Bytes::from_static(b":\n\n") } else { frames.into() };
        Some((Ok(Frame::data(bytes)), (watch, over)))
    });
    let body = StreamBody::new(futures_util::StreamExt::chain(first, changes)).boxed_unsync();
    let builder = Response::builder().header(header::CACHE_CONTROL, "no-store");
    let response = builder.header(header::CONTENT_TYPE, "text/event-stream").body(body);
    Ok(response.expect("the headers are well formed"))
}

/// `DELETE fs/watch/{id}`.
pub(super) fn end(agent: &Agent, id: &str) -> Result<Response<Body>, Refused> {
    let held = agent.watches.by_id().remove(id).ok_or_else(unknown)?;
    held.over.cancel();
    Ok(empty(StatusCode::NO_CONTENT))
}

impl Watches {
    fn by_id(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.by_id.lock().expect("nobody panics while holding the watches")
    }
}

/// A change in their words: four, and a move is two of them. That something was missed has no word there.
fn frames(change: &Change) -> String {
    let told = |kind: &str, path: &std::path::Path, is_dir: bool| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let said: Value = json!({"type": kind, "path": path.to_string_lossy(), "name": name, "is_dir": is_dir});
        format!("data: {said}\n\n")
    };
    match change {
        Change::Created { path, is_directory } => told("CREATE", path, *is_directory),
        Change::Written { path } => told("WRITE", path, false),
        Change::Removed { path, is_directory } => told("DELETE", path, *is_directory),
        Change::Moved { from, path, is_directory } => {
            told("RENAME", from, *is_directory) + &told("CREATE", path, *is_directory)
        }
        Change::Gap => ": changes were missed\n\n".to_owned(),
        // What is being written will be told when it is written.
        Change::Modified { .. } | Change::Attributes { .. } => String::new(),
    }
}

fn unknown() -> Problem {
    Problem::new(ErrorCode::RequestNotFound, "There is no watch with this id.")
}
