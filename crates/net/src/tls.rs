//! TLS toward clients, with certificates that are renewed under a running server.
//!
//! Certificates live for weeks and connections for days. So the files are looked at again and again: new connections get
//! the new certificate, those that stand are left alone, and files that cannot be read change nothing but the log.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use landfast_core::{ErrorCode, Problem};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::socket::Socket;

/// How long a client may take for its handshake: as long as for a head.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// How often the files are looked at: often enough that nobody waits for it, and it costs two system calls.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a client may offer to speak inside, in the order in which we like it.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Speaks TLS with the certificate in two files.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    files: Files,
    current: Arc<Current>,
}

#[derive(Clone, Debug)]
struct Files {
    certificates: PathBuf,
    key: PathBuf,
}

/// What makes one state of the two files another than the last.
type Stamp = [(u64, i64, i64, u64); 2];

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Tls {
    /// Reads a chain of certificates and its key, both PEM.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`], naming the file.
    pub fn load(certificates: &Path, key: &Path) -> Result<Self, Problem> {
        let files = Files { certificates: certificates.to_owned(), key: key.to_owned() };
        let current = Arc::new(Current(ArcSwap::from_pointee(files.read()?)));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3");
        let resolver: Arc<dyn ResolvesServerCert> = current.clone();
        let mut config = config.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), files, current })
    }

    /// Greets a client that has connected.
    ///
    /// # Errors
    ///
    /// What went wrong, or that the client took more than ten seconds.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Socket> {
        match timeout(HANDSHAKE_WITHIN, self.acceptor.accept(stream)).await {
            Ok(accepted) => Ok(Socket::tls(TlsStream::Server(accepted?))),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Takes new certificates over when their files change, again and again.
    ///
    /// Cancel safe.
    pub async fn keep_fresh(&self) -> Infallible {
        let mut known = self.files.stamp().ok();
        loop {
            sleep(LOOK_EVERY).await;
            let Ok(stamp) = self.files.stamp() else { continue };
            if known.replace(stamp) == Some(stamp) {
                continue;
            }
            match self.files.read() {
                Ok(certified) => {
                    self.current.0.store(Arc::new(certified));
                    tracing::info!(file = %self.files.certificates.display(), "new certificates");
                }
                // Half of a pair, most likely: the other half changes the stamp again.
                Err(problem) => tracing::warn!(%problem, "the new certificates cannot be used; the old ones stay"),
            }
        }
    }
}

impl Files {
    fn read(&self) -> Result<CertifiedKey, Problem> {
        let invalid = |path: &Path, why: &dyn fmt::Display| {
            Problem::new(ErrorCode::ConfigInvalid, format!("{}: {why}.", path.display()))
        };
        let chain = CertificateDer::pem_file_iter(&self.certificates)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| invalid(&self.certificates, &error))?;
        if chain.is_empty() {
            return Err(invalid(&self.certificates, &"there is no certificate in it"));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| invalid(&self.key, &error))?;
        let key = ring::sign::any_supported_type(&key).map_err(|error| invalid(&self.key, &error))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|error| invalid(&self.key, &error))?;
        Ok(certified)
    }

    fn stamp(&self) -> io::Result<Stamp> {
        let of = |path: &Path| {
            let metadata = path.metadata()?;
            io::Result::Ok((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
        };
        Ok([of(&self.certificates)?, of(&self.key)?])
    }
}
