//! `GET /kernel/logs/stream`: the lines of a file, or of what a service says.

use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use landfast_core::kernel::time;
use landfast_core::{ErrorCode, Problem};
use landfast_net::clock;
use serde_json::json;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::time::sleep;

use super::super::answer::{Body, Refused};
use super::super::output::{EVENT_MAX, Next, Reader};
use super::stream::{self, Told};
use crate::Agent;
use crate::attach::From;
use crate::service::Handle;

/// How often a file is looked at that has not grown.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The longest line that is told in one piece.
const LINE_MAX: usize = 64 * 1024;

/// What is asked for.
#[derive(Debug, Default)]
struct Wish {
    source: String,
    path: Option<String>,
    service: Option<String>,
    is_finite: bool,
}

/// Lines, from wherever they come.
struct Lines {
    source: Source,
    /// What has been read of a line so far.
    begun: Vec<u8>,
    is_over: bool,
}

enum Source {
    File { path: PathBuf, file: File, is_finite: bool },
    Service { handle: Handle, start: u64, reader: Reader, is_finite: bool },
}

/// `GET logs/stream?source&path&supervisor_process&follow`: from the beginning, and on unless `follow=false`.
pub(super) async fn stream(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let wish = Wish::read(request.uri().query().unwrap_or(""))?;
    let is_finite = wish.is_finite;
    let source = match (wish.source.as_str(), wish.path, wish.service) {
        ("path", Some(path), _) => {
            let path = agent.config.home.join(path);
            Source::File { file: open(&path).await?, path, is_finite }
        }
        ("supervisor", _, service) => {
            let handle = agent.services.kept(service.as_deref().unwrap_or("chromium"))?.clone();
            let status = handle.status();
            let reader = Reader::new(status.process, From::Start, !is_finite)?;
            Source::Service { handle, start: status.start, reader, is_finite }
        }
        ("path", None, _) => return Err(invalid("path is missing: which file?").into()),
        _ => return Err(invalid("source is path or supervisor.").into()),
    };
    Ok(stream::answer(Lines { source, begun: Vec::new(), is_over: false }))
}

impl Wish {
    fn read(query: &str) -> Result<Self, Problem> {
        let mut wish = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                ("source", source) => wish.source = source.to_owned(),
                ("path", path) => wish.path = Some(path.to_owned()),
                ("supervisor_process", service) => wish.service = Some(service.to_owned()),
                ("follow", "true") => wish.is_finite = false,
                ("follow", "false") => wish.is_finite = true,
                ("follow", _) => return Err(invalid("follow is true or false.")),
                _ => {}
            }
        }
        Ok(wish)
    }
}

impl Told for Lines {
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.is_over {
                return None;
            }
            match self.source.next().await {
                Some(bytes) => self.begun.extend_from_slice(&bytes),
                None => self.is_over = true,
            }
            let lines = self.take_lines();
            if !lines.is_empty() {
                return Some(lines);
            }
        }
    }
}

impl Lines {
    /// The lines that are whole, and at the end what is left.
    fn take_lines(&mut self) -> String {
        let mut frames = String::new();
        let is_whole = |line: &[u8]| line.ends_with(b"\n") || line.len() >= LINE_MAX;
        let begun = std::mem::take(&mut self.begun);
        for line in begun.split_inclusive(|&byte| byte == b'\n').flat_map(|line| line.chunks(LINE_MAX)) {
            if is_whole(line) || self.is_over {
                frames.push_str(&told(line));
            } else {
                self.begun = line.to_vec();
            }
        }
        frames
    }
}

/// A line as an event. When it was written nobody knows; now it is read.
fn told(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (message, now) = (String::from_utf8_lossy(line), time(clock::unix_millis()));
    format!("data: {}\n\n", json!({"event": "log", "message": message, "timestamp": now}))
}

impl Source {
    /// What was written next; `None` at the end.
    ///
    /// Cancel safe.
    async fn next(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::File { path, file, is_finite } => {
                let mut bytes = vec![0; EVENT_MAX];
                loop {
                    let taken = file.read(&mut bytes).await.ok()?;
                    if taken > 0 {
                        bytes.truncate(taken);
                        return Some(bytes);
                    }
                    if *is_finite {
                        return None;
                    }
                    sleep(LOOK_EVERY).await;
                    // One that was removed may come again, and is waited for.
                    let _ = turn(path, file).await;
                }
            }
            Self::Service { handle, start, reader, is_finite } => loop {
                match reader.next(EVENT_MAX).await {
                    Next::Data { bytes, .. } => return Some(bytes.to_vec()),
                    Next::Gap { .. } => {}
                    Next::End(_) if *is_finite => return None,
                    Next::End(_) => {
                        let mut news = handle.watch();
                        let status = news.wait_for(|status| status.start != *start).await.ok()?.clone();
                        *start = status.start;
                        // Its log goes on where the last one's ended.
                        *reader = Reader::new(status.process, From::Offset(reader.at()), true).ok()?;
                    }
                }
            },
        }
    }
}

/// Goes on with the file that has the path now: another one from its beginning, and this one too if it was cut.
async fn turn(path: &PathBuf, file: &mut File) -> io::Result<()> {
    let (known, present) = (file.metadata().await?, fs::metadata(path).await?);
    if (known.dev(), known.ino()) != (present.dev(), present.ino()) {
        *file = File::open(path).await?;
    } else if known.len() < file.stream_position().await? {
        file.seek(SeekFrom::Start(0)).await?;
    }
    Ok(())
}

async fn open(path: &PathBuf) -> Result<File, Problem> {
    let cannot = |error: io::Error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => ErrorCode::RequestNotFound,
            _ => ErrorCode::RequestInvalid,
        };
        Problem::new(code, format!("{} cannot be read: {error}.", path.display()))
    };
    // What is no file may have no end, or never begin.
    if !fs::metadata(path).await.map_err(cannot)?.is_file() {
        return Err(invalid("path is no file."));
    }
    File::open(path).await.map_err(cannot)
}

fn invalid(detail: &str) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}
