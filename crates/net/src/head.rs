//! HTTP/1.1 heads as bytes, for the hops that speak only a head before they become a byte stream.
//!
//! Names keep their case and order, values their bytes: what a client's upgrade request said reaches the far end as it
//! was said. Parsing is httparse's.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::socket::Socket;

/// The most bytes a head may have: what browsers and proxies allow, with room for a head inside a head.
pub const HEAD_MAX: usize = 64 * 1024;

/// The most headers of a head.
const HEADERS_MAX: usize = 128;

/// What a head's first line needs beside what stands in it of a request, and its end.
const LINE_ROOM: usize = 64;

/// Headers in the order they stood.
///
/// All text stands in one buffer, each line as it is written, and a line is three numbers: a head costs two allocations, however
/// many lines it has, and lines that were not touched are written together.
#[derive(Clone, Default)]
pub struct Headers {
    text: Vec<u8>,
    lines: Vec<Line>,
}

/// Part of a line's value.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// This text.
    Text(&'a str),
    /// The value of another line of the same head.
    Line(usize),
}

/// Where `name: value` and the end of its line stand in the text, and how long the two are.
#[derive(Clone, Copy)]
struct Line {
    at: u32,
    name: u32,
    value: u32,
}

/// Stands between a line's name and its value.
const COLON: &[u8] = b": ";

/// Ends a line.
const END: &[u8] = b"\r\n";

/// A request's line and headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The method.
    pub method: String,
    /// The request target, as it stood.
    pub target: String,
    /// The headers.
    pub headers: Headers,
}

/// A response's status and headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: Headers,
}

/// Why a head could not be read.
#[derive(Debug)]
pub enum HeadError {
    /// It is no HTTP/1.1 head.
    Malformed(httparse::Error),
    /// It is longer than allowed.
    TooLarge,
    /// The connection ended or failed first.
    Io(io::Error),
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "not an HTTP/1.1 head: {error}"),
            Self::TooLarge => f.write_str("the head is too large"),
            Self::Io(error) => write!(f, "the head did not arrive: {error}"),
        }
    }
}

impl std::error::Error for HeadError {}

impl From<io::Error> for HeadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Headers {
    /// No headers.
    pub const fn new() -> Self {
        Self { text: Vec::new(), lines: Vec::new() }
    }

    /// The first value of a header, if it is text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The first value of a header.
    pub fn get_bytes(&self, name: &str) -> Option<&[u8]> {
        let line = self.lines.iter().find(|line| line.name(&self.text).eq_ignore_ascii_case(name.as_bytes()))?;
        Some(line.value(&self.text))
    }

