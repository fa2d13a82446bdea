//! The names of services: what stands between the instance and the path in a URL, and in a host name before the instance.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name: with an instance's id and a dash it still fits into one label of a host name (63 bytes).
pub const NAME_MAX: usize = 32;

/// Words that mean something else where a service's name may stand.
const RESERVED: [&str; 12] = [
    "agent",
    "browser",
    "cdp",
    "events",
    "exec",
    "files",
    "json",
    "links",
    "logs",
    "processes",
    "services",
    "telemetry",
];

/// The name of a service: small letters, digits and inner dashes, beginning with a letter.
///
/// It has a fixed size and no heap, so that it can be part of the keys of the hot path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ServiceName {
    /// Padded with zeros, so that the derived order is the text's.
    text: [u8; NAME_MAX],
    len: u8,
}

/// Why a text is no service's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceNameError {
    /// Empty, or longer than [`NAME_MAX`].
    Length,
    /// It has something else than small letters, digits and inner dashes, or begins with no letter.
    Character,
    /// It is a word of our own paths.
    Reserved,
}

impl fmt::Display for ServiceNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => write!(f, "a service's name has 1 to {NAME_MAX} characters"),
            Self::Character => {
                f.write_str("a service's name is made of a-z, 0-9 and inner dashes, and begins with a letter")
            }
            Self::Reserved => write!(f, "a service cannot have one of these names: {}", RESERVED.join(", ")),
        }
    }
}

impl std::error::Error for ServiceNameError {}

impl ServiceName {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.len)]).expect("only ASCII is let in")
    }
}

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(name: &str) -> Result<Self, ServiceNameError> {
        let bytes = name.as_bytes();
        let len = u8::try_from(bytes.len()).ok().filter(|&len| (1..=NAME_MAX).contains(&usize::from(len)));
        let len = len.ok_or(ServiceNameError::Length)?;
        let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        if !bytes.iter().all(is_plain) || !bytes[0].is_ascii_lowercase() || bytes.ends_with(b"-") {
            return Err(ServiceNameError::Character);
        }
        if RESERVED.contains(&name) {
            return Err(ServiceNameError::Reserved);
        }
        let mut text = [0; NAME_MAX];
        text[..bytes.len()].copy_from_slice(bytes);
        Ok(Self { text, len })
    }
}

impl TryFrom<String> for ServiceName {
    type Error = ServiceNameError;

    fn try_from(text: String) -> Result<Self, ServiceNameError> {
        text.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_a_label_that_means_nothing_else() {
        for good in ["web", "a", "my-app-2", &"a".repeat(NAME_MAX)] {
            assert_eq!(good.parse::<ServiceName>().unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", ServiceNameError::Length),
            (&"a".repeat(NAME_MAX + 1), ServiceNameError::Length),
            ("Web", ServiceNameError::Character),
            ("8080", ServiceNameError::Character),
            ("web-", ServiceNameError::Character),
            ("we/b", ServiceNameError::Character),
            ("cdp", ServiceNameError::Reserved),
        ] {
            assert_eq!(bad.parse::<ServiceName>(), Err(why), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn names_sort_as_their_texts(a in "[a-z][a-z0-9]{0,31}", b in "[a-z][a-z0-9]{0,31}") {
            if let (Ok(x), Ok(y)) = (a.parse::<ServiceName>(), b.parse::<ServiceName>()) {
                prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            }
        }
    }
}
