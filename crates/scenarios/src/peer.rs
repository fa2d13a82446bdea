//! Another program that listens, as a process of its own: HAProxy, nginx, and what else is held beside the gateway.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::plain::PATIENCE;

/// How often is looked whether it listens, or has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A program that listens. It ends with the value.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

/// A configuration to be: its text has `@LISTEN@`, `@UPSTREAM@` and `@DIR@` where those go.
#[derive(Clone, Copy, Debug)]
pub struct Configuration<'a> {
    /// The text.
    pub template: &'a str,
    /// The address of the upstream.
    pub upstream: SocketAddr,
    /// Where it and its log are written.
    pub dir: &'a Path,
}

impl Peer {
    /// Starts HAProxy and waits until it listens.
    ///
    /// # Errors
    ///
    /// It is not installed, or did not start; the error says what to do.
    pub fn haproxy(configuration: Configuration<'_>) -> Result<Self> {
        Self::start("haproxy", configuration, |command, file| {
            command.arg("-db").arg("-f").arg(file);
        })
    }

    /// Starts nginx and waits until it listens.
    ///
    /// # Errors
    ///
    /// It is not installed, or did not start; the error says what to do.
    pub fn nginx(configuration: Configuration<'_>) -> Result<Self> {
        let dir = configuration.dir;
        Self::start("nginx", configuration, |command, file| {
            command.arg("-p").arg(dir).arg("-e").arg(dir.join("nginx-error.log")).arg("-c").arg(file);
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn start(
        program: &'static str,
        Configuration { template, upstream, dir }: Configuration<'_>,
        arguments: impl FnOnce(&mut Command, &Path),
    ) -> Result<Self> {
        let address = free_address()?;
        let (file, log) = (dir.join(format!("{program}.conf")), dir.join(format!("{program}.log")));
        let text = template
            .replace("@LISTEN@", &address.to_string())
            .replace("@UPSTREAM@", &upstream.to_string())
            .replace("@DIR@", &dir.display().to_string());
        std::fs::write(&file, text)?;
        let mut command = Command::new(program);
        arguments(&mut command, &file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let child = match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!(
                    "{program} is not installed: `apt-get install -y haproxy nginx-light`, or what `cargo xtask` does"
                )
            }
            started => started.with_context(|| format!("{program} could not be started"))?,
        };
        let mut peer = Self { child, address, log };
        peer.listens()?;
        Ok(peer)
    }

    fn listens(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("{} does not listen ({ended:?}): {log}", self.log.display());
            }
            sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Asked first: nginx leaves its workers behind if it is killed.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(2);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            sleep(LOOK_EVERY);
        }
    }
}

/// An address that nobody listens on now, for programs that cannot be asked to choose one and say which.
///
/// # Errors
///
/// There is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
