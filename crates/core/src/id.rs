//! Typed, prefixed, time-ordered identifiers: `ins_06f4n6b8p0…`.
//!
//! The text is the kind's prefix and 26 characters of Crockford's base 32 (lower case, no i, l, o, u) over 128 bits: 48
//! bits of Unix milliseconds, then 80 random bits. Text order is creation order.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Serialize};

/// What was wrong with a text that should have been an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseIdError {
    prefix: &'static str,
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected an id of the form {}_ and 26 characters of 0-9 a-z without i, l, o, u", self.prefix)
    }
}

impl std::error::Error for ParseIdError {}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(u128);

        impl $name {
            /// The text before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an id from the Unix time in milliseconds (the low 48 bits count) and random bits (the low 80).
            pub const fn new(unix_millis: u64, random: u128) -> Self {
                Self(((unix_millis as u128 & 0xffff_ffff_ffff) << 80) | (random & ((1 << 80) - 1)))
            }

            /// Its text, without an allocation.
            pub fn text(self) -> IdText {
                IdText::new(Self::PREFIX, self.0)
            }

            /// The Unix time in milliseconds at which the id was made.
            pub const fn created_at_millis(self) -> u64 {
                (self.0 >> 80) as u64
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix(Self::PREFIX)
                    .and_then(|rest| rest.strip_prefix('_'))
                    .and_then(decode)
                    .map(Self)
                    .ok_or(ParseIdError { prefix: Self::PREFIX })
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    )*};
}

ids! {
    /// An instance: the stateful thing a client wants.
    InstanceId = "ins";
    /// A node: a machine's daemon that runs instances.
    NodeId = "nod";
    /// A session: a client's lasting conversation with one process or service.
    SessionId = "ses";
    /// A process inside an instance.
    ProcessId = "prc";
    /// An access token (its `jti`).
    TokenId = "tok";
    /// An API key of the control plane.
    KeyId = "key";
    /// One request or session at a gateway, as told to the client in `landfast-request-id`.
    RequestId = "req";
    /// A pool of browsers.
    PoolId = "pol";
    /// A client's connection to a browser, as told in events.
    ConnectionId = "con";
}

fn base32() -> &'static Encoding {
    static ENCODING: std::sync::LazyLock<Encoding> = std::sync::LazyLock::new(|| {
        let mut spec = Specification::new();
        spec.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
        spec.encoding().expect("the alphabet has 32 distinct symbols")
    });
    &ENCODING
}

/// The symbols of an id.
const SYMBOLS: usize = 26;

/// What stands before them: a prefix and the underscore.
const BEFORE: usize = 4;

/// The text of an id.
#[derive(Clone, Copy)]
pub struct IdText([u8; BEFORE + SYMBOLS]);

impl IdText {
    /// 16 bytes are 128 bits; 26 symbols are 130, so two zero bits of padding close the text.
    fn new(prefix: &'static str, value: u128) -> Self {
        let mut text = [b'_'; BEFORE + SYMBOLS];
        text[..BEFORE - 1].copy_from_slice(prefix.as_bytes());
        base32().encode_mut(&value.to_be_bytes(), &mut text[BEFORE..]);
        Self(text)
    }
}

impl Deref for IdText {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the symbols are ASCII")
    }
}

impl AsRef<[u8]> for IdText {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for IdText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

fn decode(text: &str) -> Option<u128> {
    let mut bytes = [0; 16];
    (text.len() == SYMBOLS).then(|| base32().decode_mut(text.as_bytes(), &mut bytes))?.ok()?;
    Some(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_survives_its_text(millis in 0u64..(1 << 48), random: u128) {
            let id = InstanceId::new(millis, random);
            prop_assert_eq!(id.to_string().parse::<InstanceId>().unwrap(), id);
            prop_assert_eq!(id.created_at_millis(), millis);
        }

        #[test]
        fn text_order_is_creation_order(a in 0u64..(1 << 48), b in 0u64..(1 << 48), random: u128) {
            prop_assume!(a != b);
            prop_assert_eq!(a < b, InstanceId::new(a, random).to_string() < InstanceId::new(b, !random).to_string());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<InstanceId>();
        }
    }

    #[test]
    fn another_kinds_id_is_refused_with_a_sentence() {
        let node = NodeId::new(1, 2).to_string();
        let error = node.parse::<InstanceId>().unwrap_err();
        assert!(error.to_string().contains("ins_"), "{error}");
    }
}
