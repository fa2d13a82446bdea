//! Where everybody writes down what happens, and the one who listens to the registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use landfast_core::record::{Instance, Node, Phase, Restart, keys};
use landfast_registry::records::decode;
use landfast_registry::store::{Change, Store, Watch, WatchEvent};
use tokio::time::{Instant, sleep};

use crate::cell::Cell;
use crate::evidence::{At, End, Evidence, Recorded, Request, Talk};
use crate::plan::Host;

/// The label under which an instance says what it was asked for as.
pub(crate) const WISH: &str = "wish";

/// The book of a run.
pub(crate) struct Book {
    pub(crate) started: Instant,
    /// The same moment by the clock that ledgers are written by.
    started_wall: Duration,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    evidence: Evidence,
    /// When the faults were over, once they are.
    quiet: Option<At>,
    /// The last that the registry said of each instance, and whether it is placed again after its end.
    standing: BTreeMap<String, (Recorded, bool)>,
    /// Nodes by their ids.
    nodes: BTreeMap<String, Host>,
}

impl Book {
    pub(crate) fn open() -> Arc<Self> {
        let started_wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Arc::new(Self { started: Instant::now(), started_wall, pages: Mutex::default() })
    }

    /// Now.
    pub(crate) fn now(&self) -> At {
        self.started.elapsed()
    }

    /// When something was, by what a ledger says.
    pub(crate) fn at(&self, micros_since_1970: u64) -> At {
        Duration::from_micros(micros_since_1970).saturating_sub(self.started_wall)
    }

    // --- clients ---

    /// A session stands. Says its number.
    pub(crate) fn begins(&self, talk: Talk) -> usize {
        let mut pages = self.pages();
        pages.evidence.talks.push(talk);
        pages.evidence.talks.len() - 1
    }

    /// Something came over a session.
    pub(crate) fn goes_on(&self, talk: usize) {
        let now = self.now();
        let mut pages = self.pages();
        if pages.quiet.is_some() && pages.evidence.talks[talk].again.is_none() {
            pages.evidence.talks[talk].again = Some(now);
        }
    }

    /// A session has ended.
    pub(crate) fn ends(&self, talk: usize, end: End) {
        let now = self.now();
        self.pages().evidence.talks[talk].end = Some((now, end));
    }

    /// A request has an outcome.
    pub(crate) fn asked(&self, request: Request) {
        self.pages().evidence.requests.push(request);
    }

    /// An instance is asked for.
    pub(crate) fn wishes(&self, wish: &str) {
        self.pages().evidence.wished.push(wish.to_owned());
    }

    /// The faults are over.
    pub(crate) fn is_quiet(&self) {
        let now = self.now();
        self.pages().quiet = Some(now);
    }

    /// Whether an instance has ended and does not come again.
    pub(crate) fn is_over(&self, instance: &str) -> bool {
        let pages = self.pages();
        let Some((record, comes_again)) = pages.standing.get(instance) else { return false };
        match record.phase {
            None | Some(Phase::Stopped | Phase::Deleted) => true,
            Some(Phase::Failed | Phase::Lost) => !comes_again,
            Some(Phase::Pending | Phase::Starting | Phase::Running | Phase::Moving | Phase::Sleeping) => false,
        }
    }

    /// The instances that have not ended, each with the node it is at.
    pub(crate) fn live(&self) -> Vec<(String, Option<Host>)> {
        let pages = self.pages();
        let live = pages.standing.iter().filter(|(_, (record, comes_again))| match record.phase {
            None => false,
            Some(Phase::Lost | Phase::Failed) => *comes_again,
            Some(phase) => !phase.is_end(),
        });
        live.map(|(id, (record, _))| (id.clone(), record.node)).collect()
    }

    /// All instances that there ever were.
    pub(crate) fn known(&self) -> Vec<String> {
        self.pages().standing.keys().cloned().collect()
    }

    /// All that was written, for the judge.
    pub(crate) fn close(&self) -> Evidence {
        let mut pages = self.pages();
        let quiet = pages.quiet.unwrap_or_default();
        Evidence { quiet, ..std::mem::take(&mut pages.evidence) }
    }

    // --- the registry ---

    /// Writes down what the registry says, until it is dropped.
    pub(crate) async fn listens(&self) {
        let store = Cell::store();
        let (mut instances, mut nodes) = (store.watch(keys::INSTANCES, None), store.watch(keys::NODES, None));
        loop {
            tokio::select! {
                changes = next(&mut nodes) => changes.into_iter().for_each(|change| self.node(&change)),
                changes = next(&mut instances) => changes.into_iter().for_each(|change| self.instance(&change)),
            }
        }
    }

    fn node(&self, change: &Change) {
        let Some(node) = change.value.as_ref().and_then(|value| decode::<Node>(&change.key, value).ok()) else {
            return;
        };
        let host = node.name.chars().next().map_or(Host::Clients, Host::Node);
        self.pages().nodes.insert(node.id.to_string(), host);
    }

    fn instance(&self, change: &Change) {
        let at = self.now();
        let instance = change.key.strip_prefix(keys::INSTANCES).unwrap_or_default().to_owned();
        let mut pages = self.pages();
        let before = pages.standing.get(&instance).cloned();
        let record = change.value.as_ref().and_then(|value| decode::<Instance>(&change.key, value).ok());
        let (recorded, comes_again) = match record {
            Some(record) => {
                let node = record.node.and_then(|node| pages.nodes.get(&node.to_string()).copied());
                let recorded = Recorded {
                    at,
                    instance: instance.clone(),
                    wish: record.labels.get(WISH).cloned().unwrap_or_default(),
                    phase: Some(record.phase),
                    generation: record.generation.0,
                    node: node.or(before.and_then(|(before, _)| before.node)),
                    reason: record.reason.unwrap_or_default(),
                };
                (recorded, record.spec.restart == Restart::Always)
            }
            None => {
                let Some((before, _)) = before else { return };
                (Recorded { at, phase: None, ..before }, false)
            }
        };
        pages.evidence.records.push(recorded.clone());
        pages.standing.insert(instance, (recorded, comes_again));
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().expect("no holder panics")
    }
}

/// What a watch says next; a store that does not answer is waited for.
async fn next(watch: &mut Watch) -> Vec<Change> {
    loop {
        match watch.next().await {
            Ok(WatchEvent::Changes(changes)) => return changes,
            Ok(WatchEvent::Snapshot(listing)) => {
                let change = |entry: landfast_registry::store::Entry| Change {
                    key: entry.key,
                    value: Some(entry.value),
                    revision: entry.revision,
                };
                return listing.entries.into_iter().map(change).collect();
            }
            Ok(WatchEvent::Resync | WatchEvent::Back) => {}
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}
