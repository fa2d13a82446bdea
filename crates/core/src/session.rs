//! One end of a session: two append-only byte streams that survive any number of links.
//!
//! Each end keeps what it sent until the peer has acknowledged it, and says on each new link how much it has received;
//! the rest is sent again. That is the whole of resuming: a cut cable, a restarted node, a moved instance and a gateway
//! that was replaced are one case. The idea is that of EternalTerminal's and Teleport's resumable connections, with one
//! difference: a window bounds both ends' memory, and ACK means "handed to the next reliable owner", not "received".
//!
//! ```text
//!   local side ──take──▶ out ring ──DATA──▶ peer          kept until ACK, at most the peer's window
//!   local side ◀─hand on─ inbox ◀──DATA──── peer          kept until handed on, at most our window
//! ```
//!
//! The link is always read, even while the local side takes nothing: the inbox has room for all the peer may send, and
//! an ACK must never wait behind data that nobody reads, or two busy directions would stop each other.
//!
//! The machine does no IO. Its owner
//! * gives it what the local side says: [`Session::room`], [`Session::spare`], [`Session::handle_taken`];
//! * gives it what the link says: [`Session::handle_input`], then [`Session::handle_data`] for the data in it;
//! * writes what it wants to say: [`Session::compose`], [`Session::outgoing`], [`Session::handle_transmitted`];
//! * calls [`Session::poll`] at [`Session::next_deadline`].

use std::time::Duration;

use crate::link::{CONTROL_MAX, Close, DATA_MAX, HEADER_LEN, Header, Kind, ProtocolError, encode_number};
use crate::ring::Ring;
use crate::time::{Instant, earliest};

/// How many bytes may be under way unacknowledged in one direction, unless agreed otherwise: a gigabyte a second over a
/// millisecond of round trip.
pub const WINDOW: u64 = 1 << 20;

/// An ACK is sent at the latest this long after data was handed on, so that the peer's memory is not held by silence.
pub const ACK_DELAY: Duration = Duration::from_millis(50);

/// A link that was silent for this long is asked whether it lives.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);

/// A link is dead when this many pings in a row brought nothing back.
pub const PINGS_UNANSWERED: u8 = 2;

/// Empty buffers are given back after this long without data: longer than the ACK delay, so that a busy echo does not
/// allocate for every message.
const RELEASE_AFTER: Duration = Duration::from_millis(200);

/// What a machine's owner must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Drop the link: the peer answered no ping.
    LinkDead,
}

/// A piece of input: how much of it was read, and which part of that is session data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// How many bytes of the input this piece is. Never zero for a non-empty input.
    pub consumed: usize,
    /// The session's next bytes, maybe none. Pass them to [`Session::handle_data`].
    pub data: &'a [u8],
}

/// What was said about a new link that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeError {
    /// The peer's count is of bytes that were never sent, or that were acknowledged and forgotten.
    BadOffset,
    /// A link with this number, or a newer one, was seen before.
    Superseded,
}

/// One end of a session.
#[derive(Debug)]
pub struct Session {
    /// How much we may have unacknowledged.
    window_out: u64,
    /// How much the peer may have unacknowledged.
    window_in: u64,
    /// What was taken from the local side; begins at the first byte that is not acknowledged.
    out: Ring,
    /// What was received and not yet handed on; its start is what we acknowledge.
    inbox: Ring,
    close_out: Option<Close>,
    close_in: Option<Close>,
    link: Option<Link>,
    link_number: u64,
    /// The most of ours that the peer has said to have, by an ACK or on a new link.
    peer_has: u64,
    last_data: Instant,
}

