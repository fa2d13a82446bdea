//! The fenced relay: from a gateway's CONNECT to the instance, or to a typed no. After the yes it only copies bytes.
//!
//! It runs on a few threads of its own, each with a runtime that shares nothing with its neighbours, so that a busy
//! instance does not slow the daemon's decisions and a connection never changes threads.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use landfast_core::lifecycle::may_serve;
use landfast_core::record::{Instance, Network};
use landfast_core::{ErrorCode, InstanceId, NodeId, Problem};
use landfast_net::copy::{Ended, copy_both};
use landfast_net::handoff;
use landfast_net::relay::{self, CellKey, Connect, Target};
use landfast_net::role::CancellationToken;
use landfast_net::socket::Socket;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error, warn};

use crate::dir::{AGENT_SOCKET, HANDOFF_SOCKET, InstanceDir, nobody_listens};
use crate::fence::{Admission, Fence, Pass, Refusal};

/// Threads: copying saturates a network card long before it saturates this many cores.
const WORKERS_MAX: usize = 4;

/// Connections per node whose CONNECT has not been read: strangers, who get little room, and none to spare for others.
const STRANGERS: usize = 1024;

/// How long a connection waits for a door that is about to open (a move's commit, a start that was just acknowledged);
/// after it the asker is told to wait by itself.
const ADMIT_DEADLINE: Duration = Duration::from_secs(2);

/// How long a read of the record may take, when the node is asked for what it does not know.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// How long the instance may take to accept: it is on this host.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// How long a refusal may take to be taken by its reader.
const REFUSE_DEADLINE: Duration = Duration::from_secs(5);

/// How long to wait after an accept that failed because something has run out, mostly descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A silent peer is asked after 30 s, and given up after three unanswered questions 10 s apart: within a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Everything that a connection needs.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) me: NodeId,
    pub(crate) data: PathBuf,
    pub(crate) key: CellKey,
    pub(crate) fence: Arc<Fence>,
    pub(crate) records: Records,
    pub(crate) strangers: Arc<Semaphore>,
    pub(crate) carried: Arc<Semaphore>,
}

/// Asks the owner of the watch to read one record anew. However many ask at once, the store is read once.
#[derive(Clone, Debug)]
pub(crate) struct Records(mpsc::Sender<Question>);

/// A record that somebody needs to be fresh.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) id: InstanceId,
    pub(crate) answer: oneshot::Sender<Option<Instance>>,
}

/// The most questions that wait to be taken: more only wait longer at the sender.
const QUESTIONS: usize = 256;

impl Records {
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Question>) {
        let (sender, receiver) = mpsc::channel(QUESTIONS);
        (Self(sender), receiver)
    }

    /// The record as the store has it.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RegistryUnavailable`] if the store did not tell in time.
    async fn read(&self, id: InstanceId) -> Result<Option<Instance>, ErrorCode> {
        let asked = async {
            let (answer, answered) = oneshot::channel();
            self.0.send(Question { id, answer }).await.ok()?;
            answered.await.ok()
        };
        timeout(ASK_DEADLINE, asked).await.ok().flatten().ok_or(ErrorCode::RegistryUnavailable)
    }
}

impl Relay {
    pub(crate) fn new(
        me: NodeId,
        data: PathBuf,
        key: CellKey,
        fence: Arc<Fence>,
        records: Records,
        connections: u32,
    ) -> Self {
        let carried = usize::try_from(connections).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let (strangers, carried) = (Arc::new(Semaphore::new(STRANGERS)), Arc::new(Semaphore::new(carried)));
        Self { me, data, key, fence, records, strangers, carried }
    }

    /// Serves one connection: to its end, or until the agent has it.
    async fn serve(&self, stream: TcpStream, stranger: OwnedSemaphorePermit) {
        keep_alive(&stream);
        let mut socket = Socket::tcp(stream);
        let refused = match self.let_in(&mut socket, stranger).await {
            Ok((connect, pass, permit)) => self.lead(socket, &connect, pass, permit).await.err(),
            Err(refusal) => Some((socket, refusal)),
        };
        if let Some((mut socket, refusal)) = refused {
            let said = relay::refuse(&mut socket, refusal.code, refusal.generation);
            if !matches!(timeout(REFUSE_DEADLINE, said).await, Ok(Ok(()))) {
                debug!(code = %refusal.code, "a refused peer did not wait for its answer");
            }
        }
    }

