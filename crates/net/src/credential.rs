//! What the roles of a cell show each other before one believes the other.
//!
//! A relay leads into every instance of its machine, so it speaks with nobody but the cell's own gateways and API servers:
//! they know the cell's key. On one machine that is enough. Between machines the key would be read by whoever is on the
//! way, and with it everything else; there both ends show a certificate of the cell's own authority first, over TLS 1.3,
//! and each sees what the other is for: a gateway's certificate makes no relay. Without certificates nothing leaves the
//! machine.
//!
//! The files are those that `landfast ca issue` writes, in a folder of their own: `ca.pem`, `role.pem` and
//! `role-key.pem`. They are looked at again every few seconds, so that they can be renewed under a running role.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfast_core::time::Instant;
use landfast_core::{ErrorCode, Problem};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use webpki::EndEntityCert;

use crate::clock;
use crate::keepalive;
use crate::reverse::{SCHEME, Spares};
use crate::secret::CellKey;
use crate::socket::Socket;

/// The authority's certificate, in the folder of the credentials.
pub const AUTHORITY_FILE: &str = "ca.pem";

/// The role's certificate.
pub const CERTIFICATE_FILE: &str = "role.pem";

/// The role's private key.
pub const KEY_FILE: &str = "role-key.pem";

/// How long the other end may take for its handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// How often the files are looked at, while anybody connects: three system calls.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Who dials a node's relay, or an agent in its place.
pub const RELAYED: &[Role] = &[Role::Gateway, Role::Api];

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs instances, and is dialled.
    Node,
    /// Dials nodes for clients.
    Gateway,
    /// Dials nodes for the control plane, and is dialled by gateways.
    Api,
}

/// What a role shows, and by what it knows others. Clones share it.
#[derive(Clone, Debug)]
pub struct Credential {
    key: CellKey,
    mutual: Option<Arc<Mutual>>,
    /// Connections of nodes that cannot be dialled, where some are taken.
    spares: Option<Spares>,
}

struct Mutual {
    folder: PathBuf,
    /// Never held across an await.
    state: Mutex<State>,
}

struct State {
    pair: Arc<Pair>,
    stamp: Stamp,
    look_at: Instant,
}

/// Both directions, made of one state of the files.
struct Pair {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

/// What makes one state of the files another than the last.
type Stamp = [(u64, i64, i64, u64); 3];

impl Role {
    /// All roles that have certificates.
    pub const ALL: [Self; 3] = [Self::Node, Self::Gateway, Self::Api];

    /// The name that stands in its certificate.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node.landfast.internal",
            Self::Gateway => "gateway.landfast.internal",
            Self::Api => "api.landfast.internal",
        }
    }

    fn server_name(self) -> ServerName<'static> {
        ServerName::try_from(self.name()).expect("it is a name of the DNS")
    }
}

impl Credential {
    /// The key alone: for parts of one machine.
    pub const fn plain(key: CellKey) -> Self {
        Self { key, mutual: None, spares: None }
    }

    /// The key, and the certificates in a folder if it is there.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`], naming the file.
    pub fn load(key: CellKey, folder: &Path) -> Result<Self, Problem> {
        if !folder.exists() {
            return Ok(Self::plain(key));
        }
        let stamp = stamp(folder).map_err(|error| invalid(folder, &error))?;
        let state = State { pair: Arc::new(Pair::read(folder)?), stamp, look_at: clock::now() + LOOK_EVERY };
        let mutual = Mutual { folder: folder.to_owned(), state: Mutex::new(state) };
        Ok(Self { key, mutual: Some(Arc::new(mutual)), spares: None })
    }

    /// The same, which reaches nodes that cannot be dialled by the spare connections that they offer here.
    #[must_use]
    pub fn with_spares(self, spares: Spares) -> Self {
        Self { spares: Some(spares), ..self }
    }

    /// The cell's key.
    pub const fn key(&self) -> &CellKey {
        &self.key
    }

    /// Checks that what is said on an address that others may reach is not said in the clear.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`] with what to do.
    pub fn check_listen(&self, address: SocketAddr) -> Result<(), Problem> {
        if self.mutual.is_some() || address.ip().is_loopback() {
            return Ok(());
        }
        Err(Problem::new(
            ErrorCode::ConfigInvalid,
            format!(
                "On {address} others could listen, and there are no certificates. Make them with `landfast ca init` and \
                 `landfast ca issue`, and put them into the folder `tls` of the data directory; or listen on loopback."
            ),
        ))
    }

    /// Connects to a part of the cell, and sees that it is what it should be.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// The connection's, or that the other end is not what it should be.
    pub async fn connect(&self, address: &str, role: Role) -> io::Result<Socket> {
        if address.starts_with(SCHEME) {
            let Some(spares) = &self.spares else {
                return Err(io::Error::other(
                    "the node can only be reached in reverse, and there is no relay_listen here",
                ));
            };
            // Both have looked at each other when it was offered.
            return Ok(spares.take(address).await);
        }
        let stream = TcpStream::connect(address).await?;
        self.check_clear(&stream)?;
        self.greet(stream, role).await
    }