/// What one end knows of the present link.
#[derive(Debug)]
struct Link {
    /// The next byte of `out` to be sent.
    cursor: u64,
    /// Records ahead of the data.
    head: Head,
    /// Our CLOSE, and how much of it was written; goes where the data went, after all of it.
    close: Vec<u8>,
    close_written: usize,
    /// Bytes of the present DATA record still to be written.
    data_left: usize,
    /// The part of a header, or of a control record's payload, that was received when it was cut in two.
    partial: Vec<u8>,
    /// The record being received; `None` between records.
    receiving: Option<Header>,
    /// Bytes of its payload still to come.
    receiving_left: usize,
    ack_sent: u64,
    ack_deadline: Option<Instant>,
    pong_due: Option<u64>,
    pings_unanswered: u8,
    ping_due: bool,
    heard_at: Instant,
    close_sent: bool,
}

/// The records and the DATA header that go ahead of the data, kept in place: the session path allocates nothing per
/// message.
#[derive(Debug)]
struct Head {
    /// At most a PONG, a PING, an ACK (12 bytes each) and a DATA header.
    bytes: [u8; 3 * (HEADER_LEN + 8) + HEADER_LEN],
    len: usize,
    written: usize,
}

impl Session {
    /// A session that has said and heard nothing. `window_out` is what the peer grants, `window_in` what we grant.
    pub fn new(window_out: u64, window_in: u64, now: Instant) -> Self {
        Self {
            window_out,
            window_in,
            out: Ring::new(0),
            inbox: Ring::new(0),
            close_out: None,
            close_in: None,
            link: None,
            link_number: 0,
            peer_has: 0,
            last_data: now,
        }
    }

    // --- the link ---

    /// Whether a link carries the session now.
    pub const fn has_link(&self) -> bool {
        self.link.is_some()
    }

    /// The number of the newest link.
    pub const fn link_number(&self) -> u64 {
        self.link_number
    }

    /// How many bytes have arrived, for the resume request and its answer.
    pub const fn received(&self) -> u64 {
        self.inbox.end()
    }

    /// How many bytes were taken from the local side.
    pub const fn sent(&self) -> u64 {
        self.out.end()
    }

    /// Grows with every byte received, and every byte of ours that the peer has acknowledged.
    pub const fn progress(&self) -> u64 {
        self.inbox.end() + self.out.start()
    }

    /// Grows with every byte received, and every byte of ours that the peer is known to have, acknowledged or not: a
    /// link that brought anything across has grown it by the time the next one stands.
    pub const fn reached(&self) -> u64 {
        self.inbox.end() + self.peer_has
    }

    /// A new link stands; `peer_received` is what the peer has of ours.
    ///
    /// # Errors
    ///
    /// [`ResumeError`], and nothing has changed.
    pub fn handle_link(&mut self, number: u64, peer_received: u64, now: Instant) -> Result<(), ResumeError> {
        self.check_resume(number, peer_received)?;
        self.link_number = number;
        self.peer_has = self.peer_has.max(peer_received);
        self.link = Some(Link::new(peer_received, self.inbox.start(), now));
        Ok(())
    }

    /// Whether a link with this number and the peer's count could carry the session.
    ///
    /// # Errors
    ///
    /// [`ResumeError`].
    pub const fn check_resume(&self, number: u64, peer_received: u64) -> Result<(), ResumeError> {
        if number <= self.link_number {
            return Err(ResumeError::Superseded);
        }
        if peer_received < self.out.start() || peer_received > self.out.end() {
            return Err(ResumeError::BadOffset);
        }
        Ok(())
    }

    /// The link is gone. What was under way will be sent again.
    pub fn handle_link_lost(&mut self) {
        self.link = None;
    }

    // --- what the local side says ---

    /// How many more bytes may be taken from the local side. Zero once [`Self::finish`] was called.
    pub fn room(&self) -> usize {
        if self.close_out.is_some() || self.close_in.is_some() {
            return 0;
        }
        (self.window_out - self.out.len() as u64) as usize
    }

    /// Whether the out ring has memory: then reading into [`Self::spare`] saves a copy, else a shared scratch buffer
    /// keeps an idle session free of buffers.
    pub const fn has_buffer(&self) -> bool {
        self.out.capacity() > 0
    }

