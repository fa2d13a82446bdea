//! The servers. Each knows which instances are its own: to a request for another it says that this one moves, which the
//! gateway believes (`retry_signals`) and waits for the news.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::truth::Truth;

/// Listens at so many free addresses.
///
/// # Errors
///
/// There are not as many.
pub(super) async fn listen(count: usize) -> Result<(Vec<TcpListener>, Vec<SocketAddr>)> {
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        addresses.push(listener.local_addr()?);
        listeners.push(listener);
    }
    Ok((listeners, addresses))
}

/// Serves for as long as the program runs.
pub(super) fn serve(listeners: Vec<TcpListener>, truth: &Arc<Truth>) {
    for (server, listener) in listeners.into_iter().enumerate() {
        let truth = Arc::clone(truth);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer_all(socket, server, Arc::clone(&truth)));
            }
        });
    }
}

/// Answers until the connection ends, however that is.
async fn answer_all(mut socket: TcpStream, server: usize, truth: Arc<Truth>) {
    let mut heard = Vec::new();
    while matches!(socket.read_buf(&mut heard).await, Ok(1..)) {
        while let Some(end) = heard.windows(4).position(|window| window == b"\r\n\r\n") {
            let answer = match target(&heard[..end]) {
                Some(number) if truth.is_at(number, server) => whole("200 OK", "", &server.to_string()),
                Some(_) => whole("503 Service Unavailable", "Landfast-Error: instance.moving\r\n", "moved"),
                None => whole("400 Bad Request", "", "no number"),
            };
            heard.drain(..end + 4);
            if socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// The instance's number, which is the whole path: `GET /17 HTTP/1.1`.
fn target(head: &[u8]) -> Option<usize> {
    std::str::from_utf8(head).ok()?.split(' ').nth(1)?.strip_prefix('/')?.parse().ok()
}

fn whole(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}
