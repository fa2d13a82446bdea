//! What a request is for: by its host, by its headers or by its path, which say the same.

use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::head::Headers;
use landfast_net::relay::Target;

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The control plane.
    Api,
    /// A place inside an instance.
    Instance(Inside),
}

/// A place inside an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inside {
    /// The instance.
    pub(crate) instance: InstanceId,
    /// The agent, or a server.
    pub(crate) target: Target,
    /// The path and query there.
    pub(crate) path: String,
}

/// The first segments of paths that are the agent's own.
const AGENT_PATHS: [&str; 10] =
    ["browser", "devtools", "exec", "files", "json", "kernel", "links", "processes", "services", "telemetry"];

/// The first segments of paths that are the control plane's: our own, and those of Kernel's API.
const API_PATHS: [&str; 3] = ["v1", "browsers", "browser_pools"];

/// Stands where a service's name may, and means the agent itself: to clients of CDP it looks like a browser of their own.
const CDP: &str = "cdp";

/// Begins the instance's part of a host name, in which `_` cannot stand.
const ID_IN_HOST: &str = "ins-";

impl Place {
    /// Finds the place of a request. `domain` is the one below which instances have host names.
    ///
    /// # Errors
    ///
    /// `request.not_found`, or `request.invalid` for an instance or a service that cannot be one.
    pub(crate) fn of(target: &str, headers: &Headers, domain: Option<&str>) -> Result<Self, Problem> {
        if let Some((place, instance)) = domain.and_then(|domain| in_host(headers.get("host")?, domain)) {
            return server(instance?, place?, target).map(Self::Instance);
        }
        if let Some(id) = headers.get("landfast-instance") {
            let instance = id.parse().map_err(|error| invalid(format!("landfast-instance: {error}.")))?;
            return match headers.get("landfast-service") {
                Some(place) => server(instance, parse_place(place)?, target).map(Self::Instance),
                None => inside(instance, target).map(Self::Instance),
            };
        }
        if API_PATHS.contains(&first_segment(target)) {
            return Ok(Self::Api);
        }
        let rest = target.strip_prefix("/i/").ok_or(ErrorCode::RequestNotFound)?;
        let end = segment(rest);
        let (id, rest) = rest.split_at(end);
        let instance = id.parse().map_err(|error| invalid(format!("The instance in the path is not one: {error}.")))?;
        inside(instance, rest).map(Self::Instance)
    }
}

/// A place inside an instance, as it stands in the target of a request inside a request.
///
/// # Errors
///
/// `request.invalid`.
pub(crate) fn inner(target: &str) -> Result<(Target, &str), Problem> {
    if !target.starts_with('/') {
        return Err(invalid("The target of the inner request begins with no slash."));
    }
    match target.strip_prefix("/services/") {
        Some(rest) => {
            let end = segment(rest);
            Ok((parse_place(&rest[..end])?, target))
        }
        None => check_agent_path(target).map(|()| (Target::Agent, target)),
    }
}

/// Whether a path of the agent is a socket of the browser, which may have to be started first.
pub(crate) fn is_browser(target: &str) -> bool {
    let path = path_of(target);
    let path = path.strip_prefix("/services/cdp").unwrap_or(path);
    path.trim_end_matches('/').is_empty() || ["cdp", "devtools"].contains(&first_segment(path))
}

/// Reads a path inside an instance: its first segment is the agent's, or names a server.
fn inside(instance: InstanceId, target: &str) -> Result<Inside, Problem> {
    let rest = target.strip_prefix('/').unwrap_or(target);
    let end = segment(rest);
    let (first, path) = rest.split_at(end);
    if AGENT_PATHS.contains(&first) {
        return agent(instance, target);
    }
    if first == CDP {
        return agent(instance, if path.starts_with('/') { path } else { target });
    }
    if first.is_empty() {
        return Err(ErrorCode::RequestNotFound.into());
    }
    server(instance, parse_place(first)?, path)
}

fn agent(instance: InstanceId, path: &str) -> Result<Inside, Problem> {
    check_agent_path(path)?;
    Ok(Inside { instance, target: Target::Agent, path: path.to_owned() })
}

