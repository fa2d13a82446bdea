//! What only the embedded store promises: it survives its writers' deaths, full disks, damage and strangers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use landfast_core::ErrorCode;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use tempfile::TempDir;

use super::EmbeddedStore;
use super::file::{Db, File};
use super::writing::HISTORY_KEPT;
use crate::store::conformance::{self, Place, Running, changes, set, snapshot, soon};
use crate::store::{Expect, Store, StoreError, Swap, WatchEvent};

/// A store in a directory of its own.
struct Fresh {
    dir: TempDir,
}

impl Fresh {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("cell.db")
    }

    fn try_open(&self) -> Result<EmbeddedStore, StoreError> {
        EmbeddedStore::open(&self.path())
    }

    /// Opens the file as SQLite alone would.
    fn raw(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }
}

impl Place for Fresh {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.try_open().unwrap())
    }

    fn child(&self, job: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "store::embedded::tests::child_of_another_test", "--nocapture"]);
        command.env("LANDFAST_TEST_STORE", self.path()).env("LANDFAST_TEST_JOB", job);
        command
    }

    fn forget_history(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let store = self.open();
            join_all((0..50).map(|writer| {
                let store = store.clone();
                async move {
                    for _ in 0..=HISTORY_KEPT / 50 {
                        set(&*store, &format!("history/{writer}"), "x").await;
                    }
                }
            }))
            .await;
        })
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }
}

conformance_tests!(Fresh::new());

