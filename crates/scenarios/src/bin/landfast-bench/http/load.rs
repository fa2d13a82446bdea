//! The load: connections that exchange with one side for a while, all from one thread.
//!
//! In a closed loop a connection begins its next exchange when one is done. In an open loop exchanges begin at a steady
//! rate whatever the side does, and a latency counts from when its exchange was to begin, so that a side that stalls
//! cannot hide it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use landfast_core::ws::Opcode;

use super::open;
use super::reader::{Answers, Echoes, Failure, Reader};
use super::socket::{Poller, connect, metronome, unless_it_waits};
use super::usage;
use crate::figures::Times;

/// Bytes read at once.
const PIECE: usize = 256 * 1024;

/// How soon a connection that failed is opened again.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// How often the clock is looked at if nothing else happens.
const LOOK_EVERY: Duration = Duration::from_millis(20);

const METRONOME: usize = usize::MAX;

/// What is exchanged.
#[derive(Clone, Debug)]
pub(crate) enum Exchange {
    /// Requests on lasting connections.
    Requests,
    /// Requests with a connection each.
    Connections,
    /// Messages on WebSockets, so many under way on each.
    Messages(Opcode, usize),
}

/// What is asked of a side.
#[derive(Clone, Debug)]
pub(crate) struct Load<'a> {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What is exchanged.
    pub(crate) exchange: Exchange,
    /// The bytes of a request or of an upgrade.
    pub(crate) request: &'a [u8],
    /// The body or the message that must come back.
    pub(crate) expected: &'a [u8],
    /// How many connections.
    pub(crate) connections: usize,
    /// Exchanges a second in all; as many as can be without it.
    pub(crate) rate: Option<u32>,
    /// Time before the measurement, and of it.
    pub(crate) time: (Duration, Duration),
}

/// Whose use of the machine is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// The processes of the side.
    pub(crate) side: Vec<u32>,
    /// The processes of the measurement itself: neither the side's nor a stranger's.
    pub(crate) ours: Vec<u32>,
}

/// What came of a load.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Exchanges that were whole.
    pub(crate) done: u64,
    /// Exchanges that failed, by their cause.
    pub(crate) failures: BTreeMap<Failure, u64>,
    /// How long they took.
    pub(crate) times: Times,
    /// Seconds on a processor that the side used for them.
    pub(crate) processor: f64,
    /// How many processors strangers used meanwhile.
    pub(crate) strangers: f64,
}

/// Puts the load on the side.
///
/// # Errors
///
/// It could not begin: what a connection was answered.
pub(crate) fn run(load: &Load<'_>, watched: &Watched) -> Result<Sample> {
    let mut client = Client::new(load)?;
    client.open_all()?;
    client.begin_all();
    let began = Instant::now();
    client.go_on_until(began + load.time.0)?;
    let before = Usage::now(watched);
    client.sample =
        Some(Sample { done: 0, failures: BTreeMap::new(), times: Times::new(), processor: 0.0, strangers: 0.0 });
    client.go_on_until(began + load.time.0 + load.time.1)?;
    let mut sample = client.sample.take().expect("it was just put there");
    let after = Usage::now(watched);
    sample.processor = after.side - before.side;
    let seconds = (after.at - before.at).as_secs_f64();
    sample.strangers = ((after.strangers - before.strangers) / seconds).max(0.0);
    Ok(sample)
}

struct Usage {
    at: Instant,
    side: f64,
    strangers: f64,
}

impl Usage {
    fn now(watched: &Watched) -> Self {
        let side = usage::processor_seconds(&watched.side);
        let strangers = usage::machine_seconds() - side - usage::processor_seconds(&watched.ours);
        Self { at: Instant::now(), side, strangers }
    }
}

struct Client<'a> {
    load: &'a Load<'a>,
    message: Vec<u8>,
    poller: Poller,
    connections: Vec<Connection>,
    /// Connections to be opened again, each from when on.
    again: VecDeque<(Instant, usize)>,
    pace: Option<Pace>,
    scratch: Vec<u8>,
    /// Set while it is measured.
    sample: Option<Sample>,
}