    /// Every value of a header, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let is_named = move |line: &&Line| line.name(&self.text).eq_ignore_ascii_case(name.as_bytes());
        self.lines.iter().filter(is_named).map(|line| line.value(&self.text))
    }

    /// Whether there is a line of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.get_bytes(name).is_some()
    }

    /// Takes every line of a header away.
    pub fn remove(&mut self, name: &str) {
        self.retain(|known, _| !known.eq_ignore_ascii_case(name.as_bytes()));
    }

    /// Keeps the lines for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let text = &self.text;
        self.lines.retain(|line| keep(line.name(text), line.value(text)));
    }

    /// Rewrites lines where they stand: nothing leaves a line as it is, `Some(None)` takes it away.
    pub fn edit(&mut self, change: impl Fn(&[u8], &[u8]) -> Option<Option<String>>) {
        let Self { text, lines } = self;
        lines.retain_mut(|line| match change(line.name(text), line.value(text)) {
            None => true,
            Some(None) => false,
            Some(Some(value)) => {
                let (at, name) = (text.len(), line.name_range());
                text.extend_from_within(name.clone());
                *line = Line { at: offset(at), name: offset(name.len()), value: offset(value.len()) };
                [COLON, value.as_bytes(), END].iter().for_each(|part| text.extend_from_slice(part));
                true
            }
        });
    }

    /// Adds a line at the end.
    ///
    /// # Panics
    ///
    /// If the name or value would break the head apart: a bug of the caller, never input.
    pub fn push(&mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) {
        let (name, value) = (name.as_ref(), value.as_ref());
        assert!(!name.is_empty() && name.bytes().fold(true, |good, byte| good & is_of_a_name(byte)), "bad header name");
        assert!(is_one_line(value), "bad header value");
        self.keep(name.as_bytes(), value);
    }

    /// Adds a line at the end whose value is a number.
    pub fn push_number(&mut self, name: &str, value: u64) {
        self.push(name, itoa::Buffer::new().format(value));
    }

    /// Adds a line at the end whose value is the bytes of these parts in a row.
    ///
    /// # Panics
    ///
    /// As [`Self::push`].
    pub fn push_parts(&mut self, name: &str, parts: &[Part<'_>]) {
        let at = self.text.len();
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(COLON);
        let value_at = self.text.len();
        for part in parts {
            match part {
                Part::Text(text) => self.text.extend_from_slice(text.as_bytes()),
                Part::Line(line) => {
                    let Some(line) = self.lines.get(*line) else { continue };
                    self.text.extend_from_within(line.value_range());
                }
            }
        }
        let value = &self.text[value_at..];
        assert!(is_one_line(value), "bad header value");
        self.lines.push(Line { at: offset(at), name: offset(name.len()), value: offset(value.len()) });
        self.text.extend_from_slice(END);
    }

    /// Where the first line of this name stands, for [`Part::Line`]; good until a line is taken away.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.lines.iter().position(|line| line.name(&self.text).eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Puts one line in the place of all that had its name.
    ///
    /// # Panics
    ///
    /// As [`Self::push`].
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.remove(name);
        self.push(name, value);
    }

    /// Every line, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let name = |line: &Line| std::str::from_utf8(line.name(&self.text)).expect("names are ASCII");
        self.lines.iter().map(move |line| (name(line), line.value(&self.text)))
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether a comma-separated header such as `Connection` or `Upgrade` holds `token`.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.get_all(name).any(|value| {
            value.split(|&byte| byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
        })
    }

    /// Reads lines up to the empty one that ends them, as they stand behind a body; `None` if it has not come yet.
    ///
    /// # Errors
    ///
    /// [`HeadError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        match httparse::parse_headers(bytes, &mut headers).map_err(HeadError::Malformed)? {
            httparse::Status::Partial => Ok(None),
            httparse::Status::Complete((len, parsed)) => Ok(Some((Self::of(&bytes[..len], parsed), len))),
        }
    }

    /// Appends the lines, without the empty one that ends a head.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut together = 0..0;
        for line in &self.lines {
            let whole = line.whole();
            if whole.start != together.end {
                out.extend_from_slice(&self.text[together]);
                together = whole.clone();
            }
            together.end = whole.end;
        }
        out.extend_from_slice(&self.text[together]);
    }

    /// The lines that were found in `text`.
    fn of(text: &[u8], parsed: &[httparse::Header<'_>]) -> Self {
        // With room for what a proxy adds.
        let (mut kept, lines) = (Vec::with_capacity(text.len() + 512), Vec::with_capacity(parsed.len() + 8));
        kept.extend_from_slice(text);
        let mut headers = Self { text: kept, lines };
        for header in parsed {
            let (name, value) = (header.name.as_bytes(), header.value);
            let at = name.as_ptr() as usize - text.as_ptr() as usize;
            let line = Line { at: offset(at), name: offset(name.len()), value: offset(value.len()) };
            if line.is_written(text, value) {
                headers.lines.push(line);
            } else {
                headers.keep(name, value);
            }
        }
        headers
    }

    fn keep(&mut self, name: &[u8], value: &[u8]) {
        let at = self.text.len();
        self.text.reserve(name.len() + COLON.len() + value.len() + END.len());
        [name, COLON, value, END].iter().for_each(|part| self.text.extend_from_slice(part));
        self.lines.push(Line { at: offset(at), name: offset(name.len()), value: offset(value.len()) });
    }
}