fn server(instance: InstanceId, target: Target, path: &str) -> Result<Inside, Problem> {
    if target == Target::Agent {
        return agent(instance, path);
    }
    let path = if path.starts_with('/') || path == "*" { path.to_owned() } else { format!("/{path}") };
    Ok(Inside { instance, target, path })
}

/// The name or number of a server. The agent is one only as a browser.
fn parse_place(text: &str) -> Result<Target, Problem> {
    if text == CDP {
        return Ok(Target::Agent);
    }
    match text.parse() {
        Ok(target @ (Target::Port(_) | Target::Service(_))) => Ok(target),
        Ok(Target::Agent) | Err(()) => Err(invalid(format!("{text:.50?} is neither a port nor a service's name."))),
    }
}

/// What a host name below `domain` leads to; `None` if it is none of an instance.
fn in_host(host: &str, domain: &str) -> Option<(Result<Target, Problem>, Result<InstanceId, Problem>)> {
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let at = name.len().checked_sub(domain.len())?;
    if !name.is_char_boundary(at) || !name[at..].eq_ignore_ascii_case(domain) {
        return None;
    }
    let label = name[..at].strip_suffix('.')?.to_ascii_lowercase();
    let (place, id) = label.rsplit_once(&format!("-{ID_IN_HOST}"))?;
    let instance = format!("{}_{id}", InstanceId::PREFIX).parse();
    let instance = instance.map_err(|error| invalid(format!("The instance in the host name is not one: {error}.")));
    Some((parse_place(place), instance))
}

/// A program that reads a path in another way than we do could be led past a token's scope.
fn check_agent_path(target: &str) -> Result<(), Problem> {
    let path = path_of(target);
    if path.contains("//") || has_dots(path) {
        return Err(invalid("The path has an empty or a dot segment."));
    }
    Ok(())
}

/// The first segment of a path or a target.
pub(crate) fn first_segment(path: &str) -> &str {
    let rest = path.strip_prefix('/').unwrap_or(path);
    &rest[..segment(rest)]
}

/// How long the segment at the front is.
pub(crate) fn segment(path: &str) -> usize {
    path.bytes().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(path.len())
}

