//! A network that can be told to fail: a TCP relay whose connections are cut, ended, held, delayed or slowed on command.
//!
//! A held relay takes what the sockets' buffers take and passes nothing on: what a machine that fell off the network
//! looks like, where nobody says that anything has ended. Released, it goes on where it stopped, as TCP would.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, anyhow};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// How many bytes are carried at once.
const PIECE: usize = 16 * 1024;

/// How many pieces may be under way in one direction while they are delayed: 256 KiB, as much as a long fat pipe holds.
const UNDER_WAY: usize = 16;

/// A TCP relay with faults. Ends with the value.
#[derive(Debug)]
pub struct FaultRelay {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    faults: watch::Sender<Faults>,
    /// The connections that stand, each with the switch that ends it.
    standing: Mutex<Vec<(u64, watch::Sender<End>)>>,
    accepted: AtomicU64,
    /// How many bytes may still pass upward and downward before everything is cut, if that was asked for.
    allowance: Mutex<[Option<usize>; 2]>,
}

/// A direction, as clients and servers call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

#[derive(Clone, Debug, Default)]
struct Faults {
    target: Option<SocketAddr>,
    held: bool,
    refuse: bool,
    delay: Duration,
    stutter: Option<Stutter>,
    bytes_per_second: Option<u32>,
}

/// Pieces that come late now and then.
#[derive(Clone, Copy, Debug)]
struct Stutter {
    seed: u64,
    share: f64,
    most: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    NotYet,
    /// Nothing passes any more, and nobody is told.
    Silence,
    Reset,
    Orderly,
}

impl FaultRelay {
    /// Listens on a free port. Until it is told a target it resets what comes.
    ///
    /// # Errors
    ///
    /// No port could be had.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            faults: watch::Sender::new(Faults::default()),
            standing: Mutex::default(),
            accepted: AtomicU64::new(0),
            allowance: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections go from now on.
    pub fn lead_to(&self, target: SocketAddr) {
        self.shared.faults.send_modify(|faults| faults.target = Some(target));
    }

    /// How many connections came so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How many connections stand now.
    pub fn standing(&self) -> usize {
        self.lock().len()
    }

    /// Resets every connection. What was under way is lost.
    pub fn cut(&self) {
        self.end(End::Reset);
    }

    /// Resets one connection of those that stand; which one is drawn from `random`. Says whether there was one.
    pub fn cut_one(&self, random: &mut impl RngExt) -> bool {
        let standing = self.lock();
        if standing.is_empty() {
            return false;
        }
        let (_, end) = &standing[random.random_range(0..standing.len())];
        end.send_replace(End::Reset);
        true
    }

    /// Resets every connection once so many further bytes have passed in a direction: not one more of them does.
    pub fn cut_after(&self, direction: Direction, bytes: usize) {
        self.shared.allowance.lock().expect("no holder panics")[direction as usize] = Some(bytes);
    }

    /// Takes [`Self::cut_after`] back, and says whether it had not come to that yet.
    pub fn lets_all_pass(&self) -> bool {
        let left = std::mem::take(&mut *self.shared.allowance.lock().expect("no holder panics"));
        left.iter().any(Option::is_some)
    }

    /// Ends every connection in order, as a peer that closes does.
    pub fn fin(&self) {
        self.end(End::Orderly);
    }

    /// Lets every connection that stands fall silent for ever, without an end; new ones pass. What a machine sees whose
    /// peer was moved or lost its power.
    pub fn silence(&self) {
        self.end(End::Silence);
    }

    /// Passes nothing on from now on, and says nothing of it.
    pub fn hold(&self) {
        self.shared.faults.send_modify(|faults| faults.held = true);
    }

    /// Goes on after [`Self::hold`].
    pub fn release(&self) {
        self.shared.faults.send_modify(|faults| faults.held = false);
    }

    /// Resets new connections, or takes them again.
    pub fn refuse(&self, refuse: bool) {
        self.shared.faults.send_modify(|faults| faults.refuse = refuse);
    }

    /// Delays every byte by this much, each way, in order.
    pub fn delay(&self, delay: Duration) {
        self.shared.faults.send_modify(|faults| faults.delay = delay);
    }

    /// Holds back a share of all pieces, each for as long as is drawn and `most` at most, and what comes behind it with it: what
    /// loss makes of a stream. It is drawn from `seed` for each connection from the next one on.
    pub fn stutter(&self, seed: u64, share: f64, most: Duration) {
        self.shared.faults.send_modify(|faults| faults.stutter = Some(Stutter { seed, share, most }));
    }

    /// Holds nothing back any more of what comes over new connections.
    pub fn stutters_no_more(&self) {
        self.shared.faults.send_modify(|faults| faults.stutter = None);
    }

