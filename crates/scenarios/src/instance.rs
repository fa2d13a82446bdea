//! An instance and its processes, as a client with a token reaches them.

use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::attached::{Attached, SUBPROTOCOL};
use crate::cell::{Operator, eventually};
use crate::http::{self, Answer};
use crate::leaks::agent_of;
use crate::plain::{PlainClient, Upgrade};

/// An instance of a cell.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Who made it.
    pub operator: Operator,
    /// Its id.
    pub id: String,
    /// A token for everything in it.
    pub token: String,
}

/// A process of an instance.
#[derive(Clone, Debug)]
pub struct Process {
    /// Where it runs.
    pub instance: Instance,
    /// Its id.
    pub id: String,
}

impl Instance {
    /// Its record.
    pub async fn record(&self) -> Value {
        self.operator.demand("GET", &format!("/v1/instances/{}", self.id), None).await
    }

    /// Waits until it is in a phase, and returns its record.
    pub async fn comes_to(&self, phase: &str) -> Value {
        eventually(&format!("{} is {phase}", self.id), async || {
            let record = self.record().await;
            (record["phase"] == phase).then_some(record)
        })
        .await
    }

    /// Asks the control plane to do something with it, and wants success.
    pub async fn demand(&self, verb: &str, body: &Value) -> Value {
        self.operator.demand("POST", &format!("/v1/instances/{}/{verb}", self.id), Some(body)).await
    }

    /// Moves it to a node and waits until that one has it.
    pub async fn moves_to(&self, node: &str) {
        let before = self.record().await["generation"].as_u64();
        let moved = self.demand("move?wait=30", &json!({"node": node})).await;
        assert!(moved["phase"] == "running" && moved["generation"].as_u64() > before, "{moved}");
    }

    /// Stops it.
    pub async fn stops(&self) {
        self.demand("stop", &json!({})).await;
    }

    /// Deletes it.
    pub async fn is_deleted(&self) {
        self.operator.demand("DELETE", &format!("/v1/instances/{}", self.id), None).await;
    }

    /// The process id of its agent.
    ///
    /// # Panics
    ///
    /// It has none.
    pub fn agent(&self) -> u32 {
        let agent = agent_of(&self.id);
        agent.unwrap_or_else(|| panic!("no agent of {}", self.id))
    }

    /// Kills its agent as a machine short of memory would.
    ///
    /// # Panics
    ///
    /// It has none.
    pub fn kill_agent(&self) {
        kill(Pid::from_raw(self.agent() as i32), Signal::SIGKILL).expect("the agent runs");
    }

    /// Asks the agent.
    pub async fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> Answer {
        http::ask(self.operator.address, method, &format!("/i/{}{target}", self.id), Some(&self.token), body).await
    }

    /// Asks the agent, with one more header.
    pub async fn ask_with(&self, target: &str, header: &str) -> Answer {
        let request = format!("{}{header}\r\n\r\n", self.head("GET", target));
        http::send(self.operator.address, request.as_bytes()).await
    }

    /// Posts bytes to the agent.
    pub async fn post_bytes(&self, target: &str, body: &[u8]) -> Answer {
        let head = format!("{}Content-Length: {}\r\n\r\n", self.head("POST", target), body.len());
        http::send(self.operator.address, &[head.as_bytes(), body].concat()).await
    }

    fn head(&self, method: &str, target: &str) -> String {
        format!(
            "{method} /i/{}{target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {}\r\n",
            self.id, self.operator.address, self.token
        )
    }

    /// Starts a process from its request.
    ///
    /// # Panics
    ///
    /// It is refused.
    pub async fn process(&self, wish: &Value) -> Process {
        let answer = self.ask("POST", "/processes", Some(wish)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let id = answer.json()["id"].as_str().expect("a process has an id").to_owned();
        Process { instance: self.clone(), id }
    }

    /// Starts a shell command without a terminal.
    pub async fn command(&self, shell: &str) -> Process {
        self.process(&json!({"shell": shell})).await
    }

    /// Starts a shell command on a terminal of 24 rows and 80 columns.
    pub async fn terminal(&self, shell: &str) -> Process {
        self.process(&json!({"shell": shell, "tty": {"rows": 24, "cols": 80}})).await
    }

    /// Puts a program of this package where the instance's processes find it, and says where that is.
    ///
    /// # Panics
    ///
    /// It cannot be copied.
    pub fn brings(&self, program: &str) -> PathBuf {
        let home = self.operator.dir.join("instances").join(&self.id).join("home");
        // A program that runs cannot be written over.
        if !home.join(program).exists() {
            std::fs::copy(crate::role::program(program), home.join(program)).expect("the home takes files");
        }
        PathBuf::from(format!("./{program}"))
    }

    /// What a client sends to open a WebSocket on a path of the agent.
    pub fn upgrade(&self, target: &str) -> Upgrade {
        Upgrade {
            address: self.operator.address,
            target: format!("/i/{}{target}", self.id),
            token: Some(self.token.clone()),
            subprotocol: Some(SUBPROTOCOL),
            receive_buffer: None,
        }
    }
}

impl Process {
    /// Its record.
    pub async fn record(&self) -> Value {
        self.instance.ask("GET", &format!("/processes/{}", self.id), None).await.json()
    }

    /// What a client sends to attach: `query` is what stands behind the question mark.
    pub fn upgrade(&self, query: &str) -> Upgrade {
        self.instance.upgrade(&format!("/processes/{}/attach?{query}", self.id))
    }

    /// Attaches from `start`, `now`, `screen` or an offset.
    ///
    /// # Panics
    ///
    /// It is refused.
    pub async fn attach(&self, from: impl std::fmt::Display) -> Attached {
        self.view(&format!("from={from}")).await
    }

    /// Attaches with what stands behind the question mark.
    ///
    /// # Panics
    ///
    /// It is refused.
    pub async fn view(&self, query: &str) -> Attached {
        let opened = PlainClient::open(&self.upgrade(query)).await;
        Attached::new(opened.unwrap_or_else(|answer| panic!("refused: {answer:?}")))
    }

    /// Sends it a signal by the API.
    pub async fn signal(&self, name: &str) -> Answer {
        self.instance.ask("POST", &format!("/processes/{}/signal", self.id), Some(&json!({"signal": name}))).await
    }
}
