//! The two sides of a move.
//!
//! Both nodes are on one host and the agent stays where it is: what moves is the right to reach it. The target first
//! finds that it can (`prepared`). The source then lets nothing through any more and only after that gives the next
//! generation away, in one compare-and-swap; the target, woken by that write, tells the agent and opens its door. Every
//! step follows from the record, so either side may die and come back anywhere in between.

use landfast_core::lifecycle;
use landfast_core::{ErrorCode, NodeId};
use landfast_registry::records;
use tracing::{debug, info, warn};

use crate::agent::Agent;
use crate::instance::{Next, Task};

impl Task {
    /// As the target: says that it can take over, or that it cannot, and why. The source gives up if neither is heard.
    pub(crate) async fn prepare(&mut self) -> Next {
        let (id, generation, me) = (self.record().id, self.record().generation, self.ctx.me);
        if self.agent.is_none() {
            self.agent = match Agent::find(&self.ctx.driver.dir(id), id) {
                Ok(Some(agent)) => Some(agent),
                Ok(None) => return self.decline("The target node does not find the agent on its host.").await,
                Err(error) => {
                    warn!(instance = %id, %error, "an agent that is to move here cannot be looked for");
                    return self.decline("The target node cannot look for the agent.").await;
                }
            };
        }
        let Some(agent) = &self.agent else { return Next::Retry };
        if let Err(error) = agent.check(generation).await {
            self.agent = None;
            return self.decline(&format!("The target node cannot reach the agent: {error}.")).await;
        }
        self.write(|instance| lifecycle::prepared(instance, me, generation)).await
    }

    /// As the target: the source need not wait for what will not come.
    async fn decline(&mut self, why: &str) -> Next {
        let (id, me, generation) = (self.record().id, self.ctx.me, self.record().generation);
        warn!(instance = %id, why, "a move to this node is declined");
        self.write(|instance| lifecycle::decline_move(instance, me, generation, why)).await
    }

    /// As the source: fences, then gives the instance away. Until the store has answered, the door stays shut.
    pub(crate) async fn hand_over(&mut self) -> Next {
        let Some(to) = self.record().moving.as_ref().map(|moving| moving.to) else { return Next::Retry };
        // Read before the door is shut: from then on every millisecond is the client's.
        let target = match records::node(&*self.ctx.store, to).await {
            Ok(Some((target, _))) => target,
            Ok(None) => return self.give_up("The target node was lost.").await,
            Err(error) => {
                debug!(instance = %self.record().id, %error, "the target of a move could not be read");
                return Next::Retry;
            }
        };
        if let Err(stuck) = self.place.shut(ErrorCode::InstanceMoving).await {
            warn!(instance = %self.record().id, stuck, "a move waits for connections to end");
            return Next::Retry;
        }
        if self.fence_agent().await == Next::Retry {
            return Next::Retry;
        }
        let (id, me, generation) = (self.record().id, self.ctx.me, self.record().generation);
        let next = self.write(|instance| lifecycle::commit_move(instance, me, generation, &target)).await;
        if next == Next::Again {
            log_handed_over(id, to);
        }
        next
    }

    /// As the source: the instance stays here.
    pub(crate) async fn give_up(&mut self, why: &str) -> Next {
        let (id, me, generation) = (self.record().id, self.ctx.me, self.record().generation);
        warn!(instance = %id, why, "a move is given up");
        self.write(|instance| lifecycle::give_up_move(instance, me, generation, why)).await
    }
}

fn log_handed_over(id: landfast_core::InstanceId, to: NodeId) {
    info!(instance = %id, %to, "an instance was handed over");
}
