//! What happened in runs, as numbers: so that "no violation" can be told from "nothing happened".

use std::collections::BTreeMap;
use std::fmt;

use landfast_core::record::Phase;

use crate::fact::Fact;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sessions that clients began.
    pub sessions: u64,
    /// Links that stood.
    pub links: u64,
    /// Bytes that reached a process or a client.
    pub bytes: u64,
    /// Changes of an instance's owner or its lease: starts, moves and claims.
    pub placements: u64,
    /// Sessions that were told of their end, by what they were told.
    pub endings: BTreeMap<&'static str, u64>,
    /// Sessions that went on until the end of the run.
    pub survivors: u64,
}

impl Tally {
    /// Adds the numbers of another run.
    pub fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.links += other.links;
        self.bytes += other.bytes;
        self.placements += other.placements;
        self.survivors += other.survivors;
        for (code, count) in &other.endings {
            *self.endings.entry(code).or_default() += count;
        }
    }

    pub(crate) fn note(&mut self, fact: Fact<'_>) {
        match fact {
            Fact::Attached { .. } => {
                self.sessions += 1;
                self.survivors += 1;
            }
            Fact::Linked { .. } => self.links += 1,
            Fact::Heard { bytes, .. } => self.bytes += bytes.len() as u64,
            Fact::Recorded { phase: Phase::Running, .. } => self.placements += 1,
            Fact::Told { code, .. } => {
                *self.endings.entry(code.as_str()).or_default() += 1;
                self.survivors -= 1;
            }
            Fact::Left { .. } | Fact::Cut { .. } => self.survivors -= 1,
            _ => {}
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, links, bytes, placements, endings, survivors } = self;
        writeln!(f, "{sessions} sessions over {links} links; {bytes} bytes heard; {placements} times an instance ran")?;
        writeln!(f, "{survivors} sessions went on to the end; the others were told")?;
        for (code, count) in endings {
            writeln!(f, "{count:>10} {code}")?;
        }
        Ok(())
    }
}
