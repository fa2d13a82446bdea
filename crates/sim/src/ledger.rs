//! Where facts go: to the checkers, and to the trace.

use crate::check::{Checker, Violation, all};
use crate::clock::{MILLI, SECOND, Time};
use crate::fact::Fact;
use crate::stage::Who;
use crate::tally::Tally;

/// Violations kept of one run: what follows the first is mostly its consequence.
const KEPT: usize = 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ledger {
    checkers: Vec<Box<dyn Checker>>,
    violations: Vec<Violation>,
    tally: Tally,
    trace: bool,
}

impl Ledger {
    pub(crate) fn new(seed: u64, trace: bool) -> Self {
        if trace {
            println!("seed {seed}");
        }
        Self { checkers: all(), violations: Vec::new(), tally: Tally::default(), trace }
    }

    pub(crate) fn note(&mut self, at: Time, fact: Fact<'_>) {
        if self.trace {
            print_fact(at, fact);
        }
        self.tally.note(fact);
        for checker in &mut self.checkers {
            if let Err(violation) = checker.observe(at, fact) {
                keep(&mut self.violations, violation, self.trace);
            }
        }
    }

    pub(crate) fn remark(&self, at: Time, who: Who, remark: impl FnOnce() -> String) {
        if self.trace {
            println!("{}     {who:?} {}", stamp(at), remark());
        }
    }

    /// The run is over; what should have happened by now must have.
    pub(crate) fn finish(mut self, at: Time) -> (Vec<Violation>, Tally) {
        for checker in &mut self.checkers {
            for violation in checker.finish(at) {
                keep(&mut self.violations, violation, self.trace);
            }
        }
        (self.violations, self.tally)
    }
}

fn keep(violations: &mut Vec<Violation>, violation: Violation, trace: bool) {
    if trace {
        println!("{} !!! {violation}", stamp(violation.at));
    }
    if violations.len() < KEPT {
        violations.push(violation);
    }
}

fn print_fact(at: Time, fact: Fact<'_>) {
    match fact {
        Fact::Heard { client, direction, bytes } => {
            println!("{} Heard {{ client: {client}, direction: {direction:?}, bytes: {} }}", stamp(at), bytes.len());
        }
        fact => println!("{} {fact:?}", stamp(at)),
    }
}

fn stamp(at: Time) -> String {
    format!("{:>4}.{:06}", at / SECOND, at % SECOND * 1000 / MILLI)
}
