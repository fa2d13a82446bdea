//! An agent: the processes of one life of an instance, and the far ends of their sessions.

use std::collections::BTreeMap;

use landfast_core::link::Close;
use landfast_core::record::Generation;
use landfast_core::session::{ResumeError, Session};
use landfast_core::time::{Instant, earliest};
use landfast_core::{ErrorCode, InstanceId, SessionId};

use crate::Sabotage;
use crate::carry::{Local, Loss, carry};
use crate::clock::{Clock, MILLI, SECOND, Time};
use crate::fact::{Direction, Fact, bytes};
use crate::net::{ConnId, End};
use crate::stage::{Accepted, Connect, Event, Head, Refused, Stage, Who};

/// How long a session lives without a link: longer than a client end redials.
const LINGER: std::time::Duration = std::time::Duration::from_secs(90);

/// An agent's process on a host. It outlives the node daemon that started it.
#[derive(Debug)]
pub(crate) struct Agent {
    me: usize,
    pub(crate) instance: InstanceId,
    pub(crate) host: usize,
    /// The newest generation it was told; it began with that of its life.
    pub(crate) generation: Generation,
    /// That of its life.
    pub(crate) born: Generation,
    pub(crate) alive: bool,
    clock: Clock,
    window: u64,
    processes: BTreeMap<usize, Process>,
    far_ends: BTreeMap<SessionId, FarEnd>,
}

/// A process: says so many bytes and then, maybe, exits. Its output log is as long as it has to be.
#[derive(Debug)]
struct Process {
    client: usize,
    said: u64,
    heard: u64,
    says_in_all: u64,
    speaks_at: Time,
    /// It reads nothing before.
    reads_at: Time,
    exits_at: Option<Time>,
    has_exited: bool,
}

#[derive(Debug)]
struct FarEnd {
    client: usize,
    secret: u64,
    session: Session,
    link: Option<ConnId>,
    unlinked_since: Instant,
    /// How far into the log it has read.
    cursor: u64,
    ending: Option<Close>,
}

/// A process as one session sees it.
struct Attached<'a> {
    process: &'a mut Process,
    cursor: &'a mut u64,
}

impl Local for Attached<'_> {
    fn take(&mut self, _stage: &mut Stage, most: usize) -> Vec<u8> {
        let n = (self.process.said - *self.cursor).min(most as u64);
        let said = bytes(self.process.client, Direction::Down, *self.cursor, n as usize);
        *self.cursor += n;
        said
    }

    fn give(&mut self, stage: &mut Stage, bytes: &[u8]) -> usize {
        if bytes.is_empty() || stage.now < self.process.reads_at || self.process.has_exited {
            return 0;
        }
        let forgets = stage.config.sabotage == Some(Sabotage::ForgetTheInput);
        if forgets && self.process.heard > 1000 {
            return 0;
        }
        let n = if stage.chance.percent(80) { bytes.len() } else { stage.chance.index(bytes.len() + 1) };
        if n < bytes.len() {
            self.process.reads_at = stage.now + stage.chance.skewed(MILLI, 500 * MILLI);
        }
        self.process.heard += n as u64;
        if n > 0 {
            stage.note(Fact::Heard { client: self.process.client, direction: Direction::Up, bytes: &bytes[..n] });
        }
        n
    }
}

impl Agent {
    pub(crate) fn new(
        me: usize,
        instance: InstanceId,
        host: usize,
        generation: Generation,
        clock: Clock,
        stage: &mut Stage,
    ) -> Self {
        let window = stage.chance.skewed(64, 64 * 1024);
        let (processes, far_ends) = (BTreeMap::new(), BTreeMap::new());
        Self { me, instance, host, generation, born: generation, alive: true, clock, window, processes, far_ends }
    }

    /// Users begin a process for each of these clients, which will say so many bytes.
    pub(crate) fn begin(&mut self, stage: &mut Stage, wanted: &[(usize, u64)]) {
        self.processes = wanted.iter().map(|&(client, says)| (client, Process::new(client, says, stage))).collect();
        stage.wake(Who::Agent(self.me), Some(stage.now));
    }

    pub(crate) fn handle(&mut self, stage: &mut Stage, event: Event) {
        if !self.alive {
            return;
        }
        self.cut_overdue(stage);
        match event {
            Event::Wake => {}
            Event::Conn(conn) => self.note_served(stage, conn),
            Event::Admitted(connect) => self.handle_admitted(stage, connect),
            other => unreachable!("not for an agent: {other:?}"),
        }
        self.run(stage);
        self.cut_overdue(stage);
    }

