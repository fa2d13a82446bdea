//! Readers of one agent's events, side by side.

use landfast_scenarios::spectators::watch_events;

#[test]
fn whoever_stalls_gets_one_exact_gap_and_the_others_everything_in_order() {
    let outcome = watch_events(30_000, 10);
    assert_eq!(outcome.emits.len(), 30_000);
    let (from, to) = outcome.gap.expect("one of them stalled");
    assert!(from > 1 && to > 30_000 - 8_192, "{from} {to}");
}
