//! Who waits for a process to say or do something.
//!
//! Waiting and looking happen under the lock that guards what is looked at, so no change falls between the two.

use std::task::Waker;

/// Where one waiter's waker is kept. A waiter has one seat for as long as it lives, however often it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seat(u64);

/// The waiters of one process: at most one waker per seat.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    waiting: Vec<(Seat, Waker)>,
    seats: u64,
}

impl Waiters {
    /// A seat for a new waiter. Give it up with [`Self::leave`].
    pub(crate) const fn take_seat(&mut self) -> Seat {
        self.seats += 1;
        Seat(self.seats)
    }

    /// Wakes this waiter at the next [`Self::wake`].
    pub(crate) fn wait(&mut self, seat: Seat, waker: &Waker) {
        match self.waiting.iter_mut().find(|(known, _)| *known == seat) {
            Some((_, known)) => known.clone_from(waker),
            None => self.waiting.push((seat, waker.clone())),
        }
    }

    /// Forgets a waiter.
    pub(crate) fn leave(&mut self, seat: Seat) {
        self.waiting.retain(|(known, _)| *known != seat);
    }

    /// Wakes everybody who waits.
    pub(crate) fn wake(&mut self) {
        self.waiting.drain(..).for_each(|(_, waker)| waker.wake());
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_holds_one_waker_however_often_it_waits_and_none_once_it_left() {
        let mut waiters = Waiters::default();
        let (first, second) = (waiters.take_seat(), waiters.take_seat());
        for _ in 0..100 {
            waiters.wait(first, Waker::noop());
            waiters.wait(second, Waker::noop());
        }
        assert_eq!(waiters.len(), 2);
        waiters.leave(first);
        assert_eq!(waiters.len(), 1);
        waiters.wake();
        assert_eq!(waiters.len(), 0);
    }
}
