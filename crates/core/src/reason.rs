//! Why a session ended, and what its two ends are told about it.
//!
//! Each disconnect has exactly one cause. The codes and their close codes are in the error table; what is decided here is
//! which row a cause is, so that no ending of ours is without a row, and a failure never closes like an ordinary end. The
//! one row without a close code, `upstream.ended`, is no ending of ours.

use crate::ErrorCode;
use crate::lifecycle::end_code;
use crate::link::Close;
use crate::record::Phase;

/// What ended a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The far end said so over the link: the process has exited, or the service was started anew.
    FarEnd(Close),
    /// The instance reached this phase, for this reason.
    Instance(Phase, String),
    /// The token was taken back.
    TokenRevoked,
    /// The token has expired, and was to be enforced.
    TokenExpired,
    /// The client took no byte for too long.
    SlowClient,
    /// The gateway shuts down.
    GatewayDraining,
    /// The client closed its WebSocket.
    ClientClosed,
    /// The client's socket was lost.
    ClientLost,
    /// Redialling ended with this answer.
    Redial(ErrorCode),
}

impl Cause {
    /// What both ends are told.
    pub fn close(&self) -> Close {
        match self {
            Self::FarEnd(close) => close.clone(),
            // It goes on one day, but what the session talked to does not.
            Self::Instance(Phase::Sleeping, _) => {
                Close::new(ErrorCode::UpstreamChanged, "the instance was put to sleep")
            }
            Self::Instance(phase, reason) => Close::new(end_code(*phase).unwrap_or(ErrorCode::Internal), reason),
            Self::TokenRevoked => Close::new(ErrorCode::AuthRevoked, ""),
            Self::TokenExpired => Close::new(ErrorCode::AuthExpired, ""),
            Self::SlowClient => Close::new(ErrorCode::SessionSlowClient, ""),
            Self::GatewayDraining => Close::new(ErrorCode::GatewayDraining, ""),
            Self::ClientClosed => Close::new(ErrorCode::ClientClose, ""),
            Self::ClientLost => Close::new(ErrorCode::ClientLost, ""),
            Self::Redial(code) => redial_close(*code),
        }
    }
}

/// A redial's last answer as an ending.
fn redial_close(code: ErrorCode) -> Close {
    match code {
        // An agent keeps a session for longer than anybody redials it: one that has forgotten it is another agent, and
        // what the earlier one held is lost.
        ErrorCode::SessionUnknown => Close::new(ErrorCode::UpstreamChanged, "the instance was started anew"),
        // What only concerns gateways ("not here") is not for clients: to them the instance could not be reached.
        code if code.close().is_none() => Close::new(ErrorCode::NodeUnreachable, code.as_str()),
        code => Close::new(code, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_of_endings_closes_as_it_says() {
        let far = |code| Cause::FarEnd(Close::new(code, ""));
        let instance = |phase| Cause::Instance(phase, "because".to_owned());
        for (cause, close, code) in [
            (far(ErrorCode::ProcessExited), 1000, "process.exited"),
            (far(ErrorCode::UpstreamChanged), 1012, "upstream.changed"),
            (instance(Phase::Stopped), 1000, "instance.stopped"),
            (instance(Phase::Sleeping), 1012, "upstream.changed"),
            (instance(Phase::Deleted), 4410, "instance.gone"),
            (instance(Phase::Failed), 1011, "instance.failed"),
            (instance(Phase::Lost), 1011, "instance.lost"),
            (Cause::TokenRevoked, 1008, "auth.revoked"),
            (Cause::TokenExpired, 1008, "auth.expired"),
            (Cause::SlowClient, 1008, "session.slow_client"),
            (Cause::GatewayDraining, 1012, "gateway.draining"),
            (Cause::ClientClosed, 1000, "client.close"),
            (Cause::ClientLost, 1001, "client.lost"),
            (Cause::Redial(ErrorCode::UpstreamFlapping), 1011, "upstream.flapping"),
            (Cause::Redial(ErrorCode::SessionUnknown), 1012, "upstream.changed"),
            (Cause::Redial(ErrorCode::SessionSuperseded), 4409, "session.superseded"),
            (Cause::Redial(ErrorCode::NodeNotHere), 1013, "node.unreachable"),
        ] {
            let told = cause.close();
            assert_eq!((told.code.close(), told.code.as_str()), (Some(close), code), "{cause:?}");
        }
    }

    #[test]
    fn a_program_that_ends_its_own_connection_speaks_for_itself() {
        let told = Cause::FarEnd(Close::new(ErrorCode::UpstreamEnded, "")).close();
        assert_eq!((told.code.as_str(), told.code.close()), ("upstream.ended", None));
    }

    #[test]
    fn whatever_redialling_ends_with_has_a_close_code() {
        for &code in ErrorCode::ALL {
            assert!(Cause::Redial(code).close().code.close().is_some(), "{code}");
        }
    }

    #[test]
    fn the_reason_of_an_end_reaches_the_client() {
        assert_eq!(Cause::Instance(Phase::Failed, "exit 3".to_owned()).close().reason, "exit 3");
    }
}
