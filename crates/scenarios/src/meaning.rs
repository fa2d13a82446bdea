//! What a request means: what must be the same before and behind a gateway, whatever its bytes.

use std::fmt;

/// Headers that concern one hop, that say where a request came from, or that frame its body: a gateway may change them.
const OF_A_HOP: [&str; 13] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "host",
    "expect",
    "via",
    "forwarded",
    "authorization",
];

/// A request's meaning.
#[derive(Clone, PartialEq, Eq)]
pub struct Meaning {
    /// Its method.
    pub method: String,
    /// Its target, in origin form.
    pub target: Vec<u8>,
    /// Its headers in order, names in lower case, without those of a hop.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its body.
    pub body: Vec<u8>,
    /// Its trailers in order, names in lower case.
    pub trailers: Vec<(String, Vec<u8>)>,
}

impl Meaning {
    /// A request without headers and body.
    pub fn new(method: &str, target: &str) -> Self {
        let target = latin(target);
        Self { method: method.to_owned(), target, headers: Vec::new(), body: Vec::new(), trailers: Vec::new() }
    }

    /// With a header more.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), latin(value)));
        self
    }

    /// With a trailer more.
    #[must_use]
    pub fn trailing(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), latin(value)));
        self
    }

    /// With a body.
    #[must_use]
    pub fn saying(mut self, body: &str) -> Self {
        self.body = latin(body);
        self
    }

    /// Without the headers that a gateway may change.
    #[must_use]
    pub fn without_hops(mut self) -> Self {
        let is_of_a_hop = |name: &str| OF_A_HOP.contains(&name) || name.starts_with("x-forwarded-");
        self.headers.retain(|(name, _)| !is_of_a_hop(name));
        self
    }
}

impl fmt::Debug for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, shown(&self.target))?;
        for (name, value) in &self.headers {
            write!(f, " [{name}: {}]", shown(value))?;
        }
        write!(f, " {:?}", shown(&self.body))?;
        for (name, value) in &self.trailers {
            write!(f, " [then {name}: {}]", shown(value))?;
        }
        Ok(())
    }
}

/// A text as bytes, each character one: what a literal needs to say any byte at all.
///
/// # Panics
///
/// A character is no byte.
pub fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(u32::from(character)).expect("a character up to U+00FF")).collect()
}

/// Bytes as a reader sees them; of many, the first.
pub fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 120;
    let more = if bytes.len() > MOST { format!("… ({} bytes)", bytes.len()) } else { String::new() };
    format!("{}{more}", bytes[..bytes.len().min(MOST)].escape_ascii())
}
