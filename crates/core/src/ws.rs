//! WebSocket frames (RFC 6455) by their headers: enough to speak the protocol at an end, and to follow frame boundaries
//! in between without decoding, unmasking or re-framing anything.

/// The longest frame header: 2 bytes, an 8-byte length, a 4-byte mask.
pub const HEADER_MAX: usize = 14;

/// The most bytes in the payload of a control frame.
pub const CONTROL_MAX: usize = 125;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// Goes on with a fragmented message.
    Continuation,
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
    /// The closing handshake.
    Close,
    /// Liveness.
    Ping,
    /// The answer to a ping.
    Pong,
}

impl Opcode {
    /// Whether the frame may stand between the fragments of a message.
    pub const fn is_control(self) -> bool {
        match self {
            Self::Close | Self::Ping | Self::Pong => true,
            Self::Continuation | Self::Text | Self::Binary => false,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether this is a message's last fragment.
    pub fin: bool,
    /// The three reserved bits, as the low bits of the number; extensions use them.
    pub rsv: u8,
    /// What the frame is.
    pub opcode: Opcode,
    /// The key a client masks with; a server never does.
    pub mask: Option<[u8; 4]>,
    /// The payload's length in bytes.
    pub len: u64,
}

/// A header that RFC 6455 does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// An opcode that is not defined.
    Opcode(u8),
    /// A control frame that is fragmented or longer than 125 bytes.
    Control,
    /// A length with its highest bit set, or not in its shortest form.
    Length,
    /// A close frame whose payload is one byte, or whose code may not be sent, or whose reason is not UTF-8.
    Close,
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Opcode(bits) => write!(f, "undefined opcode {bits:#x}"),
            Self::Control => f.write_str("a control frame that is fragmented or too long"),
            Self::Length => f.write_str("a length that is not in its shortest form"),
            Self::Close => f.write_str("a close frame that cannot be read"),
        }
    }
}

impl std::error::Error for FrameError {}

impl Header {
    /// A whole, unmasked frame.
    pub const fn server(opcode: Opcode, len: u64) -> Self {
        Self { fin: true, rsv: 0, opcode, mask: None, len }
    }

    /// Writes the header into `out` and returns its length.
    pub fn encode(&self, out: &mut [u8; HEADER_MAX]) -> usize {
        out[0] = (u8::from(self.fin) << 7) | ((self.rsv & 7) << 4) | self.opcode.bits();
        let masked = u8::from(self.mask.is_some()) << 7;
        let mut at = match self.len {
            0..=125 => {
                out[1] = masked | self.len as u8;
                2
            }
            126..=0xffff => {
                out[1] = masked | 126;
                out[2..4].copy_from_slice(&(self.len as u16).to_be_bytes());
                4
            }
            _ => {
                out[1] = masked | 127;
                out[2..10].copy_from_slice(&self.len.to_be_bytes());
                10
            }
        };
        if let Some(mask) = self.mask {
            out[at..at + 4].copy_from_slice(&mask);
            at += 4;
        }
        at
    }

    /// Reads a header from the front of `bytes`: the header and its length, or `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// What RFC 6455 does not allow in a header.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let opcode = Opcode::from_bits(first & 0xf).ok_or(FrameError::Opcode(first & 0xf))?;
        let fin = first & 0x80 != 0;
        let short = second & 0x7f;
        if opcode.is_control() && (!fin || short > 125) {
            return Err(FrameError::Control);
        }
        let (len, mut at) = match short {
            126 => {
                let Some(bytes) = rest.first_chunk::<2>() else { return Ok(None) };
                let len = u64::from(u16::from_be_bytes(*bytes));
                if len < 126 {
                    return Err(FrameError::Length);
                }
                (len, 4)
            }
            127 => {
                let Some(bytes) = rest.first_chunk::<8>() else { return Ok(None) };
                let len = u64::from_be_bytes(*bytes);
                if len <= 0xffff || len >> 63 != 0 {
                    return Err(FrameError::Length);
                }
                (len, 10)
            }
            short => (u64::from(short), 2),
        };
        let mask = if second & 0x80 != 0 {
            let Some(mask) = bytes.get(at..at + 4).and_then(|mask| mask.first_chunk::<4>()) else { return Ok(None) };
            at += 4;
            Some(*mask)
        } else {
            None
        };
        Ok(Some((Self { fin, rsv: (first >> 4) & 7, opcode, mask, len }, at)))
    }
}

