//! The demo's cell: an API, two nodes with a network before each, and a gateway, as processes of this very program.

use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::demo::relay::Relay;
use crate::failure::Failure;

/// How long a role may take to be ready: a node that comes back waits for its lease at most that long.
const READY: Duration = Duration::from_secs(30);

/// How long a role may take to stop before it is killed.
const STOPPED: Duration = Duration::from_secs(10);

/// The lines of a role's log that are shown when it fails.
const LOG_TAIL: usize = 12;

/// The cell. What is left of it when the value ends is killed, and its directory removed.
pub(crate) struct DemoCell {
    /// The API.
    pub(crate) api: Role,
    /// The nodes.
    pub(crate) nodes: [DemoNode; 2],
    /// The gateway.
    pub(crate) gateway: Role,
    dir: TempDir,
}

/// A node, and the network before it.
pub(crate) struct DemoNode {
    /// Its process.
    pub(crate) role: Role,
    /// Its name.
    pub(crate) name: &'static str,
    /// What is between the gateway and it.
    pub(crate) network: Relay,
}

/// A role's process, which can be killed and started again.
pub(crate) struct Role {
    kind: &'static str,
    data: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
    running: Option<(Child, SocketAddr)>,
}

impl DemoCell {
    /// Starts a cell in a directory of its own.
    ///
    /// # Errors
    ///
    /// What did not start, with the end of its log.
    pub(crate) async fn start() -> Result<Self, Failure> {
        let private = Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("landfast-demo-").permissions(private).tempdir();
        let dir = dir.map_err(|error| local("directory", &error))?;
        let any = ["--listen".to_owned(), "127.0.0.1:0".to_owned()];
        let api = Role::start("api", "api", dir.path(), any.to_vec()).await?;
        let nodes = [DemoNode::start("a", dir.path()).await?, DemoNode::start("b", dir.path()).await?];
        let mut gateway = Role::start("gateway", "gateway", dir.path(), any.to_vec()).await?;
        // A gateway that is started again has to be found where clients look for it.
        gateway.arguments = vec!["--listen".to_owned(), gateway.address().to_string()];
        Ok(Self { api, nodes, gateway, dir })
    }

    /// The data directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Cuts every link.
    pub(crate) fn cut(&self) {
        self.nodes.iter().for_each(|node| node.network.cut());
    }

    /// Stops everything in good order. The instances must have been deleted: agents outlive their nodes.
    pub(crate) async fn stop(mut self) {
        let [a, b] = &mut self.nodes;
        tokio::join!(self.gateway.stop(), a.role.stop(), b.role.stop(), self.api.stop());
    }
}

impl DemoNode {
    async fn start(name: &'static str, data: &Path) -> Result<Self, Failure> {
        let network = Relay::start().await.map_err(|error| local("port", &error))?;
        let advertise = network.address().to_string();
        let arguments = ["--name", name, "--listen", "127.0.0.1:0", "--advertise", &advertise];
        let role = Role::start("node", name, data, arguments.map(str::to_owned).to_vec()).await?;
        network.lead_to(role.address());
        Ok(Self { role, name, network })
    }

    /// Kills the node as a power failure would and starts it again. Its agents live on.
    ///
    /// # Errors
    ///
    /// It did not come back.
    pub(crate) async fn restart(&mut self) -> Result<(), Failure> {
        self.role.restart().await?;
        self.network.lead_to(self.role.address());
        Ok(())
    }
}

impl Role {
    async fn start(kind: &'static str, name: &str, data: &Path, arguments: Vec<String>) -> Result<Self, Failure> {
        let log = data.join(format!("{kind}-{name}.log"));
        let mut role = Self { kind, data: data.to_owned(), log, arguments, running: None };
        role.start_again().await?;
        Ok(role)
    }

    /// Kills the process as a power failure would, and starts it again.
    ///
    /// # Errors
    ///
    /// It did not come back.
    pub(crate) async fn restart(&mut self) -> Result<(), Failure> {
        if let Some((mut child, _)) = self.running.take() {
            child.kill().await.map_err(|error| local(self.kind, &error))?;
        }
        self.start_again().await
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.running.as_ref().map_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)), |(_, address)| *address)
    }

    async fn start_again(&mut self) -> Result<(), Failure> {
        let mut child = self.command()?.spawn().map_err(|error| local(self.kind, &error))?;
        let mut said = BufReader::new(child.stdout.take().expect("standard output is a pipe")).lines();
        let line = timeout(READY, said.next_line()).await.ok().and_then(Result::ok).flatten().unwrap_or_default();
        let address = line.strip_prefix(&format!("ready {} ", self.kind)).and_then(|address| address.parse().ok());
        let Some(address) = address else { return Err(self.not_ready()) };
        self.running = Some((child, address));
        Ok(())
    }

    async fn stop(&mut self) {
        let Some((mut child, _)) = self.running.take() else { return };
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // Gone already: as well.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if timeout(STOPPED, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }

    fn command(&self) -> Result<Command, Failure> {
        let program = std::env::current_exe().map_err(|error| local("program", &error))?;
        let log = File::options().create(true).append(true).open(&self.log).map_err(|error| local("log", &error))?;
        let mut command = Command::new(program);
        command.arg(self.kind).arg("--data").arg(&self.data).args(&self.arguments);
        // What the person has set for a cell of their own is not for this one.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LANDFAST_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        // A Ctrl-C at the terminal is ours to answer, in order.
        command.process_group(0);
        Ok(command)
    }

    fn not_ready(&self) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
        Failure::local(format!("The demo's {} did not become ready. The end of its log:\n{tail}", self.kind))
    }
}

fn local(what: &str, error: &std::io::Error) -> Failure {
    Failure::local(format!("The demo cannot have its {what}: {error}."))
}
