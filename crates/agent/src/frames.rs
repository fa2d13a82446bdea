//! The server's end of a process attachment's WebSocket, incoming, without IO: finds out what a client says, however its
//! bytes are cut, without keeping the input that they carry.

use landfast_core::ErrorCode;
use landfast_core::ws::{CONTROL_MAX, FrameError, HEADER_MAX, Header, Opcode, apply_mask, decode_close};

/// The most bytes of a text message: controls are short.
const TEXT_MAX: usize = 4 * 1024;

/// The channel byte of input.
const CHANNEL_INPUT: u8 = 0x00;

/// What was heard in a piece of the client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing that needs an answer.
    Nothing,
    /// The next `len` bytes are input, masked; they begin `at` bytes into what the mask counts. Say how many were taken
    /// with [`Frames::took`].
    Input { len: usize, mask: [u8; 4], at: u64 },
    /// A text message is whole: [`Frames::text`].
    Text,
    /// A ping: answer with [`Frames::control`].
    Ping,
    /// The closing handshake, with the code to answer with.
    Close(u16),
}

/// How the client broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A frame that RFC 6455 does not allow.
    Frame(FrameError),
    /// A frame without a mask, or with extension bits that nobody agreed on.
    NotAClient,
    /// A fragment without a beginning, or a beginning inside a message.
    Fragment,
    /// A channel on which clients say nothing.
    Channel(u8),
    /// A text longer than any control.
    TextTooLong,
}

/// Follows one client's frames.
#[derive(Debug)]
pub(crate) struct Frames {
    header: [u8; HEADER_MAX],
    header_len: usize,
    frame: Option<Frame>,
    message: Message,
    control: [u8; CONTROL_MAX],
    control_len: usize,
    text: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    fin: bool,
    mask: [u8; 4],
    len: u64,
    /// How much of the payload was read.
    at: u64,
}

/// The message that is being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    None,
    /// A binary one whose channel byte has not come.
    Binary,
    Input,
    Text,
}

impl Broken {
    /// The row of the error table.
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::TextTooLong => ErrorCode::LimitMessage,
            Self::Frame(_) | Self::NotAClient | Self::Fragment | Self::Channel(_) => ErrorCode::RequestInvalid,
        }
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::NotAClient => f.write_str("a frame that no client sends"),
            Self::Fragment => f.write_str("a fragment out of place"),
            Self::Channel(channel) => write!(f, "no input has channel {channel:#04x}"),
            Self::TextTooLong => write!(f, "a text of more than {TEXT_MAX} bytes"),
        }
    }
}

impl Frames {
    pub(crate) const fn new() -> Self {
        Self {
            header: [0; HEADER_MAX],
            header_len: 0,
            frame: None,
            message: Message::None,
            control: [0; CONTROL_MAX],
            control_len: 0,
            text: Vec::new(),
        }
    }

    /// The text message that is whole. It is kept until the next one begins.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The payload of the last control frame.
    pub(crate) fn control(&self) -> &[u8] {
        &self.control[..self.control_len]
    }

