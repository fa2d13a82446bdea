//! A client: says numbered bytes, reads at its own pace, and leaves when it likes.

use landfast_core::link::Close;
use landfast_core::{ErrorCode, InstanceId};

use crate::clock::{MILLI, SECOND, Time};
use crate::fact::{Direction, Fact, bytes};
use crate::net::{ConnId, End};
use crate::stage::{Event, Stage, Who};

/// See the module.
#[derive(Debug)]
pub(crate) struct Client {
    me: usize,
    pub(crate) gateway: usize,
    pub(crate) instance: InstanceId,
    says_in_all: u64,
    /// How much its process will say.
    pub(crate) hears_in_all: u64,
    said: u64,
    conn: Option<ConnId>,
    speaks_at: Time,
    reads_at: Time,
    /// Its last word has been heard, or it has left.
    is_done: bool,
}

impl Client {
    pub(crate) fn new(me: usize, gateway: usize, instance: InstanceId, stage: &mut Stage) -> Self {
        Self {
            me,
            gateway,
            instance,
            says_in_all: stage.chance.skewed(1_000, 300_000),
            hears_in_all: stage.chance.skewed(1_000, 500_000),
            said: 0,
            conn: None,
            speaks_at: 0,
            reads_at: 0,
            is_done: false,
        }
    }

    pub(crate) const fn number(&self) -> usize {
        self.me
    }

    pub(crate) const fn is_attached(&self) -> bool {
        self.conn.is_some() && !self.is_done
    }

    /// Connects to its gateway.
    pub(crate) fn attach(&mut self, stage: &mut Stage) -> ConnId {
        let conn = stage.open_conn([Some(Who::Client(self.me)), Some(Who::Holder(self.me))], None);
        self.conn = Some(conn);
        self.speaks_at = stage.now;
        stage.note(Fact::Attached { client: self.me, gateway: self.gateway, instance: self.instance });
        conn
    }

    pub(crate) fn handle(&mut self, stage: &mut Stage, event: Event) {
        match event {
            Event::Wake | Event::Conn(_) => self.run(stage),
            other => unreachable!("not for a client: {other:?}"),
        }
    }

    /// It reads nothing until then.
    pub(crate) fn stall(&mut self, until: Time) {
        self.reads_at = self.reads_at.max(until);
    }

    /// It leaves, with a close frame or without.
    pub(crate) fn leave(&mut self, stage: &mut Stage, cleanly: bool) {
        if let Some(conn) = self.conn.filter(|_| !self.is_done) {
            self.is_done = true;
            stage.note(Fact::Left { client: self.me, cleanly });
            if cleanly {
                stage.leave_conn(conn, 0, End::Told(Close::new(ErrorCode::ClientClose, "")));
            } else {
                stage.cut(conn);
                stage.leave_conn(conn, 0, End::Bare);
            }
        }
    }

    fn run(&mut self, stage: &mut Stage) {
        let Some(conn) = self.conn.filter(|_| !self.is_done) else { return };
        self.speak(stage, conn);
        self.read(stage, conn);
        if let Some(end) = stage.received_end(conn, 0) {
            self.is_done = true;
            match end {
                End::Told(close) => stage.note(Fact::Told { client: self.me, code: close.code }),
                End::Bare => stage.note(Fact::Cut { client: self.me }),
            }
            return stage.leave_conn(conn, 0, End::Bare);
        }
        if !stage.is_up(conn, 0) {
            self.is_done = true;
            stage.note(Fact::Cut { client: self.me });
            return stage.leave_conn(conn, 0, End::Bare);
        }
        let speaks = (self.said < self.says_in_all).then_some(self.speaks_at);
        let reads = Some(self.reads_at).filter(|&at| at > stage.now);
        stage.wake(Who::Client(self.me), speaks.into_iter().chain(reads).min());
    }

    fn speak(&mut self, stage: &mut Stage, conn: ConnId) {
        if stage.now < self.speaks_at {
            return;
        }
        let most = stage.chance.skewed(1, 8 * 1024).min(self.says_in_all - self.said);
        let n = most.min(stage.room(conn, 0) as u64);
        self.speaks_at = stage.now + stage.chance.skewed(MILLI, 2 * SECOND);
        if n > 0 {
            stage.note(Fact::Said { client: self.me, direction: Direction::Up, bytes: n });
            stage.send(conn, 0, &bytes(self.me, Direction::Up, self.said, n as usize));
            self.said += n;
        }
    }

    fn read(&mut self, stage: &mut Stage, conn: ConnId) {
        if stage.now < self.reads_at {
            return;
        }
        let most = stage.chance.skewed(64, 32 * 1024) as usize;
        let bytes = stage.receive(conn, 0, most);
        if !bytes.is_empty() {
            stage.note(Fact::Heard { client: self.me, direction: Direction::Down, bytes: &bytes });
            // What is left is read a moment later.
            self.reads_at = stage.now + stage.chance.skewed(MILLI / 10, 50 * MILLI);
        }
    }
}
