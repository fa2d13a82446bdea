//! A client's WebSocket as a session sees it: the raw bytes both ways, with our own pings and our own close frame put
//! between the far end's frames.
//!
//! What flows is not ours: it is masked, fragmented, maybe compressed, and must reach the other end exactly as it was.
//! Yet a client that fell silent has to be found, and one that is turned away has to be told why. So the tap follows
//! frame headers in both directions and speaks only where a frame has ended. Where none has, it says nothing, and the
//! TCP connection ends without half a frame of ours inside a frame of theirs. Nor does it say anything where the far end
//! has ended its connection of its own will: see docs/decisions/0008.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_core::reason::Cause;
use landfast_core::ws::{self, Follower, Opcode};
use landfast_net::carry::Local;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};

/// How often the client is asked whether it lives: below the 30 s after which common middleboxes forget a silent
/// connection.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// The client is lost when this many pings in a row brought nothing back.
const PINGS_MISSED: u8 = 2;

/// The payload of our pings. Agents know by its beginning, `landfast:`, that a pong answers us, and keep it from the far end.
const PING_PAYLOAD: &[u8] = b"landfast:ping";

/// How long the last bytes may take to reach a client's socket, and the client to end its side: long enough for a round
/// trip around the world, short enough that a drain is not held up.
const GOODBYE: Duration = Duration::from_secs(2);

/// How a client's socket stopped being of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It ended or broke.
    Lost,
    /// It answered no ping.
    Silent,
    /// It took no byte for too long.
    Slow,
}

/// How the client learnt that its session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    /// By the far end's own close frame, which came in the stream.
    InStream,
    /// By a close frame of ours.
    CloseFrame,
    /// By the end of its connection, as the far end has ended its own: without a word of anybody's.
    AsItEnded,
    /// By the end of its connection: a frame was cut in the middle, or the client was not there any more.
    Cut,
}

/// A client's socket between the bytes of its session and the wire.
#[derive(Debug)]
pub(crate) struct Tap<S> {
    socket: S,
    /// What the client says.
    up: Follower,
    /// What the client is told.
    down: Follower,
    /// A frame of ours on its way; nothing else is written before it is out.
    own: Vec<u8>,
    own_written: usize,
    ping_due: bool,
    pings_missed: u8,
    /// Whether the client gave a sign of life since the last tick.
    heard: bool,
    tick: Pin<Box<Sleep>>,
    /// Runs while the client's socket takes nothing.
    blocked: Option<Pin<Box<Sleep>>>,
    slow_client_timeout: Duration,
    fate: Option<Fate>,
    bytes_up: u64,
    bytes_down: u64,
}

impl<S> Tap<S> {
    /// Taps a socket whose next byte is the first of a frame in both directions.
    pub(crate) fn new(socket: S, slow_client_timeout: Duration) -> Self {
        Self {
            socket,
            up: Follower::new(),
            down: Follower::new(),
            own: Vec::new(),
            own_written: 0,
            ping_due: false,
            pings_missed: 0,
            heard: true,
            tick: Box::pin(sleep(PING_INTERVAL)),
            blocked: None,
            slow_client_timeout,
            fate: None,
            bytes_up: 0,
            bytes_down: 0,
        }
    }

    /// How many bytes went up (from the client) and down.
    pub(crate) const fn bytes(&self) -> (u64, u64) {
        (self.bytes_up, self.bytes_down)
    }

    /// Whether the client's side has ended, or the client has said that it will.
    pub(crate) const fn has_ended(&self) -> bool {
        self.fate.is_some() || self.up.saw_close()
    }

    /// Whether the far end has said that it closes.
    pub(crate) const fn far_closed(&self) -> bool {
        self.down.saw_close()
    }

    /// Why the client's side has ended.
    pub(crate) const fn cause(&self) -> Cause {
        match self.fate {
            Some(Fate::Slow) => Cause::SlowClient,
            Some(Fate::Silent) => Cause::ClientLost,
            Some(Fate::Lost) | None if self.up.saw_close() => Cause::ClientClosed,
            Some(Fate::Lost) | None => Cause::ClientLost,
        }
    }

