//! Non-blocking sockets, and the readiness of thousands of them: one loop over `epoll`, so that client and upstream cost
//! less than any proxy between them.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen as rustix_listen, socket_with, sockopt};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

/// How many events are taken at once.
const EVENTS: usize = 1024;

/// Connections that wait to be accepted: what a burst of new ones needs.
const BACKLOG: i32 = 4096;

/// Watches sockets.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    /// What it was watched as.
    pub(crate) token: usize,
    /// There may be something to read, or it has ended.
    pub(crate) reading: bool,
    /// It takes bytes again.
    pub(crate) writing: bool,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS) })
    }

    /// Begins to watch for something to read.
    pub(crate) fn add(&self, socket: impl AsFd, token: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token as u64), EventFlags::IN)?)
    }

    /// Changes what a socket is watched for.
    pub(crate) fn watch(&self, socket: impl AsFd, token: usize, reading: bool, writing: bool) -> io::Result<()> {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, reading);
        flags.set(EventFlags::OUT, writing);
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(token as u64), flags)?)
    }

    /// Waits until some are ready, at most so long. How many are is returned; [`Self::ready`] tells them.
    pub(crate) fn wait(&mut self, within: Option<Duration>) -> io::Result<usize> {
        let within = within.map(|within| Timespec::try_from(within).expect("a short time"));
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), within.as_ref()) {
            Ok(ready) => Ok(ready),
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn ready(&self, index: usize) -> Ready {
        let epoll::Event { flags, data, .. } = self.events[index];
        let reading = flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR);
        Ready { token: data.u64() as usize, reading, writing: flags.contains(EventFlags::OUT) }
    }
}

/// Begins to connect; the socket may not be connected yet.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = new_socket()?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// Listens on an address.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket()?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    rustix_listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// A descriptor that becomes readable with this period: the waits of `epoll` have steps of a millisecond.
pub(crate) fn metronome(period: Duration) -> io::Result<OwnedFd> {
    let timer =
        rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let period = Timespec::try_from(period).expect("a short time");
    let both = Itimerspec { it_interval: period, it_value: period };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &both)?;
    Ok(timer)
}

/// `None` where it would have had to wait.
pub(crate) fn unless_it_waits<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error)
            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?)
}
