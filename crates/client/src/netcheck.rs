//! Looking for the leg that is broken: each gateway is asked by itself, and then what it finds behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use landfast_core::netcheck::{GatewayReport, Leg};
use landfast_core::{ErrorCode, NodeId, Problem};

use crate::client::{Client, decode};
use crate::error::Error;
use crate::origin::{Call, Door};

/// How long a gateway may take to say that it lives.
const HEALTH_WITHIN: Duration = Duration::from_secs(5);

/// How long it may take to look at its own legs, some hundred of them dead.
const REPORT_WITHIN: Duration = Duration::from_secs(60);

impl Client {
    /// Looks at every leg from here to the agents, and tells how each of them is. What lies behind one that is broken may be
    /// missing: nobody can see it from here.
    pub async fn netcheck(&self) -> Vec<Leg> {
        let mut looking = Looking { client: self, legs: Vec::new(), known: Vec::new() };
        for index in 0..self.gateways().origins().len() {
            looking.origin(index).await;
        }
        looking.legs
    }
}

struct Looking<'c> {
    client: &'c Client,
    legs: Vec<Leg>,
    /// Nodes that have told of themselves.
    known: Vec<NodeId>,
}

impl Looking<'_> {
    async fn origin(&mut self, index: usize) {
        let origin = Arc::clone(&self.client.gateways().origins()[index]);
        match origin.addresses().await {
            Err(error) => self.legs.push(unreachable(&origin.to_string(), &error)),
            Ok(found) => {
                for &address in &found {
                    let name = if found.len() > 1 { format!("{origin} ({address})") } else { origin.to_string() };
                    let door = Door { origin: Arc::clone(&origin), index, address, others: Arc::new([]) };
                    self.gateway(&name, &door).await;
                }
            }
        }
    }

    async fn gateway(&mut self, name: &str, door: &Door) {
        let begun = Instant::now();
        let lives = self.ask(door, "/livez", HEALTH_WITHIN).await;
        let millis = begun.elapsed().as_micros() as f64 / 1000.0;
        match lives {
            Ok(_) => self.legs.push(Leg::to_gateway(name, millis)),
            Err(error) => return self.legs.push(unreachable(name, &error)),
        }
        let ready = match self.ask(door, "/readyz", HEALTH_WITHIN).await {
            Ok(answer) => {
                let silent = answer.headers().get("landfast-watch-age-ms").and_then(|value| value.to_str().ok());
                Leg::to_registry(name, silent.and_then(|text| text.parse().ok()).unwrap_or(0))
            }
            Err(error) => broken(name, "registry", &error),
        };
        if self.client.has_key() {
            self.behind(name, door, ready).await;
        } else {
            let problem = Problem::new(ErrorCode::AuthMissing, "There is no API key to ask the control plane with.");
            self.legs.extend([ready, Leg::broken(name, "API", &problem)]);
        }
    }

    /// What the gateway finds behind it. If it does not say, what it says of the registry to anybody has to do.
    async fn behind(&mut self, name: &str, door: &Door, ready: Leg) {
        let answer = self.ask(door, "/v1/netcheck", REPORT_WITHIN).await;
        match answer.and_then(|answer| decode::<GatewayReport>(&answer)) {
            Ok(report) => self.legs.extend(report.legs(name, &mut self.known)),
            Err(error) => self.legs.extend([ready, broken(name, "API", &error)]),
        }
    }

    async fn ask(&self, door: &Door, path: &str, within: Duration) -> Result<http::Response<bytes::Bytes>, Error> {
        let socket = door.connect(self.client.gateways().trust()).await?;
        // What answers for itself needs no key, and is shown none.
        let bearer = if path.starts_with("/v1/") { self.client.api_key() } else { "" };
        door.call(socket, &Call::new(Method::GET, path, within), bearer).await
    }
}

fn unreachable(gateway: &str, error: &Error) -> Leg {
    let detail = match error {
        Error::Unreachable { why, .. } | Error::Broken { why, .. } => format!("It cannot be reached: {why}."),
        other => other.to_string(),
    };
    Leg::broken("client", gateway, &Problem::new(ErrorCode::GatewayUnreachable, detail))
}

/// What a gateway has answered about something behind it.
fn broken(gateway: &str, to: &str, error: &Error) -> Leg {
    match error {
        Error::Refused(refusal) => {
            let code = refusal.code.unwrap_or(ErrorCode::Internal);
            let advice = if refusal.advice.is_empty() { code.advice().to_owned() } else { refusal.advice.clone() };
            Leg { advice, ..Leg::broken(gateway, to, &Problem::new(code, refusal.detail.clone())) }
        }
        other => Leg::broken(gateway, to, &Problem::new(ErrorCode::GatewayUnreachable, other.to_string())),
    }
}
