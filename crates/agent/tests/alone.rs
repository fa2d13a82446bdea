//! An agent that has its process to itself. It is started as one: this test runs its own executable again.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use landfast_agent::{Config, run};
use tokio_util::sync::CancellationToken;

const ARGUMENTS: &str = "LANDFAST_TEST_ARGUMENTS";

/// The agent's process, as the command line makes it.
#[test]
fn agent() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let config = Config::from_arguments(arguments.split('\n').map(str::to_owned)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(config, CancellationToken::new())).unwrap();
}

struct Alone {
    dir: tempfile::TempDir,
    child: Child,
}

impl Alone {
    fn start() -> Self {
        let once = r#"{"shell":"sleep 0.2; exit 5","port":1,"restart":"never"}"#;
        Self::start_with(&format!(r#"{{"env":{{"A":"b c"}},"services":{{"once":{once}}}}}"#), None)
    }

    /// An agent with this spec, as this user if not as ours.
    fn start_with(spec_text: &str, user: Option<u32>) -> Self {
        Self::start_as(spec_text, user, |_| Vec::new())
    }

    /// An agent behind a command, which is told where its home is.
    fn start_within(before: impl FnOnce(&str) -> Vec<String>) -> Self {
        Self::start_as("{}", None, before)
    }

    fn start_as(spec_text: &str, user: Option<u32>, before: impl FnOnce(&str) -> Vec<String>) -> Self {
        let dir = tempfile::Builder::new().prefix("lf").tempdir().unwrap();
        let path = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, user, user).unwrap();
            path.to_str().unwrap().to_owned()
        };
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let id = landfast_net::random::instance_id().to_string();
        let spec = dir.path().join("spec.json").to_str().unwrap().to_owned();
        std::fs::write(&spec, spec_text).unwrap();
        let arguments = [
            ["--instance", &id],
            ["--generation", "1"],
            ["--run", &path("run")],
            ["--state", &path("state")],
            ["--home", &path("home")],
            ["--spec", &spec],
        ];
        let mut line = before(&path_in(&dir, "home"));
        line.push(std::env::current_exe().unwrap().to_str().unwrap().to_owned());
        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .args(["--exact", "agent", "--nocapture"])
            .env(ARGUMENTS, arguments.as_flattened().join("\n"));
        if let Some(user) = user {
            command.uid(user).gid(user).env("HOME", dir.path().join("home"));
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let alone = Self { dir, child };
        eventually("it listens", || alone.ask("GET", "/processes", "").map(drop));
        alone
    }

    /// Asks with one connection, and returns the answer's body.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<String> {
        let mut socket = UnixStream::connect(self.dir.path().join("run/agent.sock")).ok()?;
        let len = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n{body}"
        )
        .ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    fn exec(&self, shell: &str) -> serde_json::Value {
        let body = serde_json::json!({"shell": shell}).to_string();
        serde_json::from_str(&self.ask("POST", "/exec", &body).unwrap()).unwrap()
    }

