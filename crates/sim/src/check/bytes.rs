//! In a session no byte is lost, doubled or reordered, in either direction, over any number of links.

use std::collections::{HashMap, HashSet};

use landfast_core::ErrorCode;

use crate::check::{Checker, Invariant, Violation};
use crate::clock::Time;
use crate::fact::{Direction, Fact, byte};

/// What was said and heard in each direction of each session.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    streams: HashMap<(usize, bool), Stream>,
    /// These hear nothing more.
    exited: HashSet<usize>,
}

#[derive(Debug, Default)]
struct Stream {
    said: u64,
    heard: u64,
}

impl Bytes {
    fn stream(&mut self, client: usize, direction: Direction) -> &mut Stream {
        self.streams.entry((client, direction == Direction::Up)).or_default()
    }

    fn hear(&mut self, client: usize, direction: Direction, bytes: &[u8]) -> Result<(), String> {
        let stream = self.stream(client, direction);
        for heard in bytes {
            let expected = byte(client, direction, stream.heard);
            if *heard != expected {
                return Err(format!("client {client}: byte {} {direction:?} is {heard}, not {expected}", stream.heard));
            }
            stream.heard += 1;
        }
        if stream.heard > stream.said {
            return Err(format!("client {client}: {} bytes heard {direction:?}, {} said", stream.heard, stream.said));
        }
        Ok(())
    }

    fn expect_whole(&mut self, client: usize, direction: Direction, when: &str) -> Result<(), String> {
        let &mut Stream { said, heard } = self.stream(client, direction);
        if said == heard {
            Ok(())
        } else {
            Err(format!("client {client}: {heard} of {said} bytes {direction:?} {when}"))
        }
    }
}

impl Checker for Bytes {
    fn observe(&mut self, at: Time, fact: Fact<'_>) -> Result<(), Violation> {
        let outcome = match fact {
            Fact::Said { client, direction, bytes } => {
                self.stream(client, direction).said += bytes;
                Ok(())
            }
            Fact::Heard { client, direction, bytes } => self.hear(client, direction, bytes),
            Fact::Told { client, code: ErrorCode::ProcessExited } => {
                self.expect_whole(client, Direction::Down, "heard when it was told of the exit")
            }
            Fact::Exited { client } => {
                self.exited.insert(client);
                Ok(())
            }
            Fact::FarTold { client, code: ErrorCode::ClientClose } if !self.exited.contains(&client) => {
                self.expect_whole(client, Direction::Up, "heard when its process was told that it closed")
            }
            Fact::Accused { client, error } => Err(format!("client {client}: an end says of the other: {error}")),
            _ => Ok(()),
        };
        outcome.map_err(|what| Violation { invariant: Invariant::Bytes, at, what })
    }
}
