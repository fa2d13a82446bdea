//! The error table: every way in which Landfast says no, once.
//!
//! One row gives the code, the HTTP status, the WebSocket close code, whether and when to try again, who is to blame,
//! what happened, and what to do. `docs/reference/errors.md`, the SDKs' enums and metric labels are made from it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// When the same request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Trying again changes nothing.
    Never,
    /// Nothing was started: any request may be sent again.
    Safe,
    /// It may have run: only a request that is safe to repeat may be sent again.
    IfIdempotent,
}

impl Retry {
    /// The word used in documents and SDKs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Safe => "safe",
            Self::IfIdempotent => "if idempotent",
        }
    }
}

/// Whose side the cause lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The caller sent something that cannot work.
    Client,
    /// The instance's own program.
    Instance,
    /// Landfast or the machines it runs on.
    Platform,
    /// Nobody: an ordinary end.
    Nobody,
}

impl Blame {
    /// The word used in documents and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Instance => "instance",
            Self::Platform => "platform",
            Self::Nobody => "nobody",
        }
    }
}

macro_rules! error_table {
    ($($name:ident $code:literal $status:tt $close:tt $retry:ident $blame:ident $what:literal $advice:literal;)*) => {
        /// A row of the error table. The text form is `group.name`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum ErrorCode {
            $(#[doc = concat!("`", $code, "`: ", $what)] #[serde(rename = $code)] $name,)*
        }

        impl ErrorCode {
            /// Every row, in the table's order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code's text, such as `instance.gone`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status, or `None` for a cause that can only end a session.
            pub const fn status(self) -> Option<u16> {
                match self { $(Self::$name => cell!($status),)* }
            }

            /// The WebSocket close code, or `None` for a cause that no close frame tells.
            pub const fn close(self) -> Option<u16> {
                match self { $(Self::$name => cell!($close),)* }
            }

            /// When the same request may be sent again.
            pub const fn retry(self) -> Retry {
                match self { $(Self::$name => Retry::$retry,)* }
            }

            /// Whose side the cause lies on.
            pub const fn blame(self) -> Blame {
                match self { $(Self::$name => Blame::$blame,)* }
            }

            /// What happened, as one sentence for the client.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $what,)* }
            }

            /// What to do about it, as one sentence for the client.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)* }
            }
        }
    };
}

macro_rules! cell {
    (-) => {
        None
    };
    ($number:literal) => {
        Some($number)
    };
}

