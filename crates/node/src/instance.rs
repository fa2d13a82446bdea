//! One task per instance of this node: it alone starts the agent, watches it, moves it and ends it.
//!
//! The task does what [`Life`] says for the record as it is, then waits for what could change that: a new record, the
//! agent's death, or the deadline of a move. Whatever fails is tried again, with the record read anew in between, so
//! two nodes that want the same thing never fight for longer than a compare-and-swap.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use landfast_core::lifecycle::{self, StepError};
use landfast_core::record::{Desired, Generation, Instance};
use landfast_core::time::earliest;
use landfast_core::{ErrorCode, NodeId, Problem};
use landfast_net::clock;
use landfast_net::role::CancellationToken;
use landfast_registry::records::{self, UpdateError, update_instance};
use landfast_registry::store::{Revision, Store};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::agent::{Agent, AgentError, Death, GRACE};
use crate::archiver::Archiver;
use crate::driver::{Driver, StartError};
use crate::fence::{Fence, Place};
use crate::identity::Claims;
use crate::life::{Life, Step};
use crate::sleep::Idleness;

/// The first pause after something failed: long beside a local round trip, short beside a person.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest: a store that is back is noticed within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long an agent may take to say whose it is when the lease is over: two seconds later others may be given the instance.
const ASK_WITHIN: Duration = Duration::from_millis(500);

/// Why an instance failed whose agent ended while nobody watched it.
const GONE: &str = "The agent was gone when its node looked for it.";

/// What every instance's task needs.
pub(crate) struct Context {
    pub(crate) me: NodeId,
    /// See [`landfast_core::record::Node::host`].
    pub(crate) host: String,
    /// The relay's address as gateways reach it.
    pub(crate) address: String,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) fence: Arc<Fence>,
    pub(crate) driver: Driver,
    pub(crate) claims: Claims,
    pub(crate) archiver: Arc<Archiver>,
}

/// A record as the store last told it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) revision: Revision,
    /// `None` once it was removed from the store.
    pub(crate) record: Option<Instance>,
}

/// One instance's task.
pub(crate) struct Task {
    pub(crate) ctx: Arc<Context>,
    pub(crate) life: Life,
    pub(crate) place: Arc<Place>,
    pub(crate) agent: Option<Agent>,
    /// The newest revision that it was told.
    heard: Revision,
    /// Why the instance failed, until the record says so.
    failure: Option<String>,
    /// The record was removed from the store.
    is_forgotten: bool,
    /// It was given to the node under a lease that somebody may have seen lapse.
    must_claim: bool,
    /// Whether the node's lease lets it carry.
    holding: watch::Receiver<bool>,
    pause: Duration,
    /// Dropped when the first step is done, and the instance claimed if need be.
    settling: Option<oneshot::Sender<()>>,
    pub(crate) idleness: Idleness,
}

/// What to do after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait for a change.
    Watch,
    /// Look again at once: the step changed the record.
    Again,
    /// It failed in a way that may pass: look again after a pause.
    Retry,
    /// There is nothing more to do here.
    Done,
}

impl Task {
    pub(crate) fn new(ctx: Arc<Context>, record: &Instance, must_claim: bool, settling: oneshot::Sender<()>) -> Self {
        let place = ctx.fence.enter(record);
        let mut life = Life::new(ctx.me, &ctx.host, record.clone(), clock::now());
        if let Some(generation) = ctx.driver.dir(record.id).doze() {
            life.handle_doze(generation);
        }
        let holding = ctx.fence.holding();
        Self {
            ctx,
            life,
            place,
            agent: None,
            heard: 0,
            failure: None,
            is_forgotten: false,
            must_claim,
            holding,
            pause: FIRST_PAUSE,
            settling: Some(settling),
            idleness: Idleness::default(),
        }
    }

