//! What can be said on the command line.

mod create;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use landfast_client::From;
use landfast_core::id::KeyId;
use landfast_core::{InstanceId, ProcessId, ServiceName, TokenId};

pub use create::{Create, Kind, Limit, Listed, Network, Outside, Restart};

/// Keeps clients attached to sandboxes that restart, move and lose their network.
#[derive(Debug, Parser)]
#[command(name = "landfast", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The data directory, shared by all Landfast processes of the machine [default: ~/.local/share/landfast]
    #[arg(
        long,
        global = true,
        env = "LANDFAST_DATA",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub data: Option<OsString>,
    /// The store of a cell on many machines, for its roles: etcd://host:port,host:port [default: in the data directory]
    #[arg(
        long,
        global = true,
        env = "LANDFAST_STORE",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub store: Option<String>,
    /// Where the cell is; several gateways of it are separated by commas [default: where `landfast up` listens]
    #[arg(
        long,
        global = true,
        env = "LANDFAST_URL",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub url: Option<String>,
    /// The authority, PEM, that alone vouches for a cell at https:// [default: those of the machine]
    #[arg(
        long,
        global = true,
        env = "LANDFAST_CA",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub ca: Option<OsString>,
    /// The API key [default: the one in the data directory]
    #[arg(
        long,
        global = true,
        env = "LANDFAST_API_KEY",
        hide_env_values = true,
        value_name = "KEY",
        help_heading = "Global options"
    )]
    pub api_key: Option<String>,
    /// Use no colours [also: NO_COLOR]
    #[arg(long, global = true, help_heading = "Global options")]
    pub no_color: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cell in this process
    Up(Up),
    /// Run an API server
    Api(Api),
    /// Run a gateway
    Gateway(Gateway),
    /// Run a node
    Node(NodeArgs),
    /// Run the process that stands beside an instance: nodes do for theirs, and you beside an external one
    #[command(after_help = AGENT_HELP)]
    Agent(Agent),

    /// Create an instance and wait until it runs
    Create(Create),
    /// List instances
    Ls(Ls),
    /// Show an instance
    Get(Get),
    /// Run a command in an instance
    Exec(Exec),
    /// Attach to a process that runs
    Attach(AttachArgs),
    /// Copy files between this machine and an instance, or between two instances
    #[command(after_help = CP_HELP)]
    Cp(Cp),
    /// Show what happens in an instance, or has happened
    Events(Events),
    /// Show what a service of an instance says
    Logs(Logs),
    /// Show the services of an instance
    Services(Services),
    /// Bring a server inside an instance to a port of this machine
    Forward(Forward),
    /// Move an instance to another node
    Move(Move),
    /// Put an instance to sleep; the next request wakes it
    Sleep(Sleep),
    /// Wake an instance
    Wake(Wake),
    /// Say how an external instance moves
    #[command(subcommand)]
    External(External),
    /// Delete instances
    Rm(Rm),
    /// Stop instances and keep their records
    Stop(Stop),
    /// Make, list and take back API keys
    #[command(subcommand)]
    Key(Key),
    /// Make and take back access tokens
    #[command(subcommand)]
    Token(Token),
    /// Make the certificates by which the roles on several machines know each other
    #[command(subcommand)]
    Ca(Ca),
    /// Show how the cell is
    Status(Status),
    /// Find the leg that is broken, between this machine and the agents
    #[command(after_help = NETCHECK_HELP)]
    Netcheck(Netcheck),
    /// Cut, kill and move a small cell under load, and count what is lost
    Demo(Demo),
    /// The program that the demo runs in its instance
    #[command(hide = true)]
    DemoPeer(DemoPeer),
    /// Print a completion script
    Completion {
        /// The shell it is for
        shell: clap_complete::Shell,
    },
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The choice of a format.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// How to print the answer
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

