//! Verbs about what an instance goes through, and of whoever runs the cell.

use serde_json::Value;

use crate::cell::{Cell, bare};

/// What `get` says of an instance.
fn get(cell: &Cell, id: &str) -> Value {
    cell.run(&["get", id, "-o", "json"]).json()
}

#[test]
fn an_external_instance_is_made_moved_shown_and_deleted() {
    let cell = Cell::start();
    let made = cell.run(&["create", "--external", "web=127.0.0.1:80", "--external-agent", "127.0.0.1:9", "-o", "json"]);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    assert_eq!((made.code, &made.json()["phase"]), (0, &Value::from("running")), "{made:?}");
    let shown = cell.run(&["get", &id]).out;
    assert!(
        shown.contains("external") && shown.contains("web 127.0.0.1:80") && shown.contains("127.0.0.1:9"),
        "{shown}"
    );
    assert!(cell.run(&["ls"]).out.contains("web"));
    assert!(cell.run(&["services", &id]).out.contains("127.0.0.1:80"));

    let early = cell.run(&["external", "commit", &id]);
    assert!(early.code == 1 && early.err.contains("move.refused") && early.err.contains("move/begin"), "{early:?}");
    assert_eq!(cell.run(&["external", "begin", &id]).out.trim(), format!("{id} is moving, generation 1"));
    assert_eq!(cell.run(&["external", "abort", &id]).out.trim(), format!("{id} is running, generation 1"));
    cell.run(&["external", "begin", &id]);
    let moved = cell.run(&["external", "commit", &id, "--service", "web=127.0.0.2:80", "-o", "json"]).json();
    assert_eq!(
        (&moved["generation"], &moved["spec"]["services"]["web"]["address"]),
        (&2.into(), &"127.0.0.2:80".into())
    );
    let refused = cell.run(&["sleep", &id]);
    assert!(refused.code == 1 && refused.err.contains("sleep.refused"), "{refused:?}");
    assert_eq!(cell.run(&["rm", &id]).code, 0);
    assert_eq!(get(&cell, &id)["phase"], "deleted");
}

