//! Where a randomised scenario's luck comes from, so that it can be had again.

/// The variable that replays a run.
pub const VARIABLE: &str = "LANDFAST_TEST_SEED";

/// The seed of this run: the one asked for, or a fresh one. It is printed, which the test runner shows with a failure.
///
/// # Panics
///
/// What was asked for is no number.
pub fn seed() -> u64 {
    let seed = match std::env::var(VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{VARIABLE} is {text:?}, which is no number")),
        Err(_) => rand::random_range(0..1 << 32),
    };
    println!("seed {seed}; the same luck again: {VARIABLE}={seed}");
    seed
}
