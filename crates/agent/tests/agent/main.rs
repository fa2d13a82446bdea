//! The agent, driven over its sockets as a node and its clients do, with real programs in it.

mod attachments;
mod browser;
mod cdp;
mod control;
mod events;
mod exec;
mod files;
mod handoff;
mod harness;
mod hung;
mod idleness;
mod links;
mod network;
mod output;
mod processes;
mod programs;
mod screens;
mod services;
mod supervision;
mod terminals;
mod viewer;
mod way;