    /// Passes on at most that many bytes a second, each way; `None` for as many as come.
    pub fn slow(&self, bytes_per_second: Option<u32>) {
        self.shared.faults.send_modify(|faults| faults.bytes_per_second = bytes_per_second);
    }

    fn end(&self, how: End) {
        self.shared.end(how);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, watch::Sender<End>)>> {
        self.shared.standing.lock().expect("no holder panics")
    }
}

impl Shared {
    fn end(&self, how: End) {
        for (_, end) in &*self.standing.lock().expect("no holder panics") {
            end.send_replace(how);
        }
    }

    /// How many of so many bytes may pass; if not all, then none after them.
    fn allow(&self, direction: Direction, bytes: usize) -> usize {
        let mut allowance = self.allowance.lock().expect("no holder panics");
        let left = &mut allowance[direction as usize];
        match *left {
            None => bytes,
            Some(allowed) if allowed >= bytes => {
                *left = Some(allowed - bytes);
                bytes
            }
            Some(allowed) => {
                *left = None;
                allowed
            }
        }
    }
}

impl Drop for FaultRelay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.end(End::Reset);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
        let (end, ended) = watch::channel(End::NotYet);
        shared.standing.lock().expect("no holder panics").push((number, end));
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            serve(client, (&shared, number), ended).await;
            shared.standing.lock().expect("no holder panics").retain(|(other, _)| *other != number);
        });
    }
}

async fn serve(mut client: TcpStream, (shared, number): (&Shared, u64), mut ended: watch::Receiver<End>) {
    let faults = shared.faults.subscribe();
    let mut server = None;
    let over = async {
        let mut gate = faults.clone();
        let target = open(&mut gate).await?;
        let server = server.insert(dial(target).await?);
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let up = carry(from_client, to_server, faults.clone(), (shared, number, Direction::Up));
        let down = carry(from_server, to_client, faults.clone(), (shared, number, Direction::Down));
        tokio::try_join!(up, down).map(|_| ())
    };
    // An error of either side resets the other: the relay must not turn a reset into an orderly end.
    let mut how = tokio::select! {
        over = over => if over.is_ok() { End::Orderly } else { End::Reset },
        end = ended.wait_for(|end| *end != End::NotYet) => end.map_or(End::Reset, |end| *end),
    };
    if how == End::Silence {
        how = ended.wait_for(|end| *end != End::Silence).await.map_or(End::Reset, |end| *end);
    }
    for socket in [Some(client), server].into_iter().flatten() {
        // A socket that is gone already cannot be ended in any way, and need not be.
        let _ = if how == End::Reset { socket.set_zero_linger() } else { end_in_order(&socket) };
    }
}

/// Dials, with a socket that resets when it is dropped: also in the middle of the dialling, where nobody else holds it.
async fn dial(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_zero_linger()?;
    socket.connect(target).await
}

fn end_in_order(socket: &TcpStream) -> io::Result<()> {
    setsockopt(socket, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 })?;
    Ok(())
}

/// Waits until connections are let through, and says where to.
async fn open(gate: &mut watch::Receiver<Faults>) -> Result<SocketAddr> {
    let faults = gate.wait_for(|faults| !faults.held).await?;
    match faults.target {
        Some(target) if !faults.refuse => Ok(target),
        _ => Err(anyhow!("refused")),
    }
}

