//! Chunked bodies (RFC 9112, section 7.1), read strictly and in place.
//!
//! Two readers that disagree on where a chunk ends are how requests are smuggled past a proxy. So sizes are plain
//! hexadecimal, lines end with CR LF and nothing else, and what comes out is written anew instead of being passed on.

use std::fmt;

/// The most bytes of extensions behind one chunk's size; nobody is known to use any.
const EXTENSION_MAX: u32 = 1024;

/// The most bytes of trailers.
const TRAILER_MAX: usize = 16 * 1024;

/// The most digits of a size: more would not fit a `u64`.
const DIGITS_MAX: u8 = 16;

/// What the head of a chunk takes at most: the digits of any size, and CR LF.
pub const HEAD_MAX: usize = DIGITS_MAX as usize + 2;

/// The chunk that ends a body without trailers.
pub const LAST: &[u8] = b"0\r\n\r\n";

/// Why bytes are no chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// A size that is no plain hexadecimal number of at most 16 digits.
    Size,
    /// An extension that is too long or has control characters.
    Extension,
    /// Something else than CR LF where a line or a chunk ends.
    LineEnd,
    /// Trailers that are too long.
    Trailer,
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size => "a chunk's size is no plain hexadecimal number",
            Self::Extension => "a chunk's extension is too long or has control characters",
            Self::LineEnd => "a chunk or its line does not end with CR LF",
            Self::Trailer => "the trailers are too long",
        })
    }
}

impl std::error::Error for ChunkError {}

/// What was made of some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// How many bytes of the body now stand at the front.
    pub payload: usize,
    /// How many bytes were read; what follows them belongs to the next message.
    pub consumed: usize,
}

/// Reads one chunked body.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    state: State,
    trailer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the digits of a size.
    Size {
        size: u64,
        digits: u8,
    },
    /// In what follows the digits.
    Extension {
        size: u64,
        len: u32,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    Trailer,
    Done,
}

impl Default for State {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

impl Decoder {
    /// Reads `bytes` and moves what they hold of the body to their front. All are consumed, unless the body ends in them.
    ///
    /// # Errors
    ///
    /// [`ChunkError`]; nothing after it can be trusted.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, ChunkError> {
        let mut decoded = Decoded::default();
        while decoded.consumed < bytes.len() && self.state != State::Done {
            if let State::Data { left } = self.state {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - decoded.consumed);
                bytes.copy_within(decoded.consumed..decoded.consumed + len, decoded.payload);
                decoded.payload += len;
                decoded.consumed += len;
                let left = left - len as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
            } else {
                self.state = self.step(bytes[decoded.consumed])?;
                decoded.consumed += 1;
            }
        }
        Ok(decoded)
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The trailers as they stood, with the empty line that ended them; empty if there were none.
    pub fn trailer(&self) -> &[u8] {
        if self.trailer == b"\r\n" { &[] } else { &self.trailer }
    }

    /// Reads one byte that is none of the body's.
    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == DIGITS_MAX {
                    return Err(ChunkError::Size);
                }
                let digit = char::from(byte).to_digit(16).expect("it is one");
                State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { digits: 0, .. }, _) => return Err(ChunkError::Size),
            (State::Size { size, .. } | State::Extension { size, .. }, b'\r') => State::SizeLf { size },
            (State::Size { size, .. }, b';') => State::Extension { size, len: 0 },
            (State::Size { .. }, _) => return Err(ChunkError::Size),
            (State::Extension { size, len }, b'\t' | b' '..=b'~' | 0x80..) if len < EXTENSION_MAX => {
                State::Extension { size, len: len + 1 }
            }
            (State::Extension { .. }, _) => return Err(ChunkError::Extension),
            (State::SizeLf { size: 0 }, b'\n') => State::Trailer,
            (State::SizeLf { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::default(),
            (State::SizeLf { .. } | State::DataCr | State::DataLf, _) => return Err(ChunkError::LineEnd),
            (State::Trailer, _) => return self.trail(byte),
            (State::Data { .. } | State::Done, _) => unreachable!("such bytes are not read one by one"),
        })
    }

    fn trail(&mut self, byte: u8) -> Result<State, ChunkError> {
        if byte == b'\n' && self.trailer.last() != Some(&b'\r') {
            return Err(ChunkError::LineEnd);
        }
        if self.trailer.len() == TRAILER_MAX {
            return Err(ChunkError::Trailer);
        }
        self.trailer.push(byte);
        let ended = self.trailer == b"\r\n" || self.trailer.ends_with(b"\r\n\r\n");
        Ok(if ended { State::Done } else { State::Trailer })
    }
}

