//! TLS toward a gateway, and whose certificates are believed.
//!
//! A client believes the authorities of its machine, as every other program there does. Who runs an authority of their own
//! names it, and then it alone is believed: an address that was meant to be private is not vouched for by strangers.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use landfast_core::{ErrorCode, Problem};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::socket::Socket;

/// What is spoken inside: links are upgrades, which HTTP/1.1 has.
const PROTOCOL: &[u8] = b"http/1.1";

/// Connects to servers that one of these authorities vouches for. Clones share it.
#[derive(Clone)]
pub struct Trust {
    connector: TlsConnector,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

impl Trust {
    /// The authorities of this machine; `SSL_CERT_FILE` and `SSL_CERT_DIR` say where others are.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`]: it has none.
    pub fn system() -> Result<Self, Problem> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // One that nobody can read vouches for nobody, and there are others.
        roots.add_parsable_certificates(found.certs);
        if !roots.is_empty() {
            return Ok(Self::of(roots));
        }
        let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        Err(Problem::new(
            ErrorCode::ConfigInvalid,
            format!(
                "This machine knows no authorities for TLS{why}. Install its package of them (Debian: ca-certificates), or \
                 name the authority's file."
            ),
        ))
    }

    /// The authorities in a file, PEM, and no others.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`], naming the file.
    pub fn only(file: &Path) -> Result<Self, Problem> {
        let invalid = |why: &dyn fmt::Display| {
            Problem::new(ErrorCode::ConfigInvalid, format!("{} is no file of authorities: {why}.", file.display()))
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| invalid(&error))? {
            roots.add(certificate.map_err(|error| invalid(&error))?).map_err(|error| invalid(&error))?;
        }
        if roots.is_empty() {
            return Err(invalid(&"there is no certificate in it"));
        }
        Ok(Self::of(roots))
    }

    fn of(roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Self { connector: TlsConnector::from(Arc::new(config)) }
    }

    /// Greets the server at the other end, which must be `host`: a name or an address.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// What went wrong, in words. Nothing was sent but the greeting.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<Socket> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| io::Error::other(error.to_string()))?;
        let connected = self.connector.connect(name, stream).await.map_err(explained)?;
        Ok(Socket::tls(TlsStream::Client(connected)))
    }
}

/// What the library says in its own words, with ours where they are known.
fn explained(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let text = match inner {
        Some(rustls::Error::InvalidCertificate(why)) => format!("its certificate is not believed ({why})"),
        Some(rustls::Error::InvalidMessage(_)) => "what answers there does not speak TLS".to_owned(),
        Some(other) => format!("it does not agree on TLS ({other})"),
        None => return error,
    };
    io::Error::other(text)
}
