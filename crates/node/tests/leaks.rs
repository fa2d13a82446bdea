//! What is left behind, counted over a whole process: so the test has one to itself.

#![allow(dead_code, reason = "the harness serves another suite too")]

#[path = "node/harness.rs"]
mod harness;
#[path = "node/programs.rs"]
mod programs;

use landfast_core::record::{Generation, Instance};
use landfast_net::relay::Target;
use tokio::net::TcpListener;

use crate::harness::{TestCell, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_ten_thousand_connections() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = Target::Port(listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let stale = Instance { generation: Generation(0), ..instance.clone() };
    let before = open_files();
    for _ in 0..1_000 {
        // Used and ended by either side, refused, and dropped at once: ten connections in all.
        let (ports, agents) = tokio::join!(
            futures_util::future::join_all((0..4).map(|_| cell.dial(&instance, port))),
            futures_util::future::join_all((0..4).map(|_| cell.dial(&instance, Target::Agent))),
        );
        let refused = tokio::join!(cell.dial(&stale, port), cell.dial(&stale, Target::Agent));
        for dialled in ports.into_iter().chain(agents) {
            dialled.unwrap();
        }
        assert!(refused.0.is_err() && refused.1.is_err());
    }
    eventually("all have ended", async || node.running.counts.inside() + node.running.counts.carried() == 0).await;
    eventually("all are closed", async || open_files() <= before + 8).await;
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
