//! What was said to a process and waits until it reads.

use landfast_core::ring::Ring;

/// The most bytes that wait: what a pipe holds. Whoever says more waits.
const WAITING_MAX: usize = 64 * 1024;

/// A process's input.
#[derive(Debug)]
pub(crate) struct Input {
    waiting: Ring,
    phase: Phase,
    /// A key that found no room, and goes before everything that is said later.
    key: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// No more is taken; what waits still goes.
    Ending,
    Closed,
}

impl Input {
    /// An input that takes bytes.
    pub(crate) fn open() -> Self {
        Self { waiting: Ring::new(0), phase: Phase::Open, key: None }
    }

    /// An input that takes nothing.
    pub(crate) fn closed() -> Self {
        Self { waiting: Ring::new(0), phase: Phase::Closed, key: None }
    }

    /// How many bytes it takes now; `None` if it never takes any again.
    pub(crate) fn room(&self) -> Option<usize> {
        (self.phase == Phase::Open).then(|| WAITING_MAX - self.waiting.len())
    }

    /// Takes as many bytes as there is room for, changed by `alter` which is told how far into `bytes` they begin, and
    /// returns how many that was.
    pub(crate) fn take_with(&mut self, bytes: &[u8], mut alter: impl FnMut(usize, &mut [u8])) -> usize {
        let most = self.room().unwrap_or(0).min(bytes.len());
        let mut taken = 0;
        while taken < most {
            let spare = self.waiting.spare(most - taken);
            let n = spare.len();
            spare.copy_from_slice(&bytes[taken..taken + n]);
            alter(taken, spare);
            self.waiting.commit(n);
            taken += n;
        }
        taken
    }

    /// Takes a key, whether there is room or not; pressed again before it was taken it is one.
    pub(crate) fn press(&mut self, key: u8) {
        if self.take_with(&[key], |_, _| {}) == 0 {
            self.key = Some(key);
        }
    }

    /// No more follows.
    pub(crate) fn end(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Ending;
        }
    }

    /// The process reads no more.
    pub(crate) fn close(&mut self) {
        self.phase = Phase::Closed;
        self.waiting.clear();
        self.waiting.release();
    }

    /// Whether there is something to do: bytes to write, or the end to pass on.
    pub(crate) fn is_due(&self) -> bool {
        !self.waiting.is_empty() || self.phase == Phase::Ending
    }

    /// Whether everything was written and the end is due.
    pub(crate) fn is_at_end(&self) -> bool {
        self.waiting.is_empty() && self.phase == Phase::Ending
    }

    /// What waits, oldest first.
    pub(crate) fn waiting(&self) -> [&[u8]; 2] {
        self.waiting.slices(self.waiting.start(), usize::MAX)
    }

    /// `n` bytes of it were written.
    pub(crate) fn written(&mut self, n: usize) {
        self.waiting.drop_before(self.waiting.start() + n as u64);
        self.waiting.release();
        if let Some(key) = self.key.take() {
            self.press(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_no_more_than_a_pipe_holds_and_gives_it_out_in_order() {
        let mut input = Input::open();
        let said: Vec<u8> = (0..WAITING_MAX + 500).map(|i| (i % 251) as u8).collect();
        assert_eq!(input.take_with(&said, |_, _| {}), WAITING_MAX);
        input.written(300);
        assert_eq!(input.take_with(&said[WAITING_MAX..], |_, _| {}), 300);
        assert_eq!(input.waiting().concat(), said[300..WAITING_MAX + 300]);
    }

    #[test]
    fn a_key_that_finds_no_room_goes_before_what_is_said_later() {
        let mut input = Input::open();
        input.take_with(&[b'a'; WAITING_MAX], |_, _| {});
        input.press(4);
        input.press(4);
        input.written(10);
        input.take_with(b"later", |_, _| {});
        assert!(input.waiting().concat().ends_with(b"aaa\x04later"));
    }

    #[test]
    fn the_end_comes_after_what_waits() {
        let mut input = Input::open();
        input.take_with(b"last", |_, _| {});
        input.end();
        assert_eq!((input.room(), input.is_due(), input.is_at_end()), (None, true, false));
        input.written(4);
        assert!(input.is_at_end());
    }
}
