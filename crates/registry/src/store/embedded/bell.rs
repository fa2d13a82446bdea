//! Who wakes the watches, and notices that a lease has lapsed.
//!
//! A commit of another process is learnt by inotify of the bell file, not by asking the file again and again. But a
//! writer may be killed between its commit and its ring, so the bell also looks once a second. One look serves all
//! watches of the handle, and wakes only those whose prefix has changed.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use landfast_core::time::Instant;
use landfast_net::clock;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify;
use tokio::sync::{Notify, mpsc};

use super::file::{Db, File};
use super::jobs::{self, Job, Sweep};
use super::reading::News;
use crate::store::{Revision, StoreError};

/// The longest sleep: how late a watch learns of a commit whose writer was killed before it rang.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The shortest sleep after asking for lapsed leases to be ended, which is a write and takes as long as a flush.
const SWEEP_EVERY: Duration = Duration::from_millis(20);

/// How long the bell rests after a look: a change that comes alone is told at once, and of a thousand a second several with
/// each look. A look wakes three threads, and each of them may stand in the way of what a processor was doing.
const REST: Duration = Duration::from_millis(5);

/// The bell of one handle.
pub(super) struct Bell {
    ears: Mutex<Vec<Weak<Ear>>>,
    taken_down: AtomicBool,
    /// Wakes the bell's thread so that it sees that it was taken down.
    wake: OwnedFd,
}

/// Where one watch waits to be woken.
pub(super) struct Ear {
    prefix: String,
    notify: Notify,
}

impl Bell {
    /// Starts the bell's thread. Returns once every later ring will be heard.
    pub(super) fn hang(file: &File, db: Db, writes: mpsc::WeakSender<Box<dyn Job>>) -> Result<Arc<Self>, StoreError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| StoreError::Unavailable(format!("cannot make an eventfd: {error}")))?;
        let bell = Arc::new(Self { ears: Mutex::default(), taken_down: AtomicBool::new(false), wake });
        let listener = Listener { rings: listen(file), db, writes, bell: bell.clone(), at: 0, failing: false };
        jobs::spawn("landfast-bell", move || listener.run())?;
        Ok(bell)
    }

    /// Makes an ear that is woken by changes under a prefix, as long as it is held.
    pub(super) fn ear(&self, prefix: &str) -> Arc<Ear> {
        let ear = Arc::new(Ear { prefix: prefix.to_owned(), notify: Notify::new() });
        let mut ears = self.ears.lock().unwrap_or_else(PoisonError::into_inner);
        ears.retain(|ear| ear.strong_count() > 0);
        ears.push(Arc::downgrade(&ear));
        ear
    }

    /// Ends the bell's thread.
    pub(super) fn take_down(&self) {
        self.taken_down.store(true, Ordering::Release);
        // A full counter is readable too, so there is nothing to do about an error.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn wake_those(&self, hears: impl Fn(&Ear) -> bool) {
        let ears = self.ears.lock().unwrap_or_else(PoisonError::into_inner);
        for ear in ears.iter().filter_map(Weak::upgrade).filter(|ear| hears(ear)) {
            ear.notify.notify_one();
        }
    }
}

impl Ear {
    /// Waits for a change under the prefix. One that came since the last call is not missed.
    pub(super) async fn listen(&self) {
        self.notify.notified().await;
    }
}

/// The bell's thread.
struct Listener {
    rings: Option<OwnedFd>,
    db: Db,
    writes: mpsc::WeakSender<Box<dyn Job>>,
    bell: Arc<Bell>,
    at: Revision,
    failing: bool,
}

impl Listener {
    fn run(mut self) {
        let mut pause = Duration::ZERO;
        while !self.bell.taken_down.load(Ordering::Acquire) {
            self.sleep(pause);
            pause = self.look();
            self.rest();
        }
    }

    /// Hears no ring, so that the next look sees what all of them are about.
    fn rest(&self) {
        // An interrupted rest is a short one.
        let _ = poll(&mut [PollFd::new(&self.bell.wake, PollFlags::IN)], Timespec::try_from(REST).ok().as_ref());
    }

    /// Sleeps until the bell rings, but no longer than that.
    fn sleep(&self, longest: Duration) {
        let mut fds = vec![PollFd::new(&self.bell.wake, PollFlags::IN)];
        fds.extend(self.rings.as_ref().map(|rings| PollFd::new(rings, PollFlags::IN)));
        let timeout = Timespec::try_from(longest).ok();
        // An interrupted sleep is a look too early, which does no harm.
        let _ = poll(&mut fds, timeout.as_ref());
        if let Some(rings) = &self.rings {
            drain(rings);
        }
    }

    /// Looks what has happened, wakes whom it concerns, and says how long to sleep at most.
    fn look(&mut self) -> Duration {
        let at = self.at;
        let news = self.db.read(|db| db.news(at).map_err(|error| db.explain(&error)));
        match news {
            Ok(news) => {
                self.failing = false;
                self.tell(&news);
                self.at = news.newest;
                self.mind_leases(&news)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "cannot read the store's changes; watches are told");
                }
                self.bell.wake_those(|_| true);
                LOOK_EVERY
            }
        }
    }

    fn tell(&self, news: &News) {
        match &news.keys {
            Some(keys) if keys.is_empty() => {}
            Some(keys) => self.bell.wake_those(|ear| keys.iter().any(|key| key.starts_with(&ear.prefix))),
            None => self.bell.wake_those(|_| true),
        }
    }

    /// Has lapsed leases ended, and says how long until the next one lapses.
    fn mind_leases(&self, news: &News) -> Duration {
        let Some(lapse) = news.lapse else { return LOOK_EVERY };
        let left = Instant::from_nanos(lapse).since(clock::now());
        if !left.is_zero() {
            return left.min(LOOK_EVERY);
        }
        // A full queue is a queue of writes, and each of them ends lapsed leases.
        if let Some(writes) = self.writes.upgrade() {
            let _ = writes.try_send(Box::new(Sweep));
        }
        SWEEP_EVERY
    }
}

/// Listens to the bell. Without inotify (its number is limited per user) watches still work, a second late.
fn listen(file: &File) -> Option<OwnedFd> {
    // The kernel calls it ATTRIB when both times are set, as a ring does, and MODIFY when one is.
    let touched = inotify::WatchFlags::ATTRIB | inotify::WatchFlags::MODIFY;
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let rings = inotify::init(flags).and_then(|rings| {
        inotify::add_watch(&rings, file.bell_path(), touched)?;
        Ok(rings)
    });
    rings
        .inspect_err(|error| {
            tracing::warn!(%error, "no inotify: changes are noticed within a second only; raise fs.inotify.max_user_instances");
        })
        .ok()
}

fn drain(rings: &OwnedFd) {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut reader = inotify::Reader::new(rings.as_fd(), &mut buffer);
    while reader.next().is_ok() {}
}