/// One direction: a reader that stamps pieces, and a writer that waits until each is due.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    faults: watch::Receiver<Faults>,
    (shared, number, direction): (&Shared, u64, Direction),
) -> Result<()> {
    let (pieces, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let delay = faults.clone();
    let stutter = faults.borrow().stutter;
    let seed = stutter.map_or(0, |stutter| stutter.seed);
    let mut random = SmallRng::seed_from_u64(seed.wrapping_add(2 * number + direction as u64));
    let mut gate = faults;
    let read = async move {
        let mut buffer = vec![0; PIECE];
        loop {
            let n = from.read(&mut buffer).await?;
            let held_back = stutter.filter(|stutter| random.random_bool(stutter.share));
            let held_back = held_back.map_or(Duration::ZERO, |stutter| stutter.most.mul_f64(random.random()));
            let at = Instant::now() + delay.borrow().delay + held_back;
            if pieces.send((at, buffer[..n].to_vec())).await.is_err() || n == 0 {
                return Ok::<(), anyhow::Error>(());
            }
        }
    };
    let write = async move {
        while let Some((at, piece)) = due.recv().await {
            // A timer has millisecond steps: what is not delayed must not wait for one.
            if at > Instant::now() {
                sleep_until(at).await;
            }
            let faults = gate.wait_for(|faults| !faults.held).await?.clone();
            if piece.is_empty() {
                to.shutdown().await?;
                return Ok(());
            }
            let allowed = shared.allow(direction, piece.len());
            write_at_rate(&mut to, &piece[..allowed], faults.bytes_per_second).await?;
            if allowed < piece.len() {
                shared.end(End::Reset);
                return Err(anyhow!("cut"));
            }
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

async fn write_at_rate(to: &mut WriteHalf<'_>, piece: &[u8], bytes_per_second: Option<u32>) -> Result<()> {
    let Some(rate) = bytes_per_second else { return Ok(to.write_all(piece).await?) };
    // Ten pieces a second, so that a slow line trickles instead of jumping.
    for part in piece.chunks((rate as usize / 10).max(1)) {
        to.write_all(part).await?;
        sleep(Duration::from_secs_f64(part.len() as f64 / f64::from(rate))).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    async fn connected() -> (FaultRelay, TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let relay = FaultRelay::start().await.unwrap();
        relay.lead_to(listener.local_addr().unwrap());
        let mut near = TcpStream::connect(relay.address()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        near.write_all(b"?").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'?', "the relay carries");
        (relay, near, far)
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_each_direction_ends_by_itself() {
        let (relay, mut near, mut far) = connected().await;
        near.write_all(b"up").await.unwrap();
        near.shutdown().await.unwrap();
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"up");
        far.write_all(b"down").await.unwrap();
        drop(far);
        heard.clear();
        near.read_to_end(&mut heard).await.unwrap();
        assert_eq!((heard.as_slice(), relay.accepted()), (&b"down"[..], 1));
    }

    #[tokio::test]
    async fn a_cut_is_a_reset_on_both_sides_and_fin_is_not() {
        let (relay, mut near, mut far) = connected().await;
        relay.cut();
        assert!(near.read(&mut [0]).await.is_err() && far.read(&mut [0]).await.is_err());
        let (relay, mut near, mut far) = connected().await;
        relay.fin();
        assert_eq!((near.read(&mut [0]).await.unwrap(), far.read(&mut [0]).await.unwrap()), (0, 0));
    }

    #[tokio::test]
    async fn a_cut_comes_after_the_byte_it_was_asked_for_after() {
        let (relay, mut near, mut far) = connected().await;
        relay.cut_after(Direction::Up, 3);
        near.write_all(b"abcdef").await.unwrap();
        let mut heard = Vec::new();
        assert!(far.read_to_end(&mut heard).await.is_err(), "a cut is a reset");
        assert_eq!((&heard[..], relay.lets_all_pass()), (&b"abc"[..], false));
    }

    #[tokio::test]
    async fn a_held_relay_says_nothing_and_loses_nothing() {
        let (relay, mut near, mut far) = connected().await;
        relay.hold();
        near.write_all(b"x").await.unwrap();
        let heard = timeout(Duration::from_millis(50), far.read(&mut [0])).await;
        assert!(heard.is_err(), "a byte came through a held relay: {heard:?}");
        relay.release();
        assert_eq!(far.read(&mut [0]).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_silent_connection_says_nothing_and_a_new_one_does() {
        let (relay, mut near, mut far) = connected().await;
        relay.silence();
        near.write_all(b"x").await.unwrap();
        assert!(timeout(Duration::from_millis(50), far.read(&mut [0])).await.is_err());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        relay.lead_to(listener.local_addr().unwrap());
        TcpStream::connect(relay.address()).await.unwrap().write_all(b"y").await.unwrap();
        assert_eq!(listener.accept().await.unwrap().0.read_u8().await.unwrap(), b'y');
    }

    #[tokio::test]
    async fn a_delay_is_a_delay_and_not_a_rate() {
        let (relay, mut near, mut far) = connected().await;
        relay.delay(Duration::from_millis(60));
        let started = Instant::now();
        near.write_all(&vec![7; 100_000]).await.unwrap();
        let mut heard = vec![0; 100_000];
        far.read_exact(&mut heard).await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(60));
    }

    #[tokio::test]
    async fn a_relay_that_stutters_holds_pieces_back_and_keeps_their_order() {
        let (relay, near, far) = connected().await;
        drop((near, far));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        relay.lead_to(listener.local_addr().unwrap());
        relay.stutter(7, 1.0, Duration::from_millis(40));
        let mut near = TcpStream::connect(relay.address()).await.unwrap();
        let mut far = listener.accept().await.unwrap().0;
        let started = Instant::now();
        for byte in 0..10 {
            near.write_all(&[byte]).await.unwrap();
            assert_eq!(far.read_u8().await.unwrap(), byte);
        }
        assert!(started.elapsed() > Duration::from_millis(40), "ten times up to 40 ms took {:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_relay_that_refuses_resets() {
        let (relay, _near, _far) = connected().await;
        relay.refuse(true);
        let mut third = TcpStream::connect(relay.address()).await.unwrap();
        assert!(third.read(&mut [0]).await.is_err());
    }
}
