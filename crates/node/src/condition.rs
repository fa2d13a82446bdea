//! How a node's agents are, for whoever looks for a broken leg: each is asked, some at a time, with little patience.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use landfast_core::InstanceId;
use landfast_core::netcheck::{AgentsCondition, NAMED_MAX};
use tokio::time::{Instant, timeout, timeout_at};

use crate::agent::Agent;
use crate::dir::InstanceDir;

/// How long one agent may take: it answers in a millisecond unless its machine has nothing left.
const AGENT_WITHIN: Duration = Duration::from_secs(1);

/// How long all of them may take together: whoever has asked waits no longer.
const ALL_WITHIN: Duration = Duration::from_millis(2500);

/// How many are asked at once.
const AT_ONCE: usize = 32;

/// Asks the agents of these instances whether they are there.
pub(crate) async fn of_agents(data: &Path, instances: Vec<InstanceId>) -> AgentsCondition {
    let (count, deadline) = (instances.len(), Instant::now() + ALL_WITHIN);
    let mut condition = AgentsCondition::default();
    let asked = stream::iter(instances).map(async |id| (id, answers(data, id).await)).buffer_unordered(AT_ONCE);
    let mut asked = std::pin::pin!(asked);
    while let Ok(Some((id, does_answer))) = timeout_at(deadline, asked.next()).await {
        if does_answer {
            condition.answering += 1;
            continue;
        }
        condition.silent += 1;
        if condition.named.len() < NAMED_MAX {
            condition.named.push(id);
        }
    }
    condition.not_asked = count - condition.answering - condition.silent;
    condition
}

async fn answers(data: &Path, id: InstanceId) -> bool {
    let Ok(Some(agent)) = Agent::find(&InstanceDir::new(data, id), id) else { return false };
    matches!(timeout(AGENT_WITHIN, agent.idle()).await, Ok(Ok(_)))
}
