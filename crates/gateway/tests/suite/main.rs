//! The gateway between a client that knows nothing of it, a real store, and nodes that do as they are told.

#![allow(unreachable_pub, reason = "the modules of one test program")]

mod client;
mod forwarding;
mod links;
mod node;
mod sessions;
mod stopping;
mod tokens;
mod world;
