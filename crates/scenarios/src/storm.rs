//! Random faults on a whole cell, drawn from a seed and told as they happen.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::time::sleep;

use crate::cell::Cell;
use crate::instance::Instance;

/// How long a node's network says nothing, at most: short of what makes a link count as dead.
const HOLD_MAX_MS: u64 = 300;

/// A source of faults.
#[derive(Debug)]
pub struct Storm {
    random: SmallRng,
    /// Whether nodes are killed and started again, which takes the machine's time.
    pub kills_nodes: bool,
    faults: usize,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Every link of a node is reset.
    Cut,
    /// One link of a node is reset.
    CutOne,
    /// Every link of a node ends in order.
    End,
    /// A node's network passes nothing on for a while.
    Hold(u64),
    /// A node's daemon is killed and started again.
    Kill,
    /// An instance moves to the other node.
    Move,
}

impl Storm {
    /// The storm of a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), kills_nodes: true, faults: 0 }
    }

    /// Brings about so many faults, with pauses between them of `pause` on average.
    ///
    /// # Panics
    ///
    /// The cell has no node.
    pub async fn rages(&mut self, cell: &mut Cell, instances: &[Instance], faults: usize, pause: Duration) {
        while self.faults < faults {
            sleep(pause.mul_f64(self.random.random_range(0.0..2.0))).await;
            let node = self.random.random_range(0..cell.nodes.len());
            let fault = self.draw(cell.nodes.len());
            if self.strikes(cell, instances, node, fault).await {
                self.faults += 1;
                println!("fault {}: {fault:?} at {}", self.faults, cell.nodes[node].name);
            }
        }
    }

    fn draw(&mut self, nodes: usize) -> Fault {
        match self.random.random_range(0..20) {
            0..=6 => Fault::CutOne,
            7..=11 => Fault::Cut,
            12..=13 => Fault::End,
            14..=15 => Fault::Hold(self.random.random_range(1..HOLD_MAX_MS)),
            16 if self.kills_nodes => Fault::Kill,
            17..=19 if nodes > 1 => Fault::Move,
            _ => Fault::Cut,
        }
    }

    /// Brings the fault about; `false` if there was nothing to strike.
    async fn strikes(&mut self, cell: &mut Cell, instances: &[Instance], node: usize, fault: Fault) -> bool {
        let struck = &mut cell.nodes[node];
        match fault {
            Fault::Cut => struck.network.cut(),
            Fault::CutOne => return struck.network.cut_one(&mut self.random),
            Fault::End => struck.network.fin(),
            Fault::Hold(millis) => {
                struck.network.hold();
                sleep(Duration::from_millis(millis)).await;
                struck.network.release();
            }
            Fault::Kill => struck.restart().await,
            Fault::Move => {
                let instance = &instances[self.random.random_range(0..instances.len())];
                let target = format!("/v1/instances/{}/move", instance.id);
                let answer = instance.operator.ask("POST", &target, Some(&json!({"node": struck.name}))).await;
                // It may be there already, or just be moving.
                return answer.status / 100 == 2;
            }
        }
        true
    }
}
