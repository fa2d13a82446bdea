//! HTTP/1.1 messages, read strictly (RFC 9112).
//!
//! A gateway and a server that read the same bytes in two ways let one request hide in another. Whatever could be read in
//! two ways is refused here: who needs it has a broken client, and nobody else misses it. The syntax of lines is
//! httparse's; what it forgives (line feeds alone) and what it does not look at (lengths, hosts) is looked at here.

use std::fmt;

use landfast_core::chunked::{self, ChunkError, Decoded, Decoder};
use landfast_core::{ErrorCode, Problem};

use crate::head::{HEAD_MAX, HeadError, Headers, RequestHead, ResponseHead};

/// How the body of a message is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// It has this many bytes, maybe none.
    Length(u64),
    /// It comes in chunks.
    Chunked,
    /// It goes on until the connection ends. Answers only.
    Close,
}

/// A request's head with what it says of the connection and of its body.
#[derive(Debug)]
pub struct Received {
    /// The head, its target in origin form.
    pub head: RequestHead,
    /// Whether it was HTTP/1.1, and not 1.0.
    pub is_http11: bool,
    /// How its body is delimited.
    pub framing: Framing,
    /// Whether the connection may serve another request after it.
    pub keep_alive: bool,
}

/// Reads a request's head from the front of `bytes`: it and its length, or `None` if more bytes are needed.
///
/// # Errors
///
/// What is wrong with it, for its sender. The connection cannot be trusted after it.
pub fn read_request(bytes: &[u8]) -> Result<Option<(Received, usize)>, Problem> {
    let parsed = RequestHead::parse_versioned(bytes).map_err(|error| malformed(&error))?;
    let Some((mut head, len, is_http11)) = parsed else {
        if bytes.len() >= HEAD_MAX {
            return Err(ErrorCode::LimitHeader.into());
        }
        return Ok(None);
    };
    if len > HEAD_MAX {
        return Err(ErrorCode::LimitHeader.into());
    }
    if has_bare_line_feed(&bytes[..len]) {
        return Err(invalid("A line ends without a carriage return."));
    }
    check_host(&mut head, is_http11)?;
    let framing = request_framing(&head, is_http11)?;
    let keep_alive = keeps_alive(&head.headers, is_http11);
    Ok(Some((Received { head, is_http11, framing, keep_alive }, len)))
}

/// An answer's head with what it says of the connection.
#[derive(Debug)]
pub struct Answered {
    /// The head.
    pub head: ResponseHead,
    /// Whether the connection may serve another request after it.
    pub keep_alive: bool,
}

/// Reads an answer's head from the front of `bytes`: it and its length, or `None` if more bytes are needed.
///
/// # Errors
///
/// [`HeadError`].
pub fn read_answer(bytes: &[u8]) -> Result<Option<(Answered, usize)>, HeadError> {
    let Some((head, len, is_http11)) = ResponseHead::parse_versioned(bytes)? else {
        return if bytes.len() >= HEAD_MAX { Err(HeadError::TooLarge) } else { Ok(None) };
    };
    let keep_alive = keeps_alive(&head.headers, is_http11);
    Ok(Some((Answered { head, keep_alive }, len)))
}

/// How the body of an answer to `method` is delimited (RFC 9112, section 6.3).
///
/// # Errors
///
/// What is wrong with the head.
pub fn answer_framing(method: &str, head: &ResponseHead) -> Result<Framing, &'static str> {
    if method == "HEAD" || matches!(head.status, 100..=199 | 204 | 304) {
        return Ok(Framing::Length(0));
    }
    let (codings, length) = (head.headers.get_all("transfer-encoding").count(), content_length(&head.headers)?);
    match (codings, length) {
        (0, Some(length)) => Ok(Framing::Length(length)),
        (0, None) => Ok(Framing::Close),
        (1, None) if is_chunked(&head.headers) => Ok(Framing::Chunked),
        (_, None) => Err("The answer has a transfer coding other than chunked."),
        (_, Some(_)) => Err("The answer has both a Content-Length and a Transfer-Encoding."),
    }
}

/// Reads one body out of the bytes of its connection.
#[derive(Clone, Debug)]
pub enum BodyReader {
    /// This many bytes are left.
    Length(u64),
    /// Chunks.
    Chunked(Box<Decoder>),
    /// Whatever comes.
    Close,
}

