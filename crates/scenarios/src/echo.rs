//! An echo of WebSocket frames as they come: payload bytes go back before their frame is whole, reserved bits and
//! fragments as they are, so that whatever two ends agree on passes it unread.

use landfast_core::ws::{HEADER_MAX, Header, Opcode, apply_mask};

/// Where in a client's frames the echo is.
#[derive(Debug, Default)]
pub struct Echo {
    frame: Option<Header>,
    /// How much of its payload was echoed.
    done: u64,
}

/// How far an echo came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// So many bytes were taken; the rest is no whole header yet.
    pub bytes: usize,
    /// The last of them ended a close frame, or what came was no frame: nothing follows.
    pub is_over: bool,
}

impl Echo {
    /// Echoes what is there of the client's frames. Its bytes are unmasked in place.
    pub fn take(&mut self, bytes: &mut [u8], output: &mut Vec<u8>) -> Taken {
        let mut at = 0;
        loop {
            let header = match self.frame {
                Some(header) => header,
                None => match Header::decode(&bytes[at..]) {
                    Ok(Some((header, len))) => {
                        at += len;
                        begin(header, output);
                        *self.frame.insert(header)
                    }
                    Ok(None) => return Taken { bytes: at, is_over: false },
                    Err(_) => return Taken { bytes: at, is_over: true },
                },
            };
            let n = (header.len - self.done).min((bytes.len() - at) as u64) as usize;
            let payload = &mut bytes[at..at + n];
            if let Some(mask) = header.mask {
                apply_mask(mask, self.done, payload);
            }
            output.extend_from_slice(payload);
            at += n;
            self.done += n as u64;
            if self.done < header.len {
                return Taken { bytes: at, is_over: false };
            }
            *self = Self::default();
            if header.opcode == Opcode::Close {
                return Taken { bytes: at, is_over: true };
            }
        }
    }
}

/// Begins the frame that answers one with this header.
fn begin(header: Header, output: &mut Vec<u8>) {
    let opcode = if header.opcode == Opcode::Ping { Opcode::Pong } else { header.opcode };
    let mut bytes = [0; HEADER_MAX];
    let len = Header { opcode, mask: None, ..header }.encode(&mut bytes);
    output.extend_from_slice(&bytes[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(opcode: Opcode, rsv: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut header = [0; HEADER_MAX];
        let len = Header { fin: true, rsv, opcode, mask: Some(mask), len: payload.len() as u64 }.encode(&mut header);
        let mut payload = payload.to_vec();
        apply_mask(mask, 0, &mut payload);
        [&header[..len], &payload].concat()
    }

    #[test]
    fn frames_come_back_unmasked_in_whatever_pieces_they_come() {
        let frames = [masked(Opcode::Text, 4, b"hello"), masked(Opcode::Ping, 0, b"p"), masked(Opcode::Binary, 0, b"")];
        let frames = frames.concat();
        let expected = b"\xc1\x05hello\x8a\x01p\x82\x00";
        for size in 1..=frames.len() {
            let (mut echo, mut output, mut input) = (Echo::default(), Vec::new(), Vec::new());
            for piece in frames.chunks(size) {
                input.extend_from_slice(piece);
                let taken = echo.take(&mut input, &mut output);
                assert!(!taken.is_over);
                input.drain(..taken.bytes);
            }
            assert_eq!(output, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_close_frame_is_echoed_and_is_the_last() {
        let mut frames = [masked(Opcode::Close, 0, b"\x03\xe8"), b"more".to_vec()].concat();
        let mut output = Vec::new();
        let taken = Echo::default().take(&mut frames, &mut output);
        assert_eq!((taken, &output[..]), (Taken { bytes: 8, is_over: true }, &b"\x88\x02\x03\xe8"[..]));
    }
}
