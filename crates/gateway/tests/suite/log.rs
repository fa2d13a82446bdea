//! The log of this program, kept to be read. A program has one log, so a test of it is alone in its program.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// What was logged so far.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Keeps everything that is logged from now on, at the most talkative level.
    pub fn kept() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let logged = tracing_subscriber::fmt().json().with_max_level(tracing::Level::TRACE);
        logged.with_writer(move || writer.clone()).init();
        log
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines of the access log.
    pub fn access(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().filter(|line| line.contains(r#""target":"access""#));
        lines.map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].take()).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
