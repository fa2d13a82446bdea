//! Every interleaving there is of one lease, one claim and one move: no two nodes ever serve the instance at once.
//!
//! Chance finds what happens often. Whether two nodes may serve one instance hangs on coincidences that chance hardly
//! meets: a daemon that stands still between its fence and its write, a renewal that is late by more than a lease, a
//! keeper that looks a moment before a claim. So here one instance and the two nodes that may have it are small enough to
//! be looked at in every state they can reach, with no limit of time: the machines are the product's own
//! ([`Lease`](landfast_core::lease::Lease), [`lifecycle`](landfast_core::lifecycle)), and around them every message may
//! be late or lost, every daemon may stand still or be killed, at every moment.
//!
//! * **Node 0** has the instance in the beginning. Its daemon, its lease, what it has read, and its agent, which carries
//!   connections under the daemon's tenure.
//! * **Node 1** is the worst that can be: it serves from the very moment in which the record says so.
//! * **The gateway** is the worst too: it hears of nothing, dials whenever it is let in, and lets no connection go.
//! * Time goes in steps of half a second, on clocks that run as [`World`] says. So that nothing is missed between two
//!   steps, the registry may take a lease for lapsed one step early.
//!
//! States that will behave alike are one state, so there is an end to them: one or two millions with one question about the
//! lease under way at a time, twelve with two. They are searched breadth first, so that what is found is told by its
//! shortest story. See docs/decisions/0009 for the agent's part.

mod rules;
mod state;

use std::fmt;
use std::time::Duration;

use indexmap::IndexSet;
use landfast_core::lease::{Effect, TTL};
use landfast_core::time::Instant;

use self::rules::{Op, Rules, Stage};
use self::state::{Agent, Answer, Daemon, NOW, Question, State, Write};

/// A step of true time.
const STEP: Duration = Duration::from_millis(500);

/// How fast the clocks run, in per cent of true time, and how much may be late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    /// The node's.
    pub node: u32,
    /// The registry's.
    pub registry: u32,
    /// Questions about the lease that are under way at once; one more takes the place of the first, which is lost.
    pub late: usize,
}

/// A rule that is not kept, to show what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// The node goes on when its lease has lapsed by its own clock, and so does its agent.
    NoFence,
    /// The agent goes on although its node's tenure is over.
    NoTenure,
    /// A node that was away serves what it was given before, without claiming it.
    NoClaim,
    /// A node whose record was gone goes on with the tenure that it had.
    OneTenure,
    /// The source of a move gives the instance away and cuts nothing.
    NoCut,
    /// The keeper does not look for the node's record before it calls an instance lost.
    NoLook,
}

/// What came of looking at everything.
#[derive(Clone, Debug)]
pub struct Explored {
    /// How many states there are.
    pub states: usize,
    /// The shortest way to two nodes that serve at once, if there is one.
    pub story: Option<Vec<String>>,
}

/// Looks at every state that can be reached.
pub fn explore(world: World, weakness: Option<Weakness>) -> Explored {
    let mut search = Search::new(world, weakness);
    let mut next = 0;
    while let Some(state) = search.states.get_index(next).cloned() {
        if search.breaks(&state) {
            return Explored { states: search.states.len(), story: Some(search.story(next)) };
        }
        search.expand(next, &state);
        next += 1;
    }
    Explored { states: search.states.len(), story: None }
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Pass,
    Poll,
    Kill,
    Start,
    Ask { which: usize },
    Hear,
    Expire,
    Listen,
    Admit,
    Claim,
    HandOver,
    GiveUp,
    Store,
    StoreOrphan,
    BeginMove,
    Prepare,
    KeeperLooks,
    KeeperWrites,
}

const ACTIONS: [Action; 19] = [
    Action::Pass,
    Action::Poll,
    Action::Kill,
    Action::Start,
    Action::Ask { which: 0 },
    Action::Ask { which: 1 },
    Action::Hear,
    Action::Expire,
    Action::Listen,
    Action::Admit,
    Action::Claim,
    Action::HandOver,
    Action::GiveUp,
    Action::Store,
    Action::StoreOrphan,
    Action::BeginMove,
    Action::Prepare,
    Action::KeeperLooks,
    Action::KeeperWrites,
];