#[test]
fn what_an_instance_cannot_be_is_said_by_its_fields_name() {
    let cell = Cell::start();
    for (arguments, hint) in [
        (&["create", "actor"][..], "exactly one service"),
        (&["create", "--idle-timeout", "0"], "spec.idle_timeout"),
        (&["create", "--external", "web=nowhere"], "spec.services.web.address"),
        (&["create", "--service", "web=80:x", "--ready-path", "up"], "spec.services.web.ready.path"),
    ] {
        let ran = cell.run(arguments);
        assert!(ran.code == 2 && ran.err.contains(hint), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn a_drained_node_is_given_nothing_and_whoever_waits_is_told_why() {
    let cell = Cell::start();
    let nodes = cell.run(&["node", "ls", "-o", "json"]).json();
    let name = nodes["items"][0]["name"].as_str().unwrap().to_owned();
    assert_eq!(cell.run(&["node", "drain", &name]).out.trim(), name);
    assert!(cell.run(&["node", "ls"]).out.contains("draining"));
    let waiting = cell.run(&["create", "--wait", "3", "-o", "json"]);
    assert!(waiting.code == 1 && waiting.err.contains("is draining"), "{waiting:?}");
    let id = waiting.json()["id"].as_str().unwrap().to_owned();
    assert!(cell.run(&["get", &id]).out.contains("is draining"));
    let unknown = cell.run(&["node", "drain", "nowhere"]);
    assert!(unknown.code == 1 && unknown.err.contains("node.unknown"), "{unknown:?}");
    assert_eq!(cell.run(&["node", "undrain", &name]).code, 0);
    assert_eq!(cell.run(&["create"]).code, 0);
}

#[test]
fn a_key_is_made_shown_once_used_and_taken_back() {
    let cell = Cell::start();
    let made = cell.run(&["key", "create", "ci", "-o", "json"]).json();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let listed = cell.run(&["--api-key", key, "key", "ls", "-o", "json"]);
    assert!(!listed.out.contains(key));
    let items = listed.json()["items"].clone();
    assert_eq!(
        (&items[1]["name"], &items[1]["current"], &items[0]["current"]),
        (&"ci".into(), &true.into(), &false.into())
    );
    let first = items[0]["id"].as_str().unwrap();
    assert_eq!(cell.run(&["key", "rm", id]).out.trim(), id);
    assert!(cell.run(&["--api-key", key, "ls"]).err.contains("auth.invalid"));
    let last = cell.run(&["key", "rm", first]);
    assert!(last.code == 1 && last.err.contains("key.last"), "{last:?}");
}

#[test]
fn what_is_hidden_is_not_completed() {
    for shell in ["bash", "zsh", "fish"] {
        let script = bare(&["completion", shell]).out;
        assert!(!script.contains("demo-peer") && !script.contains("demo__peer"), "{shell}");
        assert!(
            script.contains("undrain") && script.contains("idle-timeout") && script.contains("no-color"),
            "{shell}"
        );
    }
}

/// A program that is a server in a line, and remembers what it was told on disk.
const COUNTS: &str = "echo x >> starts; exec python3 -m http.server --bind 127.0.0.1 $PORT";

#[test]
fn an_actor_sleeps_on_request_and_wakes_with_its_files_and_without_its_memory() {
    let cell = Cell::start();
    let service = format!("web={}:{COUNTS}", free_port());
    let made = cell.run(&["create", "actor", "--service", &service, "--idle-timeout", "3600", "-o", "json"]).json();
    let id = made["id"].as_str().unwrap();
    assert!(cell.run(&["get", id]).out.contains("after 3600 s without traffic"));
    assert!(cell.run(&["services", id]).out.contains("web"));
    assert_eq!(started(&cell, id, 1), 0);
    let asleep = cell.run(&["sleep", id, "-o", "json"]);
    assert_eq!((asleep.code, &asleep.json()["phase"]), (0, &"sleeping".into()), "{asleep:?}");
    let listed = cell.run(&["services", id, "-o", "json"]).json();
    assert_eq!((&listed["items"][0]["name"], &listed["items"][0]["status"]), (&"web".into(), &Value::Null));
    assert_eq!(get(&cell, id)["phase"], "sleeping", "looking wakes nobody");
    let awake = cell.run(&["wake", id, "-o", "json"]);
    assert_eq!((awake.code, &awake.json()["generation"]), (0, &2.into()), "{awake:?}");
    assert_eq!(started(&cell, id, 2), 0);
}

#[test]
fn a_command_wakes_what_sleeps() {
    let cell = Cell::start();
    let id = cell.create();
    assert_eq!(cell.run(&["exec", &id, "--", "sh", "-c", "echo kept > file"]).code, 0);
    assert_eq!(cell.run(&["sleep", &id]).out.trim(), id);
    assert_eq!(cell.run(&["exec", &id, "--", "cat", "file"]).out, "kept\n");
    assert_eq!(get(&cell, &id)["generation"], 2);
}

#[test]
fn what_happens_in_an_instance_is_shown_also_after_its_end_and_what_its_service_says() {
    let cell = Cell::start();
    let service = format!("web={}:echo started; echo trouble >&2; {COUNTS}", free_port());
    let made = cell.run(&["create", "actor", "--service", &service, "-o", "json"]).json();
    let id = made["id"].as_str().unwrap();
    assert_eq!(started(&cell, id, 1), 0);
    let said = cell.run(&["logs", id]);
    assert!(said.code == 0 && said.out.starts_with("started\n") && said.err.starts_with("trouble\n"), "{said:?}");
    let said = cell.run(&["logs", id, "web", "--from", "2", "-o", "json"]).out;
    let first: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    // Which of its two pipes is read first is nobody's promise.
    let text = first["text"].as_str().unwrap();
    assert!(first["offset"] == 2 && ["arted\n", "ouble\n"].contains(&text), "{first}");
    let events = cell.run(&["events", id, "--type", "instance_started,api_call"]).out;
    assert!(events.lines().next().unwrap().contains("instance_started") && events.contains("/processes"), "{events}");
    assert_eq!(cell.run(&["rm", id]).code, 0);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let events = cell.run(&["events", id, "-o", "json"]);
        let kinds =
            events.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["event"]["type"].clone());
        if kinds.into_iter().any(|kind| kind == "instance_stopping") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{events:?}");
    }
}

/// Waits until the service was started so often; fails if it was more often.
fn started(cell: &Cell, id: &str, times: u32) -> i32 {
    let wait = "until [ $(wc -l < starts) -ge $0 ]; do sleep 0.05; done 2>/dev/null; [ $(wc -l < starts) -eq $0 ]";
    cell.run(&["exec", id, "--", "sh", "-c", wait, &times.to_string()]).code
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
