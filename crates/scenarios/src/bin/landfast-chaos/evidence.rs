//! What a run leaves to judge: what was done to the cell, what the registry said, and what each client saw.
//!
//! All times are counted from the run's beginning, by one clock of the machine on which all of it runs.

use std::time::Duration;

use landfast_core::record::Phase;
use landfast_scenarios::numbers::Wrong;

use crate::plan::{Fault, Host};

/// A time since the run began.
pub(crate) type At = Duration;

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) struck: Vec<Struck>,
    pub(crate) records: Vec<Recorded>,
    pub(crate) talks: Vec<Talk>,
    pub(crate) requests: Vec<Request>,
    pub(crate) ran: Vec<Ran>,
    /// The labels under which instances were asked for once each.
    pub(crate) wished: Vec<String>,
    /// When the last fault was over and everything was started again.
    pub(crate) quiet: At,
    /// Daemons that ended and were not told to.
    pub(crate) crashes: Vec<String>,
    /// What was left behind.
    pub(crate) leaks: Vec<String>,
}

/// A fault as it was.
#[derive(Clone, Debug)]
pub(crate) struct Struck {
    pub(crate) fault: Fault,
    pub(crate) from: At,
    pub(crate) to: At,
}

/// A change of an instance's record, when it was heard of.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) at: At,
    pub(crate) instance: String,
    /// What it was asked for under.
    pub(crate) wish: String,
    /// `None` once the record is removed.
    pub(crate) phase: Option<Phase>,
    pub(crate) generation: u64,
    /// The node it was at, also after it is not any more.
    pub(crate) node: Option<Host>,
    pub(crate) reason: String,
}

/// How a client is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A WebSocket to one gateway, by a client that knows nothing of links.
    Plain(Host),
    /// The Rust client, which ends the link itself.
    Linked,
}

/// A session of a client, from the moment in which it stood.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    pub(crate) name: String,
    pub(crate) instance: String,
    pub(crate) way: Way,
    pub(crate) began: At,
    /// When something came over it for the first time after the faults.
    pub(crate) again: Option<At>,
    /// When and how it ended; `None` if it never did.
    pub(crate) end: Option<(At, End)>,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All was said and heard, to the last byte, each way.
    Whole,
    /// Not the bytes that were sent.
    Wrong(Wrong),
    /// Something was said that breaks the protocol, or what the far end heard was not what was sent.
    Strange(String),
    /// A close frame, or for a link-aware client the cause.
    Closed(u16, String),
    /// The process's exit, before it was through.
    Exit(i32),
    /// The end of the connection without a close frame.
    Cut(String),
    /// What was typed may or may not have arrived, says the client.
    Unsure,
}

/// A request, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) instance: String,
    pub(crate) nonce: String,
    pub(crate) kind: Kind,
    pub(crate) via: Host,
    pub(crate) began: At,
    pub(crate) ended: At,
    pub(crate) outcome: Outcome,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Changes nothing.
    Get,
    /// To run once.
    Post,
    /// To run, perhaps again: with an `Idempotency-Key`.
    Keyed,
    /// A command, to run once.
    Exec,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The instance's answer.
    Answered(Answered),
    /// Landfast's refusal, with its code.
    Refused(u16, String),
    /// No whole answer.
    Broken(String),
}

/// An answer of an instance's program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) generation: u64,
    /// Who answered, by its own word; empty where the agent did.
    pub(crate) instance: String,
    pub(crate) life: String,
    /// Whether it said what it had to say.
    pub(crate) is_right: bool,
    pub(crate) body: String,
}

/// A request that ran, as the program that ran it has written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) instance: String,
    pub(crate) nonce: String,
    pub(crate) life: String,
    pub(crate) at: At,
}