struct Search {
    world: World,
    weakness: Option<Weakness>,
    rules: Rules,
    /// In the order in which they were reached.
    states: IndexSet<State>,
    /// How each state was first reached.
    from: Vec<Option<(usize, Action)>>,
}

impl Search {
    fn new(world: World, weakness: Option<Weakness>) -> Self {
        let rules = Rules::from_the_product();
        let mut search = Self { world, weakness, rules, states: IndexSet::new(), from: Vec::new() };
        search.reach(State::first(), None);
        search
    }

    fn reach(&mut self, state: State, from: Option<(usize, Action)>) {
        if self.states.insert(state) {
            self.from.push(from);
        }
    }

    fn expand(&mut self, number: usize, state: &State) {
        for action in ACTIONS {
            let mut next = state.clone();
            if self.act(&mut next, action) {
                next.settle();
                self.reach(next, Some((number, action)));
            }
        }
    }

    fn is_weak(&self, weakness: Weakness) -> bool {
        self.weakness == Some(weakness)
    }

    /// Whether both nodes serve.
    fn breaks(&self, state: &State) -> bool {
        let other = matches!(state.registry.record.stage, Stage::Lost | Stage::Moved);
        other && state.agent.carries && !self.is_cut(state.agent)
    }

    /// Whether the agent has cut what it carries because its node's tenure is over.
    fn is_cut(&self, agent: Agent) -> bool {
        let looks = !self.is_weak(Weakness::NoTenure) && !self.is_weak(Weakness::NoFence);
        looks && agent.tenure <= NOW
    }

    fn story(&self, mut number: usize) -> Vec<String> {
        let mut actions = Vec::new();
        while let Some((before, action)) = self.from[number] {
            actions.push(action);
            number = before;
        }
        actions.reverse();
        let tell = |alike: &[Action]| match alike {
            [Action::Pass, ..] => format!("{:.1} s go by", alike.len() as f64 * STEP.as_secs_f64()),
            [action, ..] => action.to_string(),
            [] => unreachable!("there are no empty chunks"),
        };
        actions.chunk_by(|one, next| one == next && *one == Action::Pass).map(tell).collect()
    }

    /// Does it; whether it could be done.
    fn act(&self, state: &mut State, action: Action) -> bool {
        match action {
            Action::Pass => self.pass(state),
            Action::Poll => self.poll(state),
            Action::Kill => state.kill(),
            Action::Start => state.start(),
            Action::Ask { which } => self.ask(state, which),
            Action::Hear => state.hear(),
            Action::Expire => self.expire(state),
            Action::Listen => self.listen(state),
            Action::Admit => self.admit(state),
            Action::Claim => self.claim(state),
            Action::HandOver => self.hand_over(state),
            Action::GiveUp => self.give_up(state),
            Action::Store => self.store(state),
            Action::StoreOrphan => self.store_orphan(state),
            Action::BeginMove => self.change(state, Op::BeginMove, None),
            Action::Prepare => self.change(state, Op::Prepare, None),
            Action::KeeperLooks => self.keeper_looks(state),
            Action::KeeperWrites => self.keeper_writes(state),
        }
    }

    // --- time ---

    /// Half a second goes by.
    fn pass(&self, state: &mut State) -> bool {
        let by = STEP * self.world.node / 100;
        if let Some(daemon) = &mut state.daemon {
            daemon.lease = daemon.lease.rebased(by, NOW);
        }
        state.agent.tenure = state.agent.tenure - by;
        state.agent.next = state.agent.next.map(|next| next - by);
        if let Some(left) = &mut state.registry.node {
            *left = left.saturating_sub(STEP * self.world.registry / 100);
        }
        true
    }

    // --- node 0 ---

