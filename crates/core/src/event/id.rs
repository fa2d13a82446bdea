//! Where in the events of an instance somebody is.

use std::fmt;
use std::str::FromStr;

/// The id of an event: `{agent start}.{seq}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// The start of the agent that saw it: the Unix time in milliseconds, made to grow.
    pub start: u64,
    /// Its number since then, from 1.
    pub seq: u64,
}

/// The last event that a reader has: an id, or a plain number as by readers that know no starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The start that the reader means; none if it only said a number.
    pub start: Option<u64>,
    /// The number.
    pub seq: u64,
}

/// Why a reader cannot go on from a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorError {
    /// The text is neither an id nor a number.
    Malformed,
    /// The id is of this agent's start, and no event has it yet.
    NotYet,
}

impl EventId {
    /// By how much starts differ at least, so that a position tells them apart.
    pub const START_STEP: u64 = 1 << Self::STEP_BITS;

    const STEP_BITS: u32 = 10;

    /// Bits of a position for the number: at a thousand events per second, 99 days of one agent.
    const SEQ_BITS: u32 = 33;

    /// 2020 began then: with it a position stays below 2^63 until 2054.
    const EPOCH: u64 = 1_577_836_800_000;

    /// A start that comes after `last`.
    pub fn next_start(now_millis: u64, last: Option<u64>) -> u64 {
        now_millis.max(Self::EPOCH).max(last.map_or(0, |last| last + Self::START_STEP))
    }

    /// What positions know of a start: enough to tell two apart.
    pub(super) const fn era(start: u64) -> u64 {
        start.saturating_sub(Self::EPOCH) >> Self::STEP_BITS
    }

    /// The era and the number in a position.
    pub(super) const fn parts(position: u64) -> (u64, u64) {
        (position >> Self::SEQ_BITS, position & ((1 << Self::SEQ_BITS) - 1))
    }

    /// The id as one positive number that sorts the same way, for cursors that must be one.
    pub const fn position(self) -> u64 {
        let start = Self::era(self.start);
        let most = (1 << Self::SEQ_BITS) - 1;
        start << Self::SEQ_BITS | if self.seq < most { self.seq } else { most }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.start, self.seq)
    }
}

impl FromStr for EventId {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (start, seq) = text.split_once('.').ok_or(CursorError::Malformed)?;
        Ok(Self { start: number(start)?, seq: number(seq)? })
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        match text.parse::<EventId>() {
            Ok(id) => Ok(id.into()),
            Err(_) => Ok(Self { start: None, seq: number(text)? }),
        }
    }
}

impl From<EventId> for Cursor {
    fn from(id: EventId) -> Self {
        Self { start: Some(id.start), seq: id.seq }
    }
}

/// Digits only: what `u64` takes besides, such as a sign, is nobody's id.
fn number(text: &str) -> Result<u64, CursorError> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain).ok_or(CursorError::Malformed)
}

impl fmt::Display for CursorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "an event's id is {start}.{seq}, or a number",
            Self::NotYet => "no event has this id yet",
        })
    }
}

impl std::error::Error for CursorError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = EventId { start: 1_790_000_000_000, seq: 42 };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("1790000000000.42".parse(), Ok(Cursor { start: Some(id.start), seq: 42 }));
        assert_eq!("42".parse(), Ok(Cursor { start: None, seq: 42 }));
    }

    #[test]
    fn anything_else_is_no_id() {
        for text in ["", ".", "1.", ".1", "1.2.3", "-1", "+1", "1.+1", "1 ", "x", "1.99999999999999999999"] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn positions_sort_as_ids_do_and_are_positive_64_bit_numbers() {
        let first = EventId::next_start(1_790_000_000_000, None);
        let second = EventId::next_start(1_700_000_000_000, Some(first));
        let ids = [(first, 1), (first, 2), (first, 1 << 32), (second, 1), (second, 7)];
        let positions = ids.map(|(start, seq)| EventId { start, seq }.position());
        assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
        assert!(positions.iter().all(|&position| 0 < position && i64::try_from(position).is_ok()));
    }
}