error_table! {
    RequestInvalid "request.invalid" 400 1002 Never Client
        "The request could not be understood." "Correct what the detail names and send it again.";
    RequestNotFound "request.not_found" 404 4404 Never Client
        "There is nothing at this path." "Compare the path with the API reference.";
    RequestMethod "request.method" 405 - Never Client
        "This path does not take this method." "Use a method the Allow header lists.";
    RequestVersion "request.version" 505 - Never Client
        "This HTTP version is not spoken here." "Use HTTP/1.1 or HTTP/2.";
    RequestExpectation "request.expectation" 417 - Never Client
        "This expectation cannot be met." "Send Expect: 100-continue, or none.";
    RequestConflict "request.conflict" 409 - Safe Client
        "Another request changed the same record first." "Read the record again and repeat the change.";
    RequestKeyReused "request.key_reused" 422 - Never Client
        "This Idempotency-Key was used with another request." "Use a new key for a new request.";
    RequestRepeated "request.repeated" 409 - Never Client
        "This repeats a request that was sent before, and what came of that one is not known any more." "Look at what it should have done, then send a new one.";
    NameTaken "name.taken" 409 - Never Client
        "Something else has this name." "Choose another name, or end what has it.";
    PoolInUse "pool.in_use" 409 - Never Client
        "Browsers of the pool are acquired." "Release them first, or say force.";
    AuthMissing "auth.missing" 401 1008 Never Client
        "The request carries no token." "Send an access token for this instance, or an API key to the control plane, as Authorization: Bearer.";
    AuthInvalid "auth.invalid" 401 1008 Never Client
        "The token is not one of ours." "Ask the control plane for a new token.";
    AuthExpired "auth.expired" 401 1008 Never Client
        "The token has expired." "Ask the control plane for a new token.";
    AuthForbidden "auth.forbidden" 403 1008 Never Client
        "The token does not allow this." "Use a token for this instance with the scope the detail names.";
    AuthRevoked "auth.revoked" 403 1008 Never Client
        "The token has been revoked." "Ask the control plane for a new token.";
    KeyUnknown "key.unknown" 404 - Never Client
        "There is no API key with this id." "`landfast key ls` lists them.";
    KeyLast "key.last" 409 - Never Client
        "This is the last API key; without one nobody could make another." "Make another key first.";
    InstanceUnknown "instance.unknown" 404 4404 Never Client
        "There has never been an instance with this id." "Check the id; `landfast ls` lists the live ones.";
    InstanceGone "instance.gone" 410 4410 Never Client
        "The instance was deleted." "Create a new one.";
    InstanceStopped "instance.stopped" 409 1000 Never Client
        "The instance was stopped on request." "Create a new one.";
    InstanceFailed "instance.failed" 502 1011 Never Instance
        "The instance failed." "Read its reason with `landfast get`, then create a new one.";
    InstanceLost "instance.lost" 502 1011 Never Platform
        "The node that ran the instance was lost." "Create a new one, or use restart: always.";
    InstanceStarting "instance.starting" 503 1013 Safe Platform
        "The instance is starting." "Try again shortly.";
    InstanceMoving "instance.moving" 503 1013 Safe Platform
        "The instance is moving to another node." "Try again shortly.";
    InstanceWaking "instance.waking" 503 1013 Safe Platform
        "The instance is waking." "Try again shortly.";
    InstanceSleeping "instance.sleeping" 409 - Never Client
        "The instance is asleep." "Wake it with `landfast wake`, or send it a request.";
    SleepRefused "sleep.refused" 409 - Never Client
        "The instance cannot be put to sleep." "Choose a running instance that a node of the cell runs.";
    MoveRefused "move.refused" 409 - Never Client
        "The instance cannot be moved there." "Choose a running instance and a live node on the same host.";
    MoveFailed "move.failed" 502 - Safe Platform
        "The move was given up; the instance stays where it was." "Try again, or choose another node.";
    ProcessUnknown "process.unknown" 404 4404 Never Client
        "The instance has no process with this id." "List its processes.";
    ProcessExited "process.exited" - 1000 Never Nobody
        "The process has exited." "Its exit status was sent before this.";
    ProcessNotRunning "process.not_running" 409 - Never Client
        "The process has exited already." "Read its exit status.";
    ProcessNoTerminal "process.no_terminal" 409 - Never Client
        "The process has no terminal." "Start it with tty to resize it or to attach from its screen.";
    ProcessStdinClosed "process.stdin_closed" 409 - Never Client
        "The input of the process is closed." "Start it with stdin open, and write before end of input.";
    ProcessSpawn "process.spawn" 422 - Never Client
        "The command could not be started." "Correct what the detail names.";
    SessionUnknown "session.unknown" 404 4404 Never Client
        "The session has ended, or never was." "Open a new one; a process can be attached again by offset.";
    SessionForbidden "session.forbidden" 403 1008 Never Client
        "The session's secret is wrong." "Use the secret that came with the session.";
    SessionSuperseded "session.superseded" 409 4409 Never Client
        "A newer link carries this session." "Let the newer link go on, or close it.";
    SessionSlowClient "session.slow_client" - 1008 Never Client
        "The client took no byte for too long." "Read faster, or attach again by offset.";
    ClientClose "client.close" - 1000 Never Nobody
        "The client closed the session." "Nothing to do.";
    ClientLost "client.lost" - 1001 Never Client
        "The client's connection was lost." "Attach again; processes go on running.";
    LinkProtocol "link.protocol" 400 1002 Never Client
        "The peer broke the link protocol." "Use a client that speaks landfast-link/1 correctly; the detail names the record.";
    LinkRecordTooLarge "link.record_too_large" - 1002 Never Client
        "A link record was larger than its kind allows." "Send at most 65,536 bytes of data in a record.";
    LinkWindow "link.window" - 1002 Never Client
        "A link record went past the window." "Send no more than the window beyond what was acknowledged.";
    LinkVersion "link.version" 426 1002 Never Client
        "This link version is not spoken here." "Use landfast-link/1.";
    ServiceUnknown "service.unknown" 404 4404 Never Client
        "The instance has no service with this name." "Read the instance's spec, or reach a port by its number.";
    FileNotFound "file.not_found" 404 - Never Client
        "There is no file or directory with this path." "Check the path; relative ones begin at the instance's home.";
    FileExists "file.exists" 409 - Never Client
        "Something is there already." "Remove it first, choose another path, or ask to overwrite.";
    FileNotAFile "file.not_a_file" 409 - Never Client
        "What is there is no file with content." "For a directory use its own calls; pipes, sockets and devices are for programs.";
    FileNotADirectory "file.not_a_directory" 409 - Never Client
        "What is there is no directory." "Check the path.";
    FileNotEmpty "file.not_empty" 409 - Never Client
        "The directory is not empty." "Remove the tree, if all of it is to go.";
    FileDenied "file.denied" 403 - Never Client
        "The instance's user may not do this with the file." "Change the file's mode, or choose another path.";
    FileEscape "file.escape" 422 - Never Client
        "An entry of the archive would lead out of where it is put." "Pack the tree without what the detail names.";
    FileArchive "file.archive" 422 - Never Client
        "The body is no tar archive that can be unpacked here." "Send a whole tar archive without compression.";
    FileRange "file.range" 416 - Never Client
        "The file has no such part." "Content-Range says its size.";
    FileChanged "file.changed" 412 - Never Client
        "The file is not the one that was named." "Read it again, then decide.";
    FileNoSpace "file.no_space" 507 - Never Instance
        "There is no space left for the file." "Free space in the instance; what was there before is still there.";
    FileOtherDevice "file.other_device" 409 - Never Client
        "A directory cannot be moved to another file system." "Copy it as a tree, then remove it.";
    FileFailed "file.failed" 500 - Never Instance
        "The instance's file system failed." "The detail has its words.";
    BrowserDown "browser.down" 503 1011 Never Instance
        "The browser does not run, and is not started again by itself." "Read GET /browser for the cause, then start it anew with POST /browser/restart.";
    UpstreamRefused "upstream.refused" 502 1014 Safe Instance
        "Nothing listens on this port of the instance." "Start the program, or check the port.";
    UpstreamLost "upstream.lost" 502 1014 IfIdempotent Instance
        "The connection to the instance's program was lost." "Repeat the request if that is safe.";
    UpstreamEnded "upstream.ended" - - Never Nobody
        "The instance's program ended the connection." "Nothing to do; connect again to say more.";
    UpstreamProtocol "upstream.protocol" 502 1014 Never Instance
        "The instance's program answered with something that is not HTTP." "Look at the program's log; the detail says what came.";
    UpstreamTimeout "upstream.timeout" 504 1014 IfIdempotent Instance
        "The instance's program did not answer in time." "Repeat the request if that is safe.";
    UpstreamChanged "upstream.changed" 502 1012 Never Instance
        "The service was started anew; what it held in memory is lost." "Connect again.";
    UpstreamFlapping "upstream.flapping" 502 1011 Never Instance
        "The connection was lost again and again without progress." "Look at the instance's events and logs.";
    NodeNotHere "node.not_here" 503 - Safe Platform
        "This node does not run the instance." "Resolve the instance again.";
    NodeStaleGeneration "node.stale_generation" 503 - Safe Platform
        "The route is of an older life of the instance." "Resolve the instance again.";
    NodeDraining "node.draining" 503 - Safe Platform
        "The node takes nothing new." "Resolve the instance again.";
    NodeUnreachable "node.unreachable" 503 1013 Safe Platform
        "The node could not be reached." "Try again shortly.";
    NodeUntrusted "node.untrusted" 503 1013 Safe Platform
        "What answers at the node's address does not prove that it is a node of this cell." "Compare the certificates of both ends: `landfast ca issue` makes new ones.";
    NodeUnknown "node.unknown" 404 - Never Client
        "There is no live node with this id or name." "`landfast node ls` lists the live ones.";
    NodeNoneFits "node.none_fits" 503 - Safe Platform
        "No live node can take the instance." "Start a node, free capacity, or relax the labels.";
    RegistryUnavailable "registry.unavailable" 503 1013 Safe Platform
        "The registry cannot be reached." "Try again shortly.";
    ArchiveUnavailable "archive.unavailable" 503 - Safe Platform
        "The archive of events does not answer at present." "Try again shortly; live events are not affected.";
    StoreCorrupt "store.corrupt" 500 - Never Platform
        "The store's file is damaged." "Restore it from a backup, or move it away to begin an empty cell.";
    StoreFull "store.full" 507 - Safe Platform
        "The disk that holds the store is full." "Free space; nothing acknowledged was lost.";
    StoreVersion "store.version" 500 - Never Platform
        "The store was written by a newer release." "Run that release or a newer one.";
    StoreLeaseLapsed "store.lease_lapsed" 503 - Safe Platform
        "The lease that the change depends on has lapsed." "Try again shortly.";
    ListenInUse "listen.in_use" - - Never Client
        "Another program listens on this address." "Stop it, or choose another address; port 0 takes any free one.";
    ConfigInvalid "config.invalid" - - Never Client
        "The configuration is not valid." "Correct what the detail names.";
    GatewayDraining "gateway.draining" 503 1012 Safe Platform
        "The gateway is shutting down." "Connect again; another gateway answers.";
    GatewayUnreachable "gateway.unreachable" - - Safe Platform
        "The gateway could not be reached." "Start it, or check its address, the network between, and its certificate.";
    AgentSilent "agent.silent" - - Safe Platform
        "An agent does not answer its node." "Read agent.log in the instance's directory on the node; a machine without memory or processors left is the usual cause.";
    LimitRate "limit.rate" 429 1013 Safe Client
        "Too many requests." "Slow down; Retry-After says for how long.";
    LimitInFlight "limit.in_flight" 429 1013 Safe Client
        "Too many requests at once." "Wait for some to finish.";
    LimitSessions "limit.sessions" 429 1013 Safe Client
        "Too many open sessions." "Close some.";
    LimitProcesses "limit.processes" 429 - Safe Client
        "Too many processes in this instance." "Delete some that have exited.";
    LimitWatches "limit.watches" 429 - Safe Client
        "Too much is watched at once." "End another watch, or watch fewer directories.";
    LimitBody "limit.body" 413 1009 Never Client
        "The body is too large." "Send less, or send it in parts.";
    LimitHeader "limit.header" 431 1009 Never Client
        "The request's head is too large." "Send fewer or shorter headers; 64 KiB is the most.";
    LimitMessage "limit.message" - 1009 Never Client
        "The message is too large." "Send smaller messages.";
    RequestTimeout "request.timeout" 408 - Safe Client
        "The request did not arrive in time." "Send its head at once, within 10 seconds if the gateway does not say otherwise, and its body without long pauses.";
    Internal "internal" 500 1011 Never Platform
        "Something went wrong inside Landfast." "Report it with the request id.";
}

