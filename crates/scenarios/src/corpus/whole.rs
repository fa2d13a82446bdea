//! Well-formed requests, also strange ones: they must pass, and mean the same behind the gateway.

use super::{Case, get, got, post, posted};
use crate::meaning::Meaning;

pub(super) fn cases() -> Vec<Case> {
    [plain(), targets(), headers(), bodies(), lines_of_several()].concat()
}

fn plain() -> Vec<Case> {
    vec![
        Case::means("a GET", &get(""), got()),
        Case::means("HTTP/1.0", "GET {P}/t HTTP/1.0\r\nHost: {H}\r\n{A}\r\n", got()),
        Case::means(
            "HTTP/1.0 that keeps its connection",
            "GET {P}/t HTTP/1.0\r\nHost: {H}\r\n{A}Connection: keep-alive\r\n\r\n",
            got(),
        ),
        Case::means("a method nobody knows", "FROB {P}/t HTTP/1.1\r\nHost: {H}\r\n{A}\r\n", Meaning::new("FROB", "/t")),
        Case::may_mean(
            "a method in small letters",
            "get {P}/t HTTP/1.1\r\nHost: {H}\r\n{A}\r\n",
            Meaning::new("get", "/t"),
        ),
        Case::means("an upgrade to a protocol nobody knows", &get("Connection: Upgrade\r\nUpgrade: frob/2\r\n"), got()),
        Case::may_mean("an empty line before the request", &format!("\r\n{}", get("")), got()),
    ]
}

fn targets() -> Vec<Case> {
    let target = |path: &str| format!("GET {{P}}{path} HTTP/1.1\r\nHost: {{H}}\r\n{{A}}\r\n");
    let long = format!("/{}", "t".repeat(6_000));
    vec![
        Case::means("a query of odd characters", &target("/t?a=b?c/d;e=%&f"), Meaning::new("GET", "/t?a=b?c/d;e=%&f")),
        Case::means("escapes, right and wrong", &target("/a%2Fb%7e?x=%zz"), Meaning::new("GET", "/a%2Fb%7e?x=%zz")),
        Case::means("a target of 6 KB", &target(&long), Meaning::new("GET", &long)),
        Case::means("steps up in the path", &target("/a/../b/%2e%2E/t"), Meaning::new("GET", "/a/../b/%2e%2E/t")),
        Case::means("an empty segment in the path", &target("/a//t"), Meaning::new("GET", "/a//t")),
        Case::means("a target in absolute form", "GET http://{H}{P}/t HTTP/1.1\r\nHost: {H}\r\n{A}\r\n", got()),
    ]
}

fn headers() -> Vec<Case> {
    let long = "v".repeat(30_000);
    let many: String = (0..60).map(|number| format!("X-{number}: {number}\r\n")).collect();
    let meant = (0..60).fold(got(), |meaning, number| meaning.with(&format!("x-{number}"), &number.to_string()));
    vec![
        Case::means(
            "a header several times, in order",
            &get("X-A: 1\r\nX-B: 2\r\nx-a: 3\r\n"),
            got().with("x-a", "1").with("x-b", "2").with("x-a", "3"),
        ),
        Case::means("a header without a value", &get("X-A:\r\nX-B: 1\r\n"), got().with("x-a", "").with("x-b", "1")),
        Case::means("blanks around a value", &get("X-A: \t 1\t2 \t\r\n"), got().with("x-a", "1\t2")),
        Case::means("bytes beyond ASCII in a value", &get("X-A: caf\u{e9}\u{80}\u{ff}\r\n"), {
            got().with("x-a", "caf\u{e9}\u{80}\u{ff}")
        }),
        Case::means(
            "a name of every character a name may have",
            &get("X!#$%&'*+-.^_`|~9: 1\r\n"),
            got().with("x!#$%&'*+-.^_`|~9", "1"),
        ),
        Case::means("an underscore in a name", &get("Content_Length: 5\r\n"), got().with("content_length", "5")),
        Case::means("sixty headers", &get(&many), meant),
        Case::means("a header of 30 KB", &get(&format!("X-A: {long}\r\n")), got().with("x-a", &long)),
        Case::means("a header named by Connection", &get("X-A: 1\r\nConnection: x-a\r\nX-B: 2\r\n"), {
            got().with("x-b", "2")
        }),
        Case::means(
            "a length named by Connection",
            &post("Content-Length: 3\r\nConnection: content-length\r\n", "abc"),
            posted("abc"),
        ),
    ]
}

fn bodies() -> Vec<Case> {
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        Case::means("a body with a length", &post("Content-Length: 3\r\n", "abc"), posted("abc")),
        Case::means("a body of length 0", &post("Content-Length: 0\r\n", ""), posted("")),
        Case::means("a GET with a body", &get("Content-Length: 3\r\n").replace("\r\n\r\n", "\r\n\r\nabc"), {
            got().saying("abc")
        }),
        Case::means("chunks", &post(chunked, "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), posted("abcde")),
        Case::means("chunks in capitals", &post("Transfer-Encoding: Chunked\r\n", "A\r\n0123456789\r\n0\r\n\r\n"), {
            posted("0123456789")
        }),
        Case::means("blanks around `chunked`", &post("Transfer-Encoding: \tchunked \r\n", "1\r\na\r\n0\r\n\r\n"), {
            posted("a")
        }),
        Case::means("chunk extensions", &post(chunked, "3;a=b;c\r\nabc\r\n0;d\r\n\r\n"), posted("abc")),
        Case::means(
            "trailers",
            &post(&format!("{chunked}Trailer: x-sum\r\nTE: trailers\r\n"), "3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n"),
            posted("abc").trailing("x-sum", "6"),
        ),
        Case::means("a body after it was asked for", &post("Content-Length: 3\r\nExpect: 100-continue\r\n", "abc"), {
            posted("abc")
        }),
        Case::means(
            "a body that looks like a request",
            &post("Content-Length: 31\r\n", "GET /t HTTP/1.1\r\nHost: evil\r\n\r\n"),
            posted("GET /t HTTP/1.1\r\nHost: evil\r\n\r\n"),
        ),
        Case::may_mean("a chunk size with zeros before it", &post(chunked, "0003\r\nabc\r\n0\r\n\r\n"), posted("abc")),
        Case::may_mean("a blank after a chunk size", &post(chunked, "3 \r\nabc\r\n0\r\n\r\n"), posted("abc")),
        Case::may_mean("a length with zeros before it", &post("Content-Length: 0003\r\n", "abc"), posted("abc")),
    ]
}

fn lines_of_several() -> Vec<Case> {
    let chunks = post("Transfer-Encoding: chunked\r\n", "1\r\na\r\n0\r\n\r\n");
    vec![
        Case::means("two requests in one breath", &format!("{}{}", get(""), get("X-A: 2\r\n")), got().with("x-a", "2"))
            .after(got()),
        Case::means("a request right after a body", &(post("Content-Length: 3\r\n", "abc") + &get("")), got())
            .after(posted("abc")),
        Case::means("a request right after chunks", &(chunks + &get("")), got()).after(posted("a")),
    ]
}
