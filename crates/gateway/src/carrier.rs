//! Where a client may put its access token, and how it is taken out again.
//!
//! Browsers cannot set headers on a WebSocket, SDKs cannot always set a query, so there are five places. An instance's
//! own program may use the same places for tokens of its own: only what is ours is taken away, and the rest of the
//! header or query stays as it was, in its order.

use landfast_net::head::Headers;

/// What a token in `Authorization` stands behind.
const SCHEME: &[u8] = b"bearer ";

/// The query parameters that may hold a token.
const QUERY_NAMES: [&str; 2] = ["token", "jwt"];

/// A subprotocol that begins so holds a token.
const SUBPROTOCOL_PREFIX: &str = "landfast.token.";

/// The header that offers subprotocols.
const SUBPROTOCOLS: &str = "sec-websocket-protocol";

/// The cookie that holds a token.
const COOKIE_NAME: &str = "landfast_token";

/// All that may be a token, in the order in which they count.
pub(crate) fn candidates<'a>(headers: &'a Headers, target: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let authorization = headers.get_all("authorization").filter_map(bearer);
    let query = query(target).unwrap_or("").split('&').filter_map(query_token);
    let subprotocol = texts(headers, SUBPROTOCOLS).flat_map(|line| line.split(',')).filter_map(subprotocol);
    let cookie = texts(headers, "cookie").flat_map(|line| line.split(';')).filter_map(cookie_token);
    authorization.chain(query.chain(subprotocol).chain(cookie).map(str::as_bytes))
}

/// Takes away every token that is one of ours, and what could only be one: our subprotocol and our cookie.
pub(crate) fn remove(headers: &mut Headers, target: &mut String, is_ours: impl Fn(&[u8]) -> bool) {
    headers.edit(|name, value| {
        let text = || std::str::from_utf8(value).ok();
        if name.eq_ignore_ascii_case(b"authorization") {
            bearer(value).is_some_and(&is_ours).then_some(None)
        } else if name.eq_ignore_ascii_case(SUBPROTOCOLS.as_bytes()) {
            without(text()?, ',', ", ", |part| subprotocol(part).is_some())
        } else if name.eq_ignore_ascii_case(b"cookie") {
            without(text()?, ';', "; ", |part| cookie_token(part).is_some())
        } else {
            None
        }
    });
    let is_token = |part: &str| query_token(part).is_some_and(|token| is_ours(token.as_bytes()));
    if let Some(kept) = query(target).and_then(|query| without(query, '&', "&", is_token)) {
        let path = target.split('?').next().unwrap_or("");
        *target = kept.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    }
}

/// Whether a parameter of a query may hold a token.
pub(crate) fn is_token(pair: &str) -> bool {
    query_token(pair).is_some()
}

fn query(target: &str) -> Option<&str> {
    target.split_once('?').map(|(_, query)| query)
}

/// The lines of a header that are text; the others hold no token.
fn texts<'a>(headers: &'a Headers, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).filter_map(|value| std::str::from_utf8(value).ok())
}

fn bearer(line: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = line.trim_ascii().split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())
}

fn query_token(pair: &str) -> Option<&str> {
    let (name, value) = pair.split_once('=')?;
    QUERY_NAMES.contains(&name).then_some(value)
}

fn subprotocol(part: &str) -> Option<&str> {
    part.trim().strip_prefix(SUBPROTOCOL_PREFIX)
}

fn cookie_token(part: &str) -> Option<&str> {
    let (name, value) = part.trim().split_once('=')?;
    (name == COOKIE_NAME).then_some(value)
}

