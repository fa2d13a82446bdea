//! What was asked lately, so that a client's repeat of a call that has run, or runs, is not run again.
//!
//! Kernel's clients repeat every call whose answer they did not get, whatever it does, and give it no key by which it would
//! be known again. But a repeat says which one it is, and is the same to the byte. So a call that says that it is a repeat
//! is taken for one if the same was asked before with a lower number, and gets that one's answer. What comes of the first
//! is kept for longer than such a client goes on trying; where it cannot be kept, the repeat is refused, and not run.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How long a call is remembered once it has ended: such a client gives up after two repeats, with pauses of seconds and at
/// most a minute for each.
const KEPT_FOR: Duration = Duration::from_secs(180);

/// The most calls that are remembered, at 200 bytes each; more than eighty a second for all that time.
const CALLS_MAX: usize = 16 * 1024;

/// The most bytes of answers that are kept, and of one.
const BYTES_MAX: usize = 32 << 20;
const ANSWER_MAX: usize = 8 << 20;

/// How long a call goes on for which nobody waits any more: longer than the pause before a repeat.
const ABANDONED_AFTER: Duration = Duration::from_secs(15);

/// What a call is known by: a hash of everything in it.
pub(super) type Key = [u8; 32];

/// The calls of an agent.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    calls: Mutex<VecDeque<Arc<Call>>>,
}

/// A call.
#[derive(Debug)]
struct Call {
    key: Key,
    /// What changes, to be told of.
    state: watch::Sender<State>,
}

#[derive(Clone, Debug)]
struct State {
    /// Which repeat of it came last.
    count: u32,
    /// How many wait for its outcome.
    askers: usize,
    outcome: Option<Outcome>,
    ended_at: Option<Instant>,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered so.
    Answered(Answered),
    /// It was answered, or not; nobody can tell any more.
    Forgotten,
}

/// An answer that can be given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

/// How a call begins.
#[derive(Debug)]
pub(super) enum Begun {
    /// It is new, and whoever has this runs it.
    First(Ticket, Asker),
    /// It was asked before.
    Again(Asker),
}

/// The duty to say what came of a call. Dropped, it says that nobody can tell.
#[derive(Debug)]
pub(super) struct Ticket(Arc<Call>);

/// Somebody who waits for the outcome.
#[derive(Debug)]
pub(super) struct Asker(Arc<Call>);

impl Ledger {
    /// Takes note of a call that says which repeat it is.
    pub(super) fn begin(&self, key: Key, count: u32) -> Begun {
        let mut calls = self.calls();
        sweep(&mut calls);
        let earlier = calls.iter().rev().filter(|call| call.key == key && call.state.borrow().count < count);
        // One whose asker has left is rather the one than another that was asked by somebody else.
        let call = earlier.min_by_key(|call| call.state.borrow().askers);
        if let Some(call) = call.filter(|_| count > 0) {
            call.state.send_modify(|state| state.count = count);
            return Begun::Again(Asker::new(call));
        }
        let state = watch::Sender::new(State { count, askers: 0, outcome: None, ended_at: None });
        let call = Arc::new(Call { key, state });
        calls.push_back(call.clone());
        Begun::First(Ticket(call.clone()), Asker::new(&call))
    }

    fn calls(&self) -> MutexGuard<'_, VecDeque<Arc<Call>>> {
        self.calls.lock().expect("nobody panics while holding the calls")
    }
}

/// Forgets what is old, and then the oldest answers and calls for which there is no room. What still runs stays.
fn sweep(calls: &mut VecDeque<Arc<Call>>) {
    let now = Instant::now();
    calls.retain(|call| call.state.borrow().ended_at.is_none_or(|ended| now.duration_since(ended) < KEPT_FOR));
    let mut bytes = 0;
    for call in calls.iter().rev() {
        let len = call.state.borrow().outcome.as_ref().map_or(0, Outcome::len);
        bytes += len;
        if len > 0 && bytes > BYTES_MAX {
            call.state.send_modify(|state| state.outcome = Some(Outcome::Forgotten));
        }
    }
    while calls.len() >= CALLS_MAX {
        let oldest = calls.iter().position(|call| call.state.borrow().ended_at.is_some());
        let Some(oldest) = oldest else { break };
        calls.remove(oldest);
    }
}

impl Outcome {
    fn len(&self) -> usize {
        match self {
            Self::Answered(answered) => answered.body.len(),
            Self::Forgotten => 0,
        }
    }
}

impl Ticket {
    /// Says what came of it. Who waits hears it whole; what is too large is not kept for others.
    pub(super) fn settle(self, outcome: Outcome) {
        self.end(outcome);
    }

    /// Waits until nobody has waited for the outcome for a while.
    ///
    /// Cancel safe.
    pub(super) async fn abandoned(&self) {
        let mut state = self.0.state.subscribe();
        loop {
            let all_left = state.wait_for(|state| state.askers == 0).await.is_ok();
            tokio::select! {
                () = sleep(ABANDONED_AFTER), if all_left => return,
                _ = state.wait_for(|state| state.askers > 0) => {}
            }
        }
    }

