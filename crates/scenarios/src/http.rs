//! HTTP as bytes on a socket: enough to ask, to upgrade, and to send what no library would send.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::plain::PATIENCE;

/// An answer as it came.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// It is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The code of a refusal: the same in the header and the body, with a sentence and an advice beside it.
    ///
    /// # Panics
    ///
    /// The refusal is not typed.
    pub fn refusal(&self) -> (u16, String) {
        let body = self.json();
        let code = body["code"].as_str().unwrap_or_default().to_owned();
        assert_eq!(self.header("landfast-error"), Some(code.as_str()), "{self:?}");
        assert_eq!(body["status"].as_u64(), Some(u64::from(self.status)), "{self:?}");
        for sentence in ["detail", "advice"] {
            assert!(body[sentence].as_str().is_some_and(|text| text.len() > 10), "no {sentence}: {self:?}");
        }
        (self.status, code)
    }
}

/// Asks over a connection of its own and reads the whole answer.
///
/// # Panics
///
/// No whole answer came in time.
pub async fn ask(address: SocketAddr, method: &str, target: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    if let Some(token) = token {
        head += &format!("Authorization: Bearer {token}\r\n");
    }
    if !body.is_empty() || method == "POST" || method == "PUT" {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    send(address, format!("{head}\r\n{body}").as_bytes()).await
}

/// Sends bytes as they are and reads what answers.
///
/// # Panics
///
/// No whole answer came in time.
pub async fn send(address: SocketAddr, bytes: &[u8]) -> Answer {
    let socket = connect(address, None).await;
    write(&socket, bytes).await;
    let (answer, ahead) = read_head(&socket).await;
    read_body(&socket, answer, ahead).await
}

/// Sends a request that lets the connection end after its answer; `None` if that end came before the answer's.
///
/// # Panics
///
/// Neither came in time.
pub async fn try_send(address: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let socket = connect(address, None).await;
    write(&socket, bytes).await;
    let mut heard = Vec::new();
    while read(&socket, &mut heard).await {}
    let (answer, body) = parse_head(&heard)?;
    let length = answer.header("content-length").map_or(0, |length| length.parse::<usize>().expect("a number"));
    (body.len() == length).then(|| Answer { body: body.to_vec(), ..answer })
}

/// Sends bytes as they are and reads the whole answer, for a client that lives with whatever becomes of it.
///
/// # Errors
///
/// No connection, its end before the answer's, or no whole answer within `patience`.
///
/// # Panics
///
/// What answers is not HTTP/1.1.
pub async fn attempt(address: SocketAddr, bytes: &[u8], patience: Duration) -> std::io::Result<Answer> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(bytes).await?;
        let mut heard = Vec::new();
        loop {
            if let Some(answer) = whole(&heard) {
                return Ok(answer);
            }
            if socket.read_buf(&mut heard).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    timeout(patience, exchange).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// The answer, once its length is known and all of it is there.
fn whole(heard: &[u8]) -> Option<Answer> {
    let (answer, body) = parse_head(heard)?;
    if answer.header("transfer-encoding") == Some("chunked") {
        return dechunk(body).map(|body| Answer { body, ..answer });
    }
    let length = answer.header("content-length").map_or(0, |length| length.parse::<usize>().expect("a number"));
    let body = body.get(..length)?.to_vec();
    Some(Answer { body, ..answer })
}

pub(crate) async fn connect(address: SocketAddr, receive_buffer: Option<usize>) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes as u32).expect("a socket takes options");
    }
    let connected = timeout(PATIENCE, socket.connect(address)).await.expect("connecting takes no time on one machine");
    let socket = connected.unwrap_or_else(|error| panic!("nothing listens on {address}: {error}"));
    socket.set_nodelay(true).expect("a connected socket takes options");
    socket
}

pub(crate) async fn write(socket: &TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        timeout(PATIENCE, socket.writable()).await.expect("nothing takes the request").expect("a connected socket");
        match socket.try_write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // The server has answered and hung up before it read all of it.
            Err(_) => return,
        }
    }
}

/// Reads until the head is whole; what came after it is returned beside it.
pub(crate) async fn read_head(socket: &TcpStream) -> (Answer, Vec<u8>) {
    let mut heard = Vec::new();
    loop {
        if let Some((answer, ahead)) = parse_head(&heard) {
            let ahead = ahead.to_vec();
            return (answer, ahead);
        }
        assert!(read(socket, &mut heard).await, "the connection ended without an answer: {heard:?}");
    }
}

/// The head of an answer once it is whole, and what follows it.
fn parse_head(heard: &[u8]) -> Option<(Answer, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(len) = response.parse(heard).expect("an answer in HTTP/1.1") else { return None };
    let header = |header: &httparse::Header<'_>| {
        (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
    };
    let headers = response.headers.iter().map(header).collect();
    Some((Answer { status: response.code.unwrap_or(0), headers, body: Vec::new() }, &heard[len..]))
}

/// Reads the rest of an answer whose head was read.
pub(crate) async fn read_body(socket: &TcpStream, mut answer: Answer, mut body: Vec<u8>) -> Answer {
    let chunked = answer.header("transfer-encoding") == Some("chunked");
    let length = answer.header("content-length").map(|length| length.parse::<usize>().expect("a number"));
    loop {
        match (chunked, length) {
            (true, _) => {
                if let Some(whole) = dechunk(&body) {
                    answer.body = whole;
                    return answer;
                }
            }
            (false, Some(length)) if body.len() >= length => {
                body.truncate(length);
                answer.body = body;
                return answer;
            }
            (false, _) => {}
        }
        if !read(socket, &mut body).await {
            assert!(!chunked && length.is_none(), "the answer was cut: {answer:?} {body:?}");
            answer.body = body;
            return answer;
        }
    }
}

/// Reads more, and says whether there was any.
async fn read(socket: &TcpStream, into: &mut Vec<u8>) -> bool {
    loop {
        timeout(PATIENCE, socket.readable()).await.expect("no answer in time").expect("a connected socket");
        match socket.try_read_buf(into) {
            Ok(n) => return n > 0,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
}

fn dechunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let httparse::Status::Complete((at, len)) = httparse::parse_chunk_size(bytes).expect("a chunk's size") else {
            return None;
        };
        let chunk = bytes.get(at..at + len as usize + 2)?;
        if len == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(&chunk[..len as usize]);
        bytes = &bytes[at + len as usize + 2..];
    }
}
