//! What it means to be a store: the contract as tests that know nothing of how a store works.
//!
//! A store passes by giving a [`Place`] to `conformance_tests!`, or each behaviour a place of its own by `conform!`. Nothing here may assume a file, a process model or how
//! fast things are; each wait is for an event, with a deadline only so that a broken store fails instead of hanging.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};

use super::{Entry, Expect, LeaseId, Listing, RenewError, Revision, Store, StoreError, Swap, Watch, WatchEvent};
use super::{KEY_MAX, VALUE_MAX};

/// Where a fresh store of some make is, for one test.
pub(crate) trait Place: Sync {
    /// Opens one more handle on the same store, as another process would.
    fn open(&self) -> Arc<dyn Store>;
    /// A command that opens the same store in another process and runs [`do_job`] there.
    fn child(&self, job: &str) -> Command;
    /// Makes the store forget the history up to now.
    fn forget_history(&self) -> BoxFuture<'_, ()>;
    /// A time to live that the store can give: short, because tests wait for its end, but long enough that a busy machine
    /// renews in time.
    fn ttl(&self) -> Duration;
}

/// Hands the name of each behaviour of the contract to another macro, behind what that takes otherwise.
macro_rules! behaviours {
    ($run:ident! $($takes:tt)*) => {
        $run! { $($takes)*;
            a_key_that_was_never_written_is_absent
            what_was_acknowledged_is_read_by_every_handle
            of_many_who_create_a_key_one_succeeds
            a_conflict_shows_what_is_there_and_changes_nothing
            a_delete_needs_the_present_revision
            revisions_only_grow_and_name_their_change
            a_listing_holds_exactly_its_prefix_in_order
            pages_follow_each_other_without_a_gap
            no_increment_is_lost_among_writers_in_two_processes
            keys_and_values_beyond_the_bounds_are_refused
            a_lapsed_lease_takes_its_keys_along
            a_renewed_lease_lives_on
            a_lease_that_has_lapsed_is_of_no_more_use
            a_revoked_lease_takes_its_keys_along
            a_key_written_without_its_lease_outlives_it
            a_watch_begins_with_a_snapshot_of_its_prefix
            a_watch_tells_every_change_of_its_prefix_in_order
            a_watch_from_a_revision_tells_exactly_what_followed
            a_watch_misses_nothing_while_two_processes_write
            a_watch_far_behind_still_tells_every_change
            a_dropped_wait_loses_no_change
            a_watch_behind_forgotten_history_is_told_to_resync
        }
    };
}

/// Makes each behaviour of the contract a test of the store at a place.
macro_rules! conformance_tests {
    ($place:expr) => { behaviours!(conformance_tests! ($place)); };
    (($place:expr); $($name:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::store::conformance::$name(&$place).await;
        }
    )*};
}

/// Shows all behaviours of the contract one after the other, each at a place of its own, which is made for its name.
macro_rules! conform {
    ($place:expr) => { behaviours!(conform! ($place)) };
    (($place:expr); $($name:ident)*) => {$({
        let name = stringify!($name);
        // Seen if it fails: the panic itself names a line that others share.
        eprintln!("{name}");
        $crate::store::conformance::$name(&$place(name)).await;
    })*};
}

