//! Bytes that know their place: pseudo-random, made from a seed and an offset, so that a checker can say not only *that*
//! a stream is wrong but *how*: how many bytes are missing, came twice, or belong to another stream.

use std::fmt;

/// How many bytes tell a place in the stream: 2⁶⁴ places have one each, so a false match is out of the question.
const FINGERPRINT: usize = 16;

/// How far around the expected place a stray piece is looked for: four windows of a session each way.
const SEARCH: u64 = 4 << 20;

/// An endless stream of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    seed: u64,
}

/// Checks that what it is given is the stream from its beginning.
#[derive(Debug)]
pub struct Checker {
    numbers: Numbers,
    right: u64,
    /// From the first wrong byte on: enough to tell where it belongs.
    stray: Vec<u8>,
}

/// How a stream is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// At this offset that many bytes are missing.
    Lost(u64, u64),
    /// At this offset the stream goes back by that many bytes.
    Doubled(u64, u64),
    /// At this offset stands something that is not of the stream.
    Foreign(u64),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(at, bytes) => write!(f, "at offset {at}, {bytes} bytes are lost"),
            Self::Doubled(at, bytes) => write!(f, "at offset {at}, {bytes} bytes come again"),
            Self::Foreign(at) => write!(f, "at offset {at} stands something that was never sent there"),
        }
    }
}

impl std::error::Error for Wrong {}

impl Numbers {
    /// The stream of a seed.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Fills `bytes` with what stands from `offset` on.
    pub fn fill(self, offset: u64, bytes: &mut [u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let word = self.word(at / 8).to_le_bytes();
            let from = (at % 8) as usize;
            let n = rest.len().min(8 - from);
            rest[..n].copy_from_slice(&word[from..from + n]);
            rest = &mut rest[n..];
            at += n as u64;
        }
    }

    /// What stands in the `len` bytes from `offset` on.
    pub fn slice(self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(offset, &mut bytes);
        bytes
    }

    /// SplitMix64: the seed picks the stream, the index the place.
    const fn word(self, index: u64) -> u64 {
        let mut z = self.seed.wrapping_mul(0xd134_2543_de82_ef95) ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Where in the stream `piece` stands, near `around`.
    fn find(self, piece: &[u8], around: u64) -> Option<u64> {
        let start = around.saturating_sub(SEARCH);
        let window = self.slice(start, (2 * SEARCH) as usize);
        window.windows(piece.len()).position(|bytes| bytes == piece).map(|at| start + at as u64)
    }
}

impl Checker {
    /// Expects the stream of `numbers` from its beginning.
    pub const fn new(numbers: Numbers) -> Self {
        Self { numbers, right: 0, stray: Vec::new() }
    }

    /// How many bytes were right so far.
    pub const fn right(&self) -> u64 {
        self.right
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// Says how the stream is wrong, as soon as enough of it was seen to tell.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let mut rest = bytes;
        if self.stray.is_empty() {
            let expected = self.numbers.slice(self.right, bytes.len());
            let right = bytes.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            self.right += right as u64;
            rest = &bytes[right..];
        }
        self.stray.extend_from_slice(&rest[..rest.len().min(FINGERPRINT - self.stray.len())]);
        if self.stray.len() < FINGERPRINT { Ok(()) } else { Err(self.diagnose()) }
    }

    /// The stream has ended: whether it was right, and `len` bytes long.
    ///
    /// # Errors
    ///
    /// Says how it was wrong.
    pub fn finish(&self, len: u64) -> Result<(), Wrong> {
        match (self.stray.is_empty(), self.right.cmp(&len)) {
            (false, _) => Err(self.diagnose()),
            (true, std::cmp::Ordering::Less) => Err(Wrong::Lost(self.right, len - self.right)),
            (true, std::cmp::Ordering::Greater) => Err(Wrong::Foreign(len)),
            (true, std::cmp::Ordering::Equal) => Ok(()),
        }
    }

    fn diagnose(&self) -> Wrong {
        let place = if self.stray.len() < FINGERPRINT { None } else { self.numbers.find(&self.stray, self.right) };
        match place {
            Some(place) if place > self.right => Wrong::Lost(self.right, place - self.right),
            Some(place) => Wrong::Doubled(self.right, self.right - place),
            None => Wrong::Foreign(self.right),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[&[u8]]) -> Result<(), Wrong> {
        let mut checker = Checker::new(Numbers::new(7));
        parts.iter().try_for_each(|part| checker.take(part))?;
        checker.finish(10_000)
    }

    #[test]
    fn the_stream_itself_is_right_however_it_is_cut() {
        let stream = Numbers::new(7).slice(0, 10_000);
        let (head, tail) = stream.split_at(3_333);
        assert_eq!(check(&[head, &[], tail]), Ok(()));
        assert_eq!(Numbers::new(7).slice(3_333, 6_667), tail);
    }

    #[test]
    fn a_hole_a_repetition_and_a_foreign_piece_are_told_apart() {
        let stream = Numbers::new(7).slice(0, 10_000);
        let other = Numbers::new(8).slice(0, 100);
        assert_eq!(check(&[&stream[..500], &stream[507..]]), Err(Wrong::Lost(500, 7)));
        assert_eq!(check(&[&stream[..500], &stream[436..]]), Err(Wrong::Doubled(500, 64)));
        assert_eq!(check(&[&stream[..500], &other]), Err(Wrong::Foreign(500)));
        assert_eq!(check(&[&stream[..9_990]]), Err(Wrong::Lost(9_990, 10)));
    }

    #[test]
    fn a_single_changed_byte_is_found() {
        let mut stream = Numbers::new(7).slice(0, 10_000);
        stream[4_096] ^= 1;
        assert_eq!(check(&[&stream]), Err(Wrong::Foreign(4_096)));
    }
}
