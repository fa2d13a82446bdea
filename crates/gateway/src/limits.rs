//! Who is let in: each request and session asks the limits of its token and of its instance.
//!
//! Each of them has a meter beside what the gateway knows of it anyway, which is forgotten with that when nobody uses it.
//! By then its rate has long recovered. What was let in is noted in the request's record, and so is let out when that is
//! over, in whatever way.

use landfast_core::limit::{Entrance, Permit};
use landfast_core::record::Limits;
use landfast_core::time::Instant;
use landfast_core::{ErrorCode, Problem};

use crate::auth::Access;
use crate::client::{BodySize, Upgrade};
use crate::counters::{Counters, Whose};
use crate::gateway::Gateway;
use crate::routes::Entry;

/// What a request or session was let in with.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    token: Option<Permit>,
    instance: Option<Permit>,
}

/// What a request is let in as.
pub(crate) const fn entrance(upgrade: Option<Upgrade>) -> Entrance {
    match upgrade {
        None => Entrance::Request,
        Some(Upgrade::WebSocket | Upgrade::Link) => Entrance::Session,
    }
}

impl Permits {
    /// Asks the limits of a token.
    ///
    /// # Errors
    ///
    /// `limit.*`.
    pub(crate) fn ask_token(
        &mut self,
        access: &Access,
        entrance: Entrance,
        limits: &Limits,
        now: Instant,
        counters: &Counters,
    ) -> Result<(), Problem> {
        if !limits.is_none() {
            let admitted = access.meter().admit(entrance, limits, now);
            self.token = Some(admitted.map_err(|code| refused(Whose::Token, code, counters))?);
        }
        Ok(())
    }

    /// Asks the limits of an instance: its own, and the gateway's where it has none.
    ///
    /// # Errors
    ///
    /// `limit.*`.
    pub(crate) fn ask_instance(
        &mut self,
        entry: &Entry,
        entrance: Entrance,
        gateway: &Gateway,
        now: Instant,
        counters: &Counters,
    ) -> Result<(), Problem> {
        let limits = entry.limits().or(gateway.config.limits.instance);
        if !limits.is_none() {
            let admitted = entry.meter().admit(entrance, &limits, now);
            self.instance = Some(admitted.map_err(|code| refused(Whose::Instance, code, counters))?);
        }
        Ok(())
    }
}

/// Refuses a body that says that it is too long.
///
/// # Errors
///
/// `limit.body`.
pub(crate) fn check_body(body: BodySize, max: Option<u64>) -> Result<(), Problem> {
    match (body, max) {
        (BodySize::Exactly(length), Some(max)) if length > max => Err(too_long(max)),
        (BodySize::Exactly(_) | BodySize::None | BodySize::Open, _) => Ok(()),
    }
}

/// The refusal of a body with more bytes than there may be.
pub(crate) fn too_long(max: u64) -> Problem {
    Problem::new(ErrorCode::LimitBody, format!("The body has more than {max} bytes."))
}

fn refused(whose: Whose, code: ErrorCode, counters: &Counters) -> Problem {
    counters.limited(whose, code);
    let whose = match whose {
        Whose::Token => "token",
        Whose::Instance => "instance",
    };
    Problem::new(code, format!("{} The limit is that of the {whose}.", code.sentence()))
}