    /// Reads the next piece: how many bytes that was, and what was heard. Call again with the rest.
    ///
    /// # Errors
    ///
    /// [`Broken`]; nothing may be read after it.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<(usize, Heard), Broken> {
        let Some(frame) = self.frame else { return self.read_header(bytes) };
        let len = usize::try_from(frame.len - frame.at).unwrap_or(usize::MAX).min(bytes.len());
        match (frame.opcode, self.message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => self.read_control(frame, &bytes[..len]),
            (Opcode::Continuation | Opcode::Text | Opcode::Binary, Message::Text) => {
                self.read_text(frame, &bytes[..len])
            }
            (Opcode::Continuation | Opcode::Text | Opcode::Binary, Message::Input) => {
                Ok((0, Heard::Input { len, mask: frame.mask, at: frame.at }))
            }
            (Opcode::Continuation | Opcode::Text | Opcode::Binary, Message::Binary | Message::None) => {
                self.read_channel(frame, bytes)
            }
        }
    }

    /// `n` bytes of input were taken.
    pub(crate) fn took(&mut self, n: usize) {
        // Input never ends a text or a control, so there is nothing to hear.
        let _ = self.advance(n);
    }

    fn read_header(&mut self, bytes: &[u8]) -> Result<(usize, Heard), Broken> {
        let before = self.header_len;
        let taken = bytes.len().min(HEADER_MAX - before);
        self.header[before..before + taken].copy_from_slice(&bytes[..taken]);
        let Some((header, len)) = Header::decode(&self.header[..before + taken]).map_err(Broken::Frame)? else {
            self.header_len += taken;
            return Ok((taken, Heard::Nothing));
        };
        self.header_len = 0;
        let Some(mask) = header.mask.filter(|_| header.rsv == 0) else { return Err(Broken::NotAClient) };
        self.begin(header.opcode)?;
        self.frame = Some(Frame { opcode: header.opcode, fin: header.fin, mask, len: header.len, at: 0 });
        let heard = if header.len == 0 { self.advance(0)? } else { Heard::Nothing };
        Ok((len - before, heard))
    }

    fn begin(&mut self, opcode: Opcode) -> Result<(), Broken> {
        match (opcode, self.message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => self.control_len = 0,
            (Opcode::Text, Message::None) => {
                self.message = Message::Text;
                self.text = Vec::new();
            }
            (Opcode::Binary, Message::None) => self.message = Message::Binary,
            (Opcode::Continuation, Message::Binary | Message::Input | Message::Text) => {}
            (Opcode::Continuation, Message::None)
            | (Opcode::Text | Opcode::Binary, Message::Binary | Message::Input | Message::Text) => {
                return Err(Broken::Fragment);
            }
        }
        Ok(())
    }

    fn read_control(&mut self, frame: Frame, bytes: &[u8]) -> Result<(usize, Heard), Broken> {
        let space = &mut self.control[self.control_len..self.control_len + bytes.len()];
        space.copy_from_slice(bytes);
        apply_mask(frame.mask, frame.at, space);
        self.control_len += bytes.len();
        Ok((bytes.len(), self.advance(bytes.len())?))
    }

    fn read_text(&mut self, frame: Frame, bytes: &[u8]) -> Result<(usize, Heard), Broken> {
        let from = self.text.len();
        if from + bytes.len() > TEXT_MAX {
            return Err(Broken::TextTooLong);
        }
        self.text.extend_from_slice(bytes);
        apply_mask(frame.mask, frame.at, &mut self.text[from..]);
        Ok((bytes.len(), self.advance(bytes.len())?))
    }

    fn read_channel(&mut self, frame: Frame, bytes: &[u8]) -> Result<(usize, Heard), Broken> {
        let Some(&first) = bytes.first() else { return Ok((0, Heard::Nothing)) };
        let channel = first ^ frame.mask[(frame.at % 4) as usize];
        if channel != CHANNEL_INPUT {
            return Err(Broken::Channel(channel));
        }
        self.message = Message::Input;
        Ok((1, self.advance(1)?))
    }

    /// Counts payload, and ends the frame after its last byte.
    fn advance(&mut self, n: usize) -> Result<Heard, Broken> {
        let Some(frame) = &mut self.frame else { return Ok(Heard::Nothing) };
        frame.at += n as u64;
        if frame.at < frame.len {
            return Ok(Heard::Nothing);
        }
        let Frame { opcode, fin, .. } = *frame;
        self.frame = None;
        match opcode {
            Opcode::Pong => Ok(Heard::Nothing),
            Opcode::Ping => Ok(Heard::Ping),
            Opcode::Close => {
                let close = decode_close(self.control()).map_err(Broken::Frame)?;
                Ok(Heard::Close(close.map_or(1000, |(code, _)| code)))
            }
            Opcode::Continuation | Opcode::Text | Opcode::Binary if !fin => Ok(Heard::Nothing),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                let message = std::mem::replace(&mut self.message, Message::None);
                Ok(if message == Message::Text { Heard::Text } else { Heard::Nothing })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A client's frame.
    fn frame(fin: bool, opcode: Opcode, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut header = [0; HEADER_MAX];
        let len = Header { fin, rsv: 0, opcode, mask: Some(mask), len: payload.len() as u64 }.encode(&mut header);
        let mut bytes = header[..len].to_vec();
        bytes.extend_from_slice(payload);
        apply_mask(mask, 0, &mut bytes[len..]);
        bytes
    }

    fn whole(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        frame(true, opcode, [1, 2, 3, 4], payload)
    }

    /// Everything heard: the input, and the rest in order.
    fn heard(pieces: &[&[u8]], most: usize) -> Result<(Vec<u8>, Vec<Heard>), Broken> {
        let (mut frames, mut input, mut others) = (Frames::new(), Vec::new(), Vec::new());
        for mut bytes in pieces.iter().copied() {
            while !bytes.is_empty() {
                let (consumed, said) = frames.next(bytes)?;
                bytes = &bytes[consumed..];
                match said {
                    Heard::Nothing => {}
                    Heard::Input { len, mask, at } => {
                        let taken = len.min(most);
                        let from = input.len();
                        input.extend_from_slice(&bytes[..taken]);
                        apply_mask(mask, at, &mut input[from..]);
                        frames.took(taken);
                        bytes = &bytes[taken..];
                    }
                    other => others.push(other),
                }
            }
        }
        Ok((input, others))
    }

    proptest! {
        #[test]
        fn input_arrives_whole_however_it_is_fragmented_cut_and_taken(
            parts in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..300), any::<[u8; 4]>(), any::<bool>()), 1..6),
            cut in 1usize..40,
            most in 1usize..50,
        ) {
            let (mut stream, mut expected) = (Vec::new(), Vec::new());
            for (index, (bytes, mask, with_ping)) in parts.iter().enumerate() {
                let (opcode, fin) = (if index == 0 { Opcode::Binary } else { Opcode::Continuation }, index + 1 == parts.len());
                let payload = if index == 0 { [&[0], bytes.as_slice()].concat() } else { bytes.clone() };
                stream.extend(frame(fin, opcode, *mask, &payload));
                expected.extend_from_slice(bytes);
                if *with_ping && !fin {
                    stream.extend(whole(Opcode::Ping, b"alive?"));
                }
            }
            stream.extend(whole(Opcode::Text, b"{}"));
            let pieces: Vec<&[u8]> = stream.chunks(cut).collect();
            let (input, others) = heard(&pieces, most).unwrap();
            prop_assert_eq!(input, expected);
            prop_assert_eq!(others.last(), Some(&Heard::Text));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, cut in 1usize..9) {
            let _ = heard(&bytes.chunks(cut).collect::<Vec<_>>(), 7);
        }
    }

    #[test]
    fn empty_messages_and_pongs_say_nothing() {
        let stream = [whole(Opcode::Binary, b""), whole(Opcode::Pong, b"x"), whole(Opcode::Binary, &[0])].concat();
        assert_eq!(heard(&[&stream], 9), Ok((vec![], vec![])));
    }

    #[test]
    fn a_close_is_answered_with_its_own_code() {
        assert_eq!(heard(&[&whole(Opcode::Close, b"")], 9).unwrap().1, [Heard::Close(1000)]);
        assert_eq!(heard(&[&whole(Opcode::Close, &3001u16.to_be_bytes())], 9).unwrap().1, [Heard::Close(3001)]);
    }

    #[test]
    fn what_no_client_may_say_is_refused() {
        let unmasked = [0x82, 0x01, 0x00];
        let extended = [0xc2, 0x81, 0, 0, 0, 0, 0];
        let long_text = whole(Opcode::Text, &[b' '; TEXT_MAX + 1]);
        let in_between = [frame(false, Opcode::Binary, [0; 4], &[0]), whole(Opcode::Binary, &[0])].concat();
        let cases: [(&[u8], Broken); 7] = [
            (&unmasked, Broken::NotAClient),
            (&extended, Broken::NotAClient),
            (&long_text, Broken::TextTooLong),
            (&in_between, Broken::Fragment),
            (&whole(Opcode::Continuation, b"x"), Broken::Fragment),
            (&whole(Opcode::Binary, &[9, 1]), Broken::Channel(9)),
            (&whole(Opcode::Close, &[3]), Broken::Frame(FrameError::Close)),
        ];
        for (bytes, broken) in cases {
            assert_eq!(heard(&[bytes], 9), Err(broken));
        }
    }
}
