//! Secrets that are compared in constant time and never printed.

use std::fmt;

use subtle::ConstantTimeEq;

/// `N` random bytes, as lower-case hex on the wire and on disk. `Debug` does not show them.
#[derive(Clone)]
pub struct Hex<const N: usize>([u8; N]);

/// The 128 bits that let their holder resume a session.
pub type Secret = Hex<16>;

/// The 256 bits without which a relay accepts nothing.
pub type CellKey = Hex<32>;

impl<const N: usize> Hex<N> {
    /// Makes a new secret.
    pub fn generate() -> Self {
        let mut bytes = [0; N];
        rand::fill(&mut bytes);
        Self(bytes)
    }

    /// Reads a secret; `None` unless it is exactly `2 * N` hex digits, spaces around them ignored.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.trim().as_bytes();
        if digits.len() != 2 * N {
            return None;
        }
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// The secret as hex digits. The caller answers for where they go.
    pub fn to_hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(2 * N), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
            text
        })
    }
}

impl<const N: usize> PartialEq for Hex<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl<const N: usize> Eq for Hex<N> {}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_its_text_and_is_not_printed() {
        let secret = Secret::generate();
        assert_eq!(Secret::from_hex(&format!("{}\n", secret.to_hex())), Some(secret.clone()));
        assert_ne!(secret, Secret::generate());
        assert!(!format!("{secret:?}").contains(&secret.to_hex()));
    }

    #[test]
    fn a_text_of_the_wrong_length_or_alphabet_is_no_secret() {
        for text in ["", "00", "zz000000000000000000000000000000", "0000000000000000000000000000000"] {
            assert_eq!(Secret::from_hex(text), None, "{text}");
        }
    }
}