    /// Runs until the instance is no business of this node any more, and returns the revision it had heard of by then: what
    /// came while it did its last step is news to whoever follows it. When `tenure` is cancelled the node has lost its lease,
    /// and the instance is killed.
    pub(crate) async fn run(mut self, mut records: watch::Receiver<Known>, tenure: CancellationToken) -> Revision {
        self.heard = records.borrow().revision;
        if tenure.run_until_cancelled(self.live(&mut records)).await.is_none() {
            self.kill_without_lease().await;
        }
        self.ctx.fence.leave(self.record().id);
        self.heard
    }

    pub(crate) const fn record(&self) -> &Instance {
        self.life.record()
    }

    async fn live(&mut self, records: &mut watch::Receiver<Known>) {
        loop {
            if records.has_changed().unwrap_or(false) {
                self.hear(records);
            }
            let next = self.act().await;
            self.settling.take_if(|_| !self.must_claim);
            match next {
                Next::Done => return,
                Next::Again => self.pause = FIRST_PAUSE,
                Next::Watch => {
                    self.pause = FIRST_PAUSE;
                    self.watch(records).await;
                }
                Next::Retry => {
                    tokio::select! {
                        biased;
                        _ = records.changed() => self.hear(records),
                        // What is tried again may be of an agent that is no more.
                        death = death_of(&mut self.agent) => self.lose_agent(&death),
                        () = sleep(self.pause) => self.pause = (self.pause * 2).min(LONGEST_PAUSE),
                    }
                }
            }
        }
    }

    /// Waits for whatever may change the next step.
    async fn watch(&mut self, records: &mut watch::Receiver<Known>) {
        let deadline = earliest(self.life.next_deadline(), self.idleness.next_look());
        tokio::select! {
            biased;
            // The sender outlives the tasks; when it does not, the daemon ends.
            _ = records.changed() => self.hear(records),
            death = death_of(&mut self.agent) => self.lose_agent(&death),
            // The fence lives in the context, so this never ends.
            _ = self.holding.changed() => {}
            () = clock::sleep_until(deadline) => {}
        }
    }

    fn hear(&mut self, records: &mut watch::Receiver<Known>) {
        let Known { revision, record } = records.borrow_and_update().clone();
        self.heard = revision;
        match record {
            Some(record) => self.know(record),
            None => self.is_forgotten = true,
        }
    }

    fn know(&mut self, record: Instance) {
        self.place.learn(&record);
        self.life.handle_record(record, clock::now());
    }

    fn lose_agent(&mut self, death: &Death) {
        self.agent = None;
        if self.is_mine() && !self.life.is_to_sleep() {
            warn!(instance = %self.record().id, %death, "an agent ended by itself");
            self.failure = Some(death.to_string());
        }
    }

    fn is_mine(&self) -> bool {
        self.record().node == Some(self.ctx.me) && !self.record().phase.is_end()
    }

    async fn act(&mut self) -> Next {
        if self.is_forgotten {
            return self.forget().await;
        }
        if self.must_claim {
            return self.claim().await;
        }
        if self.life.is_to_sleep() {
            self.failure = None;
        }
        if let Some(why) = self.failure.take_if(|_| self.life.record().node == Some(self.ctx.me)) {
            return self.fail(why).await;
        }
        match self.life.step(clock::now()) {
            Step::Start => self.start().await,
            Step::Serve => self.serve().await,
            Step::Prepare => self.prepare().await,
            Step::Wait => Next::Watch,
            Step::HandOver => self.hand_over().await,
            Step::GiveUp if self.life.dozes() => self.give_up("The instance was being put to sleep.").await,
            Step::GiveUp => self.give_up("The target node did not take over within 10 seconds.").await,
            Step::Sleep => self.fall_asleep().await,
            Step::End => self.end().await,
            Step::Clear { files } => self.clear(files).await,
            Step::Leave => Next::Done,
        }
    }

