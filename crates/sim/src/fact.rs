//! What an observer who knows nothing of the code could see: the only thing the checkers are given.

use landfast_core::record::{Generation, Phase};
use landfast_core::{ErrorCode, InstanceId};

use crate::clock::Time;

/// A direction of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client to its process.
    Up,
    /// From the process to its client.
    Down,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fact<'a> {
    /// A client has connected and asked for its process.
    Attached { client: usize, gateway: usize, instance: InstanceId },
    /// A client or a process has said this many further bytes.
    Said { client: usize, direction: Direction, bytes: u64 },
    /// A process or a client was given these.
    Heard { client: usize, direction: Direction, bytes: &'a [u8] },
    /// A client's process has exited; it says nothing more.
    Exited { client: usize },
    /// A client has left: after a close frame, or by losing its connection.
    Left { client: usize, cleanly: bool },
    /// A gateway has sent a client its close frame.
    Closed { client: usize, code: ErrorCode },
    /// A client was told why its session ended.
    Told { client: usize, code: ErrorCode },
    /// A client's connection ended without a word.
    Cut { client: usize },
    /// The process's end of a session was told why it ended.
    FarTold { client: usize, code: ErrorCode },
    /// A link stands; the process's end has received this many bytes of the session by then.
    Linked { client: usize, far_received: u64 },
    /// It is lost; the client's end has received this many bytes of its session by now.
    Unlinked { client: usize, received: u64 },
    /// One of our ends accused the other of breaking the protocol.
    Accused { client: usize, error: &'a str },
    /// A connection or bytes of it reached an instance through a node.
    Served { instance: InstanceId, node: usize, generation: Generation },
    /// The store has accepted this record.
    Recorded { instance: InstanceId, phase: Phase, generation: Generation, node: Option<usize>, is_bound: bool },
    /// A node has ended what ran of an instance, by what it knew of up to a generation.
    Ended { instance: InstanceId, node: usize, known: Generation, life: Generation },
    /// The store is away for everybody until then, whatever was said before.
    Away { until: Time },
    /// A node's lease has lapsed while it was.
    Lapsed { node: usize },
    /// A node has a lease again.
    Leased { node: usize },
    /// A gateway sent somebody there.
    Routed { gateway: usize, instance: InstanceId, generation: Generation },
    /// A gateway begins to shut down.
    Draining { gateway: usize },
    /// A gateway's process has died.
    GatewayDied { gateway: usize },
    /// Something was done to the cell.
    Mischief(&'a str),
    /// From here on nothing is done to the cell any more.
    Calm,
}

impl Fact<'_> {
    /// The client whose session it concerns.
    pub(crate) const fn client(&self) -> Option<usize> {
        match *self {
            Self::Attached { client, .. }
            | Self::Said { client, .. }
            | Self::Heard { client, .. }
            | Self::Exited { client }
            | Self::Left { client, .. }
            | Self::Closed { client, .. }
            | Self::Told { client, .. }
            | Self::Cut { client }
            | Self::FarTold { client, .. }
            | Self::Linked { client, .. }
            | Self::Unlinked { client, .. }
            | Self::Accused { client, .. } => Some(client),
            Self::Served { .. }
            | Self::Recorded { .. }
            | Self::Ended { .. }
            | Self::Away { .. }
            | Self::Lapsed { .. }
            | Self::Leased { .. }
            | Self::Routed { .. }
            | Self::Draining { .. }
            | Self::GatewayDied { .. }
            | Self::Mischief(_)
            | Self::Calm => None,
        }
    }
}

/// The byte that stands at `offset` of what is said in a direction: numbered, so that a byte that is lost, doubled or
/// out of place shows.
pub(crate) const fn byte(client: usize, direction: Direction, offset: u64) -> u8 {
    let stream = client as u64 * 2 + direction as u64 + 1;
    let mixed = (offset ^ (stream << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 56) as u8
}

/// The bytes from `offset` on.
pub(crate) fn bytes(client: usize, direction: Direction, offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|offset| byte(client, direction, offset)).collect()
}
