//! The records of `landfast-link/1`: a 4-byte header (kind, 24-bit big-endian length), then the payload.
//!
//! | kind | payload | meaning |
//! |---|---|---|
//! | 0x01 DATA | 1 to 65,536 bytes | the next bytes of the session in this direction |
//! | 0x02 ACK | u64 | every byte before this offset was handed to the next reliable owner |
//! | 0x03 PING / 0x04 PONG | u64 | liveness; a pong carries its ping's number |
//! | 0x05 CLOSE | u8 length, code, reason (UTF-8, at most 123 bytes) | no data follows in this direction; after it the session ends |
//!
//! Integers are big-endian. Anything else is a protocol error.

use crate::ErrorCode;

/// The protocol's name in `Upgrade`.
pub const PROTOCOL: &str = "landfast-link/1";

/// A record's header in bytes.
pub const HEADER_LEN: usize = 4;

/// The most bytes one DATA record carries: large enough that its header costs nothing, small enough that an ACK or a
/// CLOSE behind it never waits long.
pub const DATA_MAX: usize = 64 * 1024;

/// The most bytes any other record's payload has: a CLOSE with its longest code and reason.
pub const CONTROL_MAX: usize = 1 + 255 + REASON_MAX;

/// The most bytes of a CLOSE's reason, so that it fits a WebSocket close frame.
pub const REASON_MAX: usize = 123;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The next bytes of the session.
    Data,
    /// What the peer has handed on.
    Ack,
    /// A question whether we live.
    Ping,
    /// The answer to ours.
    Pong,
    /// The end of the session.
    Close,
}

/// The first four bytes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record is.
    pub kind: Kind,
    /// The payload's length in bytes.
    pub len: usize,
}

/// How a peer broke the protocol. The session survives; the link does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The kind byte is none of ours.
    UnknownKind(u8),
    /// The payload's length is not one its kind allows.
    BadLength {
        /// The record's kind.
        kind: Kind,
        /// The length it claimed.
        len: usize,
    },
    /// DATA past the window we granted.
    PastWindow,
    /// An ACK for bytes that were never sent, or fewer than were acknowledged before.
    BadAck,
    /// A CLOSE that could not be read.
    BadClose,
    /// Data, or another CLOSE, after CLOSE.
    AfterClose,
}

impl ProtocolError {
    /// The row of the error table.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::BadLength { kind: Kind::Data, .. } => ErrorCode::LinkRecordTooLarge,
            Self::PastWindow => ErrorCode::LinkWindow,
            Self::UnknownKind(_) | Self::BadLength { .. } | Self::BadAck | Self::BadClose | Self::AfterClose => {
                ErrorCode::LinkProtocol
            }
        }
    }
}

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownKind(kind) => write!(f, "unknown record kind {kind:#04x}"),
            Self::BadLength { kind, len } => write!(f, "a {kind:?} record of {len} bytes"),
            Self::PastWindow => f.write_str("DATA past the window"),
            Self::BadAck => f.write_str("ACK of bytes that were never sent"),
            Self::BadClose => f.write_str("a CLOSE that cannot be read"),
            Self::AfterClose => f.write_str("data after CLOSE"),
        }
    }
}

impl std::error::Error for ProtocolError {}

impl Header {
    /// Writes the header.
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        let kind = match self.kind {
            Kind::Data => 1,
            Kind::Ack => 2,
            Kind::Ping => 3,
            Kind::Pong => 4,
            Kind::Close => 5,
        };
        let len = (self.len as u32).to_be_bytes();
        [kind, len[1], len[2], len[3]]
    }

    /// Reads a header and checks that its length is one its kind allows.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::UnknownKind`] and [`ProtocolError::BadLength`].
    pub const fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, ProtocolError> {
        let len = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]) as usize;
        let (kind, allowed) = match bytes[0] {
            1 => (Kind::Data, len >= 1 && len <= DATA_MAX),
            2 => (Kind::Ack, len == 8),
            3 => (Kind::Ping, len == 8),
            4 => (Kind::Pong, len == 8),
            5 => (Kind::Close, len >= 1 && len <= CONTROL_MAX),
            other => return Err(ProtocolError::UnknownKind(other)),
        };
        if allowed { Ok(Self { kind, len }) } else { Err(ProtocolError::BadLength { kind, len }) }
    }
}

/// A record with a number for payload: ACK, PING or PONG.
pub fn encode_number(kind: Kind, number: u64) -> [u8; HEADER_LEN + 8] {
    debug_assert!(matches!(kind, Kind::Ack | Kind::Ping | Kind::Pong));
    let mut record = [0; HEADER_LEN + 8];
    record[..HEADER_LEN].copy_from_slice(&Header { kind, len: 8 }.encode());
    record[HEADER_LEN..].copy_from_slice(&number.to_be_bytes());
    record
}

/// Why a session ends, as it crosses a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The cause.
    pub code: ErrorCode,
    /// What exactly happened, at most [`REASON_MAX`] bytes.
    pub reason: String,
}

impl Close {
    /// Makes a close; a longer reason is cut at a character boundary.
    pub fn new(code: ErrorCode, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        let mut end = reason.len().min(REASON_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        Self { code, reason }
    }

    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let code = self.code.as_str().as_bytes();
        let len = 1 + code.len() + self.reason.len();
        out.extend_from_slice(&Header { kind: Kind::Close, len }.encode());
        out.push(code.len() as u8);
        out.extend_from_slice(code);
        out.extend_from_slice(self.reason.as_bytes());
    }

    /// Reads a CLOSE's payload. A code of a newer release reads as `internal`, its text kept in the reason.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::BadClose`] if it is cut short or not UTF-8.
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let (&code_len, rest) = payload.split_first().ok_or(ProtocolError::BadClose)?;
        let (code, reason) = rest.split_at_checked(code_len as usize).ok_or(ProtocolError::BadClose)?;
        let code = std::str::from_utf8(code).map_err(|_| ProtocolError::BadClose)?;
        let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::BadClose)?;
        Ok(match ErrorCode::parse(code) {
            Some(code) => Self::new(code, reason),
            None => Self::new(ErrorCode::Internal, format!("{code}: {reason}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_survives_its_bytes(len in 1..=DATA_MAX) {
            let header = Header { kind: Kind::Data, len };
            prop_assert_eq!(Header::decode(header.encode()), Ok(header));
        }

        #[test]
        fn no_bytes_make_the_decoders_panic(head: [u8; 4], payload: Vec<u8>) {
            let _ = Header::decode(head);
            let _ = Close::decode(&payload);
        }

        #[test]
        fn a_close_survives_its_bytes(reason in ".{0,200}") {
            let close = Close::new(ErrorCode::UpstreamChanged, reason);
            let mut bytes = Vec::new();
            close.encode(&mut bytes);
            let header = Header::decode(bytes[..4].try_into().unwrap()).unwrap();
            prop_assert_eq!(header.len, bytes.len() - 4);
            prop_assert_eq!(Close::decode(&bytes[4..]).unwrap(), close);
        }
    }

    #[test]
    fn lengths_a_kind_does_not_allow_are_refused() {
        for bytes in [[1, 0, 0, 0], [1, 1, 0, 1], [2, 0, 0, 7], [3, 0, 0, 9], [5, 0, 0, 0], [5, 1, 0, 0]] {
            assert!(matches!(Header::decode(bytes), Err(ProtocolError::BadLength { .. })), "{bytes:?}");
        }
        assert_eq!(Header::decode([9, 0, 0, 0]), Err(ProtocolError::UnknownKind(9)));
    }
}
