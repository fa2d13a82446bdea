//! Headers on their way through: those that concern one hop only, and those that are ours alone.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use landfast_core::link::PROTOCOL;
use landfast_net::head::{Headers, Part};

use crate::carrier;
use crate::client::{BodySize, Upgrade};
use crate::config::Config;

/// What every name that only Landfast may say begins with.
const OURS: &str = "landfast-";

/// Names that concern one hop, whether `Connection` lists them or not (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// What a client may say about where it comes from; only of a listed proxy its address is believed.
const FORWARDING: [&str; 4] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

/// Where a request came from, as the next hop is told.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    client: String,
    /// The client is a proxy that is believed.
    is_trusted: bool,
    /// That of the public address, or what the client came with.
    scheme: Cow<'static, str>,
    /// The public address's host.
    host: Option<String>,
    /// What `Forwarded` says but for the host.
    forwarded: String,
}

impl Origin {
    /// A client's address, how it came, and the public address that the operator has named.
    pub(crate) fn new(client: SocketAddr, is_secure: bool, config: &Config) -> Self {
        let came_with = Cow::Borrowed(if is_secure { "https" } else { "http" });
        let (scheme, host) = config
            .public()
            .map_or((came_with, None), |(scheme, authority)| (Cow::Owned(scheme), Some(authority.to_string())));
        let is_trusted = config.trusts(client.ip());
        let client = client.ip().to_string();
        Self { forwarded: forwarded(&client, &scheme), client, is_trusted, scheme, host }
    }

    /// The client's address.
    pub(crate) fn client(&self) -> &str {
        &self.client
    }

    /// The origin of one request: if its peer is a proxy that is believed, the client that the proxies name. Each adds at
    /// the end whom it heard the request from, so the last address that is none of theirs is the client's, and what stands
    /// before it is only the client's word.
    pub(crate) fn behind_proxies(&self, headers: &Headers, config: &Config) -> Cow<'_, Self> {
        if !self.is_trusted {
            return Cow::Borrowed(self);
        }
        let said: Vec<&[u8]> = headers.get_all("x-forwarded-for").collect();
        let hops = said.iter().rev().flat_map(|line| line.rsplit(|&byte| byte == b','));
        let mut client = None;
        for address in hops.map_while(address) {
            client = Some(address);
            if !config.trusts(address) {
                break;
            }
        }
        match client {
            None => Cow::Borrowed(self),
            Some(client) => {
                let client = client.to_canonical().to_string();
                Cow::Owned(Self { forwarded: forwarded(&client, &self.scheme), client, ..self.clone() })
            }
        }
    }

    /// Removes what concerns the last hop and what only Landfast may say, and tells the next hop where the request came
    /// from, and how the body is delimited on the way there.
    pub(crate) fn mark(&self, headers: &mut Headers, body: BodySize) {
        let takes_trailers = headers.has_token("te", "trailers");
        remove(headers, |name| is_ours(name) || is_one_of(name, &FORWARDING));
        if takes_trailers {
            headers.push("te", "trailers");
        }
        if body == BodySize::Open {
            headers.push("transfer-encoding", "chunked");
        }
        headers.push("x-forwarded-for", &self.client);
        headers.push("x-forwarded-proto", &*self.scheme);
        let forwarded = Part::Text(&self.forwarded);
        match self.host(headers) {
            Some(host) => {
                headers.push_parts("x-forwarded-host", &[host]);
                // RFC 7239: a host stands in quotes, since it may have a port.
                headers.push_parts("forwarded", &[forwarded, Part::Text(";host=\""), host, Part::Text("\"")]);
            }
            None => headers.push_parts("forwarded", &[forwarded]),
        }
    }

    /// The host that was asked, as the client knows it.
    fn host(&self, headers: &Headers) -> Option<Part<'_>> {
        let said = || headers.position("host").map(Part::Line);
        self.host.as_deref().map(Part::Text).or_else(said)
    }

    /// Tells the agent under which URL it was asked for, so that those it answers lead back to it, with the token in the
    /// query if it came there. `asked` is the client's target, `path` what the agent gets of it. The token tells the agent
    /// nothing new: it is for its own instance.
    pub(crate) fn tell_public(&self, headers: &mut Headers, asked: &str, path: &str) {
        let Some(host) = self.host(headers) else { return };
        let (asked, query) = asked.split_once('?').unwrap_or((asked, ""));
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let before = asked.strip_suffix(path).unwrap_or("");
        headers.push_parts(
            "landfast-public-url",
            &[Part::Text(&self.scheme), Part::Text("://"), host, Part::Text(before)],
        );
        if let Some(token) = query.split('&').find(|pair| carrier::is_token(pair)) {
            headers.push("landfast-public-query", token);
        }
    }
}

