//! What an agent is told when it is started.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfast_core::record::{Browser, Generation, InstanceSpec, Service};
use landfast_core::{ErrorCode, InstanceId, Problem, ServiceName};
use landfast_net::credential::Credential;
use landfast_net::secret::CellKey;

/// An agent's configuration. Its node makes it, or whoever runs the instance where no node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The instance it stands beside.
    pub instance: InstanceId,
    /// The generation it is started for.
    pub generation: Generation,
    /// Where its sockets go: `agent.sock` and `control.sock`.
    pub run: PathBuf,
    /// Where it keeps its records of processes.
    pub state: PathBuf,
    /// The home of the instance's user, in which processes start.
    pub home: PathBuf,
    /// The environment of every process, over the agent's own and beneath the process's.
    pub env: BTreeMap<String, String>,
    /// The servers inside the instance.
    pub services: BTreeMap<ServiceName, Service>,
    /// The browser of the instance, if it has one.
    pub browser: Option<Browser>,
    /// Where gateways reach it without a node, and with which key.
    pub listen: Option<Listen>,
    /// What it holds at most.
    pub limits: Limits,
    /// Whether the agent has its process to itself. It then takes in the instance's orphans, which means waiting for every
    /// child that it did not start, and obeys signals.
    pub is_alone: bool,
}

/// An agent's own door to the network, for an instance that no node of the cell runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address; port 0 takes any free one.
    pub address: SocketAddr,
    /// The cell's key: who does not have it is refused.
    pub credential: Credential,
}

/// What an agent holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processes that run or are remembered. 256: more than people look at, and with full logs a gigabyte.
    pub processes: usize,
    /// Sessions. 1,000: each may hold a megabyte in each direction while its link is down.
    pub sessions: usize,
    /// Connections to each of its sockets. 2,048: a session, a resume of it, and some requests.
    pub connections: usize,
    /// Bytes of output kept for each process. 4 MiB: some 50,000 lines.
    pub log: usize,
    /// For how long nothing may move on a relayed connection of which one direction has ended. Five minutes: longer than
    /// any answer that is still being thought about.
    pub half_closed: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let half_closed = Duration::from_secs(300);
        Self { processes: 256, sessions: 1_000, connections: 2_048, log: 4 << 20, half_closed }
    }
}

impl Config {
    /// An agent beside others in one process, with nothing in its environment and no services.
    pub fn new(instance: InstanceId, generation: Generation, run: PathBuf, state: PathBuf, home: PathBuf) -> Self {
        Self {
            instance,
            generation,
            run,
            state,
            home,
            env: BTreeMap::new(),
            services: BTreeMap::new(),
            browser: None,
            listen: None,
            limits: Limits::default(),
            is_alone: false,
        }
    }

    /// Reads an agent's arguments, each at most once:
    ///
    /// * `--instance ID`; `--run`, `--state` and `--home` with a directory each, or `--dir` with one in which they are made.
    /// * `--generation N`, which may be left out where gateways come without a node: they say it.
    /// * `--spec FILE` with the instance's spec in JSON. A spec holds secrets, which everybody on the machine could read
    ///   among the arguments.
    /// * `--listen HOST:PORT` and `--cell-key FILE`, for an instance that no node runs; `--tls FOLDER` where others could listen.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`], naming the argument.
    pub fn from_arguments(arguments: impl IntoIterator<Item = String>) -> Result<Self, Problem> {
        let mut single = BTreeMap::new();
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| invalid(format!("{name} has no value.")))?;
            if single.insert(name.clone(), value).is_some() {
                return Err(invalid(format!("{name} stands twice.")));
            }
        }
        let spec = single.remove("--spec").map(|path| read_spec(&path)).transpose()?.unwrap_or_default();
        let listen = read_listen(single.remove("--listen"), single.remove("--cell-key"), single.remove("--tls"))?;
        if let Some(dir) = single.remove("--dir") {
            make_directories(Path::new(&dir), &mut single)?;
        }
        if listen.is_some() {
            single.entry("--generation".to_owned()).or_insert_with(|| "0".to_owned());
        }
        let mut take = |name: &str| single.remove(name).ok_or_else(|| invalid(format!("{name} is missing.")));
        let instance = take("--instance")?;
        let instance = instance.parse().map_err(|error| invalid(format!("--instance {instance}: {error}.")))?;
        let generation = take("--generation")?;
        let generation = generation.parse().map_err(|error| invalid(format!("--generation {generation}: {error}.")))?;
        let generation = Generation(generation);
        let (run, state, home) = (take("--run")?, take("--state")?, take("--home")?);
        let config = Self {
            env: spec.env,
            services: spec.services,
            browser: spec.browser,
            listen,
            is_alone: true,
            ..Self::new(instance, generation, run.into(), state.into(), home.into())
        };
        match single.keys().next() {
            None => Ok(config),
            Some(name) => Err(invalid(format!("{name} is no argument of an agent."))),
        }
    }
}

fn read_spec(path: &str) -> Result<InstanceSpec, Problem> {
    let cannot = |why: &dyn std::fmt::Display| invalid(format!("--spec {path}: {why}."));
    let text = std::fs::read(path).map_err(|error| cannot(&error))?;
    serde_json::from_slice(&text).map_err(|error| cannot(&error))
}