    fn fail(&mut self, fate: Fate) -> io::Error {
        let kind = match *self.fate.get_or_insert(fate) {
            Fate::Lost => io::ErrorKind::ConnectionReset,
            Fate::Silent | Fate::Slow => io::ErrorKind::TimedOut,
        };
        io::Error::from(kind)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tap<S> {
    /// Ends the client's connection: with a close frame where one may stand, unless the far end's has been passed on.
    pub(crate) async fn end(self, code: ErrorCode, detail: &str) -> Goodbye {
        let mut close = Vec::new();
        ws::encode_close(code.close_or_1011(), &reason(code, detail), &mut close);
        self.part(&close).await
    }

    /// Ends the client's connection as the far end has ended its own: in good order, and with nothing of ours.
    pub(crate) async fn pass_end(self) -> Goodbye {
        self.part(&[]).await
    }

    async fn part(mut self, close: &[u8]) -> Goodbye {
        let said = timeout(GOODBYE, self.say_last(close)).await.unwrap_or(Goodbye::Cut);
        // Bytes that nobody has read make the kernel reset the connection, which takes away what the client has not
        // read yet: its last frame first of all.
        if self.fate.is_none() {
            let _ = timeout(GOODBYE, self.drain()).await;
        }
        said
    }

    /// Reads until the client has answered with its own close frame, or ended its side.
    async fn drain(&mut self) -> io::Result<()> {
        let mut scratch = [0; 1024];
        while !self.up.saw_close() {
            match self.socket.read(&mut scratch).await? {
                0 => break,
                n => self.up.advance(&scratch[..n]),
            }
        }
        Ok(())
    }

    /// Ends our side, after our close frame if there is one and it may stand here.
    async fn say_last(&mut self, close: &[u8]) -> Goodbye {
        if self.fate.is_some_and(|fate| fate != Fate::Slow) {
            return Goodbye::Cut;
        }
        let said = match close {
            _ if self.down.saw_close() => Goodbye::InStream,
            [] => Goodbye::AsItEnded,
            _ if self.down.at_boundary() => Goodbye::CloseFrame,
            _ => Goodbye::Cut,
        };
        if said == Goodbye::CloseFrame {
            self.own.extend_from_slice(close);
        }
        let rest = self.own.split_off(self.own_written);
        let written = self.socket.write_all(&rest).await;
        if written.and(self.socket.shutdown().await).is_err() {
            self.fate.get_or_insert(Fate::Lost);
            return Goodbye::Cut;
        }
        said
    }

    /// Counts what came from the client; nothing means its end.
    fn handle_heard(&mut self, bytes: &[u8]) {
        self.heard = true;
        self.bytes_up += bytes.len() as u64;
        self.up.advance(bytes);
        if bytes.is_empty() {
            self.fate.get_or_insert(Fate::Lost);
        }
    }

    /// Counts what the client was told.
    fn handle_told(&mut self, bytes: &[u8]) {
        self.bytes_down += bytes.len() as u64;
        self.down.advance(bytes);
    }

    /// Keeps time while the client has nothing to say. Only then may its silence be counted: what it said may wait in the
    /// kernel for as long as nobody reads.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.tick.as_mut().poll(cx).is_ready() {
            self.count_silence();
            if self.pings_missed >= PINGS_MISSED {
                return Err(self.fail(Fate::Silent));
            }
            self.ping_due = true;
            self.tick.as_mut().reset(Instant::now() + PING_INTERVAL);
        }
        match self.poll_own(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    fn count_silence(&mut self) {
        // A ping waits behind the bytes that a slow client has not taken: its silence says nothing then.
        if std::mem::take(&mut self.heard) || self.blocked.is_some() {
            self.pings_missed = 0;
        } else if !self.ping_due {
            self.pings_missed += 1;
        }
    }

    /// Writes our own frame, if one is on its way or may begin here.
    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ping_due && self.down.at_boundary() && !self.down.saw_close() && self.own.is_empty() {
            self.ping_due = false;
            ws::encode_server(Opcode::Ping, &[PING_PAYLOAD], &mut self.own);
        }
        while self.own_written < self.own.len() {
            let written = Pin::new(&mut self.socket).poll_write(cx, &self.own[self.own_written..]);
            self.own_written += ready!(self.account(cx, written))?;
        }
        self.own = Vec::new();
        self.own_written = 0;
        Poll::Ready(Ok(()))
    }

    /// Keeps count of how long the client takes nothing.
    fn account(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(n)) => {
                self.heard |= self.blocked.take().is_some();
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "a client's socket failed");
                Poll::Ready(Err(self.fail(Fate::Lost)))
            }
            Poll::Pending => {
                let limit = self.slow_client_timeout;
                let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(limit)));
                ready!(blocked.as_mut().poll(cx));
                Poll::Ready(Err(self.fail(Fate::Slow)))
            }
        }
    }

    /// How many of `bytes` may be written before a ping of ours must go in between: all, if none waits.
    fn until_ping(&self, bytes: &[u8]) -> usize {
        if self.ping_due && !self.down.saw_close() { self.down.clone().advance_to_boundary(bytes) } else { bytes.len() }
    }
}