/// Takes away what concerns the last hop only.
pub(crate) fn remove_hop_by_hop(headers: &mut Headers) {
    remove(headers, |_| false);
}

/// Takes away what concerns the last hop only, and every header by which Landfast's parts speak to each other, so that
/// nobody outside can forge one.
pub(crate) fn remove_hop_by_hop_and_ours(headers: &mut Headers) {
    remove(headers, is_ours);
}

/// The protocol of ours that a request asks to switch to: the first in `Upgrade`, if `Connection` says so too. Whoever
/// does not know a protocol goes on with HTTP (RFC 9110, section 7.8).
pub(crate) fn upgrade(headers: &Headers) -> Option<Upgrade> {
    let value = headers.get("upgrade").filter(|_| headers.has_token("connection", "upgrade"))?;
    let protocol = value.split(',').map(str::trim).next()?;
    if protocol.eq_ignore_ascii_case("websocket") {
        return Some(Upgrade::WebSocket);
    }
    is_link(protocol).then_some(Upgrade::Link)
}

/// Whether a protocol is a version of ours; the one that is not spoken is refused by name.
fn is_link(protocol: &str) -> bool {
    let family = PROTOCOL.split_once('/').map_or(PROTOCOL, |(family, _)| family);
    protocol.split_once('/').is_some_and(|(name, _)| name.eq_ignore_ascii_case(family))
}

fn remove(headers: &mut Headers, also: impl Fn(&[u8]) -> bool) {
    let listed: Vec<Vec<u8>> = headers
        .get_all("connection")
        .flat_map(|line| line.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !is_kept(name))
        .map(<[u8]>::to_vec)
        .collect();
    headers.retain(|name, _| {
        let is_listed = || listed.iter().any(|listed| listed.eq_ignore_ascii_case(name));
        !(is_one_of(name, &HOP_BY_HOP) || also(name) || is_listed())
    });
}

/// Options of `Connection` that name no header, or one that it cannot take away: a body's length, or who is asked.
fn is_kept(option: &[u8]) -> bool {
    ["close", "keep-alive", "upgrade", "content-length", "host"]
        .iter()
        .any(|kept| option.eq_ignore_ascii_case(kept.as_bytes()))
}

/// RFC 7239: an address of IPv6 stands in brackets and quotes.
fn forwarded(client: &str, scheme: &str) -> String {
    let (open, close) = if client.contains(':') { ("for=\"[", "]\"") } else { ("for=", "") };
    [open, client, close, ";proto=", scheme].concat()
}

/// An address in a list of hops, which some proxies write with its port; what is none ends the list.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

