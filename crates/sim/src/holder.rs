//! A gateway's end of one session: holds the client's connection while links come and go.

use std::time::Duration;

use landfast_core::link::Close;
use landfast_core::reason::Cause;
use landfast_core::record::{Generation, Phase};
use landfast_core::redial::{Effect, Presence, Redial};
use landfast_core::route::{Lookup, Route};
use landfast_core::session::Session;
use landfast_core::time::{Instant, earliest};
use landfast_core::{ErrorCode, InstanceId, Retry, SessionId};

use crate::Sabotage;
use crate::carry::{Loss, carry};
use crate::clock::Clock;
use crate::downstream::Downstream;
use crate::fact::Fact;
use crate::gateway::Gateway;
use crate::names::parse_address;
use crate::net::{ConnId, End};
use crate::stage::{Accepted, Connect, Event, Head, Refused, Stage, Who};

/// How long a dial may take, the answer of the agent included.
const DIAL_WITHIN: Duration = Duration::from_secs(5);

/// How long the registry's word is waited for before a dial fails.
const WORD_WITHIN: Duration = Duration::from_secs(6);

/// A client that takes nothing for so long is let go.
const SLOW_CLIENT: Duration = Duration::from_secs(60);

/// How long the last bytes and the CLOSE may take.
const GOODBYE: Duration = Duration::from_millis(800);

/// See the module. It has its client's number.
#[derive(Debug)]
pub(crate) struct Holder {
    me: usize,
    pub(crate) gateway: usize,
    pub(crate) instance: InstanceId,
    clock: Clock,
    window: u64,
    client: Downstream,
    redial: Redial,
    open: Option<Opened>,
    link: Option<ConnId>,
    dial: Option<Dial>,
    /// The number of the newest link that was asked for.
    asked: u64,
    /// The client is gone; only the goodbye to the agent is left, until then.
    leaving: Option<Instant>,
    /// It hears the gateway's news of its instance. A link-aware client has nothing but the answers to its dials.
    hears_news: bool,
    pub(crate) is_over: bool,
}

#[derive(Debug)]
struct Opened {
    id: SessionId,
    secret: u64,
    session: Session,
}

#[derive(Debug)]
enum Dial {
    /// The gateway does not know where to, yet.
    Asking(Instant),
    /// To an instance at this generation, over this connection.
    Under(ConnId, Generation, Instant),
}

impl Holder {
    /// A client has come over `conn`.
    pub(crate) fn new(
        me: usize,
        gateway: usize,
        instance: InstanceId,
        clock: Clock,
        conn: ConnId,
        stage: &mut Stage,
    ) -> Self {
        let now = clock.read(stage.now);
        let mut redial = Redial::new(Presence::Unknown, now);
        if stage.config.sabotage == Some(Sabotage::GiveUpEarly) {
            redial = redial.with_resume_window(Duration::from_secs(1));
        }
        Self {
            me,
            gateway,
            instance,
            clock,
            window: stage.chance.skewed(64, 64 * 1024),
            client: Downstream { conn, blocked_since: None, now },
            redial,
            open: None,
            link: None,
            dial: None,
            asked: 0,
            leaving: None,
            hears_news: stage.chance.percent(75),
            is_over: false,
        }
    }

    pub(crate) fn handle(&mut self, stage: &mut Stage, gateway: &mut Gateway, event: Event) {
        if self.is_over {
            return;
        }
        match event {
            Event::Wake | Event::Conn(_) => {}
            Event::Dialled { conn, result } => self.handle_dialled(stage, gateway, conn, result),
            other => unreachable!("not for a holder: {other:?}"),
        }
        self.run(stage, gateway);
    }

