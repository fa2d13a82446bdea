//! Whether and when a failed call is made again.

use std::time::Duration;

use landfast_core::Retry;

use crate::error::Error;

/// How often a call is made again: enough for a restarted gateway, few enough that a person still waits for the answer.
const RETRIES: u32 = 2;

/// The first wait; it doubles.
const FIRST: Duration = Duration::from_millis(500);

/// The longest wait of our own choosing.
const LONGEST: Duration = Duration::from_secs(8);

/// The longest wait a server may ask for; beyond it the caller hears the refusal instead.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// How often one call was made again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retries(u32);

impl Retries {
    /// How long to wait before the call is made again, or `None` to give up. `repeatable` says whether it may run twice;
    /// `jitter` is any number.
    pub(crate) fn after(&mut self, error: &Error, repeatable: bool, jitter: u64) -> Option<Duration> {
        let allowed = match error.retry() {
            Retry::Safe => true,
            Retry::IfIdempotent => repeatable,
            Retry::Never => false,
        };
        if !allowed || self.0 == RETRIES {
            return None;
        }
        let own = (FIRST * 2u32.pow(self.0)).min(LONGEST);
        self.0 += 1;
        match asked(error) {
            Some(asked) if asked > LONGEST_ASKED => None,
            Some(asked) => Some(asked),
            None => Some(own - own.mul_f64((jitter % 1000) as f64 / 4000.0)),
        }
    }
}

fn asked(error: &Error) -> Option<Duration> {
    match error {
        Error::Refused(refusal) => refusal.retry_after,
        Error::Ended { .. }
        | Error::Unreachable { .. }
        | Error::Broken { .. }
        | Error::Protocol(_)
        | Error::Invalid(_)
        | Error::Local(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use landfast_core::ErrorCode;

    use super::*;
    use crate::error::Refusal;

    fn refused(code: ErrorCode, retry_after: Option<u64>) -> Error {
        Error::Refused(Box::new(Refusal {
            code: Some(code),
            status: code.status_or_500(),
            detail: String::new(),
            advice: String::new(),
            request_id: None,
            retry_after: retry_after.map(Duration::from_secs),
        }))
    }

    #[test]
    fn waits_double_less_at_most_a_quarter_and_end_after_two() {
        let (mut retries, error) = (Retries::default(), refused(ErrorCode::InstanceStarting, None));
        assert_eq!(retries.after(&error, false, 0), Some(Duration::from_millis(500)));
        let second = retries.after(&error, false, 999).unwrap();
        assert!(second > Duration::from_millis(750) && second < Duration::from_millis(751), "{second:?}");
        assert_eq!(retries.after(&error, false, 0), None);
    }

    #[test]
    fn what_may_have_run_is_repeated_only_if_it_may_run_twice() {
        let lost = refused(ErrorCode::UpstreamLost, None);
        assert_eq!(Retries::default().after(&lost, false, 0), None);
        assert!(Retries::default().after(&lost, true, 0).is_some());
    }

    #[test]
    fn the_server_is_obeyed_up_to_a_minute() {
        let slow = |seconds| Retries::default().after(&refused(ErrorCode::LimitRate, Some(seconds)), true, 7);
        assert_eq!(slow(60), Some(Duration::from_secs(60)));
        assert_eq!(slow(61), None);
    }
}