    /// Room for the local side's next bytes; never more than [`Self::room`]. Count them with [`Self::handle_taken`].
    pub fn spare(&mut self) -> &mut [u8] {
        let room = self.room();
        self.out.spare(room)
    }

    /// `n` bytes were read into [`Self::spare`].
    pub fn handle_taken(&mut self, n: usize, now: Instant) {
        assert!(n <= self.room(), "took more than the window has room for");
        self.out.commit(n);
        self.last_data = now;
    }

    /// Takes bytes from the local side, at most [`Self::room`].
    pub fn take(&mut self, bytes: &[u8], now: Instant) {
        assert!(bytes.len() <= self.room(), "took more than the window has room for");
        self.out.push(bytes);
        self.last_data = now;
    }

    /// The local side has ended: a CLOSE follows everything taken so far. The first call counts.
    pub fn finish(&mut self, close: Close) {
        self.close_out.get_or_insert(close);
    }

    /// Whether our CLOSE has been written to the present link.
    pub fn is_close_sent(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.close_sent && !link.is_writing())
    }

    /// What the peer said when it ended; all data before it has been received by then.
    pub const fn peer_close(&self) -> Option<&Close> {
        self.close_in.as_ref()
    }

    // --- what the link says ---

    /// Reads the next piece of what arrived on the link: call again with the rest until nothing is left.
    ///
    /// # Errors
    ///
    /// The peer broke the protocol: drop the link.
    ///
    /// # Panics
    ///
    /// Without a link.
    pub fn handle_input<'a>(&mut self, input: &'a [u8], now: Instant) -> Result<Piece<'a>, ProtocolError> {
        let link = self.link.as_mut().expect("input came over a link");
        link.heard_at = now;
        link.pings_unanswered = 0;
        link.ping_due = false;
        let Some(header) = link.receiving else {
            return self.handle_header_bytes(input);
        };
        if header.kind == Kind::Data {
            let taken = input.len().min(link.receiving_left);
            link.receiving_left -= taken;
            if link.receiving_left == 0 {
                link.receiving = None;
            }
            return Ok(Piece { consumed: taken, data: &input[..taken] });
        }
        let mut partial = std::mem::take(&mut link.partial);
        let (consumed, payload) = gather(&mut partial, header.len, input);
        match payload {
            Some(payload) => {
                link.receiving = None;
                self.handle_control(header.kind, payload)?;
            }
            None => link.partial = partial,
        }
        Ok(Piece { consumed, data: &[] })
    }

    /// The session data of a [`Piece`] was dealt with: its first `handed_on` bytes are with the next owner already, the
    /// rest waits in the inbox. Bytes may be handed on directly only while [`Self::inbox_is_empty`].
    pub fn handle_data(&mut self, data: &[u8], handed_on: usize, now: Instant) {
        if data.is_empty() {
            return;
        }
        assert!(handed_on == 0 || self.inbox.is_empty(), "newer bytes handed on before older ones");
        self.inbox.skip(handed_on);
        self.inbox.push(&data[handed_on..]);
        self.last_data = now;
        self.schedule_ack(now);
    }

    /// Whether everything received was handed on.
    pub const fn inbox_is_empty(&self) -> bool {
        self.inbox.is_empty()
    }

    /// What was received and waits for the local side, oldest first.
    pub fn inbox(&self) -> [&[u8]; 2] {
        self.inbox.slices(self.inbox.start(), usize::MAX)
    }

    /// `n` bytes of the inbox are with the next owner.
    pub fn handle_handed_on(&mut self, n: usize, now: Instant) {
        self.inbox.drop_before(self.inbox.start() + n as u64);
        self.last_data = now;
        self.schedule_ack(now);
    }

    // --- what we say ---

    /// Makes the next records ready and returns whether there is anything to write.
    pub fn compose(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        if link.is_writing() {
            return true;
        }
        link.head = Head::EMPTY;
        let handed_on = self.inbox.start();
        let unsent = if self.close_in.is_some() { 0 } else { (self.out.end() - link.cursor) as usize };
        if let Some(number) = link.pong_due.take() {
            link.head.push_number(Kind::Pong, number);
        }
        if std::mem::take(&mut link.ping_due) {
            link.head.push_number(Kind::Ping, u64::from(link.pings_unanswered));
        }
        // An ACK that is not due yet travels with data for nothing and saves the timer.
        let ack_is_due = handed_on - link.ack_sent >= self.window_in / 4 || link.ack_deadline == Some(Instant::ZERO);
        if handed_on > link.ack_sent && (ack_is_due || unsent > 0) {
            link.head.push_number(Kind::Ack, handed_on);
            link.ack_sent = handed_on;
            link.ack_deadline = None;
        }
        if unsent > 0 {
            link.data_left = unsent.min(DATA_MAX);
            link.head.push(&Header { kind: Kind::Data, len: link.data_left }.encode());
        } else if let Some(close) = &self.close_out
            && !link.close_sent
        {
            close.encode(&mut link.close);
            link.close_sent = true;
        }
        link.is_writing()
    }

    /// The bytes to write to the link now, in order. Empty until [`Self::compose`] returned true.
    pub fn outgoing(&self) -> [&[u8]; 3] {
        let Some(link) = &self.link else { return [&[]; 3] };
        let [first, second] = self.out.slices(link.cursor, link.data_left);
        let first = if link.data_left > 0 { first } else { &link.close[link.close_written..] };
        [link.head.unwritten(), first, second]
    }

    /// `n` bytes of [`Self::outgoing`] were written.
    pub fn handle_transmitted(&mut self, n: usize, now: Instant) {
        let link = self.link.as_mut().expect("bytes were written to a link");
        let of_head = n.min(link.head.unwritten().len());
        link.head.written += of_head;
        let rest = n - of_head;
        if link.data_left > 0 {
            assert!(rest <= link.data_left, "wrote more than was outgoing");
            link.data_left -= rest;
            link.cursor += rest as u64;
            self.last_data = now;
        } else {
            link.close_written += rest;
        }
    }

    // --- time ---

    /// Does what time has made due.
    pub fn poll(&mut self, now: Instant) -> Option<Effect> {
        if now >= self.last_data + RELEASE_AFTER {
            self.out.release();
            self.inbox.release();
        }
        let link = self.link.as_mut()?;
        if link.ack_deadline.is_some_and(|deadline| now >= deadline) {
            link.ack_deadline = Some(Instant::ZERO);
        }
        if now >= link.ping_deadline() {
            if link.pings_unanswered == PINGS_UNANSWERED {
                return Some(Effect::LinkDead);
            }
            link.pings_unanswered += 1;
            link.ping_due = true;
        }
        None
    }

    /// When [`Self::poll`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let holds_empty =
            (self.out.capacity() > 0 && self.out.is_empty()) || (self.inbox.capacity() > 0 && self.inbox.is_empty());
        let release = holds_empty.then(|| self.last_data + RELEASE_AFTER);
        let link = self.link.as_ref().and_then(|link| {
            let ack = link.ack_deadline.filter(|&deadline| deadline > Instant::ZERO);
            earliest(ack, Some(link.ping_deadline()))
        });
        earliest(release, link)
    }

    fn handle_header_bytes<'a>(&mut self, input: &'a [u8]) -> Result<Piece<'a>, ProtocolError> {
        let link = self.link.as_mut().expect("input came over a link");
        let (consumed, bytes) = gather(&mut link.partial, HEADER_LEN, input);
        let Some(bytes) = bytes else { return Ok(Piece { consumed, data: &[] }) };
        let bytes = bytes.try_into().expect("a header was gathered");
        link.partial.clear();
        let header = Header::decode(bytes)?;
        // The peer still answers our pings and acknowledges what it got; only its stream is over.
        if self.close_in.is_some() && matches!(header.kind, Kind::Data | Kind::Close) {
            return Err(ProtocolError::AfterClose);
        }
        if header.kind == Kind::Data && self.inbox.end() + header.len as u64 > self.inbox.start() + self.window_in {
            return Err(ProtocolError::PastWindow);
        }
        link.receiving = Some(header);
        link.receiving_left = header.len;
        Ok(Piece { consumed, data: &[] })
    }

    fn handle_control(&mut self, kind: Kind, payload: &[u8]) -> Result<(), ProtocolError> {
        debug_assert!(payload.len() <= CONTROL_MAX);
        let number = || payload.try_into().map(u64::from_be_bytes).expect("the header was checked");
        let link = self.link.as_mut().expect("input came over a link");
        match kind {
            Kind::Ack => {
                let acked = number();
                if acked < self.out.start() || acked > link.cursor {
                    return Err(ProtocolError::BadAck);
                }
                self.out.drop_before(acked);
                self.peer_has = self.peer_has.max(acked);
            }
            Kind::Ping => link.pong_due = Some(number()),
            Kind::Pong => {}
            Kind::Close => self.close_in = Some(Close::decode(payload)?),
            Kind::Data => unreachable!("data is not a control record"),
        }
        Ok(())
    }

    fn schedule_ack(&mut self, now: Instant) {
        let handed_on = self.inbox.start();
        if let Some(link) = &mut self.link
            && handed_on > link.ack_sent
        {
            link.ack_deadline.get_or_insert(now + ACK_DELAY);
        }
    }
}

