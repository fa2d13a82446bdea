//! Mistakes in how long a body is, and in chunks.

use super::{Case, get, post, posted};

/// What a refusal of a coding may say.
const CODING: &[u16] = &[400, 501];

const LENGTHS: &str = "two readers end the body in two places";
const CODINGS: &str = "one reader sees chunks where another sees none";
const TRAILERS: &str = "one reader takes the trailer for another than the next does";
const SIZES: &str = "two readers end the chunk in two places";

pub(super) fn cases() -> Vec<Case> {
    [lengths(), codings(), chunks(), ends()].concat()
}

fn lengths() -> Vec<Case> {
    let length = |value: &str| post(&format!("Content-Length:{value}\r\n"), "abc");
    vec![
        Case::wrong("two lengths that differ", &post("Content-Length: 3\r\nContent-Length: 5\r\n", "abc"), LENGTHS),
        Case::wrong("the same length twice", &post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"), LENGTHS),
        Case::wrong("a list of lengths that differ", &length(" 3, 5"), LENGTHS),
        Case::wrong("a list of the same length", &length(" 3, 3"), LENGTHS),
        Case::wrong("a length with a sign", &length(" +3"), LENGTHS),
        Case::wrong("a length below zero", &length(" -1"), LENGTHS),
        Case::wrong("a length with a blank in it", &length(" 3 0"), LENGTHS),
        Case::wrong("a length in hexadecimal", &length(" 0x3"), LENGTHS),
        Case::wrong("an empty length", &length(""), LENGTHS),
        Case::wrong("a length with a fraction", &length(" 3.0"), LENGTHS),
        Case::wrong("a length beyond 64 bits", &length(" 18446744073709551619"), LENGTHS).with_status(&[400, 413]),
    ]
}

fn codings() -> Vec<Case> {
    let body = "3\r\nabc\r\n0\r\n\r\n";
    let coding = |value: &str| post(&format!("Transfer-Encoding:{value}\r\n"), body);
    let both = |first: &str, second: &str| post(&format!("{first}\r\n{second}\r\n"), body);
    let (length, chunked) = ("Content-Length: 3", "Transfer-Encoding: chunked");
    let old = format!("POST {{P}}/t HTTP/1.0\r\nHost: {{H}}\r\n{{A}}{chunked}\r\n\r\n{body}");
    vec![
        Case::wrong("a length and chunks", &both(length, chunked), CODINGS),
        Case::wrong("chunks and a length", &both(chunked, length), CODINGS),
        Case::wrong("chunks, and then nothing", &coding(" chunked, identity"), CODINGS).with_status(CODING),
        Case::wrong("almost chunks", &coding(" xchunked"), CODINGS).with_status(CODING),
        Case::wrong("no coding at all", &coding(" identity"), CODINGS).with_status(CODING),
        Case::wrong("chunks of something packed", &coding(" gzip, chunked"), CODINGS).with_status(CODING),
        Case::wrong("chunks of chunks", &coding(" chunked, chunked"), CODINGS).with_status(CODING),
        Case::wrong("chunks twice", &both(chunked, chunked), CODINGS).with_status(CODING),
        Case::wrong("chunks after a vertical tab", &coding(" \u{b}chunked"), CODINGS).with_status(CODING),
        Case::wrong("chunks in quotes", &coding(" \"chunked\""), CODINGS).with_status(CODING),
        Case::wrong("a coding without a name", &coding(""), CODINGS).with_status(CODING),
        Case::wrong("chunks with a parameter", &coding(" chunked;a=b"), CODINGS).with_status(CODING),
        Case::wrong("chunks with a blank before the colon", &both("Transfer-Encoding : chunked", "X-A: 1"), CODINGS),
        Case::wrong("chunks in a second line", &both("Transfer-Encoding:", " chunked"), CODINGS),
        Case::wrong("chunks in HTTP/1.0", &old, CODINGS).with_status(CODING),
    ]
}

fn chunks() -> Vec<Case> {
    let chunks = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    vec![
        Case::wrong_body("a chunk size that is no number", &chunks("g\r\nabc\r\n0\r\n\r\n"), SIZES),
        Case::wrong_body("a chunk size with a prefix", &chunks("0x3\r\nabc\r\n0\r\n\r\n"), SIZES),
        Case::wrong_body("a chunk size with a sign", &chunks("+3\r\nabc\r\n0\r\n\r\n"), SIZES),
        Case::wrong_body("a chunk size below zero", &chunks("-3\r\nabc\r\n0\r\n\r\n"), SIZES),
        Case::wrong_body("no chunk size", &chunks("\r\nabc\r\n0\r\n\r\n"), SIZES),
        Case::wrong_body("a blank before a chunk size", &chunks(" 3\r\nabc\r\n0\r\n\r\n"), SIZES),
        Case::wrong_body("a chunk size beyond 64 bits", &chunks("10000000000000003\r\nabc\r\n0\r\n\r\n"), SIZES),
        Case::wrong_body("a chunk longer than its size", &chunks("3\r\nabcd\r\n0\r\n\r\n"), SIZES),
        Case::wrong_body("a bare LF after a chunk size", &chunks("3\nabc\r\n0\r\n\r\n"), SIZES),
        Case::wrong_body("a bare LF after a chunk", &chunks("3\r\nabc\n0\r\n\r\n"), SIZES),
        Case::wrong_body("a bare LF in a chunk extension", &chunks("3;a\nb\r\nabc\r\n0\r\n\r\n"), SIZES),
        Case::wrong_body("a bare CR in a chunk extension", &chunks("3;a\rb\r\nabc\r\n0\r\n\r\n"), SIZES),
        Case::wrong_body("a bare LF at the end of the chunks", &chunks("3\r\nabc\r\n0\r\n\n"), SIZES),
        Case::wrong_body("a trailer without a colon", &chunks("3\r\nabc\r\n0\r\nX-A\r\n\r\n"), TRAILERS)
            .of_plain_length(),
        Case::wrong_body(
            "a trailer that goes on in the next line",
            &chunks("1\r\na\r\n0\r\nX-A: 1\r\n 2\r\n\r\n"),
            TRAILERS,
        )
        .of_plain_length(),
        Case::may_mean("a length for a trailer", &chunks("3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n"), posted("abc")),
    ]
}

fn ends() -> Vec<Case> {
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        Case::unfinished("an end in the body", &post("Content-Length: 5\r\n", "abc")),
        Case::unfinished("an end in a chunk", &post(chunked, "5\r\nabc")),
        Case::unfinished("an end before the last chunk", &post(chunked, "3\r\nabc\r\n")),
        Case::unfinished("an end in the trailers", &post(chunked, "3\r\nabc\r\n0\r\nX-A: 1\r\n")),
        Case::wrong("an upgrade with a body", &get("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 3\r\n").replace("\r\n\r\n", "\r\n\r\nabc"), "one reader sees frames where another sees a body"),
    ]
}
