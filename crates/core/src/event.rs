//! What happened in an instance, told so that nobody misses any of it without knowing.
//!
//! A number that only counts up is not enough to go on from: after the agent's restart it would begin again, and a reader
//! with an old, high number would wait in silence until it was reached. So an event's id names the agent's start too, and
//! whoever comes with an id of another start is told that there is a gap, and goes on.

mod history;
mod id;
mod reader;
mod ring;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use history::{Page, Query, Segment};
pub use id::{Cursor, CursorError, EventId};
pub use reader::{Filter, Item, Reader};
pub use ring::{Gap, Record, Ring};

/// The header by which an API server tells an agent that it asks somebody else for what is older than all that the agent has.
pub const OLDER: &str = "landfast-older";

/// The header by which an agent tells where what it has begins, as an event's id.
pub const OLDEST: &str = "landfast-oldest";

/// The most bytes of an event's envelope as JSON: what readers of server-sent events take in one piece.
pub const ENVELOPE_MAX: usize = 1_000_000;

/// What an envelope adds to its event: names, braces, and the longest number.
const ENVELOPE_EXTRA: usize = 48;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in microseconds since 1970.
    pub ts: u64,
    /// What, such as `process_exit`.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// What it is about.
    pub category: Category,
    /// Who says so.
    pub source: Source,
    /// What there is to know about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// Whether `data` was dropped because it was too large.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// Conversations that begin and end.
    Connection,
    /// What was asked of the instance.
    Control,
    /// Programs that end.
    System,
    /// The instance's own life.
    Lifecycle,
    /// What a page says to its console.
    Console,
    /// What a page asks of the network.
    Network,
    /// What a page does.
    Page,
    /// Whatever its caller means by it.
    Custom,
}

/// Who says that something happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// `agent`, `cdp`, or what a caller calls itself.
    pub kind: Cow<'static, str>,
    /// The name that the source itself has for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// What the source adds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// An event with its number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// The event's number since the agent's start, from 1 without holes.
    pub seq: u64,
    /// The event.
    pub event: Event,
}

/// What a browser is watched for, beside what its agent sees anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telemetry {
    /// What pages say to their consoles.
    #[serde(default)]
    pub console: bool,
    /// What pages ask of the network.
    #[serde(default)]
    pub network: bool,
    /// What pages do.
    #[serde(default)]
    pub page: bool,
}

/// The types that mean the same everywhere, whoever says them.
const KNOWN: [(Category, &[&str]); 7] = [
    (
        Category::Connection,
        &[
            "cdp_connect",
            "cdp_disconnect",
            "live_view_connect",
            "live_view_disconnect",
            "session_open",
            "session_resume",
            "session_close",
        ],
    ),
    (Category::Control, &["api_call", "cdp_command"]),
    (
        Category::System,
        &[
            "service_crashed",
            "oom_kill",
            "system_oom_kill",
            "process_exit",
            "monitor_disconnected",
            "monitor_reconnected",
            "monitor_reconnect_failed",
            "monitor_init_failed",
        ],
    ),
    (Category::Lifecycle, &["instance_started", "instance_stopping", "moved"]),
    (Category::Console, &["console_log", "console_error"]),
    (
        Category::Network,
        &["network_request", "network_response", "network_loading_failed", "network_idle", "proxy_error"],
    ),
    (
        Category::Page,
        &[
            "page_navigation",
            "page_dom_content_loaded",
            "page_load",
            "page_tab_opened",
            "page_tab_closed",
            "page_crashed",
            "page_layout_shift",
            "page_lcp",
            "page_layout_settled",
            "page_navigation_settled",
        ],
    ),
];

impl Event {
    /// An event that the agent saw at `ts`, in microseconds since 1970. Its type gives it its category.
    pub fn new(kind: impl Into<Cow<'static, str>>, ts: u64) -> Self {
        let kind = kind.into();
        Self { ts, category: Category::of(&kind), kind, source: Source::new("agent"), data: None, truncated: false }
    }

    /// The same with data.
    #[must_use]
    pub fn with_data(self, data: Value) -> Self {
        Self { data: Some(data), ..self }
    }

    /// The same as another source says it.
    #[must_use]
    pub fn with_source(self, source: Source) -> Self {
        Self { source, ..self }
    }

    /// The event as JSON that fits into an envelope: if it is too large, without its data, and if it still is, without what
    /// its source says of it.
    pub fn to_bounded_json(&self) -> String {
        if let Some(json) = self.to_json() {
            return json;
        }
        let mut cut = Self { data: None, truncated: true, ..self.clone() };
        if let Some(json) = cut.to_json() {
            return json;
        }
        cut.source = Source::new("unknown");
        cut.kind = Cow::Borrowed("oversized");
        cut.to_json().expect("what is left has a fixed size")
    }

    fn to_json(&self) -> Option<String> {
        let mut json = Bounded { bytes: Vec::new(), room: ENVELOPE_MAX - ENVELOPE_EXTRA };
        serde_json::to_writer(&mut json, self).ok()?;
        Some(String::from_utf8(json.bytes).expect("JSON is UTF-8"))
    }
}

impl Source {
    /// A source of which only its kind is known.
    pub fn new(kind: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: kind.into(), event: None, metadata: BTreeMap::new() }
    }
}

impl Category {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Connection,
        Self::Control,
        Self::System,
        Self::Lifecycle,
        Self::Console,
        Self::Network,
        Self::Page,
        Self::Custom,
    ];

    /// The category of a type.
    pub fn of(kind: &str) -> Self {
        let known = KNOWN.iter().find(|(_, kinds)| kinds.contains(&kind));
        known.map_or(Self::Custom, |&(category, _)| category)
    }

    /// The word used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Control => "control",
            Self::System => "system",
            Self::Lifecycle => "lifecycle",
            Self::Console => "console",
            Self::Network => "network",
            Self::Page => "page",
            Self::Custom => "custom",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Refuses what does not fit, instead of making a copy of whatever size first.
struct Bounded {
    bytes: Vec<u8>,
    room: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(is: &bool) -> bool {
    !*is
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_the_json_of_the_specification() {
        let event = Event::new("process_exit", 7).with_data(json!({"code": 0}));
        let said = serde_json::to_value(Envelope { seq: 3, event }).unwrap();
        let source = json!({"kind": "agent"});
        let expected =
            json!({"ts": 7, "type": "process_exit", "category": "system", "source": source, "data": {"code": 0}});
        assert_eq!(said, json!({"seq": 3, "event": expected}));
    }

    #[test]
    fn a_type_that_nobody_knows_is_custom() {
        assert_eq!(Category::of("page_load"), Category::Page);
        assert_eq!(Category::of("page_load_of_mine"), Category::Custom);
    }

    #[test]
    fn no_type_has_two_categories() {
        let mut all: Vec<_> = KNOWN.iter().flat_map(|(_, kinds)| kinds.iter()).collect();
        let len = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), len);
    }

    #[test]
    fn what_is_too_large_loses_its_data_and_says_so() {
        let event = Event::new("console_log", 1).with_data(json!("x".repeat(ENVELOPE_MAX)));
        let said: Event = serde_json::from_str(&event.to_bounded_json()).unwrap();
        assert_eq!((said.data, said.truncated, said.kind.as_ref()), (None, true, "console_log"));
        let event = Event::new("x".repeat(ENVELOPE_MAX), 1);
        assert!(event.to_bounded_json().len() < 200);
        let fits = Event::new("console_log", 1).with_data(json!("x".repeat(ENVELOPE_MAX - 200)));
        assert!(!fits.to_bounded_json().contains("truncated"));
    }
}
