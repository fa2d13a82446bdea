//! What comes back on a connection of the load, checked as it comes.

use std::io::Read;
use std::net::TcpStream;

use landfast_core::ws::{Header, Opcode};
use rustix::net::RecvFlags;

use super::socket::unless_it_waits;

/// The longest head of an answer.
const HEAD_MAX: usize = 16 * 1024;

/// Why an exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// The connection could not be opened.
    Connect,
    /// The connection ended in the middle.
    Reset,
    /// The answer was not 200.
    Status,
    /// What came is not what was to come.
    Corrupt,
    /// The WebSocket was closed.
    Closed,
}

/// Reads what comes back on a connection.
#[derive(Debug)]
pub(crate) enum Reader {
    /// Answers, one after the other.
    Answers(Answers),
    /// Echoed messages.
    Echoes(Echoes),
}

/// Reads answers with bodies of a known length.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    head: Vec<u8>,
    /// Bytes of the body still to come, once the head is whole.
    left: Option<usize>,
}

/// Reads echoed messages.
#[derive(Debug, Default)]
pub(crate) struct Echoes {
    header: Vec<u8>,
    frame: Option<Header>,
    /// How much of the frame has come.
    done: u64,
    /// How much of the message has come.
    at: usize,
}

impl Reader {
    /// Reads what is there, and says how many exchanges that completed. What comes must be `expected`.
    ///
    /// # Errors
    ///
    /// [`Failure`]; the connection is then of no more use.
    pub(crate) fn read(&mut self, socket: &TcpStream, scratch: &mut [u8], expected: &[u8]) -> Result<usize, Failure> {
        let n = match self {
            Self::Answers(Answers { left: Some(left), .. }) if *left >= scratch.len() => {
                // The rest of a long body is thrown away by the kernel, uncopied: only its length is looked at.
                let thrown = rustix::net::recv(socket, &mut *scratch, RecvFlags::TRUNC);
                let thrown = unless_it_waits(thrown.map_err(Into::into)).map_err(|_| Failure::Reset)?;
                *left -= thrown.map_or(0, |(_, n)| n);
                return match thrown {
                    Some((_, 0)) => Err(Failure::Reset),
                    _ => Ok(0),
                };
            }
            _ => match unless_it_waits((&*socket).read(scratch)) {
                Ok(Some(0)) | Err(_) => return Err(Failure::Reset),
                Ok(Some(n)) => n,
                Ok(None) => return Ok(0),
            },
        };
        match self {
            Self::Answers(answers) => answers.take(&scratch[..n], expected),
            Self::Echoes(echoes) => echoes.take(&scratch[..n], expected),
        }
    }
}

impl Answers {
    fn take(&mut self, bytes: &[u8], expected: &[u8]) -> Result<usize, Failure> {
        let Some(left) = &mut self.left else {
            self.head.extend_from_slice(bytes);
            return self.parse_head(expected);
        };
        let at = expected.len() - *left;
        *left = left.checked_sub(bytes.len()).ok_or(Failure::Corrupt)?;
        // A long body is not the pattern from its beginning on.
        if expected.len() <= super::upstream::SMALL && &expected[at..at + bytes.len()] != bytes {
            return Err(Failure::Corrupt);
        }
        Ok(self.finish())
    }

    fn parse_head(&mut self, expected: &[u8]) -> Result<usize, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&self.head).map_err(|_| Failure::Corrupt)? {
            httparse::Status::Partial if self.head.len() > HEAD_MAX => Err(Failure::Corrupt),
            httparse::Status::Partial => Ok(0),
            httparse::Status::Complete(_) if response.code != Some(200) => Err(Failure::Status),
            httparse::Status::Complete(len) => {
                let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
                let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
                if length != Some(expected.len()) {
                    return Err(Failure::Corrupt);
                }
                self.left = length;
                let head = std::mem::take(&mut self.head);
                let done = self.take(&head[len..], expected);
                // Its memory serves the next head.
                self.head = head;
                self.head.clear();
                done
            }
        }
    }

    fn finish(&mut self) -> usize {
        let whole = self.left == Some(0);
        if whole {
            self.left = None;
        }
        usize::from(whole)
    }
}

