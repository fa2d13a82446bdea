//! `landfast status`: how the cell is, in words.

use std::collections::BTreeMap;

use landfast_client::{Client, Error, Health, Leg};
use serde::Serialize;

use crate::args::Status;
use crate::failure::Failure;
use crate::netcheck;
use crate::print::{Paint, answer, table};

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether everything that can be asked is well.
    healthy: bool,
    url: String,
    gateway: Part,
    api: Part,
    nodes: Vec<NodeHealth>,
    /// How many instances are in each phase.
    instances: BTreeMap<&'static str, usize>,
    /// The legs between here and the agents that are slow or broken.
    legs: Vec<Leg>,
}

#[derive(Debug, Serialize)]
struct Part {
    ok: bool,
    /// In words.
    says: String,
}

#[derive(Debug, Serialize)]
struct NodeHealth {
    name: String,
    instances: usize,
    capacity: u32,
    draining: bool,
    isolation: String,
}

/// Asks and prints. A cell that is not well is a failure, so that scripts can wait for it.
///
/// # Errors
///
/// The cell is not well.
pub(crate) async fn status(client: &Client, url: &str, args: &Status, paint: Paint) -> Result<(), Failure> {
    let ((mut report, error), legs) = tokio::join!(look(client, url), client.netcheck());
    report.legs = legs.into_iter().filter(|leg| leg.health != Health::Ok).collect();
    answer(args.output.format, &report, || describe(&report, paint));
    match error {
        Some(error) => Err(error.into()),
        None if report.healthy => Ok(()),
        None => Err(Failure::local("The cell is not well: it has no node that takes instances.")),
    }
}

async fn look(client: &Client, url: &str) -> (Report, Option<Error>) {
    let (nodes, instances) = match (client.nodes().await, client.instances().await) {
        (Ok(nodes), Ok(instances)) => (nodes, instances),
        (Err(error), _) | (_, Err(error)) => return (unwell(url, &error), Some(error)),
    };
    let nodes: Vec<_> = nodes
        .into_iter()
        .map(|node| NodeHealth {
            instances: instances
                .iter()
                .filter(|instance| instance.node == Some(node.id) && !instance.phase.is_end())
                .count(),
            name: node.name,
            capacity: node.capacity,
            draining: node.draining,
            isolation: node.isolation,
        })
        .collect();
    let mut phases = BTreeMap::new();
    for instance in instances {
        *phases.entry(instance.phase.as_str()).or_default() += 1;
    }
    let report = Report {
        healthy: nodes.iter().any(|node| !node.draining),
        url: url.to_owned(),
        gateway: Part { ok: true, says: "answers".to_owned() },
        api: Part { ok: true, says: "answers".to_owned() },
        nodes,
        instances: phases,
        legs: Vec::new(),
    };
    (report, None)
}

/// What is known when the cell did not answer. A typed refusal means that the gateway lives.
fn unwell(url: &str, error: &Error) -> Report {
    let gateway = match error {
        Error::Refused(refusal) => Part { ok: true, says: format!("answers, with status {}", refusal.status) },
        Error::Ended { .. }
        | Error::Unreachable { .. }
        | Error::Broken { .. }
        | Error::Protocol(_)
        | Error::Invalid(_)
        | Error::Local(_) => Part { ok: false, says: error.to_string() },
    };
    let api = if gateway.ok { error.to_string() } else { "cannot be asked without the gateway".to_owned() };
    Report {
        healthy: false,
        url: url.to_owned(),
        gateway,
        api: Part { ok: false, says: api },
        nodes: Vec::new(),
        instances: BTreeMap::new(),
        legs: Vec::new(),
    }
}

fn describe(report: &Report, paint: Paint) -> String {
    let health = |health: &Part| if health.ok { paint.good(&health.says) } else { paint.bad(&health.says) };
    let mut text = format!(
        "cell       {}\ngateway    {}\nAPI        {}\n",
        report.url,
        health(&report.gateway),
        health(&report.api)
    );
    if report.api.ok {
        let counts: Vec<_> = report.instances.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
        let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
        text.push_str(&format!("instances  {counts}\n"));
        text.push_str(&nodes(&report.nodes, paint));
    }
    if !report.legs.is_empty() {
        text.push_str(&format!("\n{}", netcheck::describe(&report.legs, paint)));
    }
    text
}

fn nodes(nodes: &[NodeHealth], paint: Paint) -> String {
    if nodes.is_empty() {
        return format!("nodes      {}\n", paint.bad("none is live; `landfast node` runs one"));
    }
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| {
            let state = if node.draining { "draining" } else { "live" };
            let filled = format!("{} of {}", node.instances, node.capacity);
            vec![node.name.clone(), state.to_owned(), filled, node.isolation.clone()]
        })
        .collect();
    format!("\n{}\n", table(paint, &["NODE", "STATE", "INSTANCES", "ISOLATION"], &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_gateway_is_blamed_and_nothing_else() {
        let error = Error::Unreachable { address: "http://x".into(), why: "nothing listens there".into() };
        let text = describe(&unwell("http://x", &error), Paint::none());
        assert!(text.contains("nothing listens there") && text.contains("without the gateway"), "{text}");
    }

    #[test]
    fn a_cell_without_nodes_says_what_to_do() {
        assert!(nodes(&[], Paint::none()).contains("landfast node"));
    }
}
