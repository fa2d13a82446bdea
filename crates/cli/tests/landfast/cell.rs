//! A cell of the program under test, and its commands.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine; a test that waits it out has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A cell in a directory of its own. Everything in it ends with the value.
pub(crate) struct Cell {
    dir: TempDir,
    address: String,
    running: Option<(Child, BufReader<ChildStdout>)>,
    screen: String,
    /// Variables for the cell, and for the commands toward it.
    variables: Vec<(&'static str, String)>,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The program under test.
pub(crate) fn landfast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_landfast"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LANDFAST_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program without a cell.
pub(crate) fn bare(arguments: &[&str]) -> Ran {
    Ran::of(&mut landfast(arguments), PATIENCE)
}

/// Waits for a child's end, and gives its exit code.
pub(crate) fn finish(child: &mut Child) -> i32 {
    finish_within(child, PATIENCE)
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

impl Cell {
    pub(crate) fn start() -> Self {
        Self::start_with(Vec::new())
    }

    pub(crate) fn start_with(variables: Vec<(&'static str, String)>) -> Self {
        let private = std::fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("lf-cli-").permissions(private).tempdir().unwrap();
        let address = "127.0.0.1:0".to_owned();
        let mut cell = Self { dir, address, running: None, screen: String::new(), variables };
        cell.start_again();
        let first = cell.screen.lines().next().unwrap().to_owned();
        cell.address = first.rsplit_once("http://").unwrap().1.to_owned();
        cell
    }

    /// Where its gateway listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What it said when it came up.
    pub(crate) fn screen(&self) -> &str {
        &self.screen
    }

    pub(crate) fn start_again(&mut self) {
        let mut command = self.command(&["up", "--listen", &self.address]);
        let mut child = command.stderr(Stdio::inherit()).env("LANDFAST_LOG", "error").spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        self.screen.clear();
        // The last of the next commands is the screen's last line.
        while !self.screen.contains("status\n") {
            assert_ne!(out.read_line(&mut self.screen).unwrap(), 0, "it did not come up: {}", self.screen);
        }
        self.running = Some((child, out));
    }

    /// Stops it as Ctrl-C does, and returns what it said.
    pub(crate) fn stop(&mut self) -> String {
        let (mut child, mut out) = self.running.take().unwrap();
        signal(&child, Signal::SIGINT);
        assert_eq!(finish(&mut child), 0);
        let mut said = String::new();
        out.read_to_string(&mut said).unwrap();
        said
    }

    pub(crate) fn restart(&mut self) -> String {
        let said = self.stop();
        self.start_again();
        said
    }

    /// A command toward this cell.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = landfast(arguments);
        command.env("LANDFAST_DATA", self.dir.path()).env("TERM", "xterm");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments), PATIENCE)
    }

    /// Creates an instance that runs.
    pub(crate) fn create(&self) -> String {
        let ran = self.run(&["create"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out.trim().to_owned()
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let Some((mut child, _)) = self.running.take() else { return };
        // Agents outlive the cell's process, so what runs has to be deleted while there is somebody to do it.
        let listed = self.run(&["ls", "-o", "json"]);
        let items = serde_json::from_str::<Value>(&listed.out).map(|list| list["items"].clone());
        for instance in items.iter().filter_map(Value::as_array).flatten() {
            let id = instance["id"].as_str().unwrap_or_default();
            self.run(&["rm", id]);
            let deadline = Instant::now() + PATIENCE;
            while !self.run(&["get", id, "-o", "json"]).out.contains(r#""phase": "deleted""#)
                && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        signal(&child, Signal::SIGTERM);
        finish(&mut child);
    }
}

impl Ran {
    pub(crate) fn of(command: &mut Command, patience: Duration) -> Self {
        let mut child = command.spawn().unwrap();
        let collect = |mut from: Box<dyn Read + Send>| {
            let (collected, all) = mpsc::sync_channel(1);
            std::thread::spawn(move || {
                let mut text = String::new();
                let _ = from.read_to_string(&mut text);
                let _ = collected.send(text);
            });
            all
        };
        let out = collect(Box::new(child.stdout.take().unwrap()));
        let err = collect(Box::new(child.stderr.take().unwrap()));
        let code = finish_within(&mut child, patience);
        Self { code, out: out.recv().unwrap(), err: err.recv().unwrap() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn finish_within(child: &mut Child, patience: Duration) -> i32 {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
