//! The shell around [`core::lease`](landfast_core::lease): asks the store, tells the fence and the instances.
//!
//! The node's record is bound to the lease, so the two are one question: granted means registered. An old lease of this
//! node, from before it was restarted, is left to lapse: its record was rebound to the new one. If the record was still
//! there then, nobody has seen the node away, and its instances go on as they are.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use landfast_core::NodeId;
use landfast_core::lease::{Ask, Effect, Lease, TTL};
use landfast_core::record::{Node, keys};
use landfast_net::clock;
use landfast_net::role::CancellationToken;
use landfast_registry::records;
use landfast_registry::store::{Expect, LeaseId, RenewError, Store, StoreError, Swap};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

use crate::board::{Board, Rest};
use crate::instance::Context;
use crate::relay::Question;

/// Attempts to register: whoever else writes a node's record is the keeper, once, when it sweeps it.
const ATTEMPTS: u32 = 5;

/// The node's lease, and what it does under it.
pub(crate) struct Keeping {
    ctx: Arc<Context>,
    record: Node,
    machine: Lease,
    lease: Option<LeaseId>,
    /// The question that is under way. A newer one replaces it, and what it wrote until then is overwritten.
    asking: Option<Asking>,
    work: Work,
}

/// What runs under the lease.
enum Work {
    /// Nothing new: the lease is not held yet, or not any more.
    Idle(Rest),
    Busy {
        board: JoinHandle<Rest>,
        tenure: CancellationToken,
    },
}

type Asking = (Ask, Pin<Box<dyn Future<Output = Answer> + Send>>);

/// What the store said.
enum Answer {
    Held(LeaseId),
    Lapsed,
    Failed(String),
}

impl Keeping {
    pub(crate) fn new(ctx: Arc<Context>, record: Node, questions: mpsc::Receiver<Question>) -> Self {
        let machine = Lease::new(clock::now());
        Self { ctx, record, machine, lease: None, asking: None, work: Work::Idle(Rest::new(questions)) }
    }

    /// Holds the lease until `stop`. Tells `adopted` when the instances of the first tenure were looked at.
    ///
    /// Stopping neither ends the instances nor gives the lease back: a daemon that comes back within it goes on.
    pub(crate) async fn run(mut self, stop: CancellationToken, adopted: oneshot::Sender<()>) {
        let mut adopted = Some(adopted);
        if stop.run_until_cancelled(self.hold(&mut adopted)).await.is_none() {
            info!("the node stops; its instances go on");
        }
        // Nobody may open a door again that is shut below.
        match self.work {
            Work::Busy { board, .. } => board.abort(),
            Work::Idle(rest) => drop(rest),
        }
        // Cutting what is carried is the last thing, so that every gateway learns at once that this node is away.
        if let Err(stuck) = self.ctx.fence.shut_all().await {
            error!(stuck, "connections do not end");
        }
    }

