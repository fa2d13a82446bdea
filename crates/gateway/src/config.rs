//! What an operator says about a gateway.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use ipnet::IpNet;
use landfast_core::record::Limits;
use landfast_core::{ErrorCode, Problem};
use serde::{Deserialize, Serialize};

use crate::cors;

/// A gateway's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The data directory, shared by all Landfast processes of the machine. Default: `~/.local/share/landfast`.
    pub data: PathBuf,
    /// Where clients connect. Default: `127.0.0.1:7070`.
    pub listen: SocketAddr,
    /// Where clients connect with TLS. Default: none.
    pub tls_listen: Option<SocketAddr>,
    /// The file with the chain of certificates (PEM) for `tls_listen`. It is read again when it changes. Default: none.
    pub tls_certificates: Option<PathBuf>,
    /// The file with the key (PEM) of the first certificate. Default: none.
    pub tls_key: Option<PathBuf>,
    /// Where nodes with `reverse` bring their connections. Default: nowhere.
    pub relay_listen: Option<SocketAddr>,
    /// That address as nodes reach it (`host:port`). Default: `relay_listen`.
    pub relay_advertise: Option<String>,
    /// The address under which clients reach the gateway (`http://host` or `https://host`), if that is not what they say
    /// in `Host`. Default: none.
    pub public_url: Option<String>,
    /// How many threads serve clients; 0 is one for each processor. Default: 0.
    pub workers: usize,
    /// The most client connections at once; further ones wait in the kernel's queue. Default: 20,000.
    pub connections: usize,
    /// How long a request or a new session waits for its instance to be somewhere, in milliseconds. Default: 30,000.
    pub route_deadline_ms: u64,
    /// How long a session's client may take no byte before it is closed, in milliseconds. Default: 60,000.
    pub slow_client_timeout_ms: u64,
    /// How long requests and sessions may go on after the first stop signal, in milliseconds: below the 30 s after which
    /// process managers kill. Default: 20,000.
    pub drain_timeout_ms: u64,
    /// The domain below which instances have host names (`{service}-{instance}.{domain}`). Default: none.
    pub domain: Option<String>,
    /// How long a client's connection may be idle between two requests, in milliseconds. Default: 75,000.
    pub idle_timeout_ms: u64,
    /// How long a client may take to send a request's head, in milliseconds; the first one's is counted from the accept.
    /// Default: 10,000.
    pub head_timeout_ms: u64,
    /// How long a client may send nothing of a request's body, in milliseconds. Default: 30,000.
    pub body_timeout_ms: u64,
    /// The most bytes of a request's body. Default: none.
    pub body_max: Option<u64>,
    /// How long a server may take to begin its answer, in milliseconds: agents and builds work for minutes. Default:
    /// 600,000.
    pub answer_timeout_ms: u64,
    /// Whether a session ends when its token expires, and not only when it is revoked. Default: false.
    pub end_sessions_at_expiry: bool,
    /// What is let through: `limits.instance` to each instance that says nothing itself (`spec.limits`), `limits.token`
    /// with each access token. In each, `rate` (requests per second; after a pause three seconds' worth at once),
    /// `in_flight` (requests that have no whole answer yet) and `sessions` (open ones). Default: no limits.
    pub limits: TrafficLimits,
    /// The networks of proxies in front of the gateway, such as `10.0.0.0/8`. From them alone the client's address is taken
    /// out of `X-Forwarded-For`: the last one there that is none of theirs. Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// The origins whose pages may ask, each as browsers write it (`https://app.example`), or `*` for all of them, whose
    /// cookies then do not count. Their preflights are answered here. Default: none.
    pub cors_origins: Vec<String>,
    /// Where `GET /metrics` is answered, to anybody who reaches it. Default: nowhere; in `landfast up`, a free port of the
    /// loopback address.
    pub metrics_listen: Option<SocketAddr>,
    /// Whether each request and each session writes a line to the log when it is over. Default: true.
    pub access_log: bool,
    /// The collector that spans are sent to over OTLP, as the base of its URL (`http://127.0.0.1:4318`). Without one
    /// `traceparent` passes as it came. Default: none.
    pub otlp_endpoint: Option<String>,
    /// Of how many requests that no caller has decided about one is traced. Default: 1, which is every one.
    pub trace_one_in: u32,
}

