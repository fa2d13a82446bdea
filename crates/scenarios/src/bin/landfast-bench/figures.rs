//! Figures, as people and programs read them.

use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// Named figures in the order they were taken.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

#[derive(Debug)]
struct Figure {
    name: &'static str,
    unit: &'static str,
    value: f64,
    about: &'static str,
}

impl Figures {
    pub(crate) fn add(&mut self, name: &'static str, value: f64, unit: &'static str, about: &'static str) {
        eprintln!("{name}: {} {unit}", written(value));
        self.0.push(Figure { name, unit, value, about });
    }

    pub(crate) fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, Figure { name, unit, value, about }| {
            writeln!(text, "{name:<34} {:>10} {unit:<6} {about}", written(*value)).expect("a string takes text");
            text
        })
    }

    /// The bare values by their names.
    pub(crate) fn values(&self) -> Value {
        self.0.iter().map(|figure| (figure.name.to_owned(), figure.value.into())).collect::<Map<_, _>>().into()
    }

    pub(crate) fn json(&self) -> Value {
        let figures = self.0.iter().map(|figure| {
            let body = json!({"value": figure.value, "unit": figure.unit, "about": figure.about});
            (figure.name.to_owned(), body)
        });
        json!({"processors": processors(), "figures": figures.collect::<Map<_, _>>()})
    }
}

/// As many digits as say something.
fn written(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.3}") } else { format!("{value:.1}") }
}

/// The longest time that is told from a longer one: an hour, in nanoseconds.
const LONGEST: u64 = 3_600_000_000_000;

/// Times, as a distribution.
#[derive(Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST, 3).expect("a range with three digits"))
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.0.saturating_record(time.as_nanos() as u64);
    }

    /// In microseconds.
    pub(crate) fn micros(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1e3
    }

    /// In milliseconds.
    pub(crate) fn millis(&self, percentile: f64) -> f64 {
        self.micros(percentile) / 1e3
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
