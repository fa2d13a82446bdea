//! A hundred seeds of the simulation hold every invariant. `landfast-sim` plays as many as you like.

use landfast_sim::{Config, Tally, run};

#[test]
fn no_seed_breaks_an_invariant() {
    let mut tally = Tally::default();
    for seed in 0..100 {
        let outcome = run(seed, Config::default());
        assert!(outcome.violations.is_empty(), "seed {seed} breaks {}", outcome.violations[0]);
        tally.add(&outcome.tally);
    }
    assert!(tally.links > 500 && tally.survivors > 50, "little happened: {tally}");
}

#[test]
fn a_seed_means_the_same_each_time() {
    for seed in 0..10 {
        let outcomes = [run(seed, Config::default()), run(seed, Config::default())];
        assert_eq!(outcomes[0].tally, outcomes[1].tally, "seed {seed}");
        assert_eq!(outcomes[0].counts, outcomes[1].counts, "seed {seed}");
    }
}
