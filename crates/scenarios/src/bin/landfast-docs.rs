//! Writes the reference documents and the SDKs' tables from the code, or says which of them are out of date.
//!
//! `landfast-docs DIRECTORY [--check]`

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory, Parser};
use landfast_core::ErrorCode;
use landfast_core::error::{Blame, Retry};
use serde_json::{Value, json};

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
    vec![
        Document { name: "errors.md", text: errors() },
        Document { name: "openapi.json", text: landfast_registry::api::openapi() },
        Document { name: "cli.md", text: commands() },
        Document { name: "config.md", text: settings() },
        Document { name: "../../sdk/errors.json", text: errors_for_programs() },
        Document { name: "../../sdk/python/src/landfast/_errors.py", text: errors_in_python() },
        Document { name: "../../sdk/typescript/src/table.ts", text: errors_in_typescript() },
    ]
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

/// Every row of the error table, for whoever makes something of it in another language.
fn errors_for_programs() -> String {
    let row = |code: &ErrorCode| {
        json!({
            "code": code.as_str(),
            "name": format!("{code:?}"),
            "status": code.status(),
            "close": code.close(),
            "retry": code.retry().as_str(),
            "blame": code.blame().as_str(),
            "sentence": code.sentence(),
            "advice": code.advice(),
        })
    };
    let rows: Vec<Value> = ErrorCode::ALL.iter().map(row).collect();
    serde_json::to_string_pretty(&rows).expect("texts and numbers are JSON") + "\n"
}

/// Every row of the error table as an exception of the Python SDK.
fn errors_in_python() -> String {
    let mut text = String::from(
        "\"\"\"Every way in which Landfast says no, an exception each.\n\nMade from crates/core/src/error.rs by `cargo xtask \
         docs`.\n\"\"\"\n\nfrom __future__ import annotations\n\nfrom ._failure import CallerError, InstanceError, OrdinaryEnd, \
         PlatformError, Refused, Retry\n",
    );
    text.push_str("\n__all__ = [\n");
    let mut names: Vec<String> = ErrorCode::ALL.iter().map(|code| format!("{code:?}")).collect();
    names.sort();
    for name in names {
        writeln!(text, "    \"{name}\",").expect("a string takes text");
    }
    text.push_str("]\n");
    for &code in ErrorCode::ALL {
        let base = kind_of(code);
        let retry = match code.retry() {
            Retry::Never => "NEVER",
            Retry::Safe => "SAFE",
            Retry::IfIdempotent => "IF_IDEMPOTENT",
        };
        let number = |number: Option<u16>| number.map_or_else(|| "None".to_owned(), |number| number.to_string());
        let (sentence, advice) = (json!(code.sentence()), json!(code.advice()));
        write!(
            text,
            "\n\nclass {code:?}({base}):\n    \"\"\"{} {}\"\"\"\n\n    code = \"{code}\"\n    status = {}\n    close_code = {}\n    \
             retry = Retry.{retry}\n    sentence = {sentence}\n    advice = {advice}\n",
            code.sentence(),
            code.advice(),
            number(code.status()),
            number(code.close()),
        )
        .expect("a string takes text");
    }
    text.push_str("\n\nTABLE: dict[str, type[Refused]] = {\n");
    for code in ErrorCode::ALL {
        writeln!(text, "    \"{code}\": {code:?},").expect("a string takes text");
    }
    text.push_str("}\n");
    text
}