/// Masks or unmasks `bytes` in place; `offset` is how far into the frame's payload they begin.
pub fn apply_mask(mask: [u8; 4], offset: u64, bytes: &mut [u8]) {
    let turn = (offset % 4) as usize;
    let key = [mask[turn], mask[(turn + 1) % 4], mask[(turn + 2) % 4], mask[(turn + 3) % 4]];
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// Whether RFC 6455 allows the code in a close frame.
pub const fn is_sendable_close(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Appends a whole, unmasked close frame. The reason is cut to what fits.
pub fn encode_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let mut end = reason.len().min(CONTROL_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    encode_server(Opcode::Close, &[&code.to_be_bytes(), &reason.as_bytes()[..end]], out);
}

/// Appends a whole, unmasked frame whose payload is the parts in order.
pub fn encode_server(opcode: Opcode, parts: &[&[u8]], out: &mut Vec<u8>) {
    let len = parts.iter().map(|part| part.len() as u64).sum();
    let mut header = [0; HEADER_MAX];
    let header_len = Header::server(opcode, len).encode(&mut header);
    out.extend_from_slice(&header[..header_len]);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Reads a close frame's payload: the code and reason, or `None` for an empty one.
///
/// # Errors
///
/// [`FrameError::Close`].
pub fn decode_close(payload: &[u8]) -> Result<Option<(u16, &str)>, FrameError> {
    match payload {
        [] => Ok(None),
        [a, b, reason @ ..] if is_sendable_close(u16::from_be_bytes([*a, *b])) => {
            let reason = std::str::from_utf8(reason).map_err(|_| FrameError::Close)?;
            Ok(Some((u16::from_be_bytes([*a, *b]), reason)))
        }
        _ => Err(FrameError::Close),
    }
}

/// Follows frame boundaries in one direction of a WebSocket by reading headers only.
///
/// A stream that is no WebSocket (a header that is not allowed) makes the follower *lost*: it then claims no boundary,
/// so that nothing is ever inserted into bytes it does not understand.
#[derive(Clone, Debug, Default)]
pub struct Follower {
    /// The part of a header seen so far.
    header: [u8; HEADER_MAX],
    header_len: u8,
    /// Payload bytes of the present frame still to come.
    payload_left: u64,
    /// Whether the present frame is a control frame.
    is_control: bool,
    /// Whether a message ends with the present frame.
    ends_message: bool,
    lost: bool,
    saw_close: bool,
    data: u64,
    messages: u64,
    /// How long the present message is, as far as its frames have said so.
    message: u64,
    longest: u64,
}

impl Follower {
    /// A follower at the first frame's boundary.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether everything seen so far ends with a whole frame.
    pub const fn at_boundary(&self) -> bool {
        self.header_len == 0 && self.payload_left == 0 && !self.lost
    }

    /// Whether a close frame has begun.
    pub const fn saw_close(&self) -> bool {
        self.saw_close
    }

    /// How many bytes of payload were in frames that carry data, in contrast to signs of life; an empty one counts as a
    /// byte. What is not understood is data.
    pub const fn data(&self) -> u64 {
        self.data
    }

    /// How many messages have come to their end.
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    /// How many bytes the longest message has so far, or will have by what its frames have said.
    pub const fn longest_message(&self) -> u64 {
        self.longest
    }

    /// Follows `bytes` to their end.
    pub fn advance(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() && !self.lost {
            at += self.step(&bytes[at..]);
        }
        self.data += (bytes.len() - at) as u64;
    }

    /// Follows `bytes` up to the first boundary in them, and returns how many bytes that took. Returns `bytes.len()` if
    /// there is none; [`Self::at_boundary`] tells which.
    pub fn advance_to_boundary(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.lost {
                self.data += (bytes.len() - at) as u64;
                return bytes.len();
            }
            at += self.step(&bytes[at..]);
            if self.at_boundary() {
                return at;
            }
        }
        at
    }

    /// Takes the rest of a payload, or the rest of a header; at least one byte of a non-empty slice.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.payload_left > 0 {
            let taken = self.payload_left.min(bytes.len() as u64);
            self.payload_left -= taken;
            self.data += if self.is_control { 0 } else { taken };
            self.count_message();
            return taken as usize;
        }
        let before = usize::from(self.header_len);
        let taken = bytes.len().min(HEADER_MAX - before);
        self.header[before..before + taken].copy_from_slice(&bytes[..taken]);
        match Header::decode(&self.header[..before + taken]) {
            Ok(Some((header, len))) => {
                self.header_len = 0;
                self.payload_left = header.len;
                self.is_control = header.opcode.is_control();
                self.data += u64::from(!self.is_control && header.len == 0);
                self.saw_close |= header.opcode == Opcode::Close;
                self.measure(&header);
                self.count_message();
                len - before
            }
            Ok(None) => {
                self.header_len += taken as u8;
                taken
            }
            Err(_) => {
                self.lost = true;
                self.data += bytes.len() as u64;
                bytes.len()
            }
        }
    }

    /// A frame has begun.
    fn measure(&mut self, header: &Header) {
        self.ends_message = !self.is_control && header.fin;
        if self.is_control {
            return;
        }
        let before = if header.opcode == Opcode::Continuation { self.message } else { 0 };
        self.message = before.saturating_add(header.len);
        self.longest = self.longest.max(self.message);
    }

    fn count_message(&mut self) {
        if self.payload_left == 0 && std::mem::take(&mut self.ends_message) {
            self.messages += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_header() -> impl Strategy<Value = Header> {
        let opcode = prop_oneof![
            Just(Opcode::Continuation),
            Just(Opcode::Text),
            Just(Opcode::Binary),
            Just(Opcode::Close),
            Just(Opcode::Ping),
            Just(Opcode::Pong)
        ];
        (any::<bool>(), 0u8..8, opcode, any::<Option<[u8; 4]>>(), 0u64..200_000).prop_map(
            |(fin, rsv, opcode, mask, len)| {
                let control = opcode.is_control();
                Header { fin: fin || control, rsv, opcode, mask, len: if control { len % 126 } else { len } }
            },
        )
    }

    proptest! {
        #[test]
        fn a_header_survives_its_bytes(header in any_header()) {
            let mut bytes = [0; HEADER_MAX];
            let len = header.encode(&mut bytes);
            prop_assert_eq!(Header::decode(&bytes[..len]), Ok(Some((header, len))));
            for short in 0..len {
                prop_assert_eq!(Header::decode(&bytes[..short]), Ok(None));
            }
        }

        #[test]
        fn a_follower_finds_every_boundary_however_the_bytes_are_cut(
            headers in proptest::collection::vec(any_header(), 1..8),
            cuts in proptest::collection::vec(1usize..5000, 1..40),
        ) {
            let mut stream = Vec::new();
            let mut boundaries = Vec::new();
            for header in &headers {
                let mut bytes = [0; HEADER_MAX];
                let len = header.encode(&mut bytes);
                stream.extend_from_slice(&bytes[..len]);
                stream.resize(stream.len() + header.len as usize, 0xa5);
                boundaries.push(stream.len());
            }
            let (mut follower, mut found, mut at, mut cut) = (Follower::new(), Vec::new(), 0, cuts.iter().cycle());
            while at < stream.len() {
                let end = (at + cut.next().unwrap()).min(stream.len());
                while at < end {
                    at += follower.advance_to_boundary(&stream[at..end]);
                    if follower.at_boundary() {
                        found.push(at);
                    }
                }
            }
            prop_assert_eq!(found, boundaries);
        }

        #[test]
        fn no_bytes_make_the_follower_panic(bytes: Vec<u8>) {
            Follower::new().advance(&bytes);
        }

        #[test]
        fn masking_twice_is_nothing_wherever_it_is_cut(mask: [u8; 4], bytes: Vec<u8>, cut: usize) {
            let mut masked = bytes.clone();
            apply_mask(mask, 0, &mut masked);
            let cut = if bytes.is_empty() { 0 } else { cut % bytes.len() };
            let (left, right) = masked.split_at_mut(cut);
            apply_mask(mask, 0, left);
            apply_mask(mask, cut as u64, right);
            prop_assert_eq!(masked, bytes);
        }
    }

    #[test]
    fn a_stream_that_is_no_websocket_has_no_boundaries() {
        let mut follower = Follower::new();
        follower.advance(b"HTTP/1.1 200 OK\r\n\r\n");
        assert!(!follower.at_boundary());
    }

    #[test]
    fn signs_of_life_are_no_data() {
        let frame = |opcode, payload: &[u8]| {
            let mut bytes = Vec::new();
            encode_server(opcode, &[payload], &mut bytes);
            bytes
        };
        let mut follower = Follower::new();
        for (opcode, payload, data) in [
            (Opcode::Ping, b"are you there".as_slice(), 0),
            (Opcode::Binary, b"yes", 3),
            (Opcode::Pong, b"are you there", 3),
            (Opcode::Text, b"", 4),
            (Opcode::Close, &[3, 232], 4),
        ] {
            for byte in frame(opcode, payload) {
                follower.advance(&[byte]);
            }
            assert_eq!(follower.data(), data, "{opcode:?}");
        }
        let mut lost = Follower::new();
        lost.advance(b"SSH-2.0");
        assert!(lost.data() > 0);
    }

    #[test]
    fn messages_are_counted_when_they_end_and_measured_when_they_begin() {
        let frame = |opcode, fin, len: u64| Header { fin, rsv: 0, opcode, mask: None, len };
        let mut follower = Follower::new();
        for (header, messages, longest) in [
            (frame(Opcode::Text, true, 5), 1, 5),
            (frame(Opcode::Binary, false, 4), 1, 5),
            (frame(Opcode::Ping, true, 100), 1, 5),
            (frame(Opcode::Continuation, false, 4), 1, 8),
            (frame(Opcode::Continuation, true, 0), 2, 8),
            (frame(Opcode::Text, true, 0), 3, 8),
            (frame(Opcode::Close, true, 2), 3, 8),
        ] {
            let mut bytes = [0; HEADER_MAX];
            let len = header.encode(&mut bytes);
            let before = follower.messages();
            follower.advance(&bytes[..len]);
            assert_eq!(follower.longest_message(), longest, "{header:?}");
            assert!(header.len == 0 || follower.messages() == before, "{header:?}");
            follower.advance(&vec![7; header.len as usize]);
            assert_eq!(follower.messages(), messages, "{header:?}");
        }
        let mut follower = Follower::new();
        for header in [frame(Opcode::Text, false, 1 << 62), frame(Opcode::Continuation, false, 1 << 62)] {
            follower.payload_left = 0;
            let mut bytes = [0; HEADER_MAX];
            let len = header.encode(&mut bytes);
            follower.advance(&bytes[..len]);
        }
        assert_eq!(follower.longest_message(), 1 << 63);
    }

    #[test]
    fn a_close_frame_is_noticed_and_read() {
        let mut bytes = Vec::new();
        encode_close(1012, "upstream.changed", &mut bytes);
        let mut follower = Follower::new();
        follower.advance(&bytes);
        assert!(follower.saw_close() && follower.at_boundary());
        assert_eq!(decode_close(&bytes[2..]), Ok(Some((1012, "upstream.changed"))));
        assert_eq!(decode_close(&[3]), Err(FrameError::Close));
        assert_eq!(decode_close(&1006u16.to_be_bytes()), Err(FrameError::Close));
    }
}
