//! The files of an instance.

use std::path::{Path, PathBuf};

use http::{Method, header};
use http_body_util::BodyExt as _;
use landfast_core::InstanceId;
use landfast_files::{Info, Links, Unpacked, decode as decode_path, encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::client::{Again, Client, DEADLINE, wants_new_token};
use crate::content::Progress;
use crate::error::Error;
use crate::follow::{Parser, SILENCE};
use crate::origin::{Call, Open};
use crate::stream::{Incoming, Source, stalled};

/// The most bytes of an answer about files.
const ANSWER_MAX: usize = 1 << 20;

/// The files of one instance. Paths are its own: absolute, or from its home.
#[derive(Clone, Debug)]
pub struct Files {
    client: Client,
    instance: InstanceId,
}

/// How a file is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteFile {
    /// Who may do what; otherwise as before, or 0644.
    pub mode: Option<u32>,
    /// Whether missing directories above are made.
    pub parents: bool,
    /// Whether a file that is there already stays, and this is refused.
    pub is_new: bool,
    /// The etag that the present file must have.
    pub replaces: Option<String>,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileChangeKind {
    /// It is there now.
    Created,
    /// Its content changes.
    Modified,
    /// Whoever wrote to it has closed it, or it was put in place whole.
    Written,
    /// Its mode, owner or times changed.
    Attributes,
    /// It is not there any more.
    Removed,
    /// It has another name.
    Moved,
    /// Something happened that nobody knows any more: look again.
    Gap,
}

/// Something that happened to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// What happened.
    pub kind: FileChangeKind,
    /// Its path; empty for a gap.
    pub path: PathBuf,
    /// Its path before a move.
    pub from: Option<PathBuf>,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// What happens to files, as it happens.
#[derive(Debug)]
pub struct Watching {
    open: Open,
    parser: Parser,
}

impl Client {
    /// The files of an instance.
    pub fn files(&self, instance: InstanceId) -> Files {
        Files { client: self.clone(), instance }
    }
}

impl Files {
    /// Looks at a file, or, if `follows`, at what a link leads to.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `file.not_found`.
    pub async fn stat(&self, path: &Path, follows: bool) -> Result<Info, Error> {
        self.ask(Method::GET, "stat", path, &format!("&follow={follows}")).await
    }

    /// Everything in a directory, in the order of the names' bytes. Links are not followed.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `file.not_a_directory`.
    pub async fn list(&self, path: &Path) -> Result<Vec<Info>, Error> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Info>,
            next_cursor: Option<String>,
        }
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page: Page = self.ask(Method::GET, "list", path, &cursor).await?;
            items.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }

    /// Makes a directory, which may be there already.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `file.exists` if something else is there.
    pub async fn make_directory(&self, path: &Path, parents: bool, mode: Option<u32>) -> Result<Info, Error> {
        self.ask(Method::PUT, "directory", path, &format!("&parents={parents}{}", with_mode(mode))).await
    }

    /// Removes a file, or a link and not what it leads to.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `file.not_a_file`.
    pub async fn remove(&self, path: &Path) -> Result<(), Error> {
        self.remove_by("content", path).await
    }

    /// Removes a directory that holds nothing.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `file.not_empty`.
    pub async fn remove_directory(&self, path: &Path) -> Result<(), Error> {
        self.remove_by("directory", path).await
    }

    /// Removes whatever is there, with all that it holds. No link is followed.
    ///
    /// # Errors
    ///
    /// [`Error`]; then a part may be removed.
    pub async fn remove_tree(&self, path: &Path) -> Result<(), Error> {
        self.remove_by("tree", path).await
    }

    /// Gives a file another name. What is there already stays, unless `overwrites`.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `file.exists`. After a broken connection it may be moved.
    pub async fn rename(&self, path: &Path, to: &Path, overwrites: bool) -> Result<Info, Error> {
        self.ask(Method::POST, "move", path, &format!("&to={}&overwrite={overwrites}", encode(to))).await
    }

    /// Says who may do what with a file.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn set_mode(&self, path: &Path, mode: u32) -> Result<Info, Error> {
        self.ask(Method::PUT, "mode", path, &with_mode(Some(mode))).await
    }

    /// Begins to read a file, or the part of it from one byte to before another. Where it is cut it goes on, and never
    /// with another version of the file.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `file.not_a_file` or `file.range`.
    pub async fn read(&self, path: &Path, from: u64, to: Option<u64>) -> Result<Incoming, Error> {
        let call = self.call(Method::GET, "content", path, "");
        let mut progress = Progress::new(from, to);
        let asked = Call { headers: progress.headers(), ..call.clone() };
        let open = self.opened(&asked).await?;
        progress.begin(open.status, &open.headers, false)?;
        Ok(Incoming::new(open).resumed_by(self.clone(), call, progress))
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `file.no_space`; what was there is then still there. After a broken connection it may be
    /// written.
    pub async fn write(&self, path: &Path, wish: &WriteFile, source: Source) -> Result<Info, Error> {
        let rest = format!("&parents={}{}", wish.parents, with_mode(wish.mode));
        let mut call = self.call(Method::PUT, "content", path, &rest);
        if wish.is_new {
            call.headers.push((header::IF_NONE_MATCH, "*".to_owned()));
        }
        if let Some(etag) = &wish.replaces {
            call.headers.push((header::IF_MATCH, etag.clone()));
        }
        self.send(&call, source).await
    }

    /// Begins to take a tree, as a tar stream.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn download(&self, path: &Path) -> Result<Incoming, Error> {
        Ok(Incoming::new(self.opened(&self.call(Method::GET, "tree", path, "")).await?))
    }

    /// Unpacks a tar stream below a directory, which nothing in it leaves.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `file.escape`; what came before what is refused stays.
    pub async fn upload(&self, path: &Path, parents: bool, links: Links, source: Source) -> Result<Unpacked, Error> {
        let links = match links {
            Links::Inside => "inside",
            Links::Any => "any",
        };
        let call = self.call(Method::PUT, "tree", path, &format!("&parents={parents}&links={links}"));
        self.send(&call, source).await
    }

    /// Watches a file or a directory, or, if `recursive`, all that is below it. What happens after this returns is told.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `limit.watches`.
    pub async fn watch(&self, path: &Path, recursive: bool) -> Result<Watching, Error> {
        let call = self.call(Method::GET, "watch", path, &format!("&recursive={recursive}"));
        Ok(Watching { open: self.opened(&call).await?, parser: Parser::default() })
    }

    fn call(&self, method: Method, verb: &str, path: &Path, rest: &str) -> Call {
        let target = format!("/files/{verb}?path={}{rest}", encode(path));
        Call::new(method, Client::data_path(self.instance, &target), DEADLINE)
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, verb: &str, path: &Path, rest: &str) -> Result<T, Error> {
        self.client.data(self.instance, &self.call(method, verb, path, rest)).await
    }

    async fn remove_by(&self, verb: &str, path: &Path) -> Result<(), Error> {
        self.client.data_raw(self.instance, &self.call(Method::DELETE, verb, path, "")).await.map(drop)
    }

    /// Opens a stream, again where that is allowed.
    async fn opened(&self, call: &Call) -> Result<Open, Error> {
        let mut again = Again::default();
        loop {
            match self.opened_once(call).await {
                Ok(open) => return Ok(open),
                Err(error) => again.wait_or_give_up(self.client.gateways(), error, call).await?,
            }
        }
    }

    /// Opens a stream, with a new token if the old one is refused.
    pub(crate) async fn opened_once(&self, call: &Call) -> Result<Open, Error> {
        let token = self.client.token(self.instance).await?;
        match self.client.gateways().open(call, &token).await {
            Err(error) if wants_new_token(error.code()) => {
                self.client.forget_token(self.instance, &token);
                let token = self.client.token(self.instance).await?;
                self.client.gateways().open(call, &token).await
            }
            opened => opened,
        }
    }

    async fn send<T: DeserializeOwned>(&self, call: &Call, source: Source) -> Result<T, Error> {
        // A body can be sent once. That the instance is awake and the token good is found out before.
        self.stat(Path::new("."), true).await?;
        let token = self.client.token(self.instance).await?;
        let open =
            source.send(async |body, count| self.client.gateways().stream(call, &token, body, stalled(count)).await);
        let answer = Incoming::new(open.await?).bytes(ANSWER_MAX).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| Error::Protocol(format!("its answer was not understood: {error}")))
    }
}

