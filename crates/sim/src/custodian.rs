//! The keeper's shell: gives it the watch, and its steps to the store.

use std::collections::{BTreeSet, HashMap};

use landfast_core::InstanceId;
use landfast_core::keeper::{Keeper, Step};

use crate::Sabotage;
use crate::clock::{Clock, MILLI, SECOND};
use crate::stage::{Event, Stage, Who, Write};
use crate::store::{Answer, News, Op};

/// See the module.
#[derive(Debug)]
pub(crate) struct Custodian {
    clock: Clock,
    keeper: Keeper,
    watch: u64,
    listed: bool,
    asks: HashMap<u64, Asked>,
}

#[derive(Debug)]
enum Asked {
    /// Whether the node on whose absence a step rests is absent.
    IsAbsent(Step),
    Write(InstanceId),
}

impl Custodian {
    pub(crate) fn new(clock: Clock, stage: &mut Stage) -> Self {
        let keeper = Keeper::new(clock.read(stage.now));
        let mut custodian = Self { clock, keeper, watch: 0, listed: false, asks: HashMap::new() };
        custodian.start(stage);
        custodian
    }

    /// The API server with the keeper starts, knowing nothing.
    pub(crate) fn start(&mut self, stage: &mut Stage) {
        let now = self.clock.read(stage.now);
        self.keeper = Keeper::new(now);
        self.keeper.handle_drains(BTreeSet::new(), now);
        self.asks.clear();
        self.listed = false;
        self.subscribe(stage);
    }

    pub(crate) fn handle(&mut self, stage: &mut Stage, event: Event) {
        match event {
            Event::Wake if !self.listed => self.subscribe(stage),
            Event::Wake => {}
            Event::Answer { ask, answer } => self.handle_answer(stage, ask, &answer),
            // It is no watch that tells this, but that one broke.
            Event::News { watch, news } if watch == self.watch || matches!(*news, News::Back) => {
                self.handle_news(stage, *news);
            }
            Event::News { .. } => {}
            other => unreachable!("not for the keeper: {other:?}"),
        }
        self.run(stage);
    }

    fn subscribe(&mut self, stage: &mut Stage) {
        self.watch += 1;
        stage.subscribe(Who::Keeper, self.watch);
        stage.wake(Who::Keeper, Some(stage.now + 2 * SECOND));
    }

    fn handle_answer(&mut self, stage: &mut Stage, ask: u64, answer: &Answer) {
        let Some(asked) = self.asks.remove(&ask) else { return };
        match (asked, answer) {
            (Asked::IsAbsent(step), Answer::Absent(true)) => self.write(stage, step),
            (Asked::IsAbsent(Step { instance: id, .. }), _) | (Asked::Write(id), Answer::Refused | Answer::Failed) => {
                self.keeper.handle_refused(id, self.clock.read(stage.now));
            }
            // The watch tells.
            (Asked::Write(_), _) => {}
        }
    }

    fn take(&mut self, stage: &mut Stage, step: Step) {
        // A look hides a missing claim nearly always: to show what a claim is for, there is none.
        let does_not_look = [Some(Sabotage::CallLostFromHearsay), Some(Sabotage::ServeWithoutAClaim)];
        if does_not_look.contains(&stage.config.sabotage) {
            return self.write(stage, step);
        }
        let ask = stage.request(Who::Keeper, Op::IsAbsent(step.clone()));
        self.asks.insert(ask, Asked::IsAbsent(step));
    }

    fn write(&mut self, stage: &mut Stage, step: Step) {
        let id = step.instance;
        let ask = stage.request(Who::Keeper, Op::Write(id, Write::Keeper(step)));
        self.asks.insert(ask, Asked::Write(id));
    }

    fn handle_news(&mut self, stage: &mut Stage, news: News) {
        let now = self.clock.read(stage.now);
        match news {
            News::Instances { records, .. } => {
                self.listed = true;
                self.keeper.handle_instances(records.iter().map(|(record, _)| record), now);
            }
            News::Back => {
                if stage.config.sabotage != Some(Sabotage::BlameTheNodes) {
                    self.keeper.handle_in_touch(now);
                }
                // What it heard late, it hears from the beginning.
                self.subscribe(stage);
            }
            News::Nodes(nodes) => self.keeper.handle_nodes(nodes, now),
            News::Instance { id, record, .. } => self.keeper.handle_instance(id, record.as_deref(), now),
            News::Node { id, record } => self.keeper.handle_node(id, record.map(|node| *node), now),
        }
    }

    fn run(&mut self, stage: &mut Stage) {
        let now = self.clock.read(stage.now);
        while let Some(step) = self.keeper.poll(now, stage.now / MILLI) {
            self.take(stage, step);
        }
        stage.wake(Who::Keeper, self.keeper.next_deadline().map(|at| self.clock.when(at)));
    }
}
