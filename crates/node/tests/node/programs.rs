//! The programs that the tests run as processes of their own: this test executable, started again.
//!
//! Each is an ignored test, and what follows `--` are its arguments, which the test runner takes for names of tests that
//! do not exist. So they are always of the same build as the tests.

use std::path::Path;

use landfast_net::role::CancellationToken;
use landfast_node::{Config, Isolation};
use landfast_registry::cell::Cell;

/// The command that runs one of the programs.
pub(crate) fn command(program: &str) -> Vec<String> {
    let own = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    [own.as_str(), &format!("programs::{program}"), "--exact", "--ignored", "--nocapture", "--"]
        .map(str::to_owned)
        .into()
}

/// What follows `--`; `None` if nothing does.
fn arguments() -> Option<Vec<String>> {
    let arguments: Vec<String> = std::env::args().skip_while(|argument| argument != "--").skip(1).collect();
    (!arguments.is_empty()).then_some(arguments)
}

#[test]
#[ignore = "a program that other tests start"]
fn agent() {
    let Some(arguments) = arguments() else { return };
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr);
    log.with_ansi(false).init();
    let config = landfast_agent::Config::from_arguments(arguments).expect("the node's arguments");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(landfast_agent::run(config, CancellationToken::new())).expect("an agent");
}

/// `DATA NAME`
#[test]
#[ignore = "a program that other tests start"]
fn node() {
    let Some(arguments) = arguments() else { return };
    let [data, name] = arguments.as_slice() else { panic!("DATA NAME, not {arguments:?}") };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let cell = Cell::open(Path::new(data)).expect("the data directory");
        let config = Config {
            data: data.into(),
            name: name.clone(),
            isolation: Isolation::Bubblewrap,
            agent_command: command("agent"),
            ..Config::default()
        };
        let store = cell.store().expect("the store");
        let running = landfast_node::start(config, cell.credential().clone(), store, CancellationToken::new()).await;
        running.expect("the node").done.await.expect("its end");
    });
}
