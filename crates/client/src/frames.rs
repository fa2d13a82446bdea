//! The client's end of a WebSocket, without IO: masks what is said, puts together what is heard.
//!
//! The bytes that come out of here are what the session carries and replays, so a frame is masked once, when it is made,
//! and never made again.

use bytes::Bytes;
use landfast_core::ws::{FrameError, HEADER_MAX, Header, Opcode, apply_mask, decode_close};

/// The most bytes a message may have. An agent sends output in pieces of 64 KiB and a screen's redraw in less; more than
/// sixteen times that is no agent.
pub const MESSAGE_MAX: u64 = 1 << 20;

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Binary(Bytes),
    /// A question whether we live; answer with the same payload.
    Ping(Vec<u8>),
    /// The end, with its code and reason unless it gave none.
    Close(Option<(u16, String)>),
}

/// How the server broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A frame that RFC 6455 does not allow.
    Frame(FrameError),
    /// A masked frame, or one with extension bits that nobody agreed on.
    NotAServer,
    /// A fragment without a beginning, or a beginning inside a message.
    Fragment,
    /// A message longer than [`MESSAGE_MAX`].
    TooLarge,
    /// Text that is not UTF-8.
    Utf8,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::NotAServer => f.write_str("a frame that no server sends"),
            Self::Fragment => f.write_str("a fragment out of place"),
            Self::TooLarge => write!(f, "a message longer than {MESSAGE_MAX} bytes"),
            Self::Utf8 => f.write_str("text that is not UTF-8"),
        }
    }
}

impl std::error::Error for Broken {}

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// Appends one whole frame with its payload, the parts in order, masked.
pub fn encode(opcode: Opcode, parts: &[&[u8]], mask: [u8; 4], out: &mut Vec<u8>) {
    let len = parts.iter().map(|part| part.len() as u64).sum();
    let mut header = [0; HEADER_MAX];
    let header_len = Header { fin: true, rsv: 0, opcode, mask: Some(mask), len }.encode(&mut header);
    out.reserve(header_len + len as usize);
    out.extend_from_slice(&header[..header_len]);
    let payload = out.len();
    for part in parts {
        out.extend_from_slice(part);
    }
    apply_mask(mask, 0, &mut out[payload..]);
}

/// Appends a close frame.
pub fn encode_close(code: u16, reason: &str, mask: [u8; 4], out: &mut Vec<u8>) {
    encode(Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()], mask, out);
}

/// Turns bytes into messages, however they were cut.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Received and not yet decoded: less than one frame after [`Self::next`] returned `None`.
    bytes: Vec<u8>,
    /// How much of `bytes` was decoded.
    at: usize,
    /// The fragmented message so far.
    fragments: Option<(Opcode, Vec<u8>)>,
}