    /// The gateway has news of the instance.
    pub(crate) fn handle_news(&mut self, stage: &mut Stage, gateway: &mut Gateway) {
        if self.is_over {
            return;
        }
        let presence = if !self.hears_news {
            Presence::Unknown
        } else if gateway.believes_in_nothing {
            Presence::Ended(ErrorCode::InstanceUnknown)
        } else {
            match gateway.lookup(stage, self.instance) {
                Lookup::Known(route) if self.open.is_none() => self.admission(stage, gateway, &route),
                Lookup::Known(route) => route.presence(),
                Lookup::Ended(code) => Presence::Ended(code),
                Lookup::Asking | Lookup::Unknown | Lookup::Unavailable => Presence::Unknown,
            }
        };
        self.redial.handle_presence(presence, self.clock.read(stage.now));
        if let Some(Dial::Asking(_)) = self.dial {
            self.dial = None;
            self.begin_dial(stage, gateway);
        }
        self.run(stage, gateway);
    }

    /// The gateway's process dies: nobody says a word.
    pub(crate) fn die(&mut self, stage: &mut Stage) {
        self.is_over = true;
        for conn in stage.net.of_owner(Who::Holder(self.me)) {
            // What it has left already, the kernel goes on sending.
            if let Some(side) = stage.net.side_of(conn, Who::Holder(self.me)) {
                stage.cut(conn);
                stage.leave_conn(conn, side, End::Bare);
            }
        }
    }

    pub(crate) const fn is_linked(&self) -> bool {
        self.link.is_some()
    }

    pub(crate) fn cut_link(&self, stage: &mut Stage) {
        self.link.into_iter().for_each(|conn| stage.cut(conn));
    }

    pub(crate) fn drain(&mut self, stage: &mut Stage) {
        if self.leaving.is_none() && !self.is_over {
            self.end(stage, &Cause::GatewayDraining);
        }
    }

    fn run(&mut self, stage: &mut Stage, gateway: &mut Gateway) {
        let now = self.clock.read(stage.now);
        self.client.now = now;
        self.check_dial(stage, now);
        while self.leaving.is_none()
            && let Some(effect) = self.redial.poll(now)
        {
            match effect {
                Effect::Dial => self.begin_dial(stage, gateway),
                Effect::DropLink => self.lose_link(stage, now),
                Effect::End(code) => self.end(stage, &Cause::Redial(code)),
            }
        }
        self.carry(stage, now);
        if self.leaving.is_none() {
            self.check_client(stage, now);
        }
        if self.leaving.is_some_and(|until| now >= until || self.is_goodbye_said()) {
            self.finish(stage);
        }
        let next = self.next_deadline(now).filter(|_| !self.is_over);
        stage.wake(Who::Holder(self.me), next.map(|at| self.clock.when(at)));
    }

    fn carry(&mut self, stage: &mut Stage, now: Instant) {
        let Some(open) = &mut self.open else { return };
        let link = self.link.map(|conn| (conn, 0));
        match carry(stage, &mut open.session, link, &mut self.client, now) {
            Some(loss) => {
                if let Loss::Protocol(error) = loss {
                    stage.note(Fact::Accused { client: self.me, error: &error.to_string() });
                }
                self.lose_link(stage, now);
            }
            None => self.check_far(stage),
        }
        // The last bytes may have come together with the loss.
        self.check_far(stage);
    }

    /// The far end has ended, and all it said was handed on.
    fn check_far(&mut self, stage: &mut Stage) {
        let Some(open) = &self.open else { return };
        if self.leaving.is_none()
            && let Some(close) = open.session.peer_close().cloned()
            && open.session.inbox_is_empty()
        {
            self.end(stage, &Cause::FarEnd(close));
        }
    }

    fn check_client(&mut self, stage: &mut Stage, now: Instant) {
        let conn = self.client.conn;
        if let Some(end) = stage.received_end(conn, 1) {
            let cause = if end == End::Bare { Cause::ClientLost } else { Cause::ClientClosed };
            self.end(stage, &cause);
        } else if !stage.is_up(conn, 1) {
            self.end(stage, &Cause::ClientLost);
        } else if self.client.blocked_since.is_some_and(|since| now >= since + SLOW_CLIENT) {
            self.end(stage, &Cause::SlowClient);
        }
    }

    // --- dialling ---

