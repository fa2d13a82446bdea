//! A cell as it is on many machines: a store of three members, two API servers, two gateways and three nodes, each on a host
//! of its own, with certificates between them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use landfast_registry::authority;
use landfast_registry::store::etcd::EtcdStore;
use landfast_rig::{Addresses, Pace};
use landfast_scenarios::ground::Ground;
use landfast_scenarios::namespaces;
use landfast_scenarios::role::{Place, Role, Settings, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::ground::{Hosts, address};
use crate::plan::{APIS, GATEWAYS, Host, MEMBERS, NODES};

/// Where roles listen on their hosts.
const PORT: u16 = 7070;
/// Where members of etcd listen to clients, and to each other.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// How long a cell may take to stand.
const STARTING: Duration = Duration::from_secs(60);

/// How large the disk of node `c` is: three times what it needs.
const DISK: &str = "600m";

/// How long the certificates are good for: longer than any run.
const CERTIFICATE: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What the programs inside instances are, and what each instance's ledger is called in its home.
pub(crate) const PROGRAMS: [&str; 2] = ["landfast-served", "landfast-numbers"];
/// What waits until an instance has them all, and then goes on as what follows.
pub(crate) const SUPPLIED: &str = "until [ -e landfast-numbers ]; do sleep 0.02; done;";
/// The file that they write down what ran in.
pub(crate) const LEDGER: &str = "ran.log";

/// The cell. All of it ends with the value.
pub(crate) struct Cell {
    pub(crate) hosts: Hosts,
    pub(crate) key: String,
    daemons: BTreeMap<Host, Daemon>,
    ground: Ground,
}

/// What runs on a host.
enum Daemon {
    Role(Box<Role>),
    Member(Box<Member>),
}

/// A daemon has ended that was not ended from here.
pub(crate) struct Ended {
    pub(crate) how: String,
    /// Whether it had said that it is ready.
    pub(crate) was_ready: bool,
    pub(crate) is_success: bool,
}

/// A member of etcd, and where it logs.
struct Member {
    process: landfast_rig::Member,
    log: PathBuf,
}

impl Cell {
    /// Makes the hosts and starts everything on them. From then on this thread is where the clients are.
    pub(crate) async fn start() -> Result<Self> {
        let prefix = namespaces::prefix();
        let ground = Ground::with_namespaces(&prefix);
        let hosts = Hosts::make(prefix)?;
        hosts.enter(Host::Clients)?;
        let key = prepare(ground.path())?;
        let mut cell = Self { hosts, key, daemons: BTreeMap::new(), ground };
        for (number, host) in MEMBERS.into_iter().enumerate() {
            let member = Member::new(&cell, host, number)?;
            cell.daemons.insert(host, Daemon::Member(Box::new(member)));
        }
        for host in APIS.into_iter().chain(GATEWAYS).chain(NODES) {
            cell.set_clock(host, 0)?;
            let role = cell.role(host);
            cell.daemons.insert(host, Daemon::Role(Box::new(role)));
        }
        // Roles that find no store wait for it; they are started after it, so that a failure is seen where it is.
        for host in MEMBERS {
            cell.launch(host)?;
        }
        for host in MEMBERS {
            cell.listens(host).await?;
        }
        for host in APIS.into_iter().chain(GATEWAYS).chain(NODES) {
            cell.launch(host)?;
        }
        for host in APIS.into_iter().chain(GATEWAYS).chain(NODES) {
            cell.is_ready(host, STARTING).await?;
        }
        Ok(cell)
    }

    /// Where clients reach a gateway.
    pub(crate) fn gateway(number: u8) -> SocketAddr {
        SocketAddr::new(address(Host::Gateway(number)).into(), PORT)
    }

    /// The store, as one of its clients.
    pub(crate) fn store() -> EtcdStore {
        EtcdStore::new(store_address().parse().expect("it is one"))
    }

    /// Where all of it is.
    pub(crate) fn dir(&self) -> &Path {
        self.ground.path()
    }

    /// The data directories of nodes.
    pub(crate) fn disks(&self) -> [PathBuf; 2] {
        ["ab", "c"].map(|disk| self.dir().join(disk))
    }

    /// The logs of all daemons, and of agents, which their instances do not take with them.
    pub(crate) fn logs(&self) -> Vec<PathBuf> {
        let daemons = self.daemons.values().map(|daemon| match daemon {
            Daemon::Role(role) => role.log_file().to_owned(),
            Daemon::Member(member) => member.log.clone(),
        });
        let agents = self.disks().map(|disk| fs::read_dir(disk.join("agents")));
        let agents = agents.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
        daemons.chain(agents).collect()
    }

    // --- daemons ---

    /// Starts what runs on a host, and waits for nothing.
    pub(crate) fn launch(&mut self, host: Host) -> Result<()> {
        match self.daemon(host) {
            Daemon::Role(role) => role.launch(),
            Daemon::Member(member) => member.process.start(),
        }
        Ok(())
    }

    /// Kills it, and waits until it is gone.
    pub(crate) async fn kill(&mut self, host: Host) -> Result<()> {
        self.thaw(host);
        match self.daemon(host) {
            Daemon::Role(role) if role.runs() => role.kill().await,
            Daemon::Role(_) => {}
            Daemon::Member(member) => member.process.kill(),
        }
        Ok(())
    }

    /// Lets it stand still.
    pub(crate) fn freeze(&mut self, host: Host) {
        self.signal(host, Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&mut self, host: Host) {
        self.signal(host, Signal::SIGCONT);
    }

    /// Asks it to stop.
    pub(crate) fn stop(&mut self, host: Host) {
        self.signal(host, Signal::SIGTERM);
    }

    /// Sets the time of day that a role sees, in minutes from what it is.
    pub(crate) fn set_clock(&self, host: Host, minutes: i16) -> io::Result<()> {
        // Whole or not at all: it is read all the time.
        let (clock, fresh) = (self.clock(host), self.dir().join("clock"));
        fs::write(&fresh, format!("{minutes:+}m"))?;
        fs::rename(fresh, clock)
    }

    fn clock(&self, host: Host) -> PathBuf {
        self.dir().join(format!("{host}.clock"))
    }

    /// Whether it runs; how it ended otherwise, if it was not ended from here.
    pub(crate) fn runs(&mut self, host: Host) -> Result<bool, Ended> {
        match self.daemon(host) {
            Daemon::Role(role) => {
                let was_ready = role.is_ready();
                let Some(status) = role.has_ended() else { return Ok(role.runs()) };
                let how = format!("{host}: {status}\n{}", role.log());
                Err(Ended { how, was_ready, is_success: status.success() })
            }
            Daemon::Member(member) => match member.process.has_ended() {
                Some(status) => {
                    Err(Ended { how: format!("{host}: {status}"), was_ready: true, is_success: status.success() })
                }
                None => Ok(member.process.pid().is_some()),
            },
        }
    }

    /// Waits until a role has said that it is ready, or a member listens.
    pub(crate) async fn is_ready(&mut self, host: Host, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let ready = match self.daemon(host) {
                Daemon::Role(role) => role.is_ready(),
                Daemon::Member(_) => return self.listens(host).await,
            };
            if ready {
                return Ok(());
            }
            if let Err(ended) = self.runs(host) {
                bail!("{}", ended.how);
            }
            if Instant::now() > deadline {
                bail!("{host} is not ready after {within:?}");
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The process of a role that runs.
    pub(crate) fn pid(&mut self, host: Host) -> Option<u32> {
        match self.daemon(host) {
            Daemon::Role(role) => role.runs().then(|| role.pid()),
            Daemon::Member(member) => member.process.pid(),
        }
    }

    fn daemon(&mut self, host: Host) -> &mut Daemon {
        self.daemons.get_mut(&host).expect("every host but the clients' has a daemon")
    }

    fn signal(&mut self, host: Host, signal: Signal) {
        if let Some(pid) = self.pid(host) {
            // It may just have ended, which is found out where it matters.
            let _ = kill(Pid::from_raw(pid as i32), signal);
        }
    }

    async fn listens(&self, host: Host) -> Result<()> {
        let deadline = Instant::now() + STARTING;
        while TcpStream::connect((address(host), CLIENT_PORT)).await.is_err() {
            if Instant::now() > deadline {
                bail!("{host} does not listen");
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn role(&self, host: Host) -> Role {
        let clock = Some(self.clock(host));
        let place = Place { namespace: Some(self.hosts.namespace(host)), store: Some(store_address()), clock };
        let mut settings = Settings::from([("listen", SocketAddr::new(address(host).into(), PORT).to_string())]);
        let kind = match host {
            Host::Api(_) => "api",
            Host::Gateway(_) => {
                // Shorter than a stop lasts, so that what is stopped has ended by itself.
                settings.insert("drain_timeout_ms", "4000".to_owned());
                "gateway"
            }
            Host::Node(name) => {
                settings.insert("name", name.to_string());
                "node"
            }
            Host::Etcd(_) | Host::Clients => unreachable!("it runs no role"),
        };
        if kind != "gateway" {
            let archive = format!("file://{}", self.dir().join("archive").display());
            settings.insert("archive", archive);
        }
        Role::elsewhere(place, kind, &host.to_string(), &self.dir().join(disk_of(host)), settings)
    }
}

impl Member {
    fn new(cell: &Cell, host: Host, number: usize) -> Result<Self> {
        let log = cell.dir().join(format!("{host}.log"));
        let place = Place { namespace: Some(cell.hosts.namespace(host)), ..Place::default() };
        let mut command = place.command(Path::new("etcd")).into_std();
        command.stderr(fs::File::options().create(true).append(true).open(&log)?);
        let at = |host, port| SocketAddr::new(address(host).into(), port);
        let addresses = MEMBERS.map(|host| Addresses { client: at(host, CLIENT_PORT), peer: at(host, PEER_PORT) });
        let data = cell.dir().join(host.to_string());
        let process = landfast_rig::Member::new(command, number, &addresses, &data, Pace::UNSYNCED);
        Ok(Self { process, log })
    }
}

/// The data directory of a host: nodes `a` and `b` share one, as two daemons of one machine do.
fn disk_of(host: Host) -> String {
    match host {
        Host::Node('a' | 'b') => "ab".to_owned(),
        Host::Node(_) => "c".to_owned(),
        Host::Etcd(_) | Host::Gateway(_) | Host::Api(_) | Host::Clients => host.to_string(),
    }
}

fn store_address() -> String {
    landfast_rig::address(MEMBERS.map(|host| SocketAddr::new(address(host).into(), CLIENT_PORT)))
}

/// Makes the data directories: the same secrets in each, a certificate for what it runs, and programs and ledgers on the
/// disks of nodes. Says the API key.
fn prepare(dir: &Path) -> Result<String> {
    let ca = dir.join("ca");
    authority::init(&ca).map_err(|problem| anyhow::anyhow!("{problem:?}"))?;
    let first = dir.join(disk_of(Host::Api(1)));
    for host in APIS.into_iter().chain(GATEWAYS).chain(NODES) {
        let disk = dir.join(disk_of(host));
        if disk.exists() {
            continue;
        }
        private_dir(&disk)?;
        let role = match host {
            Host::Api(_) => authority::Role::Api,
            Host::Gateway(_) => authority::Role::Gateway,
            Host::Node(_) => authority::Role::Node,
            Host::Etcd(_) | Host::Clients => unreachable!("it runs no role"),
        };
        if host == Host::Node('c') {
            mount_disk(&disk)?;
        }
        authority::issue(&ca, &[role], CERTIFICATE, &disk.join("tls")).map_err(|why| anyhow::anyhow!("{why:?}"))?;
        if host == Host::Api(1) {
            landfast_registry::cell::Cell::open(&first).map_err(|why| anyhow::anyhow!("{why:?}"))?;
        } else {
            for secret in ["cell.key", "token-key.pem", "api-key"] {
                fs::copy(first.join(secret), disk.join(secret))?;
            }
        }
        if let Host::Node(_) = host {
            fs::create_dir(disk.join("ledgers"))?;
            fs::create_dir(disk.join("programs"))?;
            fs::create_dir(disk.join("agents"))?;
            for name in PROGRAMS {
                fs::copy(program(name), disk.join("programs").join(name))?;
            }
        }
    }
    Ok(fs::read_to_string(first.join("api-key"))?.trim().to_owned())
}

fn private_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn mount_disk(path: &Path) -> Result<()> {
    let options = format!("size={DISK},mode=0700");
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "landfast-chaos"]).arg(path).status()?;
    if !status.success() {
        bail!("a disk of its own for node c could not be mounted: {status}");
    }
    Ok(())
}

/// Gives every instance that appears on a disk its programs and its ledger, until it is dropped. What runs in one waits for them
/// ([`SUPPLIED`]).
pub(crate) async fn supply(disks: [PathBuf; 2]) {
    loop {
        for disk in &disks {
            for instance in fs::read_dir(disk.join("instances")).into_iter().flatten().flatten() {
                // The directory may be on its way in or out; then there is another look.
                let _ = supply_instance(disk, &instance.path());
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn supply_instance(disk: &Path, instance: &Path) -> io::Result<()> {
    let name = instance.file_name().unwrap_or_default();
    let home = instance.join("home");
    let last = home.join(PROGRAMS[PROGRAMS.len() - 1]);
    if last.exists() || !home.exists() {
        return Ok(());
    }
    // The ledger first: what runs must find it. It is the same file on the disk, and outlives the instance's.
    let ledger = disk.join("ledgers").join(name);
    if !ledger.exists() {
        fs::write(&ledger, "")?;
        fs::set_permissions(&ledger, fs::Permissions::from_mode(0o666))?;
    }
    link(&ledger, &home.join(LEDGER))?;
    // Every life of an instance has a log of its own.
    let life = fs::metadata(instance.join("agent.log"))?.ino();
    let kept = format!("agent-{}-{life}.log", name.to_string_lossy());
    link(&instance.join("agent.log"), &disk.join("agents").join(kept))?;
    for name in PROGRAMS {
        link(&disk.join("programs").join(name), &home.join(name))?;
    }
    Ok(())
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
