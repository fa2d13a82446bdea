//! The WebSocket inside a session: what the caller wants becomes frames, what the agent says becomes events.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use landfast_core::ProcessId;
use landfast_core::ws::Opcode;
use landfast_net::head::{Headers, RequestHead};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, sink};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::attach::{Command, Said};
use crate::conversation::{Control, Conversation, From, Heard, SUBPROTOCOL, State};
use crate::frames::{self, Decoder, Message};

/// How long the closing handshake may take before we leave without it.
const GOODBYE: Duration = Duration::from_secs(1);

/// Bytes read at once.
const PIECE: usize = 16 * 1024;

/// How a session's conversation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// The agent closed it, with a code and a reason unless it gave none.
    Closed(Option<(u16, String)>),
    /// The session ended below it.
    Eof,
    /// The caller has left.
    Left,
    /// Output was lost that a redraw is to make up for.
    Torn,
    /// The agent said what no agent says.
    Broken(String),
}

/// What has to be said again in a new session.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    size: Option<(u16, u16)>,
    eof: bool,
    sending: bool,
}

impl Memory {
    /// Whether a frame was cut off in the middle when the session ended.
    pub(crate) const fn is_sending(&self) -> bool {
        self.sending
    }

    fn keep(&mut self, command: &Command) {
        match command {
            Command::Resize { rows, cols } => self.size = Some((*rows, *cols)),
            Command::Eof => self.eof = true,
            Command::Write(_) | Command::Signal(_) | Command::Leave => {}
        }
    }

    fn again(&self) -> impl Iterator<Item = Command> + use<> {
        let size = self.size.map(|(rows, cols)| Command::Resize { rows, cols });
        size.into_iter().chain(self.eof.then_some(Command::Eof))
    }
}

/// The head of the upgrade request that an attachment is.
pub(crate) fn attach_head(process: ProcessId, from: From, input: bool) -> RequestHead {
    let from = match from {
        From::Start => "start".to_owned(),
        From::Screen => "screen".to_owned(),
        From::Now => "now".to_owned(),
        From::Offset(offset) => offset.to_string(),
    };
    let mut headers = Headers::new();
    headers.push("Host", "landfast");
    headers.push("Connection", "Upgrade");
    headers.push("Upgrade", "websocket");
    headers.push("Sec-WebSocket-Version", "13");
    // The key proves a WebSocket server at the other end; here the link protocol has proven more, so the answer to it
    // is not looked at.
    headers.push("Sec-WebSocket-Key", STANDARD.encode(rand::random::<[u8; 16]>()));
    headers.push("Sec-WebSocket-Protocol", SUBPROTOCOL);
    RequestHead {
        method: "GET".into(),
        target: format!("/processes/{process}/attach?from={from}&input={input}"),
        headers,
    }
}

/// Talks until the session or the caller ends it, and closes in good order.
pub(crate) async fn talk(
    conversation: &mut Conversation,
    memory: &mut Memory,
    near: DuplexStream,
    events: &mpsc::Sender<Said>,
    commands: &mut mpsc::Receiver<Command>,
    state: &watch::Sender<State>,
) -> How {
    memory.sending = false;
    let (mut reader, mut writer) = tokio::io::split(near);
    let (pongs, pings) = mpsc::channel(1);
    let how = tokio::select! {
        biased;
        how = listen(conversation, events, &mut reader, &pongs) => how,
        how = speak(memory, commands, pings, &mut writer) => how,
        () = events.closed() => How::Left,
    };
    let close = match &how {
        How::Closed(close) => Some(close.as_ref().map_or(1000, |(code, _)| *code)),
        How::Left | How::Torn => Some(1000),
        How::Broken(_) => Some(1002),
        How::Eof => None,
    };
    if let Some(code) = close
        && !memory.sending
        && *state.borrow() == State::Connected
    {
        // A peer that does not take part is left without the handshake.
        let _ = timeout(GOODBYE, close_in_order(code, &mut reader, &mut writer)).await;
    }
    how
}

async fn close_in_order(
    code: u16,
    reader: &mut ReadHalf<DuplexStream>,
    writer: &mut WriteHalf<DuplexStream>,
) -> std::io::Result<()> {
    let mut frame = Vec::new();
    frames::encode_close(code, "client.close", rand::random(), &mut frame);
    writer.write_all(&frame).await?;
    tokio::io::copy(reader, &mut sink()).await?;
    Ok(())
}

async fn listen(
    conversation: &mut Conversation,
    events: &mpsc::Sender<Said>,
    reader: &mut ReadHalf<DuplexStream>,
    pongs: &mpsc::Sender<Vec<u8>>,
) -> How {
    let mut decoder = Decoder::default();
    let mut piece = vec![0; PIECE];
    loop {
        match decoder.next() {
            Ok(Some(message)) => match hear(conversation, events, pongs, message).await {
                Some(how) => return how,
                None => continue,
            },
            Ok(None) => {}
            Err(broken) => return How::Broken(format!("its WebSocket carried {broken}")),
        }
        match reader.read(&mut piece).await {
            Ok(0) | Err(_) => return How::Eof,
            Ok(n) => decoder.push(&piece[..n]),
        }
    }
}

async fn hear(
    conversation: &mut Conversation,
    events: &mpsc::Sender<Said>,
    pongs: &mpsc::Sender<Vec<u8>>,
    message: Message,
) -> Option<How> {
    match conversation.handle_message(message) {
        Ok(Heard::Event(event)) => {
            let said = Said { event, offset: conversation.offset() };
            match events.send(said).await {
                Err(_) => Some(How::Left),
                Ok(()) => conversation.is_torn().then_some(How::Torn),
            }
        }
        Ok(Heard::Ping(payload)) => {
            // One pong that waits answers every ping before it.
            let _ = pongs.try_send(payload);
            None
        }
        Ok(Heard::Close(close)) => Some(How::Closed(close)),
        Ok(Heard::Nothing) => None,
        Err(sentence) => Some(How::Broken(sentence)),
    }
}

async fn speak(
    memory: &mut Memory,
    commands: &mut mpsc::Receiver<Command>,
    mut pings: mpsc::Receiver<Vec<u8>>,
    writer: &mut WriteHalf<DuplexStream>,
) -> How {
    let mut frame = Vec::new();
    for command in memory.again() {
        encode(&command, &mut frame);
    }
    loop {
        memory.sending = !frame.is_empty();
        if writer.write_all(&frame).await.is_err() {
            // The session has ended below; the listener still has what it handed on, and says how.
            return std::future::pending().await;
        }
        memory.sending = false;
        frame.clear();
        tokio::select! {
            biased;
            Some(payload) = pings.recv() => {
                frames::encode(Opcode::Pong, &[&payload], rand::random(), &mut frame);
            }
            command = commands.recv() => match command {
                None | Some(Command::Leave) => return How::Left,
                Some(command) => {
                    memory.keep(&command);
                    encode(&command, &mut frame);
                }
            },
        }
    }
}

fn encode(command: &Command, out: &mut Vec<u8>) {
    let control = match command {
        Command::Write(bytes) => {
            frames::encode(Opcode::Binary, &[&[0], bytes], rand::random(), out);
            return;
        }
        Command::Leave => return,
        Command::Resize { rows, cols } => Control::Resize { rows: *rows, cols: *cols },
        Command::Signal(name) => Control::Signal(name),
        Command::Eof => Control::Eof(true),
    };
    let text = serde_json::to_vec(&control).expect("a control is plain data");
    frames::encode(Opcode::Text, &[&text], rand::random(), out);
}
