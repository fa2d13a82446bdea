//! What the demo counted, for people and for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::demo::talker::Verdict;
use crate::print::{Paint, table};

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Every connection between gateway and nodes is reset.
    LinksCut,
    /// The node's daemon is killed and started again.
    NodeKilled,
    /// The instance goes to the other node.
    Moved,
    /// The gateway is killed and started again.
    GatewayKilled,
}

impl Fault {
    const ALL: [Self; 4] = [Self::LinksCut, Self::NodeKilled, Self::Moved, Self::GatewayKilled];

    const fn in_words(self) -> &'static str {
        match self {
            Self::LinksCut => "all links cut",
            Self::NodeKilled => "node killed, started again",
            Self::Moved => "moved to the other node",
            Self::GatewayKilled => "gateway killed, started again",
        }
    }
}

/// The count of one run.
#[derive(Debug)]
pub(crate) struct Report {
    /// How the instance was kept apart.
    pub(crate) isolation: String,
    seed: u64,
    faults: BTreeMap<Fault, Pauses>,
    verdicts: Vec<Verdict>,
}

/// What one kind of trouble did.
#[derive(Debug)]
struct Pauses {
    times: u64,
    /// Each client's longest pause each time, in microseconds.
    longest: Histogram<u64>,
}

/// What programs read.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    seed: u64,
    cuts: u64,
    node_restarts: u64,
    moves: u64,
    gateway_restarts: u64,
    bytes_up: u64,
    bytes_down: u64,
    lost: u64,
    doubled: u64,
    client_closes: usize,
    clients: usize,
    hashes_agree: usize,
    pause_ms: Quantiles,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Report {
    /// Nothing counted yet.
    pub(crate) fn new(seed: u64) -> Self {
        Self { isolation: String::new(), seed, faults: BTreeMap::new(), verdicts: Vec::new() }
    }

    /// Counts one trouble and the longest pause of each client.
    pub(crate) fn count(&mut self, fault: Fault, pauses: impl Iterator<Item = Duration>) {
        let of_fault = self.faults.entry(fault).or_insert_with(|| Pauses { times: 0, longest: microseconds() });
        of_fault.times += 1;
        for pause in pauses {
            of_fault.longest.saturating_record(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// Takes what a client and its peer found.
    pub(crate) fn judge(&mut self, verdict: Verdict) {
        self.verdicts.push(verdict);
    }

    /// Whether nothing was lost, doubled or closed, and anything was said at all.
    pub(crate) fn is_clean(&self) -> bool {
        let clean = |verdict: &Verdict| {
            verdict.lost == 0
                && verdict.doubled == 0
                && verdict.closed.is_none()
                && verdict.hashes_agree
                && verdict.bytes_up > 0
                && verdict.bytes_down > 0
        };
        !self.verdicts.is_empty() && self.verdicts.iter().all(clean) && self.faults.len() == Fault::ALL.len()
    }

    /// What was not clean, as a sentence.
    pub(crate) fn verdict(&self) -> String {
        let closed: Vec<_> = self.verdicts.iter().filter_map(|verdict| verdict.closed.as_deref()).collect();
        let summary = self.summary();
        format!(
            "The demo failed: {} bytes lost, {} doubled, {} of {} hashes agree, {} connections closed{}{}. Run it again \
             with --seed {} and report what it prints.",
            summary.lost,
            summary.doubled,
            summary.hashes_agree,
            summary.clients,
            closed.len(),
            if closed.is_empty() { "" } else { ": " },
            closed.join("; "),
            self.seed
        )
    }

    /// What programs read.
    pub(crate) fn summary(&self) -> Summary {
        let sum = |of: fn(&Verdict) -> u64| self.verdicts.iter().map(of).sum();
        let mut all = microseconds();
        for pauses in self.faults.values() {
            all.add(&pauses.longest).expect("all histograms have one form");
        }
        Summary {
            seed: self.seed,
            cuts: self.times(Fault::LinksCut),
            node_restarts: self.times(Fault::NodeKilled),
            moves: self.times(Fault::Moved),
            gateway_restarts: self.times(Fault::GatewayKilled),
            bytes_up: sum(|verdict| verdict.bytes_up),
            bytes_down: sum(|verdict| verdict.bytes_down),
            lost: sum(|verdict| verdict.lost),
            doubled: sum(|verdict| verdict.doubled),
            client_closes: self.verdicts.iter().filter(|verdict| verdict.closed.is_some()).count(),
            clients: self.verdicts.len(),
            hashes_agree: self.verdicts.iter().filter(|verdict| verdict.hashes_agree).count(),
            pause_ms: Quantiles::of(&all),
        }
    }

    /// What people read before it begins.
    pub(crate) fn introduction(&self, clients: u64, rate: u64) -> String {
        format!(
            "A cell of an API, two nodes and a gateway; one instance (isolation: {}). Seed {}.\n{clients} plain \
             WebSocket clients and {clients} link-aware ones, each saying and hearing {} kB/s of numbered bytes.\n\n",
            self.isolation,
            self.seed,
            rate / 1000
        )
    }

    /// What people read after it.
    pub(crate) fn describe(&self, paint: Paint) -> String {
        let rows: Vec<_> = Fault::ALL.iter().map(|&fault| self.row(fault)).collect();
        let table = table(paint, &["TROUBLE", "TIMES", "PAUSE P50", "P99", "MAX"], &rows);
        let summary = self.summary();
        let count = |name: &str, count: u64| {
            let text = format!("{count} {name}");
            if count == 0 { paint.good(&text) } else { paint.bad(&text) }
        };
        format!(
            "{table}\n\n{} bytes up, {} bytes down: {}, {}, {}\nSHA-256 of what was said and what was heard agree, both \
             ways, for {} of {} clients\n",
            grouped(summary.bytes_up),
            grouped(summary.bytes_down),
            count("lost", summary.lost),
            count("doubled", summary.doubled),
            count("connections closed", summary.client_closes as u64),
            summary.hashes_agree,
            summary.clients
        )
    }

    fn row(&self, fault: Fault) -> Vec<String> {
        let name = fault.in_words().to_owned();
        let Some(pauses) = self.faults.get(&fault) else { return vec![name, "0".to_owned()] };
        let Quantiles { p50, p99, max } = Quantiles::of(&pauses.longest);
        let millis = |value: f64| format!("{value:.0} ms");
        vec![name, pauses.times.to_string(), millis(p50), millis(p99), millis(max)]
    }

    fn times(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).map_or(0, |pauses| pauses.times)
    }
}

impl Quantiles {
    fn of(longest: &Histogram<u64>) -> Self {
        let millis = |micros: u64| micros as f64 / 1000.0;
        Self {
            p50: millis(longest.value_at_quantile(0.5)),
            p99: millis(longest.value_at_quantile(0.99)),
            max: millis(longest.max()),
        }
    }
}

/// Up to ten minutes at three digits: longer pauses end the demo first.
fn microseconds() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Verdict) -> Report {
        let mut report = Report::new(7);
        for fault in Fault::ALL {
            report.count(fault, [Duration::from_millis(10), Duration::from_millis(30)].into_iter());
        }
        report.judge(verdict);
        report
    }

    fn clean() -> Verdict {
        Verdict { bytes_up: 1_234_567, bytes_down: 1, hashes_agree: true, ..Verdict::default() }
    }

    #[test]
    fn a_clean_run_is_clean_and_counts_in_both_forms() {
        let report = report(clean());
        assert!(report.is_clean());
        let json = serde_json::to_value(report.summary()).unwrap();
        assert_eq!((json["cuts"].as_u64(), json["lost"].as_u64()), (Some(1), Some(0)));
        assert!(json["pause_ms"]["max"].as_f64().unwrap() >= 30.0);
        let text = report.describe(Paint::none());
        assert!(text.contains("1,234,567 bytes up") && text.contains("for 1 of 1 clients"), "{text}");
    }

    #[test]
    fn whatever_was_not_clean_fails_the_run_and_is_named() {
        for verdict in [
            Verdict { lost: 32, ..clean() },
            Verdict { doubled: 32, ..clean() },
            Verdict { hashes_agree: false, ..clean() },
            Verdict { closed: Some("closed with 1006".to_owned()), ..clean() },
            Verdict { bytes_down: 0, ..clean() },
        ] {
            let report = report(verdict);
            assert!(!report.is_clean() && report.verdict().contains("--seed 7"), "{report:?}");
        }
        assert!(!Report::new(1).is_clean());
    }
}
