//! Hands an accepted connection to another process of the same machine, descriptor and all.
//!
//! A relay that copied bytes would cost every message two more wake-ups of a process, and every restart of the node's
//! daemon all its connections. It only has to decide; so the connection itself goes to the agent, together with the
//! generation it was accepted for, what it is to reach, and what was read ahead. See docs/decisions/0004.
//!
//! On the wire, over a Unix stream: generation (u64), length of the read-ahead (u32), length of the target (u8), all
//! big-endian, the descriptor riding on them (SCM_RIGHTS), and after it that of the node's [`Tenure`]; then the target as in a
//! CONNECT; then the read-ahead.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use landfast_core::record::Generation;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::head::HEAD_MAX;
use crate::relay::Target;
use crate::socket::Socket;
use crate::tenure::Tenure;

const HEADER: usize = 13;

/// A connection that was handed over.
#[derive(Debug)]
pub struct Given {
    /// The generation it was accepted for.
    pub generation: Generation,
    /// What it is to reach.
    pub target: Target,
    /// How long its node may serve. A node of an older version does not say.
    pub tenure: Option<Tenure>,
    /// The connection; nothing was answered yet.
    pub socket: Socket,
}

/// How long an agent may take to make room for one more: it only puts it on its runtime.
const DEADLINE: Duration = Duration::from_secs(5);

/// Hands a connection over `to` an agent that was connected to.
///
/// Not cancel safe: half a message makes `to` useless.
///
/// # Errors
///
/// The way's, or that the agent did not take it in time. The connection comes back, so that its peer can be told.
pub async fn send(to: &mut UnixStream, given: Given) -> Result<(), (Socket, io::Error)> {
    match timeout(DEADLINE, send_parts(to, &given)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err((given.socket, error)),
        Err(_) => Err((given.socket, io::ErrorKind::TimedOut.into())),
    }
}

/// Receives the next connection, or `None` when the sender has ended.
///
/// Not cancel safe: give it a task of its own.
///
/// # Errors
///
/// The connection's, or that what came was no hand-over.
pub async fn receive(from: &mut UnixStream) -> io::Result<Option<Given>> {
    let Some((header, fd, tenure)) = receive_header(from).await? else { return Ok(None) };
    let (generation, rest) = header.split_at(8);
    let (ahead, target) = rest.split_at(4);
    let generation = Generation(u64::from_be_bytes(generation.try_into().expect("eight bytes")));
    let ahead = u32::from_be_bytes(ahead.try_into().expect("four bytes")) as usize;
    if ahead > HEAD_MAX {
        return Err(io::Error::other("more read ahead than a head can be"));
    }
    let mut target = vec![0; usize::from(target[0])];
    from.read_exact(&mut target).await?;
    let target = std::str::from_utf8(&target).ok().and_then(|target| target.parse().ok());
    let target = target.ok_or_else(|| io::Error::other("no target"))?;
    let mut bytes = vec![0; ahead];
    from.read_exact(&mut bytes).await?;
    let stream = std::net::TcpStream::from(fd);
    stream.set_nonblocking(true)?;
    let socket = Socket::tcp(TcpStream::from_std(stream)?).with_ahead(bytes);
    Ok(Some(Given { generation, target, tenure: tenure.map(Tenure::from), socket }))
}

async fn send_parts(to: &mut UnixStream, given: &Given) -> io::Result<()> {
    let fd = given.socket.tcp_fd().ok_or_else(|| io::Error::other("only TCP connections are handed over"))?;
    let fds: Vec<RawFd> = [fd].into_iter().chain(given.tenure.as_ref().map(Tenure::descriptor)).collect();
    let (ahead, target) = (given.socket.ahead(), given.target.to_string());
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&given.generation.0.to_be_bytes());
    header[8..12].copy_from_slice(&u32::try_from(ahead.len()).map_err(io::Error::other)?.to_be_bytes());
    header[12] = u8::try_from(target.len()).map_err(io::Error::other)?;
    let sent = to.async_io(Interest::WRITABLE, || send_with_fds(to.as_raw_fd(), &header, &fds)).await?;
    // The descriptors ride on the first byte; should the kernel have split the rest off, it follows as plain bytes.
    to.write_all(&header[sent..]).await?;
    to.write_all(target.as_bytes()).await?;
    to.write_all(ahead).await
}

type Rights = (Option<OwnedFd>, Option<OwnedFd>);

async fn receive_header(from: &mut UnixStream) -> io::Result<Option<([u8; HEADER], OwnedFd, Option<OwnedFd>)>> {
    let mut header = [0; HEADER];
    let (read, (fd, tenure)) =
        from.async_io(Interest::READABLE, || receive_with_fds(from.as_raw_fd(), &mut header)).await?;
    if read == 0 {
        return Ok(None);
    }
    let fd = fd.ok_or_else(|| io::Error::other("a hand-over without a descriptor"))?;
    from.read_exact(&mut header[read..]).await?;
    Ok(Some((header, fd, tenure)))
}

fn send_with_fds(to: RawFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    Ok(sendmsg::<()>(to, &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None)?)
}

fn receive_with_fds(from: RawFd, bytes: &mut [u8]) -> io::Result<(usize, Rights)> {
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut parts = [IoSliceMut::new(bytes)];
    let message = recvmsg::<()>(from, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let rights = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    // Owned before anything is looked at, so that none is left open.
    let mut fds = rights.unwrap_or_default().into_iter().map(own);
    Ok((message.bytes, (fds.next(), fds.next())))
}

#[allow(unsafe_code)]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just put this descriptor into our table for this message, and nothing else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use landfast_core::time::Instant;
    use tokio::net::TcpListener;

    use super::*;
    use crate::tenure::TenureFile;

    #[tokio::test]
    async fn a_connection_goes_on_with_its_new_owner_where_the_old_one_stopped_reading() {
        let dir = tempfile::tempdir().unwrap();
        let mut lease = TenureFile::open(&dir.path().join("lease")).unwrap();
        lease.hold_until(Instant::from_millis(5)).unwrap();
        for (target, tenure) in [
            (Target::Agent, None),
            (Target::Port(8080), Some(lease.view())),
            (Target::Service("a-name".parse().unwrap()), Some(lease.view())),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let socket = Socket::tcp(listener.accept().await.unwrap().0).with_ahead(b"ahead ".to_vec());
            let (mut node, mut agent) = UnixStream::pair().unwrap();

            let given = Given { generation: Generation(7), target, tenure: tenure.clone(), socket };
            send(&mut node, given).await.map_err(|(_, error)| error).unwrap();
            client.write_all(b"and after").await.unwrap();
            client.shutdown().await.unwrap();

            let mut given = receive(&mut agent).await.unwrap().unwrap();
            let mut heard = String::new();
            given.socket.read_to_string(&mut heard).await.unwrap();
            assert_eq!((given.generation, given.target, heard.as_str()), (Generation(7), target, "ahead and after"));
            assert_eq!(given.tenure.as_ref().map(Tenure::until), tenure.as_ref().map(Tenure::until));
            given.socket.write_all(b"answer").await.unwrap();
            drop(given);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "answer");
            drop(node);
            assert!(receive(&mut agent).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn an_agent_that_takes_nothing_leaves_the_connection_with_its_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::tcp(listener.accept().await.unwrap().0);
        let (mut node, agent) = UnixStream::pair().unwrap();
        drop(agent);
        assert!(
            send(&mut node, Given { generation: Generation(1), target: Target::Agent, tenure: None, socket })
                .await
                .is_err()
        );
    }
}
