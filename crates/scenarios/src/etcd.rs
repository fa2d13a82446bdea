//! A cluster of etcd on this machine, its members real processes.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stalled;

/// How long a member may take to listen: an election comes first.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A cluster. It ends with the value.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    port: u16,
    command: Command,
    process: Child,
}

impl Etcd {
    /// Starts so many members, with their data in `dir`.
    ///
    /// # Panics
    ///
    /// There is no etcd on this machine, or it does not start.
    pub fn start(members: usize, dir: &Path) -> Self {
        let ports: Vec<(u16, u16)> = (0..members).map(|_| (free_port(), free_port())).collect();
        let peers = ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}"));
        let peers = peers.collect::<Vec<_>>().join(",");
        let members = ports.iter().enumerate().map(|(n, &(client, peer))| {
            let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("m{n}"), "--initial-cluster", &peers]);
            command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
            command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
            command.arg("--data-dir").arg(dir.join(format!("etcd-{n}")));
            // Versions before 3.5 refuse processors other than amd64 unless told.
            command.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let process = command.spawn().expect("etcd is installed (Debian: etcd-server)");
            Member { port: client, command, process }
        });
        let etcd = Self { members: members.collect() };
        etcd.members.iter().for_each(Member::listens);
        etcd
    }

    /// Kills every member as a power failure would.
    ///
    /// # Panics
    ///
    /// They run no more.
    pub fn kill(&mut self) {
        for member in &mut self.members {
            member.process.kill().expect("a member that runs");
            member.process.wait().expect("our own child");
        }
    }

    /// Starts every member again, with what it had on its disk.
    ///
    /// # Panics
    ///
    /// They do not start.
    pub fn start_again(&mut self) {
        for member in &mut self.members {
            member.process = member.command.spawn().expect("it has been started before");
        }
        self.members.iter().for_each(Member::listens);
    }

    /// Freezes every member: connections stay, and nothing answers.
    ///
    /// # Panics
    ///
    /// They do not run.
    pub fn freeze(&self) {
        self.members.iter().for_each(|member| stalled::freeze(member.process.id()));
    }

    /// Lets every member go on.
    ///
    /// # Panics
    ///
    /// They do not run.
    pub fn thaw(&self) {
        for member in &self.members {
            kill(Pid::from_raw(member.process.id() as i32), Signal::SIGCONT).expect("a member that runs");
        }
    }

    /// The store's address, as roles take it.
    pub fn address(&self) -> String {
        let members: Vec<String> = self.members.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect();
        format!("etcd://{}", members.join(","))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It ends however it is asked to; how matters to nobody.
            let _ = member.process.kill();
            let _ = member.process.wait();
        }
    }
}

/// A port that is free now, and hardly taken by somebody else in the next moment.
///
/// # Panics
///
/// None is free.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("a listener has an address").port()
}

impl Member {
    fn listens(&self) {
        let until = Instant::now() + STARTS_WITHIN;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(Instant::now() < until, "etcd does not listen at port {}", self.port);
            sleep(Duration::from_millis(20));
        }
    }
}