fn path_of(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// Whether a segment is `.` or `..`, however it is written.
fn has_dots(path: &str) -> bool {
    let plain = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    plain.split(['/', '\\']).any(|segment| segment == "." || segment == "..")
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "ins_00000000000000000000000000";
    const IN_HOST: &str = "ins-00000000000000000000000000";

    fn with(target: &str, lines: &[(&str, &str)]) -> Result<Place, ErrorCode> {
        let mut headers = Headers::new();
        lines.iter().for_each(|(name, value)| headers.push(name, value));
        Place::of(target, &headers, Some("box.test")).map_err(|problem| problem.code)
    }

    fn place(target: &str) -> Result<Place, ErrorCode> {
        with(target, &[])
    }

    fn at(target: Target, path: &str) -> Result<Place, ErrorCode> {
        Ok(Place::Instance(Inside { instance: ID.parse().unwrap(), target, path: path.into() }))
    }

    fn web() -> Target {
        Target::Service("web".parse().unwrap())
    }

    #[test]
    fn path_host_and_headers_lead_to_the_same_place() {
        let path = "/a//b/../c%2f?x=/y";
        for (first, target) in [("web", web()), ("8080", Target::Port(8080))] {
            assert_eq!(place(&format!("/i/{ID}/{first}{path}")), at(target, path));
            assert_eq!(with(path, &[("host", &format!("{first}-{IN_HOST}.Box.test:99"))]), at(target, path));
            assert_eq!(with(path, &[("landfast-instance", ID), ("landfast-service", first)]), at(target, path));
            assert_eq!(with(&format!("/{first}{path}"), &[("landfast-instance", ID)]), at(target, path));
        }
        assert_eq!(place(&format!("/i/{ID}/web?q")), at(web(), "/?q"));
    }

    #[test]
    fn the_agents_paths_are_its_own() {
        assert_eq!(place(&format!("/i/{ID}/processes/%2f?from=now")), at(Target::Agent, "/processes/%2f?from=now"));
        assert_eq!(place(&format!("/i/{ID}/agent/x")), Err(ErrorCode::RequestInvalid));
    }

    #[test]
    fn a_browser_is_its_agent_in_every_shape() {
        for path in ["/json/version?x", "/devtools/page/1"] {
            assert_eq!(place(&format!("/i/{ID}{path}")), at(Target::Agent, path));
            assert_eq!(place(&format!("/i/{ID}/cdp{path}")), at(Target::Agent, path));
            assert_eq!(with(path, &[("host", &format!("cdp-{IN_HOST}.box.test"))]), at(Target::Agent, path));
            assert_eq!(with(path, &[("landfast-instance", ID), ("landfast-service", "cdp")]), at(Target::Agent, path));
        }
        assert_eq!(place(&format!("/i/{ID}/cdp?token=x")), at(Target::Agent, "/cdp?token=x"));
        assert_eq!(place(&format!("/i/{ID}/cdp/")), at(Target::Agent, "/"));
    }

    #[test]
    fn what_is_nowhere_is_said_to_be_so() {
        for target in ["/", "/v10/x", "*", &format!("/i/{ID}"), &format!("/i/{ID}/")] {
            assert_eq!(place(target), Err(ErrorCode::RequestNotFound), "{target}");
        }
        for target in ["/i/nod_1/x", &format!("/i/{ID}/Web/"), &format!("/i/{ID}/0/"), &format!("/i/{ID}/99999/")] {
            assert_eq!(place(target), Err(ErrorCode::RequestInvalid), "{target}");
        }
        assert_eq!(with("/x", &[("host", "other.box.test")]), Err(ErrorCode::RequestNotFound));
        assert_eq!(with("/x", &[("host", "web-ins-1.box.test")]), Err(ErrorCode::RequestInvalid));
        assert_eq!(with("/x", &[("host", &format!("web-{IN_HOST}.evilbox.test"))]), Err(ErrorCode::RequestNotFound));
    }

    #[test]
    fn the_control_plane_is_below_its_version_and_where_clients_of_kernel_look_for_it() {
        for target in ["/v1", "/v1/a/b?c", "/browsers?limit=1", "/browsers/x/process/exec", "/browser_pools/p/acquire"]
        {
            assert_eq!(place(target), Ok(Place::Api), "{target}");
        }
        assert_eq!(place("/browsers_of_mine"), Err(ErrorCode::RequestNotFound));
        assert_eq!(place(&format!("/i/{ID}/kernel/fs/x")), at(Target::Agent, "/kernel/fs/x"));
    }

    #[test]
    fn a_path_of_the_agent_that_may_be_read_in_two_ways_is_refused() {
        for path in [
            "/processes/../exec",
            "/cdp/json/../../exec",
            "/exec/%2e%2E/b",
            "/exec//b",
            "/exec/.%2e",
            "/exec/..%2Fb",
            "/exec%5c..",
        ] {
            assert_eq!(place(&format!("/i/{ID}{path}")), Err(ErrorCode::RequestInvalid), "{path}");
        }
        assert!(place(&format!("/i/{ID}/processes/...")).is_ok());
    }

    #[test]
    fn a_request_inside_a_request_says_where_it_goes() {
        let inner = |target| inner(target).map_err(|problem| problem.code);
        assert_eq!(inner("/services/web/x?y"), Ok((web(), "/services/web/x?y")));
        assert_eq!(inner("/processes/1/attach"), Ok((Target::Agent, "/processes/1/attach")));
        for target in ["processes", "/processes//x", "/services/agent/x", "/services/"] {
            assert_eq!(inner(target), Err(ErrorCode::RequestInvalid), "{target}");
        }
    }

    #[test]
    fn the_browsers_sockets_are_known() {
        for path in ["/", "/cdp", "/cdp/", "/cdp?x", "/devtools/page/1", "/services/cdp", "/services/cdp/cdp"] {
            assert!(is_browser(path), "{path}");
        }
        for path in ["/processes/x/attach", "/services/web/", "/services/web/cdp", "/browser/screencast", "/json"] {
            assert!(!is_browser(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_target_makes_it_panic(target in "/(i/)?[a-z0-9_/.%?&=-]{0,60}", host in "[a-z0-9.:-]{0,60}") {
            let _ = with(&target, &[("host", &host)]);
        }
    }
}
