//! A cluster of etcd on this machine, its members real processes.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a member may take to listen: an election comes first.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A cluster. It ends with the value.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<(u16, Child)>,
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
            (client, command.spawn().expect("etcd is installed (Debian: etcd-server)"))
        });
        let etcd = Self { members: members.collect() };
        etcd.members.iter().for_each(|(port, _)| listens(*port));
        etcd
    }

    /// The store's address, as roles take it.
    pub fn address(&self) -> String {
        let members: Vec<String> = self.members.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        format!("etcd://{}", members.join(","))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for (_, member) in &mut self.members {
            // It ends however it is asked to; how matters to nobody.
            let _ = member.kill();
            let _ = member.wait();
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

fn listens(port: u16) {
    let until = Instant::now() + STARTS_WITHIN;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(Instant::now() < until, "etcd does not listen at port {port}");
        sleep(Duration::from_millis(20));
    }
}
