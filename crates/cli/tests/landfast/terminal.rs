//! A terminal with a person at it: a pty whose other end the test types at and reads.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::Signal;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::cell::{PATIENCE, finish, signal};

/// A program at a terminal.
pub(crate) struct Terminal {
    child: Child,
    keys: File,
    /// Kept, so that the terminal stays when the program has gone.
    screen: OwnedFd,
    pieces: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
    /// How much of it was waited for.
    looked: usize,
}

impl Terminal {
    pub(crate) fn run(mut command: Command, rows: u16, cols: u16) -> Self {
        let pty = openpty(None, None).unwrap();
        set_size(&pty.master, rows, cols);
        let side = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        let keys = File::from(pty.master);
        let mut output = keys.try_clone().unwrap();
        // What a test does not look at yet waits in the terminal.
        let (sender, pieces) = mpsc::sync_channel(64);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut piece) {
                if sender.send(piece[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, screen: pty.slave, pieces, seen: Vec::new(), looked: 0 }
    }

    pub(crate) fn type_in(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until something new shows this.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut from = self.looked;
        loop {
            let new = &self.seen[from..];
            if let Some(at) = new.windows(text.len()).position(|bytes| bytes == text.as_bytes()) {
                self.looked = from + at + text.len();
                return;
            }
            // The next piece may end what this one began.
            from = from.max(self.seen.len().saturating_sub(text.len()));
            match self.pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(piece) => self.seen.extend(piece),
                Err(_) => panic!("{text:?} never came:\n{}", self.seen()),
            }
        }
    }

    pub(crate) fn resize(&mut self, rows: u16, cols: u16) {
        set_size(&self.keys, rows, cols);
        // The kernel tells only the terminal's foreground group, and the program under test leads none.
        self.signal(Signal::SIGWINCH);
    }

    pub(crate) fn signal(&mut self, number: Signal) {
        signal(&self.child, number);
    }

    /// Whether keys are passed on as they are.
    pub(crate) fn is_raw(&self) -> bool {
        !tcgetattr(&self.screen).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// Waits for the program's end, and gives its exit code.
    pub(crate) fn finish(&mut self) -> i32 {
        let code = finish(&mut self.child);
        while let Ok(piece) = self.pieces.recv_timeout(Duration::from_millis(100)) {
            self.seen.extend(piece);
        }
        code
    }

    /// Everything it showed.
    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}

fn set_size(terminal: impl AsFd, rows: u16, cols: u16) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}
