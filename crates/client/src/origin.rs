//! One address of a cell, and single calls to it.

use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use landfast_net::http::CallError;
use landfast_net::socket::Socket;
use landfast_net::trust::Trust;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::error::{Error, Refusal};

/// How long a connection may take to stand: a far machine answers in a tenth of it, and one that drops packets never.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// How long a name may take to be looked up.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);

/// The most bytes of a refusal that are read.
const REFUSAL_MAX: usize = 64 * 1024;

/// Where a gateway is reached, or several behind one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    is_encrypted: bool,
    host: String,
    port: u16,
    /// What stands before every path, without a slash at its end.
    prefix: String,
}

/// One address of an origin: a gateway, or what stands before some.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) origin: Arc<Origin>,
    /// Which of the listed ones it is.
    pub(crate) index: usize,
    pub(crate) address: SocketAddr,
    /// The other addresses of the same name.
    pub(crate) others: Arc<[SocketAddr]>,
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) body: Bytes,
    pub(crate) content_type: Option<&'static str>,
    /// Other headers.
    pub(crate) headers: Vec<(header::HeaderName, String)>,
    pub(crate) idempotency_key: Option<String>,
    /// Where a stream of server-sent events goes on.
    pub(crate) last_event_id: Option<String>,
    /// How long the answer may take.
    pub(crate) deadline: Duration,
}

/// A body that goes on.
pub(crate) type Upload = UnsyncBoxBody<Bytes, io::Error>;

/// An answer that goes on. Its connection ends with it.
#[derive(Debug)]
pub(crate) struct Open {
    /// Who it comes from.
    pub(crate) door: Door,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    _connection: AbortOnDrop,
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Origin {
    /// Reads `http://host[:port][/prefix]`, or the same with https.
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        let uri: Uri = url.trim().parse().map_err(|error| Error::invalid(format!("{url} is no URL: {error}.")))?;
        let is_encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => {
                return Err(Error::invalid(format!("{url} begins neither with http:// nor with https://.")));
            }
        };
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| Error::invalid(format!("{url} names no host.")))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let port = uri.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 });
        Ok(Self { is_encrypted, host, port, prefix })
    }

    /// Whether TLS is spoken there.
    pub(crate) const fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Whether others could read what is sent there: it is neither encrypted nor on this machine.
    pub(crate) fn is_overheard(&self) -> bool {
        let is_here = self.host == "localhost" || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        !self.is_encrypted && !is_here
    }

    /// A path at this address.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// What stands in `Host`.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Looks its name up.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`].
    pub(crate) async fn addresses(&self) -> Result<Vec<SocketAddr>, Error> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![(ip, self.port).into()]);
        }
        let found = timeout(LOOKUP_DEADLINE, lookup_host((self.host.as_str(), self.port))).await;
        let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut addresses: Vec<_> = match found {
            Ok(found) => found.collect(),
            Err(error) => return Err(self.unreachable(format!("its name is not known ({error})"))),
        };
        // A resolver may say the same one once for each kind of socket.
        addresses.dedup();
        if addresses.is_empty() {
            return Err(self.unreachable("its name has no address".to_owned()));
        }
        Ok(addresses)
    }

    /// What it is that nothing could be sent there.
    fn unreachable(&self, why: String) -> Error {
        Error::Unreachable { address: self.to_string(), why }
    }

    fn request(&self, call: &Call, bearer: &str, accept: &str) -> Result<Request<Full<Bytes>>, Error> {
        let mut credential = HeaderValue::try_from(format!("Bearer {bearer}"))
            .map_err(|_| Error::invalid("The API key holds characters that no key has."))?;
        credential.set_sensitive(true);
        let mut request = Request::builder()
            .method(&call.method)
            .uri(self.path(&call.target))
            .header(header::HOST, self.authority())
            .header(header::ACCEPT, accept)
            .header(header::AUTHORIZATION, credential);
        if let Some(content_type) = call.content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(key) = &call.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(id) = &call.last_event_id {
            request = request.header("last-event-id", id);
        }
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        request
            .body(Full::new(call.body.clone()))
            .map_err(|error| Error::invalid(format!("{} cannot be sent: {error}.", call.target)))
    }
}

impl Door {
    /// Connects to it, with TLS if that is spoken there.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`]: nothing was sent.
    pub(crate) async fn connect(&self, trust: Option<&Trust>) -> Result<Socket, Error> {
        let connected = timeout(CONNECT_DEADLINE, async {
            let stream = TcpStream::connect(self.address).await?;
            match trust.filter(|_| self.origin.is_encrypted) {
                Some(trust) => trust.connect(&self.origin.host, stream).await,
                None => Ok(Socket::tcp(stream)),
            }
        });
        let connected = connected.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        connected.map_err(|error| {
            self.origin.unreachable(match error.kind() {
                io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
                io::ErrorKind::TimedOut => "no answer in time".to_owned(),
                _ => error.to_string(),
            })
        })
    }

    /// Makes one call over a connection to it, with one credential.
    pub(crate) async fn call(&self, socket: Socket, call: &Call, bearer: &str) -> Result<Response<Bytes>, Error> {
        let request = self.origin.request(call, bearer, "application/json")?;
        let response = landfast_net::http::call(socket, request, call.deadline).await.map_err(|error| match error {
            CallError::Timeout | CallError::Connection(_) | CallError::Body(_) => {
                Error::Broken { address: self.origin.to_string(), why: error.to_string() }
            }
        })?;
        if response.status().is_success() { Ok(response) } else { Err(refused(&response)) }
    }