impl BodyReader {
    /// Begins a body.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Box::default()),
            Framing::Close => Self::Close,
        }
    }

    /// Reads `bytes` and moves what they hold of the body to their front.
    ///
    /// # Errors
    ///
    /// [`ChunkError`].
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, ChunkError> {
        match self {
            Self::Length(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= len as u64;
                Ok(Decoded { payload: len, consumed: len })
            }
            Self::Chunked(decoder) => decoder.decode(bytes),
            Self::Close => Ok(Decoded { payload: bytes.len(), consumed: bytes.len() }),
        }
    }

    /// Whether the body has ended. One that goes on until the connection ends never says so.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(decoder) => decoder.is_done(),
            Self::Close => false,
        }
    }

    /// The trailers of a body that has ended; those that could change how it was read are left out (RFC 9110, 6.5.1).
    ///
    /// # Errors
    ///
    /// If they are no header lines.
    pub fn trailers(&self) -> Result<Option<Headers>, HeadError> {
        let Self::Chunked(decoder) = self else { return Ok(None) };
        if decoder.trailer().is_empty() {
            return Ok(None);
        }
        let Some((mut trailers, _)) = Headers::parse(decoder.trailer())? else { return Ok(None) };
        trailers.retain(|name, _| !is_forbidden_trailer(name));
        Ok(Some(trailers).filter(|trailers| !trailers.is_empty()))
    }
}

/// Writes the end of a chunked body.
pub fn encode_end(trailers: Option<&Headers>, out: &mut Vec<u8>) {
    match trailers {
        None => out.extend_from_slice(chunked::LAST),
        Some(trailers) => {
            out.extend_from_slice(b"0\r\n");
            trailers.encode(out);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn keeps_alive(headers: &Headers, is_http11: bool) -> bool {
    let asked = |token| headers.has_token("connection", token);
    !asked("close") && (is_http11 || asked("keep-alive"))
}

fn malformed(error: &HeadError) -> Problem {
    let code = match error {
        HeadError::Malformed(httparse::Error::TooManyHeaders) | HeadError::TooLarge => ErrorCode::LimitHeader,
        HeadError::Malformed(httparse::Error::Version) => ErrorCode::RequestVersion,
        HeadError::Malformed(_) | HeadError::Io(_) => ErrorCode::RequestInvalid,
    };
    Problem::new(code, format!("The request is {error}."))
}

fn invalid(what: impl fmt::Display) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, what.to_string())
}

/// The bytes that a host and its port may have (RFC 3986, section 3.2.2), but for the comma, at which some would split it.
const IN_HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b".-_~:[]%!$&'()*+;=";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

/// Read to its end, as nearly every head has to be: so the compiler looks at many bytes at a time.
fn has_bare_line_feed(head: &[u8]) -> bool {
    let is_bare = |before: u8, byte: u8| (byte == b'\n') & (before != b'\r');
    head.first() == Some(&b'\n') || head.windows(2).fold(false, |found, pair| found | is_bare(pair[0], pair[1]))
}

/// Checks who is asked, and brings the target into origin form.
fn check_host(head: &mut RequestHead, is_http11: bool) -> Result<(), Problem> {
    let mut hosts = head.headers.get_all("host");
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(invalid("Host stands there twice."));
    }
    if host.is_none() && is_http11 {
        return Err(invalid("Host is missing."));
    }
    let host = host.unwrap_or_default();
    if !host.iter().all(|&byte| IN_HOST[usize::from(byte)]) {
        return Err(invalid("Host is no host."));
    }
    if !head.target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(invalid("The target has a character that must be percent-encoded."));
    }
    if head.method == "CONNECT" {
        return Err(ErrorCode::RequestMethod.into());
    }
    if head.target.starts_with('/') || (head.target == "*" && head.method == "OPTIONS") {
        return Ok(());
    }
    let absolute = head
        .target
        .split_once("://")
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"));
    let Some((_, rest)) = absolute else { return Err(invalid("The target begins with no slash.")) };
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    if !authority.as_bytes().eq_ignore_ascii_case(host) {
        return Err(invalid("The target names another host than Host."));
    }
    let target = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    drop(hosts);
    head.target = target;
    Ok(())
}

fn request_framing(head: &RequestHead, is_http11: bool) -> Result<Framing, Problem> {
    let headers = &head.headers;
    let length = content_length(headers).map_err(invalid)?;
    match headers.get_all("transfer-encoding").count() {
        0 => Ok(Framing::Length(length.unwrap_or(0))),
        _ if length.is_some() => Err(invalid("The request has both a Content-Length and a Transfer-Encoding.")),
        _ if !is_http11 => Err(invalid("HTTP/1.0 knows no Transfer-Encoding.")),
        1 if is_chunked(headers) => Ok(Framing::Chunked),
        _ => Err(invalid("The only transfer coding that is understood is chunked, once.")),
    }
}

