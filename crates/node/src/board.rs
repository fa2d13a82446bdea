//! The node's list of instances, kept true by one watch on their records.
//!
//! Every instance that this node has to do with gets a task of its own; this one only tells them their records, in
//! order, and starts them when they begin to matter. It exists for as long as the node holds its lease. When that is lost
//! every task kills what it runs if others may be given it; the others go on, and are handed to the list of the next lease.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use landfast_core::record::{Instance, Phase, keys};
use landfast_core::{InstanceId, lifecycle};
use landfast_net::role::CancellationToken;
use landfast_registry::records;
use landfast_registry::store::{Change, Revision, StoreError, Watch, WatchEvent};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use crate::agent::{Note, clear_away};
use crate::crew::Crew;
use crate::dir::{InstanceDir, instances};
use crate::instance::{Context, Known, Task};
use crate::relay::Question;

/// How long the first look at all instances may keep the relay from listening. An agent that takes longer is adopted
/// later; its door stays closed until then.
const ADOPT_DEADLINE: Duration = Duration::from_secs(2);

/// Between tries to watch a store that does not answer. The store's own watch does not spin; this is for its errors that
/// come at once.
const WATCH_AGAIN: Duration = Duration::from_millis(200);

/// Between tries to read the record of what is in doubt.
const DOUBT_AGAIN: Duration = Duration::from_secs(1);

/// How long after a task that panicked another takes its place: one that panics again and again keeps nobody from working.
const REPLACE_AFTER: Duration = Duration::from_secs(1);

/// And when the lease is over: what it is to kill must be dead within two seconds.
const REPLACE_TO_END: Duration = Duration::from_millis(100);

/// The node's instances during one lease.
pub(crate) struct Board {
    ctx: Arc<Context>,
    tenure: CancellationToken,
    live: HashMap<InstanceId, watch::Sender<Known>>,
    /// Of the instances that end with the lease.
    tasks: Crew,
    /// Of those that do not.
    bound: Crew,
    /// Whether what the first snapshot gives to this node has to be claimed.
    must_claim: bool,
    /// Who waits for a record to be read.
    asked: HashMap<InstanceId, Vec<oneshot::Sender<Option<Instance>>>>,
    /// What went on without a lease and is in no listing: its record may be gone, but only the record itself says so.
    doubted: BTreeSet<InstanceId>,
    doubt_at: Instant,
    reads: JoinSet<(InstanceId, Reading)>,
}

/// What outlasts a lease.
pub(crate) struct Rest {
    questions: mpsc::Receiver<Question>,
    live: HashMap<InstanceId, watch::Sender<Known>>,
    bound: Crew,
}

impl Rest {
    /// That of a node that runs nothing yet.
    pub(crate) fn new(questions: mpsc::Receiver<Question>) -> Self {
        Self { questions, live: HashMap::new(), bound: Crew::default() }
    }
}

/// What came of reading one record.
type Reading = Result<Option<(Instance, Revision)>, StoreError>;

impl Board {
    pub(crate) fn new(ctx: Arc<Context>, tenure: CancellationToken) -> Self {
        Self {
            ctx,
            tenure,
            live: HashMap::new(),
            tasks: Crew::default(),
            bound: Crew::default(),
            must_claim: false,
            asked: HashMap::new(),
            doubted: BTreeSet::new(),
            doubt_at: Instant::now(),
            reads: JoinSet::new(),
        }
    }

    /// Adopts what runs, says so through `adopted`, and works until the tenure ends and what ended with it is killed.
    /// Gives back what goes on, for the next tenure.
    pub(crate) async fn run(mut self, rest: Rest, adopted: Option<oneshot::Sender<()>>) -> Rest {
        let Rest { mut questions, live, bound } = rest;
        (self.live, self.bound) = (live, bound);
        let tenure = self.tenure.clone();
        let mut watch = self.ctx.store.watch(keys::INSTANCES, None);
        let work = async {
            self.adopt(&mut watch).await;
            drop(adopted);
            self.work(&mut watch, &mut questions).await;
        };
        tenure.run_until_cancelled(work).await;
        while let Some((id, ended)) = self.tasks.join_next().await {
            match ended {
                Ok(_) => drop(self.live.remove(&id)),
                // What it was to kill still runs.
                Err(error) => self.replace(id, &error),
            }
        }
        Rest { questions, live: self.live, bound: self.bound }
    }

