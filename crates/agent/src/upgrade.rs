//! The opening handshake of a process attachment: from the head of an upgrade request to a far end and its 101, or a
//! refusal before anything exists.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use landfast_core::{ErrorCode, Problem};
use landfast_net::head::{Headers, RequestHead, ResponseHead};
use sha1::{Digest as _, Sha1};

use crate::attach::{Attachment, From, Wish};
use crate::table::Processes;

/// The subprotocol that attachments speak.
const SUBPROTOCOL: &str = "landfast.process.v1";

/// What RFC 6455 puts behind the key.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Opens the far end that an upgrade request asks for.
///
/// # Errors
///
/// What is wrong with the request, or why the process cannot be attached; nothing exists then.
pub(crate) fn open(processes: &Arc<Processes>, head: &RequestHead) -> Result<(ResponseHead, Attachment), Problem> {
    let id = head.path().strip_prefix("/processes/").and_then(|rest| rest.strip_suffix("/attach"));
    let id = id.filter(|id| !id.contains('/')).ok_or(ErrorCode::RequestNotFound)?;
    let process = processes.get(id)?;
    let answer = handshake(head)?;
    let wish = read_query(head.query().unwrap_or(""))?;
    Ok((answer, Attachment::new(&process, wish)?))
}

/// The 101 that answers a WebSocket upgrade.
///
/// # Errors
///
/// What is wrong with the request.
pub(crate) fn handshake(head: &RequestHead) -> Result<ResponseHead, Problem> {
    let headers = &head.headers;
    if head.method != "GET" {
        return Err(ErrorCode::RequestMethod.into());
    }
    if !headers.has_token("upgrade", "websocket") || !headers.has_token("connection", "upgrade") {
        return Err(invalid("Attaching is a WebSocket: Connection: Upgrade and Upgrade: websocket are missing."));
    }
    if headers.get("sec-websocket-version") != Some("13") {
        return Err(invalid("Sec-WebSocket-Version is not 13."));
    }
    let key = headers.get("sec-websocket-key").map(str::trim);
    let Some(key) = key.filter(|key| STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)) else {
        return Err(invalid("Sec-WebSocket-Key is not 16 bytes in base64."));
    };
    let mut answer = Headers::new();
    answer.push("Connection", "Upgrade");
    answer.push("Upgrade", "websocket");
    answer.push("Sec-WebSocket-Accept", accept(key));
    // A client that offers only others, or none, gets none.
    if headers.has_token("sec-websocket-protocol", SUBPROTOCOL) {
        answer.push("Sec-WebSocket-Protocol", SUBPROTOCOL);
    }
    Ok(ResponseHead { status: 101, headers: answer })
}

fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize())
}

/// What the viewer asks for.
fn read_query(query: &str) -> Result<Wish, Problem> {
    let mut wish = Wish { from: From::Start, takes_input: true, window: None };
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("from", value)) => wish.from = read_from(value)?,
            Some(("input", "true")) => wish.takes_input = true,
            Some(("input", "false")) => wish.takes_input = false,
            Some(("window", value)) => wish.window = Some(read_window(value)?),
            Some(("input", other)) => return Err(invalid(format!("input is {other:?}; say true or false."))),
            // What is not ours may be meant for a hop before us.
            Some(_) | None => {}
        }
    }
    Ok(wish)
}

fn read_window(value: &str) -> Result<u64, Problem> {
    let bytes = value.parse().ok().filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| invalid(format!("window is {value:?}; say a number of bytes.")))
}

/// Reads where in an output a reader begins.
///
/// # Errors
///
/// [`ErrorCode::RequestInvalid`].
pub(crate) fn read_from(value: &str) -> Result<From, Problem> {
    match value {
        "start" => Ok(From::Start),
        "now" => Ok(From::Now),
        "screen" => Ok(From::Screen),
        number => number
            .parse()
            .map(From::Offset)
            .map_err(|_| invalid(format!("from is {number:?}; say start, now, screen, or an offset."))),
    }
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &str) -> RequestHead {
        let text = format!(
            "GET / HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
        );
        RequestHead::parse(text.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn the_key_is_answered_as_in_rfc_6455() {
        let answer = handshake(&head("")).unwrap();
        assert_eq!(answer.headers.get("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn the_subprotocol_is_answered_only_if_it_was_offered() {
        for (offered, answered) in [
            ("", None),
            ("Sec-WebSocket-Protocol: chat\r\n", None),
            ("Sec-WebSocket-Protocol: chat, landfast.process.v1\r\n", Some(SUBPROTOCOL)),
        ] {
            assert_eq!(handshake(&head(offered)).unwrap().headers.get("sec-websocket-protocol"), answered);
        }
    }

    #[test]
    fn what_is_no_websocket_upgrade_is_refused() {
        for missing in ["connection", "upgrade", "sec-websocket-version", "sec-websocket-key"] {
            let mut head = head("");
            head.headers.remove(missing);
            assert_eq!(handshake(&head).unwrap_err().code, ErrorCode::RequestInvalid, "{missing}");
        }
    }

    #[test]
    fn what_is_asked_for_is_read_from_the_query() {
        let wish = Wish { from: From::Offset(12), takes_input: false, window: Some(5) };
        assert_eq!(read_query("from=12&input=false&x=y&window=5"), Ok(wish));
        assert_eq!(read_query(""), Ok(Wish { from: From::Start, takes_input: true, window: None }));
        for wrong in ["from=-1", "from=yesterday", "from=", "input=maybe", "window=0", "window=-1", "window="] {
            assert_eq!(read_query(wrong).unwrap_err().code, ErrorCode::RequestInvalid, "{wrong}");
        }
    }
}
