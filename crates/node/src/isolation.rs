//! How instances are kept apart from each other and from the host: bubblewrap, where it works.
//!
//! `docs/isolation.md` says what is and is not kept apart, and why. Whether it works depends on the kernel, the
//! distribution and the container the daemon may be in, so it is not guessed: at start the very command that wraps
//! agents is run once around `true`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use landfast_core::InstanceId;
use landfast_core::record::{Kind, Network};
use rustix::process::{Resource, geteuid, getrlimit};
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::Isolation;
use crate::dir::InstanceDir;
use crate::launch::{Connection, Launch};
use crate::private_network::{PrivateNetwork, write_resolver};
use crate::process::{MARK, kill_marked};

/// Where an isolated instance finds what is ours. `/run` is its own, so no host path is in the way.
const OURS: &str = "/run/landfast";

/// Its home.
const HOME: &str = "/home/user";

/// Directories of the host that are replaced by writable ones of the instance's own.
const SCRATCH: [&str; 3] = ["/dev/shm", "/tmp", "/var/tmp"];

/// The account of nobody's files, by tradition.
const NOBODY: u32 = 65534;

/// The uid and gid that an isolated instance sees itself as, where they are mapped.
const MAPPED_USER: u32 = 1000;

/// The first of the 2^27 uids that a daemon run by root gives to instances, one each: a range that no distribution's
/// tool hands out (systemd documents 0x70000000 to 0x7fffffff as unused).
const FIRST_USER: u32 = 0x7000_0000;

/// How long the probe may take; a healthy machine needs a tenth of a second, a busy one several times that.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// How instances are kept apart on this node.
#[derive(Debug)]
pub(crate) enum Confinement {
    /// By bubblewrap.
    Bubblewrap(Sandbox),
    /// Not at all, and why.
    None(String),
}

/// Everything about the sandbox that is the same for all instances.
#[derive(Debug)]
pub(crate) struct Sandbox {
    bwrap: PathBuf,
    prlimit: PathBuf,
    /// Present where the daemon is root, which must not be what instances are.
    setpriv: Option<PathBuf>,
    /// Directories of the host that are replaced by empty ones, parents first.
    covers: Vec<PathBuf>,
    /// The resolver's configuration, if the host has one.
    resolver: Option<Resolver>,
    /// What gives an instance a network of its own, or why nothing can.
    private_network: Result<PrivateNetwork, String>,
    processes: u64,
}

/// Where the resolver's configuration really is.
#[derive(Debug)]
struct Resolver {
    path: PathBuf,
    /// It lies under what instances do not see.
    is_hidden: bool,
}

/// How bubblewrap and the daemon speak while a sandbox is made.
#[derive(Debug, Default)]
pub(crate) struct Channels<'a> {
    /// Where bubblewrap says the number of the new pid namespace's first process.
    pub(crate) info: Option<&'a OwnedFd>,
    /// What it reads from before it runs the program.
    pub(crate) gate: Option<&'a OwnedFd>,
}

/// Paths as an agent sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) home: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) spec: PathBuf,
}

impl Confinement {
    /// Finds out how instances can be kept apart here. `place` is a directory below `data` that the probe makes and
    /// removes.
    ///
    /// # Errors
    ///
    /// Why bubblewrap does not work, where the configuration insists on it.
    pub(crate) async fn choose(wanted: Isolation, place: &Path, data: &Path, processes: u32) -> Result<Self, String> {
        let probed = match wanted {
            Isolation::None => return Ok(Self::None("by configuration".to_owned())),
            Isolation::Auto | Isolation::Bubblewrap => probe(place, data, processes).await,
        };
        match probed {
            Ok(sandbox) => Ok(Self::Bubblewrap(sandbox)),
            Err(why) if wanted == Isolation::Bubblewrap => Err(why),
            Err(why) => Ok(Self::None(why)),
        }
    }

