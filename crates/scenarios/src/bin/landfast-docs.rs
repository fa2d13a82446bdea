//! Writes the reference documents from the code, or says which of them are out of date.
//!
//! `landfast-docs DIRECTORY [--check]`

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use landfast_core::ErrorCode;

#[derive(Parser)]
#[command(name = "landfast-docs", about = "Writes the reference documents from the code")]
struct Arguments {
    /// Where they lie
    directory: PathBuf,
    /// Write nothing; fail if one is out of date
    #[arg(long)]
    check: bool,
}

struct Document {
    name: &'static str,
    text: String,
}

fn main() -> Result<ExitCode> {
    let Arguments { directory, check } = Arguments::parse();
    let mut stale = Vec::new();
    for Document { name, text } in documents() {
        let path = directory.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        if check {
            stale.push(name);
        } else {
            std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
            println!("wrote {}", path.display());
        }
    }
    if stale.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("out of date: {}; `cargo xtask docs` writes them anew", stale.join(", "));
    Ok(ExitCode::FAILURE)
}

fn documents() -> Vec<Document> {
    vec![Document { name: "errors.md", text: errors() }]
}

/// Every row of the error table, under the heading of its code's first word.
fn errors() -> String {
    let mut text = String::from(
        "<!-- Made from crates/core/src/error.rs by `cargo xtask docs`. -->\n\n# Errors\n\n\
         Every way in which Landfast says no. A refusal of a request has the status, the header `landfast-error: <code>` and \
         a body\nof type `application/problem+json` (`type`, `title`, `status`, `code`, `detail`, `advice`). A session ends \
         with the close\ncode, the error code standing first in the close frame's reason.\n\n\
         *Again?* says when the same request may be sent again: **safe**: nothing was started, any request may; \
         **if idempotent**: it\nmay have run; **never**: it changes nothing. *Whose* says on whose side the cause lies.\n",
    );
    let mut group = "";
    for &code in ErrorCode::ALL {
        let first = code.as_str().split('.').next().unwrap_or_default();
        if first != group {
            group = first;
            write!(text, "\n## {group}\n\n| code | HTTP | close | again? | whose | what happened, and what to do |\n|---|---|---|---|---|---|\n")
                .expect("a string takes text");
        }
        let number = |number: Option<u16>| number.map_or_else(|| "–".to_owned(), |number| number.to_string());
        writeln!(
            text,
            "| `{code}` | {} | {} | {} | {} | {} {} |",
            number(code.status()),
            number(code.close()),
            code.retry().as_str(),
            code.blame().as_str(),
            code.sentence(),
            code.advice()
        )
        .expect("a string takes text");
    }
    text
}
