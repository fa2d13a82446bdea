//! Takes out of a client's WebSocket the pongs that answer a gateway's own pings.
//!
//! A gateway that pings a client on its own behalf marks the ping, and the client echoes the mark. The instance's program
//! never asked, so the answer must not reach it. Every other byte passes as it came: frames are followed by their headers,
//! and only the first bytes of a pong are ever kept back, until they tell whose it is.

use landfast_core::ws::{Follower, Header, Opcode, apply_mask};

/// What the payload of a gateway's ping, and so of its pong, begins with.
const MARK: &[u8] = b"landfast:";

/// Enough of a pong to know whose it is: a control frame's header with its mask, and as much payload as the mark.
const JUDGED_MAX: usize = 2 + 4 + MARK.len();

/// The low bits of a pong's first byte.
const PONG: u8 = 0xa;

/// What to do with the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// So many may pass. Those that did are told to [`Sieve::passed`].
    Pass(usize),
    /// So many were taken: they are kept back, or gone.
    Took(usize),
    /// None, before what is [kept](Sieve::kept) has passed.
    Release,
}

/// One direction of a WebSocket, from the client.
#[derive(Debug, Default)]
pub(crate) struct Sieve {
    /// Follows what has passed.
    passed: Follower,
    /// The beginning of a pong.
    kept: [u8; JUDGED_MAX],
    kept_len: usize,
    /// How much of what is kept has passed, once it may.
    released: Option<usize>,
    /// What is still to come of a gateway's pong.
    dropping: u64,
}

impl Sieve {
    /// Looks at the next bytes, of which there is at least one.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Next {
        if self.released.is_some() {
            return Next::Release;
        }
        if self.dropping > 0 {
            let taken = self.dropping.min(bytes.len() as u64);
            self.dropping -= taken;
            return Next::Took(taken as usize);
        }
        let free = if self.kept_len == 0 { self.up_to_pong(bytes) } else { 0 };
        if free > 0 { Next::Pass(free) } else { self.judge(bytes) }
    }

    /// These bytes, all or the first of what [`Next::Pass`] allowed, have passed.
    pub(crate) fn passed(&mut self, bytes: &[u8]) {
        self.passed.advance(bytes);
    }

    /// What was kept back and is to pass next.
    pub(crate) fn kept(&self) -> &[u8] {
        self.released.map_or(&[], |released| &self.kept[released..self.kept_len])
    }

    /// `n` bytes of [`Self::kept`] have passed.
    pub(crate) fn released(&mut self, n: usize) {
        let released = self.released.map_or(0, |released| released + n);
        self.released = Some(released);
        if released == self.kept_len {
            self.passed.advance(&self.kept[..self.kept_len]);
            (self.released, self.kept_len) = (None, 0);
        }
    }

    /// How many bytes stand before the next pong.
    fn up_to_pong(&self, bytes: &[u8]) -> usize {
        let (mut follower, mut at) = (self.passed.clone(), 0);
        while at < bytes.len() && !(follower.at_boundary() && bytes[at] & 0xf == PONG) {
            at += follower.advance_to_boundary(&bytes[at..]);
        }
        at
    }

    /// Keeps bytes of a pong until one tells whose it is. If it is the client's, that byte is not taken: what is kept
    /// then never waits for bytes that may not come.
    fn judge(&mut self, bytes: &[u8]) -> Next {
        for (taken, &byte) in bytes.iter().enumerate() {
            self.kept[self.kept_len] = byte;
            match verdict(&self.kept[..=self.kept_len]) {
                Verdict::Open => self.kept_len += 1,
                Verdict::Gateways { left } => {
                    (self.kept_len, self.dropping) = (0, left);
                    return Next::Took(taken + 1);
                }
                Verdict::Clients if taken == 0 => {
                    self.released = Some(0);
                    return Next::Release;
                }
                Verdict::Clients => return Next::Took(taken),
            }
        }
        Next::Took(bytes.len())
    }
}

/// Whose a pong is.
enum Verdict {
    /// Not known yet.
    Open,
    /// A gateway's, of which so much is still to come.
    Gateways { left: u64 },
    /// The client's own, or no pong that may be.
    Clients,
}

/// Judges a pong by its first bytes; of one byte nothing is known.
fn verdict(bytes: &[u8]) -> Verdict {
    let (header, at) = match Header::decode(bytes) {
        Ok(Some(header)) => header,
        Ok(None) => return Verdict::Open,
        Err(_) => return Verdict::Clients,
    };
    debug_assert_eq!(header.opcode, Opcode::Pong);
    let (mut seen, len) = ([0; MARK.len()], bytes.len() - at);
    seen[..len].copy_from_slice(&bytes[at..]);
    if let Some(mask) = header.mask {
        apply_mask(mask, 0, &mut seen[..len]);
    }
    if header.len < MARK.len() as u64 || seen[..len] != MARK[..len] {
        Verdict::Clients
    } else if len == MARK.len() {
        Verdict::Gateways { left: header.len - len as u64 }
    } else {
        Verdict::Open
    }
}