/// A process that does not outlive its test.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a command.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// What it says, line by line. Can be taken once.
    pub(crate) fn lines(&mut self) -> impl Iterator<Item = String> + Send + use<> {
        BufReader::new(self.0.stdout.take().unwrap()).lines().map(Result::unwrap)
    }

    /// Waits for its end, which must be a success.
    pub(crate) fn succeeds(mut self) {
        assert!(self.0.wait().unwrap().success());
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Far longer than any store needs; only a broken one takes as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Changes by each writer where several write: enough for their writes to meet.
const ROUNDS: u64 = 40;

/// What [`Place::child`] runs.
pub(crate) async fn do_job(store: &dyn Store, job: &str) {
    match job.split_once(' ') {
        Some(("increment", key)) => increment(store, key, ROUNDS).await,
        Some(("acknowledge", prefix)) => acknowledge(store, prefix).await,
        Some(("echo", prefix)) => echo(store, prefix).await,
        _ => panic!("unknown job {job:?}"),
    }
}

pub(crate) async fn a_key_that_was_never_written_is_absent(place: &dyn Place) {
    let store = place.open();
    assert_eq!(store.get("a").await.unwrap(), None);
    assert_eq!(store.list("").await.unwrap().entries, []);
}

pub(crate) async fn what_was_acknowledged_is_read_by_every_handle(place: &dyn Place) {
    let (writer, reader) = (place.open(), place.open());
    for value in ["one", "two", "", "four"] {
        let revision = set(&*writer, "a", value).await;
        let entry = Entry { key: "a".into(), value: value.into(), revision };
        assert_eq!(reader.get("a").await.unwrap(), Some(entry.clone()));
        assert_eq!(reader.list("").await.unwrap(), Listing { entries: vec![entry], revision });
    }
}

pub(crate) async fn of_many_who_create_a_key_one_succeeds(place: &dyn Place) {
    let stores: Vec<_> = (0..4).map(|_| place.open()).collect();
    let swaps = join_all((0..16).map(|i| put(&*stores[i % 4], "a", Expect::Absent, "x"))).await;
    assert_eq!(swaps.iter().filter(|swap| matches!(swap, Swap::Done(_))).count(), 1);
}

pub(crate) async fn a_conflict_shows_what_is_there_and_changes_nothing(place: &dyn Place) {
    let store = place.open();
    assert_eq!(put(&*store, "a", Expect::Revision(7), "x").await, Swap::Conflict(None));
    let first = set(&*store, "a", "one").await;
    let there = Some(Entry { key: "a".into(), value: "one".into(), revision: first });
    assert_eq!(put(&*store, "a", Expect::Absent, "x").await, Swap::Conflict(there.clone()));
    assert_eq!(put(&*store, "a", Expect::Revision(first + 1), "x").await, Swap::Conflict(there.clone()));
    assert_eq!(store.delete("a", Expect::Absent).await.unwrap(), Swap::Conflict(there.clone()));
    assert_eq!(store.get("a").await.unwrap(), there);
    assert_eq!(store.list("").await.unwrap().revision, first);
}

pub(crate) async fn a_delete_needs_the_present_revision(place: &dyn Place) {
    let store = place.open();
    let old = set(&*store, "a", "one").await;
    let now = set(&*store, "a", "two").await;
    assert!(matches!(store.delete("a", Expect::Revision(old)).await.unwrap(), Swap::Conflict(Some(_))));
    let gone = done(store.delete("a", Expect::Revision(now)).await.unwrap());
    assert_eq!(store.get("a").await.unwrap(), None);
    assert_eq!(store.delete("a", Expect::Revision(now)).await.unwrap(), Swap::Conflict(None));
    assert_eq!(store.delete("a", Expect::Absent).await.unwrap(), Swap::Done(gone));
    assert!(matches!(put(&*store, "a", Expect::Absent, "three").await, Swap::Done(_)));
}

pub(crate) async fn revisions_only_grow_and_name_their_change(place: &dyn Place) {
    let store = place.open();
    let mut last = store.list("").await.unwrap().revision;
    for key in ["a", "b", "a", "c"] {
        let revision = set(&*store, key, "x").await;
        assert!(revision > last);
        assert_eq!(store.get(key).await.unwrap().unwrap().revision, revision);
        last = revision;
    }
    let deleted = done(store.delete("a", Expect::Revision(revision_of(&*store, "a").await)).await.unwrap());
    assert!(deleted > last);
    assert_eq!(store.list("nothing/").await.unwrap().revision, deleted);
}

pub(crate) async fn a_listing_holds_exactly_its_prefix_in_order(place: &dyn Place) {
    let store = place.open();
    for key in ["a", "a/2", "a/10", "a/~~", "a/", "a0", "b", "A/1", "a.1"] {
        set(&*store, key, key).await;
    }
    assert_eq!(keys(&store.list("a/").await.unwrap()), ["a/", "a/10", "a/2", "a/~~"]);
    assert_eq!(keys(&store.list("b").await.unwrap()), ["b"]);
    assert_eq!(keys(&store.list("c").await.unwrap()), [""; 0]);
    assert_eq!(store.list("").await.unwrap().entries.len(), 9);
}

pub(crate) async fn pages_follow_each_other_without_a_gap(place: &dyn Place) {
    let store = place.open();
    for number in 0..7 {
        set(&*store, &format!("n/{number}"), "x").await;
    }
    set(&*store, "o", "beyond the prefix").await;
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = keys(&store.page("n/", &after, 3).await.unwrap());
        let Some(last) = page.last() else { break };
        after.clone_from(last);
        found.extend(page);
    }
    assert_eq!(found, (0..7).map(|number| format!("n/{number}")).collect::<Vec<_>>());
    assert_eq!(keys(&store.page("n/", "n/55", 1).await.unwrap()), ["n/6"], "the key to go on from need not exist");
}

