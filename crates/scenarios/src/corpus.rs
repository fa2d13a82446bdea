//! Requests, well- and ill-formed, as bytes, each with the one reading that a strict reader gives it.
//!
//! What two readers read in two ways is how requests are smuggled past a gateway: it sees one, the program behind it two.
//! So a case says what its bytes mean, or that they mean nothing, and what a gateway passes on is held against that.

mod bodies;
mod heads;
mod lines;
mod whole;

use crate::meaning::{Meaning, latin};

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it.
    pub name: &'static str,
    /// Its bytes; see [`Case::bytes`].
    template: Vec<u8>,
    /// Whether the client ends its side after them.
    pub ends: bool,
    /// What they mean.
    pub reading: Reading,
}

/// What the bytes mean.
#[derive(Clone, Debug)]
pub enum Reading {
    /// These requests, one after the other.
    Whole(Vec<Meaning>),
    /// This request; but whoever refuses it is right too.
    Doubtful(Meaning),
    /// A mistake, after these requests.
    Wrong {
        /// The requests before it.
        before: Vec<Meaning>,
        /// Where the mistake is.
        part: Part,
        /// The statuses that a refusal may have.
        statuses: &'static [u16],
        /// Whether it is plain where the request ends, so that the connection may go on.
        may_go_on: bool,
        /// What could be read otherwise.
        why: &'static str,
    },
    /// Nothing: the end comes before the end.
    Unfinished,
}

/// Where a mistake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// In the head: nothing of the request may be passed on.
    Head,
    /// In the body, whose head may have been passed on already: not as a whole request.
    Body,
}

/// What is written into a case's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// What stands before every path.
    pub prefix: &'a str,
    /// The value of `Host`.
    pub host: &'a str,
    /// A header line that lets the request in, or nothing.
    pub pass: &'a str,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [whole::cases(), lines::cases(), heads::cases(), bodies::cases()].concat()
}

impl Case {
    /// The bytes to send on this way.
    pub fn bytes(&self, way: Way<'_>) -> Vec<u8> {
        [("{P}", way.prefix), ("{H}", way.host), ("{A}", way.pass)]
            .into_iter()
            .fold(self.template.clone(), |bytes, (mark, text)| replace(&bytes, mark.as_bytes(), text.as_bytes()))
    }

    /// How many answers the bytes ask for.
    pub fn answers(&self) -> usize {
        match &self.reading {
            Reading::Whole(requests) => requests.len(),
            Reading::Wrong { before, .. } => before.len() + 1,
            Reading::Doubtful(_) | Reading::Unfinished => 1,
        }
    }

    /// Bytes that mean this request.
    fn means(name: &'static str, template: &str, meaning: Meaning) -> Self {
        Self { name, template: latin(template), ends: false, reading: Reading::Whole(vec![meaning]) }
    }

    /// Bytes that mean this request, or nothing.
    fn may_mean(name: &'static str, template: &str, meaning: Meaning) -> Self {
        Self { name, template: latin(template), ends: false, reading: Reading::Doubtful(meaning) }
    }

    /// A head with a mistake.
    fn wrong(name: &'static str, template: &str, why: &'static str) -> Self {
        let reading = Reading::Wrong { before: Vec::new(), part: Part::Head, statuses: &[400], may_go_on: false, why };
        Self { name, template: latin(template), ends: false, reading }
    }

    /// A body with a mistake.
    fn wrong_body(name: &'static str, template: &str, why: &'static str) -> Self {
        let reading = Reading::Wrong { before: Vec::new(), part: Part::Body, statuses: &[400], may_go_on: false, why };
        Self { name, template: latin(template), ends: false, reading }
    }

    /// Bytes whose end comes too early.
    fn unfinished(name: &'static str, template: &str) -> Self {
        Self { name, template: latin(template), ends: true, reading: Reading::Unfinished }
    }

    /// With other statuses for a refusal.
    fn with_status(mut self, allowed: &'static [u16]) -> Self {
        if let Reading::Wrong { statuses, .. } = &mut self.reading {
            *statuses = allowed;
        }
        self
    }

    /// Nobody doubts where it ends.
    fn of_plain_length(mut self) -> Self {
        if let Reading::Wrong { may_go_on, .. } = &mut self.reading {
            *may_go_on = true;
        }
        self
    }

    /// With requests before the mistake, or before the one that is meant.
    fn after(mut self, first: Meaning) -> Self {
        match &mut self.reading {
            Reading::Wrong { before: requests, .. } | Reading::Whole(requests) => requests.insert(0, first),
            Reading::Doubtful(_) | Reading::Unfinished => unreachable!("such a case stands alone"),
        }
        self
    }
}

/// A GET with these header lines, each with its end.
fn get(lines: &str) -> String {
    format!("GET {{P}}/t HTTP/1.1\r\nHost: {{H}}\r\n{{A}}{lines}\r\n")
}

/// A POST with these header lines, each with its end, and these bytes after the head.
fn post(lines: &str, body: &str) -> String {
    format!("POST {{P}}/t HTTP/1.1\r\nHost: {{H}}\r\n{{A}}{lines}\r\n{body}")
}

/// What [`get`] means without headers.
fn got() -> Meaning {
    Meaning::new("GET", "/t")
}

/// What [`post`] means with this body.
fn posted(body: &str) -> Meaning {
    Meaning::new("POST", "/t").saying(body)
}

fn replace(bytes: &[u8], mark: &[u8], by: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(mark) {
            out.extend_from_slice(by);
            at += mark.len();
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}