impl<S: Local> Local for Tap<S> {
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.socket.poll_left(cx));
        self.fate.get_or_insert(Fate::Lost);
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tap<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.socket).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                self.handle_heard(&buf.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(self.fail(Fate::Lost))),
            Poll::Pending => {
                self.poll_silence(cx)?;
                Poll::Pending
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_own(cx))?;
        let most = self.until_ping(buf);
        let written = Pin::new(&mut self.socket).poll_write(cx, &buf[..most]);
        let n = ready!(self.account(cx, written))?;
        self.handle_told(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_own(cx))?;
        if self.ping_due {
            // Once in twenty seconds: one buffer at a time, up to where the ping goes.
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        let n = ready!(self.account(cx, written))?;
        let mut left = n;
        for buf in bufs {
            let part = left.min(buf.len());
            self.handle_told(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// What a close frame says: the code, with the detail after a space.
fn reason(code: ErrorCode, detail: &str) -> String {
    if detail.is_empty() { code.as_str().to_owned() } else { format!("{code} {detail}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A whole unmasked frame.
    fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        ws::encode_server(opcode, &[payload], &mut bytes);
        bytes
    }

    /// The frames that `bytes` are made of; what is left over after the last whole one stands last.
    fn frames(mut bytes: &[u8]) -> (Vec<(Opcode, Vec<u8>)>, Vec<u8>) {
        let mut found = Vec::new();
        while let Ok(Some((header, len))) = ws::Header::decode(bytes) {
            let Some(payload) = bytes[len..].get(..header.len as usize) else { break };
            found.push((header.opcode, payload.to_vec()));
            bytes = &bytes[len + payload.len()..];
        }
        (found, bytes.to_vec())
    }

    fn tapped(room: usize) -> (Tap<DuplexStream>, DuplexStream) {
        let (near, client) = duplex(room);
        (Tap::new(near, LIMIT), client)
    }

    async fn read_available(client: &mut DuplexStream) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        let n = client.read(&mut bytes).await.unwrap();
        bytes.truncate(n);
        bytes
    }

    /// Reads from the tap, which keeps its time, until it fails or the time is over.
    async fn idle(tap: &mut Tap<DuplexStream>, time: Duration) -> Option<io::ErrorKind> {
        timeout(time, tap.read(&mut [0; 64]))
            .await
            .ok()
            .map(|read| read.map_or_else(|error| error.kind(), |_| panic!()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_pinged_twice_and_lost_within_a_minute() {
        let (mut tap, mut client) = tapped(4096);
        let began = Instant::now();
        assert_eq!(idle(&mut tap, LIMIT * 2).await, Some(io::ErrorKind::TimedOut));
        assert_eq!(began.elapsed(), PING_INTERVAL * 3);
        let (pings, rest) = frames(&read_available(&mut client).await);
        assert_eq!((pings, rest), (vec![(Opcode::Ping, PING_PAYLOAD.to_vec()); 2], vec![]));
        assert_eq!(tap.cause(), Cause::ClientLost);
    }

    #[tokio::test(start_paused = true)]
    async fn any_byte_of_the_client_is_life() {
        let (mut tap, mut client) = tapped(4096);
        for _ in 0..20 {
            assert_eq!(idle(&mut tap, PING_INTERVAL + Duration::from_secs(1)).await, None);
            client.write_all(b"\x8a").await.unwrap();
            tap.read_exact(&mut [0]).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_ping_is_put_inside_a_frame_however_long_it_takes() {
        let (mut tap, mut client) = tapped(4096);
        let whole = frame(Opcode::Binary, &[7; 300]);
        tap.write_all(&whole[..100]).await.unwrap();
        assert_eq!(idle(&mut tap, LIMIT * 10).await, None, "and a ping that was never sent is not missed");
        tap.write_all(&whole[100..]).await.unwrap();
        tap.write_all(&frame(Opcode::Text, b"x")).await.unwrap();
        let (seen, rest) = frames(&read_available(&mut client).await);
        let opcodes: Vec<_> = seen.iter().map(|(opcode, _)| *opcode).collect();
        assert_eq!((opcodes, rest), (vec![Opcode::Binary, Opcode::Ping, Opcode::Text], vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_no_byte_is_slow_and_not_silent() {
        let (mut tap, _client) = tapped(64);
        let began = Instant::now();
        let mut told = tap.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!((told.kind(), began.elapsed()), (io::ErrorKind::TimedOut, LIMIT));
        assert_eq!(tap.cause(), Cause::SlowClient);
        told = tap.write_all(&[0]).await.unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_byte_now_and_then_is_neither() {
        let (mut tap, mut client) = tapped(64);
        let bytes = frame(Opcode::Binary, &[0; 100]);
        let slowly = async {
            for _ in 0..bytes.len() {
                sleep(LIMIT - Duration::from_secs(1)).await;
                client.read_exact(&mut [0]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(tap.write_all(&bytes), slowly);
        written.unwrap();
    }

    #[tokio::test]
    async fn the_close_frame_stands_at_a_boundary_or_not_at_all() {
        let whole = frame(Opcode::Binary, &[7; 50]);
        for (sent, goodbye) in [(whole.len(), Goodbye::CloseFrame), (20, Goodbye::Cut), (1, Goodbye::Cut)] {
            let (mut tap, mut client) = tapped(4096);
            tap.write_all(&whole[..sent]).await.unwrap();
            let ended = tokio::spawn(async move { tap.end(ErrorCode::InstanceGone, "").await });
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            drop(client);
            assert_eq!(ended.await.unwrap(), goodbye);
            let (seen, rest) = frames(&heard);
            match goodbye {
                Goodbye::CloseFrame => {
                    assert_eq!(ws::decode_close(&seen[1].1), Ok(Some((4410, "instance.gone"))));
                    assert!(rest.is_empty());
                }
                Goodbye::Cut | Goodbye::InStream | Goodbye::AsItEnded => assert_eq!(heard, whole[..sent]),
            }
        }
    }

    #[tokio::test]
    async fn a_far_end_that_has_ended_is_not_spoken_over() {
        let whole = frame(Opcode::Binary, &[7; 50]);
        for sent in [whole.len(), 20, 0] {
            let (mut tap, mut client) = tapped(4096);
            tap.write_all(&whole[..sent]).await.unwrap();
            let ended = tokio::spawn(tap.pass_end());
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            drop(client);
            assert_eq!((ended.await.unwrap(), heard.as_slice()), (Goodbye::AsItEnded, &whole[..sent]));
        }
    }

    #[tokio::test]
    async fn the_far_ends_own_close_frame_is_the_last() {
        let (mut tap, mut client) = tapped(4096);
        let mut close = Vec::new();
        ws::encode_close(1000, "process.exited", &mut close);
        tap.write_all(&close).await.unwrap();
        let ended = tokio::spawn(async move { tap.end(ErrorCode::InstanceGone, "").await });
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        drop(client);
        assert_eq!((ended.await.unwrap(), heard), (Goodbye::InStream, close));
    }

    #[tokio::test]
    async fn a_client_that_said_close_before_it_left_has_closed() {
        for (said, cause) in [(&b"\x88\x80\0\0\0\0"[..], Cause::ClientClosed), (b"\x81", Cause::ClientLost)] {
            let (mut tap, mut client) = tapped(64);
            client.write_all(said).await.unwrap();
            drop(client);
            tap.read_to_end(&mut Vec::new()).await.unwrap();
            assert_eq!(tap.cause(), cause);
        }
    }

    /// Takes what it is given in random bites, and remembers it.
    #[derive(Debug)]
    struct Nibbler {
        bites: Vec<usize>,
        at: usize,
        taken: Vec<u8>,
    }

    impl Nibbler {
        fn bite(&mut self, offered: usize) -> usize {
            self.at += 1;
            self.bites[self.at % self.bites.len()].min(offered)
        }
    }

    impl AsyncRead for Nibbler {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Nibbler {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let n = self.bite(buf.len());
            if n == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.taken.extend_from_slice(&buf[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn any_message() -> impl Strategy<Value = Vec<u8>> {
        // Each form of a header's length, and both sides of its limits.
        prop_oneof![0usize..20, 120usize..140, 65_530usize..65_560]
            .prop_flat_map(|len| proptest::collection::vec(any::<u8>(), len))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pings_stand_between_frames_and_the_rest_is_untouched_however_it_is_cut(
            messages in proptest::collection::vec(any_message(), 1..6),
            chunks in proptest::collection::vec(1usize..3000, 1..8),
            bites in proptest::collection::vec(0usize..2000, 1..8),
            pings_at in proptest::collection::vec(any::<bool>(), 1..20),
            vectored: bool,
        ) {
            prop_assume!(bites.iter().any(|&bite| bite > 0));
            let stream: Vec<u8> = messages.iter().flat_map(|message| frame(Opcode::Binary, message)).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let taken = runtime.block_on(async {
                let mut tap = Tap::new(Nibbler { bites, at: 0, taken: Vec::new() }, LIMIT);
                let (mut chunks, mut pings, mut rest) = (chunks.iter().cycle(), pings_at.iter().cycle(), &stream[..]);
                while !rest.is_empty() {
                    tap.ping_due |= pings.next().unwrap();
                    let chunk = &rest[..rest.len().min(*chunks.next().unwrap())];
                    let (left, right) = chunk.split_at(chunk.len() / 2);
                    let n = match vectored {
                        true => tap.write_vectored(&[IoSlice::new(left), IoSlice::new(right)]).await.unwrap(),
                        false => tap.write(chunk).await.unwrap(),
                    };
                    rest = &rest[n..];
                }
                tap.ping_due = true;
                tap.flush().await.unwrap();
                tap.socket.taken
            });
            let (seen, rest) = frames(&taken);
            prop_assert!(rest.is_empty());
            let (pings, data): (Vec<_>, Vec<_>) = seen.into_iter().partition(|(opcode, _)| *opcode == Opcode::Ping);
            prop_assert!(!pings.is_empty() && pings.iter().all(|(_, payload)| payload == PING_PAYLOAD));
            prop_assert_eq!(data.into_iter().map(|(_, payload)| payload).collect::<Vec<_>>(), messages);
        }
    }
}