    /// Reads who asks for what, and decides.
    async fn let_in(
        &self,
        socket: &mut Socket,
        stranger: OwnedSemaphorePermit,
    ) -> Result<(Connect, Pass, OwnedSemaphorePermit), Refusal> {
        let connect = self.read_connect(socket).await?;
        let permit = self.carried.clone().try_acquire_owned().map_err(|_| refuse(ErrorCode::LimitInFlight))?;
        drop(stranger);
        let pass = self.admit(&connect).await?;
        Ok((connect, pass, permit))
    }

    /// Takes the connection to where it wants to go.
    async fn lead(
        &self,
        mut socket: Socket,
        connect: &Connect,
        pass: Pass,
        _permit: OwnedSemaphorePermit,
    ) -> Result<(), (Socket, Refusal)> {
        if connect.target == Target::Agent {
            match InstanceDir::new(&self.data, connect.instance).connect(HANDOFF_SOCKET).await {
                Ok(agent) => return hand_over(socket, connect, agent, &pass).await,
                Err(error) if nobody_listens(&error) => {}
                Err(error) => return Err((socket, refuse(unusable(connect.instance, &error)))),
            }
        }
        let dialled = tokio::select! {
            biased;
            () = pass.cut() => None,
            dialled = self.dial(connect, &pass) => Some(dialled),
        };
        let upstream = match dialled {
            Some(Ok(upstream)) => upstream,
            Some(Err(refusal)) => return Err((socket, refusal)),
            None => {
                // The door that was open is shut: asking again tells why.
                drop(pass);
                let refusal = self.admit(connect).await.err();
                return Err((socket, refusal.unwrap_or(refuse(ErrorCode::InstanceStarting))));
            }
        };
        if relay::accept(&mut socket).await.is_ok() {
            carry(socket, upstream, pass).await;
        }
        Ok(())
    }

    async fn read_connect(&self, socket: &mut Socket) -> Result<Connect, Refusal> {
        let connect = relay::read_connect(socket).await.map_err(|problem| {
            debug!(%problem, "a peer's CONNECT was not understood");
            refuse(problem.code)
        })?;
        if connect.key == self.key {
            return Ok(connect);
        }
        warn!(instance = %connect.instance, "a peer came with a wrong cell key");
        Err(refuse(ErrorCode::AuthForbidden))
    }

    async fn admit(&self, connect: &Connect) -> Result<Pass, Refusal> {
        let Connect { instance, generation, .. } = *connect;
        match self.fence.admit(instance, generation, ADMIT_DEADLINE).await {
            Admission::Pass(pass) => return Ok(pass),
            Admission::Refused(refusal) => return Err(refusal),
            Admission::Ignorant => {}
        }
        let record = self.records.read(instance).await.map_err(refuse)?;
        match self.fence.admit(instance, generation, ADMIT_DEADLINE).await {
            Admission::Pass(pass) => Ok(pass),
            Admission::Refused(refusal) => Err(refusal),
            Admission::Ignorant => Err(match record {
                None => refuse(ErrorCode::NodeNotHere),
                Some(record) => Refusal {
                    code: may_serve(&record, self.me, generation).err().unwrap_or(ErrorCode::InstanceStarting),
                    generation: Some(record.generation),
                },
            }),
        }
    }

    async fn dial(&self, connect: &Connect, pass: &Pass) -> Result<Socket, Refusal> {
        let dialled = match connect.target {
            Target::Agent => timeout(DIAL_DEADLINE, self.dial_agent(connect.instance)).await,
            Target::Port(port) => timeout(DIAL_DEADLINE, dial_port(connect.instance, port, pass.network())).await,
            Target::Service(_) => Ok(Err(ErrorCode::ServiceUnknown)),
        };
        dialled.unwrap_or(Err(ErrorCode::UpstreamTimeout)).map_err(refuse)
    }

    async fn dial_agent(&self, instance: InstanceId) -> Result<Socket, ErrorCode> {
        match InstanceDir::new(&self.data, instance).connect(AGENT_SOCKET).await {
            Ok(stream) => Ok(Socket::unix(stream)),
            // It has ended, and its instance's task is about to say so in the record: whoever waits for that hears the
            // true reason.
            Err(error) if nobody_listens(&error) => Err(ErrorCode::InstanceStarting),
            Err(error) => Err(unusable(instance, &error)),
        }
    }
}

