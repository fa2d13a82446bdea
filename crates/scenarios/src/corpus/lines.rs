//! Mistakes in the request line, and in what it must agree with.

use super::{Case, get, got};
use crate::meaning::Meaning;

/// What a refusal of a version may say.
const VERSION: &[u16] = &[400, 505];

/// What a refusal of something without a path may say.
const NOWHERE: &[u16] = &[400, 404, 405, 501];

/// What a refusal of a long head may say.
const LONG: &[u16] = &[400, 414, 431];

const SPLIT: &str = "one reader ends the target where another goes on";
const VERSIONS: &str = "the framing of a version that is not HTTP/1 is not known";
const HOSTS: &str = "two readers route it to two places";
const PATHS: &str = "one reader cuts it off where another passes it on";

pub(super) fn cases() -> Vec<Case> {
    [request_lines(), versions(), targets(), hosts(), lengths()].concat()
}

fn line(line: &str) -> String {
    format!("{line}\r\nHost: {{H}}\r\n{{A}}\r\n")
}

fn request_lines() -> Vec<Case> {
    vec![
        Case::wrong("a blank in the target", &line("GET {P}/a b HTTP/1.1"), SPLIT).with_status(VERSION),
        Case::wrong("two blanks before the target", &line("GET  {P}/t HTTP/1.1"), SPLIT),
        Case::wrong("a tab before the target", &line("GET\t{P}/t HTTP/1.1"), SPLIT),
        Case::wrong("a blank after the version", &line("GET {P}/t HTTP/1.1 "), SPLIT),
        Case::wrong("a method with a character no name has", &line("G@T {P}/t HTTP/1.1"), "it is no method"),
        Case::wrong("no method", &line(" {P}/t HTTP/1.1"), "it is no method"),
        Case::wrong("a bare CR in the request line", &line("GET {P}/t\rX HTTP/1.1"), SPLIT),
        Case::wrong("a NUL in the target", &line("GET {P}/\0t HTTP/1.1"), SPLIT),
        Case::wrong("a blank before the method", &format!(" {}", get("")), "it is no method"),
    ]
}

fn versions() -> Vec<Case> {
    vec![
        Case::wrong("HTTP/0.9", "GET {P}/t\r\n\r\n", VERSIONS).with_status(VERSION),
        Case::wrong("HTTP/2.0 as text", &line("GET {P}/t HTTP/2.0"), VERSIONS).with_status(VERSION),
        Case::wrong("a version in small letters", &line("GET {P}/t http/1.1"), VERSIONS).with_status(VERSION),
        Case::wrong("a version of three digits", &line("GET {P}/t HTTP/1.11"), VERSIONS).with_status(VERSION),
        Case::wrong("a version without a dot", &line("GET {P}/t HTTP/11"), VERSIONS).with_status(VERSION),
        Case::may_mean("HTTP/1.2", &line("GET {P}/t HTTP/1.2"), got()),
    ]
}

fn targets() -> Vec<Case> {
    vec![
        Case::wrong("a target without a slash", &line("GET t HTTP/1.1"), "it is no target").with_status(NOWHERE),
        Case::wrong("a fragment in the target", &line("GET {P}/t#x HTTP/1.1"), PATHS),
        Case::wrong("an asterisk for a GET", &line("GET * HTTP/1.1"), "it names no instance").with_status(NOWHERE),
        Case::wrong("an asterisk for OPTIONS", &line("OPTIONS * HTTP/1.1"), "it names no instance")
            .with_status(NOWHERE)
            .of_plain_length(),
        Case::wrong("a host and port for CONNECT", &line("CONNECT {H} HTTP/1.1"), "this is no forward proxy")
            .with_status(NOWHERE),
        Case::may_mean(
            "bytes beyond ASCII in the target",
            &line("GET {P}/caf\u{c3}\u{a9} HTTP/1.1"),
            Meaning::new("GET", "/caf\u{c3}\u{a9}"),
        ),
    ]
}

fn hosts() -> Vec<Case> {
    let with = |lines: &str| format!("GET {{P}}/t HTTP/1.1\r\n{lines}{{A}}\r\n");
    vec![
        Case::wrong("no Host", &with(""), HOSTS),
        Case::wrong("two Hosts", &with("Host: {H}\r\nHost: {H}\r\n"), HOSTS),
        Case::wrong("two Hosts that differ", &with("Host: {H}\r\nHost: evil\r\n"), HOSTS),
        Case::wrong("a Host with a blank", &with("Host: a b\r\n"), HOSTS),
        Case::wrong("a Host with a path", &with("Host: a/b\r\n"), HOSTS),
        Case::wrong("a Host with a name before it", &with("Host: me@a\r\n"), HOSTS),
        Case::may_mean("an empty Host", &with("Host:\r\n"), got()),
        Case::wrong(
            "an absolute form that is not what Host says",
            "GET http://evil{P}/t HTTP/1.1\r\nHost: {H}\r\n{A}\r\n",
            HOSTS,
        ),
        Case::wrong("an absolute form of another scheme", &line("GET ftp://{H}{P}/t HTTP/1.1"), HOSTS)
            .with_status(NOWHERE),
        Case::wrong("an absolute form with a name in it", &line("GET http://me@{H}{P}/t HTTP/1.1"), HOSTS),
    ]
}

fn lengths() -> Vec<Case> {
    let long = "t".repeat(70_000);
    vec![
        Case::wrong("a target of 70 KB", &line(&format!("GET {{P}}/{long} HTTP/1.1")), "it is longer than the bound")
            .with_status(LONG),
        Case::wrong("a head of 70 KB", &get(&format!("X-A: {long}\r\n")), "it is longer than the bound")
            .with_status(LONG),
        Case::wrong("a name of 70 KB", &get(&format!("{long}: 1\r\n")), "it is longer than the bound")
            .with_status(LONG),
        Case::unfinished("an end in the head", "GET {P}/t HTTP/1.1\r\nHost: {H}\r\n{A}X-A"),
    ]
}