/// The open loop: when the next exchange is to begin, and whose turn it is.
struct Pace {
    timer: std::os::fd::OwnedFd,
    period: Duration,
    next: Instant,
    turn: usize,
}

struct Connection {
    socket: Option<TcpStream>,
    reader: Reader,
    /// When the exchanges under way began, or were to begin.
    under_way: VecDeque<Instant>,
    /// Exchanges that were to begin while the connection had one under way.
    due: VecDeque<Instant>,
    /// How much of the present request or message was sent, if one is being sent.
    sent: Option<usize>,
    waits_to_send: bool,
}

impl<'a> Client<'a> {
    fn new(load: &'a Load<'a>) -> Result<Self> {
        let message = match load.exchange {
            Exchange::Requests | Exchange::Connections => load.request.to_vec(),
            Exchange::Messages(opcode, _) => open::frame(opcode, load.expected),
        };
        let poller = Poller::new()?;
        let pace = load.rate.map(|rate| Pace::new(&poller, rate)).transpose()?;
        Ok(Self {
            load,
            message,
            poller,
            connections: (0..load.connections).map(|_| Connection::new(&load.exchange)).collect(),
            again: VecDeque::new(),
            pace,
            scratch: vec![0; PIECE],
            sample: None,
        })
    }

    fn open_all(&mut self) -> Result<()> {
        for number in 0..self.connections.len() {
            match self.load.exchange {
                Exchange::Messages(..) => {
                    // Text of the same size, whatever the messages are: the check is of the way, not of them.
                    let socket = open::websocket(self.load.address, self.load.request, b"is anybody there?")?;
                    socket.set_nonblocking(true)?;
                    self.poller.add(&socket, number)?;
                    self.connections[number].socket = Some(socket);
                }
                Exchange::Requests => self.open(number)?,
                // Each is opened when its request is due.
                Exchange::Connections => {}
            }
        }
        Ok(())
    }

    fn begin_all(&mut self) {
        if self.pace.is_some() {
            return;
        }
        for number in 0..self.connections.len() {
            self.begin(number, Instant::now());
        }
    }

    fn go_on_until(&mut self, end: Instant) -> io::Result<()> {
        while Instant::now() < end {
            for index in 0..self.poller.wait(Some(LOOK_EVERY))? {
                let ready = self.poller.ready(index);
                if ready.token == METRONOME {
                    self.keep_pace()?;
                    continue;
                }
                if ready.writing {
                    self.send(ready.token);
                }
                if ready.reading {
                    self.read(ready.token);
                }
            }
            self.open_again();
        }
        Ok(())
    }

    fn keep_pace(&mut self) -> io::Result<()> {
        let pace = self.pace.as_mut().expect("who hears the metronome has one");
        rustix::io::read(&pace.timer, &mut [0; 8])?;
        while let Some(pace) = self.pace.as_mut().filter(|pace| pace.next <= Instant::now()) {
            let (number, at) = (pace.turn % self.connections.len(), pace.next);
            pace.turn += 1;
            pace.next += pace.period;
            let connection = &mut self.connections[number];
            if connection.under_way.is_empty() && connection.socket.is_some() {
                self.begin(number, at);
            } else {
                connection.due.push_back(at);
            }
        }
        Ok(())
    }

    fn open(&mut self, number: usize) -> io::Result<()> {
        let socket = connect(self.load.address)?;
        self.poller.add(&socket, number)?;
        let due = std::mem::take(&mut self.connections[number].due);
        self.connections[number] = Connection { socket: Some(socket), due, ..Connection::new(&self.load.exchange) };
        Ok(())
    }