    /// The process's machine, or somebody on it, kills it: everything it had is gone.
    pub(crate) fn kill(&mut self, stage: &mut Stage) {
        if std::mem::replace(&mut self.alive, false) {
            for conn in stage.net.of_owner(Who::Agent(self.me)) {
                stage.cut_through(conn);
                stage.leave_conn(conn, 1, End::Bare);
            }
        }
    }

    /// A client's process will exit at this time, if there is one.
    pub(crate) fn let_exit(&mut self, stage: &mut Stage, client: usize, at: Time) -> bool {
        let Some(process) = self.processes.get_mut(&client).filter(|process| !process.has_exited) else { return false };
        process.exits_at = Some(process.exits_at.map_or(at, |before| before.min(at)));
        stage.wake(Who::Agent(self.me), Some(at));
        true
    }

    /// A client's process reads nothing until then.
    pub(crate) fn stall_input(&mut self, client: usize, until: Time) {
        if let Some(process) = self.processes.get_mut(&client) {
            process.reads_at = process.reads_at.max(until);
        }
    }

    /// Cuts what a node handed over whose tenure is over, and sets the alarm for the rest.
    fn cut_overdue(&self, stage: &mut Stage) {
        let reckless = [Some(Sabotage::OutliveTheTenure), Some(Sabotage::IgnoreTheFence)];
        if reckless.contains(&stage.config.sabotage) {
            return;
        }
        for conn in self.far_ends.values().filter_map(|far| far.link) {
            let Some(through) = stage.net.through(conn).filter(|through| through.is_leased) else { continue };
            match stage.tenures[through.node] {
                until if until <= stage.now => stage.cut_through(conn),
                until => stage.wake(Who::Agent(self.me), Some(until)),
            }
        }
    }

    fn note_served(&self, stage: &mut Stage, conn: ConnId) {
        if let Some(through) = stage.net.through(conn).filter(|_| stage.is_up(conn, 1)) {
            let (instance, node, generation) = (through.instance, through.node, through.generation);
            stage.note(Fact::Served { instance, node, generation });
        }
    }

    fn handle_admitted(&mut self, stage: &mut Stage, connect: Connect) {
        let conn = connect.conn;
        if stage.net.through(conn).is_none() {
            return;
        }
        self.note_served(stage, conn);
        let result = match connect.head {
            Head::Open { window } => self.open(stage, connect.holder, conn, window),
            Head::Resume { session, secret, link, received } => {
                self.resume(stage, conn, session, secret, link, received)
            }
        };
        let at = stage.now + stage.latency(conn);
        stage.post(at, Who::Holder(connect.holder), Event::Dialled { conn, result });
        if result.is_err() {
            stage.leave_conn(conn, 1, End::Bare);
        }
    }

    fn open(&mut self, stage: &mut Stage, client: usize, conn: ConnId, window: u64) -> Result<Accepted, Refused> {
        if !self.processes.contains_key(&client) {
            return Err(ErrorCode::ProcessUnknown);
        }
        let now = self.clock.read(stage.now);
        let mut session = Session::new(window, self.window, now);
        session.handle_link(1, 0, now).expect("the first link of a new session");
        let id = SessionId::new(stage.now / MILLI, u128::from(stage.chance.bits()));
        let secret = stage.chance.bits();
        let link = Some(conn);
        let far = FarEnd { client, secret, session, link, unlinked_since: now, cursor: 0, ending: None };
        self.far_ends.insert(id, far);
        Ok(Accepted::Opened { session: id, secret, window: self.window })
    }

    fn resume(
        &mut self,
        stage: &mut Stage,
        conn: ConnId,
        id: SessionId,
        secret: u64,
        link: u64,
        received: u64,
    ) -> Result<Accepted, Refused> {
        let now = self.clock.read(stage.now);
        let far = self.far_ends.get_mut(&id).ok_or(ErrorCode::SessionUnknown)?;
        if far.secret != secret {
            return Err(ErrorCode::SessionForbidden);
        }
        far.session.check_resume(link, received).map_err(|error| match error {
            ResumeError::Superseded => ErrorCode::SessionSuperseded,
            ResumeError::BadOffset => ErrorCode::LinkProtocol,
        })?;
        far.drop_link(stage, now);
        let answer = far.session.received();
        far.session.handle_link(link, received, now).expect("it was checked");
        far.link = Some(conn);
        Ok(Accepted::Resumed { received: answer })
    }

