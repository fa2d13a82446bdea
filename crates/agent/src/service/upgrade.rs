//! The opening handshake of a WebSocket to a service: its program decides, and what it says reaches the client.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use landfast_core::{ErrorCode, Problem};
use landfast_net::head::{HEAD_MAX, HeadError, RequestHead, ResponseHead, read_response, write_all};
use landfast_net::socket::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pipe::{Origin, Pipe};
use super::websocket::WebSocket;

/// The most bytes of a refusal's body that are passed on.
const BODY_MAX: usize = 64 * 1024;

/// Headers about the connection to the program, which the client's is not, and those that a refusal gets anew.
const OF_THE_CONNECTION: [&str; 6] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "trailer", "transfer-encoding"];

/// What a program says to an upgrade.
pub(crate) enum Answer<S = WebSocket> {
    /// Its 101, and what follows it.
    Accepted(ResponseHead, Box<S>),
    /// Anything else.
    Refused(Refusal),
}

/// A program's own no.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The status and headers that are the client's to see.
    pub(crate) head: ResponseHead,
    /// The body, or its beginning.
    pub(crate) body: Bytes,
    /// Whether there was more.
    pub(crate) is_cut: bool,
}

/// Asks a program for a WebSocket. `retry_signals` says whether its `landfast-error` is believed.
///
/// Not cancel safe in that the program may have been asked.
///
/// # Errors
///
/// [`ErrorCode::UpstreamLost`] if it said nothing that can be read.
pub(crate) async fn ask(
    mut socket: Socket,
    origin: Option<Origin>,
    request: &RequestHead,
    retry_signals: bool,
) -> Result<Answer, Problem> {
    let lost = |error: HeadError| Problem::new(ErrorCode::UpstreamLost, format!("It answered no upgrade: {error}."));
    write_all(&mut socket, &request.encode()).await.map_err(|error| lost(error.into()))?;
    let mut head = loop {
        let head = read_response(&mut socket, HEAD_MAX).await.map_err(lost)?;
        // Hints and the like come before the answer.
        if head.status == 101 || head.status >= 200 {
            break head;
        }
    };
    if head.status == 101 {
        strip(&mut head, false);
        return Ok(Answer::Accepted(head, Box::new(WebSocket::new(Pipe::new(socket, origin)))));
    }
    let (body, is_cut) = read_body(socket, &head).await.map_err(|error| {
        Problem::new(ErrorCode::UpstreamLost, format!("Its refusal of the upgrade broke off: {error}."))
    })?;
    let is_believed = retry_signals && head.status == 503;
    strip(&mut head, is_believed);
    head.headers.retain(|name, _| !OF_THE_CONNECTION.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())));
    head.headers.push("landfast-origin", "service");
    Ok(Answer::Refused(Refusal { head, body, is_cut }))
}

/// Takes away what only Landfast may say.
fn strip(head: &mut ResponseHead, keeps_error: bool) {
    let is_ours = |name: &[u8]| name.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"landfast-"));
    head.headers.retain(|name, _| !is_ours(name) || (keeps_error && name.eq_ignore_ascii_case(b"landfast-error")));
}

/// Reads a body's beginning, and whether there is more. hyper knows every way in which a body can end, so it is shown the
/// head once more.
async fn read_body(socket: Socket, head: &ResponseHead) -> io::Result<(Bytes, bool)> {
    let answer = Retold { socket: socket.with_ahead(head.encode()), is_asked: false, reader: None };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(answer)).await.map_err(io::Error::other)?;
    let read = async {
        let question = http::Request::new(http_body_util::Empty::<Bytes>::new());
        let mut body = sender.send_request(question).await.map_err(io::Error::other)?.into_body();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
            let room = BODY_MAX - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                return Ok((bytes.freeze(), true));
            }
        }
        Ok((bytes.freeze(), false))
    };
    let (mut read, mut connection) = (std::pin::pin!(read), std::pin::pin!(connection));
    tokio::select! {
        biased;
        read = &mut read => read,
        _ = &mut connection => read.await,
    }
}

/// A connection whose question was asked already: what is asked again goes nowhere, and the answer comes after it.
struct Retold {
    socket: Socket,
    is_asked: bool,
    reader: Option<Waker>,
}

