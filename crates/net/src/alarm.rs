//! A timer for deadlines that mostly move later.
//!
//! Setting a runtime's timer takes a lock and a place in a wheel; a busy connection would do it for each message. Its
//! deadline nearly always moves away before it comes. So the timer is left where it is when the deadline moves later, and
//! set anew when it fires in vain.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use landfast_core::time::Instant;
use tokio::time::Sleep;

use crate::clock;

/// A timer that is kept between deadlines. It costs nothing before the first.
#[derive(Debug, Default)]
pub struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
    armed: Option<Instant>,
}

impl Alarm {
    /// Resolves once `deadline` has passed; until then the task is woken for it, and maybe before it.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        loop {
            let due = clock::to_tokio(Instant::ZERO);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if self.armed.is_none_or(|armed| deadline < armed) {
                timer.as_mut().reset(clock::to_tokio(deadline));
                self.armed = Some(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.armed = None;
            if clock::now() >= deadline {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_rings_for_the_deadline_it_was_asked_for_last() {
        let (mut alarm, began) = (Alarm::default(), clock::now());
        let early = began + Duration::from_millis(5);
        let late = began + Duration::from_millis(40);
        poll_fn(|cx| {
            assert!(alarm.poll(cx, late).is_pending());
            assert!(alarm.poll(cx, early).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| alarm.poll(cx, late)).await;
        assert!(clock::now() >= late);
        poll_fn(|cx| alarm.poll(cx, early)).await;
    }
}
