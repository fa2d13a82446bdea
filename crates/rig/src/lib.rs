//! Clusters of etcd for tests, their members real processes.
//!
//! The store's own tests, the scenarios and chaos all need members that they can kill, freeze and start again, and none of these
//! may depend on the others' crates. What they share is here, and knows nothing of Landfast but how its stores are addressed.

mod frozen;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use frozen::{freeze, thaw};

/// How long a member may take to listen: an election comes first.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A cluster on this machine. It ends with the value.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
}

/// A member of a cluster: its process, if it runs, ends with the value.
#[derive(Debug)]
pub struct Member {
    client: SocketAddr,
    command: Command,
    child: Option<Child>,
}

/// Where a member listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// To clients.
    pub client: SocketAddr,
    /// To other members.
    pub peer: SocketAddr,
}

/// How soon a member misses its leader, and whether it waits for its disk.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    heartbeat: Duration,
    election: Duration,
    syncs: bool,
}

impl Pace {
    /// As a package of etcd installs it.
    pub const INSTALLED: Self =
        Self { heartbeat: Duration::from_millis(100), election: Duration::from_secs(1), syncs: true };

    /// As installed, for where processes are killed and never the machine, so that nothing is lost with what was not synced.
    pub const UNSYNCED: Self = Self { syncs: false, ..Self::INSTALLED };

    /// A member that is gone is missed soon, as on a fast network, and no disk is waited for.
    pub const QUICK: Self =
        Self { heartbeat: Duration::from_millis(50), election: Duration::from_millis(500), syncs: false };
}

impl Cluster {
    /// Starts so many members on ports that are free, with their data in `dir`.
    ///
    /// # Panics
    ///
    /// There is no etcd on this machine, or it does not start.
    pub fn start(size: usize, dir: &Path, pace: Pace) -> Self {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let addresses = (0..size).map(|_| Addresses { client: at(free_port()), peer: at(free_port()) });
        let addresses: Vec<_> = addresses.collect();
        let member = |number| {
            let mut command = Command::new("etcd");
            command.stderr(Stdio::null());
            Member::new(command, number, &addresses, &dir.join(format!("etcd-{number}")), pace)
        };
        let mut cluster = Self { members: (0..size).map(member).collect() };
        cluster.start_again();
        cluster
    }

    /// Its members, in the order of their names.
    pub fn members(&mut self) -> &mut [Member] {
        &mut self.members
    }

    /// Kills every member as a power failure would.
    pub fn kill(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }

    /// Starts every member that does not run, with what it had on its disk, and waits until all listen.
    ///
    /// # Panics
    ///
    /// They do not start.
    pub fn start_again(&mut self) {
        self.members.iter_mut().for_each(Member::start);
        self.members.iter().for_each(Member::listens);
    }

    /// Freezes every member: connections stay, and nothing answers.
    ///
    /// # Panics
    ///
    /// They do not run.
    pub fn freeze(&self) {
        self.members.iter().filter_map(Member::pid).for_each(freeze);
    }

    /// Lets every member go on.
    pub fn thaw(&self) {
        self.members.iter().filter_map(Member::pid).for_each(thaw);
    }

    /// Where its members listen to clients.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.members.iter().map(Member::client).collect()
    }

    /// The store's address, as roles take it.
    pub fn address(&self) -> String {
        address(self.clients())
    }
}

impl Member {
    /// The member with a number of a cluster that listens at `addresses`, each in the place of its number; it is not started
    /// yet. `etcd` is the program as it is started where the member is to run, and says where its log goes.
    pub fn new(mut etcd: Command, number: usize, addresses: &[Addresses], data: &Path, pace: Pace) -> Self {
        let url = |address: SocketAddr| format!("http://{address}");
        let peers = addresses.iter().enumerate().map(|(number, at)| format!("m{number}={}", url(at.peer)));
        let peers = peers.collect::<Vec<_>>().join(",");
        let Addresses { client, peer } = addresses[number];
        etcd.args(["--name", &format!("m{number}"), "--initial-cluster", &peers]);
        etcd.args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)]);
        etcd.args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)]);
        etcd.args(["--heartbeat-interval", &pace.heartbeat.as_millis().to_string()]);
        etcd.args(["--election-timeout", &pace.election.as_millis().to_string(), "--log-level", "warn"]);
        if !pace.syncs {
            etcd.arg("--unsafe-no-fsync");
        }
        etcd.arg("--data-dir").arg(data);
        // Versions before 3.5 refuse processors other than amd64 unless told.
        etcd.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
        etcd.stdin(Stdio::null()).stdout(Stdio::null());
        Self { client, command: etcd, child: None }
    }

    /// Where it listens to clients.
    const fn client(&self) -> SocketAddr {
        self.client
    }

    /// Starts it, if it does not run, and waits for nothing.
    ///
    /// # Panics
    ///
    /// There is no etcd on this machine.
    pub fn start(&mut self) {
        if self.child.is_none() {
            self.child = Some(self.command.spawn().expect("etcd is installed (Debian: etcd-server)"));
        }
    }

    /// Waits until somebody can connect; it answers once it is ready.
    ///
    /// # Panics
    ///
    /// It does not listen in time.
    pub fn listens(&self) {
        let until = Instant::now() + STARTS_WITHIN;
        while TcpStream::connect(self.client).is_err() {
            assert!(Instant::now() < until, "etcd does not listen at {}", self.client);
            sleep(Duration::from_millis(10));
        }
    }

    /// Kills it, if it runs, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// How it ended, if it was started and has ended by itself.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    /// Its process, if it was started and not ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The address of a store whose members listen there.
pub fn address(members: impl IntoIterator<Item = SocketAddr>) -> String {
    let members: Vec<String> = members.into_iter().map(|member| member.to_string()).collect();
    format!("etcd://{}", members.join(","))
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
