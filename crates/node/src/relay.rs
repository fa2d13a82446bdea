//! The fenced relay: from a gateway's CONNECT to the instance's agent, which has the connection from then on, or to a
//! typed no.
//!
//! It runs on a few threads of its own, each with a runtime that shares nothing with its neighbours, so that a storm of
//! connections does not slow the daemon's decisions.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use landfast_core::lifecycle::may_serve;
use landfast_core::netcheck::NodeCondition;
use landfast_core::record::Instance;
use landfast_core::{ErrorCode, InstanceId, NodeId, Problem};
use landfast_net::copy::{Ended, copy_both};
use landfast_net::credential::{Credential, RELAYED};
use landfast_net::handoff::{self, Given};
use landfast_net::keepalive;
use landfast_net::relay::{self, Asked, Connect, Of};
use landfast_net::role::CancellationToken;
use landfast_net::socket::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error, warn};

use crate::condition;
use crate::dir::{HANDOFF_SOCKET, InstanceDir, nobody_listens};
use crate::fence::{Admission, Fence, Pass, Refusal};

/// Threads: more only wait for each other in the kernel's table of connections.
const WORKERS_MAX: usize = 4;

/// Connections per node whose CONNECT has not been read: strangers, who get little room, and none to spare for others.
const STRANGERS: usize = 1024;

/// How long a connection waits for a door that is about to open (a move's commit, a start that was just acknowledged);
/// after it the asker is told to wait by itself.
const ADMIT_DEADLINE: Duration = Duration::from_secs(2);

/// How long a read of the record may take, when the node is asked for what it does not know.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// How long a refusal may take to be taken by its reader.
const REFUSE_DEADLINE: Duration = Duration::from_secs(5);

