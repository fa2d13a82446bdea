//! An upstream that writes down which requests it was sent.
//!
//! It reads in the one way that RFC 9112 leaves to a strict reader, with code of its own: what it cannot read in that way
//! it keeps as it came, and no test takes that for a request.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::meaning::{Meaning, shown};

/// What came on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A whole request.
    Whole(Meaning),
    /// The beginning of one, whose connection then ended.
    Cut(String),
    /// Bytes that are no request.
    Strange(String),
}

/// The upstream. It ends with the value.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: JoinHandle<()>,
}

impl Recorder {
    /// Listens on a free port.
    ///
    /// # Panics
    ///
    /// There is none.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let seen = Arc::default();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&seen)));
        Self { address, seen, accepting }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen since it was last asked.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *lock(&self.seen))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    seen.lock().expect("no holder panics")
}

async fn accept(listener: TcpListener, seen: Arc<Mutex<Vec<Seen>>>) {
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(serve(socket, Arc::clone(&seen)));
    }
}

async fn serve(mut socket: TcpStream, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut heard = Vec::new();
    let mut continued = false;
    loop {
        match read(&heard) {
            Ok(Some((request, len))) => {
                heard.drain(..len);
                continued = false;
                lock(&seen).push(Seen::Whole(request));
                if socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                    return;
                }
                continue;
            }
            Ok(None) => {}
            Err(why) => {
                lock(&seen).push(Seen::Strange(format!("{why}: {}", shown(&heard))));
                // Whoever sent it is told as any server would.
                let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
                return;
            }
        }
        if !continued && expects_to_go_on(&heard) {
            continued = true;
            if socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err() {
                return;
            }
        }
        if !matches!(socket.read_buf(&mut heard).await, Ok(1..)) {
            if !heard.is_empty() {
                lock(&seen).push(Seen::Cut(shown(&heard)));
            }
            return;
        }
    }
}

/// Whether a head is whole and asks to be told to go on.
fn expects_to_go_on(heard: &[u8]) -> bool {
    let Some((head, _)) = split_head(heard) else { return false };
    head.to_ascii_lowercase().windows(20).any(|window| window == b"expect: 100-continue")
}

type Read<T> = Result<Option<T>, &'static str>;

/// The first request and its length, once it is whole.
fn read(bytes: &[u8]) -> Read<(Meaning, usize)> {
    let Some((head, rest)) = split_head(bytes) else { return Ok(None) };
    let mut lines = lines(head)?.into_iter();
    let line = lines.next().ok_or("no request line")?;
    let [method, target, b"HTTP/1.1" | b"HTTP/1.0"] = line.split(|byte| *byte == b' ').collect::<Vec<_>>()[..] else {
        return Err("a request line that is none");
    };
    let headers = lines.map(header).collect::<Result<Vec<_>, _>>()?;
    let values = |name: &str| -> Vec<&[u8]> {
        headers.iter().filter(|(header, _)| header == name).map(|(_, value)| &value[..]).collect()
    };
    let (body, trailers, len) = match (&values("content-length")[..], &values("transfer-encoding")[..]) {
        ([], []) => (Vec::new(), Vec::new(), 0),
        ([length], []) => {
            let length: usize = number(length, 10)?;
            let Some(body) = rest.get(..length) else { return Ok(None) };
            (body.to_vec(), Vec::new(), length)
        }
        ([], [encoding]) if encoding.eq_ignore_ascii_case(b"chunked") => {
            let Some(whole) = read_chunks(rest)? else { return Ok(None) };
            whole
        }
        _ => return Err("a body of doubtful length"),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let meaning = Meaning { method: text(method), target: target.to_vec(), headers, body, trailers };
    Ok(Some((meaning, bytes.len() - rest.len() + len)))
}

/// The body, the trailers and the length of both.
#[expect(clippy::type_complexity, reason = "the parts of one reader's answer, in their order")]
fn read_chunks(bytes: &[u8]) -> Read<(Vec<u8>, Vec<(String, Vec<u8>)>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let line = &bytes[at..at + end];
        let size = line.split(|byte| *byte == b';').next().unwrap_or(line);
        let size = number(size, 16)?;
        at += end + 2;
        if size == 0 {
            break;
        }
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        body.extend_from_slice(chunk.strip_suffix(b"\r\n").ok_or("a chunk longer than its size")?);
        at += size + 2;
    }
    if bytes[at..].starts_with(b"\r\n") {
        return Ok(Some((body, Vec::new(), at + 2)));
    }
    let Some((head, rest)) = split_head(&bytes[at..]) else { return Ok(None) };
    let trailers = lines(head)?.into_iter().map(header).collect::<Result<Vec<_>, _>>()?;
    Ok(Some((body, trailers, bytes.len() - rest.len())))
}

fn split_head(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = find(bytes, b"\r\n\r\n")?;
    Some((&bytes[..end + 2], &bytes[end + 4..]))
}

fn lines(mut head: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    let mut lines = Vec::new();
    while let Some(end) = find(head, b"\r\n") {
        lines.push(&head[..end]);
        head = &head[end + 2..];
    }
    let is_clean = |line: &&[u8]| !line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
    if lines.iter().all(is_clean) { Ok(lines) } else { Err("a line that another reader may end elsewhere") }
}

fn header(line: &[u8]) -> Result<(String, Vec<u8>), &'static str> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or("a header without a colon")?;
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let name = &line[..colon];
    if name.is_empty() || !name.iter().all(is_name) {
        return Err("a header's name that is none");
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    Ok((name, line[colon + 1..].trim_ascii().to_vec()))
}

fn number(digits: &[u8], radix: u32) -> Result<usize, &'static str> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.chars().all(|digit| digit.is_digit(radix)));
    text.and_then(|text| usize::from_str_radix(text, radix).ok()).ok_or("a length that is none")
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_with_its_body_and_its_trailers() {
        let bytes =
            b"PUT /t HTTP/1.1\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nSum: 6\r\n\r\nGET";
        let (request, len) = read(bytes).unwrap().unwrap();
        let expected = Meaning::new("PUT", "/t").with("x-a", "1").saying("abc").trailing("sum", "6");
        assert_eq!((request.without_hops(), len), (expected, bytes.len() - 3));
        for cut in 0..bytes.len() - 3 {
            assert_eq!(read(&bytes[..cut]), Ok(None), "after {cut} bytes");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_no_request() {
        for strange in [
            "GET /t HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            "GET /t HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET /t HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "GET /t HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
            "GET /t HTTP/1.1\nHost: x\r\n\r\n",
            "GET /t HTTP/1.1\r\nHost : x\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
        ] {
            assert!(read(strange.as_bytes()).is_err(), "{strange:?}");
        }
    }
}