    fn begin_dial(&mut self, stage: &mut Stage, gateway: &mut Gateway) {
        let now = self.clock.read(stage.now);
        match gateway.lookup(stage, self.instance) {
            Lookup::Known(route) => match (route.ready(), &self.open) {
                (Ok(()), _) => self.dial(stage, &route, now),
                // Nobody wakes it for a session that it cannot remember.
                (Err(_), Some(_)) if route.phase == Phase::Sleeping => self.refuse(stage, ErrorCode::SessionUnknown),
                (Err(code), Some(_)) => self.refuse(stage, code),
                (Err(code), None) => {
                    self.admission(stage, gateway, &route);
                    self.refuse(stage, code);
                }
            },
            Lookup::Asking => self.dial = Some(Dial::Asking(now + WORD_WITHIN)),
            Lookup::Ended(code) => self.refuse(stage, code),
            Lookup::Unknown => self.refuse(stage, ErrorCode::InstanceUnknown),
            Lookup::Unavailable => self.refuse(stage, ErrorCode::RegistryUnavailable),
        }
    }

    /// What somebody is told who has no session yet; an instance that sleeps is woken for it.
    fn admission(&self, stage: &mut Stage, gateway: &mut Gateway, route: &Route) -> Presence {
        match route.ready() {
            Ok(()) => Presence::Here(route.generation),
            Err(code) => {
                if route.needs_waking() {
                    gateway.rouse(stage, self.instance);
                }
                if code.retry() == Retry::Safe { Presence::Between(code) } else { Presence::Ended(code) }
            }
        }
    }

    fn dial(&mut self, stage: &mut Stage, route: &Route, now: Instant) {
        let (node, start) = parse_address(route.address.as_deref().expect("a route that is ready has an address"));
        let conn = stage.open_conn([Some(Who::Holder(self.me)), None], Some(node));
        self.dial = Some(Dial::Under(conn, route.generation, now + DIAL_WITHIN));
        stage.remark(Who::Holder(self.me), || format!("dials node {node} at generation {}", route.generation));
        let head = match &self.open {
            None => Head::Open { window: self.window },
            Some(open) => {
                self.asked += 1;
                let received = claim_of(open.session.received(), stage.config.sabotage);
                Head::Resume { session: open.id, secret: open.secret, link: self.asked, received }
            }
        };
        let connect =
            Connect { conn, holder: self.me, instance: self.instance, generation: route.generation, start, head };
        if stage.reaches_gateways(node) {
            let there = stage.now + stage.latency(conn);
            stage.post(there, Who::Node(node), Event::Connect(connect));
        }
    }

    fn handle_dialled(
        &mut self,
        stage: &mut Stage,
        gateway: &mut Gateway,
        conn: ConnId,
        result: Result<Accepted, Refused>,
    ) {
        let Some(Dial::Under(_, generation, _)) = self.dial.take_if(|dial| dial.is_under(conn)) else { return };
        let is_up = stage.is_up(conn, 0);
        match result {
            Ok(accepted) if is_up => self.handle_accepted(stage, conn, generation, accepted),
            result => {
                let code = result.err().unwrap_or(ErrorCode::NodeUnreachable);
                stage.leave_conn(conn, 0, End::Bare);
                if matches!(code, ErrorCode::NodeNotHere | ErrorCode::NodeStaleGeneration) {
                    gateway.view().handle_refused(self.instance, generation);
                }
                self.refuse(stage, code);
            }
        }
    }

    fn handle_accepted(&mut self, stage: &mut Stage, conn: ConnId, generation: Generation, accepted: Accepted) {
        let now = self.clock.read(stage.now);
        let (number, received) = match accepted {
            Accepted::Opened { session: id, secret, window } => {
                self.open = Some(Opened { id, secret, session: Session::new(window, self.window, now) });
                self.asked = 1;
                (1, 0)
            }
            Accepted::Resumed { received } => (self.asked, received),
        };
        let open = self.open.as_mut().expect("opened now or before");
        if open.session.handle_link(number, received, now).is_err() {
            stage.note(Fact::Accused { client: self.me, error: "a count that cannot be" });
            stage.leave_conn(conn, 0, End::Bare);
            return self.refuse(stage, ErrorCode::LinkProtocol);
        }
        self.link = Some(conn);
        let reached = open.session.reached();
        self.redial.handle_linked(generation, reached, now);
        stage.note(Fact::Linked { client: self.me, far_received: received });
    }