impl ErrorCode {
    /// Finds a row by its text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }

    /// The HTTP status of an answer with this cause. A cause that can only end a session answers as an internal error,
    /// which a test rules out for every code that reaches an answer.
    pub fn status_or_500(self) -> u16 {
        self.status().unwrap_or(500)
    }

    /// The WebSocket close code of an ending with this cause; 1011 where the table has none.
    pub fn close_or_1011(self) -> u16 {
        self.close().unwrap_or(1011)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for ErrorCode {
    type Err = UnknownErrorCode;

    fn from_str(text: &str) -> Result<Self, UnknownErrorCode> {
        Self::parse(text).ok_or(UnknownErrorCode)
    }
}

/// The text is no code of the error table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownErrorCode;

impl fmt::Display for UnknownErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a code of the error table")
    }
}

impl std::error::Error for UnknownErrorCode {}

/// A refusal with what its reader needs: the row, and what exactly was wrong.
///
/// `detail` is read by the client: no paths of the host, no secrets, no internals. What an operator needs in addition
/// goes to the log where the refusal is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The row of the table.
    pub code: ErrorCode,
    /// What exactly was wrong, for the client; empty when the row says it all.
    pub detail: String,
}

impl Problem {
    /// A refusal with a detail.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// The body of the answer, as `application/problem+json` (RFC 9457) with the table's columns beside it.
    pub fn body(&self) -> ProblemBody {
        ProblemBody {
            kind: format!("urn:landfast:error:{}", self.code),
            title: self.code.sentence().to_owned(),
            status: self.code.status_or_500(),
            code: self.code.as_str().to_owned(),
            detail: if self.detail.is_empty() { self.code.sentence().to_owned() } else { self.detail.clone() },
            advice: self.code.advice().to_owned(),
        }
    }
}

