//! What an instance may be asked to be.
//!
//! A spec is refused here, with the name of the field and what to do about it, or never: nodes, agents and gateways take
//! it as it stands in the record, long after whoever asked has gone.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use http::uri::Authority;
use landfast_core::record::{External, InstanceSpec, Kind, Limits, Network, Ready, Service, ServiceRestart};
use landfast_core::{Problem, ServiceName};

use super::input::invalid;

/// Pairs of labels or of environment in one request.
const PAIRS_MAX: usize = 256;

/// Bytes of a label's name or value, which stand in queries and tables.
const LABEL_MAX: usize = 256;

/// Services of an instance: each is supervised and probed, and what is larger is several instances.
const SERVICES_MAX: usize = 16;

/// The service that a browser's agent adds to those of its spec.
const CHROMIUM: &str = "chromium";

/// Words of a service's command, or flags of a browser.
const WORDS_MAX: usize = 256;

/// Bytes of a Unix socket's path in the instance's home: 107 are what the kernel takes, and the home comes before it.
const SOCKET_MAX: usize = 64;

/// Seconds that a service may take to come up.
const READY_WITHIN_MAX: u64 = 3_600;

/// Seconds of idleness: an instance that waits longer than a month for its traffic does not need the setting.
const IDLE_MAX: u64 = 30 * 24 * 3_600;

/// Seconds for which a browser may be silent: three questions fit into the least, and a debugger's day into the most.
const SILENCE: RangeInclusive<u64> = 3..=24 * 3_600;

/// Checks everything that is asked of an instance of this kind.
///
/// # Errors
///
/// A refusal that names the field.
pub(super) fn check(kind: Kind, spec: &InstanceSpec) -> Result<(), Problem> {
    check_labels("spec.node_labels", &spec.node_labels)?;
    check_env("spec.env", &spec.env)?;
    check_services(kind, spec)?;
    check_browser(kind, spec)?;
    if let Some(external) = &spec.external {
        check_external(spec, external)?;
    }
    if spec.idle_timeout.is_some_and(|seconds| !(1..=IDLE_MAX).contains(&seconds)) {
        return Err(invalid(format!("spec.idle_timeout is from 1 to {IDLE_MAX} seconds; leave it out for never.")));
    }
    check_limits(&spec.limits)
}

/// Checks labels.
///
/// # Errors
///
/// A refusal that names the field.
pub(super) fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<(), Problem> {
    if labels.len() > PAIRS_MAX {
        return Err(invalid(format!("{field} has more than {PAIRS_MAX} entries.")));
    }
    let is_name = |name: &str| !name.is_empty() && !name.contains('=');
    let fits = |text: &str| text.len() <= LABEL_MAX && !text.contains(char::is_control);
    match labels.iter().find(|(name, value)| !is_name(name) || !fits(name) || !fits(value)) {
        Some((name, _)) => Err(invalid(format!(
            "{field}: {name:.50?} is no label: a name without '=', and at most {LABEL_MAX} bytes for it and for its value."
        ))),
        None => Ok(()),
    }
}

/// Checks a `host:port`.
///
/// # Errors
///
/// A refusal that names the field.
pub(super) fn check_address(field: &str, address: &str) -> Result<(), Problem> {
    let authority = address.parse::<Authority>().ok().filter(|_| !address.contains('@'));
    let is_whole = authority.is_some_and(|at| !at.host().is_empty() && at.port_u16().is_some_and(|port| port > 0));
    if is_whole { Ok(()) } else { Err(invalid(format!("{field} is host:port, not {address:.100?}."))) }
}

fn check_env(field: &str, env: &BTreeMap<String, String>) -> Result<(), Problem> {
    if env.len() > PAIRS_MAX {
        return Err(invalid(format!("{field} has more than {PAIRS_MAX} entries.")));
    }
    let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    match env.iter().find(|(name, value)| !is_name(name) || value.contains('\0')) {
        Some((name, _)) => Err(invalid(format!("{field}: {name:.50?} or its value cannot stand in an environment."))),
        None => Ok(()),
    }
}

fn check_services(kind: Kind, spec: &InstanceSpec) -> Result<(), Problem> {
    let count = spec.services.len();
    match kind {
        Kind::Actor if count != 1 => {
            return Err(invalid(format!("spec.services of an actor has exactly one service, not {count}.")));
        }
        Kind::Actor | Kind::Sandbox | Kind::Browser => {}
    }
    if count > SERVICES_MAX {
        return Err(invalid(format!("spec.services has more than {SERVICES_MAX} entries.")));
    }
    let mut listens: BTreeMap<(Option<u16>, Option<&str>), ServiceName> = BTreeMap::new();
    for (name, service) in &spec.services {
        let field = format!("spec.services.{name}");
        if spec.external.is_some() {
            check_outside(&field, service)?;
            continue;
        }
        check_inside(&field, service)?;
        if let Some(other) = listens.insert((service.port, service.socket.as_deref()), *name) {
            return Err(invalid(format!(
                "{field} listens where spec.services.{other} does; each has a place of its own."
            )));
        }
    }
    Ok(())
}

