//! The one place where bytes are copied between two streams that are nothing but bytes.
//!
//! Both directions run at once; the end of one is passed on as a half-close and the other goes on, so that a request
//! whose sender has finished still gets its answer. Bytes are read into a buffer that all connections of a thread share;
//! only what the writer does not take at once is kept, and nothing more is read until it did.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::scratch;

/// Which side a copy ended on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both directions came to their end.
    Clean,
    /// Reading from or writing to the first stream failed.
    First(io::ErrorKind),
    /// Reading from or writing to the second stream failed.
    Second(io::ErrorKind),
}

/// What a copy did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Bytes from the first stream to the second.
    pub up: u64,
    /// Bytes from the second stream to the first.
    pub down: u64,
    /// How it ended.
    pub ended_by: Ended,
}

/// Copies both ways until both directions have ended or one stream fails.
///
/// Cancel safe in that nothing panics; bytes in the buffers are lost with the future.
pub async fn copy_both<A, B>(first: &mut A, second: &mut B) -> Copied
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let ended_by = std::future::poll_fn(|cx| {
        let upward = up.poll(cx, first, second);
        let downward = down.poll(cx, second, first);
        match (upward, downward) {
            (Poll::Ready(Err(Fault::Reading(kind))), _) | (_, Poll::Ready(Err(Fault::Writing(kind)))) => {
                Poll::Ready(Ended::First(kind))
            }
            (Poll::Ready(Err(Fault::Writing(kind))), _) | (_, Poll::Ready(Err(Fault::Reading(kind)))) => {
                Poll::Ready(Ended::Second(kind))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ended::Clean),
            _ => Poll::Pending,
        }
    })
    .await;
    Copied { up: up.copied, down: down.copied, ended_by }
}

/// One direction of a copy.
#[derive(Debug, Default)]
struct Direction {
    /// What was read and not yet written; at most one read's worth.
    kept: Vec<u8>,
    written: usize,
    copied: u64,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Copying,
    /// The reader has ended; the end is being passed on.
    Ending,
    Ended,
}

/// Which end of a direction failed.
enum Fault {
    Reading(io::ErrorKind),
    Writing(io::ErrorKind),
}

impl Direction {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<Result<(), Fault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    let ended = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                    self.state = State::Ended;
                    ended.map_err(|error| Fault::Writing(error.kind()))?;
                }
                State::Copying if self.kept.is_empty() => {
                    if let Poll::Ready(moved) = self.poll_move(cx, reader, writer) {
                        moved?;
                        continue;
                    }
                    // A writer with a buffer of its own, such as TLS, may still have some of it.
                    let flushed = Pin::new(&mut *writer).poll_flush(cx);
                    return match flushed {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(Fault::Writing(error.kind()))),
                        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                    };
                }
                State::Copying => {
                    let written = ready!(poll_write(cx, writer, &self.kept[self.written..]))?;
                    self.written += written;
                    self.copied += written as u64;
                    if self.written == self.kept.len() {
                        (self.kept, self.written) = (Vec::new(), 0);
                    }
                }
            }
        }
    }

    /// Reads once and writes what was read, as far as the writer takes it.
    fn poll_move<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<Result<(), Fault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        scratch::with(|scratch| {
            let mut space = ReadBuf::new(scratch);
            ready!(Pin::new(reader).poll_read(cx, &mut space)).map_err(|error| Fault::Reading(error.kind()))?;
            let mut bytes = space.filled();
            if bytes.is_empty() {
                self.state = State::Ending;
            }
            while !bytes.is_empty() {
                let Poll::Ready(written) = poll_write(cx, writer, bytes) else {
                    self.kept = bytes.to_vec();
                    return Poll::Pending;
                };
                let written = written?;
                self.copied += written as u64;
                bytes = &bytes[written..];
            }
            Poll::Ready(Ok(()))
        })
    }
}

fn poll_write<W: AsyncWrite + Unpin>(cx: &mut Context<'_>, writer: &mut W, bytes: &[u8]) -> Poll<Result<usize, Fault>> {
    match ready!(Pin::new(writer).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(Fault::Writing(io::ErrorKind::WriteZero))),
        Ok(written) => Poll::Ready(Ok(written)),
        Err(error) => Poll::Ready(Err(Fault::Writing(error.kind()))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn an_answer_still_comes_after_the_asker_has_finished() {
        let (mut client, mut near) = duplex(64);
        let (mut far, mut server) = duplex(64);
        let copy = tokio::spawn(async move { copy_both(&mut near, &mut far).await });
        let question = vec![7; 1000];
        let asked = async {
            client.write_all(&question).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let answered = async {
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            server.write_all(&heard).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let (answer, ()) = tokio::join!(asked, answered);
        assert_eq!(answer, question);
        assert_eq!(copy.await.unwrap(), Copied { up: 1000, down: 1000, ended_by: Ended::Clean });
    }

    #[tokio::test]
    async fn the_side_that_failed_is_named() {
        let (mut client, mut near) = duplex(64);
        let (mut far, server) = duplex(64);
        drop(server);
        client.write_all(b"x").await.unwrap();
        let copied = copy_both(&mut near, &mut far).await;
        assert_eq!(copied.ended_by, Ended::Second(io::ErrorKind::BrokenPipe));
    }
}