    /// Takes the next generation, so that whoever saw the earlier lease lapse cannot call the instance lost any more.
    async fn claim(&mut self) -> Next {
        let (me, generation, address) = (self.ctx.me, self.record().generation, self.ctx.address.clone());
        let dozes = self.life.is_to_sleep() && self.ctx.driver.dir(self.record().id).doze() == Some(generation);
        let next = match self.is_mine() {
            true => self.write(|instance| lifecycle::claim(instance, me, generation, &address)).await,
            false => Next::Again,
        };
        if dozes && next == Next::Again {
            // What has begun is done to the end in the new generation.
            self.note_doze();
        }
        self.must_claim = next != Next::Again;
        next
    }

    async fn start(&mut self) -> Next {
        match self.ctx.driver.start(self.record()).await {
            Ok(agent) => {
                self.agent = Some(agent);
                self.idleness = Idleness::default();
            }
            Err(StartError(why)) => return self.fail(why).await,
        }
        let (me, generation) = (self.ctx.me, self.record().generation);
        info!(instance = %self.record().id, %generation, "an instance started");
        self.write(|instance| lifecycle::started(instance, me, generation)).await
    }

    async fn serve(&mut self) -> Next {
        let generation = self.record().generation;
        if self.agent.is_none() {
            match self.adopt().await {
                Ok(()) => {}
                Err(next) => return next,
            }
        }
        if self.record().address.as_ref() != Some(&self.ctx.address) {
            let (me, address) = (self.ctx.me, self.ctx.address.clone());
            return self.write(|instance| lifecycle::readdress(instance, me, generation, &address)).await;
        }
        let holds = *self.holding.borrow_and_update() || self.place.is_bound();
        match (holds, self.place.is_open(generation)) {
            (true, true) => self.look_for_idleness().await,
            (false, false) => Next::Watch,
            (true, false) => self.open(generation).await,
            (false, true) => self.suspend().await,
        }
    }

    /// The lease is not held for now. The relay has cut what it carries itself; the agent cuts the rest.
    async fn suspend(&mut self) -> Next {
        let next = self.fence_agent().await;
        if next == Next::Watch {
            self.place.close();
        }
        next
    }

    /// Has the agent cut what was handed to it.
    pub(crate) async fn fence_agent(&self) -> Next {
        let Some(agent) = &self.agent else { return Next::Watch };
        match agent.fence(self.record().generation).await {
            Ok(()) => Next::Watch,
            Err(error) => {
                error!(instance = %self.record().id, %error, "the agent does not cut its connections");
                Next::Retry
            }
        }
    }

    /// The agent learns its generation first: it must never carry for an older one what is meant for this.
    async fn open(&mut self, generation: Generation) -> Next {
        let Some(agent) = &self.agent else { return Next::Retry };
        match agent.put_generation(generation).await {
            Ok(()) => {
                self.place.open(generation);
                Next::Again
            }
            Err(error) => {
                warn!(instance = %self.record().id, %error, "the agent does not take its generation");
                Next::Retry
            }
        }
    }

    /// Finds the agent that runs on this host, started by an earlier daemon or by the node it moved from.
    async fn adopt(&mut self) -> Result<(), Next> {
        let (id, generation) = (self.record().id, self.record().generation);
        match Agent::find(&self.ctx.driver.dir(id), id) {
            Ok(Some(agent)) => match agent.check(generation).await {
                Ok(()) => {
                    info!(instance = %id, %generation, "an agent was adopted");
                    self.agent = Some(agent);
                    Ok(())
                }
                // Silence is not death: the process is there.
                Err(error @ AgentError::Silent(_)) => {
                    warn!(instance = %id, %error, "an agent cannot be adopted yet");
                    Err(Next::Retry)
                }
                Err(AgentError::Absent) => Err(self.miss_agent().await),
                Err(error @ (AgentError::Said(_) | AgentError::Other(_))) => {
                    Err(self.fail(format!("The agent could not be adopted: {error}.")).await)
                }
            },
            Ok(None) => Err(self.miss_agent().await),
            Err(error) => {
                error!(instance = %id, %error, "an agent cannot be looked for");
                Err(Next::Retry)
            }
        }
    }