    /// Makes one call over a connection to it whose answer goes on for as long as either side likes.
    pub(crate) async fn open(&self, socket: Socket, call: &Call, bearer: &str) -> Result<Open, Error> {
        let body = Full::new(call.body.clone()).map_err(|never| match never {}).boxed_unsync();
        self.stream(socket, call, bearer, body, pending()).await
    }

    /// Makes one call whose body goes on for as long as `stalled` waits, and its answer as well.
    pub(crate) async fn stream(
        &self,
        socket: Socket,
        call: &Call,
        bearer: &str,
        body: Upload,
        stalled: impl Future<Output = ()>,
    ) -> Result<Open, Error> {
        let is_empty = body.is_end_stream();
        let request = self.origin.request(call, bearer, "text/event-stream, */*")?.map(|_| body);
        let broken = |why: &dyn fmt::Display| Error::Broken { address: self.origin.to_string(), why: why.to_string() };
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(|error| broken(&error))?;
        let connection = AbortOnDrop(tokio::spawn(async move { drop(connection.await) }));
        let answer = tokio::select! {
            answer = sender.send_request(request) => answer,
            () = sleep(call.deadline), if is_empty || !call.body.is_empty() => return Err(broken(&"no answer in time")),
            () = stalled => return Err(broken(&"nothing moved for too long")),
        };
        let answer = answer.map_err(|error| broken(&error))?;
        let (head, body) = answer.into_parts();
        if head.status.is_success() {
            let (door, status, headers) = (self.clone(), head.status.as_u16(), head.headers);
            return Ok(Open { door, status, headers, body, _connection: connection });
        }
        let body = timeout(call.deadline, Limited::new(body, REFUSAL_MAX).collect()).await;
        let body = body.ok().and_then(Result::ok).map(Collected::to_bytes).unwrap_or_default();
        Err(refused(&Response::from_parts(head, body)))
    }
}

fn refused(response: &Response<Bytes>) -> Error {
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    Error::Refused(Box::new(Refusal::read(response.status().as_u16(), text, response.body())))
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

impl Call {
    /// A call without a body.
    pub(crate) fn new(method: Method, target: impl Into<String>, deadline: Duration) -> Self {
        let target = target.into();
        Self {
            method,
            target,
            body: Bytes::new(),
            content_type: None,
            headers: Vec::new(),
            idempotency_key: None,
            last_event_id: None,
            deadline,
        }
    }

    /// Gives it a JSON body.
    #[must_use]
    pub(crate) fn json(mut self, body: &impl serde::Serialize) -> Self {
        self.body = serde_json::to_vec(body).expect("a request's body is plain data").into();
        self.content_type = Some("application/json");
        self
    }

    /// Lets it be sent twice and run once.
    #[must_use]
    pub(crate) fn idempotent(mut self) -> Self {
        self.idempotency_key = Some(format!("{:032x}", rand::random::<u128>()));
        self
    }

    /// Whether it may run twice, or is kept from it.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.method.is_idempotent() || self.idempotency_key.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_host_port_and_prefix() {
        let origin = Origin::parse("http://[::1]:7070/cell/").unwrap();
        assert_eq!((origin.host.as_str(), origin.port, origin.path("/v1").as_str()), ("::1", 7070, "/cell/v1"));
        assert_eq!(origin.to_string(), "http://[::1]:7070/cell");
        assert_eq!(Origin::parse("http://cell.example").unwrap().port, 80);
        let encrypted = Origin::parse("https://cell.example").unwrap();
        assert_eq!((encrypted.port, encrypted.to_string().as_str()), (443, "https://cell.example:443"));
    }

    #[test]
    fn what_others_could_read_is_known() {
        let overheard = |url| Origin::parse(url).unwrap().is_overheard();
        assert!(overheard("http://10.0.0.1:7070") && overheard("http://cell.example"));
        assert!(
            !["http://127.0.0.9", "http://[::1]", "http://localhost:1", "https://cell.example"]
                .map(overheard)
                .contains(&true)
        );
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_sentence() {
        for url in ["ftp://cell.example", "cell.example:80", "", "http://"] {
            let error = Origin::parse(url).unwrap_err().to_string();
            assert!(error.ends_with('.') && error.len() > 20, "{url}: {error}");
        }
    }

    #[test]
    fn a_post_may_run_twice_only_with_a_key() {
        let post = Call::new(Method::POST, "/v1/instances", Duration::from_secs(1));
        assert!(!post.is_repeatable());
        assert!(post.idempotent().is_repeatable());
        assert!(Call::new(Method::DELETE, "/v1/instances/x", Duration::from_secs(1)).is_repeatable());
    }

    #[tokio::test]
    async fn a_port_where_nothing_listens_is_said_in_words() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let origin = Origin::parse(&url).unwrap();
        let address = origin.addresses().await.unwrap()[0];
        let door = Door { origin: Arc::new(origin), index: 0, address, others: Arc::new([]) };
        let error = door.connect(None).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{url} cannot be reached: nothing listens there."));
        assert!(error.is_transport());
    }
}
