//! A stream of server-sent events that goes on where it was when its connection is lost.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use landfast_core::{InstanceId, Retry};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, DEADLINE, wants_new_token};
use crate::error::Error;
use crate::origin::{Call, Open};

/// How long a stream may be silent: three times what a server says something within.
pub(crate) const SILENCE: Duration = Duration::from_secs(45);

/// For how long a lost stream is opened again before its reader hears of it; a session is redialled for as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first pause between two tries, which doubles, and the longest.
pub(crate) const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The most bytes of one frame: some times what the largest event has.
const FRAME_MAX: usize = 8 << 20;

/// A stream that is followed.
pub(crate) struct Follow {
    client: Client,
    instance: InstanceId,
    /// The instance's own path, with its query.
    path: String,
    /// The id of the last frame.
    last: Option<String>,
    open: Option<(Open, Parser)>,
    /// Since when it could not be opened.
    lost: Option<(Instant, Duration)>,
}

/// A frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) id: Option<String>,
    pub(crate) event: Option<String>,
    pub(crate) data: Option<String>,
}

impl Follow {
    /// Nothing is sent yet.
    pub(crate) const fn new(client: Client, instance: InstanceId, path: String, last: Option<String>) -> Self {
        Self { client, instance, path, last, open: None, lost: None }
    }

    /// The id after which it goes on.
    pub(crate) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// The next frame that says something; `None` at the stream's own end.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// The cell's refusal, or that it could not be reached for a minute.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            match self.step().await {
                Ok(Some(frame)) => {
                    self.last = frame.id.clone().or(self.last.take());
                    if frame.data.is_some() {
                        return Ok(Some(frame));
                    }
                }
                Ok(None) => return Ok(None),
                Err(error) => self.lose(error).await?,
            }
        }
    }

    /// The stream's end was none of its own.
    pub(crate) fn reopen(&mut self) {
        self.open = None;
    }

    async fn step(&mut self) -> Result<Option<Frame>, Error> {
        if self.open.is_none() {
            self.open = Some((self.connect().await?, Parser::default()));
        }
        let Some((open, parser)) = &mut self.open else { return Ok(None) };
        loop {
            if let Some(frame) = parser.next() {
                return Ok(Some(frame));
            }
            let broken = |why: &str| Error::Broken { address: open.door.origin.to_string(), why: why.to_owned() };
            let Ok(piece) = timeout(SILENCE, open.body.frame()).await else {
                self.client.gateways().suspect(&open.door);
                return Err(broken("it fell silent"));
            };
            match piece {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&error.to_string())),
                Some(Ok(piece)) => {
                    self.lost = None;
                    parser.push(&piece.into_data().unwrap_or_else(|_| Bytes::new()))?;
                }
            }
        }
    }

    async fn connect(&self) -> Result<Open, Error> {
        let target = Client::data_path(self.instance, &self.path);
        let mut call = Call::new(Method::GET, target, DEADLINE);
        call.last_event_id.clone_from(&self.last);
        let token = self.client.token(self.instance).await?;
        let opened = self.client.gateways().open(&call, &token).await;
        opened.inspect_err(|error| {
            if wants_new_token(error.code()) {
                self.client.forget_token(self.instance, &token);
            }
        })
    }

    /// Waits before the next try, or gives up.
    async fn lose(&mut self, error: Error) -> Result<(), Error> {
        self.open = None;
        let (since, pause) = self.lost.unwrap_or_else(|| (Instant::now(), PAUSES.0));
        let is_over = error.retry() == Retry::Never && !wants_new_token(error.code());
        if is_over || since.elapsed() >= PATIENCE {
            return Err(error);
        }
        tracing::debug!(%error, ?pause, path = self.path, "a stream is opened again");
        self.lost = Some((since, (pause * 2).min(PAUSES.1)));
        sleep(pause).await;
        Ok(())
    }
}

impl std::fmt::Debug for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow").field("path", &self.path).field("last", &self.last).finish_non_exhaustive()
    }
}

/// Takes frames out of bytes.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    bytes: Vec<u8>,
    /// Where the present line begins, and up to where no line's end was found.
    line: usize,
    looked: usize,
    frame: Frame,
}

impl Parser {
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes.drain(..self.line);
        self.looked -= self.line;
        self.line = 0;
        self.bytes.extend_from_slice(bytes);
        let data = self.frame.data.as_ref().map_or(0, String::len);
        if self.bytes.len() + data > FRAME_MAX {
            return Err(Error::Protocol("a server-sent event has no end".to_owned()));
        }
        Ok(())
    }

    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            let end = self.looked + self.bytes[self.looked..].iter().position(|&byte| byte == b'\n')?;
            let line = String::from_utf8_lossy(&self.bytes[self.line..end]).into_owned();
            (self.line, self.looked) = (end + 1, end + 1);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if line.is_empty() {
                let frame = std::mem::take(&mut self.frame);
                if frame != Frame::default() {
                    return Some(frame);
                }
            }
            self.take_field(line);
        }
    }

    fn take_field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => self.frame.id = Some(value.to_owned()),
            "event" => self.frame.event = Some(value.to_owned()),
            "data" => match &mut self.frame.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            // A comment, or a field that we have no use for.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(pieces: &[&str]) -> Vec<(Option<String>, Option<String>, Option<String>)> {
        let (mut parser, mut frames) = (Parser::default(), Vec::new());
        for piece in pieces {
            parser.push(piece.as_bytes()).unwrap();
            while let Some(frame) = parser.next() {
                frames.push((frame.id, frame.event, frame.data));
            }
        }
        frames
    }

    #[test]
    fn frames_are_the_same_however_they_are_cut() {
        let text =
            ":\n\nid: 1.1\ndata: {\"a\":1}\n\nid: 1.2\n\nevent: gap\r\nid: 3\r\ndata: x\r\ndata:y\r\n\r\nid: 4\n";
        let some = |text: &str| Some(text.to_owned());
        let expected = vec![
            (some("1.1"), None, some("{\"a\":1}")),
            (some("1.2"), None, None),
            (some("3"), some("gap"), some("x\ny")),
        ];
        assert_eq!(frames(&[text]), expected);
        for at in 0..text.len() {
            assert_eq!(frames(&[&text[..at], &text[at..]]), expected, "{at}");
        }
    }

    #[test]
    fn a_frame_without_an_end_is_not_waited_for() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let pushed: Vec<bool> = (0..9).map(|_| parser.push(&piece).is_ok()).collect();
        assert_eq!(pushed.iter().filter(|is| **is).count(), 8);
    }
}
