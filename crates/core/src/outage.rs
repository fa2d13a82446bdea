//! What fails for many askers at once is told once when it begins and once when it is over, for each cause, and not by each asker.
//!
//! Whatever fails and works in turns would be told all the time. So a cause that comes back soon after it was told is over and
//! begins in silence.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ErrorCode;
use crate::time::Instant;

/// How soon a cause that was told is not told again: two lines in so long a time are read, and still tell when.
pub const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The causes for which something fails.
#[derive(Clone, Debug, Default)]
pub struct Outages {
    causes: BTreeMap<ErrorCode, Outage>,
}

#[derive(Clone, Copy, Debug)]
struct Outage {
    told_at: Instant,
    /// What was told and is not over yet.
    told: Option<Over>,
}

/// An outage that was told, and is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// Its cause.
    pub code: ErrorCode,
    /// When it began.
    pub since: Instant,
    /// How many were not served.
    pub failures: u64,
}

impl Outages {
    /// Somebody was not served. Says whether that is to be told.
    pub fn handle_failed(&mut self, code: ErrorCode, now: Instant) -> bool {
        let begun = Over { code, since: now, failures: 1 };
        let Some(outage) = self.causes.get_mut(&code) else {
            self.causes.insert(code, Outage { told_at: now, told: Some(begun) });
            return true;
        };
        if let Some(told) = &mut outage.told {
            told.failures += 1;
            return false;
        }
        let is_due = now >= outage.told_at + TOLD_AGAIN_AFTER;
        if is_due {
            *outage = Outage { told_at: now, told: Some(begun) };
        }
        is_due
    }

    /// Somebody was served, which proves that outages for these causes are over. Returns those that are to be told.
    pub fn handle_served(&mut self, is_over: impl Fn(ErrorCode) -> bool) -> Vec<Over> {
        let ended = self.causes.iter_mut().filter(|(code, _)| is_over(**code));
        ended.filter_map(|(_, outage)| outage.told.take()).collect()
    }

    /// Whether an outage was told and is not over.
    pub fn is_any(&self) -> bool {
        self.causes.values().any(|outage| outage.told.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWAY: ErrorCode = ErrorCode::RegistryUnavailable;
    const FULL: ErrorCode = ErrorCode::StoreFull;

    const fn at(seconds: u64) -> Instant {
        Instant::from_millis(1_000 * seconds)
    }

    #[test]
    fn an_outage_is_told_once_when_it_begins_and_once_when_it_is_over() {
        let mut outages = Outages::default();
        assert!(outages.handle_failed(AWAY, at(1)));
        assert!(!outages.handle_failed(AWAY, at(2)) && !outages.handle_failed(AWAY, at(200)));
        assert!(outages.is_any());
        assert_eq!(outages.handle_served(|_| true), [Over { code: AWAY, since: at(1), failures: 3 }]);
        assert_eq!(outages.handle_served(|_| true), []);
        assert!(!outages.is_any());
    }

    #[test]
    fn each_cause_is_told_and_ends_by_itself() {
        let mut outages = Outages::default();
        assert!(outages.handle_failed(AWAY, at(1)) && outages.handle_failed(FULL, at(1)));
        let ended = outages.handle_served(|code| code == AWAY);
        assert_eq!(ended.iter().map(|over| over.code).collect::<Vec<_>>(), [AWAY]);
        assert!(!outages.handle_failed(FULL, at(2)), "it goes on");
    }

    #[test]
    fn what_fails_and_works_in_turns_is_told_now_and_then() {
        let mut outages = Outages::default();
        let mut told = 0;
        for second in 0..90 {
            told += usize::from(outages.handle_failed(AWAY, at(second)));
            told += outages.handle_served(|_| true).len();
        }
        assert_eq!(told, 6, "twice in thirty seconds");
    }
}