impl Link {
    fn new(peer_received: u64, handed_on: u64, now: Instant) -> Self {
        Self {
            cursor: peer_received,
            head: Head::EMPTY,
            close: Vec::new(),
            close_written: 0,
            data_left: 0,
            partial: Vec::new(),
            receiving: None,
            receiving_left: 0,
            // What an earlier link's ACKs said may have been lost with it: say it again, at once.
            ack_sent: 0,
            ack_deadline: (handed_on > 0).then_some(Instant::ZERO),
            pong_due: None,
            pings_unanswered: 0,
            ping_due: false,
            heard_at: now,
            close_sent: false,
        }
    }

    const fn is_writing(&self) -> bool {
        self.head.written < self.head.len || self.data_left > 0 || self.close_written < self.close.len()
    }

    fn ping_deadline(&self) -> Instant {
        self.heard_at + PING_INTERVAL * (u32::from(self.pings_unanswered) + 1)
    }
}

impl Head {
    const EMPTY: Self = Self { bytes: [0; 3 * (HEADER_LEN + 8) + HEADER_LEN], len: 0, written: 0 };

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn push_number(&mut self, kind: Kind, number: u64) {
        self.push(&encode_number(kind, number));
    }

    fn unwritten(&self) -> &[u8] {
        &self.bytes[self.written..self.len]
    }
}

