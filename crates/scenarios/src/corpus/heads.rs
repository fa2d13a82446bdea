//! Mistakes in header lines.

use super::{Case, get, got};

const ENDS: &str = "one reader ends the line where another goes on";
const NAMES: &str = "one reader takes it for the header it resembles, another for none";
const FOLDS: &str = "one reader joins two lines where another sees two";

pub(super) fn cases() -> Vec<Case> {
    let many: String = (0..2_000).map(|number| format!("X-{number}: 1\r\n")).collect();
    [
        line_ends(),
        names(),
        values(),
        vec![
            Case::wrong("an expectation nobody knows", &get("Expect: the-unexpected\r\n"), "it cannot be met")
                .with_status(&[417])
                .of_plain_length(),
            Case::wrong("two thousand headers", &get(&many), "it is more than the bound").with_status(&[400, 431]),
            Case::wrong("a good request after a bad one", &(get("X A: 1\r\n") + &get("")), NAMES),
            Case::wrong("a bad request after a good one", &(get("") + &get("X A: 1\r\n")), NAMES).after(got()),
            Case::means(
                "headers that only Landfast may say",
                &get("Landfast-Error: node.not_here\r\nX-A: 1\r\nlandfast-generation: 7\r\n"),
                got().with("x-a", "1"),
            ),
        ],
    ]
    .concat()
}

fn line_ends() -> Vec<Case> {
    vec![
        Case::wrong("bare LFs", "GET {P}/t HTTP/1.1\nHost: {H}\n\n", ENDS),
        Case::wrong("a bare LF after a header", &get("X-A: 1\nX-B: 2\r\n"), ENDS),
        Case::wrong("a bare LF at the end of the head", "GET {P}/t HTTP/1.1\r\nHost: {H}\r\n{A}\n", ENDS),
        Case::wrong("a bare CR in a value", &get("X-A: 1\rX-B: 2\r\n"), ENDS),
        Case::wrong("a bare CR after a header", &get("X-A: 1\r\r\n"), ENDS),
        Case::wrong("a line that goes on in the next", &get("X-A: 1\r\n 2\r\n"), FOLDS),
        Case::wrong("a first line that begins with a blank", "GET {P}/t HTTP/1.1\r\n X: 1\r\nHost: {H}\r\n{A}\r\n", {
            FOLDS
        }),
    ]
}

fn names() -> Vec<Case> {
    vec![
        Case::wrong("a blank before the colon", &get("X-A : 1\r\n"), NAMES),
        Case::wrong("a tab before the colon", &get("X-A\t: 1\r\n"), NAMES),
        Case::wrong("a blank in a name", &get("X A: 1\r\n"), NAMES),
        Case::wrong("no name", &get(": 1\r\n"), NAMES),
        Case::wrong("no colon", &get("X-A\r\n"), NAMES),
        Case::wrong("a NUL in a name", &get("X-\0A: 1\r\n"), NAMES),
        Case::wrong("a byte beyond ASCII in a name", &get("X-\u{e9}: 1\r\n"), NAMES),
        Case::wrong("a bracket in a name", &get("X-(A): 1\r\n"), NAMES),
    ]
}

fn values() -> Vec<Case> {
    vec![
        Case::wrong("a NUL in a value", &get("X-A: 1\u{0}2\r\n"), ENDS),
        Case::wrong("a control character in a value", &get("X-A: 1\u{1}2\r\n"), ENDS),
        Case::wrong("a DEL in a value", &get("X-A: 1\u{7f}2\r\n"), ENDS),
    ]
}
