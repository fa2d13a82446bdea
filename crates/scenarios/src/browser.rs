//! A browser in an instance, the clients that people drive it with, and a browser of nobody's to compare it with.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::cell::{Cell, eventually};
use crate::instance::Instance;
use crate::peer::free_address;
use crate::plain::PATIENCE;

/// Where the pages listen inside an instance, whose network is its own.
const PAGES_PORT: u16 = 8000;

/// The program that serves the pages.
const PAGES: &str = "pages.cjs";

/// A browser of a cell, with pages beside it.
#[derive(Clone, Debug)]
pub struct Browser {
    /// The instance.
    pub instance: Instance,
    /// The URL that `landfast create browser` prints.
    pub cdp_url: String,
    /// Where its pages are, as it sees them.
    pub pages: String,
}

/// A program beside the test. It ends with the value.
#[derive(Debug)]
pub struct Beside {
    /// Where it is reached.
    pub url: String,
    _child: Child,
    _dir: Option<tempfile::TempDir>,
}

/// A client of CDP at work.
#[derive(Debug)]
pub struct Client {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Browser {
    /// Creates a browser with its pages, and waits until both are up.
    ///
    /// # Panics
    ///
    /// It does not come up.
    pub async fn start(cell: &Cell) -> Self {
        Self::start_with(cell, &json!({})).await
    }

    /// Creates a browser whose spec has these fields too.
    ///
    /// # Panics
    ///
    /// It does not come up.
    pub async fn start_with(cell: &Cell, fields: &Value) -> Self {
        let mut spec = json!({"services": {"pages": {"argv": ["node", PAGES], "port": PAGES_PORT}}});
        for (key, value) in fields.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let instance = cell.create_with(&json!({"kind": "browser", "spec": spec})).await;
        let home = cell.dir().join("instances").join(&instance.id).join("home");
        std::fs::copy(script(PAGES), home.join(PAGES)).expect("the home takes files");
        let cdp_url = instance.record().await["cdp_url"].as_str().expect("a browser has a CDP URL").to_owned();
        let browser = Self { instance, cdp_url, pages: format!("http://127.0.0.1:{PAGES_PORT}") };
        browser.is_up().await;
        eventually("the pages are up", async || {
            let services = browser.instance.ask("GET", "/services", None).await.json();
            let pages = services["services"].as_array()?.iter().find(|service| service["name"] == "pages")?;
            (pages["state"] == "up").then_some(())
        })
        .await;
        browser
    }

    /// Opens a page of its pages in a new tab, and returns what the browser says of it.
    ///
    /// # Panics
    ///
    /// It does not.
    pub async fn opens(&self, path: &str) -> Value {
        let answer = self.instance.ask("PUT", &format!("/json/new?{}{path}", self.pages), None).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// The events of a type that are remembered, oldest first.
    pub async fn told(&self, kind: &str) -> Vec<Value> {
        let page = self.instance.ask("GET", &format!("/telemetry/events?type={kind}"), None).await.json();
        page.as_array().cloned().unwrap_or_default()
    }

    /// What it says of itself.
    pub async fn state(&self) -> Value {
        self.instance.ask("GET", "/browser", None).await.json()
    }

    /// Waits until it is up, and returns what it says of itself.
    pub async fn is_up(&self) -> Value {
        eventually("the browser is up", async || {
            let state = self.state().await;
            (state["state"] == "up").then_some(state)
        })
        .await
    }
}

impl Beside {
    /// Chromium as it comes, with nothing between it and its client.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn chromium() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("chromium");
        command.args(["--headless=new", "--no-sandbox", "--remote-debugging-port=0", "--no-first-run"]);
        command.arg(format!("--user-data-dir={}", dir.path().display())).arg("about:blank");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().expect("chromium is installed; `cargo xtask test` does that");
        let port = eventually("chromium listens", async || {
            let said = std::fs::read_to_string(dir.path().join("DevToolsActivePort")).ok()?;
            said.lines().next()?.parse::<u16>().ok()
        })
        .await;
        Self { url: format!("http://127.0.0.1:{port}"), _child: child, _dir: Some(dir) }
    }

    /// The pages, on this machine.
    ///
    /// # Panics
    ///
    /// They do not come up.
    pub async fn pages() -> Self {
        let address = free_address().expect("a free port");
        let mut command = node(PAGES, &[]);
        command.env("PORT", address.port().to_string()).stdout(Stdio::null());
        let child = command.spawn().expect("node is installed; `cargo xtask test` does that");
        eventually("the pages are served", async || tokio::net::TcpStream::connect(address).await.ok().map(drop)).await;
        Self { url: format!("http://{address}"), _child: child, _dir: None }
    }
}

impl Client {
    /// Begins to run a script of `clients`.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = node(name, arguments).stdout(Stdio::piped()).spawn().expect("node is installed");
        let said = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, said }
    }

    /// The line that it says at its end, and whether it ended well.
    ///
    /// # Panics
    ///
    /// It says nothing in time.
    pub async fn ends(mut self) -> (String, bool) {
        let mut line = String::new();
        let ended = timeout(3 * PATIENCE, async {
            self.said.read_line(&mut line).await.expect("it can be read");
            self.child.wait().await.expect("it can be waited for")
        });
        let status = ended.await.expect("a client ends");
        (line.trim().to_owned(), status.success())
    }

    /// What it found: the JSON that it says at its end.
    ///
    /// # Panics
    ///
    /// It failed.
    pub async fn finds(self) -> Value {
        let (line, has_succeeded) = self.ends().await;
        assert!(has_succeeded, "the client failed: {line}");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

fn node(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("node");
    command.arg(script(name)).args(arguments).env("NODE_PATH", modules());
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Where `cargo xtask test` has put what the scripts need.
fn modules() -> PathBuf {
    let here = std::env::current_exe().expect("a running program has a path");
    let found = here.ancestors().map(|folder| folder.join("cdp-clients/node_modules")).find(|modules| modules.exists());
    found.expect("the clients of CDP are installed; `cargo xtask test scenarios` does that")
}
