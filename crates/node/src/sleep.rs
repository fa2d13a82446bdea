//! Putting an instance to sleep: when nobody does anything with it, or when somebody asks for that.
//!
//! The agent counts what is done and is asked once when the time could have come, then again when that could be. The record is
//! written first, so that from then on new traffic waits for the next life; only then is the agent stopped. Its home stays.

use std::time::Duration;

use landfast_core::lifecycle;
use landfast_core::time::Instant;
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::clock;
use tracing::{error, info, warn};

use crate::agent::SLEEP_GRACE;
use crate::instance::{Next, Task};

/// When an agent is asked again that did not answer: it is not its idleness that is doubtful then.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The shortest time between two questions: the agent's answer is in whole milliseconds.
const SOONEST: Duration = Duration::from_millis(10);

/// What a task knows of its instance's idleness.
#[derive(Debug, Default)]
pub(crate) struct Idleness {
    /// When to ask the agent next; at once if it was never asked.
    look_at: Option<Instant>,
    /// This task has found the instance idle, and asked for its sleep.
    found: bool,
}

impl Idleness {
    /// When to look next.
    pub(crate) const fn next_look(&self) -> Option<Instant> {
        self.look_at
    }
}

impl Task {
    /// Asks for the instance's sleep once nobody has done anything with it for as long as its spec says.
    pub(crate) async fn look_for_idleness(&mut self) -> Next {
        let Some(limit) = self.idle_timeout() else { return Next::Watch };
        if self.idleness.look_at.is_some_and(|at| clock::now() < at) {
            return Next::Watch;
        }
        let wait = match self.idle_for().await {
            Some(idle) if idle >= limit => {
                let (me, generation) = (self.ctx.me, self.record().generation);
                info!(instance = %self.record().id, ?idle, "an instance is idle");
                self.idleness.found = true;
                return self.write(|instance| lifecycle::idle(instance, me, generation)).await;
            }
            Some(idle) => (limit - idle).max(SOONEST),
            None => ASK_AGAIN,
        };
        self.idleness.look_at = Some(clock::now() + wait);
        Next::Watch
    }

    /// Puts the instance to sleep, as desired.
    pub(crate) async fn fall_asleep(&mut self) -> Next {
        self.shut(ErrorCode::InstanceWaking).await;
        let id = self.record().id;
        self.find_agent();
        if std::mem::take(&mut self.idleness).found && self.was_used_after_all().await {
            info!(instance = %id, "an instance was used just before it would have slept");
            return self.write(lifecycle::desire_awake).await;
        }
        if !self.note_doze() {
            return Next::Retry;
        }
        if let Some(agent) = &self.agent
            && let Err(error) = agent.end(SLEEP_GRACE).await
        {
            error!(instance = %id, %error, "an instance that is to sleep does not end");
            return Next::Retry;
        }
        if let Err(next) = self.kill_and_archive().await {
            return next;
        }
        let (me, generation) = (self.ctx.me, self.record().generation);
        let next = self.write(|instance| lifecycle::asleep(instance, me, generation)).await;
        if next == Next::Again {
            log_asleep(id);
        }
        next
    }

    /// Notes that the putting to sleep has begun. False if that could not be written.
    pub(crate) fn note_doze(&mut self) -> bool {
        let (id, generation) = (self.record().id, self.record().generation);
        match self.ctx.driver.dir(id).note_doze(generation) {
            Ok(()) => {
                self.life.handle_doze(generation);
                true
            }
            Err(error) => {
                error!(instance = %id, %error, "a note was not written");
                false
            }
        }
    }

    /// Whether something came between the finding that the instance is idle and its door's being shut.
    async fn was_used_after_all(&self) -> bool {
        match (self.idle_timeout(), self.idle_for().await) {
            (Some(limit), Some(idle)) => idle < limit,
            (None, _) | (_, None) => false,
        }
    }

    fn idle_timeout(&self) -> Option<Duration> {
        self.record().spec.idle_timeout.map(Duration::from_secs)
    }

    async fn idle_for(&self) -> Option<Duration> {
        match self.agent.as_ref()?.idle().await {
            Ok(idle) => Some(idle),
            Err(error) => {
                warn!(instance = %self.record().id, %error, "an agent does not say whether it is idle");
                None
            }
        }
    }
}

fn log_asleep(id: InstanceId) {
    info!(instance = %id, "an instance sleeps");
}
