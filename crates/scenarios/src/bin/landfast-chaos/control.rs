//! The operator: makes, moves and removes instances, through whichever gateway answers.

use std::sync::Arc;
use std::time::Duration;

use landfast_scenarios::http::{self, Answer};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::book::{Book, WISH};
use crate::cell::{Cell, LEDGER, SUPPLIED};
use crate::plan::Host;

/// How long one question may take: longer than a gateway waits for an API server.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long is asked again for what has to be, whatever is struck meanwhile.
const PERSISTENCE: Duration = Duration::from_secs(150);

/// Between two tries.
const REST: Duration = Duration::from_millis(300);

/// Who may ask the control plane.
#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) key: String,
    pub(crate) book: Arc<Book>,
}

/// An instance, and a token for it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) id: String,
    pub(crate) token: String,
}

impl Control {
    /// Makes an instance with the service, once, however often it has to be asked for; `None` if that did not come about.
    pub(crate) async fn create(&self, wish: &str, comes_again: bool) -> Option<Held> {
        let service = json!({
            "argv": ["sh", "-c", format!("{SUPPLIED} exec ./landfast-served")], "socket": "web.sock", "env": {"LEDGER": LEDGER},
        });
        let restart = if comes_again { "always" } else { "never" };
        let body = json!({"spec": {"restart": restart, "services": {"web": service}}, "labels": {WISH: wish}});
        self.book.wishes(wish);
        let line = format!("Idempotency-Key: {wish}\r\n");
        let answer = self.persist("POST", "/v1/instances?wait=20", &line, Some(&body), |status| status == 201).await?;
        let made = answer.json();
        let field = |name: &str| made[name].as_str().map(str::to_owned);
        Some(Held { id: field("id")?, token: field("token")? })
    }

    /// Deletes an instance. One that is not there is as well.
    pub(crate) async fn delete(&self, id: &str) -> bool {
        let done = |status| matches!(status, 200..=299 | 404 | 410);
        self.persist("DELETE", &format!("/v1/instances/{id}"), "", None, done).await.is_some()
    }

    /// Asks an instance to move between the nodes that share a disk. It need not come about.
    pub(crate) fn spawn_move(&self, pick: u32) {
        let here = self.book.live().into_iter().filter(|(_, node)| matches!(node, Some(Host::Node('a' | 'b'))));
        let here: Vec<_> = here.collect();
        let Some((id, Some(Host::Node(name)))) = here.get(pick as usize % here.len().max(1)).cloned() else { return };
        let body = json!({"node": if name == 'a' { "b" } else { "a" }});
        let control = self.clone();
        tokio::spawn(async move {
            let gateway = Cell::gateway(pick as u8 % 2 + 1);
            let target = format!("/v1/instances/{id}/move");
            let _ = http::attempt(gateway, &control.request("POST", &target, "", Some(&body)), PATIENCE).await;
        });
    }

    /// Drains a node, or lets it have instances again, which has to come about.
    pub(crate) fn spawn_drain(&self, host: Host, drains: bool) {
        let Host::Node(name) = host else { return };
        let control = self.clone();
        let method = if drains { "PUT" } else { "DELETE" };
        tokio::spawn(async move {
            let target = format!("/v1/nodes/{name}/drain");
            control.persist(method, &target, "", None, |status| status == 204).await;
        });
    }

    async fn persist(
        &self,
        method: &str,
        target: &str,
        lines: &str,
        body: Option<&Value>,
        is_done: impl Fn(u16) -> bool,
    ) -> Option<Answer> {
        let deadline = Instant::now() + PERSISTENCE;
        let mut turn = 0;
        while Instant::now() < deadline {
            let gateway = Cell::gateway(turn % 2 + 1);
            turn = turn.wrapping_add(1);
            let request = self.request(method, target, lines, body);
            if let Ok(answer) = http::attempt(gateway, &request, PATIENCE).await
                && is_done(answer.status)
            {
                return Some(answer);
            }
            sleep(REST).await;
        }
        None
    }

    fn request(&self, method: &str, target: &str, lines: &str, body: Option<&Value>) -> Vec<u8> {
        let body = body.map(Value::to_string).unwrap_or_default();
        format!(
            "{method} {target} HTTP/1.1\r\nHost: cell\r\nConnection: close\r\nAuthorization: Bearer {}\r\n{lines}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        )
        .into_bytes()
    }
}