/// `landfast up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Where clients connect; port 0 takes any free one [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// A TOML file with the sections api, gateway and node
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `landfast api`.
#[derive(Debug, Args)]
pub struct Api {
    /// Where it listens
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where nodes with --reverse bring their connections
    #[arg(long, value_name = "ADDRESS")]
    pub relay_listen: Option<SocketAddr>,
    /// A TOML file; its section api counts
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `landfast gateway`.
#[derive(Debug, Args)]
pub struct Gateway {
    /// Where clients connect
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where nodes with --reverse bring their connections
    #[arg(long, value_name = "ADDRESS")]
    pub relay_listen: Option<SocketAddr>,
    /// A TOML file; its section gateway counts
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `landfast node`, and the verbs about nodes.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NodeArgs {
    /// A verb about nodes; none runs one.
    #[command(subcommand)]
    pub verb: Option<NodeVerb>,
    /// The node to run.
    #[command(flatten)]
    pub node: Node,
}

/// A verb about nodes.
#[derive(Debug, Subcommand)]
pub enum NodeVerb {
    /// List the live nodes
    Ls(Ls),
    /// Give a node nothing new; what it runs goes on
    Drain {
        /// The node, by name or id
        node: String,
    },
    /// Give a drained node instances again
    Undrain {
        /// The node, by name or id; by id if it is not live
        node: String,
    },
}

/// `landfast node`.
#[derive(Debug, Args)]
pub struct Node {
    /// A short name, unique in the cell [default: the host name]
    #[arg(long)]
    pub name: Option<String>,
    /// Where its relay listens
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// The relay's address as gateways reach it
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// It cannot be dialled: it dials gateways and API servers with --relay-listen instead
    #[arg(long)]
    pub reverse: bool,
    /// How many instances it is willing to run
    #[arg(long, value_name = "N")]
    pub capacity: Option<u32>,
    /// A label that instances may ask for; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// A TOML file; its section node counts
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What `landfast agent` is for, where no node runs the instance.
const AGENT_HELP: &str = "\
Beside an external instance, processes, terminals and services run under this agent, and their connections outlive links as \
those of any other instance. Create the instance with --external-agent and the address under which gateways reach --listen.";

/// `landfast agent`.
#[derive(Debug, Args)]
pub struct Agent {
    /// The instance it stands beside
    #[arg(long, value_name = "ID")]
    pub instance: InstanceId,
    /// A directory for its sockets, its records and the home of its processes; made if it is not there
    #[arg(long, value_name = "DIR", required_unless_present_all = ["run", "state", "home"])]
    pub dir: Option<String>,
    /// Where gateways reach it, where no node runs the instance; whoever comes needs the cell's key
    #[arg(long, value_name = "ADDRESS", requires = "cell_key")]
    pub listen: Option<String>,
    /// The cell's key: a copy of cell.key in the cell's data directory
    #[arg(long, value_name = "FILE", requires = "listen")]
    pub cell_key: Option<String>,
    /// The certificates of `landfast ca issue node`; needed unless it listens on loopback
    #[arg(long, value_name = "DIR", requires = "listen")]
    pub tls: Option<String>,
    /// The instance's spec as JSON, for its environment and its services
    #[arg(long, value_name = "FILE")]
    pub spec: Option<String>,
    /// What only a node says.
    #[command(flatten)]
    pub node: AgentOfNode,
}

/// What only a node tells its agent.
#[derive(Debug, Args)]
pub struct AgentOfNode {
    /// The generation it is started for.
    #[arg(long, hide = true)]
    pub generation: Option<String>,
    /// Where its sockets go.
    #[arg(long, hide = true)]
    pub run: Option<String>,
    /// Where its records go.
    #[arg(long, hide = true)]
    pub state: Option<String>,
    /// The home of its processes.
    #[arg(long, hide = true)]
    pub home: Option<String>,
}

impl Agent {
    /// The arguments as the agent itself reads them.
    pub fn arguments(self) -> impl Iterator<Item = String> {
        let AgentOfNode { generation, run, state, home } = self.node;
        let said = [
            ("--instance", Some(self.instance.to_string())),
            ("--dir", self.dir),
            ("--listen", self.listen),
            ("--cell-key", self.cell_key),
            ("--tls", self.tls),
            ("--spec", self.spec),
            ("--generation", generation),
            ("--run", run),
            ("--state", state),
            ("--home", home),
        ];
        said.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])).flatten()
    }
}

