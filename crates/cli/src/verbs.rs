//! The verbs that ask the cell once and print what it said.

use std::collections::BTreeMap;
use std::time::Duration;

use landfast_client::{Client, Instance, Node};
use landfast_core::record::{Desired, Kind, Phase, Service};
use landfast_core::{ErrorCode, InstanceId, ServiceName};
use landfast_net::clock::unix_millis;
use serde_json::json;

use crate::args::{Create, Format, Get, Ls, Move, Rm, Scope, Stop, Token};
use crate::failure::Failure;
use crate::operate::{command, place};
use crate::print::{Paint, age, answer, table};
use crate::wish::wish;

/// How long a move is waited for: it is given up after 10 s, and placement before it takes a moment.
const MOVE_WAIT: Duration = Duration::from_secs(30);

/// `landfast create`.
///
/// # Errors
///
/// The refusal; or that it did not come to run.
pub(crate) async fn create(client: &Client, create: &Create, paint: Paint) -> Result<(), Failure> {
    let wish = wish(create)?;
    let instance = client.create_instance(&wish, create.wait).await?;
    answer(create.output.format, &instance, || match &instance.cdp_url {
        Some(url) => format!("{}\n{url}", instance.id),
        None => instance.id.to_string(),
    });
    match instance.phase {
        Phase::Running | Phase::Moving | Phase::Sleeping => {
            if create.output.format == Format::Text && crate::terminal::is_seen() {
                eprintln!("{}", paint.faint(&hint(&instance)));
            }
            Ok(())
        }
        Phase::Pending | Phase::Starting if create.wait.is_zero() => Ok(()),
        Phase::Pending | Phase::Starting => Err(Failure::local(format!(
            "{} is {} after {} s{}. `landfast get` shows it; `landfast status` shows whether a node can take it.",
            instance.id,
            instance.phase.as_str(),
            create.wait.as_secs(),
            because(&instance)
        ))),
        Phase::Stopped | Phase::Failed | Phase::Lost | Phase::Deleted => {
            Err(Failure::local(format!("{} is {}{}.", instance.id, instance.phase.as_str(), because(&instance))))
        }
    }
}

/// `landfast ls`.
///
/// # Errors
///
/// The refusal.
pub(crate) async fn ls(client: &Client, ls: &Ls, paint: Paint) -> Result<(), Failure> {
    let instances = client.instances().await?;
    let nodes = node_names(client).await?;
    answer(ls.output.format, &json!({ "items": instances }), || {
        if instances.is_empty() {
            return "No instances. `landfast create` makes one.".to_owned();
        }
        let now = unix_millis();
        let rows: Vec<_> = instances.iter().map(|instance| row(instance, &nodes, now)).collect();
        table(paint, &["ID", "KIND", "PHASE", "NODE", "GENERATION", "AGE", "SERVICES", "LABELS"], &rows)
    });
    Ok(())
}

/// `landfast get`.
///
/// # Errors
///
/// The refusal.
pub(crate) async fn get(client: &Client, get: &Get) -> Result<(), Failure> {
    let instance = client.instance(get.id).await?;
    let nodes = if get.output.format == Format::Text { node_names(client).await? } else { BTreeMap::new() };
    answer(get.output.format, &instance, || describe(&instance, &nodes));
    Ok(())
}

/// `landfast move`.
///
/// # Errors
///
/// The refusal, or that the move was given up.
pub(crate) async fn r#move(client: &Client, wish: &Move) -> Result<(), Failure> {
    let instance = client.move_instance(wish.id, &wish.node, MOVE_WAIT).await?;
    let nodes = node_names(client).await?;
    answer(wish.output.format, &instance, || {
        format!("{} runs on {}, generation {}", instance.id, node_name(&instance, &nodes), instance.generation)
    });
    Ok(())
}

/// `landfast rm`. Every instance is tried; one that is gone already is as wished.
///
/// # Errors
///
/// The first refusal.
pub(crate) async fn rm(client: &Client, rm: &Rm) -> Result<(), Failure> {
    let mut first = Ok(());
    for &id in &rm.ids {
        match client.delete_instance(id).await {
            Err(error) if error.code() != Some(ErrorCode::InstanceGone) => first = first.and(Err(Failure::from(error))),
            Ok(()) | Err(_) => crate::print::line(&format!("{id}\n")),
        }
    }
    first
}

/// `landfast stop`. Every instance is tried.
///
/// # Errors
///
/// The first refusal.
pub(crate) async fn stop(client: &Client, stop: &Stop) -> Result<(), Failure> {
    let mut first = Ok(());
    for &id in &stop.ids {
        match client.stop_instance(id).await {
            Ok(()) => crate::print::line(&format!("{id}\n")),
            Err(error) => first = first.and(Err(Failure::from(error))),
        }
    }
    first
}

/// `landfast node ls`.
///
/// # Errors
///
/// The refusal.
pub(crate) async fn node_ls(client: &Client, ls: &Ls, paint: Paint) -> Result<(), Failure> {
    let nodes = client.nodes().await?;
    answer(ls.output.format, &json!({ "items": nodes }), || {
        if nodes.is_empty() {
            return "No live nodes. `landfast node` runs one.".to_owned();
        }
        let now = unix_millis();
        let rows: Vec<_> = nodes.iter().map(|node| node_row(node, now)).collect();
        table(paint, &["NAME", "ID", "STATE", "ADDRESS", "CAPACITY", "ISOLATION", "AGE", "LABELS"], &rows)
    });
    Ok(())
}