impl Decoder {
    /// Takes what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more arrives. Pongs are dropped: we ask nothing.
    ///
    /// # Errors
    ///
    /// [`Broken`]; there is no going on after it.
    #[expect(clippy::should_implement_trait, reason = "more may follow a `None`")]
    pub fn next(&mut self) -> Result<Option<Message>, Broken> {
        while let Some((header, len)) = Header::decode(&self.bytes[self.at..])? {
            self.check(&header)?;
            let (start, size) = (self.at + len, header.len as usize);
            let Some(payload) = self.bytes.get(start..start + size) else { return Ok(None) };
            let payload = payload.to_vec();
            self.at = start + size;
            if let Some(message) = self.take(&header, payload)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn check(&self, header: &Header) -> Result<(), Broken> {
        if header.mask.is_some() || header.rsv != 0 {
            return Err(Broken::NotAServer);
        }
        if !header.opcode.is_control() && (header.opcode == Opcode::Continuation) != self.fragments.is_some() {
            return Err(Broken::Fragment);
        }
        let before = self.fragments.as_ref().map_or(0, |(_, bytes)| bytes.len() as u64);
        if header.len.saturating_add(before) > MESSAGE_MAX { Err(Broken::TooLarge) } else { Ok(()) }
    }

    fn take(&mut self, header: &Header, payload: Vec<u8>) -> Result<Option<Message>, Broken> {
        match header.opcode {
            Opcode::Ping => Ok(Some(Message::Ping(payload))),
            Opcode::Pong => Ok(None),
            Opcode::Close => {
                Ok(Some(Message::Close(decode_close(&payload)?.map(|(code, reason)| (code, reason.to_owned())))))
            }
            Opcode::Text | Opcode::Binary if header.fin => whole(header.opcode, payload).map(Some),
            Opcode::Text | Opcode::Binary => {
                self.fragments = Some((header.opcode, payload));
                Ok(None)
            }
            Opcode::Continuation => {
                let (opcode, mut bytes) = self.fragments.take().ok_or(Broken::Fragment)?;
                bytes.extend_from_slice(&payload);
                if header.fin {
                    return whole(opcode, bytes).map(Some);
                }
                self.fragments = Some((opcode, bytes));
                Ok(None)
            }
        }
    }
}

fn whole(opcode: Opcode, bytes: Vec<u8>) -> Result<Message, Broken> {
    if opcode == Opcode::Text {
        return String::from_utf8(bytes).map(Message::Text).map_err(|_| Broken::Utf8);
    }
    Ok(Message::Binary(bytes.into()))
}

#[cfg(test)]
mod tests {
    use landfast_core::ws;

    use super::*;

    fn decode_all(stream: &[u8], cut: usize) -> Result<Vec<Message>, Broken> {
        let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
        for piece in stream.chunks(cut) {
            decoder.push(piece);
            while let Some(message) = decoder.next()? {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    fn frame(fin: bool, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
        let mut header = [0; HEADER_MAX];
        let len = Header { fin, rsv: 0, opcode, mask: None, len: payload.len() as u64 }.encode(&mut header);
        out.extend_from_slice(&header[..len]);
        out.extend_from_slice(payload);
    }

    #[test]
    fn messages_come_out_whole_however_the_stream_is_cut() {
        let mut stream = Vec::new();
        frame(true, Opcode::Binary, &[7; 300], &mut stream);
        frame(false, Opcode::Text, "ä".as_bytes().split_at(1).0, &mut stream);
        frame(true, Opcode::Ping, b"now", &mut stream);
        frame(true, Opcode::Pong, b"late", &mut stream);
        frame(true, Opcode::Continuation, "ä".as_bytes().split_at(1).1, &mut stream);
        ws::encode_close(1000, "process.exited", &mut stream);
        let expected = [
            Message::Binary(vec![7; 300].into()),
            Message::Ping(b"now".to_vec()),
            Message::Text("ä".to_owned()),
            Message::Close(Some((1000, "process.exited".to_owned()))),
        ];
        for cut in 1..=stream.len() {
            assert_eq!(decode_all(&stream, cut).as_deref(), Ok(&expected[..]), "cut into {cut}");
        }
    }

    #[test]
    fn what_no_server_sends_is_refused() {
        let mut masked = Vec::new();
        encode(Opcode::Text, &[b"hi"], [1, 2, 3, 4], &mut masked);
        assert_eq!(decode_all(&masked, 64), Err(Broken::NotAServer));
        let mut orphan = Vec::new();
        frame(true, Opcode::Continuation, b"", &mut orphan);
        assert_eq!(decode_all(&orphan, 64), Err(Broken::Fragment));
        assert_eq!(decode_all(&[0x81, 2, 0xff, 0xff], 64), Err(Broken::Utf8));
    }

    #[test]
    fn a_message_too_long_is_refused_by_its_header_before_it_is_kept() {
        let mut huge = vec![0x82, 127];
        huge.extend_from_slice(&(MESSAGE_MAX + 1).to_be_bytes());
        assert_eq!(decode_all(&huge, 64), Err(Broken::TooLarge));
    }

    #[test]
    fn a_frame_of_ours_is_masked_and_unmasks_to_its_parts() {
        let mut out = Vec::new();
        encode(Opcode::Binary, &[&[0], b"hello"], [9, 8, 7, 6], &mut out);
        let (header, len) = Header::decode(&out).unwrap().unwrap();
        let mut payload = out[len..].to_vec();
        apply_mask(header.mask.unwrap(), 0, &mut payload);
        assert_eq!(payload, b"\0hello");
    }
}