    async fn hold(&mut self, adopted: &mut Option<oneshot::Sender<()>>) {
        loop {
            while let Some(effect) = self.machine.poll(clock::now()) {
                self.apply(effect, adopted).await;
            }
            self.hold_fence();
            let deadline = self.machine.next_deadline();
            let answer = async {
                match &mut self.asking {
                    Some((ask, answer)) => (*ask, answer.await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                (ask, answer) = answer => self.handle_answer(ask, answer),
                () = clock::sleep_until(deadline) => {}
            }
        }
    }

    async fn apply(&mut self, effect: Effect, adopted: &mut Option<oneshot::Sender<()>>) {
        match effect {
            Effect::Grant(ask) => {
                let (ctx, record) = (self.ctx.clone(), self.record.clone());
                self.asking = Some((ask, Box::pin(grant(ctx, record))));
            }
            Effect::Renew(ask) => {
                let (store, id, lease) = (self.ctx.store.clone(), self.record.id, self.lease.clone());
                self.asking = Some((ask, Box::pin(renew(store, id, lease))));
            }
            Effect::Serve => {
                self.hold_fence();
                self.begin_work(adopted.take());
            }
            Effect::Fence => {
                warn!("the lease was not renewed in time; what could be given to others is not reached until it is");
                if let Err(stuck) = self.ctx.fence.shut_leased().await {
                    error!(stuck, "connections do not end");
                }
            }
            Effect::Stop => {
                error!("the lease is lost; the instances of this node that others may be given are ended");
                self.end_work().await;
                self.machine.handle_stopped(clock::now());
            }
        }
    }

    fn handle_answer(&mut self, ask: Ask, answer: Answer) {
        self.asking = None;
        let now = clock::now();
        match answer {
            Answer::Held(lease) => {
                self.lease = Some(lease);
                self.machine.handle_held(ask, now);
            }
            Answer::Lapsed => self.machine.handle_lapsed(ask, now),
            Answer::Failed(why) => {
                debug!(why, "the lease could not be asked for");
                self.machine.handle_failed(ask, now);
            }
        }
    }

    /// Says until when the lease is held, if it is.
    fn hold_fence(&self) {
        if let Err(error) = self.ctx.fence.prolong(self.machine.holds_until()) {
            error!(%error, "the agents cannot be told of the lease; they will cut what they carry");
        }
    }

    /// Takes up the instances, unless they were never ended.
    fn begin_work(&mut self, adopted: Option<oneshot::Sender<()>>) {
        let idle = match &mut self.work {
            Work::Busy { .. } => return,
            Work::Idle(rest) => std::mem::replace(rest, Rest::new(mpsc::channel(1).1)),
        };
        let tenure = CancellationToken::new();
        let board = Board::new(self.ctx.clone(), tenure.clone());
        self.work = Work::Busy { board: tokio::spawn(board.run(idle, adopted)), tenure };
    }

    /// Kills the instances that others may be given, and returns when they are dead.
    async fn end_work(&mut self) {
        if let Work::Busy { board, tenure } = &mut self.work {
            tenure.cancel();
            match board.await {
                Ok(rest) => self.work = Work::Idle(rest),
                Err(error) => {
                    error!(%error, "the node's work ended badly");
                    self.work = Work::Idle(Rest::new(mpsc::channel(1).1));
                }
            }
        }
    }
}

async fn grant(ctx: Arc<Context>, record: Node) -> Answer {
    match ctx.store.grant(TTL).await {
        Ok(lease) => match register(&ctx, &record, &lease).await {
            Ok(()) => Answer::Held(lease),
            Err(error) => Answer::Failed(error.to_string()),
        },
        Err(error) => Answer::Failed(error.to_string()),
    }
}

async fn renew(store: Arc<dyn Store>, id: NodeId, lease: Option<LeaseId>) -> Answer {
    let Some(lease) = lease else { return Answer::Lapsed };
    match store.renew(&lease).await {
        Ok(()) => {}
        Err(RenewError::Lapsed) => return Answer::Lapsed,
        Err(RenewError::Store(error)) => return Answer::Failed(error.to_string()),
    }
    // The record is what others go by. If somebody has removed it, the node has been called lost, lease or not.
    match store.get(&keys::node(id)).await {
        Ok(Some(_)) => Answer::Held(lease),
        Ok(None) => Answer::Lapsed,
        Err(error) => Answer::Failed(error.to_string()),
    }
}

/// Writes the node's record, bound to the lease. As long as it replaces the one that an earlier life left, the node was
/// never away for anybody; otherwise what it was given has to be claimed.
async fn register(ctx: &Context, record: &Node, lease: &LeaseId) -> Result<(), StoreError> {
    let (key, value) = (keys::node(record.id), records::encode(record)?);
    let mut present = ctx.store.get(&key).await?;
    for _ in 0..ATTEMPTS {
        let expect = match &present {
            Some(entry) => Expect::Revision(entry.revision),
            None => {
                // First, so that a daemon that is killed after the write is followed by one that knows, and what agents
                // still carry from before is not covered by what this one is granted.
                let begun = ctx.claims.owe().and_then(|()| ctx.fence.begin_tenure());
                begun.map_err(|error| StoreError::Unavailable(format!("the node's directory: {error}")))?;
                Expect::Absent
            }
        };
        match ctx.store.put(&key, expect, value.clone(), Some(lease)).await? {
            Swap::Done(_) => return Ok(()),
            Swap::Conflict(entry) => present = entry,
        }
    }
    Err(StoreError::Unavailable("the node's record changed again and again".to_owned()))
}
