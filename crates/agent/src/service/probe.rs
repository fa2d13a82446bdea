//! Finding out whether a server is ready.

use std::io;
use std::time::Duration;

use landfast_net::head::{HEAD_MAX, Headers, RequestHead, read_response, write_all};
use tokio::time::timeout;

use super::place::Place;

/// How long one probe may take: a server that answers a health check more slowly is not ready.
const DEADLINE: Duration = Duration::from_secs(5);

/// Whether a server accepts a connection or, with a path, answers a GET of it with 2xx or 3xx.
///
/// Cancel safe.
pub(crate) async fn is_ready(place: &Place, path: Option<&str>) -> bool {
    let asked = async {
        let mut socket = place.connect().await.map_err(io::Error::other)?;
        let Some(path) = path else { return Ok(true) };
        let mut headers = Headers::new();
        headers.push("Host", "localhost");
        headers.push("User-Agent", "landfast");
        headers.push("Connection", "close");
        let request = RequestHead { method: "GET".to_owned(), target: path.to_owned(), headers };
        write_all(&mut socket, &request.encode()).await?;
        let answer = read_response(&mut socket, HEAD_MAX).await.map_err(io::Error::other)?;
        io::Result::Ok((200..400).contains(&answer.status))
    };
    timeout(DEADLINE, asked).await.is_ok_and(|ready| ready.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use landfast_net::head::read_request;
    use landfast_net::socket::Socket;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_server_is_ready_when_it_accepts_or_answers_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = Place::Port(listener.local_addr().unwrap().port());
        assert!(is_ready(&place, None).await);
        let _ = listener.accept().await.unwrap();
        for (status, ready) in [(200, true), (302, true), (404, false), (503, false)] {
            let answers = async {
                let mut socket = Socket::tcp(listener.accept().await.unwrap().0);
                let head = read_request(&mut socket, HEAD_MAX).await.unwrap();
                write_all(&mut socket, format!("HTTP/1.1 {status} x\r\n\r\n").as_bytes()).await.unwrap();
                head.target
            };
            let (found, asked) = tokio::join!(is_ready(&place, Some("/health")), answers);
            assert_eq!((found, asked.as_str()), (ready, "/health"), "{status}");
        }
        drop(listener);
        assert!(!is_ready(&place, None).await);
    }
}
