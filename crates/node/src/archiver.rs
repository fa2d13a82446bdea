//! Copies the events of this host's instances to the archive: sealed segments within seconds, and the rest when an
//! instance ends, sleeps or is deleted.
//!
//! A store may be away for as long as it likes. Nothing waits for it for longer than ten seconds, and nothing is lost: what
//! it did not take stays in the instance's directory, or beside it once that is removed, and is tried again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream;
use landfast_core::InstanceId;
use landfast_registry::archive::Archive;
use nix::fcntl::{Flock, FlockArg};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::agent::Agent;
use crate::dir::{InstanceDir, instances};
use crate::outbox::Outbox;

/// Between two looks for sealed segments.
const EVERY: Duration = Duration::from_secs(2);

/// How long the end of an instance waits for the store.
const PATIENCE: Duration = Duration::from_secs(10);

/// Instances whose segments are copied at once: a store's answer takes long, its work does not.
const AT_ONCE: usize = 8;

/// Where the events of removed instances wait that the store did not take.
const ASIDE: &str = "events-aside";

/// One node's way to the archive.
#[derive(Debug)]
pub(crate) struct Archiver {
    data: PathBuf,
    archive: Archive,
    /// Whether the store took what it was last given. While it does not, no end waits for it.
    is_reachable: AtomicBool,
}

/// Whose events are somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    id: InstanceId,
    path: PathBuf,
    /// Put aside: what was copied is removed.
    is_aside: bool,
}

impl Archiver {
    pub(crate) fn new(data: &Path, archive: Archive) -> Self {
        Self { data: data.to_owned(), archive, is_reachable: AtomicBool::new(true) }
    }

    /// Copies what is sealed, for ever. Of the nodes of a host one does it at a time.
    pub(crate) async fn run(&self) {
        // When each place last changed of which everything was copied.
        let mut copied: HashMap<Place, SystemTime> = HashMap::new();
        loop {
            sleep(EVERY).await;
            let data = self.data.clone();
            let found = spawn_blocking(move || look(&data, &copied)).await;
            copied = match found {
                Ok(Ok(Some((due, known)))) => self.copy_all(due, known).await,
                Ok(Ok(None)) => HashMap::new(),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "stored events cannot be looked for");
                    HashMap::new()
                }
                Err(error) => {
                    tracing::error!(%error, "looking for stored events went wrong");
                    HashMap::new()
                }
            };
        }
    }

    /// Copies everything of an instance whose agent has ended; what the store does not take within ten seconds is copied
    /// later.
    pub(crate) async fn finish(&self, id: InstanceId) {
        let dir = InstanceDir::new(&self.data, id);
        if let Err(error) = seal(&dir, id).await {
            tracing::warn!(instance = %id, %error, "what an agent was writing cannot be sealed");
        }
        if self.is_reachable.load(Ordering::Relaxed) {
            let place = Place { id, path: dir.path().to_owned(), is_aside: false };
            if !matches!(timeout(PATIENCE, self.copy(&place)).await, Ok(true)) {
                self.is_reachable.store(false, Ordering::Relaxed);
                tracing::warn!(instance = %id, "the last events of an instance are archived later");
            }
        }
    }

    /// As [`Self::finish`], before the instance's directory is removed: what was not copied is put aside.
    ///
    /// # Errors
    ///
    /// The file system's; then the directory has to stay.
    pub(crate) async fn rescue(&self, id: InstanceId) -> io::Result<()> {
        self.finish(id).await;
        let (data, dir) = (self.data.clone(), InstanceDir::new(&self.data, id));
        spawn_blocking(move || put_aside(&data, id, &dir)).await.map_err(io::Error::other)?
    }

    /// Copies from all these places, and says which of them have nothing more.
    async fn copy_all(
        &self,
        due: Vec<(Place, SystemTime)>,
        mut known: HashMap<Place, SystemTime>,
    ) -> HashMap<Place, SystemTime> {
        let copied = stream::iter(due).map(async |(place, changed_at)| {
            let is_done = self.copy(&place).await;
            is_done.then_some((place, changed_at))
        });
        let copied: Vec<_> = copied.buffer_unordered(AT_ONCE).collect().await;
        known.extend(copied.into_iter().flatten());
        known
    }

    /// Copies what is sealed in a place. False if the store did not take all of it.
    async fn copy(&self, place: &Place) -> bool {
        self.try_copy(place).await.unwrap_or_else(|error| {
            tracing::warn!(instance = %place.id, %error, "stored events cannot be read");
            false
        })
    }

    async fn try_copy(&self, place: &Place) -> io::Result<bool> {
        let Some(outbox) = place.open()? else { return Ok(true) };
        for segment in outbox.pending()? {
            let Some(text) = outbox.read(segment)? else { continue };
            let put = self.archive.put(place.id, segment, text).await;
            let was_reachable = self.is_reachable.swap(put.is_ok(), Ordering::Relaxed);
            match put {
                Ok(()) if was_reachable => {}
                Ok(()) => tracing::info!("the archive takes events again"),
                Err(problem) => {
                    tracing::warn!(instance = %place.id, %problem, "events are not archived yet");
                    return Ok(false);
                }
            }
            match place.is_aside {
                true => outbox.remove(segment)?,
                false => outbox.archived(segment)?,
            }
        }
        if place.is_aside {
            fs::remove_dir_all(&place.path)?;
        }
        Ok(true)
    }
}