/// Takes from `input` what is missing of a unit of `need` bytes, and returns how much that was, and the unit once it is
/// whole: in place where it can be, else out of `partial`.
fn gather<'a>(partial: &'a mut Vec<u8>, need: usize, input: &'a [u8]) -> (usize, Option<&'a [u8]>) {
    if partial.is_empty() && input.len() >= need {
        return (need, Some(&input[..need]));
    }
    let taken = input.len().min(need - partial.len());
    partial.extend_from_slice(&input[..taken]);
    (taken, (partial.len() == need).then_some(partial.as_slice()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ErrorCode;

    /// Two ends and the wire between them: bytes under way in each direction, which a cut loses.
    struct Pair {
        ends: [Session; 2],
        wires: [Vec<u8>; 2],
        /// What each end's local side has been given.
        heard: [Vec<u8>; 2],
        said: [u64; 2],
        now: Instant,
    }

    impl Pair {
        fn new(window: u64) -> Self {
            let now = Instant::from_millis(1_000);
            let mut pair = Self {
                ends: [Session::new(window, window, now), Session::new(window, window, now)],
                wires: [Vec::new(), Vec::new()],
                heard: [Vec::new(), Vec::new()],
                said: [0, 0],
                now,
            };
            pair.relink();
            pair
        }

        /// The byte that stands at `offset` of what end `from` says.
        fn byte(from: usize, offset: u64) -> u8 {
            (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ (from as u8)
        }

        fn say(&mut self, from: usize, most: usize) {
            let amount = most.min(self.ends[from].room());
            let bytes: Vec<u8> = (0..amount as u64).map(|i| Self::byte(from, self.said[from] + i)).collect();
            self.ends[from].take(&bytes, self.now);
            self.said[from] += amount as u64;
        }

        /// Writes at most `most` bytes of what end `from` wants to send onto its wire.
        fn send(&mut self, from: usize, most: usize) {
            if self.ends[from].compose() {
                let bytes = self.ends[from].outgoing().concat();
                let n = most.min(bytes.len());
                self.wires[from].extend_from_slice(&bytes[..n]);
                self.ends[from].handle_transmitted(n, self.now);
            }
        }

        /// Delivers at most `most` bytes from the wire of `from`; the other's local side takes `takes` bytes directly.
        fn deliver(&mut self, from: usize, most: usize, takes: usize) {
            let to = 1 - from;
            let input: Vec<u8> = {
                let n = most.min(self.wires[from].len());
                self.wires[from].drain(..n).collect()
            };
            let mut rest = input.as_slice();
            while !rest.is_empty() {
                let piece = self.ends[to].handle_input(rest, self.now).expect("both ends are ours");
                let direct = if self.ends[to].inbox_is_empty() { takes.min(piece.data.len()) } else { 0 };
                self.heard[to].extend_from_slice(&piece.data[..direct]);
                self.ends[to].handle_data(piece.data, direct, self.now);
                rest = &rest[piece.consumed..];
            }
        }

        fn hand_on(&mut self, to: usize, most: usize) {
            let waiting = self.ends[to].inbox().concat();
            let n = most.min(waiting.len());
            self.heard[to].extend_from_slice(&waiting[..n]);
            self.ends[to].handle_handed_on(n, self.now);
        }

        fn cut(&mut self) {
            self.wires = [Vec::new(), Vec::new()];
            self.ends.iter_mut().for_each(Session::handle_link_lost);
        }

        fn relink(&mut self) {
            let number = self.ends[0].link_number().max(self.ends[1].link_number()) + 1;
            let received = [self.ends[0].received(), self.ends[1].received()];
            self.ends[0].handle_link(number, received[1], self.now).expect("a valid resume");
            self.ends[1].handle_link(number, received[0], self.now).expect("a valid resume");
        }

        /// Lets everything that was said arrive.
        fn settle(&mut self) {
            for _ in 0..100_000 {
                let before = (self.ends[0].progress(), self.ends[1].progress());
                for from in [0, 1] {
                    while self.ends[from].compose() {
                        self.send(from, usize::MAX);
                    }
                    self.deliver(from, usize::MAX, usize::MAX);
                    self.hand_on(1 - from, usize::MAX);
                }
                self.now = self.now + ACK_DELAY;
                assert!(self.ends.iter_mut().all(|end| end.poll(self.now).is_none()));
                if before == (self.ends[0].progress(), self.ends[1].progress())
                    && self.ends.iter().all(|end| end.out.is_empty())
                {
                    return;
                }
            }
            panic!("never settled");
        }

        fn check(&self) {
            for from in [0, 1] {
                let heard = &self.heard[1 - from];
                let wrong = (0..).zip(heard).find(|(offset, byte)| Self::byte(from, *offset) != **byte);
                assert_eq!(wrong, None, "end {} heard a wrong byte", 1 - from);
                assert!(heard.len() as u64 <= self.said[from]);
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Say(usize, usize),
        Send(usize, usize),
        Deliver(usize, usize, usize),
        HandOn(usize, usize),
        Cut,
        Wait(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let end = 0usize..2;
        let amount = prop_oneof![0usize..40, 0usize..200_000];
        prop_oneof![
            4 => (end.clone(), amount.clone()).prop_map(|(end, n)| Step::Say(end, n)),
            6 => (end.clone(), amount.clone()).prop_map(|(end, n)| Step::Send(end, n)),
            6 => (end.clone(), amount.clone(), amount.clone()).prop_map(|(end, n, m)| Step::Deliver(end, n, m)),
            3 => (end, amount).prop_map(|(end, n)| Step::HandOn(end, n)),
            2 => Just(Step::Cut),
            1 => (0u64..100).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_doubled_or_reordered_over_any_links(
            steps in proptest::collection::vec(any_step(), 1..200),
            window in prop_oneof![Just(64u64), Just(5_000), Just(WINDOW)],
        ) {
            let mut pair = Pair::new(window);
            for step in steps {
                match step {
                    Step::Say(end, n) => pair.say(end, n),
                    Step::Send(end, n) => pair.send(end, n),
                    Step::Deliver(end, n, m) => pair.deliver(end, n, m),
                    Step::HandOn(end, n) => pair.hand_on(end, n),
                    Step::Cut => { pair.cut(); pair.relink(); }
                    Step::Wait(millis) => {
                        pair.now = pair.now + Duration::from_millis(millis);
                        for end in &mut pair.ends { end.poll(pair.now); }
                    }
                }
                pair.check();
                for end in &pair.ends {
                    prop_assert!(end.out.len() as u64 <= window && end.inbox.len() as u64 <= window);
                }
            }
            pair.settle();
            pair.check();
            prop_assert_eq!(pair.heard[1].len() as u64, pair.said[0]);
            prop_assert_eq!(pair.heard[0].len() as u64, pair.said[1]);
        }

        #[test]
        fn no_input_makes_the_machine_panic(input: Vec<u8>, cuts in proptest::collection::vec(1usize..50, 1..20)) {
            let mut session = Session::new(100, 100, Instant::ZERO);
            session.handle_link(1, 0, Instant::ZERO).unwrap();
            let (mut rest, mut cuts) = (input.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let n = rest.len().min(*cuts.next().unwrap());
                let Ok(piece) = session.handle_input(&rest[..n], Instant::ZERO) else { return Ok(()) };
                session.handle_data(piece.data, 0, Instant::ZERO);
                rest = &rest[piece.consumed..];
            }
        }
    }

    fn fed(records: &[u8]) -> Result<Session, ProtocolError> {
        let mut session = Session::new(1000, 1000, Instant::ZERO);
        session.handle_link(1, 0, Instant::ZERO).unwrap();
        let mut rest = records;
        while !rest.is_empty() {
            let piece = session.handle_input(rest, Instant::ZERO)?;
            session.handle_data(piece.data, 0, Instant::ZERO);
            rest = &rest[piece.consumed..];
        }
        Ok(session)
    }

    #[test]
    fn a_record_past_the_window_is_refused() {
        let mut records = Header { kind: Kind::Data, len: 1001 }.encode().to_vec();
        records.resize(1005, 0);
        assert_eq!(fed(&records).unwrap_err(), ProtocolError::PastWindow);
    }

    #[test]
    fn an_ack_of_what_was_never_sent_is_refused() {
        assert_eq!(fed(&encode_number(Kind::Ack, 1)).unwrap_err(), ProtocolError::BadAck);
    }

    #[test]
    fn no_data_may_follow_a_close_but_signs_of_life_may() {
        let mut records = Vec::new();
        Close::new(ErrorCode::ProcessExited, "").encode(&mut records);
        records.extend_from_slice(&encode_number(Kind::Ping, 1));
        records.extend_from_slice(&encode_number(Kind::Ack, 0));
        assert!(fed(&records).unwrap().peer_close().is_some());
        records.extend_from_slice(&[1, 0, 0, 1, 0]);
        assert_eq!(fed(&records).unwrap_err(), ProtocolError::AfterClose);
    }

    #[test]
    fn what_a_link_brought_across_is_known_by_the_next_link_at_the_latest() {
        let mut pair = Pair::new(1000);
        pair.say(0, 10);
        pair.send(0, usize::MAX);
        pair.deliver(0, usize::MAX, 0);
        assert_eq!(pair.ends[0].reached(), 0, "nothing was acknowledged");
        pair.cut();
        pair.relink();
        assert_eq!((pair.ends[0].reached(), pair.ends[0].progress()), (10, 0));
    }

    #[test]
    fn an_older_link_is_superseded_and_a_wrong_count_refused() {
        let mut pair = Pair::new(1000);
        assert_eq!(pair.ends[0].handle_link(1, 0, pair.now), Err(ResumeError::Superseded));
        assert_eq!(pair.ends[0].handle_link(2, 1, pair.now), Err(ResumeError::BadOffset));
        pair.say(0, 10);
        pair.settle();
        assert_eq!(
            pair.ends[0].handle_link(2, 9, pair.now),
            Err(ResumeError::BadOffset),
            "acknowledged bytes are gone"
        );
        assert_eq!(pair.ends[0].handle_link(2, 10, pair.now), Ok(()));
    }

    #[test]
    fn the_close_comes_after_all_data_and_again_on_the_next_link() {
        let mut pair = Pair::new(1000);
        pair.say(0, 500);
        pair.ends[0].finish(Close::new(ErrorCode::ProcessExited, "0"));
        pair.send(0, 300);
        pair.cut();
        pair.relink();
        pair.settle();
        assert_eq!(pair.heard[1].len(), 500);
        assert_eq!(pair.ends[1].peer_close().unwrap().code, ErrorCode::ProcessExited);
        assert_eq!(pair.ends[0].room(), 0);
    }

    #[test]
    fn two_busy_directions_do_not_stop_each_other_though_one_side_reads_nothing() {
        let mut pair = Pair::new(1000);
        for _ in 0..100 {
            pair.say(0, 1000);
            pair.say(1, 1000);
            for from in [0, 1] {
                pair.send(from, usize::MAX);
                // End 0's local side takes nothing at all.
                pair.deliver(from, usize::MAX, if from == 0 { usize::MAX } else { 0 });
            }
            pair.now = pair.now + ACK_DELAY;
            pair.ends.iter_mut().for_each(|end| {
                end.poll(pair.now);
            });
        }
        assert!(pair.heard[1].len() > 10_000, "the other direction went on: {}", pair.heard[1].len());
        assert_eq!(pair.ends[0].inbox.len(), 1000);
    }

    #[test]
    fn a_silent_link_is_asked_twice_and_then_dead_within_thirty_seconds() {
        let mut session = Session::new(1000, 1000, Instant::ZERO);
        session.handle_link(1, 0, Instant::ZERO).unwrap();
        let mut asked = Vec::new();
        let dead = loop {
            let now = session.next_deadline().unwrap();
            let effect = session.poll(now);
            if session.compose() {
                asked.push(now.as_millis());
                let n = session.outgoing().concat().len();
                session.handle_transmitted(n, now);
            }
            if effect == Some(Effect::LinkDead) {
                break now;
            }
        };
        assert_eq!((asked, dead.as_millis()), (vec![10_000, 20_000], 30_000));
    }

    #[test]
    fn an_idle_session_owns_no_buffer() {
        let mut pair = Pair::new(WINDOW);
        pair.say(0, 100_000);
        pair.settle();
        for end in &mut pair.ends {
            let later = pair.now + RELEASE_AFTER;
            end.poll(later);
            assert_eq!((end.out.capacity(), end.inbox.capacity()), (0, 0));
        }
    }
}
