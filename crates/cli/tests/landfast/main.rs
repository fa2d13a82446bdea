//! The program as its user has it: a cell of its own, commands as processes, exit codes and what they print.

mod cell;
mod control;
mod encrypted;
mod files;
mod terminal;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cell::{Cell, PATIENCE, Ran, bare, finish};
use crate::terminal::Terminal;

#[test]
fn the_exit_code_and_both_outputs_pass_through() {
    let cell = Cell::start();
    let id = cell.create();
    let ran = cell.run(&["exec", &id, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(cell.run(&["exec", &id, "--", "sh", "-c", "kill -9 $$"]).code, 137);
}

#[test]
fn pipes_pass_every_byte_and_their_end() {
    let cell = Cell::start();
    let id = cell.create();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut child = cell.command(&["exec", "-i", &id, "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let (mut input, said) = (child.stdin.take().unwrap(), bytes.clone());
    let writer = std::thread::spawn(move || input.write_all(&said).unwrap());
    let mut heard = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut heard).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(heard == bytes, "{} bytes came back of {}", heard.len(), bytes.len());
}

#[test]
fn a_command_waits_for_a_slow_reader_as_in_a_pipe() {
    let cell = Cell::start();
    let id = cell.create();
    let mut child = cell.command(&["exec", &id, "--", "head", "-c", "64000000", "/dev/zero"]).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut first = [0];
    output.read_exact(&mut first).unwrap();
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    assert_eq!((rest.len() + 1, finish(&mut child)), (64_000_000, 0));
}

#[test]
fn a_reader_that_goes_ends_the_command_as_in_a_pipe() {
    let cell = Cell::start();
    let id = cell.create();
    let mut child = cell.command(&["exec", &id, "--", "yes"]).spawn().unwrap();
    let mut some = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    assert_eq!(finish(&mut child), 141);
    let processes = cell.run(&["attach", &id]);
    assert!(processes.err.contains("Nothing runs"), "{processes:?}");
}

#[test]
fn what_cannot_be_done_says_why_and_what_to_do_and_has_its_own_exit_code() {
    let cell = Cell::start();
    let id = cell.create();
    let no_such = "ins_00000000000000000000000000";
    for (arguments, code, hint) in [
        (&["exec", &id, "--", "no-such-command"][..], 127, "no-such-command"),
        (&["exec", &id], 2, "-t for a shell"),
        (&["get", no_such], 1, "instance.unknown"),
        (&["get", "nonsense"], 2, "ins_"),
        (&["move", &id, "nowhere"], 1, "node ls"),
        (&["--url", "http://127.0.0.1:1", "ls"], 255, "landfast up"),
        (&["--url", "ftp://127.0.0.1", "ls"], 2, "http://"),
        (&["--api-key", "wrong", "ls"], 1, "auth.invalid"),
    ] {
        let ran = cell.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(hint) && ran.out.is_empty(), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn a_command_outlives_the_cells_own_process() {
    let mut cell = Cell::start();
    let id = cell.create();
    let script = "for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.2; done; cat; exit 5";
    let mut child = cell.command(&["exec", "-i", &id, "--", "sh", "-c", script]).stdin(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    let said = cell.restart();
    assert!(said.contains("1 instance goes on running"), "{said}");
    assert!(cell.screen().contains("taken back"), "{}", cell.screen());
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), finish(&mut child)), ("2\n3\n4\n5\n6\n7\n8\n9\ntyped\n", 5));
}

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let cell = Cell::start();
    let other = tempfile::tempdir().unwrap();
    let ran = bare(&["up", "--data", &other.path().join("data").display().to_string(), "--listen", cell.address()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("listen.in_use") && ran.err.contains("port 0") && ran.out.is_empty(), "{ran:?}");
}

#[test]
fn a_key_that_no_role_knows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("landfast.toml");
    std::fs::write(&file, "[gateway]\nlisten = '127.0.0.1:0'\nthreads = 3\n").unwrap();
    let (data, file) = (dir.path().join("data").display().to_string(), file.display().to_string());
    let ran = bare(&["gateway", "--data", &data, "--config", &file]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("unknown field `threads`") && ran.err.contains(&file), "{ran:?}");
}

#[test]
fn a_role_says_one_line_when_it_is_ready_and_stops_on_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let mut child = cell::landfast(&["api", "--data", &data]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let address = line.strip_prefix("ready api ").unwrap().trim();
    assert!(address.parse::<std::net::SocketAddr>().is_ok(), "{line}");
    cell::signal(&child, Signal::SIGTERM);
    assert_eq!(finish(&mut child), 0);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn a_log_that_takes_nothing_stops_nothing() {
    let cell = Cell::start();
    // A disk that is full, as far as the log knows.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = cell.command(&["gateway", "--listen", "127.0.0.1:0"]);
    let mut gateway = command.env("LANDFAST_LOG", "info").stderr(full).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(gateway.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready gateway "), "{line}");
    cell::signal(&gateway, Signal::SIGTERM);
    assert_eq!(finish(&mut gateway), 0);
}

#[test]
fn programs_read_json() {
    let cell = Cell::start();
    let created: Value = cell.run(&["create", "--label", "team=x", "-o", "json"]).json();
    let id = created["id"].as_str().unwrap();
    assert_eq!((created["phase"].as_str(), created["labels"]["team"].as_str()), (Some("running"), Some("x")));
    assert_eq!(cell.run(&["ls", "-o", "json"]).json()["items"].as_array().unwrap().len(), 1);
    assert_eq!(cell.run(&["node", "ls", "-o", "json"]).json()["items"].as_array().unwrap().len(), 1);
    let status = cell.run(&["status", "-o", "json"]).json();
    assert_eq!((status["healthy"].as_bool(), status["instances"]["running"].as_u64()), (Some(true), Some(1)));
    let token = cell.run(&["token", "create", id, "--ttl", "60", "--scope", "process", "-o", "json"]).json();
    assert_eq!(cell.run(&["token", "revoke", token["id"].as_str().unwrap()]).code, 0);
    assert_eq!(cell.run(&["rm", id]).out.trim(), id);
    assert_eq!(cell.run(&["get", id, "-o", "json"]).json()["desired"], "deleted");
}

#[test]
fn attach_finds_the_only_process_and_lists_more_than_one() {
    let cell = Cell::start();
    let id = cell.create();
    let waits = ["exec", "-i", &id, "--", "sh", "-c", "echo here; read line; echo got $line"];
    let mut first = cell.command(&waits).stdin(Stdio::piped()).spawn().unwrap();
    let mut here = [0; 5];
    let mut out = first.stdout.take().unwrap();
    out.read_exact(&mut here).unwrap();
    let mut viewer = cell.command(&["attach", &id]).stdin(Stdio::piped()).spawn().unwrap();
    let mut seen = viewer.stdout.take().unwrap();
    seen.read_exact(&mut here).unwrap();
    assert_eq!(&here, b"here\n");
    let mut second = cell.command(&waits).stdin(Stdio::piped()).spawn().unwrap();
    second.stdout.take().unwrap().read_exact(&mut here).unwrap();
    let ran = cell.run(&["attach", &id]);
    assert!(ran.code == 2 && ran.err.matches("prc_").count() == 2, "{ran:?}");
    // Whoever types, all see it.
    viewer.stdin.take().unwrap().write_all(b"word\n").unwrap();
    for mut out in [out, seen] {
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "got word\n");
    }
    assert_eq!((finish(&mut first), finish(&mut viewer)), (0, 0));
    drop(second.stdin.take());
    finish(&mut second);
}

#[test]
fn a_terminal_has_the_size_of_ours_and_follows_it() {
    let cell = Cell::start();
    let id = cell.create();
    let mut terminal = Terminal::run(cell.command(&["exec", "-t", "-e", "PS1=go> ", &id, "--", "sh"]), 30, 100);
    terminal.wait_for("go> ");
    assert!(terminal.is_raw());
    terminal.type_in("stty size\r");
    terminal.wait_for("30 100");
    terminal.resize(40, 120);
    terminal.type_in("sleep 0.2; stty size\r");
    terminal.wait_for("40 120");
    terminal.type_in("exit 3\r");
    assert_eq!(terminal.finish(), 3);
    assert!(!terminal.is_raw());
}

#[test]
fn every_way_out_gives_the_terminal_back() {
    let cell = Cell::start();
    let id = cell.create();
    type Way = (fn(&mut Terminal), i32);
    let ways: [Way; 4] = [
        (|terminal| terminal.type_in("\r~."), 255),
        (|terminal| terminal.type_in("\r~d"), 0),
        (|terminal| terminal.signal(Signal::SIGTERM), 143),
        (|terminal| terminal.signal(Signal::SIGHUP), 129),
    ];
    for (leave, code) in ways {
        let mut terminal = Terminal::run(cell.command(&["exec", "-t", "-e", "PS1=go> ", &id, "--", "sh"]), 24, 80);
        terminal.wait_for("go> ");
        terminal.type_in("printf '\\033[?1049h\\033[?2004h%s' in''side\r");
        terminal.wait_for("inside");
        leave(&mut terminal);
        assert_eq!(terminal.finish(), code, "{}", terminal.seen());
        assert!(!terminal.is_raw());
        let undone = terminal.seen().rfind("\u{1b}[?1049l").zip(terminal.seen().rfind("\u{1b}[?1049h"));
        assert!(undone.is_some_and(|(off, on)| off > on), "{}", terminal.seen());
    }
}

#[test]
fn a_shell_that_was_left_is_found_again_with_its_screen() {
    let cell = Cell::start();
    let id = cell.create();
    let mut terminal = Terminal::run(cell.command(&["exec", "-t", "-e", "PS1=go> ", &id, "--", "sh"]), 24, 80);
    terminal.wait_for("go> ");
    terminal.type_in("echo re''member\r");
    terminal.wait_for("remember");
    terminal.type_in("\r~d");
    assert_eq!(terminal.finish(), 0);
    assert!(terminal.seen().contains(&format!("landfast attach {id} prc_")), "{}", terminal.seen());
    let mut terminal = Terminal::run(cell.command(&["attach", &id]), 24, 80);
    terminal.wait_for("remember");
    terminal.type_in("exit 4\r");
    assert_eq!(terminal.finish(), 4);
}

#[test]
fn a_terminal_that_missed_what_is_on_the_screen_is_redrawn() {
    let cell = Cell::start();
    let id = cell.create();
    // A head line stands while seven megabytes scroll below it; four are kept.
    let script = "printf '\\033[2;24r\\033[1;1HHEAD LINE\\033[2;1H'; until [ -e go ]; do sleep 0.1; done
        yes $(printf %070d 0) | head -n 100000; echo the end; touch done; read x";
    let mut starter = Terminal::run(cell.command(&["exec", "-t", &id, "--", "sh", "-c", script]), 24, 80);
    starter.wait_for("HEAD LINE");
    let mut viewer = Terminal::run(cell.command(&["attach", &id]), 24, 80);
    viewer.wait_for("HEAD LINE");
    starter.type_in("~d");
    assert_eq!(starter.finish(), 0);
    viewer.signal(Signal::SIGSTOP);
    cell.run(&["exec", &id, "--", "sh", "-c", "touch go; until [ -e done ]; do sleep 0.1; done"]);
    viewer.signal(Signal::SIGCONT);
    viewer.wait_for("HEAD LINE");
    viewer.wait_for("the end");
    viewer.type_in("\r");
    assert_eq!(viewer.finish(), 0);
}

#[test]
fn a_lost_cell_is_told_in_the_title_and_taken_back_when_it_returns() {
    let mut cell = Cell::start();
    let id = cell.create();
    let mut terminal = Terminal::run(cell.command(&["exec", "-t", "-e", "PS1=go> ", &id, "--", "sh"]), 24, 80);
    terminal.wait_for("go> ");
    cell.stop();
    terminal.wait_for("\u{1b}]2;landfast: reconnecting");
    terminal.type_in("echo ty''ped\r");
    cell.start_again();
    terminal.wait_for("\u{1b}[23;2t");
    terminal.wait_for("typed");
    terminal.type_in("exit\r");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn beside_plain_output_a_lost_cell_is_a_line_that_goes_away() {
    let mut cell = Cell::start();
    let id = cell.create();
    let script = "echo begun; read line; echo got $line";
    let mut terminal = Terminal::run(cell.command(&["exec", "-i", &id, "--", "sh", "-c", script]), 24, 80);
    terminal.wait_for("begun");
    assert!(!terminal.is_raw());
    cell.stop();
    terminal.wait_for("landfast: reconnecting, attempt");
    cell.start_again();
    terminal.wait_for("\r\u{1b}[K");
    terminal.type_in("word\r");
    terminal.wait_for("got word");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn completion_scripts_name_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = bare(&["completion", shell]);
        assert!(ran.code == 0 && ran.out.contains("attach") && ran.out.contains("network"), "{shell}: {}", ran.err);
    }
}

#[test]
fn the_demo_loses_nothing() {
    let mut command: Command = cell::landfast(&["demo", "--seconds", "4", "-o", "json"]);
    let Ran { code, out, err } = Ran::of(&mut command, PATIENCE * 3);
    assert_eq!(code, 0, "{out}\n{err}");
    let count: Value = serde_json::from_str(&out).unwrap();
    for nothing in ["lost", "doubled", "client_closes"] {
        assert_eq!(count[nothing], 0, "{count}");
    }
    for something in ["cuts", "node_restarts", "moves", "gateway_restarts", "bytes_up", "bytes_down"] {
        assert!(count[something].as_u64() > Some(0), "{something}: {count}");
    }
}