/// Every row of the error table as a class of the TypeScript SDK.
fn errors_in_typescript() -> String {
    let mut text = String::from(
        "/**\n * Every way in which Landfast says no, a class each.\n *\n * Made from crates/core/src/error.rs by `cargo xtask \
         docs`.\n *\n * @module\n */\n\nimport { CallerError, InstanceError, OrdinaryEnd, PlatformError, type Row, type Told } \
         from \"./failure.js\";\n",
    );
    for &code in ErrorCode::ALL {
        let number = |name: &str, number: Option<u16>| {
            number.map_or_else(String::new, |number| format!("    {name}: {number},\n"))
        };
        write!(
            text,
            "\n/** {} {} */\nexport class {code:?} extends {} {{\n  static override readonly row: Row = {{\n    name: \"{code:?}\",\n    \
             code: \"{code}\",\n{}{}    retry: \"{}\",\n    sentence: {},\n    advice: {},\n  }};\n}}\n",
            code.sentence(),
            code.advice(),
            kind_of(code),
            number("status", code.status()),
            number("closeCode", code.close()),
            code.retry().as_str(),
            json!(code.sentence()),
            json!(code.advice()),
        )
        .expect("a string takes text");
    }
    text.push_str(
        "\n/** A class of the error table. */\nexport interface RefusalClass {\n  readonly row: Row;\n  new (detail?: string, told?: \
         Told): CallerError | InstanceError | OrdinaryEnd | PlatformError;\n}\n\n/** The classes by their codes. */\nexport const \
         TABLE: ReadonlyMap<string, RefusalClass> = new Map<string, RefusalClass>([\n",
    );
    for code in ErrorCode::ALL {
        writeln!(text, "  [\"{code}\", {code:?}],").expect("a string takes text");
    }
    text.push_str("]);\n");
    text
}

/// The class that the SDKs have for whose side a cause lies on.
fn kind_of(code: ErrorCode) -> &'static str {
    match code.blame() {
        Blame::Client => "CallerError",
        Blame::Instance => "InstanceError",
        Blame::Platform => "PlatformError",
        Blame::Nobody => "OrdinaryEnd",
    }
}

/// Every command's help, as it prints it.
fn commands() -> String {
    let mut text = String::from(
        "<!-- Made from crates/cli/src/args.rs by `cargo xtask docs`. -->\n\n# Command line\n\nWhat `landfast --help` says, and \
         the help of every command.\n",
    );
    // The width is fixed, or the document would depend on the terminal it was made in.
    let mut program = landfast::args::Cli::command().term_width(100);
    program.build();
    describe(&mut program, "landfast", &mut text);
    text
}

fn describe(command: &mut Command, line: &str, text: &mut String) {
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(text, "\n## `{line}`\n\n```text\n{}\n```\n", help.join("\n").trim_end()).expect("a string takes text");
    for inner in command.get_subcommands_mut().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        let line = format!("{line} {}", inner.get_name());
        describe(inner, &line, text);
    }
}

/// The settings of each role, with what its source says of them.
fn settings() -> String {
    let roles = [
        ("api", include_str!("../../../registry/src/api.rs")),
        ("gateway", include_str!("../../../gateway/src/config.rs")),
        ("node", include_str!("../../../node/src/config.rs")),
    ];
    let mut text = String::from(
        "<!-- Made from the roles' `Config` structs by `cargo xtask docs`. -->\n\n# Settings\n\nA setting comes from, later wins: \
         its default, the role's section of the TOML file given with `--config`,\nthe variable `LANDFAST_<ROLE>_<KEY>`, a \
         flag. A key that a role does not know stops it from starting, and so does a value\nthat cannot be.\n",
    );
    for (role, source) in roles {
        write!(text, "\n## [{role}]\n\n| key | what it says |\n|---|---|\n").expect("a string takes text");
        for (key, about) in fields(source) {
            writeln!(text, "| `{key}` | {about} |").expect("a string takes text");
        }
    }
    text
}

/// The fields of the struct `Config` and their doc comments, from its source.
fn fields(source: &str) -> Vec<(String, String)> {
    let body = source.split("pub struct Config {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("a Config");
    let (mut fields, mut about) = (Vec::new(), Vec::new());
    for line in body.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("/// ") {
            about.push(doc);
        } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|field| field.split_once(':')) {
            fields.push((name.to_owned(), std::mem::take(&mut about).join(" ")));
        }
    }
    fields
}