    /// Begins an exchange whose time counts from `at`; of messages, as many as may be under way.
    fn begin(&mut self, number: usize, at: Instant) {
        if self.connections[number].socket.is_none() && self.open(number).is_err() {
            return self.fail(number, Failure::Connect);
        }
        self.connections[number].under_way.push_back(at);
        self.connections[number].sent = Some(0);
        self.send(number);
    }

    fn send(&mut self, number: usize) {
        let window = match self.load.exchange {
            Exchange::Requests | Exchange::Connections => 1,
            Exchange::Messages(_, window) => window,
        };
        let connection = &mut self.connections[number];
        let Some(socket) = &connection.socket else { return };
        let waits = loop {
            let Some(sent) = connection.sent else {
                if window == 1 || connection.under_way.len() >= window {
                    break false;
                }
                connection.under_way.push_back(Instant::now());
                connection.sent = Some(0);
                continue;
            };
            match unless_it_waits((&*socket).write(&self.message[sent..])) {
                Ok(Some(n)) => connection.sent = Some(sent + n).filter(|sent| *sent < self.message.len()),
                Ok(None) => break true,
                Err(_) => return self.fail(number, Failure::Reset),
            }
        };
        if waits != connection.waits_to_send {
            connection.waits_to_send = waits;
            if self.poller.watch(socket, number, true, waits).is_err() {
                self.fail(number, Failure::Reset);
            }
        }
    }

    fn read(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        let Some(socket) = &connection.socket else { return };
        match connection.reader.read(socket, &mut self.scratch, self.load.expected) {
            Ok(done) => (0..done).for_each(|_| self.finish(number)),
            Err(failure) => self.fail(number, failure),
        }
    }

    fn finish(&mut self, number: usize) {
        let now = Instant::now();
        let connection = &mut self.connections[number];
        let Some(began) = connection.under_way.pop_front() else { return self.fail(number, Failure::Corrupt) };
        if let Some(sample) = &mut self.sample {
            sample.done += 1;
            sample.times.add(now - began);
        }
        match self.load.exchange {
            Exchange::Messages(_, window) if window > 1 => return self.send(number),
            Exchange::Connections => connection.socket = None,
            Exchange::Requests | Exchange::Messages(..) => {}
        }
        let next = if self.pace.is_some() { self.connections[number].due.pop_front() } else { Some(now) };
        if let Some(at) = next {
            self.begin(number, at);
        }
    }

    /// Counts a failure and gives the connection up; one that carries requests is opened again.
    fn fail(&mut self, number: usize, failure: Failure) {
        if let Some(sample) = &mut self.sample {
            *sample.failures.entry(failure).or_default() += 1;
        }
        let connection = &mut self.connections[number];
        connection.socket = None;
        connection.under_way.clear();
        if !matches!(self.load.exchange, Exchange::Messages(..)) {
            self.again.push_back((Instant::now() + AGAIN_AFTER, number));
        }
    }

    fn open_again(&mut self) {
        let now = Instant::now();
        while let Some((_, number)) = self.again.pop_front_if(|(at, _)| *at <= now) {
            let due = self.connections[number].due.pop_front();
            if let Some(at) = if self.pace.is_some() { due } else { Some(now) } {
                self.begin(number, at);
            } else if self.open(number).is_err() {
                self.fail(number, Failure::Connect);
            }
        }
    }
}

impl Pace {
    fn new(poller: &Poller, rate: u32) -> io::Result<Self> {
        let period = Duration::from_secs(1) / rate;
        let timer = metronome(period)?;
        poller.add(&timer, METRONOME)?;
        Ok(Self { timer, period, next: Instant::now(), turn: 0 })
    }
}

impl Connection {
    fn new(exchange: &Exchange) -> Self {
        let reader = match exchange {
            Exchange::Requests | Exchange::Connections => Reader::Answers(Answers::default()),
            Exchange::Messages(..) => Reader::Echoes(Echoes::default()),
        };
        Self {
            socket: None,
            reader,
            under_way: VecDeque::new(),
            due: VecDeque::new(),
            sent: None,
            waits_to_send: false,
        }
    }
}
