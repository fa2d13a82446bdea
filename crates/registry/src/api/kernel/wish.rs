//! What such a client asks a browser to be.
//!
//! Their own service has more than ours: proxies, profiles, extensions. What is asked for and is not there is refused with
//! its name; what is asked for and changes nothing here, such as a region, is taken and said again.

use std::collections::BTreeMap;

use landfast_core::event::Telemetry;
use landfast_core::id::PoolId;
use landfast_core::record::{Browser, Instance, InstanceSpec, Kind};
use landfast_core::{InstanceId, Problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::input::invalid;
use super::super::instances;
use super::super::spec::check_labels;
use super::label::{Labels, is_ours};

/// How long a browser may be idle: the bounds and the default of their API.
const TIMEOUT_SECONDS: std::ops::RangeInclusive<u64> = 10..=259_200;
const TIMEOUT_DEFAULT: u64 = 60;

/// The most tags, as there.
const TAGS_MAX: usize = 50;

/// The longest name, as there.
const NAME_MAX: usize = 255;

/// The longest URL to begin with: what Chromium itself takes.
const URL_MAX: usize = 2 << 20;

/// Pixels of a window's side: Chromium's own bound for a surface.
const SIDE_MAX: u32 = 16_384;

/// Where and how large a browser may believe it is.
const REGIONS: [&str; 4] = ["us-east", "us-west", "eu-west", "ap-southeast"];
const MEMORIES: [&str; 7] = ["1GiB", "2GiB", "4GiB", "6GiB", "8GiB", "12GiB", "16GiB"];

/// A browser that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wish {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tags: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timeout_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) viewport: Option<Viewport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) telemetry: Option<TelemetryWish>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<String>,
    /// Whether it has a window that nobody sees; every one here has.
    #[serde(skip_serializing_if = "Option::is_none")]
    headless: Option<bool>,
    /// Whose call this is part of; nothing depends on it.
    #[serde(skip_serializing)]
    invocation_id: Option<Value>,
    // What is not here.
    #[serde(skip_serializing)]
    stealth: Option<Value>,
    #[serde(skip_serializing)]
    gpu: Option<Value>,
    #[serde(skip_serializing)]
    kiosk_mode: Option<Value>,
    #[serde(skip_serializing)]
    chrome_policy: Option<Value>,
    #[serde(skip_serializing)]
    extensions: Option<Value>,
    #[serde(skip_serializing)]
    location: Option<Value>,
    #[serde(skip_serializing)]
    network: Option<Value>,
    #[serde(skip_serializing)]
    profile: Option<Value>,
    #[serde(skip_serializing)]
    proxy: Option<Value>,
    #[serde(skip_serializing)]
    proxy_id: Option<Value>,
    #[serde(skip_serializing)]
    vaults: Option<Value>,
    #[serde(skip_serializing)]
    video_memory: Option<Value>,
}

/// The size of a browser's window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Viewport {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Of a screen that is filmed; here pages are drawn when they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_rate: Option<u32>,
}

/// What is to be told of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TelemetryWish {
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    browser: Option<BTreeMap<String, CategoryWish>>,
    #[serde(skip_serializing)]
    export: Option<Value>,
    #[serde(skip_serializing)]
    storage: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct CategoryWish {
    enabled: Option<bool>,
}