pub(crate) async fn no_increment_is_lost_among_writers_in_two_processes(place: &dyn Place) {
    let child = Running::start(&mut place.child("increment counter"));
    let stores: Vec<_> = (0..4).map(|_| place.open()).collect();
    join_all((0..8).map(|i| increment(&*stores[i % 4], "counter", ROUNDS))).await;
    child.succeeds();
    assert_eq!(number(&stores[0].get("counter").await.unwrap().unwrap().value), 9 * ROUNDS);
}

pub(crate) async fn keys_and_values_beyond_the_bounds_are_refused(place: &dyn Place) {
    let store = place.open();
    let too_long = "k".repeat(KEY_MAX + 1);
    for key in ["", "with space", "new\nline", "umläut", &too_long] {
        let refused = store.put(key, Expect::Absent, "x".into(), None).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{key:?}: {refused:?}");
    }
    let too_large = Bytes::from(vec![0; VALUE_MAX + 1]);
    let refused = store.put("a", Expect::Absent, too_large.clone(), None).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))));
    let largest = too_large.slice(1..);
    done(store.put(&too_long[1..], Expect::Absent, largest.clone(), None).await.unwrap());
    assert_eq!(store.get(&too_long[1..]).await.unwrap().unwrap().value, largest);
}

pub(crate) async fn a_lapsed_lease_takes_its_keys_along(place: &dyn Place) {
    let (holder, other) = (place.open(), place.open());
    let mut watch = other.watch("bound/", None);
    snapshot(&mut watch).await;
    let lease = holder.grant(place.ttl()).await.unwrap();
    for key in ["bound/1", "bound/2"] {
        done(holder.put(key, Expect::Absent, "x".into(), Some(&lease)).await.unwrap());
    }
    set(&*holder, "bound/free", "x").await;
    let told = changes(&mut watch, 5).await;
    let deleted: Vec<_> = told.iter().filter(|change| change.1.is_none()).map(|change| change.0.as_str()).collect();
    assert_eq!(deleted, ["bound/1", "bound/2"]);
    assert_eq!(keys(&other.list("bound/").await.unwrap()), ["bound/free"]);
}

