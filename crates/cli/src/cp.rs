//! `landfast cp`: files and trees between this machine and instances, as streams.

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfast_client::{Client, Count, Error, FileInfo, FileKind, Files, Incoming, Links, Source, Unpacked, WriteFile};
use landfast_core::{ErrorCode, InstanceId};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::args::{Cp, Format};
use crate::failure::Failure;

/// How often the line about how far it is is written anew, and how long a copy may take that is not worth one.
const TICK: Duration = Duration::from_millis(250);
const UNNOTICED: Duration = Duration::from_millis(750);

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Standard input or output.
    Pipe,
    Local(PathBuf),
    Instance(InstanceId, PathBuf),
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default)]
struct Copied(Unpacked);

/// `landfast cp`.
///
/// # Errors
///
/// What was refused, here or there.
pub(crate) async fn cp(client: &Client, wish: &Cp) -> Result<(), Failure> {
    let (source, target) = (Place::read(&wish.source)?, Place::read(&wish.target)?);
    let job = Job { client, wish, count: Count::default() };
    let copied = tokio::select! {
        copied = job.run(source, target) => copied,
        never = show(&job.count) => match never {},
    };
    hide();
    let Copied(done) = copied?;
    if wish.output.format == Format::Json && wish.target != "-" {
        let Unpacked { files, directories, links, bytes } = done;
        let done = json!({ "files": files, "directories": directories, "links": links, "bytes": bytes });
        crate::print::answer(Format::Json, &done, String::new);
    }
    Ok(())
}

impl Place {
    /// Reads one side. What begins with an instance's id and a colon is in it; a file of this machine that is called
    /// like that is `./ID:…`.
    fn read(text: &str) -> Result<Self, Failure> {
        if text == "-" {
            return Ok(Self::Pipe);
        }
        match text.split_once(':') {
            Some((id, path)) if !id.contains('/') => match id.parse() {
                Ok(id) => Ok(Self::Instance(id, if path.is_empty() { ".".into() } else { path.into() })),
                Err(_) if Path::new(text).exists() => Ok(Self::Local(text.into())),
                Err(error) => Err(Failure::usage(format!(
                    "{id} is no instance's id ({error}). A file of this machine with a colon in its name is written ./{text}."
                ))),
            },
            _ if text.is_empty() => Err(Failure::usage("A path is empty.")),
            _ => Ok(Self::Local(text.into())),
        }
    }
}

struct Job<'a> {
    client: &'a Client,
    wish: &'a Cp,
    count: Count,
}

impl Job<'_> {
    async fn run(&self, source: Place, target: Place) -> Result<Copied, Failure> {
        match (source, target) {
            (Place::Instance(from, path), Place::Instance(to, target)) => {
                self.across((&self.client.files(from), &path), (&self.client.files(to), &target)).await
            }
            (Place::Instance(from, path), target) => self.download(&self.client.files(from), &path, target).await,
            (source, Place::Instance(to, target)) => self.upload(source, &self.client.files(to), &target).await,
            (Place::Local(_) | Place::Pipe, Place::Local(_) | Place::Pipe) => {
                Err(Failure::usage("Neither side is in an instance; write ID:PATH for one. cp copies on this machine."))
            }
        }
    }

    async fn upload(&self, source: Place, files: &Files, target: &Path) -> Result<Copied, Failure> {
        let path = match source {
            Place::Local(path) => path,
            Place::Pipe | Place::Instance(..) => return self.upload_pipe(files, target).await,
        };
        let metadata = std::fs::metadata(&path).map_err(|error| here(&path, &error))?;
        if metadata.is_dir() {
            self.wants_recursive(&path)?;
            let source = Source::tree(&path).await?.counted(&self.count);
            let mode = metadata.permissions().mode() & 0o777;
            let target = self.directory(files, &path, target, mode).await?;
            return Ok(Copied(files.upload(&target, false, Links::Any, source).await?));
        }
        let source = Source::file(&path).await?.counted(&self.count);
        let mode = metadata.permissions().mode() & 0o7777;
        self.write(files, target, path.file_name(), Some(mode), source).await
    }

    async fn upload_pipe(&self, files: &Files, target: &Path) -> Result<Copied, Failure> {
        let source = Source::reader(tokio::io::stdin()).counted(&self.count);
        if self.wish.recursive {
            return Ok(Copied(files.upload(target, false, Links::Any, source).await?));
        }
        self.write(files, target, None, None, source).await
    }

    /// Writes one file, into the target if that is a directory.
    async fn write(
        &self,
        files: &Files,
        target: &Path,
        name: Option<&OsStr>,
        mode: Option<u32>,
        source: Source,
    ) -> Result<Copied, Failure> {
        let is_directory = ends_in_slash(target) || is_directory(look(files, target).await?.as_ref());
        let target = match name {
            Some(name) if is_directory => target.join(name),
            _ => target.to_owned(),
        };
        let info = files.write(&target, &WriteFile { mode, ..WriteFile::default() }, source).await?;
        Ok(Copied(Unpacked { files: 1, bytes: info.size, ..Unpacked::default() }))
    }

    /// The directory of an instance into which a tree goes, which is made if it is not there.
    async fn directory(&self, files: &Files, source: &Path, target: &Path, mode: u32) -> Result<PathBuf, Failure> {
        let present = look(files, target).await?;
        let target = match (&present, name_of(source)) {
            (Some(present), Some(name)) if present.kind == FileKind::Directory => target.join(name),
            _ => target.to_owned(),
        };
        match look(files, &target).await? {
            // What is there keeps its mode.
            Some(present) if present.kind == FileKind::Directory => {}
            Some(_) | None => drop(files.make_directory(&target, false, Some(mode | 0o700)).await?),
        }
        Ok(target)
    }

    async fn download(&self, files: &Files, path: &Path, target: Place) -> Result<Copied, Failure> {
        let Place::Local(target) = target else { return self.download_pipe(files, path).await };
        let info = files.stat(path, true).await?;
        if info.kind == FileKind::Directory {
            self.wants_recursive(path)?;
            let target = match name_of(path) {
                Some(name) if target.is_dir() => target.join(name),
                _ => target,
            };
            make_here(&target, info.mode)?;
            let links = if self.wish.outside_links { Links::Any } else { Links::Inside };
            let unpacked = self.tree(files, path).await?.unpack(target, links).await;
            return Ok(Copied(unpacked.map_err(explain)?));
        }
        let is_directory = ends_in_slash(&target) || target.is_dir();
        let target = if is_directory { target.join(&info.name) } else { target };
        let content = files.read(path, 0, None).await?.counted(&self.count);
        content.save(&target, Some(info.mode & 0o777)).await?;
        Ok(Copied(Unpacked { files: 1, bytes: self.count.get(), ..Unpacked::default() }))
    }

    async fn download_pipe(&self, files: &Files, path: &Path) -> Result<Copied, Failure> {
        let incoming = match self.wish.recursive {
            true => self.tree(files, path).await?,
            false => files.read(path, 0, None).await?.counted(&self.count),
        };
        incoming.write_to(tokio::io::stdout()).await?;
        Ok(Copied::default())
    }

    async fn tree(&self, files: &Files, path: &Path) -> Result<Incoming, Failure> {
        Ok(files.download(path).await?.counted(&self.count))
    }

    /// From one instance to another, through this machine and past its disk.
    async fn across(&self, (from, path): (&Files, &Path), (to, target): (&Files, &Path)) -> Result<Copied, Failure> {
        let info = from.stat(path, true).await?;
        if info.kind == FileKind::Directory {
            self.wants_recursive(path)?;
            let target = self.directory(to, path, target, info.mode).await?;
            let source = Source::incoming(self.tree(from, path).await?);
            return Ok(Copied(to.upload(&target, false, Links::Any, source).await?));
        }
        let source = Source::incoming(from.read(path, 0, None).await?.counted(&self.count));
        self.write(to, target, path.file_name(), Some(info.mode), source).await
    }

    fn wants_recursive(&self, path: &Path) -> Result<(), Failure> {
        match self.wish.recursive {
            true => Ok(()),
            false => Err(Failure::usage(format!("{} is a directory; copy it with -r.", path.display()))),
        }
    }
}

