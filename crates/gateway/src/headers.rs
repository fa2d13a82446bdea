//! Headers on their way through: those that concern one hop only, and those that are ours alone.

use http::HeaderMap;
use http::header::{CONNECTION, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use landfast_net::head::Headers;

/// What every name that only Landfast may say begins with.
const OURS: &str = "landfast-";

/// Names that concern one hop, whether `Connection` lists them or not (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
];

/// Takes away what concerns the last hop only.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = connection_options(headers).filter_map(|name| name.parse().ok()).collect();
    for name in listed.iter().chain(&HOP_BY_HOP).chain([&UPGRADE]) {
        headers.remove(name);
    }
}

/// Takes away every header by which Landfast's parts speak to each other, so that nobody outside can forge one.
pub(crate) fn remove_ours(headers: &mut HeaderMap) {
    let forged: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(OURS)).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
}

/// The protocol that a request asks to switch to: the first in `Upgrade`, if `Connection` says so too.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<&str> {
    let asked = connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"));
    let value = headers.get(UPGRADE).filter(|_| asked)?.to_str().ok()?;
    value.split(',').map(str::trim).next()
}

/// The headers of a head that was read as bytes. A name or value that HTTP does not allow, which httparse lets pass in a
/// few places, is left out.
pub(crate) fn from_head(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}

/// The headers as lines of a head.
pub(crate) fn to_head(map: &HeaderMap) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in map {
        headers.push(name.as_str(), value.as_bytes());
    }
    headers
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = Headers::new();
        lines.iter().for_each(|(name, value)| headers.push(*name, *value));
        from_head(&headers)
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        map.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn what_connection_lists_goes_with_it() {
        let mut headers =
            map(&[("Connection", "keep-alive, X-Hop"), ("x-hop", "1"), ("Keep-Alive", "5"), ("X-End", "2")]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["x-end"]);
    }

    #[test]
    fn our_own_headers_cannot_come_from_outside() {
        let mut headers = map(&[("Landfast-Error", "node.not_here"), ("LANDFAST-X", "1"), ("x-landfast", "2")]);
        remove_ours(&mut headers);
        assert_eq!(names(&headers), ["x-landfast"]);
    }

    #[test]
    fn an_upgrade_counts_only_if_connection_says_so() {
        assert_eq!(upgrade(&map(&[("Upgrade", "websocket")])), None);
        let asked = map(&[("Upgrade", "websocket"), ("Connection", "keep-alive, Upgrade")]);
        assert_eq!(upgrade(&asked), Some("websocket"));
    }

    #[test]
    fn headers_survive_both_forms_with_repeats_and_bytes() {
        let before = map(&[("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(from_head(&to_head(&before)), before);
    }
}