    /// Takes up every instance of the first snapshot, and waits until each has been looked at.
    async fn adopt(&mut self, watch: &mut Watch) {
        let listing = loop {
            match watch.next().await {
                Ok(WatchEvent::Snapshot(listing)) => break listing,
                Ok(WatchEvent::Changes(_) | WatchEvent::Resync | WatchEvent::Back) => {}
                Err(error) => {
                    debug!(%error, "the instances cannot be listed yet");
                    sleep(WATCH_AGAIN).await;
                }
            }
        };
        self.must_claim = self.ctx.claims.are_owed();
        let mut settling = Vec::new();
        let mut known = Vec::new();
        for entry in listing.entries {
            let Some(record) = read(&entry.key, &entry.value) else { continue };
            known.push(record.id);
            settling.extend(self.tell(record, entry.revision));
        }
        let settled = async {
            for one in settling {
                // Its end is what is waited for, not a word.
                let _ = one.await;
            }
        };
        self.doubted = self.live.keys().filter(|id| !known.contains(id)).copied().collect();
        let adopted = tokio::join!(timeout(ADOPT_DEADLINE, settled), end_orphans(&self.ctx, &known)).0;
        match adopted {
            Ok(()) => self.ctx.claims.settle(),
            Err(_) => warn!("some agents take long to be adopted; the node serves the others"),
        }
        // What comes from now on was given to the node as it is.
        self.must_claim = false;
        info!(instances = self.live.len(), "the node's instances were looked at");
    }

    async fn work(&mut self, watch: &mut Watch, questions: &mut mpsc::Receiver<Question>) {
        loop {
            tokio::select! {
                event = watch.next() => match event {
                    Ok(event) => self.handle_event(event),
                    Err(error) => {
                        debug!(%error, "the instances cannot be watched; what runs goes on");
                        sleep(WATCH_AGAIN).await;
                    }
                },
                Some(question) = questions.recv() => self.handle_question(question),
                Some(read) = self.reads.join_next() => match read {
                    Ok((id, read)) => self.handle_read(id, read),
                    Err(error) => error!(%error, "a read of a record ended badly"),
                },
                Some((id, ended)) = self.tasks.join_next() => self.handle_task_end(id, ended),
                Some((id, ended)) = self.bound.join_next() => self.handle_task_end(id, ended),
                () = sleep_until(self.doubt_at), if !self.doubted.is_empty() => self.look_for_doubted(),
            }
        }
    }

    fn handle_event(&mut self, event: WatchEvent) {
        match event {
            // An instance that is missing from a snapshot is not ended for that: only a change says so.
            WatchEvent::Snapshot(listing) => {
                for entry in listing.entries {
                    if let Some(record) = read(&entry.key, &entry.value) {
                        self.tell(record, entry.revision);
                    }
                }
            }
            WatchEvent::Changes(changes) => changes.into_iter().for_each(|change| self.handle_change(change)),
            WatchEvent::Resync => info!("the watch of the instances begins anew"),
            WatchEvent::Back => {}
        }
    }

    fn handle_change(&mut self, change: Change) {
        match change.value {
            Some(value) => {
                if let Some(record) = read(&change.key, &value) {
                    self.tell(record, change.revision);
                }
            }
            None => {
                let id = change.key.strip_prefix(keys::INSTANCES).and_then(|id| id.parse().ok());
                if let Some(id) = id {
                    self.forget(id, change.revision);
                }
            }
        }
    }

    fn handle_question(&mut self, Question { id, answer }: Question) {
        match self.asked.entry(id) {
            MapEntry::Occupied(mut waiting) => waiting.get_mut().push(answer),
            MapEntry::Vacant(vacant) => {
                vacant.insert(vec![answer]);
                self.read(id);
            }
        }
    }

