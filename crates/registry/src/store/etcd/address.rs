//! Where a cluster is, as an operator writes it.

use std::fmt;
use std::fs;
use std::str::FromStr;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use landfast_core::{ErrorCode, Problem};

use crate::store::StoreError;

/// Below which our keys are, unless the address says otherwise.
const ROOT: &str = "landfast";

/// Where a cluster is: `etcd://[user:password@]host:port[,host:port…][/root]`, or `etcds://` for TLS, with
/// `?ca=FILE&cert=FILE&key=FILE`.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdAddress {
    /// The members that are dialled, each with its scheme.
    endpoints: Vec<String>,
    /// What every key of ours begins with; ends with a slash.
    root: String,
    /// Who we are to it: a name and a password.
    user: Option<(String, String)>,
    tls: Option<Tls>,
}

/// The files that make TLS; all are read when the first connection is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tls {
    /// Who vouches for the members; without it, whoever the system trusts.
    ca: Option<String>,
    /// Our certificate and its key.
    own: Option<(String, String)>,
}

impl EtcdAddress {
    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// Says who we are.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub(super) fn identify(&self, mut options: ConnectOptions) -> Result<ConnectOptions, StoreError> {
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        let Some(tls) = &self.tls else { return Ok(options) };
        let mut how = TlsOptions::new().with_enabled_roots();
        if let Some(ca) = &tls.ca {
            how = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let Some((cert, key)) = &tls.own {
            how = how.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(options.with_tls(how))
    }
}

/// Without its password, as for a log.
impl fmt::Debug for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|(name, _)| name);
        f.debug_struct("EtcdAddress")
            .field("endpoints", &self.endpoints)
            .field("root", &self.root)
            .field("user", &user)
            .field("tls", &self.tls)
            .finish()
    }
}

impl FromStr for EtcdAddress {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        let (scheme, mut tls) = match scheme {
            "etcd" => ("http", None),
            "etcds" => ("https", Some(Tls::default())),
            _ => return Err(invalid("it begins with neither etcd:// nor etcds://")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (rest, root) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, members) = match rest.rsplit_once('@') {
            Some((user, members)) => (Some(user), members),
            None => (None, rest),
        };
        let user =
            user.map(|user| user.split_once(':').ok_or_else(|| invalid("the user has no password"))).transpose()?;
        let endpoints: Vec<String> = members.split(',').map(|member| format!("{scheme}://{member}")).collect();
        if !members.split(',').all(is_member) {
            return Err(invalid("its members are not host:port, separated by commas"));
        }
        read_files(query, &mut tls)?;
        let root = if root.trim_matches('/').is_empty() { ROOT } else { root.trim_matches('/') };
        Ok(Self {
            endpoints,
            root: format!("/{root}/"),
            user: user.map(|(name, password)| (name.to_owned(), password.to_owned())),
            tls,
        })
    }
}

fn is_member(member: &str) -> bool {
    member
        .parse::<http::uri::Authority>()
        .is_ok_and(|at| !at.host().is_empty() && at.port_u16().is_some_and(|port| port > 0))
}

fn read_files(query: &str, tls: &mut Option<Tls>) -> Result<(), Problem> {
    let (mut cert, mut key) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let tls = tls.as_mut().ok_or_else(|| invalid("files are for etcds://"))?;
        match pair.split_once('=') {
            Some(("ca", file)) => tls.ca = Some(file.to_owned()),
            Some(("cert", file)) => cert = Some(file.to_owned()),
            Some(("key", file)) => key = Some(file.to_owned()),
            Some(_) | None => return Err(invalid("what stands behind the question mark is ca, cert or key")),
        }
    }
    match (cert, key, tls) {
        (None, None, _) => Ok(()),
        (Some(cert), Some(key), Some(tls)) => {
            tls.own = Some((cert, key));
            Ok(())
        }
        _ => Err(invalid("a cert needs its key, and a key its cert")),
    }
}

fn read(file: &str) -> Result<Vec<u8>, StoreError> {
    fs::read(file).map_err(|error| StoreError::Unavailable(format!("{file} cannot be read: {error}")))
}

fn invalid(why: &str) -> Problem {
    let form = "etcd://[user:password@]host:port[,host:port][/root]";
    Problem::new(ErrorCode::ConfigInvalid, format!("The store's address is not understood: {why}. Its form is {form}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> EtcdAddress {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_names_members_a_root_and_who_we_are() {
        let address = parsed("etcd://me:se:cret@a:2379,[::1]:2380/cells/one/");
        assert_eq!(address.endpoints, ["http://a:2379", "http://[::1]:2380"]);
        assert_eq!((address.root.as_str(), address.user.as_ref().unwrap().1.as_str()), ("/cells/one/", "se:cret"));
        assert!(!format!("{address:?}").contains("cret"));
        assert_eq!(parsed("etcd://a:1").root, "/landfast/");
    }

    #[test]
    fn tls_takes_its_files_from_the_query() {
        let address = parsed("etcds://a:1?ca=ca.pem&cert=c.pem&key=k.pem");
        assert_eq!(address.endpoints, ["https://a:1"]);
        let own = Some(("c.pem".to_owned(), "k.pem".to_owned()));
        assert_eq!(address.tls, Some(Tls { ca: Some("ca.pem".to_owned()), own }));
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_form() {
        for wrong in [
            "a:1",
            "http://a:1",
            "etcd://",
            "etcd://a",
            "etcd://a:0",
            "etcd://a:1,",
            "etcd://me@a:1",
            "etcd://a:1?ca=x",
            "etcds://a:1?cert=x",
            "etcds://a:1?other=x",
        ] {
            let problem = wrong.parse::<EtcdAddress>().unwrap_err();
            assert!(problem.detail.contains("etcd://[user:password@]"), "{wrong}");
        }
    }
}