/// How long to wait after an accept that failed because something has run out, mostly descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Everything that a connection needs.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) me: NodeId,
    pub(crate) data: PathBuf,
    pub(crate) credential: Credential,
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
        credential: Credential,
        fence: Arc<Fence>,
        records: Records,
        connections: u32,
    ) -> Self {
        let carried = usize::try_from(connections).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let (strangers, carried) = (Arc::new(Semaphore::new(STRANGERS)), Arc::new(Semaphore::new(carried)));
        Self { me, data, credential, fence, records, strangers, carried }
    }

    /// Serves one connection until the agent has it, or its peer has heard why not.
    async fn serve(&self, stream: TcpStream, stranger: OwnedSemaphorePermit) {
        keepalive::watch(&stream);
        match self.credential.accept(stream, RELAYED).await {
            Ok(socket) => self.converse(socket, Some(stranger)).await,
            Err(error) => debug!(%error, "a peer was not believed"),
        }
    }

    /// The same for a peer that is believed already.
    pub(crate) async fn converse(&self, mut socket: Socket, stranger: Option<OwnedSemaphorePermit>) {
        let handed = match self.let_in(&mut socket, stranger).await {
            Ok(Entry::Told) => return,
            Ok(Entry::Admitted(connect, pass, permit)) => {
                self.hand_over(socket, &connect, pass).await.map(|between| (between, permit))
            }
            Err(refusal) => Err((socket, refusal)),
        };
        let refused = match handed {
            Ok((None, _)) => None,
            Ok((Some(between), _permit)) => {
                between.carry().await;
                None
            }
            Err(refused) => Some(refused),
        };
        if let Some((mut socket, refusal)) = refused {
            let said = relay::refuse(&mut socket, refusal.code, refusal.generation);
            if !matches!(timeout(REFUSE_DEADLINE, said).await, Ok(Ok(()))) {
                debug!(code = %refusal.code, "a refused peer did not wait for its answer");
            }
        }
    }

    /// Reads who asks for what, and decides.
    async fn let_in(&self, socket: &mut Socket, stranger: Option<OwnedSemaphorePermit>) -> Result<Entry, Refusal> {
        let connect = match self.read_asked(socket).await? {
            Asked::Connect(connect) => connect,
            Asked::Condition { of, .. } => {
                self.tell(socket, of).await;
                return Ok(Entry::Told);
            }
        };
        let permit = self.carried.clone().try_acquire_owned().map_err(|_| refuse(ErrorCode::LimitInFlight))?;
        drop(stranger);
        let pass = self.admit(&connect).await?;
        Ok(Entry::Admitted(connect, pass, permit))
    }

    /// Says how this node or its agents are.
    async fn tell(&self, socket: &mut Socket, of: Of) {
        let told = timeout(REFUSE_DEADLINE, async {
            match of {
                Of::Node => {
                    let lease_ms = u64::try_from(self.fence.holds_for().as_millis()).unwrap_or(u64::MAX);
                    relay::tell(socket, &NodeCondition { node: self.me, lease_ms }).await
                }
                Of::Agents => relay::tell(socket, &condition::of_agents(&self.data, self.fence.open()).await).await,
            }
        });
        if !matches!(told.await, Ok(Ok(()))) {
            debug!("a peer did not wait for the condition that it asked for");
        }
    }

    /// Gives the connection to the agent. The door is held open until the agent has it or has not; from then on the agent
    /// is its fence, and says the rest. What is left to be carried is returned: the agent cannot go on with another's TLS.
    async fn hand_over(
        &self,
        socket: Socket,
        connect: &Connect,
        pass: Pass,
    ) -> Result<Option<Between>, (Socket, Refusal)> {
        let &Connect { instance, target, generation, .. } = connect;
        let mut agent = match InstanceDir::new(&self.data, instance).connect(HANDOFF_SOCKET).await {
            Ok(agent) => agent,
            // It has ended, and its instance's task is about to say so in the record: whoever waits for that hears the
            // true reason.
            Err(error) if nobody_listens(&error) => return Err((socket, refuse(ErrorCode::InstanceStarting))),
            Err(error) => {
                warn!(%instance, %error, "the agent's socket cannot be used");
                return Err((socket, refuse(ErrorCode::UpstreamRefused)));
            }
        };
        let tenure = self.fence.tenure(&pass);
        let (outer, inner) = match Between::pair(socket).await {
            Ok(parts) => parts,
            Err((socket, error)) => {
                warn!(%instance, %error, "no connection to the agent can be made");
                return Err((socket, refuse(ErrorCode::LimitInFlight)));
            }
        };
        match handoff::send(&mut agent, Given { generation, target, tenure, socket: inner }).await {
            Ok(()) => Ok(outer),
            Err((inner, error)) => {
                warn!(%instance, %error, "the agent does not take a connection over");
                Err((outer.map_or(inner, |between| between.outer), refuse(ErrorCode::InstanceStarting)))
            }
        }
    }

    async fn read_asked(&self, socket: &mut Socket) -> Result<Asked, Refusal> {
        let asked = relay::read_asked(socket).await.map_err(|problem| {
            debug!(%problem, "what a peer wants was not understood");
            refuse(problem.code)
        })?;
        let (Asked::Connect(Connect { key, .. }) | Asked::Condition { key, .. }) = &asked;
        if key == self.credential.key() {
            return Ok(asked);
        }
        warn!("a peer came with a wrong cell key");
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
}

/// What became of a peer that was believed.
enum Entry {
    /// It goes to the agent.
    Admitted(Connect, Pass, OwnedSemaphorePermit),
    /// It has heard what it wanted to know.
    Told,
}

/// A connection over TLS, and the plain one that the agent has in its place. This daemon carries between them, so they end
/// with it.
struct Between {
    outer: Socket,
    inner: Socket,
}

impl Between {
    /// What the agent is given for a connection: the connection itself if it is plain; otherwise one end of another, of
    /// which the other end is kept. Over TCP, because a Unix stream cannot say that it was cut.
    async fn pair(outer: Socket) -> Result<(Option<Self>, Socket), (Socket, io::Error)> {
        if outer.is_plain() {
            return Ok((None, outer));
        }
        match loopback().await {
            Ok((near, far)) => Ok((Some(Self { outer, inner: Socket::tcp(near) }), Socket::tcp(far))),
            Err(error) => Err((outer, error)),
        }
    }

    /// Copies until both directions have ended. An end that is not clean is passed on as one.
    async fn carry(mut self) {
        if copy_both(&mut self.outer, &mut self.inner).await.ended_by != Ended::Clean {
            self.outer.abort();
            self.inner.abort();
        }
    }
}

/// Two ends of one TCP connection within this machine.
async fn loopback() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    loop {
        let (far, from) = listener.accept().await?;
        // Anybody on this machine may have come by first.
        if from == near.local_addr()? {
            return Ok((near, far));
        }
    }
}

/// Listens with all workers until told to stop; what no agent has by then ends. Returns when the last thread has.
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

const fn refuse(code: ErrorCode) -> Refusal {
    Refusal { code, generation: None }
}