pub(crate) async fn a_renewed_lease_lives_on(place: &dyn Place) {
    let (holder, other) = (place.open(), place.open());
    let ttl = place.ttl();
    let renewed = holder.grant(ttl).await.unwrap();
    let neglected = holder.grant(ttl).await.unwrap();
    done(holder.put("renewed", Expect::Absent, "x".into(), Some(&renewed)).await.unwrap());
    done(holder.put("neglected", Expect::Absent, "x".into(), Some(&neglected)).await.unwrap());
    // The neglected lease tells when the time to live is over; the other must still hold then.
    soon(async {
        while other.get("neglected").await.unwrap().is_some() {
            holder.renew(&renewed).await.unwrap();
            tokio::time::sleep(ttl / 10).await;
        }
    })
    .await;
    assert!(other.get("renewed").await.unwrap().is_some());
    holder.revoke(&renewed).await.unwrap();
}

pub(crate) async fn a_lease_that_has_lapsed_is_of_no_more_use(place: &dyn Place) {
    let store = place.open();
    let mut watch = store.watch("bound", None);
    snapshot(&mut watch).await;
    let lease = store.grant(place.ttl()).await.unwrap();
    done(store.put("bound", Expect::Absent, "x".into(), Some(&lease)).await.unwrap());
    assert_eq!(changes(&mut watch, 2).await[1], ("bound".into(), None));
    assert_eq!(store.renew(&lease).await, Err(RenewError::Lapsed));
    let refused = store.put("bound", Expect::Absent, "x".into(), Some(&lease)).await;
    assert_eq!(refused, Err(StoreError::LeaseLapsed));
    assert_eq!(store.renew(&LeaseId("7587854f01".into())).await, Err(RenewError::Lapsed), "never granted");
}

pub(crate) async fn a_revoked_lease_takes_its_keys_along(place: &dyn Place) {
    let store = place.open();
    let lease = store.grant(PATIENCE).await.unwrap();
    done(store.put("bound", Expect::Absent, "x".into(), Some(&lease)).await.unwrap());
    set(&*store, "free", "x").await;
    store.revoke(&lease).await.unwrap();
    assert_eq!(keys(&store.list("").await.unwrap()), ["free"]);
    assert_eq!(store.renew(&lease).await, Err(RenewError::Lapsed));
    store.revoke(&lease).await.unwrap();
}

pub(crate) async fn a_key_written_without_its_lease_outlives_it(place: &dyn Place) {
    let store = place.open();
    let lease = store.grant(PATIENCE).await.unwrap();
    let bound = done(store.put("a", Expect::Absent, "bound".into(), Some(&lease)).await.unwrap());
    done(store.put("a", Expect::Revision(bound), "free".into(), None).await.unwrap());
    store.revoke(&lease).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "free");
}

pub(crate) async fn a_watch_begins_with_a_snapshot_of_its_prefix(place: &dyn Place) {
    let store = place.open();
    assert_eq!(snapshot(&mut store.watch("a/", None)).await.entries, []);
    set(&*store, "b", "other").await;
    let revision = set(&*store, "a/1", "x").await;
    let entry = Entry { key: "a/1".into(), value: "x".into(), revision };
    assert_eq!(snapshot(&mut store.watch("a/", None)).await, Listing { entries: vec![entry], revision });
}

pub(crate) async fn a_watch_tells_every_change_of_its_prefix_in_order(place: &dyn Place) {
    let (writer, watcher) = (place.open(), place.open());
    let mut watch = watcher.watch("a/", None);
    snapshot(&mut watch).await;
    let one = set(&*writer, "a/1", "one").await;
    set(&*writer, "b/1", "not ours").await;
    set(&*writer, "a/2", "two").await;
    writer.delete("a/1", Expect::Revision(one)).await.unwrap();
    set(&*writer, "a/1", "again").await;
    let told = changes(&mut watch, 4).await;
    let told: Vec<_> = told.iter().map(|(key, value)| (key.as_str(), value.as_deref().unwrap_or("deleted"))).collect();
    assert_eq!(told, [("a/1", "one"), ("a/2", "two"), ("a/1", "deleted"), ("a/1", "again")]);
}