/// What a gateway lets through by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrafficLimits {
    /// To each instance, where its own spec says nothing.
    pub instance: Limits,
    /// With each access token.
    pub token: Limits,
}

/// How long the two sides of a request may do nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// The client, where a body is awaited.
    pub(crate) body: Duration,
    /// The server, where an answer is.
    pub(crate) answer: Duration,
    /// The client, where it is to take something.
    pub(crate) client: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
        Self {
            data: home.join(".local/share/landfast"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            tls_listen: None,
            tls_certificates: None,
            tls_key: None,
            relay_listen: None,
            relay_advertise: None,
            public_url: None,
            workers: 0,
            connections: 20_000,
            route_deadline_ms: 30_000,
            slow_client_timeout_ms: 60_000,
            drain_timeout_ms: 20_000,
            domain: None,
            idle_timeout_ms: 75_000,
            head_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            body_max: None,
            answer_timeout_ms: 600_000,
            end_sessions_at_expiry: false,
            limits: TrafficLimits::default(),
            trusted_proxies: Vec::new(),
            cors_origins: Vec::new(),
            metrics_listen: None,
            access_log: true,
            otlp_endpoint: None,
            trace_one_in: 1,
        }
    }
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`], naming the key.
    pub fn check(&self) -> Result<(), Problem> {
        let invalid = |what: &str| Err(Problem::new(ErrorCode::ConfigInvalid, what));
        if self.connections == 0 {
            return invalid("connections is at least 1.");
        }
        for (name, value) in [
            ("route_deadline_ms", self.route_deadline_ms),
            ("slow_client_timeout_ms", self.slow_client_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("head_timeout_ms", self.head_timeout_ms),
            ("trace_one_in", u64::from(self.trace_one_in)),
            ("body_timeout_ms", self.body_timeout_ms),
            ("answer_timeout_ms", self.answer_timeout_ms),
        ] {
            if value == 0 {
                return invalid(&format!("{name} is at least 1."));
            }
        }
        for (name, limits) in [("instance", self.limits.instance), ("token", self.limits.token)] {
            if [limits.rate, limits.in_flight, limits.sessions].contains(&Some(0)) {
                return invalid(&format!("A limit in limits.{name} is at least 1; leave it out for none."));
            }
        }
        self.check_cors()?;
        let is_collector = |url: &String| url.parse::<Uri>().is_ok_and(|url| url.scheme_str() == Some("http"));
        if !self.otlp_endpoint.as_ref().is_none_or(is_collector) {
            return invalid(
                "otlp_endpoint has the form http://host:port; a collector elsewhere needs one on this machine.",
            );
        }
        let tls = [self.tls_listen.is_some(), self.tls_certificates.is_some(), self.tls_key.is_some()];
        if tls.contains(&true) && tls.contains(&false) {
            return invalid("tls_listen, tls_certificates and tls_key are set together, or none of them.");
        }
        let is_domain = |domain: &str| {
            domain.split('.').all(|label| !label.is_empty())
                && domain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        };
        if self.domain.as_deref().is_some_and(|domain| !is_domain(domain)) {
            return invalid("domain is a plain domain name, such as box.example.com.");
        }
        if self.public_url.is_some() && self.public().is_none() {
            return invalid("public_url has the form http://host or https://host, with a port if need be and no path.");
        }
        Ok(())
    }

    fn check_cors(&self) -> Result<(), Problem> {
        let invalid = |what: String| Err(Problem::new(ErrorCode::ConfigInvalid, what));
        if self.cors_origins.len() > 1 && self.cors_origins.iter().any(|origin| origin == cors::ANY) {
            return invalid("cors_origins: `*` means all origins, so it stands alone.".to_owned());
        }
        match self.cors_origins.iter().find(|origin| *origin != cors::ANY && !cors::is_origin(origin)) {
            Some(other) => invalid(format!(
                "cors_origins: {other:?} is no origin as browsers write it: scheme://host in small letters, a port if it is not \
                 the scheme's own, and no slash behind it."
            )),
            None => Ok(()),
        }
    }

    /// The scheme and authority under which clients reach the gateway, if the operator said so.
    pub(crate) fn public(&self) -> Option<(String, Authority)> {
        let url: Uri = self.public_url.as_ref()?.trim_end_matches('/').parse().ok()?;
        let scheme = url.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
        let bare = url.path() == "/" && url.query().is_none();
        Some((scheme.to_owned(), url.authority().filter(|_| bare)?.clone()))
    }

    /// How many threads serve clients.
    pub(crate) fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
    }

    /// How long a request waits for its instance.
    pub(crate) const fn route_deadline(&self) -> Duration {
        Duration::from_millis(self.route_deadline_ms)
    }

    /// How long a client may take nothing.
    pub(crate) const fn slow_client_timeout(&self) -> Duration {
        Duration::from_millis(self.slow_client_timeout_ms)
    }

    /// How long a client's connection may be idle.
    pub(crate) const fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    /// How long a request's head may take.
    pub(crate) const fn head_timeout(&self) -> Duration {
        Duration::from_millis(self.head_timeout_ms)
    }

    /// Whether a connection comes from a proxy that is believed.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }

    /// How long the two sides of a request may do nothing.
    pub(crate) const fn patience(&self) -> Patience {
        Patience {
            body: Duration::from_millis(self.body_timeout_ms),
            answer: Duration::from_millis(self.answer_timeout_ms),
            client: Duration::from_millis(self.slow_client_timeout_ms),
        }
    }

    /// How long a drain may take.
    pub(crate) const fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_an_unknown_key_is_refused() {
        Config::default().check().unwrap();
        let error = serde_json::from_str::<Config>(r#"{"wokers": 2}"#).unwrap_err();
        assert!(error.to_string().contains("wokers"), "{error}");
    }

    #[test]
    fn limits_and_networks_are_read_and_a_limit_of_nothing_is_refused() {
        let text = r#"{"limits": {"token": {"rate": 5}}, "trusted_proxies": ["10.0.0.0/8", "::1/128"]}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        config.check().unwrap();
        assert_eq!((config.limits.token.rate, config.limits.instance), (Some(5), Limits::default()));
        for (address, is_trusted) in [("10.9.9.9", true), ("::ffff:10.1.1.1", true), ("::1", true), ("11.0.0.1", false)]
        {
            assert_eq!(config.trusts(address.parse().unwrap()), is_trusted, "{address}");
        }
        let config: Config = serde_json::from_str(r#"{"limits": {"instance": {"sessions": 0}}}"#).unwrap();
        assert!(config.check().unwrap_err().detail.contains("limits.instance"));
        assert!(serde_json::from_str::<Config>(r#"{"limits": {"instance": {"rates": 1}}}"#).is_err());
        let config = Config { otlp_endpoint: Some("https://far.test".into()), ..Config::default() };
        assert!(config.check().unwrap_err().detail.contains("otlp_endpoint"));
    }

    #[test]
    fn origins_are_exact_or_all() {
        let config = |origins: &[&str]| {
            let cors_origins = origins.iter().map(|&origin| origin.to_owned()).collect();
            Config { cors_origins, ..Config::default() }
        };
        for fine in [&[][..], &["*"], &["https://app.example", "http://localhost:5173"]] {
            config(fine).check().unwrap();
        }
        for (bad, named) in [(&["*", "https://a"][..], "`*`"), (&["https://a/"], "https://a/"), (&["null"], "null")] {
            let problem = config(bad).check().unwrap_err();
            assert!(problem.code == ErrorCode::ConfigInvalid && problem.detail.contains(named), "{problem:?}");
        }
    }

    #[test]
    fn a_public_url_is_a_scheme_and_a_host() {
        let public = |url: &str| Config { public_url: Some(url.into()), ..Config::default() };
        let (scheme, authority) = public("https://box.example.test:8443/").public().unwrap();
        assert_eq!((scheme.as_str(), authority.as_str()), ("https", "box.example.test:8443"));
        for url in ["box.example.test", "ftp://x", "https://x/path", "https://x?q"] {
            assert_eq!(public(url).check().unwrap_err().code, ErrorCode::ConfigInvalid, "{url}");
        }
    }
}