/// The head of a chunk of `len` bytes, which CR LF must follow; `len` is not 0.
pub fn head(len: usize, space: &mut [u8; HEAD_MAX]) -> &[u8] {
    let mut at = HEAD_MAX - 2;
    space[at..].copy_from_slice(b"\r\n");
    let mut rest = len;
    while rest > 0 {
        at -= 1;
        space[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    &space[at..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body in `bytes`, read in pieces of `step`; what is left after it; and its trailers.
    fn read(bytes: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>, Decoder), ChunkError> {
        let (mut decoder, mut body, mut rest) = (Decoder::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            let mut piece = piece.to_vec();
            let Decoded { payload, consumed } = decoder.decode(&mut piece)?;
            assert!(rest.is_empty() || consumed == 0, "something was consumed after the end");
            rest.extend_from_slice(&piece[consumed..]);
            piece.truncate(payload);
            body.append(&mut piece);
        }
        Ok((body, rest, decoder))
    }

    #[test]
    fn a_body_is_what_stands_in_its_chunks_however_it_is_cut() {
        let text = b"4;a=b\r\nWiki\r\n005\r\npedia\r\n0\r\nX: 1\r\n\r\nGET";
        for step in 1..text.len() {
            let (body, rest, decoder) = read(text, step).unwrap();
            assert_eq!((body.as_slice(), rest.as_slice()), (&b"Wikipedia"[..], &b"GET"[..]), "{step}");
            assert!(decoder.is_done());
            assert_eq!(decoder.trailer(), b"X: 1\r\n\r\n");
        }
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
        for (text, why) in [
            (&b"\r\n"[..], ChunkError::Size),
            (b"0x4\r\n", ChunkError::Size),
            (b"-4\r\n", ChunkError::Size),
            (b" 4\r\n", ChunkError::Size),
            (b"4 \r\n", ChunkError::Size),
            (b"00000000000000004\r\n", ChunkError::Size),
            (b"4\nWiki", ChunkError::Size),
            (b"4;a\nWiki", ChunkError::Extension),
            (b"4\r\rWiki", ChunkError::LineEnd),
            (b"4\r\nWikiX", ChunkError::LineEnd),
            (b"4\r\nWiki\n", ChunkError::LineEnd),
            (b"0\r\nX: 1\n\n", ChunkError::LineEnd),
        ] {
            assert_eq!(read(text, 64).map(drop), Err(why), "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let long = [b"1;".as_slice(), &[b'a'; 2000]].concat();
        assert_eq!(read(&long, 4096).map(drop), Err(ChunkError::Extension));
        let long = [b"0\r\n".as_slice(), &[b'a'; TRAILER_MAX + 1]].concat();
        assert_eq!(read(&long, 4096).map(drop), Err(ChunkError::Trailer));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..5), step in 1usize..100) {
            let mut text = Vec::new();
            for piece in &pieces {
                text.extend_from_slice(head(piece.len(), &mut [0; HEAD_MAX]));
                text.extend_from_slice(piece);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(LAST);
            let (body, rest, decoder) = read(&text, step).unwrap();
            prop_assert_eq!(body, pieces.concat());
            prop_assert!(rest.is_empty() && decoder.is_done() && decoder.trailer().is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'), any::<u8>()], 0..60), step in 1usize..20) {
            let _ = read(&bytes, step);
        }
    }
}