    /// What the node's record says.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Bubblewrap(Sandbox { private_network: Ok(_), .. }) => "bubblewrap".to_owned(),
            Self::Bubblewrap(Sandbox { private_network: Err(why), .. }) => {
                format!("bubblewrap, no private networks: {why}")
            }
            Self::None(why) => format!("none: {why}"),
        }
    }

    /// The user that an instance's files must belong to, if not the daemon's.
    pub(crate) fn user(&self, id: InstanceId) -> Option<u32> {
        match self {
            Self::Bubblewrap(Sandbox { setpriv: Some(_), .. }) => Some(user_of(id)),
            Self::Bubblewrap(_) | Self::None(_) => None,
        }
    }

    /// Where an agent finds its directories.
    pub(crate) fn view(&self, dir: &InstanceDir) -> View {
        match self {
            Self::Bubblewrap(_) => {
                let ours = |name: &str| Path::new(OURS).join(name);
                View { home: HOME.into(), run: ours("run"), state: ours("state"), spec: ours("spec.json") }
            }
            Self::None(_) => View { home: dir.home(), run: dir.run(), state: dir.state(), spec: dir.spec() },
        }
    }
}

impl Sandbox {
    /// Which network an instance gets.
    ///
    /// # Errors
    ///
    /// Why not the one that its spec insists on.
    pub(crate) fn connection(&self, kind: Kind, wanted: Network) -> Result<Connection<'_>, String> {
        match (wanted, kind, &self.private_network) {
            (Network::Private, _, Err(why)) => Err(format!("network: private does not work on this node: {why}.")),
            (Network::Private, _, Ok(private)) | (Network::Auto, Kind::Browser, Ok(private)) => {
                Ok(Connection::Private(private))
            }
            (Network::Auto, Kind::Browser, Err(_)) | (Network::Auto, Kind::Sandbox | Kind::Actor, _) => {
                Ok(Connection::Plain(Network::Host))
            }
            (Network::Host | Network::None, _, _) => Ok(Connection::Plain(wanted)),
        }
    }

    /// The command that runs `program` isolated.
    ///
    /// # Errors
    ///
    /// If the instance's own files (its passwd and group) cannot be written.
    pub(crate) fn wrap(
        &self,
        dir: &InstanceDir,
        id: InstanceId,
        network: Network,
        channels: &Channels<'_>,
        program: &[OsString],
    ) -> io::Result<Vec<OsString>> {
        let mut line = Line(vec![self.bwrap.clone().into_os_string()]);
        let user = if self.setpriv.is_some() { user_of(id) } else { MAPPED_USER };
        self.add_namespaces(&mut line, id, network);
        channels.add(&mut line);
        let resolver = if network == Network::Private { Some(write_resolver(dir)?) } else { None };
        self.add_root(&mut line, resolver.as_deref());
        self.add_own(&mut line, dir, user, program)?;
        line.add(["--cap-drop", "ALL"]);
        if self.setpriv.is_some() {
            // Only until setpriv has used them, below.
            line.add(["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]);
        }
        line.add(["--chdir", "/", "--"]);
        self.add_program(&mut line, user, program);
        Ok(line.0)
    }

    fn add_namespaces(&self, line: &mut Line, id: InstanceId, network: Network) {
        line.add(["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]);
        line.add(["--hostname", &id.to_string()]);
        if self.setpriv.is_none() {
            let user = MAPPED_USER.to_string();
            line.add(["--unshare-user", "--uid", &user, "--gid", &user]);
        }
        match network {
            Network::Auto | Network::Host => {}
            Network::Private | Network::None => {
                line.add(["--unshare-net"]);
            }
        }
    }

    /// The host's root, read-only, with the private and the hidden parts replaced, and the resolver's configuration if the
    /// host's is not right for it.
    fn add_root(&self, line: &mut Line, resolver: Option<&Path>) {
        line.add(["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]);
        for scratch in SCRATCH {
            line.add(["--perms", "1777", "--tmpfs", scratch]);
        }
        for cover in &self.covers {
            line.add(["--perms", "0755", "--tmpfs"]).add([cover]);
        }
        if let Some(at) = &self.resolver
            && (at.is_hidden || resolver.is_some())
        {
            line.add(["--ro-bind"]).add([resolver.unwrap_or(&at.path), &at.path]);
        }
    }

    /// What belongs to this instance.
    fn add_own(&self, line: &mut Line, dir: &InstanceDir, user: u32, program: &[OsString]) -> io::Result<()> {
        line.add(["--perms", "0755", "--dir", OURS]);
        line.add(["--bind"]).add([dir.home()]).add([HOME]);
        line.add(["--bind"]).add([dir.run()]).add([format!("{OURS}/run")]);
        line.add(["--bind"]).add([dir.state()]).add([format!("{OURS}/state")]);
        // The probe has none.
        if dir.spec().is_file() {
            line.add(["--ro-bind"]).add([dir.spec()]).add([format!("{OURS}/spec.json")]);
        }
        if let Some(executable) = program.first() {
            line.add(["--ro-bind"]).add([executable]).add([format!("{OURS}/bin")]);
        }
        for (name, text) in [("passwd", passwd(user)), ("group", group(user))] {
            let (inside, outside) = (Path::new("/etc").join(name), dir.file(name));
            if inside.is_file() {
                fs::write(&outside, text)?;
                line.add(["--ro-bind"]).add([&outside, &inside]);
            }
        }
        for cover in &self.covers {
            line.add(["--remount-ro"]).add([cover]);
        }
        Ok(())
    }

    fn add_program(&self, line: &mut Line, user: u32, program: &[OsString]) {
        if let Some(setpriv) = &self.setpriv {
            let user = user.to_string();
            line.add([setpriv]).add(["--reuid", &user, "--regid", &user, "--clear-groups", "--inh-caps=-all", "--"]);
        }
        line.add([&self.prlimit]).add([format!("--nproc={0}:{0}", self.processes)]).add(["--"]);
        if let Some((_, arguments)) = program.split_first() {
            line.add([format!("{OURS}/bin")]).add(arguments);
        }
    }
}

impl<'a> Channels<'a> {
    /// What bubblewrap must be given of them.
    pub(crate) fn all(&self) -> Vec<&'a OwnedFd> {
        self.info.into_iter().chain(self.gate).collect()
    }

    fn add(&self, line: &mut Line) {
        for (name, descriptor) in [("--info-fd", self.info), ("--block-fd", self.gate)] {
            if let Some(descriptor) = descriptor {
                line.add([name, &descriptor.as_raw_fd().to_string()]);
            }
        }
    }
}

/// A command line under construction.
struct Line(Vec<OsString>);

impl Line {
    fn add<T: Into<OsString>>(&mut self, words: impl IntoIterator<Item = T>) -> &mut Self {
        self.0.extend(words.into_iter().map(Into::into));
        self
    }
}

/// Runs `true` in the sandbox, in a place like an instance's.
async fn probe(place: &Path, data: &Path, processes: u32) -> Result<Sandbox, String> {
    let mut sandbox = Sandbox::find(data, processes)?;
    let dir = InstanceDir::at(place.to_owned());
    let tried = try_out(&sandbox, &dir).await;
    if let (Ok(()), Ok(network)) = (&tried, &sandbox.private_network)
        && let Err(why) = try_network(&sandbox, network, &dir).await
    {
        sandbox.private_network = Err(why);
    }
    if let Err(error) = fs::remove_dir_all(place) {
        tracing::debug!(%error, "the probe's directory stays until the next start");
    }
    tried.map(|()| sandbox)
}

async fn try_out(sandbox: &Sandbox, dir: &InstanceDir) -> Result<(), String> {
    let id = landfast_net::random::instance_id();
    let user = sandbox.setpriv.as_ref().map(|_| user_of(id));
    dir.create(user).map_err(|error| format!("the probe's directory cannot be made: {error}"))?;
    let program = [find_program("true")?.into_os_string()];
    let line = sandbox.wrap(dir, id, Network::Host, &Channels::default(), &program);
    let line = line.map_err(|error| error.to_string())?;
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(PROBE_DEADLINE, command.output()).await {
        Ok(output) => output.map_err(|error| format!("bubblewrap does not start: {error}"))?,
        Err(_) => return Err("bubblewrap did not finish in time".to_owned()),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("bubblewrap does not work here: {}", said.lines().next().unwrap_or("it said nothing")))
}

/// Connects a sandbox in which nothing much is run, and takes both away.
async fn try_network(sandbox: &Sandbox, network: &PrivateNetwork, dir: &InstanceDir) -> Result<(), String> {
    let id = landfast_net::random::instance_id();
    let program = [find_program("sleep")?.into_os_string(), PROBE_DEADLINE.as_secs().to_string().into()];
    let environment = vec![(MARK, id.to_string().into())];
    let launch = Launch { id, dir, program: &program, environment };
    let made = launch.isolated(sandbox, Connection::Private(network)).await;
    let cleared = kill_marked(id, None).await;
    made.map(drop).and(cleared).map_err(|error| format!("slirp4netns does not work here: {error}"))
}

impl Sandbox {
    fn find(data: &Path, processes: u32) -> Result<Self, String> {
        let bwrap = find_program("bwrap").map_err(|_| "bubblewrap is not installed".to_owned())?;
        let setpriv = if geteuid().is_root() { Some(find_program("setpriv")?) } else { None };
        let covers = covers(data);
        let hidden = |path: &PathBuf| {
            covers.iter().any(|cover| path.starts_with(cover))
                || SCRATCH.iter().any(|scratch| path.starts_with(scratch))
        };
        let resolver = fs::canonicalize("/etc/resolv.conf").ok();
        let resolver = resolver.map(|path| Resolver { is_hidden: hidden(&path), path });
        // A limit may be lowered, never raised.
        let most = getrlimit(Resource::Nproc).maximum.unwrap_or(u64::MAX);
        let processes = u64::from(processes).min(most);
        let private_network = PrivateNetwork::find();
        Ok(Self { bwrap, prlimit: find_program("prlimit")?, setpriv, covers, resolver, private_network, processes })
    }
}

/// What of the host is replaced by an empty directory: our own data, everybody's home, and the sockets of its services.
fn covers(data: &Path) -> Vec<PathBuf> {
    let homes = fs::read_to_string("/etc/passwd").map(|text| people(&text)).unwrap_or_default();
    let fixed = ["/run", "/root", "/home", "/etc/landfast"].map(PathBuf::from);
    let own_home = std::env::var_os("HOME").map(PathBuf::from);
    let personal = homes.into_iter().chain(own_home).filter(|home| is_personal(home));
    let wanted = fixed.into_iter().chain([data.to_owned()]).chain(personal);
    let mut found: Vec<PathBuf> =
        wanted.filter_map(|path| fs::canonicalize(path).ok()).filter(|path| path.is_dir()).collect();
    found.sort();
    let mut covers: Vec<PathBuf> = Vec::new();
    for path in found {
        let covered = covers.iter().any(|cover| path.starts_with(cover));
        if !covered && !SCRATCH.iter().any(|scratch| path.starts_with(scratch)) {
            covers.push(path);
        }
    }
    covers
}

/// The homes of people (and root) in a passwd file.
fn people(passwd: &str) -> Vec<PathBuf> {
    let home = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let uid: u32 = fields.get(2)?.parse().ok()?;
        let is_person = uid == 0 || (1000..FIRST_USER).contains(&uid) && uid != NOBODY;
        fields.get(5).filter(|_| is_person).map(PathBuf::from)
    };
    passwd.lines().filter_map(home).collect()
}

/// Whether hiding this directory hides a home and not a part of the system that programs need.
fn is_personal(home: &Path) -> bool {
    let system = ["/usr", "/etc", "/bin", "/sbin", "/lib", "/var", "/opt", "/srv", "/dev", "/proc", "/sys", "/tmp"];
    home.is_absolute() && !system.iter().any(|path| Path::new(path).starts_with(home))
}

/// The host's accounts without its people, and the instance's own user.
fn passwd(user: u32) -> String {
    let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    format!("{}user:x:{user}:{user}:Landfast instance:{HOME}:{shell}\n", accounts("/etc/passwd"))
}

fn group(user: u32) -> String {
    format!("{}user:x:{user}:\n", accounts("/etc/group"))
}

/// The lines of system accounts: below 1000, and nobody's.
fn accounts(file: &str) -> String {
    let is_system = |line: &&str| {
        let id: Option<u32> = line.split(':').nth(2).and_then(|id| id.parse().ok());
        id.is_some_and(|id| id < 1000 || id == NOBODY) && !line.starts_with("user:")
    };
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(is_system).flat_map(|line| [line, "\n"]).collect()
}

/// The uid of an instance where each has its own: 27 bits of a hash (FNV-1a) of its id, so that it stays the same over
/// restarts with nothing to remember. Two instances that share one are still apart by their namespaces.
fn user_of(id: InstanceId) -> u32 {
    let hash =
        id.to_string().bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    FIRST_USER | (hash >> 5)
}

/// Finds a program of the system.
///
/// # Errors
///
/// That it is not installed.
pub(crate) fn find_program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).filter(|place| place.is_absolute()).chain(usual);
    let found = places.find_map(|place| Some(place.join(name)).filter(|program| program.is_file()));
    found.ok_or_else(|| format!("{name} is not installed"))
}

#[cfg(test)]
mod tests {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::*;

    #[test]
    fn homes_of_people_are_hidden_and_the_system_is_not() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbin:x:2:2::/bin:/bin/sh\nada:x:1000:1000::/data/ada:/bin/sh\n\
                      odd:x:1001:1001::/:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n";
        let homes: Vec<_> = people(passwd).into_iter().filter(|home| is_personal(home)).collect();
        assert_eq!(homes, ["/root", "/data/ada"].map(PathBuf::from));
    }

    #[test]
    fn covers_hide_the_data_and_do_not_nest() {
        let covers = covers(Path::new("/usr/share"));
        assert!(covers.contains(&"/usr/share".into()) && covers.contains(&"/root".into()), "{covers:?}");
        for cover in &covers {
            assert!(covers.iter().all(|other| other == cover || !cover.starts_with(other)), "{covers:?}");
        }
    }

    #[test]
    fn a_user_of_its_own_is_the_same_every_time_and_nobody_elses() {
        let (one, two) = (landfast_net::random::instance_id(), landfast_net::random::instance_id());
        assert_eq!(user_of(one), user_of(one));
        assert_ne!(user_of(one), user_of(two));
        assert!((0x7000_0000..=0x7fff_ffff).contains(&user_of(one)));
    }

    #[test]
    fn the_instance_has_a_name_and_the_hosts_people_have_none() {
        let text = passwd(1000);
        assert!(
            text.ends_with(&format!("user:x:1000:1000:Landfast instance:{HOME}:{}\n", "/bin/bash"))
                || text.contains("/bin/sh")
        );
        assert!(text.contains("root:x:0:"));
        assert!(accounts("/etc/passwd").lines().all(|line| !line.contains(":1000:")));
    }

    /// Takes what a test has mounted off again.
    struct Mounted(Vec<PathBuf>);

    impl Drop for Mounted {
        fn drop(&mut self) {
            for place in self.0.iter().rev() {
                let _ = umount2(place, MntFlags::MNT_DETACH);
            }
        }
    }

    /// A directory whose mounts every namespace of mounts is told of, as `/run/netns` is, with a mount in it.
    fn shared_mount(place: &Path) -> nix::Result<Mounted> {
        let none: Option<&str> = None;
        let mut mounted = Mounted(Vec::new());
        mount(Some(place), place, none, MsFlags::MS_BIND, none)?;
        mounted.0.push(place.to_owned());
        mount(none, place, none, MsFlags::MS_SHARED, none)?;
        fs::create_dir(place.join("inner")).expect("it is ours");
        mount(Some("test"), &place.join("inner"), Some("tmpfs"), MsFlags::empty(), none)?;
        mounted.0.push(place.join("inner"));
        Ok(mounted)
    }

    #[tokio::test]
    async fn the_network_of_an_instance_leaves_the_hosts_mounts_alone() {
        let shared = tempfile::tempdir().unwrap();
        // Only root has the bug to have, and not every root may mount.
        let Ok(_mounted) = shared_mount(shared.path()) else { return };
        let data = tempfile::tempdir().unwrap();
        let chosen = Confinement::choose(Isolation::Auto, &data.path().join("probe"), data.path(), 64).await;
        let Ok(Confinement::Bubblewrap(Sandbox { private_network: Ok(_), .. })) = chosen else { return };
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let inner = shared.path().join("inner");
        assert!(mounts.contains(&*inner.to_string_lossy()), "taken off: {}", inner.display());
    }
}