/// `landfast ls` and `landfast node ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `landfast get`.
#[derive(Debug, Args)]
pub struct Get {
    /// The instance
    pub id: InstanceId,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `landfast exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal; implies -i
    #[arg(short, long)]
    pub tty: bool,
    /// A variable for the command; may be repeated
    #[arg(long = "env", short = 'e', value_name = "KEY=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// The directory it starts in
    #[arg(long, short = 'w', value_name = "DIR")]
    pub cwd: Option<String>,
    /// The instance
    pub id: InstanceId,
    /// The command and its arguments; a login shell if there is none and -t
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `landfast attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The instance
    pub id: InstanceId,
    /// The process; without it the one that runs
    pub process: Option<ProcessId>,
    /// Where to begin: start, screen, now, or an offset [default: screen with a terminal, else start]
    #[arg(long, value_parser = from)]
    pub from: Option<From>,
    /// Send nothing
    #[arg(long)]
    pub read_only: bool,
}

/// `landfast move`.
#[derive(Debug, Args)]
pub struct Move {
    /// The instance
    pub id: InstanceId,
    /// The node, by name or id
    pub node: String,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `landfast events`.
#[derive(Debug, Args)]
pub struct Events {
    /// The instance's id
    pub id: InstanceId,
    /// Show what happens from now on, or after --from; without either, everything that was stored, also after the
    /// instance's end
    #[arg(short, long)]
    pub follow: bool,
    /// Only these types
    #[arg(long = "type", value_name = "TYPE,…", value_delimiter = ',')]
    pub kinds: Vec<String>,
    /// Follow from after this event's id; `start` is the oldest that is remembered
    #[arg(long, value_name = "ID")]
    pub from: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `landfast logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// The instance's id
    pub id: InstanceId,
    /// The service [default: the only one, or the browser]
    pub service: Option<ServiceName>,
    /// Go on with what it says from now on
    #[arg(short, long)]
    pub follow: bool,
    /// The offset to begin at
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    pub from: u64,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `landfast services`.
#[derive(Debug, Args)]
pub struct Services {
    /// The instance
    pub id: InstanceId,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `landfast forward`.
#[derive(Debug, Args)]
pub struct Forward {
    /// The instance
    pub id: InstanceId,
    /// A service's name, a port there, or cdp for a browser
    pub place: String,
    /// Where to listen: a port, or an address with one; 0 takes any free port
    #[arg(default_value = "0", value_name = "[ADDRESS:]PORT", value_parser = local)]
    pub listen: SocketAddr,
}

/// `landfast sleep`.
#[derive(Debug, Args)]
pub struct Sleep {
    /// The instance
    pub id: InstanceId,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `landfast wake`.
#[derive(Debug, Args)]
pub struct Wake {
    /// The instance
    pub id: InstanceId,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `landfast external`: what its platform says of an instance that runs elsewhere.
#[derive(Debug, Subcommand)]
pub enum External {
    /// It is being moved: from now on whatever is for it waits, for ten minutes at most
    Begin {
        /// The instance
        id: InstanceId,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// It has moved
    Commit {
        /// The instance
        id: InstanceId,
        /// Where its agent listens now, if that has changed
        #[arg(long, value_name = "HOST:PORT")]
        agent: Option<String>,
        /// Where a service listens now, if that has changed; may be repeated
        #[arg(long = "service", value_name = "NAME=HOST:PORT", value_parser = create::outside)]
        services: Vec<Outside>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// It stays where it is
    Abort {
        /// The instance
        id: InstanceId,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
}

/// `landfast rm`.
#[derive(Debug, Args)]
pub struct Rm {
    /// The instances
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<InstanceId>,
}

/// `landfast stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// The instances
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<InstanceId>,
}

/// `landfast key`.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key, which is shown once
    Create {
        /// Who will use it, or what for
        name: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// List the keys
    Ls {
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Take keys back; the last one stays
    Rm {
        /// The keys' ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<KeyId>,
    },
}

/// `landfast ca`.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make a cell's authority, which is kept apart from its machines
    Init {
        /// The folder to make it in
        dir: PathBuf,
    },
    /// Issue a certificate for the roles of one machine
    Issue {
        /// What the machine runs
        #[arg(required = true, value_enum)]
        roles: Vec<RoleName>,
        /// The folder of the authority
        #[arg(long, value_name = "DIR")]
        ca: OsString,
        /// The folder to write, which becomes `tls` in the machine's data directory
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// For how many days it is good
        #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
}

/// A role that has certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// `landfast node`, or an agent that listens
    Node,
    /// `landfast gateway`
    Gateway,
    /// `landfast api`
    Api,
}

/// `landfast token`.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token for one instance
    Create {
        /// The instance
        id: InstanceId,
        /// How many seconds it is valid [default: the cell's]
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        ttl: Option<Duration>,
        /// What it allows; may be repeated [default: all]
        #[arg(long, value_name = "SCOPE")]
        scope: Vec<Scope>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Take a token back; sessions that use it end
    Revoke {
        /// The token's id
        id: TokenId,
    },
}

/// What a token allows.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Scope {
    /// Everything in the instance.
    All,
    /// Its processes.
    Process,
    /// Its browser.
    Browser,
    /// Its events.
    Telemetry,
    /// Its files.
    Files,
}

