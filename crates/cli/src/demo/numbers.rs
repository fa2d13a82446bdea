//! Bytes that prove themselves: numbered blocks of pseudo-random bytes, so that a checker can count what is missing and
//! what came twice.

use sha2::{Digest, Sha256};

/// The bytes of a block: its number, and 24 that only that number has.
pub(crate) const BLOCK: usize = 32;

/// Says the blocks of a seed, one after another.
#[derive(Debug)]
pub(crate) struct Speaker {
    seed: u64,
    next: u64,
    hash: Sha256,
}

/// Checks that what it hears are the blocks of a seed, each once and in order.
#[derive(Debug)]
pub(crate) struct Listener {
    seed: u64,
    next: u64,
    /// Less than a block, unless it is out of step.
    rest: Vec<u8>,
    hash: Sha256,
    heard: u64,
    lost: u64,
    doubled: u64,
}

/// What one end knows of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Bytes said or heard.
    pub(crate) bytes: u64,
    /// Their SHA-256, as hex.
    pub(crate) sha256: String,
    /// Bytes that are missing.
    pub(crate) lost: u64,
    /// Bytes that came more than once, or were never said.
    pub(crate) doubled: u64,
}

impl Speaker {
    /// Begins with block 0.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, next: 0, hash: Sha256::new() }
    }

    /// The next `count` blocks.
    pub(crate) fn say(&mut self, count: usize) -> Vec<u8> {
        let bytes: Vec<u8> =
            (self.next..self.next + count as u64).flat_map(|number| block(self.seed, number)).collect();
        self.next += count as u64;
        self.hash.update(&bytes);
        bytes
    }

    /// What was said so far.
    pub(crate) fn tally(&self) -> Tally {
        Tally { bytes: self.next * BLOCK as u64, sha256: hex(&self.hash), lost: 0, doubled: 0 }
    }
}

impl Listener {
    /// Expects block 0.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, next: 0, rest: Vec::new(), hash: Sha256::new(), heard: 0, lost: 0, doubled: 0 }
    }

    /// Hears the next bytes, however they were cut.
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.heard += bytes.len() as u64;
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(candidate) = self.rest[at..].first_chunk::<BLOCK>() {
            match number_of(self.seed, candidate) {
                Some(number) => {
                    self.count(number);
                    at += BLOCK;
                }
                // Out of step: something was cut out of the middle of a block. The next whole block tells how much.
                None => at += 1,
            }
        }
        self.rest.drain(..at);
    }

    /// What was heard so far, if nothing more comes.
    pub(crate) fn tally(&self) -> Tally {
        Tally { bytes: self.heard, sha256: hex(&self.hash), lost: self.lost, doubled: self.doubled }
    }

    fn count(&mut self, number: u64) {
        let size = BLOCK as u64;
        if number < self.next {
            self.doubled += size;
            return;
        }
        self.lost += (number - self.next) * size;
        self.next = number + 1;
    }
}

/// SplitMix64 of the seed, the block and the word in it.
fn word(seed: u64, number: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((number * 3 + index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn block(seed: u64, number: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..8].copy_from_slice(&number.to_be_bytes());
    for index in 0..3 {
        let at = 8 * (index + 1);
        block[at..at + 8].copy_from_slice(&word(seed, number, index as u64).to_be_bytes());
    }
    block
}

fn number_of(seed: u64, candidate: &[u8; BLOCK]) -> Option<u64> {
    let (&number, _) = candidate.split_first_chunk::<8>()?;
    let number = u64::from_be_bytes(number);
    // A number out of this range is no block of ours, and would overflow the arithmetic.
    (number < 1 << 48 && block(seed, number) == *candidate).then_some(number)
}

fn hex(hash: &Sha256) -> String {
    hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(parts: &[&[u8]]) -> Tally {
        let mut listener = Listener::new(7);
        parts.iter().for_each(|part| listener.hear(part));
        listener.tally()
    }

    #[test]
    fn the_blocks_themselves_are_right_however_they_are_cut() {
        let mut speaker = Speaker::new(7);
        let said = [speaker.say(10), speaker.say(3)].concat();
        for cut in [1, 7, 33, 400] {
            let parts: Vec<_> = said.chunks(cut).collect();
            assert_eq!(heard(&parts), speaker.tally(), "cut into {cut}");
        }
    }

    #[test]
    fn what_is_missing_is_counted_in_blocks_and_inside_them() {
        let said = Speaker::new(7).say(20);
        assert_eq!(heard(&[&said[..320], &said[384..]]).lost, 64);
        assert_eq!(heard(&[&said[..325], &said[330..]]).lost, 32);
    }

    #[test]
    fn what_comes_twice_is_counted() {
        let said = Speaker::new(7).say(20);
        let tally = heard(&[&said[..320], &said[256..]]);
        assert_eq!((tally.doubled, tally.lost), (64, 0));
    }

    #[test]
    fn the_blocks_of_another_seed_are_none() {
        let tally = heard(&[&Speaker::new(8).say(4)]);
        assert_eq!((tally.bytes, tally.lost), (128, 0));
        assert_ne!(tally, Speaker::new(7).tally());
    }
}
