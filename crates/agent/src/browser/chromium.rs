//! How Chromium is started, and how a start of it is known to be up.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use landfast_core::cdp::START_BUDGET;
use landfast_core::record::{Browser as Spec, ServiceRestart};
use landfast_core::supervise::{Patience, Policy};
use landfast_core::{ErrorCode, Problem, ServiceName};
use landfast_net::socket::Socket;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::client::Client;
use super::devtools::DevTools;
use super::flags;
use super::sandbox::Sandbox;
use crate::config::Config;
use crate::spawn::Plan;

/// The longest pause between two starts: what somebody who has just repaired the cause waits at most.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// A browser that cannot start says so within a minute.
const PATIENCE: Patience = Patience { ends: 10, within: Duration::from_secs(60) };

/// How long one probe may take: the first answer of a browser on a busy machine takes some 100 ms.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a browser that is up may answer nothing, if its spec does not say. A question is answered within milliseconds,
/// and within seconds where a machine is so busy that nothing else on it works either.
const SILENCE: Duration = Duration::from_secs(30);

/// Between two attempts to ask a browser that accepts no connection.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// The longest that one attempt waits for an answer; the supervisor's patience is over sooner, unless a spec asks for more.
const LOOK_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a probe waits for the file that says where to look: so long is the supervisor's own pause.
const FILE_PATIENCE: Duration = Duration::from_millis(250);

/// Between looks for that file.
const FILE_PAUSE: Duration = Duration::from_millis(5);

/// What keeps a browser that died from being started again, unless it is taken away: its lock names a process by its number,
/// which may be another's by now.
const LOCKS: [&str; 3] = ["SingletonLock", "SingletonCookie", "SingletonSocket"];

/// What the name of a directory begins with in which Chromium keeps its lock's socket.
const SOCKET_DIR: &str = "org.chromium.Chromium.";

/// Chromium, as this instance runs it.
#[derive(Debug)]
pub(crate) struct Chromium {
    /// Where everything of it is kept, and goes with the instance.
    dir: PathBuf,
    sandbox: Sandbox,
    wish: Mutex<Wish>,
}

/// How the next start is to be.
#[derive(Clone, Debug)]
struct Wish {
    flags: Vec<String>,
    /// Grows with every wish for another start.
    edition: u64,
}

impl Chromium {
    /// The command.
    pub(crate) const PROGRAM: &str = "chromium";

    /// The name that it has among the services.
    pub(crate) fn name() -> ServiceName {
        Self::PROGRAM.parse().expect("it is a service's name")
    }

    /// How it is kept running.
    pub(crate) fn policy(spec: &Spec) -> Policy {
        let policy = Policy::new(ServiceRestart::Always, START_BUDGET);
        let silence = spec.unresponsive_after.map_or(SILENCE, Duration::from_secs);
        let silence = (!silence.is_zero()).then_some(silence);
        Policy { longest_backoff: LONGEST_BACKOFF, patience: Some(PATIENCE), silence, ..policy }
    }

