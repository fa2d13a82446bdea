//! Who runs on which processor: what is measured on one, everything else on another, so that neither takes the other's time.

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors of a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processors {
    /// For the side that is measured.
    measured: usize,
    /// For the client, the upstream and whatever else the measurement needs.
    others: usize,
}

impl Processors {
    /// The first and the last processor that this program may use.
    ///
    /// # Errors
    ///
    /// There is only one.
    pub(crate) fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("the processors of this program are not known")?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|number| allowed.is_set(*number));
        match (usable.next(), usable.next_back()) {
            (Some(others), Some(measured)) => Ok(Self { measured, others }),
            _ => bail!("a proxy can only be measured on a machine with two processors or more"),
        }
    }

    /// Pins this thread, and whatever it starts from now on, to the processor of what is measured.
    pub(crate) fn enter_measured(self) -> Result<()> {
        pin(self.measured)
    }

    /// Pins this thread, and whatever it starts from now on, to the processor of everything else.
    pub(crate) fn enter_others(self) -> Result<()> {
        pin(self.others)
    }
}

fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).with_context(|| format!("processor {processor} cannot be had"))
}