    /// The agent is not there. Where this host has ended it for want of a lease, the instance was lost, by nobody's fault but the
    /// platform's, although the registry may not have seen the lease lapse; else it has failed.
    async fn miss_agent(&mut self) -> Next {
        let (id, generation) = (self.record().id, self.record().generation);
        // A claim or a move may have come since: it is the same agent that is missed.
        if self.ctx.driver.dir(id).unleased().is_none_or(|ended| ended > generation) {
            return self.fail(GONE.to_owned()).await;
        }
        self.shut(ErrorCode::InstanceStarting).await;
        match self.kill_and_archive().await {
            Ok(()) => {
                self.write(|instance| lifecycle::lost_on_its_host(instance, generation, clock::unix_millis())).await
            }
            Err(next) => next,
        }
    }

    /// Says why it failed, after nothing of it is left. Until then its door says that something is about to change, so
    /// that whoever waits hears the true reason from the record.
    async fn fail(&mut self, why: String) -> Next {
        self.shut(ErrorCode::InstanceStarting).await;
        let next = match self.kill_and_archive().await {
            Ok(()) => {
                let (me, generation, now) = (self.ctx.me, self.record().generation, clock::unix_millis());
                self.write(|instance| lifecycle::failed(instance, me, generation, &why, now)).await
            }
            Err(next) => next,
        };
        if next == Next::Retry && self.is_mine() {
            self.failure = Some(why);
        }
        next
    }

    /// Finds the agent of this life, if it runs here. One that was started for a later life is another node's, which this one
    /// has not heard of.
    pub(crate) fn find_agent(&mut self) {
        if self.agent.is_some() {
            return;
        }
        let (id, generation) = (self.record().id, self.record().generation);
        let found = Agent::find(&self.ctx.driver.dir(id), id).ok().flatten();
        self.agent = found.filter(|agent| agent.born() <= generation);
    }

    async fn end(&mut self) -> Next {
        self.shut(match self.record().desired {
            Desired::Running => ErrorCode::InstanceStarting,
            Desired::Sleeping => ErrorCode::InstanceWaking,
            Desired::Stopped => ErrorCode::InstanceStopped,
            Desired::Deleted => ErrorCode::InstanceGone,
        })
        .await;
        self.find_agent();
        if let Some(agent) = &self.agent
            && let Err(error) = agent.end(GRACE).await
        {
            error!(instance = %self.record().id, %error, "an instance does not end");
            return Next::Retry;
        }
        match self.kill_and_archive().await {
            Ok(()) => {
                let (me, generation, now) = (self.ctx.me, self.record().generation, clock::unix_millis());
                self.write(|instance| lifecycle::ended(instance, me, generation, now)).await
            }
            Err(next) => next,
        }
    }

    async fn clear(&mut self, files: bool) -> Next {
        match self.clear_away(files).await {
            Ok(()) => Next::Done,
            Err(error) => {
                error!(instance = %self.record().id, %error, "an ended instance cannot be cleared away");
                Next::Retry
            }
        }
    }

    async fn clear_away(&self, files: bool) -> io::Result<()> {
        let Context { driver, archiver, .. } = &*self.ctx;
        driver.clear(self.record(), false).await?;
        if !files {
            archiver.finish(self.record().id).await;
            return Ok(());
        }
        archiver.rescue(self.record().id).await?;
        driver.clear(self.record(), true).await
    }

    /// The record is gone from the store. If it was a tombstone its day was over; if not, somebody removed it by hand, and
    /// the files are kept.
    async fn forget(&mut self) -> Next {
        let id = self.record().id;
        let swept = self.record().phase.is_end();
        if !swept {
            warn!(instance = %id, "the record of a live instance was removed; its processes end, its files stay");
        }
        self.shut(ErrorCode::InstanceGone).await;
        self.agent = None;
        self.clear(swept).await
    }

