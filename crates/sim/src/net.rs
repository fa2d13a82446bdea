//! The network: connections of two directions, each in order, none of them reliable.
//!
//! Bytes on one connection arrive in the order they were sent; between connections nothing is ordered. A connection may
//! be cut, so that each end hears of it in its own time; it may be stalled for a while; and either direction may go
//! silent, so that what is sent there vanishes and its end never hears of anything: half-open.

use std::collections::{HashMap, VecDeque};

use landfast_core::InstanceId;
use landfast_core::link::Close;
use landfast_core::record::Generation;

use crate::clock::{MICRO, MILLI, Time};
use crate::stage::{Event, Stage, Who};

/// What a connection holds in each direction, under way and arrived: two socket buffers.
const HOLDS: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnId(u64);

/// The end that began the connection is 0.
pub(crate) type Side = usize;

/// How a direction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Without a word.
    Bare,
    /// With a close frame as the last thing said.
    Told(Close),
}

/// What a connection carries through a node, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Through {
    pub(crate) node: usize,
    pub(crate) instance: InstanceId,
    pub(crate) generation: Generation,
    /// The node may carry it for as long as it has a lease.
    pub(crate) is_leased: bool,
}

#[derive(Debug)]
struct Conn {
    owners: [Option<Who>; 2],
    /// `lanes[s]` is what side `s` says.
    lanes: [Lane; 2],
    /// When each side hears that the connection is lost.
    lost_at: [Option<Time>; 2],
    /// Nobody owns this side any more.
    left: [bool; 2],
    latency: u64,
    stalled_until: Time,
    /// The node of the machine at side 1, and once it has been admitted, what it carries.
    node: Option<usize>,
    through: Option<Through>,
}

#[derive(Debug, Default)]
struct Lane {
    flying: VecDeque<(Time, Vec<u8>)>,
    arrived: VecDeque<u8>,
    held: usize,
    end: Option<(Time, End)>,
    silent: bool,
    last_arrival: Time,
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Net {
    conns: HashMap<ConnId, Conn>,
    made: u64,
}

impl Net {
    pub(crate) fn through(&self, conn: ConnId) -> Option<Through> {
        self.conns.get(&conn)?.through
    }

    /// The connections that were admitted by a node, in the order they were made.
    pub(crate) fn through_node(&self, node: usize) -> Vec<(ConnId, Through)> {
        let through = self.conns.iter().filter_map(|(id, conn)| conn.through.map(|through| (*id, through)));
        let mut found: Vec<_> = through.filter(|(_, through)| through.node == node).collect();
        found.sort_unstable_by_key(|(id, _)| *id);
        found
    }

    /// The connections that lead to a node, admitted or not.
    pub(crate) fn toward_node(&self, node: usize) -> Vec<ConnId> {
        self.select(|conn| conn.node == Some(node))
    }

    pub(crate) fn of_owner(&self, who: Who) -> Vec<ConnId> {
        self.select(|conn| conn.owners.contains(&Some(who)))
    }

    /// Which side of a connection an actor has.
    pub(crate) fn side_of(&self, conn: ConnId, who: Who) -> Option<Side> {
        let conn = self.conns.get(&conn)?;
        [0, 1].into_iter().find(|&side| conn.owners[side] == Some(who) && !conn.left[side])
    }

    fn select(&self, matches: impl Fn(&Conn) -> bool) -> Vec<ConnId> {
        let mut found: Vec<_> = self.conns.iter().filter(|(_, conn)| matches(conn)).map(|(id, _)| *id).collect();
        found.sort_unstable();
        found
    }
}

impl Stage {
    pub(crate) fn open_conn(&mut self, owners: [Option<Who>; 2], node: Option<usize>) -> ConnId {
        self.net.made += 1;
        let id = ConnId(self.net.made);
        let latency = self.chance.skewed(20 * MICRO, 30 * MILLI);
        let conn = Conn {
            owners,
            lanes: Default::default(),
            lost_at: [None; 2],
            left: [false; 2],
            latency,
            stalled_until: 0,
            node,
            through: None,
        };
        self.net.conns.insert(id, conn);
        id
    }

    pub(crate) fn latency(&self, conn: ConnId) -> u64 {
        self.net.conns.get(&conn).map_or(MILLI, |conn| conn.latency)
    }

    /// A node lets a connection through to an agent.
    pub(crate) fn admit(&mut self, conn: ConnId, through: Through, agent: Who) {
        if let Some(conn) = self.net.conns.get_mut(&conn) {
            conn.through = Some(through);
            conn.owners[1] = Some(agent);
        }
    }

    /// Whether an end may still speak and hear, as far as it knows.
    pub(crate) fn is_up(&self, conn: ConnId, side: Side) -> bool {
        let Some(conn) = self.net.conns.get(&conn) else { return false };
        !conn.left[side] && conn.lost_at[side].is_none_or(|at| self.now < at)
    }

    pub(crate) fn room(&self, conn: ConnId, side: Side) -> usize {
        if !self.is_up(conn, side) {
            return 0;
        }
        HOLDS - self.net.conns[&conn].lanes[side].held
    }

