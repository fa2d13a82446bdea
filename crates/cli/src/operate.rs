//! The verbs about what an instance goes through: sleep, moves that its platform makes, and its services.

use std::time::Duration;

use landfast_client::{Client, Instance, MovedTo, ServiceStatus};
use landfast_core::record::{Phase, Service};
use landfast_core::{InstanceId, ServiceName};
use landfast_net::clock::unix_millis;
use serde_json::json;

use crate::args::{External, Outside, Services, Sleep, Wake};
use crate::failure::Failure;
use crate::print::{Paint, age, answer, table};

/// How long sleep and waking are waited for: an agent's end takes seconds at most, its start no longer than a create.
const WAIT: Duration = Duration::from_secs(30);

/// `landfast sleep`.
///
/// # Errors
///
/// The refusal; or that it does not sleep yet.
pub(crate) async fn sleep(client: &Client, wish: &Sleep) -> Result<(), Failure> {
    let instance = client.sleep_instance(wish.id, WAIT).await?;
    answer(wish.output.format, &instance, || instance.id.to_string());
    match instance.phase {
        Phase::Sleeping => Ok(()),
        _ => Err(not_yet(&instance, "asleep")),
    }
}

/// `landfast wake`.
///
/// # Errors
///
/// The refusal; or that it does not run yet.
pub(crate) async fn wake(client: &Client, wish: &Wake) -> Result<(), Failure> {
    let instance = client.wake_instance(wish.id, WAIT).await?;
    answer(wish.output.format, &instance, || instance.id.to_string());
    match instance.phase {
        Phase::Running | Phase::Moving => Ok(()),
        _ => Err(not_yet(&instance, "awake")),
    }
}

/// `landfast external`.
///
/// # Errors
///
/// The refusal.
pub(crate) async fn external(client: &Client, wish: External) -> Result<(), Failure> {
    let (instance, output) = match wish {
        External::Begin { id, output } => (client.begin_external_move(id).await?, output),
        External::Commit { id, agent, services, output } => {
            let services = services.into_iter().map(|Outside { name, address }| (name, address)).collect();
            (client.commit_external_move(id, &MovedTo { agent, services }).await?, output)
        }
        External::Abort { id, output } => (client.abort_external_move(id).await?, output),
    };
    answer(output.format, &instance, || {
        format!("{} is {}, generation {}", instance.id, instance.phase.as_str(), instance.generation)
    });
    Ok(())
}

/// `landfast services`. Looking at an instance that sleeps does not wake it.
///
/// # Errors
///
/// The refusal.
pub(crate) async fn services(client: &Client, wish: &Services, paint: Paint) -> Result<(), Failure> {
    let instance = client.instance(wish.id).await?;
    let told = if is_asked(&instance) { client.services(wish.id).await? } else { Vec::new() };
    let items: Vec<_> = instance.spec.services.iter().map(|(name, service)| item(name, service, &told)).collect();
    answer(wish.output.format, &json!({ "items": items }), || {
        let now = unix_millis();
        let rows: Vec<_> =
            instance.spec.services.iter().map(|(name, service)| row(&instance, name, service, &told, now)).collect();
        if rows.is_empty() { none(wish.id) } else { table(paint, &HEAD, &rows) }
    });
    Ok(())
}

const HEAD: [&str; 7] = ["NAME", "STATE", "AT", "START", "PID", "SINCE", "LAST EXIT"];

/// Where a service listens, in short.
pub(crate) fn place(service: &Service) -> String {
    match (service.port, &service.socket, &service.address) {
        (Some(port), _, _) => format!(":{port}"),
        (None, Some(place), _) | (None, None, Some(place)) => place.clone(),
        (None, None, None) => "-".to_owned(),
    }
}

/// What a service runs, in short.
pub(crate) fn command(service: &Service) -> String {
    service.shell.clone().unwrap_or_else(|| service.argv.join(" "))
}

/// Whether there is an agent that runs the services, and is awake.
fn is_asked(instance: &Instance) -> bool {
    instance.spec.external.is_none() && matches!(instance.phase, Phase::Running | Phase::Moving)
}

fn item(name: &ServiceName, service: &Service, told: &[ServiceStatus]) -> serde_json::Value {
    let status = told.iter().find(|status| status.name == *name);
    json!({ "name": name, "spec": service, "status": status })
}

fn row(instance: &Instance, name: &ServiceName, service: &Service, told: &[ServiceStatus], now: u64) -> Vec<String> {
    let none = || "-".to_owned();
    let status = told.iter().find(|status| status.name == *name);
    let unknown = if instance.spec.external.is_some() { "external" } else { instance.phase.as_str() };
    vec![
        name.to_string(),
        status.map_or_else(|| unknown.to_owned(), |status| status.state.to_string()),
        place(service),
        status.map_or_else(none, |status| status.start.to_string()),
        status.and_then(|status| status.pid).map_or_else(none, |pid| pid.to_string()),
        status.map_or_else(none, |status| age(status.since, now)),
        status.map_or_else(none, last_exit),
    ]
}

fn last_exit(status: &ServiceStatus) -> String {
    use landfast_client::Exit;
    match (&status.error, status.exit) {
        (Some(error), _) => error.clone(),
        (None, Some(Exit::Code(code))) => format!("code {code}"),
        (None, Some(Exit::Signal(signal))) => format!("signal {signal}"),
        (None, None) => "-".to_owned(),
    }
}

fn none(id: InstanceId) -> String {
    format!("{id} has no services. `landfast create --service NAME=PORT:COMMAND` makes an instance with one.")
}

fn not_yet(instance: &Instance, what: &str) -> Failure {
    let why = instance.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    let (id, phase, wait) = (instance.id, instance.phase.as_str(), WAIT.as_secs());
    Failure::local(format!("{id} is not {what} after {wait} s but {phase}{why}. `landfast get` shows it."))
}