/// The list without the parts that `is_token` names: nothing at all if there are none, and `Some(None)` if nothing is
/// left.
fn without(list: &str, separator: char, joint: &str, is_token: impl Fn(&str) -> bool) -> Option<Option<String>> {
    if !list.split(separator).any(&is_token) {
        return None;
    }
    let kept: Vec<_> = list.split(separator).filter(|part| !is_token(part)).map(str::trim).collect();
    Some((!kept.is_empty()).then(|| kept.join(joint)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(target: &str, lines: &[(&str, &str)]) -> (Headers, String) {
        let mut headers = Headers::new();
        lines.iter().for_each(|(name, value)| headers.push(name, value));
        (headers, target.into())
    }

    fn lines(headers: &Headers, name: &str) -> Vec<String> {
        texts(headers, name).map(str::to_owned).collect()
    }

    #[test]
    fn a_token_is_found_in_each_place_in_order() {
        let (headers, uri) = request(
            "/x?a=1&jwt=T2&token=T3",
            &[
                ("authorization", "bearer T1"),
                ("sec-websocket-protocol", "landfast.process.v1, landfast.token.T4"),
                ("cookie", "a=b; landfast_token=T5; c=d"),
            ],
        );
        assert_eq!(candidates(&headers, &uri).collect::<Vec<_>>(), [b"T1", b"T2", b"T3", b"T4", b"T5"]);
    }

    #[test]
    fn what_is_ours_goes_and_the_rest_stays_in_its_order() {
        let (mut headers, mut uri) = request(
            "/p/%2fq?a=1&token=OURS&b=%20&token=theirs&c",
            &[
                ("authorization", "Bearer OURS"),
                ("sec-websocket-protocol", "one, landfast.token.OURS, two"),
                ("sec-websocket-protocol", "landfast.token.OURS"),
                ("cookie", "a=b; landfast_token=OURS; c=d"),
                ("cookie", "e=f"),
            ],
        );
        remove(&mut headers, &mut uri, |token| token == b"OURS");
        assert_eq!(uri, "/p/%2fq?a=1&b=%20&token=theirs&c");
        assert_eq!(lines(&headers, "authorization"), [""; 0]);
        assert_eq!(lines(&headers, "sec-websocket-protocol"), ["one, two"]);
        assert_eq!(lines(&headers, "cookie"), ["a=b; c=d", "e=f"]);
    }

    #[test]
    fn the_question_mark_goes_with_the_only_parameter() {
        let (mut headers, mut uri) = request("/p?jwt=OURS", &[]);
        remove(&mut headers, &mut uri, |token| token == b"OURS");
        assert_eq!(uri, "/p");
    }

    #[test]
    fn a_programs_own_credentials_pass_untouched() {
        let own =
            [("authorization", "Basic dTpw"), ("cookie", "token=x;session=y"), ("authorization", "Bearer theirs")];
        let (mut headers, mut uri) = request("/p?token=theirs", &own);
        let before = (headers.clone(), uri.clone());
        remove(&mut headers, &mut uri, |token| token == b"OURS");
        assert_eq!((headers, uri), before);
    }

    #[test]
    fn our_subprotocol_and_cookie_go_even_if_the_token_in_them_is_no_good() {
        let (mut headers, mut uri) =
            request("/p", &[("sec-websocket-protocol", "landfast.token.junk"), ("cookie", "landfast_token=junk")]);
        remove(&mut headers, &mut uri, |_| false);
        assert!(headers.is_empty());
    }

    proptest! {
        #[test]
        fn no_trace_of_the_token_is_left_in_the_query(
            parts in proptest::collection::vec("[a-z]{0,3}=?[a-z0-9%._-]{0,4}", 0..6),
            at in 0usize..7,
            name in prop_oneof![Just("token"), Just("jwt")],
        ) {
            let mut with = parts.clone();
            with.insert(at.min(parts.len()), format!("{name}=SECRET"));
            let (mut headers, mut uri) = request(&format!("/p?{}", with.join("&")), &[]);
            remove(&mut headers, &mut uri, |token| token == b"SECRET");
            prop_assert!(!uri.contains("SECRET"));
            prop_assert_eq!(query(&uri).unwrap_or(""), parts.join("&"));
        }
    }
}
