//! The way to a browser that may not be there yet: parked while it starts, dialled until it answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use landfast_core::cdp::START_BUDGET;
use landfast_core::{ErrorCode, Problem};
use landfast_net::clock;
use landfast_net::head::{Headers, RequestHead};
use landfast_net::socket::Socket;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::line::{Act, Line, refusal};
use super::socket::CdpSocket;
use crate::Agent;
use crate::browser::DevTools;
use crate::service::{Answer, ask};

/// How long one dial may take, its handshake included: the browser is on this host.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// Headers of a client's handshake that are the browser's to see. `Origin` is not among them: the browser would take it for
/// a page's, and refuse it.
const PASSED: [&str; 6] = [
    "connection",
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
];

/// Which socket of the browser a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// That of the browser of the moment.
    Browser,
    /// A certain one: of a target, or of one start of the browser.
    Path(String),
}

impl Endpoint {
    /// Reads an upgrade request; `None` if its path leads to no socket of the browser.
    pub(crate) fn read(path: &str) -> Option<Self> {
        let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        if path == "/" || path == "/cdp" {
            return Some(Self::Browser);
        }
        let id = path.strip_prefix("/devtools/browser/").or_else(|| path.strip_prefix("/devtools/page/"))?;
        (!id.is_empty() && !id.contains('/')).then(|| Self::Path(path.to_owned()))
    }

    fn path<'a>(&'a self, devtools: &'a DevTools) -> &'a str {
        match self {
            Self::Browser => &devtools.path,
            Self::Path(path) => path,
        }
    }
}

/// Connects a client to the browser, waiting for it while it is starting, for at most `within` and the time that a start may
/// take.
///
/// Cancel safe: nothing is left of a dial that was dropped, and what there is to tell of it is told.
///
/// # Errors
///
/// [`ErrorCode::ServiceUnknown`] if the instance has no browser, [`ErrorCode::RequestInvalid`] for what is no WebSocket,
/// [`ErrorCode::BrowserDown`] and [`ErrorCode::InstanceStarting`] where there is none to connect to.
pub(crate) async fn open(
    agent: &Arc<Agent>,
    endpoint: Endpoint,
    wish: &RequestHead,
    within: Duration,
) -> Result<Answer<CdpSocket>, Problem> {
    let within = within.min(START_BUDGET);
    let browser = agent.services.browser()?;
    if wish.method != "GET" || !wish.headers.has_token("upgrade", "websocket") {
        let detail = "This path is a WebSocket: Connection: Upgrade and Upgrade: websocket are missing.";
        return Err(Problem::new(ErrorCode::RequestInvalid, detail));
    }
    let (mut line, mut dialling, mut dialled) = (Line::new(agent, browser, within), None, None);
    loop {
        let mut refused = None;
        while let Some(act) = line.poll() {
            match act {
                Act::Dial { start, url } => {
                    // If there are other news already, they are the next turn's.
                    let devtools = line.status.borrow().devtools.clone().filter(|devtools| devtools.url() == url);
                    (dialling, dialled) = (devtools.map(|devtools| dial(start, &devtools, &endpoint, wish)), None);
                }
                Act::CloseUpstream => (dialling, dialled) = (None, None),
                Act::Refuse(code) => refused = Some(code),
                // Nobody is connected yet.
                Act::CloseClient(_) => {}
            }
        }
        if let Some(code) = refused {
            return Err(refusal(code, &line.status.borrow(), within));
        }
        if line.is_carrying()
            && let Some((head, socket)) = dialled.take()
        {
            return Ok(Answer::Accepted(head, Box::new(CdpSocket::new(socket, line))));
        }
        let deadline = line.next_deadline();
        tokio::select! {
            (start, said) = finished(&mut dialling) => match said {
                Ok(Answer::Accepted(head, socket)) => {
                    dialled = Some((head, socket));
                    line.handle_dialled(start);
                }
                Ok(Answer::Refused(refusal)) => {
                    line.handle_dial_refused();
                    return Ok(Answer::Refused(refusal));
                }
                Err(problem) => {
                    tracing::debug!(start, %problem, "the browser was not reached");
                    line.handle_dial_failed(start);
                }
            },
            changed = line.status.changed() => if changed.is_err() {
                return Err(Problem::new(ErrorCode::BrowserDown, "The instance is ending."));
            },
            () = clock::sleep_until(deadline) => {}
        }
    }
}

/// A dial under way.
type Dialling = Pin<Box<dyn Future<Output = (u64, Result<Answer, Problem>)> + Send>>;

/// Dials one start, and passes the client's handshake on.
fn dial(start: u64, devtools: &DevTools, endpoint: &Endpoint, wish: &RequestHead) -> Dialling {
    let mut headers = Headers::new();
    headers.push("Host", devtools.host());
    for (name, value) in
        wish.headers.iter().filter(|(name, _)| PASSED.iter().any(|known| name.eq_ignore_ascii_case(known)))
    {
        headers.push(name, value);
    }
    let (port, target) = (devtools.port, endpoint.path(devtools).to_owned());
    let request = RequestHead { method: "GET".to_owned(), target, headers };
    Box::pin(async move {
        let dialled = timeout(DIAL_DEADLINE, async {
            let refused = |_| Problem::from(ErrorCode::UpstreamRefused);
            let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(refused)?;
            ask(Socket::tcp(stream), None, &request, false).await
        });
        (start, dialled.await.unwrap_or_else(|_| Err(ErrorCode::UpstreamTimeout.into())))
    })
}

/// Waits for the dial under way, once.
async fn finished(dialling: &mut Option<Dialling>) -> (u64, Result<Answer, Problem>) {
    let Some(dial) = dialling else { return std::future::pending().await };
    let finished = dial.await;
    *dialling = None;
    finished
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_the_browser_are_known_by_their_paths() {
        let path = |path: &str| Some(Endpoint::Path(path.to_owned()));
        for (asked, endpoint) in [
            ("/", Some(Endpoint::Browser)),
            ("/cdp", Some(Endpoint::Browser)),
            ("/cdp/", Some(Endpoint::Browser)),
            ("/devtools/browser/a-b", path("/devtools/browser/a-b")),
            ("/devtools/page/A1/", path("/devtools/page/A1")),
            ("/devtools/page/", None),
            ("/devtools/page/a/b", None),
            ("/devtools/inspector.html", None),
            ("/processes/x/attach", None),
        ] {
            assert_eq!(Endpoint::read(asked), endpoint, "{asked}");
        }
    }
}