impl Line {
    fn name<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        &text[self.name_range()]
    }

    fn value<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        &text[self.value_range()]
    }

    fn name_range(&self) -> Range<usize> {
        let at = self.at as usize;
        at..at + self.name as usize
    }

    fn value_range(&self) -> Range<usize> {
        let at = self.name_range().end + COLON.len();
        at..at + self.value as usize
    }

    fn whole(&self) -> Range<usize> {
        self.at as usize..self.value_range().end + END.len()
    }

    /// Whether `text` has it as we write it; a client may leave the space out, or put more around a value.
    fn is_written(&self, text: &[u8], value: &[u8]) -> bool {
        let between = text.get(self.name_range().end..self.value_range().start);
        let behind = text.get(self.value_range().end..self.whole().end);
        between == Some(COLON) && behind == Some(END) && self.value(text) == value
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, String::from_utf8_lossy(value)))).finish()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Headers {}

fn is_one_line(value: &[u8]) -> bool {
    memchr::memchr3(b'\r', b'\n', 0, value).is_none()
}

const fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_graphic() & (byte != b':')
}

fn offset(number: usize) -> u32 {
    u32::try_from(number).expect("heads are bounded")
}

impl RequestHead {
    /// Reads a head from the front of `bytes`: the head and its length, or `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// [`HeadError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        Ok(Self::parse_versioned(bytes)?.map(|(head, len, _)| (head, len)))
    }

    /// As [`Self::parse`], with the version: whether it was HTTP/1.1, and not 1.0.
    pub(crate) fn parse_versioned(bytes: &[u8]) -> Result<Option<(Self, usize, bool)>, HeadError> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut headers).map_err(HeadError::Malformed)? {
            httparse::Status::Partial => Ok(None),
            httparse::Status::Complete(len) => {
                let (Some(method), Some(target)) = (request.method, request.path) else {
                    return Err(HeadError::Malformed(httparse::Error::Token));
                };
                let is_http11 = request.version == Some(1);
                let head = Self {
                    method: method.to_owned(),
                    target: target.to_owned(),
                    headers: Headers::of(&bytes[..len], request.headers),
                };
                Ok(Some((head, len, is_http11)))
            }
        }
    }

    /// Writes the head.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        self.encode_into(&mut out);
        out
    }

    /// Appends the head.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(self.method.len() + self.target.len() + self.headers.text.len() + LINE_ROOM);
        for part in [&self.method, " ", &self.target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        self.headers.encode(out);
        out.extend_from_slice(b"\r\n");
    }

    /// The target's path, without its query.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }

    /// The target's query, without the question mark.
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }
}