    /// Connects to somebody who would have dialled us if that were possible, and lets it look at us as if it had: it is shown
    /// our certificate as a server's, and has to be one of these.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`] and [`Self::accept`].
    pub async fn connect_turned(&self, address: &str, roles: &[Role]) -> io::Result<Socket> {
        let stream = TcpStream::connect(address).await?;
        keepalive::watch(&stream);
        self.check_clear(&stream)?;
        self.accept(stream, roles).await
    }

    /// The other end of [`Self::connect_turned`]: sees that who has connected is what it should be.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`]; that it took more than ten seconds.
    pub async fn accept_turned(&self, stream: TcpStream, role: Role) -> io::Result<Socket> {
        keepalive::watch(&stream);
        self.check_clear(&stream)?;
        timeout(HANDSHAKE_WITHIN, self.greet(stream, role)).await?
    }

    /// Nothing is said to another machine in the clear.
    fn check_clear(&self, stream: &TcpStream) -> io::Result<()> {
        if self.mutual.is_some() || stream.peer_addr()?.ip().is_loopback() {
            return Ok(());
        }
        Err(io::Error::other("there are no certificates, and nothing is said to another machine in the clear"))
    }

    async fn greet(&self, stream: TcpStream, role: Role) -> io::Result<Socket> {
        let Some(mutual) = &self.mutual else { return Ok(Socket::tcp(stream)) };
        let connector = mutual.pair().connector.clone();
        let stream = connector.connect(role.server_name(), stream).await?;
        Ok(Socket::tls(TlsStream::Client(stream)))
    }

    /// Greets whoever has connected, and sees that it is one of these. Where there are no certificates, a plain
    /// connection is passed on as it is.
    ///
    /// # Errors
    ///
    /// The connection's, that it took more than ten seconds, or that the other end has no business here.
    pub async fn accept(&self, stream: TcpStream, roles: &[Role]) -> io::Result<Socket> {
        let Some(mutual) = &self.mutual else { return Ok(Socket::tcp(stream)) };
        let acceptor = mutual.pair().acceptor.clone();
        let stream = timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await??;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let is_one = |role: &Role| {
            let certificate = shown.and_then(|shown| EndEntityCert::try_from(shown).ok());
            certificate.is_some_and(|shown| shown.verify_is_valid_for_subject_name(&role.server_name()).is_ok())
        };
        if roles.iter().any(is_one) {
            return Ok(Socket::tls(TlsStream::Server(stream)));
        }
        Err(io::Error::other(format!("the certificate is of none of {roles:?}")))
    }
}

/// Whether a connection failed because one end did not believe the other, or does not speak TLS at all.
pub fn is_distrust(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some()
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        let folder = |of: &Self| of.mutual.as_ref().map(|mutual| mutual.folder.clone());
        self.key == other.key && folder(self) == folder(other)
    }
}

impl Eq for Credential {}

impl Mutual {
    /// The certificates as the files have them, some seconds late at most. Files that cannot be used change nothing but the
    /// log.
    fn pair(&self) -> Arc<Pair> {
        let mut state = self.state();
        let now = clock::now();
        if now >= state.look_at {
            state.look_at = now + LOOK_EVERY;
            if let Ok(stamp) = stamp(&self.folder)
                && stamp != state.stamp
            {
                match Pair::read(&self.folder) {
                    Ok(pair) => {
                        (state.pair, state.stamp) = (Arc::new(pair), stamp);
                        tracing::info!(folder = %self.folder.display(), "new certificates");
                    }
                    // Half of them, most likely: the rest changes the stamp again.
                    Err(problem) => tracing::warn!(%problem, "the new certificates cannot be used; the old ones stay"),
                }
            }
        }
        state.pair.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pair {
    fn read(folder: &Path) -> Result<Self, Problem> {
        let authority = folder.join(AUTHORITY_FILE);
        let mut roots = RootCertStore::empty();
        for certificate in chain(&authority)? {
            roots.add(certificate).map_err(|error| invalid(&authority, &error))?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
        let (chain, key) = (chain(&folder.join(CERTIFICATE_FILE))?, folder.join(KEY_FILE));
        let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| invalid(&key, &error))?;

        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider speaks TLS 1.3")
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), private.clone_key())
            .map_err(|error| invalid(&key, &error))?;
        let connector = TlsConnector::from(Arc::new(config));

        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
        let verifier = verifier.map_err(|error| invalid(&authority, &error))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider speaks TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private)
            .map_err(|error| invalid(&key, &error))?;
        // Nobody comes back with one, and bytes that wait unread make an idle connection look used.
        config.send_tls13_tickets = 0;
        Ok(Self { connector, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| invalid(path, &error))?;
    if chain.is_empty() { Err(invalid(path, &"there is no certificate in it")) } else { Ok(chain) }
}

fn stamp(folder: &Path) -> io::Result<Stamp> {
    let of = |name: &str| {
        let metadata = folder.join(name).metadata()?;
        io::Result::Ok((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
    };
    Ok([of(AUTHORITY_FILE)?, of(CERTIFICATE_FILE)?, of(KEY_FILE)?])
}

fn invalid(path: &Path, why: &dyn fmt::Display) -> Problem {
    Problem::new(ErrorCode::ConfigInvalid, format!("{}: {why}.", path.display()))
}

impl fmt::Debug for Mutual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutual").field("folder", &self.folder).finish_non_exhaustive()
    }
}
