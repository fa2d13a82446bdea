//! The harness of the scenarios: a real cell of real processes, a network that fails on command, clients that know
//! nothing of what is tested, and streams whose bytes know their place.
//!
//! A scenario says what a user would: *a cut link is nothing but a pause*. Whatever it takes to bring that about is here.
//! Helpers panic where a test would have to stop anyway, and every wait has a deadline, so that a scenario can fail but
//! never hang.

pub mod attached;
pub mod browser;
pub mod cell;
pub mod conversation;
pub mod corpus;
pub mod direct;
pub mod echo;
pub mod external;
pub mod fault_relay;
pub mod forwarded;
pub mod ground;
pub mod http;
pub mod instance;
pub mod leaks;
pub mod meaning;
pub mod namespaces;
pub mod numbers;
pub mod opaque;
pub mod peer;
pub mod plain;
pub mod raw_http2;
pub mod raw_link;
pub mod recorder;
pub mod role;
pub mod seed;
pub mod served;
pub mod spectators;
pub mod stalled;
pub mod storm;
pub mod traffic;
pub mod user;
