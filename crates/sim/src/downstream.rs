//! A client's connection, as the session that a gateway holds for it sees it.

use landfast_core::time::Instant;

use crate::carry::Local;
use crate::net::ConnId;
use crate::stage::Stage;

/// See the module.
#[derive(Debug)]
pub(crate) struct Downstream {
    pub(crate) conn: ConnId,
    /// Since when it has taken nothing although there was something.
    pub(crate) blocked_since: Option<Instant>,
    pub(crate) now: Instant,
}

impl Local for Downstream {
    fn take(&mut self, stage: &mut Stage, most: usize) -> Vec<u8> {
        stage.receive(self.conn, 1, most)
    }

    fn give(&mut self, stage: &mut Stage, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        let n = bytes.len().min(stage.room(self.conn, 1));
        stage.send(self.conn, 1, &bytes[..n]);
        if n > 0 {
            self.blocked_since = None;
        } else {
            self.blocked_since.get_or_insert(self.now);
        }
        n
    }
}