impl Echoes {
    fn take(&mut self, mut bytes: &[u8], expected: &[u8]) -> Result<usize, Failure> {
        let mut whole = 0;
        while !bytes.is_empty() {
            let header = match self.frame {
                Some(header) => header,
                None => match self.take_header(&mut bytes)? {
                    Some(header) => header,
                    None => break,
                },
            };
            let n = ((header.len - self.done) as usize).min(bytes.len());
            let (payload, rest) = bytes.split_at(n);
            bytes = rest;
            self.done += n as u64;
            match header.opcode {
                Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                    if expected.get(self.at..self.at + n) != Some(payload) {
                        return Err(Failure::Corrupt);
                    }
                    self.at += n;
                }
                Opcode::Close => return Err(Failure::Closed),
                // A measurement is over long before a missing pong would end it.
                Opcode::Ping | Opcode::Pong => {}
            }
            if self.done < header.len {
                continue;
            }
            self.frame = None;
            if header.fin && !header.opcode.is_control() {
                if self.at != expected.len() {
                    return Err(Failure::Corrupt);
                }
                self.at = 0;
                whole += 1;
            }
        }
        Ok(whole)
    }

    /// The header that begins here, once it is whole.
    fn take_header(&mut self, bytes: &mut &[u8]) -> Result<Option<Header>, Failure> {
        let kept = self.header.len();
        let (header, len) = if kept == 0 {
            match Header::decode(bytes).map_err(|_| Failure::Corrupt)? {
                Some(found) => found,
                None => {
                    self.header.extend_from_slice(bytes);
                    return Ok(None);
                }
            }
        } else {
            let room = landfast_core::ws::HEADER_MAX - kept;
            self.header.extend_from_slice(&bytes[..bytes.len().min(room)]);
            match Header::decode(&self.header).map_err(|_| Failure::Corrupt)? {
                Some((header, len)) => (header, len - kept),
                None => return Ok(None),
            }
        };
        self.header.clear();
        *bytes = &bytes[len..];
        if header.mask.is_some() || header.rsv != 0 {
            return Err(Failure::Corrupt);
        }
        (self.frame, self.done) = (Some(header), 0);
        Ok(Some(header))
    }
}

#[cfg(test)]
mod tests {
    use landfast_core::ws::encode_server;

    use super::*;

    #[test]
    fn an_answer_is_whole_in_whatever_pieces_it_comes() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
        for size in [1, 7, answer.len()] {
            let mut answers = Answers::default();
            let done: usize = answer.chunks(size).map(|piece| answers.take(piece, b"body").unwrap()).sum();
            assert_eq!(done, 1, "in pieces of {size}");
        }
    }

    #[test]
    fn what_was_not_asked_for_is_told_by_its_kind() {
        let heard = |bytes: &[u8]| Answers::default().take(bytes, b"body");
        assert_eq!(heard(b"HTTP/1.1 503 No\r\n\r\n"), Err(Failure::Status));
        assert_eq!(heard(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), Err(Failure::Corrupt));
        assert_eq!(heard(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nBODY"), Err(Failure::Corrupt));
        assert_eq!(heard(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody and more"), Err(Failure::Corrupt));
    }

    #[test]
    fn echoes_are_counted_in_whatever_pieces_they_come() {
        let mut frames = Vec::new();
        encode_server(Opcode::Text, &[b"hello"], &mut frames);
        encode_server(Opcode::Ping, &[b"ping"], &mut frames);
        encode_server(Opcode::Text, &[b"hello"], &mut frames);
        for size in 1..=frames.len() {
            let mut echoes = Echoes::default();
            let done: usize = frames.chunks(size).map(|piece| echoes.take(piece, b"hello").unwrap()).sum();
            assert_eq!(done, 2, "in pieces of {size}");
        }
    }

    #[test]
    fn a_changed_echo_and_a_close_are_failures() {
        let heard = |opcode, payload: &[u8]| {
            let mut frame = Vec::new();
            encode_server(opcode, &[payload], &mut frame);
            Echoes::default().take(&frame, b"hello")
        };
        assert_eq!(heard(Opcode::Text, b"hellO"), Err(Failure::Corrupt));
        assert_eq!(heard(Opcode::Text, b"hell"), Err(Failure::Corrupt));
        assert_eq!(heard(Opcode::Close, b""), Err(Failure::Closed));
    }
}