impl Place {
    fn open(&self) -> io::Result<Option<Outbox>> {
        if self.is_aside { Outbox::aside(&self.path) } else { Outbox::of_instance(&self.path) }
    }
}

/// Places that have something to copy, and those known to have nothing.
type Looked = (Vec<(Place, SystemTime)>, HashMap<Place, SystemTime>);

/// Looks through the host's instances; `None` if another node of the host does it.
fn look(data: &Path, copied: &HashMap<Place, SystemTime>) -> io::Result<Option<Looked>> {
    let lock = File::options().write(true).create(true).truncate(false).open(data.join("archiver.lock"))?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
    let (mut due, mut known) = (Vec::new(), HashMap::new());
    for place in places(data)? {
        // A place that cannot be read now is looked at again.
        let Ok(Some(changed_at)) = place.open().and_then(|outbox| outbox.map(|it| it.changed_at()).transpose()) else {
            continue;
        };
        if copied.get(&place) == Some(&changed_at) {
            known.insert(place, changed_at);
        } else {
            due.push((place, changed_at));
        }
    }
    Ok(Some((due, known)))
}

fn places(data: &Path) -> io::Result<Vec<Place>> {
    let mut places = Vec::new();
    for (dir, is_aside) in [(instances(data), false), (data.join(ASIDE), true)] {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            places.extend(id.map(|id| Place { id, path, is_aside }));
        }
    }
    Ok(places)
}

/// Seals what the instance's agent was writing, if none lives.
async fn seal(dir: &InstanceDir, id: InstanceId) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    // Whoever starts an agent holds it meanwhile.
    let _lock = dir.lock().await?;
    if Agent::find(dir, id)?.is_some() {
        return Ok(());
    }
    let path = dir.path().to_owned();
    let sealed = spawn_blocking(move || Outbox::of_instance(&path)?.map_or(Ok(()), |outbox| outbox.seal()));
    sealed.await.map_err(io::Error::other)?
}

