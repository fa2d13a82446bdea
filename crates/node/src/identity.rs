//! Who a node is: the same id after every restart, and one daemon for one name at a time.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfast_core::{ErrorCode, NodeId, Problem};
use landfast_net::reverse::NodeSecret;
use landfast_net::tenure::TenureFile;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// How long a daemon that was killed may take to let go of its name: the kernel takes its memory apart first.
const NAME_DEADLINE: Duration = Duration::from_secs(3);

/// Between two tries; short beside a restart that must not be noticed.
const NAME_RETRY: Duration = Duration::from_millis(10);

/// A node's identity, held as long as this lives.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The node's id.
    pub(crate) id: NodeId,
    /// The port its relay had last.
    pub(crate) port: Option<u16>,
    directory: PathBuf,
    _name: Flock<File>,
}

/// Whether the node may have been without a record in the registry, and so have been called lost, since it last claimed
/// its instances. Kept on disk, because the daemon that was away and the one that claims need not be the same.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    mark: PathBuf,
}

/// What is kept on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    id: NodeId,
    #[serde(default)]
    port: Option<u16>,
}

impl Identity {
    /// Takes the name, and with it the id that it had before or a new one.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`] if another daemon of this machine has the name or the directory cannot be used.
    pub(crate) async fn take(data: &Path, name: &str) -> Result<Self, Problem> {
        let directory = data.join("nodes").join(name);
        let unusable = |error: io::Error| {
            tracing::error!(%error, directory = %directory.display(), "the node's directory cannot be used");
            Problem::new(ErrorCode::ConfigInvalid, format!("The directory of node {name} cannot be used: {error}."))
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(unusable)?;
        let lock = take_lock(&directory.join("lock")).await.map_err(unusable)?;
        let lock = lock.ok_or_else(|| taken(name))?;
        let path = directory.join("node.json");
        let saved = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| unusable(error.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let saved = Saved { id: landfast_net::random::node_id(), port: None };
                save(&path, &saved).map_err(unusable)?;
                saved
            }
            Err(error) => return Err(unusable(error)),
        };
        Ok(Self { id: saved.id, port: saved.port, directory, _name: lock })
    }

    /// Remembers the relay's port, so that routes stay true over a restart.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn remember_port(&self, port: u16) -> io::Result<()> {
        if self.port == Some(port) {
            return Ok(());
        }
        save(&self.directory.join("node.json"), &Saved { id: self.id, port: Some(port) })
    }

    /// What this node alone knows, and shows where it brings connections: the same after every restart, so that routes stay
    /// true.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`]: the file cannot be used.
    pub(crate) fn reverse_secret(&self) -> Result<NodeSecret, Problem> {
        let path = self.directory.join("reverse-secret");
        let unusable = |why: &dyn fmt::Display| {
            Problem::new(ErrorCode::ConfigInvalid, format!("{} cannot be used: {why}.", path.display()))
        };
        match fs::read_to_string(&path) {
            Ok(text) => NodeSecret::from_hex(&text).ok_or_else(|| unusable(&"it holds no secret")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = NodeSecret::generate();
                let next = path.with_extension("new");
                let written = File::options().write(true).create(true).truncate(true).mode(0o600).open(&next);
                let written = written.and_then(|mut file| {
                    file.write_all(secret.to_hex().as_bytes())?;
                    file.sync_all()?;
                    fs::rename(&next, &path)
                });
                written.map_err(|error| unusable(&error))?;
                Ok(secret)
            }
            Err(error) => Err(unusable(&error)),
        }
    }

    /// The mark of what has still to be claimed.
    pub(crate) fn claims(&self) -> Claims {
        Claims { mark: self.directory.join("unclaimed") }
    }

    /// Where the node's agents can read until when it may serve.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`] if the file cannot be had.
    pub(crate) fn tenure(&self) -> Result<TenureFile, Problem> {
        let path = self.directory.join("lease");
        TenureFile::open(&path).map_err(|error| {
            Problem::new(ErrorCode::ConfigInvalid, format!("{} cannot be used: {error}.", path.display()))
        })
    }

    /// A place below the data directory for what lives only while the node starts.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.directory.join("probe")
    }
}

impl Claims {
    /// The node has no record now, and is about to have one again.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn owe(&self) -> io::Result<()> {
        File::create(&self.mark).map(drop)
    }

    /// Whether what the node was given before has to be claimed.
    pub(crate) fn are_owed(&self) -> bool {
        self.mark.exists()
    }

    /// Everything was claimed.
    pub(crate) fn settle(&self) {
        if let Err(error) = fs::remove_file(&self.mark)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "instances will be claimed once more after the next restart");
        }
    }
}

/// Writes a file so that a crash of this process leaves the old text or the new one.
///
/// # Errors
///
/// The file system's.
pub(crate) fn replace<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write(path, value, |_| Ok(()))
}

/// Writes a file so that a crash of the machine leaves the old text or the new one.
fn save<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write(path, value, File::sync_all)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn write<T: Serialize>(path: &Path, value: &T, sync: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    sync(&file)?;
    fs::rename(&fresh, path)
}

async fn take_lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let deadline = tokio::time::Instant::now() + NAME_DEADLINE;
    loop {
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((_, nix::Error::EWOULDBLOCK)) if tokio::time::Instant::now() >= deadline => return Ok(None),
            Err((_, nix::Error::EWOULDBLOCK)) => tokio::time::sleep(NAME_RETRY).await,
            Err((_, error)) => return Err(error.into()),
        }
    }
}

fn taken(name: &str) -> Problem {
    Problem::new(
        ErrorCode::ConfigInvalid,
        format!("Another node named {name} runs on this machine; stop it, or give this one another name."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_comes_back_as_itself_with_its_port() {
        let data = tempfile::tempdir().unwrap();
        let first = Identity::take(data.path(), "a").await.unwrap();
        first.remember_port(4711).unwrap();
        let id = first.id;
        drop(first);
        let again = Identity::take(data.path(), "a").await.unwrap();
        assert_eq!((again.id, again.port), (id, Some(4711)));
        assert_ne!(Identity::take(data.path(), "b").await.unwrap().id, id);
    }

    #[tokio::test]
    async fn a_second_daemon_with_the_name_is_refused_with_what_to_do() {
        let data = tempfile::tempdir().unwrap();
        let _first = Identity::take(data.path(), "a").await.unwrap();
        let problem = Identity::take(data.path(), "a").await.unwrap_err();
        assert!(problem.detail.contains("another name"), "{problem}");
    }

    #[tokio::test]
    async fn a_damaged_identity_is_not_replaced() {
        let data = tempfile::tempdir().unwrap();
        drop(Identity::take(data.path(), "a").await.unwrap());
        fs::write(data.path().join("nodes/a/node.json"), "{").unwrap();
        assert_eq!(Identity::take(data.path(), "a").await.unwrap_err().code, ErrorCode::ConfigInvalid);
        assert_eq!(fs::read(data.path().join("nodes/a/node.json")).unwrap(), b"{");
    }
}
