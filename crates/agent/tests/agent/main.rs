//! The agent, driven over its sockets as a node and its clients do, with real programs in it.

mod exec;
mod harness;
mod processes;
mod viewer;
