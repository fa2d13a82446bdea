//! An agent that has its process to itself. It is started as one: this test runs its own executable again.

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
        let dir = tempfile::Builder::new().prefix("lf").tempdir().unwrap();
        let path = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let id = landfast_net::random::instance_id().to_string();
        let spec = dir.path().join("spec.json").to_str().unwrap().to_owned();
        std::fs::write(
            &spec,
            r#"{"env":{"A":"b c"},"services":{"once":{"shell":"sleep 0.2; exit 5","port":1,"restart":"never"}}}"#,
        )
        .unwrap();
        let arguments = [
            ["--instance", &id],
            ["--generation", "1"],
            ["--run", &path("run")],
            ["--state", &path("state")],
            ["--home", &path("home")],
            ["--spec", &spec],
        ];
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "agent", "--nocapture"])
            .env(ARGUMENTS, arguments.as_flattened().join("\n"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let alone = Self { dir, child };
        eventually("it listens", || alone.ask("GET", "/processes", "").map(drop));
        alone
    }

    /// Asks with one connection, and returns the answer's body.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<String> {
        use std::io::{Read as _, Write as _};
        let mut socket = std::os::unix::net::UnixStream::connect(self.dir.path().join("run/agent.sock")).ok()?;
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
    let rss = |alone: &Alone| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", alone.child.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        (field("VmRSS"), field("Threads"))
    };
    for _ in 0..50 {
        alone.ask("POST", "/processes", r#"{"argv":["sleep","1000"]}"#).unwrap();
    }
    let (kib, threads) = rss(&alone);
    // The test harness itself has a thread; a debug build is some megabytes.
    assert!(kib < 40_000 && threads <= 2, "{kib} KiB, {threads} threads");
}
