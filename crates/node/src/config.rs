//! What an operator says about a node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use landfast_core::{ErrorCode, Problem};
use serde::{Deserialize, Serialize};

/// A node's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The data directory, shared by all Landfast processes of the machine. Default: `~/.local/share/landfast`.
    pub data: PathBuf,
    /// A short name, unique in the cell: 1 to 63 of `a-z 0-9 - _ .`. Default: the machine's host name.
    pub name: String,
    /// Where the relay listens. Default: `127.0.0.1:0`, any free port; a restarted node takes its last one again if it can.
    pub listen: SocketAddr,
    /// The relay's address as gateways reach it (`host:port`). Default: where it listens.
    pub advertise: Option<String>,
    /// Whether it cannot be dialled, and dials gateways and API servers with `relay_listen` instead: behind NAT, for example.
    /// Then `listen` and `advertise` say nothing. Default: false.
    pub reverse: bool,
    /// How many instances it is willing to run. Default: 100.
    pub capacity: u32,
    /// Labels that instances may ask for. Default: none.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes nothing new from the start. Default: false.
    pub draining: bool,
    /// How instances are kept apart: `auto` (bubblewrap where it works, with a warning where it does not), `bubblewrap`
    /// (refuse to start without it), or `none`. Default: `auto`.
    pub isolation: Isolation,
    /// How an agent is started, before the agent's own arguments. Default: this executable and `agent`.
    pub agent_command: Vec<String>,
    /// Where events are kept: `s3://bucket/prefix`, with endpoint, region and credentials from the usual variables
    /// (`AWS_…`), or `file:///directory`; the API servers' must be the same. Default: `archive` in the data directory.
    pub archive: Option<String>,
    /// The most connections that the relay lets in at once; those that an agent has do not count. Default: 20,000.
    pub connections: u32,
    /// The most processes and threads of one instance; needs isolation. Default: 4,096.
    pub processes: u32,
}

/// How instances are kept apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Bubblewrap where it works; otherwise none, said clearly.
    #[default]
    Auto,
    /// Bubblewrap, or the node does not start.
    Bubblewrap,
    /// None: instances see what the node's user sees.
    None,
}

/// The longest socket address the kernel takes, less its closing zero.
const SOCKET_PATH_MAX: usize = 107;

/// The longest path below the data directory that an agent binds: `instances/ins_….26…/run/control.sock`.
const SOCKET_TAIL: usize = "/instances/".len() + 30 + "/run/control.sock".len();

impl Default for Config {
    fn default() -> Self {
        Self {
            data: default_data(),
            name: default_name(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            reverse: false,
            capacity: 100,
            labels: BTreeMap::new(),
            draining: false,
            isolation: Isolation::default(),
            agent_command: Vec::new(),
            archive: None,
            connections: 20_000,
            processes: 4_096,
        }
    }
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`], naming the key.
    pub fn check(&self) -> Result<(), Problem> {
        let invalid = |what: String| Err(Problem::new(ErrorCode::ConfigInvalid, what));
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        if !(1..=63).contains(&self.name.len()) || !self.name.bytes().all(plain) || self.name.starts_with('.') {
            return invalid(format!("name is {:?}; 1 to 63 of a-z, 0-9, - _ . and no . first.", self.name));
        }
        if self.connections == 0 || self.processes == 0 {
            return invalid("connections and processes are at least 1.".to_owned());
        }
        if !self.reverse && self.advertise.is_none() && self.listen.ip().is_unspecified() {
            return invalid(format!(
                "listen is {}, which no gateway can dial; say in advertise under which address it reaches this node.",
                self.listen
            ));
        }
        if let Some(address) = &self.advertise
            && !address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        {
            return invalid(format!("advertise is {address:?}; it has the form host:port."));
        }
        Ok(())
    }
}

/// Refuses a data directory whose path would not leave room for an agent's socket. An isolated agent binds a short path
/// of its own, so this is asked only where there is no isolation.
///
/// # Errors
///
/// [`ErrorCode::ConfigInvalid`].
pub(crate) fn check_length(data: &Path) -> Result<(), Problem> {
    let most = SOCKET_PATH_MAX - SOCKET_TAIL;
    if data.as_os_str().len() <= most {
        return Ok(());
    }
    Err(Problem::new(
        ErrorCode::ConfigInvalid,
        format!(
            "The data directory's path has {} bytes; {most} leave room for the sockets in it.",
            data.as_os_str().len()
        ),
    ))
}

fn default_data() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/var/lib"), PathBuf::from);
    home.join(".local/share/landfast")
}

fn default_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    if host.is_empty() { "node".to_owned() } else { host.chars().take(63).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config { name: "a".to_owned(), ..Config::default() };
        assert_eq!(config.check(), Ok(()));
        change(&mut config);
        let problem = config.check().unwrap_err();
        assert_eq!(problem.code, ErrorCode::ConfigInvalid);
        problem.detail
    }

    #[test]
    fn a_value_that_cannot_work_is_named() {
        assert!(refused(|config| config.name = "a/b".to_owned()).contains("name"));
        assert!(refused(|config| config.connections = 0).contains("connections"));
        assert!(refused(|config| config.listen = "0.0.0.0:0".parse().unwrap()).contains("advertise"));
        assert!(refused(|config| config.advertise = Some("host".to_owned())).contains("host:port"));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = serde_json::from_str::<Config>(r#"{"lisen": "127.0.0.1:1"}"#).unwrap_err();
        assert!(error.to_string().contains("lisen"), "{error}");
    }

    #[test]
    fn a_data_directory_too_deep_for_sockets_is_refused_with_a_number() {
        assert!(check_length(Path::new("/var/lib/landfast")).is_ok());
        let deep = PathBuf::from(format!("/{}", "d".repeat(60)));
        assert!(check_length(&deep).unwrap_err().detail.contains("61"));
    }
}
