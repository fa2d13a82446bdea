//! Section 5 of the specification of sessions: what a test must show, as far as terminals and commands go. What the
//! other sections show already (an evicted range, a refusal before the upgrade) is not shown again.

use std::time::Duration;

use landfast_scenarios::cell::{Cell, eventually};
use landfast_scenarios::conversation::{Conversation, Talk};
use landfast_scenarios::direct;
use landfast_scenarios::leaks::{Footprint, returns_to, threads_return_to};
use landfast_scenarios::plain::PlainClient;
use landfast_scenarios::seed::seed;
use landfast_scenarios::storm::Storm;
use serde_json::json;
use tokio::time::{interval, sleep};

// --- 1: no byte lost, doubled or reordered ---

async fn a_hundred_faults_change_no_byte(terminal: bool) {
    let seed = seed();
    let mut cell = Cell::with_two_nodes().await;
    let instance = cell.create().await;
    let talk = Talk { seed, bytes: 4 << 20, over: Duration::from_secs(15), terminal };
    let conversation = Conversation::start(&instance, talk).await;
    let mut storm = Storm::new(seed);
    let instances = [instance];
    tokio::join!(conversation.ends_well(), storm.rages(&mut cell, &instances, 100, Duration::from_millis(100)));
}

#[tokio::test]
async fn a_hundred_faults_change_no_byte_of_a_command() {
    a_hundred_faults_change_no_byte(false).await;
}

#[tokio::test]
async fn a_hundred_faults_change_no_byte_of_a_terminal() {
    a_hundred_faults_change_no_byte(true).await;
}

#[tokio::test]
async fn twenty_sessions_in_a_storm_are_all_whole() {
    let seed = seed();
    let mut cell = Cell::with_two_nodes().await;
    let instances = [cell.create().await, cell.create().await, cell.create().await, cell.create().await];
    let mut talks = tokio::task::JoinSet::new();
    for number in 0..20 {
        let talk = Talk {
            seed: seed + 2 * number,
            bytes: 256 << 10,
            over: Duration::from_secs(10),
            terminal: number % 2 == 0,
        };
        let conversation = Conversation::start(&instances[number as usize % 4], talk).await;
        talks.spawn(conversation.ends_well());
    }
    Storm::new(seed).rages(&mut cell, &instances, 50, Duration::from_millis(150)).await;
    while let Some(ended) = talks.join_next().await {
        ended.expect("a session ends well");
    }
}

// --- 2: input and output during the gap ---

#[tokio::test]
async fn no_keystroke_is_lost_at_ten_milliseconds_spacing() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.terminal("stty raw -echo; echo set; cat").await.attach("start").await;
    viewer.shows("set").await;
    let mut ticks = interval(Duration::from_millis(10));
    let mut typed = String::new();
    for key in 0..300 {
        ticks.tick().await;
        if key % 25 == 10 {
            cell.cut_links();
        }
        let letter = char::from(b'a' + (key % 26) as u8);
        typed.push(letter);
        viewer.types(&letter.to_string()).await;
    }
    viewer.shows(&typed).await;
}

#[tokio::test]
async fn output_produced_during_the_gap_arrives_once_and_in_order() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.command("read x; seq 1 100000; echo END").await.attach("start").await;
    viewer.types("go\n").await;
    viewer.shows("\n10\n").await;
    let network = &cell.node_ref("a").network;
    network.refuse(true);
    network.cut();
    sleep(Duration::from_millis(500)).await;
    network.refuse(false);
    viewer.exits(0).await;
    let expected: String = (1..=100_000).map(|i| format!("{i}\n")).chain(["END\n".to_owned()]).collect();
    assert!(viewer.text() == expected, "{} bytes instead of {}", viewer.output.len(), expected.len());
}

// --- 3: exits ---

#[tokio::test]
async fn an_exit_during_the_gap_is_delivered_once_with_its_code() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("read x; echo last words; exit 42").await;
    let mut viewer = process.attach("now").await;
    viewer.goes_live().await;
    let network = &cell.node_ref("a").network;
    network.refuse(true);
    network.cut();
    direct::attach(&cell, &process, "from=now").await.types("\n").await;
    sleep(Duration::from_millis(300)).await;
    network.refuse(false);
    viewer.exits(42).await;
    assert_eq!(viewer.text(), "last words\n");
}

#[tokio::test]
async fn the_exit_of_a_process_whose_agent_was_killed_is_unknown_and_never_zero() {
    let cell = Cell::start().await;
    let instance = cell.create_with(&json!({"spec": {"restart": "always"}})).await;
    let process = instance.command("sleep 100").await;
    instance.kill_agent();
    eventually("the agent is back", async || (instance.record().await["generation"] == 2).then_some(())).await;
    instance.comes_to("running").await;
    let record = process.record().await;
    assert_eq!((record["state"].as_str(), record["exit"].is_null()), (Some("unknown"), true), "{record}");
}

// --- 4: a shell that exits ---