    /// The processes whose parent the agent is, with their states.
    fn children(&self) -> Vec<(i32, char)> {
        let agent = self.child.id().to_string();
        let pids =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let child = |pid: i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(") ")?.1.split(' ');
            let state = fields.next()?.chars().next()?;
            (fields.next()? == agent).then_some((pid, state))
        };
        pids.filter_map(child).collect()
    }

    /// A number of kilobytes, or of what else the kernel counts of the agent.
    fn field(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The browser, once this start of it is up.
    fn browser(&self, start: u64) -> serde_json::Value {
        eventually("the browser is up", || {
            let browser: serde_json::Value = serde_json::from_str(&self.ask("GET", "/browser", "")?).unwrap();
            (browser["state"] == "up" && browser["start"] == start).then_some(browser)
        })
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path_in(dir: &tempfile::TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn orphans_are_taken_in_and_no_zombie_stays_and_no_exit_is_lost() {
    let alone = Alone::start();
    // Each leaves five orphans in sessions of their own, that end at different times.
    let orphans = "for i in 1 2 3 4 5; do (setsid sh -c \"sleep 0.$i\" >/dev/null 2>&1 &); done; exit";
    for code in 0..20 {
        assert_eq!(alone.exec(&format!("{orphans} {code}"))["exit"]["code"], code);
    }
    let service = eventually("the service ends", || {
        alone.ask("GET", "/services", "").filter(|service| !service.contains(r#""exit":null"#))
    });
    assert!(service.contains(r#""state":"failed""#) && service.contains(r#""exit":{"code":5}"#), "{service}");
    eventually("nothing is left", || alone.children().is_empty().then_some(()));
}

#[test]
fn a_hang_up_means_nothing_and_a_process_does_not_inherit_that() {
    let alone = Alone::start();
    alone.signal(nix::sys::signal::Signal::SIGHUP);
    assert_eq!(alone.exec("echo $A; kill -HUP $$; echo survived")["exit"]["signal"], 1);
}

#[test]
fn its_processes_have_the_descriptors_that_it_was_started_with() {
    let usual = Command::new("sh").args(["-c", "ulimit -n"]).output().unwrap().stdout;
    assert_eq!(Alone::start().exec("ulimit -n")["stdout"].as_str().unwrap().as_bytes(), usual);
}

#[test]
fn its_processes_do_not_outlive_it() {
    let mut alone = Alone::start();
    alone.ask("POST", "/processes", r#"{"argv":["sleep","1000"]}"#).unwrap();
    let children = alone.children();
    assert!(!children.is_empty());
    alone.child.kill().unwrap();
    alone.child.wait().unwrap();
    let lives = |(pid, _): &(i32, char)| std::path::Path::new(&format!("/proc/{pid}")).exists();
    eventually("they are gone", || (!children.iter().any(lives)).then_some(()));
}

#[test]
fn a_termination_is_an_orderly_end() {
    let mut alone = Alone::start();
    alone.ask(
        "POST",
        "/processes",
        r#"{"shell":"trap 'echo told > told; exit 0' TERM; echo set > set; while :; do sleep 0.05; done"}"#,
    );
    eventually("it is set", || alone.dir.path().join("home/set").exists().then_some(()));
    alone.signal(nix::sys::signal::Signal::SIGTERM);
    let status = eventually("it ends", || alone.child.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(alone.dir.path().join("home/told").exists());
}

#[test]
fn an_agent_is_small() {
    let alone = Alone::start();
    for _ in 0..50 {
        alone.ask("POST", "/processes", r#"{"argv":["sleep","1000"]}"#).unwrap();
    }
    let (kib, threads) = (alone.field("VmRSS"), alone.field("Threads"));
    // The test harness itself has a thread, and one brings events to disk; a debug build is some megabytes.
    assert!(kib < 40_000 && threads <= 3, "{kib} KiB, {threads} threads");
}

#[test]
fn a_large_file_comes_and_goes_in_little_memory() {
    const LEN: usize = 200 << 20;
    let alone = Alone::start();
    let connect = || UnixStream::connect(alone.dir.path().join("run/agent.sock")).unwrap();
    let piece: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let before = alone.field("VmRSS");
    let mut socket = connect();
    write!(socket, "PUT /files/content?path=large HTTP/1.1\r\nhost: a\r\ncontent-length: {LEN}\r\n\r\n").unwrap();
    for _ in 0..LEN / piece.len() {
        socket.write_all(&piece).unwrap();
    }
    assert!(read_head(&mut socket).starts_with("HTTP/1.1 201"));
    for (path, skipped) in [("content?path=large", 0), ("tree?path=large", 512)] {
        let mut socket = connect();
        write!(socket, "GET /files/{path} HTTP/1.0\r\nhost: a\r\n\r\n").unwrap();
        assert!(read_head(&mut socket).starts_with("HTTP/1.0 200"));
        socket.read_exact(&mut vec![0; skipped]).unwrap();
        let mut read = vec![0; piece.len()];
        for _ in 0..LEN / piece.len() {
            socket.read_exact(&mut read).unwrap();
            assert!(read == piece, "every byte is as it was");
        }
    }
    let peak = alone.field("VmHWM");
    eprintln!("{before} KiB before, {peak} KiB at most");
    assert!(peak < before + 16_384, "{before} KiB before, {peak} KiB at most");
}

#[test]
fn a_disk_that_is_full_costs_no_file() {
    const ROOM: usize = 4 << 20;
    let sandbox = ["bwrap", "--die-with-parent", "--dev-bind", "/", "/"];
    if !Command::new(sandbox[0]).args(&sandbox[1..]).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("no disk can be made full here: bubblewrap does not work");
        return;
    }
    let alone = Alone::start_within(|home| {
        let room = ROOM.to_string();
        [&sandbox[..], &["--size", &room, "--tmpfs", home]].concat().into_iter().map(str::to_owned).collect()
    });
    let old = "old".repeat(1000);
    alone.ask("PUT", "/files/content?path=f", &old).unwrap();
    for (path, body) in [("content?path=f", "x".repeat(ROOM + 1)), ("content?path=g", "x".repeat(2 * ROOM))] {
        let refused = alone.ask("PUT", &format!("/files/{path}"), &body).unwrap();
        assert!(refused.contains(r#""code":"file.no_space""#), "{refused}");
    }
    assert_eq!(alone.ask("GET", "/files/content?path=f", "").unwrap(), old);
    let listed = alone.ask("GET", "/files/list?path=.", "").unwrap();
    assert!(listed.contains(r#""name":"f""#) && !listed.contains("landfast-"), "{listed}");
}

/// The head of an answer, and not a byte more.
fn read_head(socket: &mut UnixStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A user that is not root, and that nobody is.
const NOBODY: u32 = 54_321;

#[test]
fn a_browser_of_somebody_who_is_not_root_has_its_own_sandbox_wherever_the_kernel_lets_it() {
    let is_root = nix::unistd::geteuid().is_root();
    let alone = Alone::start_with(r#"{"browser":{}}"#, is_root.then_some(NOBODY));
    let browser = alone.browser(1);
    let may =
        Command::new("unshare").args(["--user", "--pid", "--net", "true"]).uid(alone.field("Uid") as u32).status();
    assert_eq!(browser["sandbox"]["enabled"], may.unwrap().success(), "{browser}");
    let line = std::fs::read(format!("/proc/{}/cmdline", browser["pid"])).unwrap();
    let is_off = line.split(|&byte| byte == 0).any(|word| word == b"--no-sandbox");
    assert_eq!(is_off, browser["sandbox"]["reason"].is_string());
}

#[test]
fn browsers_that_die_leave_no_zombies() {
    let alone = Alone::start_with(r#"{"browser":{}}"#, None);
    for start in 1..=3 {
        let browser = alone.browser(start);
        let pid = nix::unistd::Pid::from_raw(browser["pid"].as_i64().unwrap() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    let last = alone.browser(4)["pid"].as_i64().unwrap() as i32;
    // Its crash handlers detach themselves, and become the agent's.
    eventually("no zombie is left", || {
        let children = alone.children();
        assert!(children.iter().any(|(pid, _)| *pid == last), "{children:?}");
        children.iter().all(|(_, state)| *state != 'Z').then_some(())
    });
}

#[test]
fn a_long_message_to_a_slow_client_passes_in_little_memory() {
    const LEN: usize = 100 << 20;
    let alone = Alone::start_with(r#"{"browser":{}}"#, None);
    alone.browser(1);
    let list: serde_json::Value = serde_json::from_str(&alone.ask("GET", "/json/list", "").unwrap()).unwrap();
    let page = list.as_array().unwrap().iter().find(|target| target["type"] == "page").unwrap();
    let mut socket = UnixStream::connect(alone.dir.path().join("run/agent.sock")).unwrap();
    let wish = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    write!(socket, "GET /devtools/page/{} HTTP/1.1\r\nHost: a\r\n{wish}\r\n\r\n", page["id"].as_str().unwrap())
        .unwrap();
    let expression = format!("'x'.repeat({LEN})");
    let call =
        serde_json::json!({"id": 1, "method": "Runtime.evaluate", "params": {"expression": expression}}).to_string();
    // Masked with zeros: the text stands as it is.
    let frame = [&[0x81, 0x80 | call.len() as u8, 0, 0, 0, 0], call.as_bytes()].concat();
    assert!(call.len() < 126);
    let head = read_head(&mut socket);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let before = alone.field("VmRSS");
    socket.write_all(&frame).unwrap();
    let (mut header, mut read) = ([0; 10], 0);
    socket.read_exact(&mut header).unwrap();
    assert_eq!(header[..2], [0x81, 127], "one frame of more than 64 KiB");
    let len = u64::from_be_bytes(header[2..].try_into().unwrap()) as usize;
    assert!(len > LEN);
    // The client stands still until the agent does.
    let mut last = 0;
    let held = eventually("the agent stands still", || {
        std::thread::sleep(Duration::from_millis(50));
        let present = alone.field("VmRSS");
        (std::mem::replace(&mut last, present) == present).then_some(present)
    });
    let mut piece = vec![0; 1 << 20];
    while read < len {
        let n = socket.read(&mut piece).unwrap();
        assert!(n > 0, "it was cut");
        read += n;
    }
    let peak = alone.field("VmHWM");
    eprintln!("{before} KiB before, {held} KiB while the client stood still, {peak} KiB at most");
    assert!(held < before + 4_096 && peak < before + 8_192);
}