fn check_browser(kind: Kind, spec: &InstanceSpec) -> Result<(), Problem> {
    if kind != Kind::Browser {
        return match spec.browser {
            Some(_) => Err(invalid("spec.browser is for instances of kind browser; leave it out.")),
            None => Ok(()),
        };
    }
    if spec.external.is_some() {
        return Err(invalid("spec.external: Landfast does not run an external instance, so it has no kind browser."));
    }
    if spec.services.keys().any(|name| name.as_str() == CHROMIUM) {
        return Err(invalid(format!("spec.services.{CHROMIUM} is the browser itself; choose another name.")));
    }
    let silence = spec.browser.as_ref().and_then(|browser| browser.unresponsive_after).unwrap_or_default();
    if silence != 0 && !SILENCE.contains(&silence) {
        let detail = format!(
            "spec.browser.unresponsive_after is {} to {} seconds, or 0 for ever.",
            SILENCE.start(),
            SILENCE.end()
        );
        return Err(invalid(detail));
    }
    let flags = spec.browser.as_ref().map_or(&[][..], |browser| &browser.flags);
    if flags.len() > WORDS_MAX {
        return Err(invalid(format!("spec.browser.flags has more than {WORDS_MAX} entries.")));
    }
    match flags.iter().find(|flag| !flag.starts_with("--") || flag.contains('\0')) {
        Some(flag) => Err(invalid(format!("spec.browser.flags: {flag:.50?} is no flag; flags begin with --."))),
        None => Ok(()),
    }
}

/// A service that the agent runs: a command, and a place where it listens.
fn check_inside(field: &str, service: &Service) -> Result<(), Problem> {
    if service.address.is_some() {
        return Err(invalid(format!(
            "{field}.address is for external instances; name the port or the socket where the command listens."
        )));
    }
    check_command(field, service)?;
    check_env(&format!("{field}.env"), &service.env)?;
    if service.cwd.as_ref().is_some_and(|cwd| cwd.is_empty() || cwd.contains('\0')) {
        return Err(invalid(format!("{field}.cwd is a directory; leave it out for the instance's home.")));
    }
    match (service.port, &service.socket) {
        (Some(0), None) => Err(invalid(format!("{field}.port is from 1 to 65535."))),
        (Some(_), None) => check_ready(field, &service.ready),
        (None, Some(socket)) => {
            check_socket(field, socket)?;
            check_ready(field, &service.ready)
        }
        (None, None) => Err(invalid(format!("{field} has no place to listen: give it a port or a socket."))),
        (Some(_), Some(_)) => Err(invalid(format!("{field} has both a port and a socket; leave one out."))),
    }
}

fn check_command(field: &str, service: &Service) -> Result<(), Problem> {
    let (argv, shell) = (&service.argv, &service.shell);
    match (argv.first(), shell) {
        (None, None) => Err(invalid(format!("{field} has no command: give it argv or shell."))),
        (Some(_), Some(_)) => Err(invalid(format!("{field} has both argv and shell; leave one out."))),
        (Some(program), None) if program.is_empty() => Err(invalid(format!("{field}.argv begins with an empty word."))),
        (None, Some(line)) if line.trim().is_empty() => Err(invalid(format!("{field}.shell is empty."))),
        _ if argv.len() > WORDS_MAX => Err(invalid(format!("{field}.argv has more than {WORDS_MAX} words."))),
        _ if argv.iter().chain(shell).any(|word| word.contains('\0')) => {
            Err(invalid(format!("{field}: a command cannot contain a zero byte.")))
        }
        _ => Ok(()),
    }
}

fn check_socket(field: &str, socket: &str) -> Result<(), Problem> {
    let is_plain = !socket.is_empty() && socket.len() <= SOCKET_MAX && !socket.contains('\0');
    if is_plain && socket.split('/').all(|part| !part.is_empty() && part != "..") {
        return Ok(());
    }
    Err(invalid(format!(
        "{field}.socket is a path relative to the instance's home, without `..` and of {SOCKET_MAX} bytes at most."
    )))
}

fn check_ready(field: &str, ready: &Ready) -> Result<(), Problem> {
    let is_path = |path: &String| path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !ready.path.as_ref().is_none_or(is_path) {
        return Err(invalid(format!("{field}.ready.path is a path such as /healthz, in ASCII and without spaces.")));
    }
    if !(1..=READY_WITHIN_MAX).contains(&ready.within) {
        return Err(invalid(format!("{field}.ready.within is from 1 to {READY_WITHIN_MAX} seconds.")));
    }
    Ok(())
}