    /// The browser of a spec, with the flags that were chosen since, if any were.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RequestInvalid`], naming the flag, [`ErrorCode::ConfigInvalid`] if its directory cannot be made.
    pub(crate) fn new(spec: &Spec, config: &Config) -> Result<Arc<Self>, Problem> {
        flags::check(&spec.flags)?;
        let dir = config.state.join("browser");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.join("profile"));
        made.map_err(|error| Problem::new(ErrorCode::ConfigInvalid, format!("{}: {error}.", dir.display())))?;
        let chosen = read_flags(&dir.join("flags.json"));
        let wish = Wish { flags: chosen.unwrap_or_else(|| spec.flags.clone()), edition: 0 };
        Ok(Arc::new(Self { dir, sandbox: Sandbox::probe(), wish: Mutex::new(wish) }))
    }

    /// Whether its own sandbox is on.
    pub(super) const fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// The flags of the next start, which are also the present one's once it is up.
    pub(super) fn flags(&self) -> Vec<String> {
        self.wish().flags.clone()
    }

    /// The newest wish for a start.
    pub(super) fn edition(&self) -> u64 {
        self.wish().edition
    }

    /// Wishes for another start. Returns the wish's number.
    pub(super) fn wish_anew(&self) -> u64 {
        let mut wish = self.wish();
        wish.edition += 1;
        wish.edition
    }

    /// Wishes for another start with other flags, now and whenever it is started from now on. Returns the wish's number.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RequestInvalid`], naming the flag, [`ErrorCode::Internal`] if they cannot be written down.
    pub(super) fn wish_flags(&self, flags: Vec<String>) -> Result<u64, Problem> {
        flags::check(&flags)?;
        let mut wish = self.wish();
        let (path, new) = (self.dir.join("flags.json"), self.dir.join("flags.new"));
        let written = fs::write(&new, json!(flags).to_string()).and_then(|()| fs::rename(&new, &path));
        written.map_err(|error| {
            tracing::error!(%error, "the browser's flags were not written down");
            Problem::from(ErrorCode::Internal)
        })?;
        (wish.flags, wish.edition) = (flags, wish.edition + 1);
        Ok(wish.edition)
    }

    /// The command of a start now, and which wish it fulfils.
    pub(crate) fn plan(&self, config: &Config) -> (Plan, u64) {
        let Wish { flags, edition } = self.wish().clone();
        let argv = flags::command(Self::PROGRAM, &self.profile(), &self.sandbox, flags);
        let own = |name: &str| self.dir.join(name).display().to_string();
        let env = BTreeMap::from([
            ("LANDFAST_INSTANCE".to_owned(), config.instance.to_string()),
            ("LANDFAST_SERVICE".to_owned(), Self::PROGRAM.to_owned()),
            // What it keeps beside its profile.
            ("XDG_CONFIG_HOME".to_owned(), own("config")),
            ("XDG_CACHE_HOME".to_owned(), own("cache")),
        ]);
        (Plan::of_command(argv, env), edition)
    }

    /// Takes away what an earlier start has left: where it listened, and its locks.
    pub(crate) fn clear(&self) {
        let profile = self.profile();
        let socket = fs::read_link(profile.join("SingletonSocket")).ok();
        if let Some(dir) = socket.as_ref().and_then(|socket| socket.parent())
            && dir.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(SOCKET_DIR))
        {
            // It may have been taken away by Chromium itself.
            let _ = fs::remove_dir_all(dir);
        }
        let locks = LOCKS.map(|lock| match fs::remove_file(profile.join(lock)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        });
        for cleared in locks.into_iter().chain([DevTools::clear(&profile)]) {
            if let Err(error) = cleared {
                tracing::warn!(%error, "something of an earlier browser stays");
            }
        }
    }

    /// Finds where the present start listens, if it answers: what it has written down, over HTTP and over CDP.
    pub(crate) async fn probe(&self) -> Option<DevTools> {
        let waited = timeout(FILE_PATIENCE, async {
            loop {
                if let Some(devtools) = DevTools::read(&self.profile()) {
                    return devtools;
                }
                sleep(FILE_PAUSE).await;
            }
        });
        let devtools = waited.await.ok()?;
        timeout(PROBE_DEADLINE, ask(devtools)).await.ok()?
    }

    /// Asks a start that is up for its version until it answers, over a connection of its own as a new client would.
    ///
    /// Cancel safe.
    pub(crate) async fn look(devtools: &DevTools) {
        loop {
            let asked = async {
                let (client, _events) = Client::connect_within(devtools, LOOK_DEADLINE).await?;
                client.call_within("Browser.getVersion", json!({}), None, LOOK_DEADLINE).await.map_err(Problem::from)
            };
            match asked.await {
                Ok(_) => return,
                Err(problem) => tracing::debug!(%problem, "the browser gave no sign of life"),
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    fn profile(&self) -> PathBuf {
        self.dir.join("profile")
    }

    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().expect("nobody panics while holding the wish")
    }
}

/// Asks what listens there whether it is this very start, and for its version.
async fn ask(devtools: DevTools) -> Option<DevTools> {
    let socket = TcpStream::connect(("127.0.0.1", devtools.port)).await.ok()?;
    let request = http::Request::get("/json/version").header("host", devtools.host()).body(Full::new(Bytes::new()));
    let answer = landfast_net::http::call(Socket::tcp(socket), request.ok()?, PROBE_DEADLINE).await.ok()?;
    let said: Value = serde_json::from_slice(answer.body()).ok()?;
    if said["webSocketDebuggerUrl"] != devtools.url() {
        return None;
    }
    let (client, _events) = Client::connect(&devtools).await.ok()?;
    let version = client.call("Browser.getVersion", json!({}), None).await.ok()?;
    Some(DevTools { version: version["product"].as_str()?.to_owned(), ..devtools })
}

/// The flags that were chosen in an earlier life of the agent. What cannot be read says nothing.
fn read_flags(path: &std::path::Path) -> Option<Vec<String>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, "the browser's flags cannot be read");
            return None;
        }
    };
    let flags: Vec<String> = serde_json::from_slice(&text).ok()?;
    flags::check(&flags).is_ok().then_some(flags)
}