impl Wish {
    /// Refuses what cannot be had.
    ///
    /// # Errors
    ///
    /// A refusal that names the field.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let absent = [
            ("stealth", &self.stealth),
            ("gpu", &self.gpu),
            ("kiosk_mode", &self.kiosk_mode),
            ("chrome_policy", &self.chrome_policy),
            ("extensions", &self.extensions),
            ("location", &self.location),
            ("network", &self.network),
            ("profile", &self.profile),
            ("proxy_id", &self.proxy_id),
            ("vaults", &self.vaults),
            ("video_memory", &self.video_memory),
        ];
        if let Some((name, _)) = absent.iter().find(|(_, value)| asks_for_something(value.as_ref())) {
            return Err(not_here(name));
        }
        // Where there is no proxy, every browser goes out directly.
        let mode = self.proxy.as_ref().and_then(|proxy| proxy["mode"].as_str());
        if asks_for_something(self.proxy.as_ref()) && !matches!(mode, Some("direct" | "default")) {
            return Err(not_here("proxy"));
        }
        self.name.as_deref().map_or(Ok(()), check_name)?;
        self.tags.as_ref().map_or(Ok(()), check_tags)?;
        self.start_url.as_deref().map_or(Ok(()), check_url)?;
        self.viewport.as_ref().map_or(Ok(()), check_viewport)?;
        self.telemetry.as_ref().map_or(Ok(()), TelemetryWish::check)?;
        check_word("region", self.region.as_deref(), &REGIONS)?;
        check_word("memory", self.memory.as_deref(), &MEMORIES)?;
        if self.timeout_seconds.is_some_and(|seconds| !TIMEOUT_SECONDS.contains(&seconds)) {
            let (least, most) = (TIMEOUT_SECONDS.start(), TIMEOUT_SECONDS.end());
            return Err(invalid(format!("timeout_seconds is from {least} to {most}.")));
        }
        Ok(())
    }

    /// For how long it may be idle.
    pub(super) fn timeout(&self) -> u64 {
        self.timeout_seconds.unwrap_or(TIMEOUT_DEFAULT)
    }

    /// The instance that is made of it. One that waits in a pool does so for ever.
    pub(super) fn instance(self, id: InstanceId, pool: Option<PoolId>) -> Instance {
        let timeout = self.timeout();
        let size = self.viewport.as_ref().map(|viewport| (viewport.width, viewport.height));
        let flags = size.map(|(width, height)| format!("--window-size={width},{height}"));
        let labels = Labels {
            is_made_here: true,
            name: self.name,
            start_url: self.start_url,
            region: self.region,
            memory: self.memory,
            viewport: size,
            pool,
            is_lent: false,
            tags: self.tags.unwrap_or_default(),
        };
        let spec = InstanceSpec {
            idle_timeout: pool.is_none().then_some(timeout),
            browser: Some(Browser { flags: flags.into_iter().collect(), ..Browser::default() }),
            ..InstanceSpec::default()
        };
        instances::Wish { kind: Some(Kind::Browser), spec, labels: labels.into_map() }.into_record(id)
    }
}

impl TelemetryWish {
    /// Refuses what cannot be had.
    ///
    /// # Errors
    ///
    /// A refusal that names the field.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let exports = self.export.as_ref().is_some_and(|export| asks_for_something(Some(&export["otlp"])));
        if exports {
            return Err(not_here("telemetry.export"));
        }
        if self.storage.as_ref().is_some_and(|storage| storage["enabled"] == false) {
            return Err(invalid("telemetry.storage: events are always kept here; leave it out."));
        }
        Ok(())
    }

    /// What the browser is watched for beyond what is always told.
    pub(super) fn wanted(&self) -> Telemetry {
        let is_on = |name: &str| {
            let category = self.browser.as_ref().and_then(|categories| categories.get(name));
            self.enabled != Some(false) && category.is_some_and(|category| category.enabled == Some(true))
        };
        Telemetry { console: is_on("console"), network: is_on("network"), page: is_on("page") }
    }
}

/// Checks a browser's or a pool's name.
///
/// # Errors
///
/// A refusal.
pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_id = name.parse::<InstanceId>().is_ok() || name.parse::<PoolId>().is_ok();
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(is_plain) || is_id {
        return Err(invalid(format!("name has 1 to {NAME_MAX} letters, digits, dots, underscores and hyphens.")));
    }
    Ok(())
}

