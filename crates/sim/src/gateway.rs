//! A gateway: what it knows of routes. Its ends of sessions are in [`crate::holder`].

use std::collections::{BTreeSet, HashMap};

use landfast_core::InstanceId;
use landfast_core::route::{Effect, Lookup, RouteView};

use crate::Sabotage;
use crate::clock::{Clock, SECOND};
use crate::fact::Fact;
use crate::stage::{Event, Stage, Who, Write};
use crate::store::{Answer, News, Op};

/// See the module.
#[derive(Debug)]
pub(crate) struct Gateway {
    me: usize,
    pub(crate) up: bool,
    pub(crate) clock: Clock,
    view: RouteView,
    asks: HashMap<u64, InstanceId>,
    /// The instances that it is about to wake.
    wakes: HashMap<u64, InstanceId>,
    watch: u64,
    listed: bool,
    /// Instances of which news came that their sessions have not heard yet.
    news: BTreeSet<InstanceId>,
    /// It was told of an empty store, and believes it.
    pub(crate) believes_in_nothing: bool,
}

impl Gateway {
    pub(crate) fn new(me: usize, clock: Clock, stage: &mut Stage) -> Self {
        let mut gateway = Self {
            me,
            up: false,
            clock,
            view: RouteView::new(),
            asks: HashMap::new(),
            wakes: HashMap::new(),
            watch: 0,
            listed: false,
            news: BTreeSet::new(),
            believes_in_nothing: false,
        };
        gateway.start(stage);
        gateway
    }

    /// Its process starts, knowing nothing.
    pub(crate) fn start(&mut self, stage: &mut Stage) {
        self.up = true;
        self.view = RouteView::new();
        self.asks.clear();
        self.wakes.clear();
        self.news.clear();
        self.listed = false;
        self.subscribe(stage);
    }

    pub(crate) fn handle(&mut self, stage: &mut Stage, event: Event) {
        if !self.up {
            return;
        }
        match event {
            Event::Wake if !self.listed => self.subscribe(stage),
            Event::Wake => {}
            Event::Answer { ask, answer } => self.handle_answer(stage, ask, *answer),
            Event::News { watch, news } if watch == self.watch => self.handle_news(stage, *news),
            Event::News { .. } => {}
            other => unreachable!("not for a gateway: {other:?}"),
        }
        self.run(stage);
    }

    /// Where an instance is, as far as the gateway knows; it asks if it does not.
    pub(crate) fn lookup(&mut self, stage: &mut Stage, id: InstanceId) -> Lookup {
        let found = self.view.lookup(id, self.clock.read(stage.now));
        self.run(stage);
        if let Lookup::Known(route) = &found {
            stage.note(Fact::Routed { gateway: self.me, instance: id, generation: route.generation });
        }
        found
    }

    /// The view itself, for what a node has said about a route.
    pub(crate) fn view(&mut self) -> &mut RouteView {
        &mut self.view
    }

    /// Wakes an instance, once for all who want something of it.
    pub(crate) fn rouse(&mut self, stage: &mut Stage, id: InstanceId) {
        if !self.wakes.values().any(|waking| *waking == id) {
            let ask = stage.request(Who::Gateway(self.me), Op::Write(id, Write::DesireAwake));
            self.wakes.insert(ask, id);
        }
    }

    /// The instances of which there is news since this was last asked.
    pub(crate) fn take_news(&mut self) -> BTreeSet<InstanceId> {
        std::mem::take(&mut self.news)
    }

    fn subscribe(&mut self, stage: &mut Stage) {
        self.watch += 1;
        stage.subscribe(Who::Gateway(self.me), self.watch);
        stage.wake(Who::Gateway(self.me), Some(stage.now + 2 * SECOND));
    }

    fn handle_news(&mut self, stage: &Stage, news: News) {
        let now = self.clock.read(stage.now);
        stage.remark(Who::Gateway(self.me), || format!("hears {}", news.summary()));
        match news {
            News::Instances { records: instances, revision } => {
                self.listed = true;
                self.believes_in_nothing =
                    instances.is_empty() && stage.config.sabotage == Some(Sabotage::BelieveAnEmptyListing);
                self.view.handle_snapshot(instances.iter().map(|(record, at)| (record, *at)), revision, now);
            }
            News::Instance { id, record, revision } => self.view.handle_change(id, record.as_deref(), revision, now),
            News::Nodes(_) | News::Node { .. } | News::Back => {}
        }
    }

    fn handle_answer(&mut self, stage: &mut Stage, ask: u64, answer: Answer) {
        if let Some(id) = self.wakes.remove(&ask) {
            if matches!(answer, Answer::Failed) {
                self.rouse(stage, id);
            }
            return;
        }
        let Some(id) = self.asks.remove(&ask) else { return };
        let now = self.clock.read(stage.now);
        match answer {
            Answer::Record(record) => {
                let record = record.as_ref().map(|(record, revision)| (&**record, *revision));
                self.view.handle_answer(id, record, now);
            }
            _ => self.view.handle_ask_failed(id, now),
        }
    }

    fn run(&mut self, stage: &mut Stage) {
        let now = self.clock.read(stage.now);
        while let Some(effect) = self.view.poll(now) {
            match effect {
                Effect::Ask(id) => {
                    let ask = stage.request(Who::Gateway(self.me), Op::Read(id));
                    self.asks.insert(ask, id);
                }
                Effect::Changed(id) => {
                    self.news.insert(id);
                }
            }
        }
        stage.wake(Who::Gateway(self.me), self.view.next_deadline().map(|at| self.clock.when(at)));
    }
}