#[cfg(test)]
mod tests {
    use landfast_core::ws::HEADER_MAX;
    use proptest::prelude::*;

    use super::*;

    /// Sifts a stream that comes in pieces, into a program that takes pieces.
    fn sift(stream: &[u8], cuts: &[usize]) -> Vec<u8> {
        let (mut sieve, mut out, mut cut) = (Sieve::default(), Vec::new(), cuts.iter().copied().cycle());
        let mut at = 0;
        while at < stream.len() {
            let piece = &stream[at..(at + cut.next().unwrap()).min(stream.len())];
            match sieve.next(piece) {
                Next::Pass(n) => {
                    let n = n.min(cut.next().unwrap());
                    out.extend_from_slice(&piece[..n]);
                    sieve.passed(&piece[..n]);
                    at += n;
                }
                Next::Took(n) => at += n,
                Next::Release => {
                    let n = sieve.kept().len().min(cut.next().unwrap());
                    out.extend_from_slice(&sieve.kept()[..n]);
                    sieve.released(n);
                }
            }
        }
        out
    }

    fn frame(opcode: Opcode, fin: bool, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; HEADER_MAX];
        let len = Header { fin, rsv: 0, opcode, mask, len: payload.len() as u64 }.encode(&mut header);
        let mut frame = header[..len].to_vec();
        frame.extend_from_slice(payload);
        if let Some(mask) = mask {
            apply_mask(mask, 0, &mut frame[len..]);
        }
        frame
    }

    fn any_frame() -> impl Strategy<Value = (Vec<u8>, bool)> {
        let data = (0usize..3, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300)).prop_map(
            |(opcode, fin, payload)| ([Opcode::Continuation, Opcode::Text, Opcode::Binary][opcode], fin, payload),
        );
        let pong = prop_oneof![
            Just(b"landfast:".to_vec()),
            Just(b"landfast:12 34".to_vec()),
            Just(b"landfast".to_vec()),
            Just(b"landfish: not ours".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..126),
        ];
        let pong = pong.prop_map(|payload| (Opcode::Pong, true, payload));
        let ping = Just((Opcode::Ping, true, b"landfast:1".to_vec()));
        (prop_oneof![data, pong, ping], any::<Option<[u8; 4]>>()).prop_map(|((opcode, fin, payload), mask)| {
            let is_ours = opcode == Opcode::Pong && payload.starts_with(MARK);
            (frame(opcode, fin, mask, &payload), is_ours)
        })
    }

    proptest! {
        #[test]
        fn exactly_the_gateways_pongs_are_gone_however_the_bytes_are_cut(
            frames in proptest::collection::vec(any_frame(), 1..12),
            cuts in proptest::collection::vec(prop_oneof![1usize..4, 1usize..400], 1..40),
        ) {
            let stream: Vec<u8> = frames.iter().flat_map(|(frame, _)| frame.clone()).collect();
            let kept: Vec<u8> = frames.iter().filter(|(_, is_ours)| !is_ours).flat_map(|(frame, _)| frame.clone()).collect();
            prop_assert_eq!(sift(&stream, &cuts), kept);
        }

        #[test]
        fn what_is_no_websocket_passes_whole(
            rest in proptest::collection::vec(any::<u8>(), 0..100),
            cuts in proptest::collection::vec(1usize..50, 1..10),
        ) {
            // A text frame with an undefined opcode behind it: from there on nothing is understood.
            let stream = [frame(Opcode::Text, true, None, b"hello"), vec![0x83, 0], rest].concat();
            prop_assert_eq!(sift(&stream, &cuts), stream);
        }
    }

    #[test]
    fn a_pong_is_kept_back_only_while_it_could_be_a_gateways() {
        let mut sieve = Sieve::default();
        let pong = frame(Opcode::Pong, true, None, b"land of the free");
        assert_eq!(sieve.next(&pong[..6]), Next::Took(6));
        assert_eq!(sieve.next(&pong[6..]), Next::Release, "the byte that tells is not taken");
        assert_eq!(sieve.kept(), &pong[..6]);
        sieve.released(6);
        assert_eq!(sieve.next(&pong[6..]), Next::Pass(pong.len() - 6));
    }
}
