//! Pages of other origins.
//!
//! A browser lets the page of one origin ask another only where that says so, and show the page a handful of an answer's
//! headers only. So without a word of the operator's no page may use this cell; with one, the pages that it names. Whether
//! a request may do anything is the token's business all the same.

use http::uri::Authority;
use landfast_net::head::{Headers, ResponseHead};

use crate::answer::Answer;
use crate::client::Request;
use crate::config::Config;

/// For how many seconds a browser may remember what it was granted: about how long a change of the configuration may
/// take to arrive.
const MAX_AGE: &str = "600";

/// What clients of ours read of an answer.
const EXPOSED: &str = "content-encoding, content-range, etag, location, retry-after, retry-after-ms, www-authenticate, \
    x-has-more, x-next-offset, x-should-retry, landfast-attempts, landfast-error, landfast-generation, \
    landfast-instance, landfast-offset, landfast-oldest, landfast-origin, landfast-request-id";

/// What is granted to the page that a request comes from, if it comes from one.
#[derive(Debug)]
pub(crate) enum Grant {
    /// Nothing to anybody: what programs in instances say of it passes.
    Off,
    /// Nothing to this one; another one's answer is another.
    Stranger,
    /// Asking, but not with the browser's own cookies: any page may.
    Any,
    /// Asking, to this origin.
    Origin(Box<str>),
}

impl Grant {
    /// What the operator grants to whoever sends a request with these headers.
    pub(crate) fn of(config: &Config, headers: &Headers) -> Self {
        if config.cors_origins.is_empty() {
            return Self::Off;
        }
        if config.cors_origins.iter().any(|origin| origin == ANY) {
            return Self::Any;
        }
        match headers.get("origin") {
            Some(origin) if config.cors_origins.iter().any(|listed| listed == origin) => Self::Origin(origin.into()),
            Some(_) | None => Self::Stranger,
        }
    }

    /// The answer to a browser's question whether it may send what the page wants to send, if this is one and it may.
    pub(crate) fn preflight(&self, request: &Request) -> Option<Answer> {
        match self {
            Self::Off | Self::Stranger => return None,
            Self::Any | Self::Origin(_) => {}
        }
        request.headers.get("origin").filter(|_| request.method == "OPTIONS")?;
        let mut headers = Headers::new();
        headers.push("access-control-allow-methods", request.headers.get("access-control-request-method")?);
        if let Some(wanted) = request.headers.get("access-control-request-headers") {
            headers.push("access-control-allow-headers", wanted);
        }
        headers.push("access-control-max-age", MAX_AGE);
        headers.push("vary", "access-control-request-method, access-control-request-headers");
        Some(Answer { head: ResponseHead { status: 204, headers }, body: Vec::new(), cause: None })
    }

    /// Says it in an answer, whoever wrote that. What a program has said itself of the same gives way.
    pub(crate) fn stamp(&self, headers: &mut Headers) {
        let origin = match self {
            Self::Off => return,
            Self::Stranger => return headers.push("vary", "origin"),
            Self::Any => ANY,
            Self::Origin(origin) => origin,
        };
        headers.set("access-control-allow-origin", origin);
        headers.remove("access-control-allow-credentials");
        headers.push("access-control-expose-headers", EXPOSED);
        if let Self::Origin(_) = self {
            headers.push("access-control-allow-credentials", "true");
            headers.push("vary", "origin");
        }
    }
}

/// Says that any page may ask.
pub(crate) const ANY: &str = "*";

/// Whether this is an origin, just as browsers write it.
pub(crate) fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let (name, port) = (authority.host(), authority.port_u16());
    let is_default = matches!((scheme, port), ("http", Some(80)) | ("https", Some(443)));
    // Nothing else stands there, such as a user's name, and nothing that is written in two ways.
    let is_exact = port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}")) == host;
    let is_small = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    !scheme.is_empty() && !name.is_empty() && is_exact && is_small && !is_default
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_writes() {
        for origin in ["https://app.example", "http://localhost:5173", "http://[::1]:80800", "chrome-extension://abc"] {
            assert_eq!(is_origin(origin), !origin.ends_with("80800"), "{origin}");
        }
        for other in [
            "null",
            "",
            "https://",
            "app.example",
            "https://app.example/",
            "https://App.example",
            "https://a:443",
            "https://u@a",
        ] {
            assert!(!is_origin(other), "{other}");
        }
    }

    #[test]
    fn what_a_program_says_gives_way_only_where_something_is_granted() {
        let said = || {
            let mut headers = Headers::new();
            headers.push("access-control-allow-origin", "https://other.example");
            headers.push("access-control-allow-credentials", "true");
            headers
        };
        let stamped = |grant: Grant| {
            let mut headers = said();
            grant.stamp(&mut headers);
            let text = |name| headers.get(name).map(str::to_owned);
            (text("access-control-allow-origin"), text("access-control-allow-credentials"), text("vary"))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(stamped(Grant::Off), (some("https://other.example"), some("true"), None));
        assert_eq!(stamped(Grant::Stranger), (some("https://other.example"), some("true"), some("origin")));
        assert_eq!(stamped(Grant::Any), (some("*"), None, None));
        assert_eq!(stamped(Grant::Origin("https://a".into())), (some("https://a"), some("true"), some("origin")));
    }
}