fn read_listen(address: Option<String>, key: Option<String>, tls: Option<String>) -> Result<Option<Listen>, Problem> {
    let (address, path) = match (address, key) {
        (None, None) if tls.is_some() => return Err(invalid("--tls needs --listen.".to_owned())),
        (None, None) => return Ok(None),
        (Some(address), Some(path)) => (address, path),
        (Some(_), None) => return Err(invalid("--listen needs --cell-key.".to_owned())),
        (None, Some(_)) => return Err(invalid("--cell-key needs --listen.".to_owned())),
    };
    let address = address.parse().map_err(|error| invalid(format!("--listen {address}: {error}.")))?;
    let text = std::fs::read_to_string(&path).map_err(|error| invalid(format!("--cell-key {path}: {error}.")))?;
    let key = CellKey::from_hex(&text).ok_or_else(|| invalid(format!("--cell-key {path}: it holds no key.")))?;
    let credential = match tls {
        Some(folder) if !Path::new(&folder).exists() => {
            return Err(invalid(format!("--tls {folder}: it is not there.")));
        }
        Some(folder) => Credential::load(key, Path::new(&folder))?,
        None => Credential::plain(key),
    };
    credential.check_listen(address)?;
    Ok(Some(Listen { address, credential }))
}

/// Makes the directories of an agent that nobody else makes them for.
fn make_directories(dir: &Path, single: &mut BTreeMap<String, String>) -> Result<(), Problem> {
    use std::os::unix::fs::DirBuilderExt as _;
    for part in ["run", "state", "home"] {
        let path = dir.join(part);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| invalid(format!("--dir {}: {error}.", dir.display())))?;
        let path = path.to_str().ok_or_else(|| invalid("--dir is not UTF-8.".to_owned()))?.to_owned();
        if single.insert(format!("--{part}"), path).is_some() {
            return Err(invalid(format!("--{part} and --dir are both given; choose one.")));
        }
    }
    Ok(())
}

fn invalid(detail: String) -> Problem {
    Problem::new(ErrorCode::ConfigInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Config, String> {
        Config::from_arguments(line.split(' ').map(str::to_owned)).map_err(|problem| problem.detail)
    }

    #[test]
    fn what_a_node_passes_is_read() {
        let id = InstanceId::new(1, 2);
        let spec = tempfile::NamedTempFile::new().unwrap();
        let text = r#"{"env":{"A":"1","B":"x=y"},"services":{"web":{"port":80,"shell":"serve"}}}"#;
        std::fs::write(spec.path(), text).unwrap();
        let line = format!("--instance {id} --generation 3 --run /r --state /s --home /h");
        let config = read(&format!("{line} --spec {}", spec.path().display())).unwrap();
        assert_eq!((config.instance, config.generation, config.home), (id, Generation(3), "/h".into()));
        assert_eq!(config.env.into_iter().collect::<Vec<_>>(), [("A".into(), "1".into()), ("B".into(), "x=y".into())]);
        assert_eq!(config.services[&"web".parse().unwrap()].port, Some(80));
        assert!(read(&line).unwrap().env.is_empty());
    }

    #[test]
    fn an_agent_without_a_node_is_told_where_to_listen_and_by_which_key() {
        let (id, dir) = (InstanceId::new(1, 2), tempfile::tempdir().unwrap());
        let (key, path) = (CellKey::generate(), dir.path().join("key"));
        std::fs::write(&path, format!("{}\n", key.to_hex())).unwrap();
        let line = format!("--instance {id} --dir {} --listen 127.0.0.1:7", dir.path().display());
        let config = read(&format!("{line} --cell-key {}", path.display())).unwrap();
        assert_eq!(
            config.listen,
            Some(Listen { address: "127.0.0.1:7".parse().unwrap(), credential: Credential::plain(key) })
        );
        assert_eq!((config.generation, config.home.is_dir()), (Generation(0), true));
        for (line, named) in [
            (line.clone(), "--cell-key"),
            (format!("{line} --cell-key /no/such/file"), "/no/such/file"),
            (format!("{line} --cell-key {}", dir.path().display()), "--cell-key"),
            (format!("{line} --cell-key {} --home /h", path.display()), "--home"),
            (format!("--instance {id} --dir {} --cell-key x", dir.path().display()), "--listen"),
            (format!("--instance {id} --dir {}", dir.path().display()), "--generation"),
        ] {
            let said = read(&line).unwrap_err();
            assert!(said.contains(named), "{line}: {said}");
        }
    }

    #[test]
    fn what_is_missing_wrong_or_unknown_is_named() {
        let good = format!("--instance {} --generation 3 --run /r --state /s --home /h", InstanceId::new(1, 2));
        for (line, named) in [
            (good.replace("--home /h", "--hoem /h"), "--home"),
            (good.replace(" 3", " three"), "--generation"),
            (format!("{good} --hom /h"), "--hom"),
            (format!("{good} --run /other"), "--run"),
            (format!("{good} --env A=1"), "--env"),
            (format!("{good} --spec /no/such/file"), "--spec"),
            (format!("{good} --spec"), "--spec"),
        ] {
            let said = read(&line).unwrap_err();
            assert!(said.contains(named), "{line}: {said}");
        }
    }
}
