//! The browser of an instance: kept as a service, reached by nobody but through here.

#[allow(dead_code, reason = "events are the monitor's to read")]
pub(crate) mod client;
#[allow(dead_code, reason = "a profile is the keeper's to clear")]
pub(crate) mod devtools;