    /// Reads the record of one of those that are in doubt; its answer begins the next.
    fn look_for_doubted(&mut self) {
        self.doubt_at = Instant::now() + DOUBT_AGAIN;
        if let Some(&id) = self.doubted.first() {
            self.read(id);
        }
    }

    fn read(&mut self, id: InstanceId) {
        let store = self.ctx.store.clone();
        self.reads.spawn(async move { (id, records::instance(&*store, id).await) });
    }

    /// Without an answer the askers' own deadline passes no slower than an error would be told: dropping tells them.
    fn handle_read(&mut self, id: InstanceId, read: Reading) {
        let waiting = self.asked.remove(&id).unwrap_or_default();
        let record = match read {
            Ok(Some((record, revision))) => {
                self.tell(record.clone(), revision);
                Some(record)
            }
            Ok(None) => {
                // The watch tells of what is removed from now on; this was removed before.
                if self.doubted.contains(&id)
                    && let Some(live) = self.live.get(&id)
                {
                    live.send_modify(|known| known.record = None);
                }
                None
            }
            Err(error) => {
                debug!(instance = %id, %error, "a record could not be read");
                return;
            }
        };
        if self.doubted.remove(&id) {
            self.doubt_at = Instant::now();
        }
        for answer in waiting {
            // Whoever has stopped waiting needs no answer.
            let _ = answer.send(record.clone());
        }
    }

    /// A task has ended; if its instance has begun to matter again meanwhile, it gets another.
    fn handle_task_end(&mut self, id: InstanceId, ended: Result<Revision, JoinError>) {
        let seen = match ended {
            Ok(seen) => seen,
            Err(error) => return self.replace(id, &error),
        };
        let Some(sender) = self.live.remove(&id) else { return };
        let Known { revision, record } = sender.borrow().clone();
        match record {
            Some(record) if revision > seen => drop(self.tell(record, revision)),
            Some(_) | None => {}
        }
    }

    /// A task has panicked, and left its instance as it was: another finds out how that is, and goes on.
    fn replace(&mut self, id: InstanceId, error: &JoinError) {
        error!(instance = %id, %error, "an instance's task ended badly; another takes its place");
        let Some(live) = self.live.get(&id) else { return };
        let receiver = live.subscribe();
        let Some(record) = receiver.borrow().record.clone() else {
            // Nothing is known of it but that nothing of it may run here.
            self.live.remove(&id);
            self.ctx.fence.leave(id);
            let ctx = self.ctx.clone();
            tokio::spawn(async move {
                if let Err(error) = end_orphan(&ctx, id, &ctx.driver.dir(id)).await {
                    error!(instance = %id, %error, "an agent without a record cannot be ended");
                }
            });
            return;
        };
        let (settling, _) = oneshot::channel();
        let must_claim = self.must_claim || self.ctx.claims.are_owed();
        let task = Task::new(self.ctx.clone(), &record, must_claim, settling);
        // What is to end with the lease is not waited for any longer than such a loop has to be slow.
        let is_over = self.tenure.is_cancelled();
        self.begin(&record, |tenure| async move {
            if is_over {
                sleep(REPLACE_TO_END).await;
            } else {
                tenure.run_until_cancelled(sleep(REPLACE_AFTER)).await;
            }
            task.run(receiver, tenure).await
        });
    }