impl From<ErrorCode> for Problem {
    fn from(code: ErrorCode) -> Self {
        Self { code, detail: String::new() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            write!(f, "{}: {} {}", self.code, self.code.sentence(), self.code.advice())
        } else {
            write!(f, "{}: {} {}", self.code, self.detail, self.code.advice())
        }
    }
}

impl std::error::Error for Problem {}

/// The JSON of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemBody {
    /// A URI that names the row.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened, the same for every refusal of this row.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The row's code, such as `instance.gone`.
    pub code: String,
    /// What exactly was wrong this time.
    pub detail: String,
    /// What to do about it.
    pub advice: String,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_is_unique_and_found_by_its_text() {
        let texts: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(code));
        }
    }

    #[test]
    fn statuses_are_errors_and_close_codes_may_be_sent() {
        for &code in ErrorCode::ALL {
            if let Some(status) = code.status() {
                assert!((400..600).contains(&status), "{code}: {status}");
            }
            if let Some(close) = code.close() {
                assert!(crate::ws::is_sendable_close(close), "{code}: {close}");
                assert!(close != 1000 || code.blame() != Blame::Platform, "{code} closes 1000 for a failure of ours");
            }
        }
    }

    #[test]
    fn sentences_end_in_a_full_stop_and_fit_a_close_frame() {
        for &code in ErrorCode::ALL {
            assert!(code.sentence().ends_with('.') && code.advice().ends_with('.'), "{code}");
            assert!(code.as_str().len() <= 123, "{code}");
        }
    }
}
