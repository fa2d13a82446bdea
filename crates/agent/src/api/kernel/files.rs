//! `/kernel/fs`: the instance's files, one call for each thing that is done to them.

use std::path::{Path, PathBuf};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use landfast_core::kernel::time;
use landfast_core::{ErrorCode, Problem};
use landfast_files::{Commit, Content, Draft, FileKind, Info};
use serde::{Deserialize, Serialize};

use super::super::answer::{Body, Refused, drain, empty, json, parse, read_body};
use super::super::files::{receive, streamed};
use crate::Agent;
use crate::files::Files;

/// Entries that are listed at once; all are told.
const PAGE: usize = 1_000;

/// The most entries that are told: an answer here is one piece.
const ENTRIES_MAX: usize = 100_000;

/// A file as it is told.
#[derive(Debug, Serialize)]
struct FileView {
    name: String,
    path: String,
    size_bytes: u64,
    is_dir: bool,
    mod_time: String,
    mode: String,
}

/// What a call says in its body.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    path: String,
    src_path: String,
    dest_path: String,
    mode: Option<String>,
    owner: Option<String>,
    group: Option<String>,
}

/// Everything but uploads and watches.
pub(super) async fn route(agent: &Agent, verb: &str, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    match (verb, request.method()) {
        ("read_file", &Method::GET) => read(agent, &request).await,
        ("file_info", &Method::GET) => info(agent, &request).await,
        ("list_files", &Method::GET) => list(agent, &request).await,
        ("read_file" | "file_info" | "list_files", _) => Err(Refused::method("GET")),
        ("write_file", &Method::PUT) => write(agent, request).await,
        ("create_directory" | "delete_directory" | "delete_file" | "move" | "set_file_permissions", &Method::PUT) => {
            change(&agent.files, verb, request).await
        }
        (
            "write_file" | "create_directory" | "delete_directory" | "delete_file" | "move" | "set_file_permissions",
            _,
        ) => Err(Refused::method("PUT")),
        _ => Err(ErrorCode::RequestNotFound.into()),
    }
}

async fn read(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let path = path(agent, request)?;
    let content = agent.files.run(move || Content::open(&path)).await?;
    let len = content.left();
    let mut response = Response::new(streamed(agent, content, Content::piece));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(len) = len {
        headers.insert(header::CONTENT_LENGTH, len.into());
    }
    Ok(response)
}

async fn info(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let path = path(agent, request)?;
    let info = agent.files.run(move || landfast_files::stat(&path, true)).await?;
    Ok(json(StatusCode::OK, &FileView::of(info)))
}

async fn list(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let path = path(agent, request)?;
    let (mut views, mut after) = (Vec::new(), None);
    loop {
        let (path, from) = (path.clone(), after.take());
        let page = agent.files.run(move || landfast_files::list(&path, from.as_deref(), PAGE)).await?;
        views.extend(page.items.into_iter().map(FileView::of));
        if views.len() > ENTRIES_MAX {
            let why =
                format!("The directory has more than {ENTRIES_MAX} entries; list it page by page on /files/list.");
            return Err(invalid(why).into());
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(json(StatusCode::OK, &views)),
        }
    }
}

/// The body becomes the file, whole or not at all.
async fn write(agent: &Agent, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let files = &agent.files;
    let query = request.uri().query().unwrap_or("").to_owned();
    let place = files.path(Path::new(&find(&query, "path").ok_or_else(|| invalid("path is missing."))?))?;
    let mode = find(&query, "mode").map(|mode| read_mode(&mode)).transpose()?;
    let mut body = request.into_body();
    let written = async {
        let draft = files.run(move || Draft::at(&place, true)).await?;
        let draft = receive(files, &mut body, draft, Draft::write).await?;
        files.run(move || draft.commit(&commit(mode))).await
    };
    match written.await {
        Ok(_) => Ok(empty(StatusCode::CREATED)),
        Err(problem) => {
            agent.until_stopped(drain(body));
            Err(problem.into())
        }
    }
}

async fn change(files: &Files, verb: &str, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let asked: Asked = parse(&read_body(request).await?)?;
    if asked.owner.is_some() || asked.group.is_some() {
        return Err(invalid("owner and group cannot be had: an instance has one user.").into());
    }
    let place = |name: &str, text: &str| match text {
        "" => Err(invalid(format!("{name} is missing."))),
        text => files.path(Path::new(text)),
    };
    let mode = asked.mode.as_deref().map(read_mode).transpose()?;
    let path = if verb == "move" { place("src_path", &asked.src_path)? } else { place("path", &asked.path)? };
    match verb {
        "create_directory" => {
            files.run(move || landfast_files::make_directory(&path, true, mode)).await?;
            return Ok(empty(StatusCode::CREATED));
        }
        "delete_directory" => files.run(move || landfast_files::remove_tree(&path)).await?,
        "delete_file" => files.run(move || landfast_files::remove_file(&path)).await?,
        "move" => {
            let to = place("dest_path", &asked.dest_path)?;
            files.run(move || landfast_files::move_to(&path, &to, true)).await?;
        }
        _ => {
            let mode = mode.ok_or_else(|| invalid("mode is missing."))?;
            files.run(move || landfast_files::set_mode(&path, mode)).await?;
        }
    }
    Ok(empty(StatusCode::OK))
}

/// How a file is put in place: over what is there.
pub(super) const fn commit(mode: Option<u32>) -> Commit {
    Commit { mode, modified: None, is_new: false, replaces: None }
}

impl FileView {
    fn of(info: Info) -> Self {
        let is_dir = info.kind == FileKind::Directory;
        Self {
            name: info.name,
            path: info.path,
            size_bytes: info.size,
            is_dir,
            mod_time: time(info.modified.try_into().unwrap_or(0)),
            mode: shown(info.kind, info.mode),
        }
    }
}

/// As `ls` shows it.
fn shown(kind: FileKind, mode: u32) -> String {
    let first = match kind {
        FileKind::Directory => 'd',
        FileKind::Link => 'l',
        _ => '-',
    };
    let bit = |at: u32, letter: char| if mode & (1 << at) == 0 { '-' } else { letter };
    std::iter::once(first).chain((0..9).rev().map(|at| bit(at, ['x', 'w', 'r'][at as usize % 3]))).collect()
}

fn read_mode(text: &str) -> Result<u32, Problem> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| invalid(format!("mode is {text:.50?}; say it as chmod takes it, such as 644.")))
}

fn path(agent: &Agent, request: &Request<Incoming>) -> Result<PathBuf, Problem> {
    let path = find(request.uri().query().unwrap_or(""), "path").ok_or_else(|| invalid("path is missing."))?;
    agent.files.path(Path::new(&path))
}

fn find(query: &str, wanted: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_shown_as_people_read_it() {
        assert_eq!(shown(FileKind::Directory, 0o755), "drwxr-xr-x");
        assert_eq!(shown(FileKind::File, 0o640), "-rw-r-----");
        assert_eq!((read_mode("0644").unwrap(), read_mode("9").is_err()), (0o644, true));
    }
}