impl Watching {
    /// The next change; `None` once what is watched is gone.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`]: watch again, and look at what may have changed meanwhile.
    pub async fn next(&mut self) -> Result<Option<FileChange>, Error> {
        loop {
            if let Some(data) = self.parser.next().and_then(|frame| frame.data) {
                let said: Said = serde_json::from_str(&data)
                    .map_err(|error| Error::Protocol(format!("a change was not understood: {error}")))?;
                return Ok(Some(said.into()));
            }
            let broken = |why: &str| Error::Broken { address: self.open.door.origin.to_string(), why: why.to_owned() };
            match timeout(SILENCE, self.open.body.frame()).await.map_err(|_| broken("it fell silent"))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&error.to_string())),
                Some(Ok(frame)) => self.parser.push(&frame.into_data().unwrap_or_default())?,
            }
        }
    }
}

/// A change as the agent says it.
#[derive(Deserialize)]
struct Said {
    r#type: FileChangeKind,
    #[serde(default)]
    path: String,
    path_encoded: Option<String>,
    from: Option<String>,
    from_encoded: Option<String>,
    #[serde(default)]
    directory: bool,
}

impl From<Said> for FileChange {
    fn from(said: Said) -> Self {
        let encoded = |text: Option<String>| text.map(|text| decode_path(&text));
        Self {
            kind: said.r#type,
            path: encoded(said.path_encoded).unwrap_or_else(|| said.path.into()),
            from: encoded(said.from_encoded).or(said.from.map(PathBuf::from)),
            is_directory: said.directory,
        }
    }
}

fn with_mode(mode: Option<u32>) -> String {
    mode.map_or_else(String::new, |mode| format!("&mode={mode:o}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_the_architecture_writes_them() {
        let read = |json: &str| FileChange::from(serde_json::from_str::<Said>(json).unwrap());
        let moved = read(r#"{"type":"moved","path":"/b","from":"/a","from_encoded":"/%FF","directory":true}"#);
        assert_eq!((moved.kind, moved.is_directory), (FileChangeKind::Moved, true));
        assert_eq!((moved.path, moved.from), ("/b".into(), Some(decode_path("/%FF"))));
        assert_eq!(read(r#"{"type":"gap"}"#).kind, FileChangeKind::Gap);
    }
}
