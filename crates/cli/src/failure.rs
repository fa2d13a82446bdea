//! How the program ends when it did not do what was asked: a sentence for the person, a number for the script.

use std::fmt;
use std::process::ExitCode;

use landfast_client::Error;
use landfast_core::{ErrorCode, Problem};

/// The cell said no.
pub(crate) const REFUSED: u8 = 1;
/// What was asked makes no sense.
pub(crate) const USAGE: u8 = 2;
/// The command could not be started in the instance, as a shell says it.
pub(crate) const NOT_STARTED: u8 = 127;
/// The transport failed, as ssh says it.
pub(crate) const TRANSPORT: u8 = 255;

/// What was wrong and what to do, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    /// The sentence.
    pub(crate) text: String,
}

impl Failure {
    /// A request that makes no sense.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { code: USAGE, text: text.into() }
    }

    /// A failure of this machine.
    pub(crate) fn local(text: impl Into<String>) -> Self {
        Self { code: REFUSED, text: text.into() }
    }

    /// The exit code for the process.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Invalid(_) => USAGE,
            Error::Refused(refusal) if refusal.code == Some(ErrorCode::ProcessSpawn) => NOT_STARTED,
            Error::Refused(refusal) if refusal.code == Some(ErrorCode::RequestInvalid) => USAGE,
            Error::Refused(_) | Error::Local(_) => REFUSED,
            Error::Ended { .. } | Error::Unreachable { .. } | Error::Broken { .. } | Error::Protocol(_) => TRANSPORT,
        };
        let hint = match &error {
            Error::Unreachable { why, .. } if why.contains("certificate") => {
                " If its authority is your own, name it with --ca (or LANDFAST_CA)."
            }
            Error::Unreachable { .. } => " Start a cell with `landfast up`, or say where it is with --url.",
            Error::Refused(_)
            | Error::Ended { .. }
            | Error::Broken { .. }
            | Error::Protocol(_)
            | Error::Invalid(_)
            | Error::Local(_) => "",
        };
        Self { code, text: format!("{error}{hint}") }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let code = if problem.code == ErrorCode::ConfigInvalid { USAGE } else { REFUSED };
        Self { code, text: problem.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_can_tell_a_mistake_from_a_refusal_from_a_lost_cell() {
        let unreachable = Error::Unreachable { address: "http://x".into(), why: "nothing listens there".into() };
        let failure = Failure::from(unreachable);
        assert_eq!(failure.code, TRANSPORT);
        assert!(failure.text.contains("landfast up"), "{failure}");
        assert_eq!(Failure::from(Problem::new(ErrorCode::ConfigInvalid, "x")).code, USAGE);
        assert_eq!(Failure::from(Problem::new(ErrorCode::ListenInUse, "x")).code, REFUSED);
    }
}