#[test]
#[ignore = "not a test: what other tests run in a process of its own"]
fn child_of_another_test() {
    let (Some(path), Ok(job)) = (std::env::var_os("LANDFAST_TEST_STORE"), std::env::var("LANDFAST_TEST_JOB")) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = EmbeddedStore::open(path.as_ref()).unwrap();
    runtime.block_on(async {
        if job == "fill the disk" { fill_the_disk(&store).await } else { conformance::do_job(&store, &job).await }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_killed_at_any_moment_loses_nothing_acknowledged() {
    let place = Fresh::new();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    for round in 0..12 {
        let prefix = format!("{round}/");
        let mut child = Running::start(&mut place.child(&format!("acknowledge {prefix}")));
        let acknowledged = read_then_kill(&mut child, Duration::from_micros(seed.rotate_left(round * 5) % 40_000));
        let store = place.open();
        let kept: Vec<String> = store.list(&prefix).await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
        for number in &acknowledged {
            assert!(
                kept.contains(&format!("{prefix}{number}")),
                "round {round}: {number} was acknowledged and is lost"
            );
        }
        assert!(!acknowledged.is_empty());
        let verdict: String = place.raw().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok");
    }
}

/// Reads the numbers that a child acknowledges, and kills it a while after the first.
fn read_then_kill(child: &mut Running, after: Duration) -> Vec<u64> {
    let mut lines = child.lines();
    let first = lines.by_ref().find_map(|line| line.parse().ok()).unwrap();
    let reading = std::thread::spawn(move || lines.filter_map(|line| line.parse().ok()).collect::<Vec<u64>>());
    std::thread::sleep(after);
    child.kill();
    let mut acknowledged = reading.join().unwrap();
    acknowledged.push(first);
    acknowledged
}

/// A killed process does not show whether the disk was told to flush, so the settings that make SQLite do it are read.
#[test]
fn every_commit_is_flushed_to_the_disk() {
    let place = Fresh::new();
    let db = Db::connect(&Arc::new(File::open(&place.path()).unwrap())).unwrap();
    let journal: String = db.conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    let synchronous: i32 = db.conn.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!((journal.as_str(), synchronous), ("wal", 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_nothing_acknowledged_is_lost() {
    let place = Fresh::new();
    drop(place.open());
    let output = place.child("fill the disk").output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("was full"), "{output:?}");
}

/// Limits the size of this process's files, which is how a disk of another size looks to it, and writes beyond that.
async fn fill_the_disk(store: &EmbeddedStore) {
    #[allow(unsafe_code)]
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 1024 * 1024, hard).unwrap();
    let value = Bytes::from(vec![b'x'; 10_000]);
    let mut written = 0;
    let error = loop {
        match store.put(&format!("n/{written}"), Expect::Absent, value.clone(), None).await {
            Ok(swap) => assert!(matches!(swap, Swap::Done(_))),
            Err(error) => break error,
        }
        written += 1;
    };
    assert_eq!(error.code(), ErrorCode::StoreFull, "{error}");
    assert!(written > 10);
    println!("was full after {written} records: {error}");
    assert_eq!(store.list("n/").await.unwrap().entries.len(), written, "reads go on");
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    store.put("after", Expect::Absent, value, None).await.expect("writes go on once there is room");
    assert_eq!(store.list("n/").await.unwrap().entries.len(), written);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let place = Fresh::new();
    let strange = "This is a text and no database. ".repeat(100);
    fs::write(place.path(), &strange).unwrap();
    let error = place.try_open().err().unwrap();
    assert_eq!(error.code(), ErrorCode::StoreCorrupt, "{error}");
    assert_eq!(fs::read_to_string(place.path()).unwrap(), strange);
}

#[tokio::test]
async fn damage_in_the_middle_of_the_file_is_said() {
    let place = Fresh::new();
    let store = place.open();
    for number in 0..200 {
        store.put(&format!("n/{number}"), Expect::Absent, vec![b'x'; 1000].into(), None).await.unwrap();
    }
    drop(store);
    place.raw().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let mut bytes = fs::read(place.path()).unwrap();
    let (from, to) = (8 * 4096, bytes.len());
    bytes[from..to].fill(0xa5);
    // Another file in its place, as a restored one would be.
    fs::remove_file(place.path()).unwrap();
    fs::write(place.path(), bytes).unwrap();
    let store = place.open();
    let error = store.list("n/").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreCorrupt, "{error}");
    assert!(error.to_string().contains("cell.db"), "the log names the file: {error}");
    let problem = landfast_core::Problem::from(error);
    assert!(!problem.to_string().contains("cell.db"), "the client does not learn paths: {problem}");
    let error = soon(store.watch("n/", None).next()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreCorrupt, "a watch says so too");
}

#[tokio::test]
async fn a_file_of_a_newer_release_is_refused() {
    let place = Fresh::new();
    drop(place.open());
    place.raw().pragma_update(None, "user_version", 99).unwrap();
    let error = place.try_open().err().unwrap();
    assert_eq!(error.code(), ErrorCode::StoreVersion, "{error}");
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let place = Fresh::new();
    place.raw().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let error = place.try_open().err().unwrap();
    assert!(matches!(error, StoreError::Foreign(_)), "{error}");
}

#[tokio::test]
async fn a_file_moved_away_while_in_use_is_no_longer_served() {
    let place = Fresh::new();
    let store = place.open();
    let mut watch = store.watch("", None);
    snapshot(&mut watch).await;
    fs::rename(place.path(), place.dir.path().join("backup")).unwrap();
    assert_eq!(store.get("a").await.unwrap_err().code(), ErrorCode::RegistryUnavailable);
    let error = soon(watch.next()).await.unwrap_err();
    assert!(error.to_string().contains("moved away"), "{error}");
    drop(place.open());
    let error = store.put("a", Expect::Absent, "x".into(), None).await.unwrap_err();
    assert!(error.to_string().contains("replaced"), "{error}");
}

#[tokio::test]
async fn a_watch_from_a_future_that_a_restored_store_has_not_reached_is_told_to_resync() {
    let place = Fresh::new();
    let store = place.open();
    let mut watch = store.watch("", Some(4711));
    assert_eq!(soon(watch.next()).await.unwrap(), WatchEvent::Resync);
    assert_eq!(snapshot(&mut watch).await.entries, []);
}

#[tokio::test]
async fn leases_of_another_boot_have_lapsed() {
    let place = Fresh::new();
    let store = place.open();
    let lease = store.grant(Duration::from_secs(3600)).await.unwrap();
    store.put("bound", Expect::Absent, "x".into(), Some(&lease)).await.unwrap();
    let mut watch = store.watch("bound", None);
    snapshot(&mut watch).await;
    place.raw().execute("UPDATE leases SET boot = 'another'", []).unwrap();
    assert_eq!(changes(&mut watch, 1).await, [("bound".to_owned(), None)]);
}

#[tokio::test]
async fn only_the_owner_may_touch_the_files() {
    let place = Fresh::new();
    drop(place.open());
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let store = place.open();
    set(&*store, "a", "x").await;
    for entry in fs::read_dir(place.dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
}

#[test]
fn many_who_open_a_new_store_at_once_share_one() {
    let place = Fresh::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let openers: Vec<_> = (0..8)
        .map(|_| {
            let path = place.path();
            std::thread::spawn(move || EmbeddedStore::open(&path).unwrap())
        })
        .collect();
    let stores: Vec<_> = openers.into_iter().map(|opener| opener.join().unwrap()).collect();
    runtime.block_on(async {
        set(&stores[0], "a", "x").await;
        for store in &stores {
            assert!(store.get("a").await.unwrap().is_some());
        }
    });
}

#[tokio::test]
async fn the_history_stays_within_its_bound_and_is_whole_up_to_it() {
    let place = Fresh::new();
    place.forget_history().await;
    let kept: i64 = place.raw().query_row("SELECT count(*) FROM changes", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, HISTORY_KEPT);
    let store = place.open();
    let newest = store.list("").await.unwrap().revision;
    let oldest_watchable = newest - HISTORY_KEPT as u64;
    let WatchEvent::Changes(changes) = soon(store.watch("", Some(oldest_watchable)).next()).await.unwrap() else {
        panic!("all that followed is kept");
    };
    assert_eq!(changes[0].revision, oldest_watchable + 1);
    let event = soon(store.watch("", Some(oldest_watchable - 1)).next()).await.unwrap();
    assert_eq!(event, WatchEvent::Resync);
}

#[tokio::test]
async fn an_opener_that_hangs_makes_others_fail_and_not_hang() {
    let place = Fresh::new();
    let bell = fs::File::create(place.dir.path().join("cell.db.bell")).unwrap();
    rustix::fs::flock(&bell, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = place.try_open().err().unwrap();
    assert!(error.code() == ErrorCode::RegistryUnavailable && error.to_string().contains("stopped"), "{error}");
    drop(bell);
    assert!(place.try_open().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_of_another_process_that_hangs_stops_writes_for_a_while_and_reads_not_at_all() {
    let place = Fresh::new();
    let store = place.open();
    set(&*store, "a", "x").await;
    let other = place.raw();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let write = store.put("b", Expect::Absent, "x".into(), None);
    let reads = async {
        let since = Instant::now();
        assert!(store.get("a").await.unwrap().is_some());
        since.elapsed()
    };
    let (written, read_after) = tokio::join!(write, reads);
    assert_eq!(written.unwrap_err().code(), ErrorCode::RegistryUnavailable);
    assert!(read_after < Duration::from_secs(4), "a read waited {read_after:?} for a writer");
    other.execute_batch("ROLLBACK").unwrap();
    store.put("b", Expect::Absent, "x".into(), None).await.unwrap();
}

/// Loose, because the machine that runs tests is busy; `examples/watch_latency.rs` gives the figures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_reach_another_process_without_waiting_for_the_fallback_look() {
    let place = Fresh::new();
    let store = place.open();
    let mut watch = store.watch("pong/", None);
    snapshot(&mut watch).await;
    let _child = Running::start(&mut place.child("echo ping/"));
    assert_eq!(changes(&mut watch, 1).await[0].1.as_deref(), Some("ready"));
    let since = Instant::now();
    for number in 0..20 {
        set(&*store, "ping/", &number.to_string()).await;
        assert_eq!(changes(&mut watch, 1).await[0].1, Some(number.to_string()));
    }
    // By the look each of these 40 ways would take half a second on average.
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}

#[tokio::test]
async fn threads_end_with_the_last_handle() {
    let place = Fresh::new();
    let store = place.open();
    let watch = store.watch("", None);
    assert_eq!(open_files_under(&place), 3 * FILES_PER_CONNECTION + 1, "three connections and a bell");
    drop(store);
    drop(watch);
    soon(async {
        while open_files_under(&place) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// The database and its log; the log's index is shared by the connections of a process.
const FILES_PER_CONNECTION: usize = 2;

fn open_files_under(place: &Fresh) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|path| path.starts_with(place.dir.path()) && !path.ends_with("cell.db-shm")).count()
}