    /// The daemon runs for a moment.
    fn poll(&self, state: &mut State) -> bool {
        let Some(mut daemon) = state.daemon.take() else { return false };
        while let Some(effect) = daemon.lease.poll(NOW) {
            match effect {
                Effect::Grant(_) => {
                    state.post(self.world.late, Question { is_grant: true, is_bound: false, is_awaited: true });
                }
                Effect::Renew(_) => {
                    state.post(
                        self.world.late,
                        Question { is_grant: false, is_bound: daemon.is_bound, is_awaited: true },
                    );
                }
                Effect::Serve if daemon.works => {}
                Effect::Serve => (daemon.works, daemon.knows, daemon.serves) = (true, None, false),
                // What is carried is the agents', who see for themselves.
                Effect::Fence => {}
                Effect::Stop => {
                    (daemon.works, daemon.knows, daemon.serves) = (false, None, false);
                    state.give_up_waiting();
                    if !self.is_weak(Weakness::NoFence) {
                        state.agent.carries = false;
                    }
                    daemon.lease.handle_stopped(NOW);
                }
            }
        }
        let until = daemon.lease.holds_until();
        if until > Instant::ZERO {
            *state.agent.next.as_mut().unwrap_or(&mut state.agent.tenure) = until;
        }
        state.daemon = Some(daemon);
        true
    }

    fn holds(&self, daemon: &Daemon) -> bool {
        daemon.works && (daemon.lease.holds(NOW) || self.is_weak(Weakness::NoFence))
    }

    /// News of the instance reaches the daemon.
    fn listen(&self, state: &mut State) -> bool {
        let (record, owes_claim) = (state.registry.record, state.owes_claim && !self.is_weak(Weakness::NoClaim));
        let Some(daemon) = state.daemon.as_mut().filter(|daemon| daemon.works) else { return false };
        let is_known = daemon.knows.is_some_and(|knows| knows.generation == record.generation);
        let is_first = daemon.knows.is_none();
        daemon.knows = Some(record);
        daemon.serves = record.stage.is_mine() && ((is_first && !owes_claim) || (is_known && daemon.serves));
        true
    }

    /// The gateway dials, and is let in.
    fn admit(&self, state: &mut State) -> bool {
        let Some(daemon) = state.daemon.as_ref().filter(|daemon| self.holds(daemon)) else { return false };
        let Some(knows) = daemon.knows else { return false };
        let may = daemon.serves && self.rules.may_serve(knows);
        let agent = Agent { carries: true, tenure: state.agent.next.unwrap_or(state.agent.tenure), next: None };
        let is_new = may && agent != state.agent && !self.is_cut(agent);
        if is_new {
            state.agent = agent;
        }
        is_new
    }

    fn claim(&self, state: &mut State) -> bool {
        let owes_claim = state.owes_claim;
        let Some(daemon) = state.free_daemon(|daemon| self.holds(daemon)) else { return false };
        let Some(knows) = daemon.knows.filter(|knows| owes_claim && knows.stage.is_mine()) else { return false };
        daemon.serves = false;
        state.write = Some(Write { op: Op::Claim, generation: knows.generation, is_current: false });
        true
    }

    /// As the source: fences itself and its agent, and then gives the instance away.
    fn hand_over(&self, state: &mut State) -> bool {
        let Some(daemon) = state.free_daemon(|daemon| self.holds(daemon)) else { return false };
        let Some(knows) = daemon.knows.filter(|knows| knows.stage == Stage::Prepared) else { return false };
        if !daemon.serves {
            return false;
        }
        daemon.serves = false;
        if !self.is_weak(Weakness::NoCut) {
            state.agent.carries = false;
        }
        state.write = Some(Write { op: Op::Commit, generation: knows.generation, is_current: false });
        true
    }

    fn give_up(&self, state: &mut State) -> bool {
        let Some(daemon) = state.free_daemon(|daemon| self.holds(daemon)) else { return false };
        let moving = [Stage::Prepares, Stage::Prepared];
        let Some(knows) = daemon.knows.filter(|knows| moving.contains(&knows.stage)) else { return false };
        state.write = Some(Write { op: Op::GiveUp, generation: knows.generation, is_current: false });
        true
    }

    // --- the store ---