/// What `landfast cp` says at the end of its help.
const NETCHECK_HELP: &str = "\
Each gateway of --url is asked by itself, then it looks at its own legs: whether the registry answers it, an API server, \
and every node's relay, which says how its lease and its agents are. What lies behind a broken leg cannot be seen. \
Without an API key only the gateways are looked at. The exit status is 1 if a leg is broken.";

const CP_HELP: &str = "\
SRC and DST are paths of this machine, or ID:PATH, a path in an instance: absolute, or from its home. At least one \
is in an instance.

A file is copied to DST, or into DST if that is a directory or ends in a slash. It is put in place whole: a copy that \
breaks off leaves what was there. A directory needs -r; it becomes DST, or goes into DST if that is there, and SRC/. \
stands for what is in it. Modes are kept, times and symbolic links as well within a directory; owners are not, and \
sockets, pipes and devices are left out.

With - for SRC or DST a file's bytes are read from standard input or written to standard output, and with -r a tar \
stream.

  landfast cp report.csv ID:            into the instance's home
  landfast cp -r ID:/var/log logs       a directory
  landfast cp -r ID:src/. OTHER:src     from one instance to another
  landfast cp -r ID:data - | tar -tv    as a tar stream";

/// `landfast cp`.
#[derive(Debug, Args)]
pub struct Cp {
    /// What is copied
    #[arg(value_name = "SRC")]
    pub source: String,
    /// Where to
    #[arg(value_name = "DST")]
    pub target: String,
    /// Copy a directory with all that is in it
    #[arg(short, long)]
    pub recursive: bool,
    /// Let a tree that comes from an instance bring symbolic links that lead out of it; they are not followed
    #[arg(long)]
    pub outside_links: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `landfast netcheck`.
#[derive(Debug, Args)]
pub struct Netcheck {
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `landfast status`.
#[derive(Debug, Args)]
pub struct Status {
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `landfast demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// How long to make trouble; starting and counting take a few seconds more
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(4..=3600))]
    pub seconds: u64,
    /// Repeat a run's numbers and the pauses between its faults [default: a new one, printed]
    #[arg(long)]
    pub seed: Option<u64>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `landfast demo-peer`.
#[derive(Debug, Args)]
pub struct DemoPeer {
    /// Which numbers to say; it expects those of the next seed
    #[arg(long)]
    pub seed: u64,
    /// How fast
    #[arg(long)]
    pub bytes_per_second: u64,
}

/// A place to listen on this machine: nobody else's unless an address is said.
fn local(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse().map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)));
    port.or_else(|_| text.parse())
        .map_err(|_| "write a port such as 9222, or an address such as 0.0.0.0:9222".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "write a whole number of seconds".to_owned())
}

fn from(text: &str) -> Result<From, String> {
    match text {
        "start" => Ok(From::Start),
        "screen" => Ok(From::Screen),
        "now" => Ok(From::Now),
        offset => offset.parse().map(From::Offset).map_err(|_| "write start, screen, now, or an offset".to_owned()),
    }
}

/// The command line without what people do not use by themselves, for completions.
pub fn visible() -> clap::Command {
    let whole = Cli::command();
    let shown: Vec<_> = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let bare = clap::Command::new("landfast").version(env!("CARGO_PKG_VERSION"));
    Global::augment_args(bare).subcommands(shown)
}

#[cfg(test)]
mod tests {

    use super::*;

    const ID: &str = "ins_00000000000000000000000000";

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace().map(|word| if word == "ID" { ID } else { word }))
            .map(|cli| cli.command)
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_commands_own_flags_reach_it_with_and_without_dashes() {
        for line in ["landfast exec -i ID ls -l --color", "landfast exec -i ID -- ls -l --color"] {
            let Ok(Command::Exec(exec)) = parse(line) else { panic!("{line}") };
            assert_eq!((exec.interactive, exec.command.join(" ").as_str()), (true, "ls -l --color"));
        }
    }

    #[test]
    fn the_authority_of_a_cells_machines_is_not_taken_for_that_of_its_clients() {
        let Ok(Command::Ca(Ca::Issue { ca, .. })) = parse("landfast ca issue --ca /made --out /o node") else {
            panic!()
        };
        assert_eq!(ca, "/made");
    }

    #[test]
    fn what_a_node_tells_an_agent_reaches_it_as_it_is() {
        let arguments = format!("--instance {ID} --generation 3 --run /r --state /s --home /h");
        let Ok(Command::Agent(agent)) = parse(&format!("landfast agent {arguments}")) else { panic!("{arguments}") };
        assert_eq!(agent.arguments().collect::<Vec<_>>().join(" "), arguments);
    }

    #[test]
    fn an_agent_that_no_node_runs_needs_an_address_with_a_key() {
        let line = format!("landfast agent --instance {ID} --dir /d");
        assert!(parse(&format!("{line} --listen 127.0.0.1:7 --cell-key /k")).is_ok());
        for wrong in ["--listen 127.0.0.1:7", "--cell-key /k"] {
            assert!(parse(&format!("{line} {wrong}")).is_err(), "{wrong}");
        }
        assert!(parse(&format!("landfast agent --instance {ID} --run /r")).is_err());
    }

    #[test]
    fn node_runs_one_and_node_ls_lists_them() {
        let Ok(Command::Node(node)) = parse("landfast node --name a --label zone=x") else { panic!() };
        assert_eq!((node.node.name.as_deref(), node.verb.is_none()), (Some("a"), true));
        let listed = parse("landfast node ls -o json").unwrap();
        assert!(matches!(listed, Command::Node(NodeArgs { verb: Some(_), .. })), "{listed:?}");
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in ["landfast --url http://x ls", "landfast ls --url http://x"] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap().global.url.as_deref(), Some("http://x"));
        }
    }

    #[test]
    fn what_is_wrong_says_what_to_write_and_exits_with_2() {
        for (line, hint) in [
            ("landfast get nod_1", "ins_"),
            ("landfast create --label x", "KEY=VALUE"),
            ("landfast create --service web", "NAME=PORT:COMMAND LINE"),
            ("landfast create --service web=80", "NAME=PORT:COMMAND LINE"),
            ("landfast create --service web=0:x", "NAME=PORT:COMMAND LINE"),
            ("landfast create --service Web=80:x", "a-z"),
            ("landfast create --limit pace=3", "in-flight=N"),
            ("landfast create --external web", "NAME=HOST:PORT"),
            ("landfast create --external web=h:1 --service web=80:x", "cannot be used with"),
            ("landfast create --ready-path /up", "--service"),
            ("landfast key rm ID", "key_"),
            ("landfast attach ID --from end", "an offset"),
            ("landfast create bowser", "browser"),
            ("landfast lst", "ls"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.to_string().contains(hint) && error.exit_code() == 2, "{line}: {error}");
        }
    }
}