/// A service of an external instance: an address, and nothing that somebody would have to start.
fn check_outside(field: &str, service: &Service) -> Result<(), Problem> {
    let Service { argv, shell, env, cwd, port, socket, address, ready, restart, retry_signals: _ } = service;
    let foreign = [
        ("argv", !argv.is_empty()),
        ("shell", shell.is_some()),
        ("env", !env.is_empty()),
        ("cwd", cwd.is_some()),
        ("port", port.is_some()),
        ("socket", socket.is_some()),
        ("ready", *ready != Ready::default()),
        ("restart", *restart != ServiceRestart::default()),
    ];
    if let Some((name, _)) = foreign.iter().find(|(_, is_there)| *is_there) {
        return Err(invalid(format!("{field}.{name}: Landfast does not run an external instance; leave it out.")));
    }
    match address {
        Some(address) => check_address(&format!("{field}.address"), address),
        None => {
            Err(invalid(format!("{field}.address is missing: where does the service of the external instance listen?")))
        }
    }
}

fn check_external(spec: &InstanceSpec, external: &External) -> Result<(), Problem> {
    let foreign = [
        ("network", matches!(spec.network, Network::Private | Network::None)),
        ("idle_timeout", spec.idle_timeout.is_some()),
        ("node_labels", !spec.node_labels.is_empty()),
    ];
    if let Some((name, _)) = foreign.iter().find(|(_, is_there)| *is_there) {
        return Err(invalid(format!("spec.{name}: Landfast does not run an external instance; leave it out.")));
    }
    match &external.agent {
        Some(agent) => check_address("spec.external.agent", agent),
        None if spec.services.is_empty() => {
            Err(invalid("spec.external leads nowhere: name its agent, or services with their addresses."))
        }
        None => Ok(()),
    }
}