/// Checks tags.
///
/// # Errors
///
/// A refusal.
pub(super) fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Problem> {
    if tags.len() > TAGS_MAX {
        return Err(invalid(format!("tags has at most {TAGS_MAX} pairs.")));
    }
    if let Some(tag) = tags.keys().find(|tag| is_ours(tag)) {
        return Err(invalid(format!("tags: {tag:.50?} begins as names of our own do; choose another.")));
    }
    check_labels("tags", tags)
}

/// Checks a URL to begin with.
///
/// # Errors
///
/// A refusal.
pub(super) fn check_url(url: &str) -> Result<(), Problem> {
    if url.is_empty() || url.len() > URL_MAX || url.contains(char::is_control) {
        return Err(invalid("start_url is no URL."));
    }
    Ok(())
}

fn check_viewport(viewport: &Viewport) -> Result<(), Problem> {
    let is_side = |side: u32| (1..=SIDE_MAX).contains(&side);
    if is_side(viewport.width) && is_side(viewport.height) {
        return Ok(());
    }
    Err(invalid(format!("viewport.width and viewport.height are from 1 to {SIDE_MAX}.")))
}

fn check_word(field: &str, word: Option<&str>, words: &[&str]) -> Result<(), Problem> {
    match word {
        Some(word) if !words.contains(&word) => Err(invalid(format!("{field} is one of {}.", words.join(", ")))),
        Some(_) | None => Ok(()),
    }
}

fn asks_for_something(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(Value::Bool(true) | Value::Number(_) | Value::String(_)) => true,
    }
}

fn not_here(field: &str) -> Problem {
    invalid(format!("{field} cannot be had here; leave it out."))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(wish: &Value) -> String {
        let wish = Wish::deserialize(wish).unwrap();
        wish.check().map_or_else(|problem| problem.detail, |()| "fine".to_owned())
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name_and_its_absence_is_not() {
        for (wish, expected) in [
            (json!({}), "fine"),
            (json!({"headless": false, "stealth": false, "extensions": [], "proxy": {"mode": "direct"}}), "fine"),
            (json!({"name": "a.b-c_1", "tags": {"a": "b"}, "timeout_seconds": 10, "region": "eu-west"}), "fine"),
            (json!({"stealth": true}), "stealth"),
            (json!({"proxy_id": "p"}), "proxy_id"),
            (json!({"proxy": {"id": "p"}}), "proxy"),
            (json!({"profile": {"name": "p"}}), "profile"),
            (json!({"telemetry": {"export": {"otlp": {"enabled": true}}}}), "telemetry.export"),
            (json!({"timeout_seconds": 9}), "timeout_seconds"),
            (json!({"region": "moon"}), "region"),
            (json!({"name": "a b"}), "name"),
            (json!({"name": "ins_00000000000000000000000000"}), "name"),
            (json!({"tags": {"kernel.pool": "x"}}), "tags"),
            (json!({"viewport": {"width": 0, "height": 1}}), "viewport"),
        ] {
            let found = refusal(&wish);
            assert!(found.contains(expected), "{wish}: {found}");
        }
    }

    #[test]
    fn a_browser_is_idle_for_its_time_unless_it_waits_in_a_pool() {
        let wish = Wish { timeout_seconds: Some(30), ..Wish::default() };
        let id = InstanceId::new(1, 2);
        assert_eq!(wish.clone().instance(id, None).spec.idle_timeout, Some(30));
        assert_eq!(wish.instance(id, Some(PoolId::new(1, 2))).spec.idle_timeout, None);
        assert_eq!(Wish::default().instance(id, None).spec.idle_timeout, Some(TIMEOUT_DEFAULT));
    }

    #[test]
    fn what_pages_do_is_told_only_if_it_is_asked_for() {
        let wanted = |wish: Value| TelemetryWish::deserialize(&wish).unwrap().wanted();
        assert_eq!(wanted(json!({"enabled": true})), Telemetry::default());
        let page = Telemetry { page: true, ..Telemetry::default() };
        assert_eq!(wanted(json!({"browser": {"page": {"enabled": true}, "network": {"enabled": false}}})), page);
    }
}