pub(crate) async fn a_watch_from_a_revision_tells_exactly_what_followed(place: &dyn Place) {
    let store = place.open();
    for number in 0..5 {
        set(&*store, "a", &number.to_string()).await;
    }
    let from = revision_of(&*store, "a").await;
    let mut nothing_new = store.watch("a", Some(from));
    let mut two_behind = store.watch("a", Some(from - 2));
    set(&*store, "a", "last").await;
    assert_eq!(values(changes(&mut two_behind, 3).await), ["3", "4", "last"]);
    assert_eq!(values(changes(&mut nothing_new, 1).await), ["last"]);
}

pub(crate) async fn a_watch_misses_nothing_while_two_processes_write(place: &dyn Place) {
    let stores: Vec<_> = (0..3).map(|_| place.open()).collect();
    let child = Running::start(&mut place.child("increment n/0"));
    let writing = join_all((1..3).map(|i| {
        let store = stores[i].clone();
        async move { increment(&*store, &format!("n/{i}"), ROUNDS).await }
    }));
    let watching = async {
        let mut watch = stores[0].watch("n/", None);
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        let mut seen = 0;
        for entry in snapshot(&mut watch).await.entries {
            counts.insert(entry.key, number(&entry.value));
        }
        while counts.values().sum::<u64>() < 3 * ROUNDS {
            let WatchEvent::Changes(changes) = soon(watch.next()).await.unwrap() else { panic!("no resync is due") };
            for change in changes {
                assert!(change.revision > seen, "{} after {seen}", change.revision);
                seen = change.revision;
                let count = counts.entry(change.key).or_default();
                assert_eq!(number(&change.value.unwrap()), *count + 1, "a change was missed or told twice");
                *count += 1;
            }
        }
    };
    tokio::join!(writing, watching);
    child.succeeds();
}

pub(crate) async fn a_watch_far_behind_still_tells_every_change(place: &dyn Place) {
    let store = place.open();
    let mut watch = store.watch("n/", None);
    snapshot(&mut watch).await;
    let expected: Vec<u64> = (0..1000).collect();
    for group in expected.chunks(50) {
        join_all(group.iter().map(|number| {
            let key = format!("n/{number}");
            let store = store.clone();
            async move { put(&*store, &key, Expect::Absent, &number.to_string()).await }
        }))
        .await;
    }
    let mut told: Vec<u64> =
        values(changes(&mut watch, 1000).await).iter().map(|value| value.parse().unwrap()).collect();
    told.sort_unstable();
    assert_eq!(told, expected);
}

pub(crate) async fn a_dropped_wait_loses_no_change(place: &dyn Place) {
    let (writer, watcher) = (place.open(), place.open());
    let mut watch = watcher.watch("a", None);
    snapshot(&mut watch).await;
    let mut told = Vec::new();
    soon(async {
        let mut patience = (0..).map(|i| Duration::from_micros(i * 37 % 3000));
        let mut take = async |watch: &mut Watch| {
            if let Ok(event) = tokio::time::timeout(patience.next().unwrap(), watch.next()).await {
                let WatchEvent::Changes(changes) = event.unwrap() else { panic!("no resync is due") };
                told.extend(changes.iter().map(|change| number(change.value.as_ref().unwrap())));
            }
            told.len() as u64
        };
        for value in 1..=ROUNDS {
            set(&*writer, "a", &value.to_string()).await;
            take(&mut watch).await;
        }
        while take(&mut watch).await < ROUNDS {}
    })
    .await;
    assert_eq!(told, (1..=ROUNDS).collect::<Vec<_>>());
}

pub(crate) async fn a_watch_behind_forgotten_history_is_told_to_resync(place: &dyn Place) {
    let store = place.open();
    let old = set(&*store, "a", "old").await;
    let mut slow = store.watch("a", None);
    snapshot(&mut slow).await;
    let revision = set(&*store, "a", "new").await;
    place.forget_history().await;
    let entry = Entry { key: "a".into(), value: "new".into(), revision };
    for mut watch in [slow, store.watch("a", Some(old))] {
        assert_eq!(soon(watch.next()).await.unwrap(), WatchEvent::Resync);
        assert_eq!(snapshot(&mut watch).await.entries, std::slice::from_ref(&entry));
    }
}

