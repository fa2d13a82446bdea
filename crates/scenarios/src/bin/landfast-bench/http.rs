//! The HTTP and WebSocket path beside HAProxy and nginx: one worker each on one processor, client and upstream on
//! another, the same bytes to all, in turns.
//!
//! What is compared is the time on a processor for each exchange, as the kernel counts it: on a machine that does other
//! things too it is worth more than any throughput.

mod idle;
mod load;
mod open;
mod pin;
mod reader;
mod side;
mod socket;
pub(crate) mod upstream;
mod usage;
mod workload;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Map, Value, json};

use self::side::{NAMES, Side, Stage};
pub(crate) use self::workload::Workload;
use self::workload::{Measure, Work};

/// All that was taken: by measure and side, in the order of the rounds.
#[derive(Debug, Default)]
pub(crate) struct Report {
    taken: BTreeMap<&'static str, [Vec<Option<f64>>; 3]>,
    measures: Vec<Measure>,
    /// The most processors that strangers used at a time.
    strangers: f64,
    /// What went wrong first, by measure and side.
    wrong: BTreeMap<(&'static str, &'static str), String>,
}

/// Measures all sides, in these workloads; in all if none is named.
///
/// # Errors
///
/// They could not be started.
pub(crate) async fn measure(quick: bool, only: &[Workload]) -> Result<Report> {
    let seconds = Duration::from_secs_f64;
    let whole = Work { rounds: 5, time: (seconds(0.7), seconds(3.0)), idle: 9_000 };
    let look = Work { rounds: 2, time: (seconds(0.2), seconds(0.8)), idle: 2_000 };
    let work = if quick { look } else { whole };
    let mut report = Report::default();
    let mut stage = Stage::start().await?;
    for round in 0..work.rounds {
        let mut sides = stage.start_sides_anew().await?;
        for &workload in if only.is_empty() { Workload::all(quick) } else { only } {
            if !workload.is_idle() {
                take_all(&mut report, &stage, &sides, workload, work);
            } else if round == 0 {
                take_all(&mut report, &stage, &sides, workload, work);
                sides = stage.start_sides_anew().await?;
            }
        }
    }
    Ok(report)
}

fn take_all(report: &mut Report, stage: &Stage, sides: &[Side; 3], workload: Workload, work: Work) {
    for (number, side) in sides.iter().enumerate() {
        let taken = workload.run(stage, side, work);
        if let Err(why) = &taken {
            report.wrong.entry((workload.measures()[0].name, side.name)).or_insert_with(|| format!("{why:#}"));
        }
        let strangers = taken.as_ref().map_or(0.0, |taken| taken.strangers);
        report.strangers = report.strangers.max(strangers);
        for (index, measure) in workload.measures().iter().enumerate() {
            let value = taken.as_ref().ok().map(|taken| taken.values[index]);
            report.add(*measure, number, value);
        }
    }
}

impl Report {
    /// What went wrong, each in a line.
    pub(crate) fn wrong(&self) -> impl Iterator<Item = String> {
        self.wrong.iter().map(|((measure, side), why)| format!("{measure}: {side}: {why}"))
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{:<11} {:>6}", "", "");
        for name in NAMES {
            write!(text, " {name:>9}").expect("a string takes text");
        }
        text += "  ours/haproxy  ours/nginx\n";
        for Measure { name, unit, about } in &self.measures {
            write!(text, "{name:<11} {unit:>6}").expect("a string takes text");
            for side in 0..NAMES.len() {
                write!(text, " {:>9}", written(self.median(name, side))).expect("a string takes text");
            }
            let (haproxy, nginx) = (written(self.ratio(name, 1)), written(self.ratio(name, 2)));
            writeln!(text, "  {haproxy:>12}  {nginx:>10}  {about}").expect("a string takes text");
        }
        writeln!(text, "strangers used up to {:.2} processors meanwhile", self.strangers).expect("a string takes text");
        text
    }

    /// For programs: the ratio is ours to HAProxy's.
    pub(crate) fn json(&self) -> Value {
        let measures = self.measures.iter().map(|Measure { name, unit, .. }| {
            let mut body = Map::new();
            for (side, called) in NAMES.into_iter().enumerate() {
                body.insert(called.to_owned(), json!(self.median(name, side)));
            }
            body.insert("ratio".to_owned(), json!(self.ratio(name, 1)));
            body.insert("unit".to_owned(), json!(unit));
            ((*name).to_owned(), Value::Object(body))
        });
        Value::Object(measures.collect())
    }

    fn add(&mut self, measure: Measure, side: usize, value: Option<f64>) {
        if !self.taken.contains_key(measure.name) {
            self.measures.push(measure);
        }
        self.taken.entry(measure.name).or_default()[side].push(value);
    }

    fn median(&self, name: &str, side: usize) -> Option<f64> {
        median(self.taken[name][side].iter().flatten().copied())
    }

    /// The median of the rounds' ratios of ours to this side's.
    fn ratio(&self, name: &str, side: usize) -> Option<f64> {
        let taken = &self.taken[name];
        let rounds = taken[0].iter().zip(&taken[side]);
        median(rounds.filter_map(|(ours, theirs)| Some((*ours)? / (*theirs)?)))
    }
}

fn written(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 1000.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Measure = Measure { name: "get", unit: "us/op", about: "" };

    #[test]
    fn a_ratio_is_of_one_round_and_the_median_of_all() {
        let mut report = Report::default();
        for (ours, theirs) in [(10.0, 10.0), (30.0, 20.0), (80.0, 40.0)] {
            report.add(GET, 0, Some(ours));
            report.add(GET, 1, Some(theirs));
            report.add(GET, 2, None);
        }
        let json = report.json();
        assert_eq!(json["get"], json!({"ours": 30.0, "haproxy": 20.0, "nginx": null, "ratio": 1.5, "unit": "us/op"}));
    }
}
