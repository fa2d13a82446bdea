//! An instance with a service of ours in it, as a client with a token reaches it.

use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::cell::{Cell, eventually};
use crate::external;
use crate::http::{self, Answer};
use crate::instance::Instance;
use crate::peer::free_address;
use crate::plain::{PlainClient, Upgrade};
use crate::role::program;

/// The program, and where it listens in the instance's home.
const PROGRAM: &str = "landfast-served";
const SOCKET: &str = "web.sock";

/// The service's name.
pub const NAME: &str = "web";

/// An instance with a service in it.
#[derive(Clone, Debug)]
pub struct Served {
    /// The instance.
    pub instance: Instance,
    /// Where in it requests go: the service, or another name or port that a test tries.
    pub place: String,
}

impl Served {
    /// Creates an instance with the service and waits until that is up.
    pub async fn start(cell: &Cell) -> Self {
        Self::start_with(cell, &json!({})).await
    }

    /// Creates an instance whose service has these fields too.
    pub async fn start_with(cell: &Cell, fields: &Value) -> Self {
        Self::start_as(cell, &json!({}), fields).await
    }

    /// Creates an instance whose spec has these fields too, and its service those.
    pub async fn start_as(cell: &Cell, spec: &Value, service: &Value) -> Self {
        let served = Self::of(cell.create_with(&wish(spec, service)).await);
        served.is_supplied();
        served.is_up().await;
        served
    }

    /// Asks for an instance with the service, and waits for nothing. It [has its program](Self::is_supplied) later.
    pub async fn unawaited(cell: &Cell) -> Self {
        Self::of(cell.create_unawaited(&wish(&json!({}), &json!({}))).await)
    }

    fn of(instance: Instance) -> Self {
        Self { instance, place: NAME.to_owned() }
    }

    /// Puts the program where the service finds it: it is started again and again until it is there.
    pub fn is_supplied(&self) {
        self.instance.brings(PROGRAM);
    }

    /// Waits until the service is up.
    pub async fn is_up(&self) {
        eventually("the service is up", async || {
            let services = self.instance.ask("GET", "/services", None).await.json();
            let service = services["services"].as_array()?.iter().find(|service| service["name"] == NAME)?;
            (service["state"] == "up").then_some(())
        })
        .await;
    }

    /// The way to a server elsewhere, as an external instance.
    pub async fn elsewhere(cell: &Cell, address: SocketAddr) -> Self {
        let id = external::create(cell.dir(), &[(NAME, address)]).await.to_string();
        let token = cell.operator.token(&id, &json!({})).await.text;
        Self::of(Instance { operator: cell.operator.clone(), id, token })
    }

    /// The way to a server elsewhere, as an external instance that its platform has created through the API. Its service
    /// has these fields too.
    pub async fn announced(cell: &Cell, address: SocketAddr, service: &Value) -> Self {
        let at = json!({"address": address.to_string()});
        let spec = json!({"external": {}, "services": {NAME: with(at, service)}});
        Self::of(cell.create_with(&json!({"spec": spec})).await)
    }

    /// Its platform announces that it moves.
    pub async fn begins_to_move(&self) {
        self.instance.demand("move/begin", &json!({})).await;
    }

    /// Its platform announces that it has moved to this server.
    pub async fn has_moved(&self, to: SocketAddr) {
        self.instance.demand("move/commit", &json!({"services": {NAME: to.to_string()}})).await;
    }

    /// How often a key has been counted.
    ///
    /// # Panics
    ///
    /// The service does not tell.
    pub async fn count(&self, key: &str) -> u64 {
        let answer = self.ask("GET", "/counts", "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()[key].as_u64().unwrap_or(0)
    }

    /// Opens a WebSocket to it.
    ///
    /// # Errors
    ///
    /// The answer, where it is not 101.
    pub async fn opens(&self, target: &str) -> Result<PlainClient, Answer> {
        let upgrade = Upgrade { subprotocol: None, ..self.instance.upgrade(&format!("/{}{target}", self.place)) };
        PlainClient::open(&upgrade).await
    }

    /// Sends it requests that wait for hardly anything until one is refused so.
    pub async fn comes_to_refuse(&self, method: &str, status: u16, code: &str) -> Answer {
        let request = self.request(method, "/", "landfast-wait: 0.1\r\n", "");
        eventually(&format!("it refuses with {code}"), async || {
            let answer = http::send(self.instance.operator.address, &request).await;
            (answer.status == status && answer.header("landfast-error") == Some(code)).then_some(answer)
        })
        .await
    }

    /// Sends it a request over a connection of its own.
    pub async fn ask(&self, method: &str, target: &str, body: &str) -> Answer {
        http::send(self.instance.operator.address, &self.request(method, target, "", body)).await
    }

    /// The bytes of a request without a body, with further header lines, each with its end.
    pub fn request_with(&self, method: &str, target: &str, lines: &str) -> Vec<u8> {
        let Instance { operator, id, token } = &self.instance;
        format!(
            "{method} /i/{id}/{}{target} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n{lines}\r\n",
            self.place, operator.address
        )
        .into_bytes()
    }

    /// The bytes of a request over a connection of its own, with further header lines, each with its end.
    pub fn request(&self, method: &str, target: &str, lines: &str, body: &str) -> Vec<u8> {
        let lines = format!("Connection: close\r\nContent-Length: {}\r\n{lines}", body.len());
        let mut request = self.request_with(method, target, &lines);
        request.extend_from_slice(body.as_bytes());
        request
    }
}

/// The request for an instance with the service.
fn wish(spec: &Value, service: &Value) -> Value {
    let program = json!({"argv": [format!("./{PROGRAM}")], "socket": SOCKET});
    json!({"spec": with(json!({"services": {NAME: with(program, service)}}), spec)})
}

/// An object with further fields.
fn with(mut object: Value, fields: &Value) -> Value {
    for (key, value) in fields.as_object().into_iter().flatten() {
        object[key] = value.clone();
    }
    object
}

/// The program as a server that Landfast does not run. It ends with the value.
#[derive(Debug)]
pub struct Elsewhere {
    /// Where it listens.
    pub address: SocketAddr,
    /// Ends with the value.
    _child: Child,
}

impl Elsewhere {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    ///
    /// It does not.
    pub async fn start() -> Self {
        let address = free_address().expect("a free port");
        let mut command = Command::new(program(PROGRAM));
        command.env_remove("LANDFAST_SOCKET").env("PORT", address.port().to_string());
        command.stdin(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().expect("the service's program was built");
        eventually("the server listens", async || TcpStream::connect(address).await.ok().map(drop)).await;
        Self { address, _child: child }
    }
}
