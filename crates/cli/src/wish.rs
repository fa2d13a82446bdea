//! What `landfast create` asks for, put together from its flags.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use landfast_client::CreateInstance;
use landfast_core::ServiceName;
use landfast_core::record::{Browser, External, InstanceSpec, Kind, Limits, Network, Ready, Restart, Service};

use crate::args::{self, Create, Limit, Listed, Outside};
use crate::failure::Failure;

/// The most that is read of a file of services: more would not fit into a request.
const SERVICES_MAX: u64 = 128 * 1024;

/// What a create asks for.
///
/// # Errors
///
/// A file of services cannot be read, or a service stands twice.
pub(crate) fn wish(create: &Create) -> Result<CreateInstance, Failure> {
    let is_external = !create.external.is_empty() || create.external_agent.is_some();
    Ok(CreateInstance {
        kind: match create.kind {
            args::Kind::Sandbox => Kind::Sandbox,
            args::Kind::Actor => Kind::Actor,
            args::Kind::Browser => Kind::Browser,
        },
        spec: InstanceSpec {
            restart: match create.restart {
                args::Restart::Never => Restart::Never,
                args::Restart::Always => Restart::Always,
            },
            network: match create.network {
                args::Network::Auto => Network::Auto,
                args::Network::Host => Network::Host,
                args::Network::Private => Network::Private,
                args::Network::None => Network::None,
            },
            env: create.env.iter().cloned().collect(),
            node_labels: create.node_labels.iter().cloned().collect(),
            services: services(create)?,
            limits: limits(&create.limits),
            idle_timeout: create.idle_timeout.map(|idle| idle.as_secs()),
            browser: (!create.flags.is_empty()).then(|| Browser { flags: create.flags.clone(), ..Browser::default() }),
            external: is_external.then(|| External { agent: create.external_agent.clone() }),
        },
        labels: create.labels.iter().cloned().collect(),
    })
}

/// The last word on each counts.
fn limits(said: &[(Limit, u32)]) -> Limits {
    let mut limits = Limits::default();
    for &(limit, number) in said {
        match limit {
            Limit::Rate => limits.rate = Some(number),
            Limit::InFlight => limits.in_flight = Some(number),
            Limit::Sessions => limits.sessions = Some(number),
        }
    }
    limits
}

fn services(create: &Create) -> Result<BTreeMap<ServiceName, Service>, Failure> {
    let ready = Ready { path: create.ready_path.clone(), ..Ready::default() };
    let retry_signals = create.retry_signals;
    let inside = create.services.iter().map(|Listed { name, port, line }| {
        let (shell, port) = (Some(line.clone()), Some(*port));
        (*name, Service { shell, port, ready: ready.clone(), retry_signals, ..Service::default() })
    });
    let outside = create.external.iter().map(|Outside { name, address }| {
        (*name, Service { address: Some(address.clone()), retry_signals, ..Service::default() })
    });
    let mut services = match &create.service_json {
        Some(path) => read(path)?,
        None => BTreeMap::new(),
    };
    for (name, service) in inside.chain(outside) {
        if services.insert(name, service).is_some() {
            return Err(Failure::usage(format!("The service {name} stands twice; give each a name of its own.")));
        }
    }
    Ok(services)
}

fn read(path: &Path) -> Result<BTreeMap<ServiceName, Service>, Failure> {
    let shown = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let mut text = String::new();
    let opened: Result<Box<dyn Read>, _> = if path == Path::new("-") {
        Ok(Box::new(std::io::stdin()))
    } else {
        std::fs::File::open(path).map(|file| Box::new(file) as Box<dyn Read>)
    };
    opened
        .and_then(|file| file.take(SERVICES_MAX).read_to_string(&mut text))
        .map_err(|error| Failure::usage(format!("The services in {shown} cannot be read: {error}.")))?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::usage(format!(
            r#"The services in {shown} are not of the form {{"web": {{"argv": ["serve"], "port": 8080}}}}: {error}."#
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn asked(arguments: &[&str]) -> Result<CreateInstance, Failure> {
        let line = ["landfast", "create"].into_iter().chain(arguments.iter().copied());
        let Command::Create(create) = Cli::try_parse_from(line).unwrap().command else { panic!("{arguments:?}") };
        wish(&create)
    }

    #[test]
    fn a_service_is_a_name_a_port_and_a_command_line() {
        let flags =
            ["actor", "--service", "web=8080:serve --at $PORT:x", "--idle-timeout", "60", "--ready-path", "/up"];
        let wish = asked(&[&flags[..], &["--retry-signals"]].concat()).unwrap();
        let web = &wish.spec.services[&"web".parse().unwrap()];
        assert_eq!((wish.kind, wish.spec.idle_timeout), (Kind::Actor, Some(60)));
        assert_eq!((web.shell.as_deref(), web.port), (Some("serve --at $PORT:x"), Some(8080)));
        assert_eq!((web.ready.path.as_deref(), web.retry_signals), (Some("/up"), true));
        assert!(wish.spec.external.is_none());
    }

    #[test]
    fn limits_are_said_by_name() {
        let wish = asked(&["--limit", "rate=5", "--limit", "in-flight=2"]).unwrap();
        assert_eq!(wish.spec.limits, Limits { rate: Some(5), in_flight: Some(2), sessions: None });
    }

    #[test]
    fn an_external_instance_is_addresses() {
        let wish = asked(&["--external", "web=vm:80", "--external-agent", "vm:9"]).unwrap();
        let web = &wish.spec.services[&"web".parse().unwrap()];
        assert_eq!((web.address.as_deref(), web.shell.as_deref()), (Some("vm:80"), None));
        assert_eq!(wish.spec.external.unwrap().agent.as_deref(), Some("vm:9"));
    }

    #[test]
    fn services_in_full_come_from_a_file_and_none_stands_twice() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, r#"{{"web": {{"argv": ["serve"], "socket": "web.sock", "restart": "on_failure"}}}}"#).unwrap();
        let path = file.path().display().to_string();
        let wish = asked(&["--service-json", &path, "--service", "db=5432:db"]).unwrap();
        assert_eq!(wish.spec.services.len(), 2);
        let twice = asked(&["--service-json", &path, "--service", "web=80:serve"]).unwrap_err();
        assert!(twice.text.contains("web stands twice"), "{twice}");
        write!(file, "x").unwrap();
        let broken = asked(&["--service-json", &path]).unwrap_err();
        assert!(broken.text.contains(r#""port": 8080"#) && broken.code == 2, "{broken}");
        let missing = asked(&["--service-json", "/no/such/file"]).unwrap_err();
        assert!(missing.text.contains("/no/such/file"), "{missing}");
    }
}
