//! The gateway between a client that knows nothing of it, a real store, and nodes that do as they are told.

#![allow(unreachable_pub, reason = "the modules of one test program")]

mod client;
mod cors;
mod forwarding;
mod http1;
mod http2;
mod limits;
mod links;
mod node;
mod observed;
mod server;
mod sessions;
mod slow;
mod stopping;
mod tokens;
mod world;
