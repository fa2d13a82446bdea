//! What is known of a process on disk, so that an agent started again over the same directory still tells how it ended,
//! or that this is not known. It survives the agent's death; that of the machine ends what runs on it anyway.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landfast_core::ProcessId;
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::process::Process;
use crate::pty::Size;

/// The records of one instance's processes: a small file each.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: ProcessId,
    pub(crate) argv: Vec<String>,
    pub(crate) pid: i32,
    pub(crate) started_at: u64,
    pub(crate) tty: Option<Size>,
    /// How it ended and where its log did; absent while it runs.
    pub(crate) end: Option<End>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) exit: Exit,
    pub(crate) log: u64,
}

impl Records {
    /// Opens the records in a directory, and makes it if it is missing.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let dir = state.join("processes");
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// Reads what earlier agents left, oldest first, at most the newest `most`. A file that cannot be read is passed over:
    /// it says nothing.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn load(&self, most: usize) -> io::Result<Vec<Record>> {
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        // Ids are ordered by time, and so are the names.
        paths.sort();
        let newest = &paths[paths.len().saturating_sub(most)..];
        Ok(newest.iter().filter_map(|path| read(path)).collect())
    }

    /// A process has started.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn started(&self, process: &Process) -> io::Result<()> {
        self.write(&Self::record(process, None))
    }

    /// A process has ended. An end that cannot be written is still told to those who ask this agent.
    pub(crate) fn ended(&self, process: &Process, exit: Exit) {
        if let Err(error) = self.write(&Self::record(process, Some(exit))) {
            tracing::warn!(process = %process.id, %error, "an exit status was not written down");
        }
    }

    /// A process is forgotten.
    pub(crate) fn forget(&self, id: ProcessId) {
        if let Err(error) = fs::remove_file(self.path(id)) {
            tracing::warn!(process = %id, %error, "a record was not removed");
        }
    }

    fn record(process: &Process, exit: Option<Exit>) -> Record {
        let state = process.state();
        Record {
            id: process.id,
            argv: process.argv.clone(),
            pid: process.pid,
            started_at: process.started_at,
            tty: state.terminal.as_ref().map(|terminal| terminal.size),
            end: exit.map(|exit| End { exit, log: state.log.end() }),
        }
    }

    /// Writes so that a reader finds the old record or the new one.
    fn write(&self, record: &Record) -> io::Result<()> {
        let path = self.path(record.id);
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(record)?)?;
        fs::rename(&new, &path)
    }

    fn path(&self, id: ProcessId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

fn read(path: &Path) -> Option<Record> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return None;
    }
    let record = fs::read(path).and_then(|text| Ok(serde_json::from_slice(&text)?));
    record.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a record cannot be read")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_written_or_damaged_file_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let record = Record {
            id: ProcessId::new(1, 1),
            argv: vec!["true".into()],
            pid: 7,
            started_at: 1,
            tty: None,
            end: Some(End { exit: Exit::Signal(9), log: 5 }),
        };
        records.write(&record).unwrap();
        fs::write(records.path(ProcessId::new(2, 2)), b"{\"id\":").unwrap();
        fs::write(records.path(ProcessId::new(3, 3)).with_extension("new"), b"{").unwrap();
        assert_eq!(records.load(10).unwrap(), std::slice::from_ref(&record));
        records.forget(record.id);
        assert!(records.load(10).unwrap().is_empty());
    }
}
