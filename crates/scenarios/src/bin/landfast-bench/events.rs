//! What a hundred readers of an agent's events cost whoever says one, one of them being stalled: a million events to nobody,
//! and to all of them. Whether everybody was told the truth is checked on the way.

use landfast_scenarios::spectators::{Outcome, watch_events};

use crate::figures::Figures;

/// Readers, of whom one stalls.
const READERS: usize = 100;

pub(crate) fn measure(quick: bool) -> Figures {
    let count = if quick { 100_000 } else { 1_000_000 };
    let (alone, watched) = (watch_events(count, 0), watch_events(count, READERS));
    let mut figures = Figures::default();
    figures.add("events", count as f64, "", "said, each of some 190 bytes");
    figures.add("readers", READERS as f64, "", "one of them stalls until the others have everything");
    for (percentile, names) in [
        (50.0, ["emit_alone_p50_us", "emit_p50_us", "emit_p50_ratio"]),
        (99.0, ["emit_alone_p99_us", "emit_p99_us", "emit_p99_ratio"]),
        (99.99, ["emit_alone_p9999_us", "emit_p9999_us", "emit_p9999_ratio"]),
        (100.0, ["emit_alone_longest_us", "emit_longest_us", "emit_longest_ratio"]),
    ] {
        let micros = |outcome: &Outcome| outcome.emits.value_at_percentile(percentile) as f64 / 1e3;
        let [of_alone, of_watched, of_ratio] = names;
        figures.add(of_alone, micros(&alone), "µs", "saying one event, with nobody reading");
        figures.add(of_watched, micros(&watched), "µs", "the same with all readers");
        figures.add(of_ratio, micros(&watched) / micros(&alone), "", "with readers over without");
    }
    let (from, to) = watched.gap.expect("somebody stalled");
    let told = count as f64 * (READERS - 1) as f64 / watched.took.as_secs_f64();
    figures.add("told_per_second", told, "/s", "events that arrived at readers, all of them together");
    figures.add("gap_events", (to - from) as f64, "", "missed by the one that stalled, in one exact record");
    figures
}
