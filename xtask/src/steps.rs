//! A list of commands that are all run, each with its name and its time, and a verdict on all of them at the end.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// One command of a list.
pub(crate) struct Step {
    name: &'static str,
    command: Command,
}

struct Outcome {
    name: &'static str,
    passed: bool,
    took: Duration,
    line: String,
}

impl Step {
    pub(crate) fn new(name: &'static str, command: Command) -> Self {
        Self { name, command }
    }
}

/// Runs every step, also after one has failed: a reader wants all that is wrong, not the first of it.
pub(crate) fn run(steps: Vec<Step>) -> ExitCode {
    let outcomes: Vec<Outcome> = steps.into_iter().map(run_one).collect();
    summarise(&outcomes);
    if outcomes.iter().all(|outcome| outcome.passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A cargo command in the workspace's root. It is the cargo that runs this program, so the toolchain is the machine's own.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    // What cargo tells this program of itself. Build scripts (ring's) look at it, and would run anew, with all that needs them,
    // whenever somebody calls cargo by hand between two calls of this.
    for (name, _) in std::env::vars_os() {
        let said = name.to_string_lossy();
        if said.starts_with("CARGO_PKG_") || said.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// The command as it would be typed.
pub(crate) fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    command.get_args().fold(name, |line, argument| line + " " + &argument.to_string_lossy())
}

fn run_one(mut step: Step) -> Outcome {
    let line = line(&step.command);
    println!("\n=== {}: {line}", step.name);
    let started = Instant::now();
    let passed = match step.command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("could not be started: {error}");
            false
        }
    };
    let took = started.elapsed();
    println!("=== {}: {} after {}", step.name, if passed { "passed" } else { "FAILED" }, human(took));
    Outcome { name: step.name, passed, took, line }
}

fn summarise(outcomes: &[Outcome]) {
    println!();
    for outcome in outcomes {
        let verdict = if outcome.passed { "passed" } else { "FAILED" };
        println!("  {verdict}  {:>10}  {}", human(outcome.took), outcome.name);
    }
    let total = human(outcomes.iter().map(|outcome| outcome.took).sum());
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.passed).collect();
    if failed.is_empty() {
        println!("\nall {} steps passed in {total}", outcomes.len());
        return;
    }
    println!("\n{} of {} steps failed in {total}; to see one again:", failed.len(), outcomes.len());
    for outcome in failed {
        println!("  {}", outcome.line);
    }
}

fn human(time: Duration) -> String {
    match time.as_secs() {
        0..=99 => format!("{:.1} s", time.as_secs_f64()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_for_people() {
        assert_eq!(human(Duration::from_millis(1_250)), "1.2 s");
        assert_eq!(human(Duration::from_secs(754)), "12 min 34 s");
    }

    #[test]
    fn a_step_that_fails_or_cannot_start_fails_the_list() {
        let passes = |program: &str| run(vec![Step::new("a step", Command::new(program))]);
        assert_eq!(passes("true"), ExitCode::SUCCESS);
        assert_eq!(passes("false"), ExitCode::FAILURE);
        assert_eq!(passes("/no/such/program"), ExitCode::FAILURE);
    }
}