    /// Says bytes; at most [`Self::room`].
    pub(crate) fn send(&mut self, id: ConnId, side: Side, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(id, side), "sent more than there is room for");
        if bytes.is_empty() {
            return;
        }
        let jitter = if self.chance.percent(20) { self.chance.skewed(MICRO, 20 * MILLI) } else { 0 };
        let conn = self.net.conns.get_mut(&id).expect("it has room");
        let lane = &mut conn.lanes[side];
        lane.held += bytes.len();
        let is_cut = conn.lost_at[1 - side].is_some() || conn.left[1 - side];
        if lane.silent || is_cut {
            return;
        }
        let at = (self.now + conn.latency + jitter).max(lane.last_arrival).max(conn.stalled_until);
        lane.last_arrival = at;
        lane.flying.push_back((at, bytes.to_vec()));
        if let Some(owner) = conn.owners[1 - side] {
            self.post(at, owner, Event::Conn(id));
        }
    }

    /// Takes what has arrived, at most `most`.
    pub(crate) fn receive(&mut self, id: ConnId, side: Side, most: usize) -> Vec<u8> {
        if !self.is_up(id, side) {
            return Vec::new();
        }
        let now = self.now;
        let conn = self.net.conns.get_mut(&id).expect("it is up");
        let lane = &mut conn.lanes[1 - side];
        lane.land(now);
        let was_full = lane.held >= HOLDS;
        let most = most.min(lane.arrived.len());
        let bytes: Vec<u8> = lane.arrived.drain(..most).collect();
        lane.held -= bytes.len();
        if was_full
            && !bytes.is_empty()
            && let Some(owner) = conn.owners[1 - side]
        {
            let at = now + conn.latency;
            self.post(at, owner, Event::Conn(id));
        }
        bytes
    }

    /// How the other end has ended, once everything it said was received.
    pub(crate) fn received_end(&mut self, id: ConnId, side: Side) -> Option<End> {
        let now = self.now;
        let lane = &mut self.net.conns.get_mut(&id)?.lanes[1 - side];
        lane.land(now);
        let all_received = lane.arrived.is_empty() && lane.flying.is_empty();
        lane.end.as_ref().filter(|(at, _)| *at <= now && all_received).map(|(_, end)| end.clone())
    }

    /// An end leaves: what it said before arrives, then this.
    pub(crate) fn leave_conn(&mut self, id: ConnId, side: Side, end: End) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        if std::mem::replace(&mut conn.left[side], true) {
            return;
        }
        let lane = &mut conn.lanes[side];
        let at = (self.now + conn.latency).max(lane.last_arrival).max(conn.stalled_until);
        let heard = !lane.silent && conn.lost_at[1 - side].is_none() && !conn.left[1 - side];
        lane.end = Some((at, end));
        let owner = conn.owners[1 - side];
        if conn.left == [true; 2] {
            self.net.conns.remove(&id);
        } else if heard && let Some(owner) = owner {
            self.post(at, owner, Event::Conn(id));
        } else if !heard {
            self.forget_if_dead(id);
        }
    }

    /// Cuts a connection: what is under way is lost, and each end hears of it in its own time, or never.
    pub(crate) fn cut(&mut self, id: ConnId) {
        for side in [0, 1] {
            let at = self.now + self.chance.skewed(10 * MICRO, 200 * MILLI);
            let drops_arrived = self.chance.percent(50);
            let Some(conn) = self.net.conns.get_mut(&id) else { return };
            let lane = &mut conn.lanes[1 - side];
            lane.land(self.now);
            lane.flying.clear();
            if drops_arrived {
                lane.arrived.clear();
            }
            if lane.silent || conn.left[side] || conn.lost_at[side].is_some() {
                continue;
            }
            conn.lost_at[side] = Some(at);
            if let Some(owner) = conn.owners[side] {
                self.post(at, owner, Event::Conn(id));
            }
        }
    }

    /// Cuts a connection where it goes through a machine: nothing passes from now on.
    pub(crate) fn cut_through(&mut self, id: ConnId) {
        self.cut(id);
        if let Some(conn) = self.net.conns.get_mut(&id) {
            conn.through = None;
        }
    }

    /// What this end says from now on vanishes, and the other end hears nothing of this connection again.
    pub(crate) fn silence(&mut self, id: ConnId, side: Side) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        conn.lanes[side].silent = true;
        conn.lanes[side].flying.clear();
    }

    /// Nothing arrives before this time.
    pub(crate) fn stall(&mut self, id: ConnId, until: Time) {
        if let Some(conn) = self.net.conns.get_mut(&id) {
            conn.stalled_until = until;
        }
    }

    /// A connection that one end has left, and of which the other can hear nothing, stays until that end leaves too:
    /// nothing to do but to keep it. One that has no other end goes.
    fn forget_if_dead(&mut self, id: ConnId) {
        if self.net.conns.get(&id).is_some_and(|conn| conn.owners.iter().zip(conn.left).all(|(o, l)| l || o.is_none()))
        {
            self.net.conns.remove(&id);
        }
    }
}

impl Lane {
    fn land(&mut self, now: Time) {
        while self.flying.front().is_some_and(|(at, _)| *at <= now) {
            let (_, bytes) = self.flying.pop_front().expect("it was looked at");
            self.arrived.extend(bytes);
        }
    }
}
