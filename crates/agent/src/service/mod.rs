//! The servers inside the instance: how they are reached, and what a conversation with one is.

mod dial;
mod keeper;
mod owner;
mod pipe;
mod place;
mod probe;
mod recipe;
mod sieve;
mod table;
mod upgrade;
mod websocket;

pub(crate) use dial::{HOLD, dial, upgrade};
pub(crate) use keeper::{Handle, Status};
pub(crate) use pipe::Pipe;
pub(crate) use table::Services;
pub(crate) use upgrade::{Answer, Refusal, ask};
pub(crate) use websocket::WebSocket;

use landfast_core::{ErrorCode, Problem};
use landfast_net::head::RequestHead;
use landfast_net::relay::Target;

/// What a session's far end is to be, if it is a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Which one.
    pub(crate) target: Target,
    /// How it is spoken to.
    pub(crate) speech: Speech,
}

/// How a service is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// By bytes that are nobody's business.
    Bytes,
    /// By a WebSocket, which this upgrade request opens; its target is the service's own path.
    WebSocket(RequestHead),
}

impl Wanted {
    /// Reads the head with which a session is opened; `None` if it asks for something else than a service.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ServiceUnknown`] for a name that no service can have, [`ErrorCode::RequestInvalid`].
    pub(crate) fn read(head: &RequestHead) -> Result<Option<Self>, Problem> {
        let Some(rest) = head.target.strip_prefix("/services/") else { return Ok(None) };
        let (name, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let target = if name == "cdp" { Ok(Target::Agent) } else { name.parse() };
        let target = target.map_err(|()| {
            Problem::new(ErrorCode::ServiceUnknown, format!("{name:?} is neither a service's name nor a port."))
        })?;
        let speech = if head.method == "CONNECT" {
            if !path.is_empty() {
                return Err(invalid("A CONNECT to a service has no path behind its name."));
            }
            Speech::Bytes
        } else if head.method == "GET" && head.headers.has_token("upgrade", "websocket") {
            let slash = if path.starts_with('/') { "" } else { "/" };
            Speech::WebSocket(RequestHead { target: format!("{slash}{path}"), ..head.clone() })
        } else {
            return Err(invalid("A session with a service is a CONNECT, or a GET with Upgrade: websocket."));
        };
        Ok(Some(Self { target, speech }))
    }
}

fn invalid(detail: &str) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Wanted>, ErrorCode> {
        let head = RequestHead::parse(format!("{line}\r\n\r\n").as_bytes()).unwrap().unwrap().0;
        Wanted::read(&head).map_err(|problem| problem.code)
    }

    #[test]
    fn a_service_is_asked_for_by_name_by_port_or_as_the_agent() {
        for (name, target) in [
            ("web", Target::Service("web".parse().unwrap())),
            ("8080", Target::Port(8080)),
            ("agent", Target::Agent),
            // Its clients know the browser, not us.
            ("cdp", Target::Agent),
        ] {
            let wanted = read(&format!("CONNECT /services/{name} HTTP/1.1")).unwrap().unwrap();
            assert_eq!((wanted.target, wanted.speech), (target, Speech::Bytes));
        }
        assert_eq!(read("GET /processes/x/attach HTTP/1.1"), Ok(None));
    }

    #[test]
    fn an_upgrade_reaches_the_service_with_its_own_path_and_query() {
        for (target, path) in [
            ("/services/web/a/b?c=/d", "/a/b?c=/d"),
            ("/services/web/", "/"),
            ("/services/web", "/"),
            ("/services/web?c", "/?c"),
        ] {
            let wanted = read(&format!("GET {target} HTTP/1.1\r\nUpgrade: websocket")).unwrap().unwrap();
            let Speech::WebSocket(head) = wanted.speech else { panic!("{target}") };
            assert_eq!((head.target.as_str(), head.headers.get("upgrade")), (path, Some("websocket")));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (line, code) in [
            ("CONNECT /services/Web HTTP/1.1", ErrorCode::ServiceUnknown),
            ("CONNECT /services/ HTTP/1.1", ErrorCode::ServiceUnknown),
            ("CONNECT /services/0 HTTP/1.1", ErrorCode::ServiceUnknown),
            ("CONNECT /services/web/path HTTP/1.1", ErrorCode::RequestInvalid),
            ("GET /services/web/path HTTP/1.1", ErrorCode::RequestInvalid),
        ] {
            assert_eq!(read(line), Err(code), "{line}");
        }
    }
}