    /// Kills whatever of the instance runs here.
    pub(crate) async fn kill(&mut self) -> Result<(), Next> {
        self.agent = None;
        self.ctx.driver.clear(self.record(), false).await.map_err(|error| {
            error!(instance = %self.record().id, %error, "an instance cannot be killed");
            Next::Retry
        })
    }

    /// Kills whatever of the instance runs here, and copies what it has told to the archive, so that it can be read there once
    /// the record says that the instance runs no more.
    pub(crate) async fn kill_and_archive(&mut self) -> Result<(), Next> {
        self.kill().await?;
        self.ctx.archiver.finish(self.record().id).await;
        Ok(())
    }

    /// The lease is over: whoever is given the instance next must find nothing of it running.
    async fn kill_without_lease(&mut self) {
        if !self.is_mine() || self.was_given_away().await {
            return;
        }
        self.note_unleased();
        while self.kill().await.is_err() {
            sleep(FIRST_PAUSE).await;
        }
    }

    /// Whether the target of a move has taken over already: giving it away was written, and not answered.
    async fn was_given_away(&self) -> bool {
        let (id, generation) = (self.record().id, self.record().generation);
        if !lifecycle::is_handed_over(self.record()) {
            return false;
        }
        let Ok(Some(agent)) = Agent::find(&self.ctx.driver.dir(id), id) else { return false };
        let taken =
            timeout(ASK_WITHIN, agent.generation()).await.is_ok_and(|told| told.is_ok_and(|told| told > generation));
        if taken {
            info!(instance = %id, "an instance was handed over, although nobody said so");
        }
        taken
    }

    /// Without the note the instance will be called failed, should the lease be had again in time; that is no reason not to end it.
    fn note_unleased(&self) {
        let id = self.record().id;
        if let Err(error) = self.ctx.driver.dir(id).note_unleased() {
            warn!(instance = %id, %error, "why the instance is ended cannot be noted");
        }
    }

    pub(crate) async fn shut(&self, code: ErrorCode) {
        if let Err(stuck) = self.place.shut(code).await {
            error!(instance = %self.record().id, stuck, "connections do not end");
        }
    }

    /// Writes one step of the record. Refused, it means that the record is not what this task thinks, so it is read anew.
    pub(crate) async fn write(&mut self, mut step: impl FnMut(&mut Instance) -> Result<(), StepError>) -> Next {
        let (id, store) = (self.record().id, self.ctx.store.clone());
        match update_instance(&*store, id, |instance| step(instance).map_err(Problem::from)).await {
            Ok(record) => {
                self.know(record);
                Next::Again
            }
            Err(UpdateError::Refused(problem)) => {
                debug!(instance = %id, %problem, "a step was refused");
                self.read_anew().await;
                Next::Retry
            }
            Err(UpdateError::Unknown) => {
                self.is_forgotten = true;
                Next::Again
            }
            Err(error @ UpdateError::Store(_)) => {
                debug!(instance = %id, %error, "a step could not be written");
                Next::Retry
            }
            Err(error @ UpdateError::Conflict) => {
                warn!(instance = %id, %error, "a step could not be written");
                Next::Retry
            }
        }
    }

    async fn read_anew(&mut self) {
        match records::instance(&*self.ctx.store, self.record().id).await {
            Ok(Some((record, _))) => self.know(record),
            Ok(None) => self.is_forgotten = true,
            Err(error) => debug!(instance = %self.record().id, %error, "a record could not be read"),
        }
    }
}

/// Waits for the agent's death; for ever, if there is none to die.
async fn death_of(agent: &mut Option<Agent>) -> Death {
    match agent {
        Some(agent) => agent.died().await,
        None => std::future::pending().await,
    }
}