fn unusable(instance: InstanceId, error: &io::Error) -> ErrorCode {
    warn!(%instance, %error, "the agent's socket cannot be used");
    ErrorCode::UpstreamRefused
}

/// Gives the connection to the agent. The door is held open until the agent has it or has not; from then on the agent is
/// its fence.
async fn hand_over(
    socket: Socket,
    connect: &Connect,
    mut agent: UnixStream,
    _pass: &Pass,
) -> Result<(), (Socket, Refusal)> {
    handoff::send(&mut agent, connect.generation, socket).await.map_err(|(socket, error)| {
        warn!(instance = %connect.instance, %error, "the agent does not take a connection over");
        (socket, refuse(ErrorCode::InstanceStarting))
    })
}

/// Listens with all workers until told to stop; then every connection ends. Returns when the last thread has.
///
/// # Errors
///
/// If a thread or its runtime cannot be made.
pub(crate) fn run(listener: TcpListener, relay: &Arc<Relay>, stop: &CancellationToken) -> Result<JoinSet<()>, Problem> {
    let failed = |error: io::Error| Problem::new(ErrorCode::Internal, format!("The relay cannot run: {error}."));
    let listener = listener.into_std().map_err(failed)?;
    let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    let mut threads = JoinSet::new();
    for number in 0..workers {
        let (listener, relay, stop) = (listener.try_clone().map_err(failed)?, relay.clone(), stop.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (ended, end) = oneshot::channel::<()>();
        let worker = move || {
            let _ended = ended;
            match runtime.block_on(async { accept(TcpListener::from_std(listener)?, relay, stop).await }) {
                Ok(()) => {}
                Err(error) => error!(%error, "a relay worker ended"),
            }
        };
        thread::Builder::new().name(format!("relay-{number}")).spawn(worker).map_err(failed)?;
        // Resolves when the thread drops its half, however it ends.
        threads.spawn(async move { drop(end.await) });
    }
    Ok(threads)
}

async fn accept(listener: TcpListener, relay: Arc<Relay>, stop: CancellationToken) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = next(&listener, &relay) => accepted,
        };
        match accepted {
            Ok((stream, stranger)) => {
                let relay = relay.clone();
                connections.spawn(async move { relay.serve(stream, stranger).await });
            }
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.shutdown().await;
    Ok(())
}

/// Strangers beyond the limit wait in the kernel's queue.
async fn next(listener: &TcpListener, relay: &Relay) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = relay.strangers.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?.0, permit))
}

/// Copies until either side ends or the door is shut. An end that is not clean is passed on as one.
async fn carry(mut peer: Socket, mut upstream: Socket, pass: Pass) {
    let ended = tokio::select! {
        biased;
        () = pass.cut() => None,
        copied = copy_both(&mut peer, &mut upstream) => Some(copied.ended_by),
    };
    match ended {
        Some(Ended::Clean) => {}
        Some(Ended::First(_) | Ended::Second(_)) | None => {
            peer.abort();
            upstream.abort();
        }
    }
}

async fn dial_port(instance: InstanceId, port: u16, network: Network) -> Result<Socket, ErrorCode> {
    match network {
        Network::Host => {}
        Network::None => {
            debug!(%instance, port, "asked for a port of an instance whose network is its own");
            return Err(ErrorCode::UpstreamRefused);
        }
    }
    // Some servers call the IPv6 loopback localhost, and only that.
    match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Ok(stream) => Ok(Socket::tcp(stream)),
        Err(_) => match TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await {
            Ok(stream) => Ok(Socket::tcp(stream)),
            Err(_) => Err(ErrorCode::UpstreamRefused),
        },
    }
}

/// Finds out about a gateway whose machine has gone without a word, and about one that has closed what its far end
/// keeps open: either would hold a connection here for ever.
fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
    let set = set_socket_keepalive(stream, true)
        .and_then(|()| set_tcp_keepidle(stream, KEEPALIVE_IDLE))
        .and_then(|()| set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL))
        .and_then(|()| set_tcp_keepcnt(stream, KEEPALIVE_PROBES));
    if let Err(error) = set {
        debug!(%error, "a connection is not watched by the kernel");
    }
}

const fn refuse(code: ErrorCode) -> Refusal {
    Refusal { code, generation: None }
}