    /// Begins an instance's task among those that end with the lease, or among the others.
    fn begin<F>(&mut self, record: &Instance, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Revision> + Send + 'static,
    {
        if lifecycle::is_bound(record) {
            self.bound.spawn(record.id, task(CancellationToken::new()));
        } else {
            self.tasks.spawn(record.id, task(self.tenure.clone()));
        }
    }

    /// Hands a record on, unless something newer is known. Returns what ends when a new task has taken its first look.
    fn tell(&mut self, record: Instance, revision: Revision) -> Option<oneshot::Receiver<()>> {
        match self.live.entry(record.id) {
            MapEntry::Occupied(live) => {
                let fence = &self.ctx.fence;
                live.get().send_if_modified(|known| {
                    let newer = revision > known.revision;
                    if newer {
                        // At once, and not when the task comes to it: the relay may have asked for this record.
                        fence.learn(&record);
                        *known = Known { revision, record: Some(record) };
                    }
                    newer
                });
                None
            }
            MapEntry::Vacant(vacant) => {
                if !concerns(&self.ctx, &record) {
                    return None;
                }
                let (settling, settled) = oneshot::channel();
                let task = Task::new(self.ctx.clone(), &record, self.must_claim, settling);
                let (sender, receiver) = watch::channel(Known { revision, record: Some(record.clone()) });
                vacant.insert(sender);
                self.begin(&record, |tenure| task.run(receiver, tenure));
                Some(settled)
            }
        }
    }

    /// The record was removed. Without a task nothing runs, but a tombstone's files may be left.
    fn forget(&mut self, id: InstanceId, revision: Revision) {
        if let Some(live) = self.live.get(&id) {
            live.send_replace(Known { revision, record: None });
            return;
        }
        let dir = self.ctx.driver.dir(id);
        if dir.exists() {
            tokio::spawn(async move {
                if let Err(error) = remove_swept(id, &dir).await {
                    error!(instance = %id, %error, "the files of a forgotten instance stay");
                }
            });
        }
    }
}

/// Whether this node has anything to do for the instance.
fn concerns(ctx: &Context, record: &Instance) -> bool {
    let mine = record.node == Some(ctx.me) && !record.phase.is_end();
    let coming = record.moving.as_ref().is_some_and(|moving| moving.to == ctx.me);
    // Another node of the host may have died with it.
    let is_over = record.phase.is_end() || record.phase == Phase::Sleeping;
    let here = record.host.as_ref() == Some(&ctx.host);
    // It was placed on another host while this one was away, and an agent outlives its daemon.
    let elsewhere = record.host.is_some() && !here && record.node != Some(ctx.me);
    let remains = ((is_over && here) || elsewhere) && ctx.driver.dir(record.id).exists();
    mine || coming || remains
}

/// Ends agents on this host that no record speaks of. Their files stay: the records may have been lost.
async fn end_orphans(ctx: &Context, known: &[InstanceId]) {
    let orphans = match directories(ctx) {
        Ok(found) => found.into_iter().filter(|(id, _)| !known.contains(id)),
        Err(error) => {
            error!(%error, "the instances' directories cannot be read");
            return;
        }
    };
    for (id, dir) in orphans {
        if let Err(error) = end_orphan(ctx, id, &dir).await {
            error!(instance = %id, %error, "an agent without a record cannot be ended");
        }
    }
}

async fn end_orphan(ctx: &Context, id: InstanceId, dir: &InstanceDir) -> io::Result<()> {
    // The listing may be older than the instance.
    if records::instance(&*ctx.store, id).await.map_err(io::Error::other)?.is_some() {
        return Ok(());
    }
    let _lock = dir.lock().await?;
    if let Some(note) = Note::read(dir, id)? {
        warn!(instance = %id, "this host has files of an instance that the registry does not know; its processes end");
        clear_away(&note).await?;
    }
    Ok(())
}

fn directories(ctx: &Context) -> io::Result<Vec<(InstanceId, InstanceDir)>> {
    let entries = match fs::read_dir(instances(&ctx.driver.data)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push((id, InstanceDir::at(entry.path())));
        }
    }
    Ok(found)
}

/// Removes what is left of an instance whose record's day is over.
async fn remove_swept(id: InstanceId, dir: &InstanceDir) -> io::Result<()> {
    let _lock = dir.lock().await?;
    if let Some(note) = Note::read(dir, id)? {
        clear_away(&note).await?;
    }
    dir.remove().await
}

fn read(key: &str, value: &Bytes) -> Option<Instance> {
    records::decode(key, value).inspect_err(|error| error!(%error, "a record is passed over")).ok()
}