/// What is at a path of an instance, if anything is.
async fn look(files: &Files, path: &Path) -> Result<Option<FileInfo>, Failure> {
    match files.stat(path, true).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.code() == Some(ErrorCode::FileNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_directory(info: Option<&FileInfo>) -> bool {
    info.is_some_and(|info| info.kind == FileKind::Directory)
}

/// The name under which a directory goes into another; none for `.`, `/` and what ends in `/.`.
fn name_of(path: &Path) -> Option<&OsStr> {
    let text = path.as_os_str().as_encoded_bytes();
    path.file_name().filter(|_| !text.ends_with(b"/."))
}

fn ends_in_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn make_here(path: &Path, mode: u32) -> Result<(), Failure> {
    match std::fs::DirBuilder::new().mode(mode & 0o777 | 0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(|error| here(path, &error)),
    }
}

fn here(path: &Path, error: &io::Error) -> Failure {
    let text = error.to_string();
    Failure::local(format!("{}: {}.", path.display(), text.split(" (os error").next().unwrap_or(&text)))
}

/// Says what helps against what only this side refuses.
fn explain(error: Error) -> Failure {
    let is_link = error.code() == Some(ErrorCode::FileEscape) && error.to_string().contains("is a symbolic link to");
    let failure = Failure::from(error);
    match is_link {
        true => Failure { text: format!("{failure} --outside-links makes such links as they are."), ..failure },
        false => failure,
    }
}

/// Shows a person how far it is, on one line that goes away.
async fn show(count: &Count) -> std::convert::Infallible {
    if !io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let begun = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if begun.elapsed() >= UNNOTICED {
            let (bytes, seconds) = (count.get(), begun.elapsed().as_secs_f64());
            let rate = (bytes as f64 / seconds) as u64;
            eprint!("\r\x1b[K{}, {}/s", size(bytes), size(rate));
            let _ = io::stderr().flush();
        }
    }
}

fn hide() {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

/// A number of bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10).min(UNITS.len() as u32);
    format!("{:.1} {}", bytes as f64 / 1024_f64.powi(power as i32), UNITS[power as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let id = InstanceId::new(1, 2);
        assert_eq!(Place::read("-"), Ok(Place::Pipe));
        assert_eq!(Place::read(&format!("{id}:/a:b")), Ok(Place::Instance(id, "/a:b".into())));
        assert_eq!(Place::read(&format!("{id}:")), Ok(Place::Instance(id, ".".into())));
        assert_eq!(Place::read("a/b"), Ok(Place::Local("a/b".into())));
        assert_eq!(Place::read("./x:y"), Ok(Place::Local("./x:y".into())));
        assert!(Place::read("x:y").unwrap_err().text.contains("./x:y"));
        assert!(Place::read("").is_err());
    }

    #[test]
    fn a_directory_goes_under_its_name_and_its_content_under_none() {
        for (path, name) in [("a/b", Some("b")), ("a/b/", Some("b")), ("a/b/.", None), (".", None), ("/", None)] {
            assert_eq!(name_of(Path::new(path)), name.map(OsStr::new), "{path}");
        }
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([size(5), size(2048), size(5 << 20), size(3 << 30)], ["5 B", "2.0 KiB", "5.0 MiB", "3.0 GiB"]);
    }
}
