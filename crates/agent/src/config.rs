//! What an agent is told when it is started.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use landfast_core::record::{Generation, InstanceSpec, Service};
use landfast_core::{ErrorCode, InstanceId, Problem, ServiceName};

/// An agent's configuration. Its node makes it; no person does.
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
    /// What it holds at most.
    pub limits: Limits,
    /// Whether the agent has its process to itself. It then takes in the instance's orphans, which means waiting for every
    /// child that it did not start, and obeys signals.
    pub is_alone: bool,
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
            limits: Limits::default(),
            is_alone: false,
        }
    }

    /// Reads the arguments that a node passes: `--instance`, `--generation`, `--run`, `--state`, `--home` once each, and
    /// `--spec` with the path of a file that holds the instance's spec in JSON. A spec holds secrets, which everybody on
    /// the machine could read among the arguments.
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
