//! A byte queue whose positions are offsets into an endless stream.
//!
//! The session keeps in it what the peer has not acknowledged, and what its own side has not taken. It grows on demand,
//! by doubling, and gives its memory back when asked while empty: an idle session then owns no buffer.

use std::io::IoSlice;

/// The first allocation: one page, enough for keystrokes and their echoes.
const FIRST: usize = 4096;

/// A queue of bytes with offsets. Its bound is the caller's: it holds what was pushed.
#[derive(Debug, Default)]
pub struct Ring {
    /// A power of two long, or empty.
    buf: Box<[u8]>,
    /// The offset that lies at `buf[0]`, modulo the length.
    origin: u64,
    start: u64,
    end: u64,
}

impl Ring {
    /// An empty queue whose next byte has the offset `at`.
    pub fn new(at: u64) -> Self {
        Self { buf: Box::default(), origin: at, start: at, end: at }
    }

    /// The offset of the first byte kept.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// The offset after the last byte kept.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// How many bytes are kept.
    pub const fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether nothing is kept.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The memory held, in bytes.
    pub const fn capacity(&self) -> usize {
        self.buf.len()
    }

    /// Appends bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let spare = self.spare(bytes.len());
            let taken = spare.len().min(bytes.len());
            spare[..taken].copy_from_slice(&bytes[..taken]);
            self.commit(taken);
            bytes = &bytes[taken..];
        }
    }

    /// Room to write at most `most` further bytes into, never empty unless `most` is zero; [`Self::commit`] what was
    /// written. It may be shorter than `most`.
    pub fn spare(&mut self, most: usize) -> &mut [u8] {
        if self.is_empty() {
            self.origin = self.end;
        }
        // Growing at half full, not at full, keeps the room worth a system call.
        if self.buf.len() < self.len() + most && self.len() * 2 >= self.buf.len() {
            self.grow();
        }
        let (cap, at) = (self.buf.len(), self.index(self.end));
        let room = (cap - self.len()).min(cap - at).min(most);
        &mut self.buf[at..at + room]
    }

    /// Counts `n` bytes that were written into [`Self::spare`].
    pub fn commit(&mut self, n: usize) {
        assert!(self.len() + n <= self.buf.len(), "committed more than the spare room");
        self.end += n as u64;
    }

    /// The kept bytes from `offset` on, at most `most`, in at most two pieces.
    pub fn slices(&self, offset: u64, most: usize) -> [&[u8]; 2] {
        assert!(self.start <= offset && offset <= self.end, "offset outside of what is kept");
        let len = ((self.end - offset) as usize).min(most);
        if len == 0 {
            return [&[], &[]];
        }
        let at = self.index(offset);
        let first = len.min(self.buf.len() - at);
        [&self.buf[at..at + first], &self.buf[..len - first]]
    }

    /// As [`Self::slices`], for a vectored write.
    pub fn io_slices(&self, offset: u64, most: usize) -> [IoSlice<'_>; 2] {
        self.slices(offset, most).map(IoSlice::new)
    }

    /// Forgets everything before `offset`.
    pub fn drop_before(&mut self, offset: u64) {
        assert!(self.start <= offset && offset <= self.end, "offset outside of what is kept");
        self.start = offset;
    }

    /// Counts `n` bytes that went past the queue while it was empty.
    pub fn skip(&mut self, n: usize) {
        assert!(n == 0 || self.is_empty(), "bytes cannot overtake those kept");
        self.end += n as u64;
        if n > 0 {
            self.start = self.end;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.start = self.end;
    }

    /// Gives the memory back if nothing is kept.
    pub fn release(&mut self) {
        if self.is_empty() {
            self.buf = Box::default();
        }
    }

    fn index(&self, offset: u64) -> usize {
        (offset.wrapping_sub(self.origin) as usize) & (self.buf.len().wrapping_sub(1))
    }

    fn grow(&mut self) {
        let mut bigger = vec![0; (self.buf.len() * 2).max(FIRST)].into_boxed_slice();
        let [first, second] = self.slices(self.start, usize::MAX);
        bigger[..first.len()].copy_from_slice(first);
        bigger[first.len()..first.len() + second.len()].copy_from_slice(second);
        self.buf = bigger;
        self.origin = self.start;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_queue(steps in proptest::collection::vec((any::<bool>(), 0usize..20_000), 1..60), start in any::<u32>()) {
            let (mut ring, mut model, mut next) = (Ring::new(u64::from(start)), std::collections::VecDeque::new(), 0u8);
            for (push, amount) in steps {
                if push {
                    let bytes: Vec<u8> = (0..amount).map(|_| { next = next.wrapping_add(7); next }).collect();
                    ring.push(&bytes);
                    model.extend(bytes);
                } else {
                    let taken = amount.min(ring.len());
                    ring.drop_before(ring.start() + taken as u64);
                    model.drain(..taken);
                }
                prop_assert_eq!(ring.len(), model.len());
                let kept: Vec<u8> = ring.slices(ring.start(), usize::MAX).concat();
                prop_assert!(kept.iter().eq(model.iter()));
            }
        }
    }

    #[test]
    fn it_owns_nothing_while_empty_and_released() {
        let mut ring = Ring::new(5);
        ring.push(&[1; 10_000]);
        ring.release();
        assert!(ring.capacity() >= 10_000);
        ring.clear();
        ring.release();
        assert_eq!((ring.capacity(), ring.start()), (0, 10_005));
    }
}
