//! Connections opened one by one, each step checked: what a load begins with, and what an idle connection is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use landfast_core::ws::{HEADER_MAX, Header, Opcode};
use landfast_scenarios::plain::KEY;

/// Far more than a step takes while nothing else is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most of an answer that is shown where it was not the one hoped for.
const SHOWN: usize = 400;

/// Sends a request and reads its whole answer, which must be this body.
///
/// # Errors
///
/// What was answered instead.
pub(crate) fn get(socket: &mut TcpStream, request: &[u8], body: &[u8]) -> Result<()> {
    socket.write_all(request)?;
    let heard = read_until(socket, |heard| heard.len() >= body.len() && heard.ends_with(body))?;
    if !heard.starts_with(b"HTTP/1.1 200 ") {
        bail!("{}", shown(&heard));
    }
    Ok(())
}

/// Opens a WebSocket and has one message echoed.
///
/// # Errors
///
/// What was answered instead.
pub(crate) fn websocket(address: SocketAddr, request: &[u8], message: &[u8]) -> Result<TcpStream> {
    let mut socket = connect(address)?;
    socket.write_all(request)?;
    let heard = read_until(&mut socket, |heard| heard.ends_with(b"\r\n\r\n"))?;
    let accepted = format!("sec-websocket-accept: {}\r\n", KEY.1.to_ascii_lowercase());
    let head = String::from_utf8_lossy(&heard).to_ascii_lowercase();
    if !head.starts_with("http/1.1 101 ") || !head.contains(&accepted) {
        bail!("{}", shown(&heard));
    }
    echo(&mut socket, message)?;
    Ok(socket)
}

/// Has one message echoed.
///
/// # Errors
///
/// It came back otherwise, or not.
pub(crate) fn echo(socket: &mut TcpStream, message: &[u8]) -> Result<()> {
    socket.write_all(&frame(Opcode::Text, message))?;
    let mut expected = Vec::new();
    landfast_core::ws::encode_server(Opcode::Text, &[message], &mut expected);
    let heard = read_until(socket, |heard| heard.len() >= expected.len())?;
    if heard != expected {
        bail!("a message came back otherwise: {}", shown(&heard));
    }
    Ok(())
}

/// Connects, to wait for every step.
pub(crate) fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connecting to {address}"))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A whole frame of a client.
pub(crate) fn frame(opcode: Opcode, message: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0x3c, 0x96, 0xe1];
    let mut bytes = [0; HEADER_MAX];
    let header = Header { fin: true, rsv: 0, opcode, mask: Some(MASK), len: message.len() as u64 };
    let len = header.encode(&mut bytes);
    let mut frame = bytes[..len].to_vec();
    frame.extend_from_slice(message);
    landfast_core::ws::apply_mask(MASK, 0, &mut frame[len..]);
    frame
}

/// Reads until it is enough, or the other side has ended; the end is an error only where nothing came before.
fn read_until(socket: &mut TcpStream, is_enough: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
    let mut heard = Vec::new();
    let mut piece = [0; 16 * 1024];
    while !is_enough(&heard) {
        match socket.read(&mut piece) {
            Ok(0) if heard.is_empty() => bail!("the connection ended without an answer"),
            Ok(0) => return Ok(heard),
            Ok(n) => heard.extend_from_slice(&piece[..n]),
            // A refusal that keeps its connection open is an answer too.
            Err(_) if !heard.is_empty() => return Ok(heard),
            Err(error) => return Err(error).context("no answer"),
        }
        // A refusal has no body that could be waited for here; what it says is in its first bytes.
        if heard.starts_with(b"HTTP/1.1 4") || heard.starts_with(b"HTTP/1.1 5") {
            return Ok(heard);
        }
    }
    Ok(heard)
}

fn shown(heard: &[u8]) -> String {
    format!("answered with {}", String::from_utf8_lossy(&heard[..heard.len().min(SHOWN)]).escape_debug())
}