fn check_limits(limits: &Limits) -> Result<(), Problem> {
    let Limits { rate, in_flight, sessions } = *limits;
    let all = [("rate", rate), ("in_flight", in_flight), ("sessions", sessions)];
    match all.iter().find(|(_, limit)| *limit == Some(0)) {
        Some((name, _)) => {
            Err(invalid(format!("spec.limits.{name} is 1 at least; leave it out for the gateway's own.")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refusal(kind: Kind, spec: Value) -> String {
        let spec = serde_json::from_value(spec).unwrap();
        check(kind, &spec).map_or_else(|problem| problem.detail, |()| "fine".to_owned())
    }

    fn with_service(service: &Value) -> Value {
        json!({"services": {"web": service}})
    }

    #[test]
    fn a_service_has_one_command_and_one_place() {
        for (service, expected) in [
            (json!({"argv": ["serve"], "port": 80}), "fine"),
            (json!({"shell": "serve", "socket": "run/web.sock", "ready": {"path": "/up", "within": 5}}), "fine"),
            (json!({"port": 80}), "spec.services.web has no command"),
            (json!({"argv": ["serve"], "shell": "serve", "port": 80}), "spec.services.web has both argv and shell"),
            (json!({"argv": [""], "port": 80}), "spec.services.web.argv"),
            (json!({"shell": " ", "port": 80}), "spec.services.web.shell"),
            (json!({"argv": ["a\u{0}"], "port": 80}), "zero byte"),
            (json!({"argv": ["serve"]}), "no place to listen"),
            (json!({"argv": ["serve"], "port": 80, "socket": "s"}), "both a port and a socket"),
            (json!({"argv": ["serve"], "port": 0}), "spec.services.web.port"),
            (json!({"argv": ["serve"], "socket": "../s"}), "spec.services.web.socket"),
            (json!({"argv": ["serve"], "socket": "/s"}), "spec.services.web.socket"),
            (json!({"argv": ["serve"], "port": 80, "address": "h:1"}), "spec.services.web.address"),
            (json!({"argv": ["serve"], "port": 80, "env": {"A=": "b"}}), "spec.services.web.env"),
            (json!({"argv": ["serve"], "port": 80, "cwd": ""}), "spec.services.web.cwd"),
            (json!({"argv": ["serve"], "port": 80, "ready": {"within": 0}}), "spec.services.web.ready.within"),
            (json!({"argv": ["serve"], "port": 80, "ready": {"path": "up"}}), "spec.services.web.ready.path"),
        ] {
            let found = refusal(Kind::Sandbox, with_service(&service));
            assert!(found.contains(expected), "{service}: {found}");
        }
    }

    #[test]
    fn two_services_never_listen_at_the_same_place() {
        let both = json!({"services": {"a": {"shell": "a", "port": 80}, "b": {"shell": "b", "port": 80}}});
        assert!(refusal(Kind::Sandbox, both).contains("spec.services.b listens where spec.services.a does"));
    }

    #[test]
    fn an_actor_has_exactly_one_service_and_a_sandbox_at_most_sixteen() {
        let services = |count: u16| {
            let service = |number| (format!("s{number}"), json!({"shell": "serve", "port": 1000 + number}));
            json!({"services": (0..count).map(service).collect::<serde_json::Map<_, _>>()})
        };
        assert_eq!(refusal(Kind::Actor, services(1)), "fine");
        assert!(refusal(Kind::Actor, services(0)).contains("exactly one service, not 0"));
        assert!(refusal(Kind::Actor, services(2)).contains("exactly one service, not 2"));
        assert_eq!(refusal(Kind::Sandbox, services(16)), "fine");
        assert!(refusal(Kind::Sandbox, services(17)).contains("more than 16"));
    }

    #[test]
    fn an_external_instance_has_addresses_and_nothing_that_would_have_to_be_run() {
        for (spec, expected) in [
            (json!({"external": {"agent": "10.0.0.1:9"}}), "fine"),
            (json!({"external": {"agent": "[::1]:9"}}), "fine"),
            (json!({"external": {}, "services": {"web": {"address": "vm.example:80", "retry_signals": true}}}), "fine"),
            (json!({"external": {}}), "leads nowhere"),
            (json!({"external": {"agent": "10.0.0.1"}}), "spec.external.agent is host:port"),
            (json!({"external": {"agent": "u@h:1"}}), "spec.external.agent is host:port"),
            (json!({"external": {"agent": "h:0"}}), "spec.external.agent is host:port"),
            (json!({"external": {"agent": "h:1"}, "network": "none"}), "spec.network"),
            (json!({"external": {"agent": "h:1"}, "idle_timeout": 5}), "spec.idle_timeout"),
            (json!({"external": {"agent": "h:1"}, "node_labels": {"a": "b"}}), "spec.node_labels"),
            (json!({"external": {}, "services": {"web": {}}}), "spec.services.web.address is missing"),
            (json!({"external": {}, "services": {"web": {"address": "h"}}}), "spec.services.web.address is host:port"),
            (json!({"external": {}, "services": {"web": {"address": "h:1", "argv": ["a"]}}}), "spec.services.web.argv"),
            (json!({"external": {}, "services": {"web": {"address": "h:1", "port": 1}}}), "spec.services.web.port"),
        ] {
            let found = refusal(Kind::Sandbox, spec.clone());
            assert!(found.contains(expected), "{spec}: {found}");
        }
    }

    #[test]
    fn only_a_browser_has_flags_and_one_service_less_to_name() {
        let flags = json!({"browser": {"flags": ["--lang=de"]}});
        assert_eq!(refusal(Kind::Browser, flags.clone()), "fine");
        assert_eq!(refusal(Kind::Browser, json!({})), "fine");
        for seconds in [0, 3, 86_400] {
            assert_eq!(refusal(Kind::Browser, json!({"browser": {"unresponsive_after": seconds}})), "fine");
        }
        assert!(refusal(Kind::Sandbox, flags).contains("spec.browser is for"));
        for (spec, expected) in [
            (json!({"browser": {"flags": ["lang"]}}), "spec.browser.flags"),
            (json!({"browser": {"flags": ["--a\u{0}"]}}), "spec.browser.flags"),
            (json!({"browser": {"unresponsive_after": 2}}), "spec.browser.unresponsive_after"),
            (json!({"browser": {"unresponsive_after": 86_401}}), "spec.browser.unresponsive_after"),
            (json!({"services": {"chromium": {"shell": "x", "port": 1}}}), "spec.services.chromium"),
            (json!({"external": {"agent": "h:1"}}), "spec.external"),
        ] {
            assert!(refusal(Kind::Browser, spec.clone()).contains(expected), "{spec}");
        }
    }

    #[test]
    fn what_would_switch_an_instance_off_is_no_setting() {
        assert!(refusal(Kind::Sandbox, json!({"idle_timeout": 0})).contains("spec.idle_timeout"));
        assert!(refusal(Kind::Sandbox, json!({"idle_timeout": u64::MAX})).contains("spec.idle_timeout"));
        for name in ["rate", "in_flight", "sessions"] {
            assert_eq!(refusal(Kind::Sandbox, json!({"limits": {name: 1}})), "fine");
            assert!(refusal(Kind::Sandbox, json!({"limits": {name: 0}})).contains(&format!("spec.limits.{name}")));
        }
    }
}