    fn refuse(&mut self, stage: &mut Stage, code: ErrorCode) {
        let random = stage.chance.bits();
        stage.remark(Who::Holder(self.me), || format!("is refused: {code}"));
        self.redial.handle_refused(code, random, self.clock.read(stage.now));
    }

    /// A dial that takes too long, or whose connection was lost, has failed.
    fn check_dial(&mut self, stage: &mut Stage, now: Instant) {
        let failed = match &self.dial {
            None => return,
            Some(Dial::Asking(until)) => (now >= *until).then_some(ErrorCode::RegistryUnavailable),
            Some(Dial::Under(conn, _, until)) => {
                (now >= *until || !stage.is_up(*conn, 0)).then_some(ErrorCode::NodeUnreachable)
            }
        };
        if let Some(code) = failed {
            if let Some(Dial::Under(conn, ..)) = self.dial.take() {
                stage.leave_conn(conn, 0, End::Bare);
            }
            self.refuse(stage, code);
        }
    }

    // --- endings ---

    fn lose_link(&mut self, stage: &mut Stage, now: Instant) {
        let Some(conn) = self.link.take() else { return };
        stage.leave_conn(conn, 0, End::Bare);
        let open = self.open.as_mut().expect("a link carries a session");
        stage.note(Fact::Unlinked { client: self.me, received: open.session.received() });
        open.session.handle_link_lost();
        // After the far end's last word there is nothing to dial for.
        if open.session.peer_close().is_none() {
            self.redial.handle_link_lost(open.session.reached(), now);
            let again = if self.leaving.is_none() { Some(stage.now) } else { None };
            stage.wake(Who::Holder(self.me), again);
        }
    }

    /// Tells the client why, and the agent if a link stands.
    fn end(&mut self, stage: &mut Stage, cause: &Cause) {
        let close = match stage.config.sabotage {
            Some(Sabotage::TellTheWrongCause) => Close::new(ErrorCode::InstanceLost, ""),
            Some(_) | None => cause.close(),
        };
        let end = match stage.config.sabotage {
            Some(Sabotage::SayNothing) => End::Bare,
            Some(_) | None => End::Told(close.clone()),
        };
        stage.note(Fact::Closed { client: self.me, code: close.code });
        stage.leave_conn(self.client.conn, 1, end);
        let now = self.clock.read(stage.now);
        self.leaving = Some(now + GOODBYE);
        match &mut self.open {
            Some(open) if self.link.is_some() => {
                open.session.finish(close);
                self.carry(stage, now);
            }
            Some(_) | None => self.finish(stage),
        }
    }

    fn is_goodbye_said(&self) -> bool {
        self.link.is_none() || self.open.as_ref().is_none_or(|open| open.session.is_close_sent())
    }

    fn finish(&mut self, stage: &mut Stage) {
        self.is_over = true;
        let dial = self.dial.take().and_then(|dial| if let Dial::Under(conn, ..) = dial { Some(conn) } else { None });
        for conn in self.link.take().into_iter().chain(dial) {
            stage.leave_conn(conn, 0, End::Bare);
        }
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        // A deadline in the past waits for something else, such as room on the link.
        let session = self.open.as_ref().and_then(|open| open.session.next_deadline()).filter(|&at| at > now);
        if self.leaving.is_some() {
            return earliest(session, self.leaving);
        }
        let dial = self.dial.as_ref().map(|dial| match dial {
            Dial::Asking(until) | Dial::Under(_, _, until) => *until,
        });
        let slow = self.client.blocked_since.map(|since| since + SLOW_CLIENT);
        [self.redial.next_deadline(), session, dial, slow].into_iter().fold(None, earliest)
    }
}

impl Dial {
    fn is_under(&self, conn: ConnId) -> bool {
        matches!(self, Self::Under(under, ..) if *under == conn)
    }
}

/// What is said to have been received.
fn claim_of(received: u64, sabotage: Option<Sabotage>) -> u64 {
    match sabotage {
        Some(Sabotage::SkipReplay) => received + 1,
        Some(Sabotage::ReplayTwice) => received.saturating_sub(1),
        Some(_) | None => received,
    }
}