    fn run(&mut self, stage: &mut Stage) {
        for process in self.processes.values_mut() {
            process.run(stage);
        }
        let now = self.clock.read(stage.now);
        let processes = &mut self.processes;
        self.far_ends.retain(|_, far| {
            let process = processes.get_mut(&far.client).expect("a session has a process");
            far.run(stage, process, now)
        });
        let sessions = self.far_ends.values().filter_map(|far| far.next_deadline(now)).min();
        let next = sessions.map(|at| self.clock.when(at));
        stage.wake(Who::Agent(self.me), next);
        let next = self.processes.values().filter_map(|process| process.next(stage.now)).min();
        stage.wake(Who::Agent(self.me), next);
    }
}

impl Process {
    fn new(client: usize, says_in_all: u64, stage: &mut Stage) -> Self {
        let speaks_at = stage.now + stage.chance.skewed(MILLI, SECOND);
        Self { client, said: 0, heard: 0, says_in_all, speaks_at, reads_at: 0, exits_at: None, has_exited: false }
    }

    fn run(&mut self, stage: &mut Stage) {
        if self.has_exited {
            return;
        }
        let exits = self.exits_at.is_some_and(|at| stage.now >= at);
        if stage.now >= self.speaks_at || exits {
            let n = stage.chance.skewed(1, 8 * 1024).min(self.says_in_all - self.said);
            self.speaks_at = stage.now + stage.chance.skewed(MILLI, 2 * SECOND);
            if n > 0 {
                self.said += n;
                stage.note(Fact::Said { client: self.client, direction: Direction::Down, bytes: n });
            }
        }
        if exits {
            self.has_exited = true;
            stage.note(Fact::Exited { client: self.client });
        }
    }

    fn next(&self, now: Time) -> Option<Time> {
        if self.has_exited {
            return None;
        }
        let speaks = (self.said < self.says_in_all).then_some(self.speaks_at);
        let reads = Some(self.reads_at).filter(|&at| at > now);
        [speaks, reads, self.exits_at].into_iter().flatten().min()
    }
}

impl FarEnd {
    /// Carries; whether the session goes on.
    fn run(&mut self, stage: &mut Stage, process: &mut Process, now: Instant) -> bool {
        let (said, has_exited) = (process.said, process.has_exited);
        let mut attached = Attached { process, cursor: &mut self.cursor };
        let link = self.link.map(|conn| (conn, 1));
        let loss = carry(stage, &mut self.session, link, &mut attached, now);
        if let Some(loss) = loss {
            self.lose_link(stage, loss, now);
        }
        if has_exited && self.cursor == said && self.ending.is_none() {
            let close = Close::new(ErrorCode::ProcessExited, "0");
            self.session.finish(close.clone());
            self.ending = Some(close);
            carry(
                stage,
                &mut self.session,
                self.link.map(|conn| (conn, 1)),
                &mut Attached { process, cursor: &mut self.cursor },
                now,
            );
        }
        if let Some(close) = self.session.peer_close().cloned()
            && (self.session.inbox_is_empty() || has_exited)
        {
            self.end(stage, &close, process, now);
            return false;
        }
        self.link.is_some() || now < self.unlinked_since + LINGER
    }

    fn end(&mut self, stage: &mut Stage, close: &Close, process: &mut Process, now: Instant) {
        stage.note(Fact::FarTold { client: self.client, code: close.code });
        let Some(conn) = self.link else { return };
        self.session.finish(close.clone());
        carry(stage, &mut self.session, Some((conn, 1)), &mut Attached { process, cursor: &mut self.cursor }, now);
        stage.leave_conn(conn, 1, End::Bare);
    }

    fn lose_link(&mut self, stage: &mut Stage, loss: Loss, now: Instant) {
        if let Loss::Protocol(error) = loss {
            stage.note(Fact::Accused { client: self.client, error: &error.to_string() });
        }
        if loss == Loss::Ended && stage.config.sabotage == Some(Sabotage::GuessExit) && self.ending.is_none() {
            let close = Close::new(ErrorCode::ProcessExited, "a guess");
            self.session.finish(close.clone());
            self.ending = Some(close);
        }
        self.drop_link(stage, now);
    }

    fn drop_link(&mut self, stage: &mut Stage, now: Instant) {
        if let Some(conn) = self.link.take() {
            stage.leave_conn(conn, 1, End::Bare);
            self.session.handle_link_lost();
            self.unlinked_since = now;
        }
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let linger = self.link.is_none().then(|| self.unlinked_since + LINGER);
        // A deadline in the past waits for something else, such as room on the link.
        earliest(linger, self.session.next_deadline().filter(|&at| at > now))
    }
}
