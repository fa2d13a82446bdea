//! Where the log goes: standard error, for people on a terminal and for programs everywhere else.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

use crate::failure::Failure;

/// Begins to log. `default` is the level where `LANDFAST_LOG` says none; `LANDFAST_LOG_FORMAT` is `text` or `json`.
///
/// # Errors
///
/// A variable says what cannot be understood.
pub(crate) fn begin(default: &str) -> Result<(), Failure> {
    let said = std::env::var("LANDFAST_LOG").ok().filter(|level| !level.is_empty());
    let filter = EnvFilter::try_new(said.as_deref().unwrap_or(default)).map_err(|error| {
        Failure::usage(format!("LANDFAST_LOG is not understood: {error}. Write a level, such as info or debug."))
    })?;
    // What cannot be written is left out: to complain of it on standard error, which is what cannot be written to, is a panic,
    // and the end of whatever was about to be logged.
    let builder =
        SubscriberBuilder::default().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    if is_json()? {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_ansi(io::stderr().is_terminal()).with_target(false).init();
    }
    Ok(())
}

fn is_json() -> Result<bool, Failure> {
    match std::env::var("LANDFAST_LOG_FORMAT").as_deref() {
        Ok("json") => Ok(true),
        Ok("text") => Ok(false),
        Ok("") | Err(_) => Ok(!io::stderr().is_terminal()),
        Ok(other) => Err(Failure::usage(format!("LANDFAST_LOG_FORMAT is {other:?}; write text or json."))),
    }
}
