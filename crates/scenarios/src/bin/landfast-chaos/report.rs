//! What is told of a run: figures for programs, findings for people, and enough to have the same faults again.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::evidence::Evidence;
use crate::verdict::Verdict;

/// How many findings of a kind are shown; the file has all of them.
const SHOWN: usize = 8;

/// A run that is over.
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) minutes: f64,
    pub(crate) verdict: Verdict,
    /// Where logs were kept, if anything was found.
    pub(crate) logs: Option<PathBuf>,
}

impl Report {
    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let verdict = &self.verdict;
        let mut object = json!({
            "seed": self.seed, "minutes": self.minutes, "sessions": verdict.sessions, "requests": verdict.requests,
            "faults": verdict.faults, "seen": verdict.seen,
        });
        for (name, found) in verdict.findings() {
            object[name] = found.len().into();
        }
        if let Some(logs) = &self.logs {
            object["logs"] = logs.to_string_lossy().into();
        }
        object
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let Verdict { sessions, requests, faults, .. } = self.verdict;
        let mut text = format!("{faults} faults over {sessions} sessions and {requests} requests\n");
        for (what, times) in &self.verdict.seen {
            let _ = writeln!(text, "{times:6}  {what}");
        }
        for (name, found) in self.verdict.findings() {
            let _ = writeln!(text, "{:6}  {}", found.len(), name.replace('_', " "));
        }
        text + &format!("the same faults again: cargo xtask chaos --minutes {} --seed {}\n", self.minutes, self.seed)
    }

    /// What was found, a sentence each.
    pub(crate) fn findings(&self, shown: usize) -> String {
        let mut text = String::new();
        for (name, found) in self.verdict.findings() {
            for what in found.iter().take(shown) {
                let _ = writeln!(text, "{name}: {what}");
            }
            if found.len() > shown {
                let _ = writeln!(text, "{name}: and {} more", found.len() - shown);
            }
        }
        text
    }

    /// The first of what was found.
    pub(crate) fn first_findings(&self) -> String {
        self.findings(SHOWN)
    }
}

/// Keeps the logs, what was found and what it was found in.
pub(crate) fn keep(folder: &Path, logs: &[PathBuf], findings: &str, evidence: &Evidence) -> std::io::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    for (number, log) in logs.iter().enumerate() {
        let name = log.file_name().unwrap_or_default().to_string_lossy();
        // Of two of one name neither is written over.
        let to = folder.join(&*name);
        let to = if to.exists() { folder.join(format!("{number}-{name}")) } else { to };
        fs::copy(log, to)?;
    }
    fs::write(folder.join("findings.txt"), findings)?;
    fs::write(folder.join("evidence.txt"), format!("{evidence:#?}"))
}