fn is_ours(name: &[u8]) -> bool {
    name.get(..OURS.len()).is_some_and(|start| start.eq_ignore_ascii_case(OURS.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        lines.iter().for_each(|(name, value)| headers.push(name, value));
        headers
    }

    fn names(headers: &Headers) -> Vec<&str> {
        headers.iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_connection_lists_goes_with_it() {
        let mut headers = lines(&[
            ("Connection", "keep-alive, X-Hop, Content-Length"),
            ("x-hop", "1"),
            ("Keep-Alive", "5"),
            ("Content-Length", "3"),
            ("X-End", "2"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["Content-Length", "X-End"]);
    }

    #[test]
    fn our_own_headers_cannot_come_from_outside() {
        let mut headers = lines(&[("Landfast-Error", "node.not_here"), ("LANDFAST-X", "1"), ("x-landfast", "2")]);
        remove_hop_by_hop_and_ours(&mut headers);
        assert_eq!(names(&headers), ["x-landfast"]);
    }

    #[test]
    fn an_upgrade_counts_only_if_connection_says_so() {
        assert_eq!(upgrade(&lines(&[("Upgrade", "websocket")])), None);
        let asked = |protocol| upgrade(&lines(&[("Upgrade", protocol), ("Connection", "keep-alive, Upgrade")]));
        assert_eq!(asked("WebSocket"), Some(Upgrade::WebSocket));
        assert_eq!(asked("landfast-link/9"), Some(Upgrade::Link));
        assert_eq!(asked("h2c"), None);
    }

    #[test]
    fn the_next_hop_hears_who_asked_from_us_and_not_from_the_client() {
        let said = [
            ("host", "box.test"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-host", "evil.test"),
            ("forwarded", "for=6.6.6.6"),
            ("landfast-error", "node.not_here"),
            ("te", "trailers, deflate"),
        ];
        let client = SocketAddr::from(([127, 0, 0, 9], 1));
        let marked = |config: &Config| {
            let mut headers = lines(&said);
            Origin::new(client, false, config).mark(&mut headers, BodySize::None);
            headers
        };
        let headers = marked(&Config::default());
        let told = |name: &str| headers.get(name).unwrap();
        assert_eq!((told("x-forwarded-for"), told("te")), ("127.0.0.9", "trailers"));
        assert_eq!((told("x-forwarded-host"), told("x-forwarded-proto")), ("box.test", "http"));
        assert_eq!(told("forwarded"), "for=127.0.0.9;proto=http;host=\"box.test\"");
        assert_eq!(headers.len(), 6, "{headers:?}");
        let headers = marked(&Config { public_url: Some("https://cell.example.test".into()), ..Config::default() });
        assert_eq!(headers.get("x-forwarded-host"), Some("cell.example.test"));
        assert_eq!(headers.get("x-forwarded-proto"), Some("https"));
    }

    #[test]
    fn only_a_listed_proxy_is_believed_and_only_up_to_the_first_that_is_not() {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let config = Config { trusted_proxies: networks.to_vec(), ..Config::default() };
        let client = |peer: &str, said: &[&str]| {
            let said: Vec<_> = said.iter().map(|line| ("X-Forwarded-For", *line)).collect();
            let origin = Origin::new(SocketAddr::new(peer.parse().unwrap(), 1), false, &config);
            origin.behind_proxies(&lines(&said), &config).client().to_owned()
        };
        assert_eq!(client("9.9.9.9", &["1.1.1.1"]), "9.9.9.9", "a stranger's word");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 1.1.1.1"]), "1.1.1.1", "what stands before is the client's word");
        assert_eq!(
            client("10.0.0.1", &["6.6.6.6", "1.1.1.1, 10.0.0.2"]),
            "1.1.1.1",
            "through two proxies, in two lines"
        );
        assert_eq!(client("10.0.0.1", &["1.1.1.1:4711"]), "1.1.1.1");
        assert_eq!(client("::ffff:10.0.0.1", &["[2001:db8::1]:80, fd00::9"]), "2001:db8::1");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3", "all are ours: the first of them asked");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, unknown"]), "10.0.0.1", "nobody can tell who asked the proxy");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn an_address_of_ipv6_is_quoted() {
        let mut headers = Headers::new();
        Origin::new("[::1]:80".parse().unwrap(), true, &Config::default()).mark(&mut headers, BodySize::None);
        assert_eq!(headers.get("forwarded"), Some("for=\"[::1]\";proto=https"));
    }
}