/// Adds one, `rounds` times.
async fn increment(store: &dyn Store, key: &str, rounds: u64) {
    for _ in 0..rounds {
        loop {
            let found = store.get(key).await.unwrap();
            let next = found.as_ref().map_or(0, |entry| number(&entry.value)) + 1;
            let expect = found.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
            match put(store, key, expect, &next.to_string()).await {
                Swap::Done(_) => break,
                Swap::Conflict(_) => {}
            }
        }
    }
}

/// Writes numbered keys until killed, four at a time, and says each on standard output once it is acknowledged.
async fn acknowledge(store: &dyn Store, prefix: &str) {
    let mut next = (0u64..).step_by(4);
    loop {
        let group = next.next().unwrap();
        let written = (group..group + 4).map(|number| async move {
            done(
                store.put(&format!("{prefix}{number}"), Expect::Absent, number.to_string().into(), None).await.unwrap(),
            );
            println!("{number}");
        });
        join_all(written).await;
    }
}

/// Writes under `pong/` what it sees change under a prefix, until killed.
async fn echo(store: &dyn Store, prefix: &str) {
    let mut watch = store.watch(prefix, None);
    snapshot(&mut watch).await;
    set(store, "pong/", "ready").await;
    loop {
        let WatchEvent::Changes(changes) = watch.next().await.unwrap() else { panic!("no resync is due") };
        for change in changes {
            set(store, "pong/", &text(&change.value.unwrap())).await;
        }
    }
}

/// Writes whatever is there.
pub(crate) async fn set(store: &dyn Store, key: &str, value: &str) -> Revision {
    let expect = store.get(key).await.unwrap().map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
    done(put(store, key, expect, value).await)
}

/// Waits for something that comes by itself.
pub(crate) async fn soon<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.expect("this comes by itself")
}

/// Waits for the next event, which must be a snapshot.
pub(crate) async fn snapshot(watch: &mut Watch) -> Listing {
    match soon(watch.next()).await.unwrap() {
        WatchEvent::Snapshot(listing) => listing,
        other => panic!("expected a snapshot, not {other:?}"),
    }
}

/// Waits for exactly this many changes.
pub(crate) async fn changes(watch: &mut Watch, count: usize) -> Vec<(String, Option<String>)> {
    let mut all = Vec::new();
    while all.len() < count {
        let WatchEvent::Changes(some) = soon(watch.next()).await.unwrap() else { panic!("no resync is due") };
        assert!(!some.is_empty());
        all.extend(some.into_iter().map(|change| (change.key, change.value.map(|value| text(&value)))));
    }
    assert_eq!(all.len(), count, "{all:?}");
    all
}

async fn put(store: &dyn Store, key: &str, expect: Expect, value: &str) -> Swap {
    store.put(key, expect, Bytes::copy_from_slice(value.as_bytes()), None).await.unwrap()
}

async fn revision_of(store: &dyn Store, key: &str) -> Revision {
    store.get(key).await.unwrap().unwrap().revision
}

fn done(swap: Swap) -> Revision {
    match swap {
        Swap::Done(revision) => revision,
        Swap::Conflict(found) => panic!("conflict with {found:?}"),
    }
}

fn keys(listing: &Listing) -> Vec<String> {
    listing.entries.iter().map(|entry| entry.key.clone()).collect()
}

fn values(changes: Vec<(String, Option<String>)>) -> Vec<String> {
    changes.into_iter().map(|(_, value)| value.unwrap()).collect()
}

fn text(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

fn number(value: &[u8]) -> u64 {
    text(value).parse().unwrap()
}