impl AsyncRead for Retold {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_asked {
            return Pin::new(&mut self.socket).poll_read(cx, buf);
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Retold {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixStream;

    use super::*;

    const REQUEST: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nX-Odd: caf\xe9\r\n\r\n";

    /// Asks a program that gives this answer, and returns what it was asked as well.
    async fn asked(answer: &[u8], retry_signals: bool) -> (Vec<u8>, Result<Answer, Problem>) {
        let (near, far) = UnixStream::pair().unwrap();
        let (request, _) = RequestHead::parse(REQUEST).unwrap().unwrap();
        let program = async {
            let mut far = Socket::unix(far);
            let mut heard = vec![0; REQUEST.len()];
            far.read_exact(&mut heard).await.unwrap();
            write_all(&mut far, answer).await.unwrap();
            heard
        };
        tokio::join!(program, ask(Socket::unix(near), None, &request, retry_signals))
    }

    async fn refusal(answer: &[u8], retry_signals: bool) -> Refusal {
        match asked(answer, retry_signals).await.1.unwrap() {
            Answer::Refused(refusal) => refusal,
            Answer::Accepted(..) => panic!("accepted"),
        }
    }

    #[tokio::test]
    async fn a_program_is_asked_as_the_client_asked_and_its_yes_is_passed_on_with_what_follows() {
        let answer = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nX-A: b\r\nLandfast-Session: x\r\n\r\nhi";
        let (heard, answered) = asked(answer, true).await;
        assert_eq!(heard, REQUEST);
        let Ok(Answer::Accepted(head, mut socket)) = answered else { panic!("not accepted") };
        assert_eq!((head.headers.get("x-a"), head.headers.get("landfast-session")), (Some("b"), None));
        let mut hi = [0; 2];
        socket.read_exact(&mut hi).await.unwrap();
        assert_eq!(&hi, b"hi");
    }

    #[tokio::test]
    async fn a_no_is_passed_on_with_its_status_headers_and_body_however_that_is_framed() {
        for framed in [
            "Content-Length: 4\r\n\r\nnope",
            "Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n2\r\npe\r\n0\r\n\r\n",
            "Connection: close\r\n\r\nnope",
        ] {
            let answer = format!("HTTP/1.1 403 Forbidden\r\nX-A: b\r\nlandfast-error: node.not_here\r\n{framed}");
            let no = refusal(answer.as_bytes(), true).await;
            assert_eq!((no.head.status, &no.body[..], no.is_cut), (403, b"nope".as_slice(), false), "{framed}");
            let headers: Vec<_> = no.head.headers.iter().map(|(name, _)| name).collect();
            assert_eq!(headers, ["X-A", "landfast-origin"]);
        }
    }

    #[tokio::test]
    async fn a_programs_error_is_believed_only_with_503_and_where_its_spec_says_so() {
        for (status, retry_signals, believed) in [(503, true, true), (503, false, false), (502, true, false)] {
            let answer = format!("HTTP/1.1 {status} No\r\nlandfast-error: node.not_here\r\ncontent-length: 0\r\n\r\n");
            let no = refusal(answer.as_bytes(), retry_signals).await;
            assert_eq!(no.head.headers.get("landfast-error").is_some(), believed, "{status} {retry_signals}");
        }
    }

    #[tokio::test]
    async fn a_long_body_is_cut() {
        let answer = format!("HTTP/1.1 500 No\r\nContent-Length: {}\r\n\r\n{}", BODY_MAX + 1, "x".repeat(BODY_MAX + 1));
        let no = refusal(answer.as_bytes(), false).await;
        assert!(no.body.len() == BODY_MAX && no.is_cut);
        let answer = format!("HTTP/1.1 500 No\r\nContent-Length: {BODY_MAX}\r\n\r\n{}", "x".repeat(BODY_MAX));
        assert!(!refusal(answer.as_bytes(), false).await.is_cut);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_a_loss() {
        for answer in ["", "HTTP/1.1 101", "SSH-2.0-x\r\n", "HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nno"] {
            let (_, answered) = asked(answer.as_bytes(), false).await;
            assert_eq!(answered.err().map(|problem| problem.code), Some(ErrorCode::UpstreamLost), "{answer}");
        }
    }
}