    fn end(&self, outcome: Outcome) {
        self.0.state.send_if_modified(|state| {
            let is_news = state.outcome.is_none();
            if is_news {
                state.outcome = Some(outcome);
                state.ended_at = Some(Instant::now());
            }
            is_news
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(Outcome::Forgotten);
    }
}

impl Asker {
    fn new(call: &Arc<Call>) -> Self {
        call.state.send_modify(|state| state.askers += 1);
        Self(call.clone())
    }

    /// Waits for the outcome.
    ///
    /// Cancel safe.
    pub(super) async fn outcome(&self) -> Outcome {
        let mut state = self.0.state.subscribe();
        let said = state.wait_for(|state| state.outcome.is_some()).await;
        said.ok().and_then(|state| state.outcome.clone()).unwrap_or(Outcome::Forgotten)
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| {
            state.askers -= 1;
            let is_large = state.outcome.as_ref().is_some_and(|outcome| outcome.len() > ANSWER_MAX);
            if state.askers == 0 && is_large {
                state.outcome = Some(Outcome::Forgotten);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = [7; 32];

    fn answered(body: &'static str) -> Outcome {
        Outcome::Answered(Answered {
            status: StatusCode::OK,
            headers: Vec::new(),
            body: Bytes::from_static(body.as_bytes()),
        })
    }

    fn first(ledger: &Ledger, count: u32) -> (Ticket, Asker) {
        match ledger.begin(KEY, count) {
            Begun::First(ticket, asker) => (ticket, asker),
            Begun::Again(_) => panic!("it is taken for a repeat"),
        }
    }

    fn again(ledger: &Ledger, count: u32) -> Asker {
        match ledger.begin(KEY, count) {
            Begun::First(..) => panic!("it is taken for new"),
            Begun::Again(asker) => asker,
        }
    }

    #[tokio::test]
    async fn a_repeat_gets_what_came_of_the_first_whether_that_runs_or_has_ended() {
        let ledger = Ledger::default();
        let (ticket, asker) = first(&ledger, 0);
        drop(asker);
        let second = again(&ledger, 1);
        ticket.settle(answered("done"));
        assert_eq!(second.outcome().await, answered("done"));
        assert_eq!(again(&ledger, 2).outcome().await, answered("done"));
    }

    #[tokio::test]
    async fn the_same_asked_anew_is_run_anew_and_each_repeat_belongs_to_one() {
        let ledger = Ledger::default();
        let (one, _) = first(&ledger, 0);
        let (two, _) = first(&ledger, 0);
        one.settle(answered("one"));
        two.settle(answered("two"));
        let (a, b) = (again(&ledger, 1).outcome().await, again(&ledger, 1).outcome().await);
        assert_ne!(a, b);
        first(&ledger, 1);
    }

    #[tokio::test]
    async fn a_repeat_is_rather_of_the_call_that_was_left_than_of_one_that_is_waited_for() {
        let ledger = Ledger::default();
        let (left, asker) = first(&ledger, 0);
        let (_waited_for, _asker) = first(&ledger, 0);
        drop(asker);
        let repeat = again(&ledger, 1);
        left.settle(answered("left"));
        assert_eq!(repeat.outcome().await, answered("left"));
    }

    #[tokio::test]
    async fn a_call_of_which_nobody_can_tell_is_not_run_again() {
        let ledger = Ledger::default();
        drop(first(&ledger, 0));
        assert_eq!(again(&ledger, 1).outcome().await, Outcome::Forgotten);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_goes_on_for_a_while_without_anybody_who_waits() {
        let ledger = Ledger::default();
        let (ticket, asker) = first(&ledger, 0);
        drop(asker);
        let since = Instant::now();
        let repeat = async {
            sleep(ABANDONED_AFTER / 2).await;
            let asker = again(&ledger, 1);
            sleep(ABANDONED_AFTER * 4).await;
            drop(asker);
        };
        tokio::join!(ticket.abandoned(), repeat);
        assert_eq!(since.elapsed(), ABANDONED_AFTER / 2 + ABANDONED_AFTER * 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_in_time_and_bytes() {
        let ledger = Ledger::default();
        let body = Bytes::from(vec![0; ANSWER_MAX]);
        for _ in 0..BYTES_MAX / ANSWER_MAX + 1 {
            let (ticket, _) = first(&ledger, 0);
            ticket.settle(Outcome::Answered(Answered {
                status: StatusCode::OK,
                headers: Vec::new(),
                body: body.clone(),
            }));
        }
        drop(first(&ledger, 0));
        let kept: usize =
            ledger.calls().iter().filter_map(|call| Some(call.state.borrow().outcome.as_ref()?.len())).sum();
        assert!(kept <= BYTES_MAX, "{kept}");
        sleep(KEPT_FOR).await;
        first(&ledger, 1);
        assert_eq!(ledger.calls().len(), 1);
    }
}
