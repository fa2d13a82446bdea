//! Moves bytes between a session's machine, its link and its local side, as far as all three let it.

use landfast_core::link::ProtocolError;
use landfast_core::session::{Effect, Session};
use landfast_core::time::Instant;

use crate::net::{ConnId, Side};
use crate::stage::Stage;

/// What a session's bytes come from and go to.
pub(crate) trait Local {
    /// Takes what this side has to say, at most `most` bytes.
    fn take(&mut self, stage: &mut Stage, most: usize) -> Vec<u8>;

    /// Hands bytes on; returns how many were taken.
    fn give(&mut self, stage: &mut Stage, bytes: &[u8]) -> usize;
}

/// How a link was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    Ended,
    Dead,
    Protocol(ProtocolError),
}

/// Carries until nothing moves any more. Returns how the link was lost, if it was; the session must then be told.
pub(crate) fn carry(
    stage: &mut Stage,
    session: &mut Session,
    link: Option<(ConnId, Side)>,
    local: &mut impl Local,
    now: Instant,
) -> Option<Loss> {
    let mut loss = None;
    loop {
        let mut moved = hand_on(stage, session, local, now);
        if let Some((conn, side)) = link {
            match read_link(stage, session, conn, side, local, now) {
                Ok(n) => moved += n,
                Err(error) => return Some(Loss::Protocol(error)),
            }
        }
        moved += take(stage, session, local, now);
        if let Some((conn, side)) = link {
            moved += write_link(stage, session, conn, side, now);
        }
        if moved == 0 {
            break;
        }
    }
    if session.poll(now) == Some(Effect::LinkDead) {
        loss = Some(Loss::Dead);
    } else if let Some((conn, side)) = link {
        // What became due, an ACK or a ping.
        write_link(stage, session, conn, side, now);
        let ended = !stage.is_up(conn, side) || stage.received_end(conn, side).is_some();
        loss = ended.then_some(Loss::Ended);
    }
    loss
}

fn hand_on(stage: &mut Stage, session: &mut Session, local: &mut impl Local, now: Instant) -> usize {
    let waiting = session.inbox().concat();
    if waiting.is_empty() {
        return 0;
    }
    let n = local.give(stage, &waiting);
    session.handle_handed_on(n, now);
    n
}

fn read_link(
    stage: &mut Stage,
    session: &mut Session,
    conn: ConnId,
    side: Side,
    local: &mut impl Local,
    now: Instant,
) -> Result<usize, ProtocolError> {
    let most = stage.chance.skewed(1, 64 * 1024) as usize;
    let input = stage.receive(conn, side, most);
    let mut rest = input.as_slice();
    while !rest.is_empty() {
        let piece = session.handle_input(rest, now)?;
        let handed_on = if session.inbox_is_empty() { local.give(stage, piece.data) } else { 0 };
        session.handle_data(piece.data, handed_on, now);
        rest = &rest[piece.consumed..];
    }
    Ok(input.len())
}

fn take(stage: &mut Stage, session: &mut Session, local: &mut impl Local, now: Instant) -> usize {
    let room = session.room();
    if room == 0 {
        return 0;
    }
    let bytes = local.take(stage, room);
    session.take(&bytes, now);
    bytes.len()
}

fn write_link(stage: &mut Stage, session: &mut Session, conn: ConnId, side: Side, now: Instant) -> usize {
    let mut written = 0;
    while stage.room(conn, side) > 0 && session.compose() {
        let outgoing = session.outgoing().concat();
        let most = outgoing.len().min(stage.room(conn, side));
        let n = if stage.chance.percent(70) { most } else { stage.chance.between(1, most as u64) as usize };
        stage.send(conn, side, &outgoing[..n]);
        session.handle_transmitted(n, now);
        written += n;
    }
    written
}