/// `landfast token`.
///
/// # Errors
///
/// The refusal.
pub(crate) async fn token(client: &Client, token: Token) -> Result<(), Failure> {
    match token {
        Token::Create { id, ttl, scope, output } => {
            let scopes: Vec<_> = scope.iter().map(|scope| scope_name(*scope)).collect();
            let token = client.create_token(id, &scopes, ttl).await?;
            answer(output.format, &token, || token.token.clone());
            if output.format == Format::Text && crate::terminal::is_seen() {
                eprintln!("landfast token revoke {} takes it back", token.id);
            }
        }
        Token::Revoke { id } => {
            client.revoke_token(id).await?;
            crate::print::line(&format!("{id}\n"));
        }
    }
    Ok(())
}

/// The names of the live nodes by their ids.
///
/// # Errors
///
/// The refusal.
pub(crate) async fn node_names(client: &Client) -> Result<BTreeMap<String, String>, Failure> {
    let nodes = client.nodes().await?;
    Ok(nodes.into_iter().map(|node| (node.id.to_string(), node.name)).collect())
}

/// What one will want next.
fn hint(instance: &Instance) -> String {
    if instance.kind == Kind::Browser {
        return format!(
            "chromium.connectOverCDP(URL) drives it; landfast forward {} cdp 9222 brings it here",
            instance.id
        );
    }
    let service = instance.spec.services.keys().next().zip(instance.base_url.as_ref());
    match service {
        Some((name, url)) => format!("{url}/{name}/ is its service; landfast token create {} opens it", instance.id),
        None => format!("landfast exec -t {} gives a shell in it", instance.id),
    }
}

const fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::All => "all",
        Scope::Process => "process",
        Scope::Browser => "browser",
        Scope::Telemetry => "telemetry",
        Scope::Files => "files",
    }
}

fn row(instance: &Instance, nodes: &BTreeMap<String, String>, now: u64) -> Vec<String> {
    vec![
        instance.id.to_string(),
        kind_name(instance.kind).to_owned(),
        phase_name(instance).to_owned(),
        node_name(instance, nodes),
        instance.generation.to_string(),
        age(instance.created_at, now),
        instance.spec.services.keys().map(ToString::to_string).collect::<Vec<_>>().join(","),
        pairs(&instance.labels),
    ]
}

fn node_row(node: &Node, now: u64) -> Vec<String> {
    vec![
        node.name.clone(),
        node.id.to_string(),
        if node.draining { "draining" } else { "live" }.to_owned(),
        node.address.clone(),
        node.capacity.to_string(),
        node.isolation.clone(),
        age(node.started_at, now),
        pairs(&node.labels),
    ]
}

fn describe(instance: &Instance, nodes: &BTreeMap<String, String>) -> String {
    let now = unix_millis();
    let mut lines = vec![
        ("id", instance.id.to_string()),
        ("kind", kind_name(instance.kind).to_owned()),
        ("phase", format!("{}{}", phase_name(instance), because(instance))),
        ("node", node_name(instance, nodes)),
        ("generation", instance.generation.to_string()),
        ("created", format!("{} ago", age(instance.created_at, now))),
    ];
    lines.extend(instance.ended_at.map(|at| ("ended", format!("{} ago", age(at, now)))));
    lines.extend((!instance.labels.is_empty()).then(|| ("labels", pairs(&instance.labels))));
    let (spec, url) = (&instance.spec, &instance.base_url);
    lines.extend(spec.idle_timeout.map(|idle| ("sleeps", format!("after {idle} s without traffic"))));
    lines.extend(spec.external.as_ref().and_then(|external| Some(("agent", external.agent.clone()?))));
    lines.extend(spec.services.iter().map(|(name, service)| ("service", described(name, service))));
    lines.extend(url.clone().map(|url| ("url", url)));
    lines.extend(instance.cdp_url.clone().map(|url| ("cdp", url)));
    lines.iter().map(|(name, value)| format!("{name:<11} {value}\n")).collect()
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Sandbox => "sandbox",
        Kind::Actor => "actor",
        Kind::Browser => "browser",
    }
}

/// The phase, and what is about to become of it.
fn phase_name(instance: &Instance) -> &'static str {
    match (instance.phase, instance.desired) {
        (Phase::Running, Desired::Sleeping) => "falling asleep",
        (Phase::Sleeping, Desired::Running) => "waking",
        (phase, _) => phase.as_str(),
    }
}

fn described(name: &ServiceName, service: &Service) -> String {
    format!("{name} {} {}", place(service), command(service)).trim_end().to_owned()
}

fn node_name(instance: &Instance, nodes: &BTreeMap<String, String>) -> String {
    if instance.spec.external.is_some() {
        return "external".to_owned();
    }
    let id = instance.node.map(|id| id.to_string());
    id.map_or_else(|| "-".to_owned(), |id| nodes.get(&id).cloned().unwrap_or(id))
}

fn because(instance: &Instance) -> String {
    instance.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"))
}

fn pairs(pairs: &BTreeMap<String, String>) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// The instance's only process that runs.
///
/// # Errors
///
/// There is none, or more than one; the sentence lists them.
pub(crate) async fn only_running(client: &Client, id: InstanceId) -> Result<landfast_client::Process, Failure> {
    let all = client.processes(id).await?;
    let mut running: Vec<_> =
        all.into_iter().filter(|process| process.state == landfast_client::ProcessState::Running).collect();
    match running.len() {
        1 => Ok(running.remove(0)),
        0 => Err(Failure::usage(format!("Nothing runs in {id}. `landfast exec -t {id}` starts a shell."))),
        _ => {
            let list: String =
                running.iter().map(|process| format!("\n  {}  {}", process.id, process.argv.join(" "))).collect();
            Err(Failure::usage(format!("More than one process runs in {id}; say which:{list}")))
        }
    }
}