impl ResponseHead {
    /// Reads a head from the front of `bytes`: the head and its length, or `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// [`HeadError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        Ok(Self::parse_versioned(bytes)?.map(|(head, len, _)| (head, len)))
    }

    /// As [`Self::parse`], with the version: whether it was HTTP/1.1, and not 1.0.
    pub(crate) fn parse_versioned(bytes: &[u8]) -> Result<Option<(Self, usize, bool)>, HeadError> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let parsed = parser.parse_response_with_uninit_headers(&mut response, bytes, &mut headers);
        match parsed.map_err(HeadError::Malformed)? {
            httparse::Status::Partial => Ok(None),
            httparse::Status::Complete(len) => {
                let status = response.code.filter(|code| (100..1000).contains(code));
                let status = status.ok_or(HeadError::Malformed(httparse::Error::Status))?;
                let is_http11 = response.version == Some(1);
                Ok(Some((Self { status, headers: Headers::of(&bytes[..len], response.headers) }, len, is_http11)))
            }
        }
    }

    /// Writes the head.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        self.encode_into(&mut out);
        out
    }

    /// Appends the head.
    ///
    /// # Panics
    ///
    /// If the status does not have three digits: a bug of the caller, never input.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let status = http::StatusCode::from_u16(self.status).expect("statuses have three digits");
        out.reserve(self.headers.text.len() + LINE_ROOM);
        for part in ["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or(""), "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        self.headers.encode(out);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads a request's head; what follows it stays in the socket.
///
/// Not cancel safe: half a head is lost. Put a deadline around it and drop the socket when it passes.
///
/// # Errors
///
/// Every [`HeadError`].
pub async fn read_request(socket: &mut Socket, max: usize) -> Result<RequestHead, HeadError> {
    read_head(socket, max, RequestHead::parse).await
}

/// Reads a response's head; what follows it stays in the socket.
///
/// Not cancel safe, as [`read_request`].
///
/// # Errors
///
/// Every [`HeadError`].
pub async fn read_response(socket: &mut Socket, max: usize) -> Result<ResponseHead, HeadError> {
    read_head(socket, max, ResponseHead::parse).await
}

/// Writes a head or any other bytes as a whole.
///
/// # Errors
///
/// The connection's.
pub async fn write_all(socket: &mut Socket, bytes: &[u8]) -> io::Result<()> {
    socket.write_all(bytes).await
}

async fn read_head<T>(
    socket: &mut Socket,
    max: usize,
    parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, HeadError>,
) -> Result<T, HeadError> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if let Some((head, len)) = parse(&bytes)? {
            socket.put_back(bytes.split_off(len));
            return Ok(head);
        }
        if bytes.len() >= max {
            return Err(HeadError::TooLarge);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_its_bytes_with_case_order_and_repeats() {
        let text = b"GET /a?b=c HTTP/1.1\r\nHOST: x\r\nX-Two: 1\r\nx-two: \xff2\r\n\r\n";
        let (head, len) = RequestHead::parse(text).unwrap().unwrap();
        assert_eq!((len, head.encode().as_slice()), (text.len(), text.as_slice()));
        assert_eq!((head.path(), head.query()), ("/a", Some("b=c")));
        assert_eq!(head.headers.get_all("X-TWO").count(), 2);
        assert!(RequestHead::parse(&text[..20]).unwrap().is_none());
    }

    #[test]
    fn a_line_is_written_in_one_way_however_it_came() {
        let text = b"GET / HTTP/1.1\r\na:1\r\nb:  2 \r\nc:\r\nd: \r\ne: :\nf: 3\r\n\r\n";
        let (mut head, _) = RequestHead::parse(text).unwrap().unwrap();
        let lines = |head: &RequestHead| String::from_utf8(head.encode()).unwrap();
        assert_eq!(lines(&head), "GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: \r\nd: \r\ne: :\r\nf: 3\r\n\r\n");
        head.headers.edit(|name, _| (name == b"d").then(|| Some("4".to_owned())));
        head.headers.remove("b");
        head.headers.push("g", "5");
        assert_eq!(lines(&head), "GET / HTTP/1.1\r\na: 1\r\nc: \r\nd: 4\r\ne: :\r\nf: 3\r\ng: 5\r\n\r\n");
    }

    #[test]
    fn what_is_no_head_is_refused() {
        assert!(matches!(RequestHead::parse(b"\x16\x03\x01 hello"), Err(HeadError::Malformed(_))));
        assert!(matches!(ResponseHead::parse(b"SSH-2.0-x\r\n"), Err(HeadError::Malformed(_))));
    }

    #[tokio::test]
    async fn what_follows_a_head_stays_in_the_socket() {
        let (a, b) = tokio::net::UnixStream::pair().unwrap();
        let (mut a, mut b) = (Socket::unix(a), Socket::unix(b));
        write_all(&mut a, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nrest").await.unwrap();
        assert_eq!(read_response(&mut b, HEAD_MAX).await.unwrap().status, 101);
        let mut rest = [0; 4];
        b.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"rest");
    }

    #[tokio::test]
    async fn a_head_without_end_is_cut_off_at_the_limit() {
        let (a, b) = tokio::net::UnixStream::pair().unwrap();
        let (mut a, mut b) = (Socket::unix(a), Socket::unix(b));
        write_all(&mut a, &[b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 2000]].concat()).await.unwrap();
        assert!(matches!(read_request(&mut b, 1000).await, Err(HeadError::TooLarge)));
    }

    #[test]
    fn a_token_is_found_in_any_line_of_a_list() {
        let (head, _) =
            RequestHead::parse(b"GET / HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\n\r\n").unwrap().unwrap();
        assert!(head.headers.has_token("connection", "upgrade") && !head.headers.has_token("connection", "close"));
    }
}
