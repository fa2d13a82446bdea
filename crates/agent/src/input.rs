//! What was said to a process and waits until it reads.

use landfast_core::ring::Ring;

/// The most bytes that wait: what a pipe holds. Whoever says more waits.
const WAITING_MAX: usize = 64 * 1024;

/// A process's input.
#[derive(Debug)]
pub(crate) struct Input {
    waiting: Ring,
    phase: Phase,
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
        Self { waiting: Ring::new(0), phase: Phase::Open }
    }

    /// An input that takes nothing.
    pub(crate) fn closed() -> Self {
        Self { waiting: Ring::new(0), phase: Phase::Closed }
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
    fn the_end_comes_after_what_waits() {
        let mut input = Input::open();
        input.take_with(b"last", |_, _| {});
        input.end();
        assert_eq!((input.room(), input.is_due(), input.is_at_end()), (None, true, false));
        input.written(4);
        assert!(input.is_at_end());
    }
}