    /// A question about the lease arrives and is answered.
    fn ask(&self, state: &mut State, which: usize) -> bool {
        if which >= state.questions.len() {
            return false;
        }
        let question = state.questions.remove(which);
        let has_lapsed = state.registry.node.is_none_or(|left| left.is_zero());
        let answer = if question.is_grant {
            // A record that is still there is bound anew: the node was never away for anybody.
            if state.registry.node.is_none() {
                state.owes_claim = true;
                state.agent.begin_tenure(self.is_weak(Weakness::OneTenure));
            }
            state.registry.node = Some(TTL);
            state.unbind();
            Answer::Granted
        } else if question.is_bound && !has_lapsed {
            state.registry.node = Some(TTL);
            Answer::Renewed
        } else {
            Answer::Lapsed
        };
        if question.is_awaited {
            state.answer = Some(answer);
        }
        true
    }

    /// Node 0's record goes with its lease. It may go as soon as the lease lapses within the coming step.
    fn expire(&self, state: &mut State) -> bool {
        let step = STEP * self.world.registry / 100;
        let lapses = state.registry.node.is_some_and(|left| left <= step);
        if lapses {
            state.registry.node = None;
        }
        lapses
    }

    /// A write of node 0 goes one step on: the daemon reads the record, or the store swaps what was read for what the step
    /// makes of it and answers. A daemon that stands still is one to which nothing happens after.
    fn store(&self, state: &mut State) -> bool {
        let Some(write) = state.write.take() else { return false };
        let mut record = state.registry.record;
        let may = self.rules.apply(&mut record, write.op, Some(write.generation));
        if may && !write.is_current {
            state.write = Some(Write { is_current: true, ..write });
            return true;
        }
        if may {
            self.change(state, write.op, Some(write.generation));
        }
        state.owes_claim &= !(may && write.op == Op::Claim);
        let daemon = state.daemon.as_mut().expect("who waits for a write lives");
        daemon.knows = Some(record);
        daemon.serves = record.stage.is_mine() && !state.owes_claim;
        true
    }

    /// The store takes a write that nobody waits for any more.
    fn store_orphan(&self, state: &mut State) -> bool {
        let Some(op) = state.orphan.take() else { return false };
        self.change(state, op, Some(state.registry.record.generation));
        true
    }

    // --- the keeper ---

    /// The keeper reads the instance's record, and then looks for the node's.
    fn keeper_looks(&self, state: &mut State) -> bool {
        let is_absent = state.registry.node.is_none() || self.is_weak(Weakness::NoLook);
        let may = !state.keeper_looked && is_absent && state.registry.record.stage.is_mine();
        state.keeper_looked |= may;
        may
    }

    fn keeper_writes(&self, state: &mut State) -> bool {
        state.keeper_looked && self.change(state, Op::Lose, Some(state.registry.record.generation))
    }

    /// Swaps the record for what a step makes of it; whether it may be taken. Who has read the record before has read an
    /// old one now.
    fn change(&self, state: &mut State, op: Op, meant: Option<u64>) -> bool {
        let is_done = self.rules.apply(&mut state.registry.record, op, meant);
        if is_done {
            state.keeper_looked = false;
            state.orphan = None;
            if let Some(write) = &mut state.write {
                write.is_current = false;
            }
        }
        is_done
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "time goes by",
            Self::Poll => "the daemon runs for a moment",
            Self::Kill => "the daemon is killed",
            Self::Start => "the daemon is started",
            Self::Ask { .. } => "a question about the lease arrives",
            Self::Hear => "the daemon hears the answer",
            Self::Expire => "the lease lapses, and the node's record is removed",
            Self::Listen => "the daemon hears of the instance's record",
            Self::Admit => "a gateway is let in, and its connection handed to the agent",
            Self::Claim => "the daemon asks to claim the instance",
            Self::HandOver => "the daemon fences the instance, and asks to give it away",
            Self::GiveUp => "the daemon asks to give the move up",
            Self::Store => "the daemon's write goes one step on",
            Self::StoreOrphan => "the store takes a write of a daemon that does not wait for it any more",
            Self::BeginMove => "a move is asked for",
            Self::Prepare => "the target of the move is ready",
            Self::KeeperLooks => "the keeper looks for the node's record",
            Self::KeeperWrites => "the keeper calls the instance lost, and the other node has it",
        })
    }
}