fn put_aside(data: &Path, id: InstanceId, dir: &InstanceDir) -> io::Result<()> {
    let Some(outbox) = Outbox::of_instance(dir.path())? else { return Ok(()) };
    if outbox.pending()?.is_empty() {
        return Ok(());
    }
    let aside = data.join(ASIDE);
    fs::create_dir_all(&aside)?;
    match fs::rename(dir.state().join("events"), aside.join(id.to_string())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use landfast_core::event::{Page, Query, Segment};
    use landfast_registry::archive::Archive;

    use super::*;

    const ID: InstanceId = InstanceId::new(1, 1);

    struct Host {
        data: tempfile::TempDir,
        archiver: Archiver,
    }

    impl Host {
        fn new() -> Self {
            let data = tempfile::tempdir().unwrap();
            let archiver = Archiver::new(data.path(), Archive::open(data.path(), None).unwrap());
            InstanceDir::new(data.path(), ID).create(None).unwrap();
            fs::create_dir(InstanceDir::new(data.path(), ID).state().join("events")).unwrap();
            Self { data, archiver }
        }

        fn write(&self, name: &str, seq: u64) {
            let line = format!(
                "{{\"seq\":{seq},\"event\":{{\"ts\":1,\"type\":\"x\",\"category\":\"custom\",\"source\":{{\"kind\":\"agent\"}}}}}}\n"
            );
            fs::write(InstanceDir::new(self.data.path(), ID).state().join("events").join(name), line).unwrap();
        }

        /// The store is away, or back: a file stands where its directory should be.
        fn break_store(&self, breaks: bool) {
            let (store, aside) = (self.data.path().join("archive"), self.data.path().join("archive-away"));
            if breaks {
                fs::rename(&store, &aside).unwrap();
                fs::write(&store, "").unwrap();
            } else {
                fs::remove_file(&store).unwrap();
                fs::rename(&aside, &store).unwrap();
            }
        }

        async fn archived(&self) -> usize {
            let query = Query::read([], 0).unwrap();
            let (page, _) = Archive::open(self.data.path(), None).unwrap().page(ID, Page::new(query)).await.unwrap();
            serde_json::from_str::<Vec<serde_json::Value>>(&page).unwrap().len()
        }

        /// One round of looking and copying.
        async fn round(&self) {
            let (due, known) = look(self.data.path(), &HashMap::new()).unwrap().unwrap();
            self.archiver.copy_all(due, known).await;
        }
    }

    fn name(first: u64) -> String {
        Segment { start: 1_790_000_000_000, first }.to_string()
    }

    #[tokio::test]
    async fn sealed_segments_are_copied_and_the_rest_at_the_end() {
        let host = Host::new();
        host.write(&name(1), 1);
        host.write(&format!("{}.open", name(2)), 2);
        host.round().await;
        assert_eq!(host.archived().await, 1);
        host.archiver.rescue(ID).await.unwrap();
        assert_eq!(host.archived().await, 2);
        assert!(!host.data.path().join(ASIDE).exists());
    }

    #[tokio::test]
    async fn what_the_store_does_not_take_is_put_aside_and_copied_once_it_is_back() {
        let host = Host::new();
        host.write(&name(1), 1);
        host.break_store(true);
        host.round().await;
        host.write(&format!("{}.open", name(2)), 2);
        host.archiver.rescue(ID).await.unwrap();
        InstanceDir::new(host.data.path(), ID).remove().await.unwrap();
        host.round().await;
        host.break_store(false);
        assert_eq!(host.archived().await, 0);
        host.round().await;
        assert_eq!(host.archived().await, 2);
        assert!(fs::read_dir(host.data.path().join(ASIDE)).unwrap().next().is_none());
    }

    #[tokio::test]
    async fn what_was_copied_is_not_even_looked_at_again() {
        let host = Host::new();
        host.write(&name(1), 1);
        let (due, known) = look(host.data.path(), &HashMap::new()).unwrap().unwrap();
        assert_eq!((due.len(), known.len()), (1, 0));
        let copied = host.archiver.copy_all(due, known).await;
        let (due, known) = look(host.data.path(), &copied).unwrap().unwrap();
        assert_eq!((due.len(), known.len()), (0, 1));
        host.write(&name(2), 2);
        assert_eq!(look(host.data.path(), &copied).unwrap().unwrap().0.len(), 1);
    }
}