#[tokio::test]
async fn a_shell_that_exits_says_so_and_does_not_flap() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let mut viewer = instance.terminal("sh").await.attach("start").await;
    viewer.types("exit 3\n").await;
    viewer.exits(3).await;
}

#[tokio::test]
async fn a_refused_session_leaves_nothing_behind() {
    let cell = Cell::for_counting().await;
    let (instance, other) = (cell.create().await, cell.create().await);
    let process = other.command("cat").await;
    let before = cell.gateway.settled().await;
    for _ in 0..50 {
        // A process of another instance is as unknown here as one that never was.
        let foreign = instance.upgrade(&format!("/processes/{}/attach?from=now", process.id));
        let refusal = PlainClient::open(&foreign).await.expect_err("refused");
        assert_eq!(refusal.refusal(), (404, "process.unknown".to_owned()));
    }
    returns_to(cell.gateway.pid(), before, Duration::from_secs(2)).await;
}

// --- 5: beside one another ---

#[tokio::test]
async fn a_stalled_viewer_holds_back_only_itself() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let process = instance.command("read x; head -c 40000000 /dev/zero; printf END; read y").await;
    let mut upgrade = process.upgrade("from=now");
    upgrade.receive_buffer = Some(4096);
    let stalled = PlainClient::open(&upgrade).await.expect("attached");
    let mut healthy = process.attach("now").await;
    healthy.goes_live().await;
    let agent = instance.agent();
    let before = Footprint::of(agent).resident;
    healthy.types("\n").await;
    healthy.shows("END").await;
    let after = Footprint::of(agent).resident;
    assert!(after.saturating_sub(before) < 64 << 20, "the agent grew from {before} to {after} bytes");
    drop(stalled);
}

#[tokio::test]
async fn two_clients_of_one_instance_do_not_disturb_each_other() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let (mut one, mut other) =
        (instance.command("cat").await.attach("now").await, instance.command("cat").await.attach("now").await);
    for round in 0..50 {
        one.types(&format!("one {round}\n")).await;
        other.types(&format!("other {round}\n")).await;
    }
    one.shows("one 49\n").await;
    other.shows("other 49\n").await;
    assert!(!one.text().contains("other") && !other.text().contains("one"));
}

// --- 8: nothing is left behind ---

#[tokio::test]
async fn after_two_thousand_sessions_nothing_is_left() {
    let cell = Cell::for_counting().await;
    let instance = cell.create().await;
    let process = instance.command("cat").await;
    let round = async |sessions: usize| {
        for batch in 0..sessions / 20 {
            let mut viewers = Vec::new();
            for _ in 0..20 {
                viewers.push(process.attach("now").await);
            }
            if batch % 10 == 0 {
                cell.cut_links();
            }
            // A half of them says good-bye; the other half is just gone.
            for (number, mut viewer) in viewers.into_iter().enumerate() {
                if number % 2 == 0 {
                    viewer.socket.send_close(1000, "").await;
                } else {
                    viewer.socket.vanish();
                }
            }
        }
    };
    // What is kept for reuse is there after the first sessions.
    round(100).await;
    let roles = [instance.agent(), cell.gateway.pid(), cell.node_ref("a").role.pid()];
    sleep(Duration::from_secs(2)).await;
    let before: Vec<_> = roles.iter().map(|pid| Footprint::of(*pid)).collect();
    round(2_000).await;
    for (pid, before) in roles.into_iter().zip(before) {
        let after = returns_to(pid, before, Duration::from_secs(5)).await;
        threads_return_to(pid, before, Duration::from_secs(5)).await;
        let grown = after.resident.saturating_sub(before.resident);
        assert!(grown < 8 << 20, "process {pid} grew by {grown} bytes: {before:?} {after:?}");
    }
}

// --- 9: moves ---

#[tokio::test]
async fn twenty_moves_in_a_row_during_a_burst_change_no_byte() {
    let seed = seed();
    let cell = Cell::with_two_nodes().await;
    let instance = cell.create().await;
    let talk = Talk { seed, bytes: 4 << 20, over: Duration::from_secs(8), terminal: true };
    let conversation = Conversation::start(&instance, talk).await;
    let moving = async {
        for node in cell.route_of(&instance, 20).await {
            instance.moves_to(node).await;
        }
    };
    tokio::join!(conversation.ends_well(), moving);
}

#[tokio::test]
async fn what_was_said_while_it_moved_and_nobody_watched_is_there_afterwards() {
    let cell = Cell::with_two_nodes().await;
    let instance = cell.create().await;
    let process = instance.command("i=0; while [ $i -lt 100 ]; do echo $i; i=$((i+1)); sleep 0.02; done").await;
    let (_, there) = cell.place_of(&instance).await;
    instance.moves_to(there).await;
    let mut viewer = process.attach("start").await;
    viewer.exits(0).await;
    assert_eq!(viewer.text(), (0..100).map(|i| format!("{i}\n")).collect::<String>());
}