fn content_length(headers: &Headers) -> Result<Option<u64>, &'static str> {
    let mut values = headers.get_all("content-length");
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err("Content-Length stands there twice.");
    }
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).map(Some).ok_or("Content-Length is no plain number.")
}

fn is_chunked(headers: &Headers) -> bool {
    headers.get_bytes("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"))
}

/// Names that say how a message is to be read, or by whom: they come too late behind it.
fn is_forbidden_trailer(name: &[u8]) -> bool {
    const FORBIDDEN: [&str; 13] = [
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "host",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()))
        || name.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"landfast-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<Received, ErrorCode> {
        let read = read_request(text.as_bytes()).map_err(|problem| problem.code)?;
        Ok(read.expect("a whole head").0)
    }

    fn with(lines: &str) -> Result<Received, ErrorCode> {
        request(&format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
    }

    #[test]
    fn the_body_is_delimited_in_one_way() {
        assert_eq!(with("").unwrap().framing, Framing::Length(0));
        assert_eq!(with("Content-Length: 5\r\n").unwrap().framing, Framing::Length(5));
        assert_eq!(with("Transfer-Encoding: Chunked\r\n").unwrap().framing, Framing::Chunked);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for lines in [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "X: a\nY: b\r\n",
            "X : a\r\n",
            " X: a\r\n",
            "Host: b\r\n",
        ] {
            assert_eq!(with(lines).unwrap_err(), ErrorCode::RequestInvalid, "{lines:?}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(request(old).unwrap_err(), ErrorCode::RequestInvalid);
    }

    #[test]
    fn who_is_asked_is_said_once() {
        assert_eq!(request("GET / HTTP/1.1\r\n\r\n").unwrap_err(), ErrorCode::RequestInvalid);
        assert!(request("GET / HTTP/1.0\r\n\r\n").is_ok());
        let absolute = request("GET http://A:80?q HTTP/1.1\r\nHost: a:80\r\n\r\n").unwrap();
        assert_eq!(absolute.head.target, "/?q");
        for text in ["GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET x HTTP/1.1\r\nHost: a\r\n\r\n"] {
            assert_eq!(request(text).unwrap_err(), ErrorCode::RequestInvalid, "{text:?}");
        }
        let connect = "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
        assert_eq!(request(connect).unwrap_err(), ErrorCode::RequestMethod);
    }

    #[test]
    fn the_connection_is_kept_as_the_version_has_it() {
        let kept = |version: &str, line: &str| {
            request(&format!("GET / {version}\r\nHost: a\r\n{line}\r\n")).unwrap().keep_alive
        };
        assert!(kept("HTTP/1.1", "") && kept("HTTP/1.0", "Connection: keep-alive\r\n"));
        assert!(!kept("HTTP/1.1", "Connection: x, Close\r\n") && !kept("HTTP/1.0", ""));
    }

    #[test]
    fn a_version_that_is_not_spoken_is_named() {
        assert_eq!(request("GET / HTTP/3.0\r\n\r\n").unwrap_err(), ErrorCode::RequestVersion);
    }

    #[test]
    fn an_answer_without_a_length_goes_on_to_the_end_of_its_connection() {
        let framing = |method: &str, text: &str| {
            let (head, _) = ResponseHead::parse(text.as_bytes()).unwrap().unwrap();
            answer_framing(method, &head)
        };
        assert_eq!(framing("GET", "HTTP/1.1 200 OK\r\n\r\n"), Ok(Framing::Close));
        assert_eq!(framing("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), Ok(Framing::Length(0)));
        assert_eq!(framing("GET", "HTTP/1.1 304 X\r\nContent-Length: 9\r\n\r\n"), Ok(Framing::Length(0)));
        assert!(framing("GET", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn a_trailer_that_comes_too_late_is_left_out() {
        let mut reader = BodyReader::new(Framing::Chunked);
        let mut text = *b"0\r\nContent-Length: 5\r\nX-Sum: 1\r\nlandfast-error: x\r\n\r\n";
        reader.decode(&mut text).unwrap();
        let trailers = reader.trailers().unwrap().unwrap();
        assert_eq!(trailers.iter().collect::<Vec<_>>(), [("X-Sum", &b"1"[..])]);
    }
}
