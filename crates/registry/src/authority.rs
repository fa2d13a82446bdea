//! A cell's own certificate authority: made once, kept apart, and used to issue one certificate per role and machine.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfast_core::{ErrorCode, Problem};
pub use landfast_net::credential::Role;
use landfast_net::credential::{AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

/// The authority's private key, beside its certificate.
const AUTHORITY_KEY_FILE: &str = "ca-key.pem";

/// How long an authority is good for: ten years. It can be made anew, and both kept in `ca.pem` meanwhile.
const AUTHORITY_KEPT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Clocks of two machines may differ by this much on the first day.
const BEFORE: Duration = Duration::from_secs(3600);

/// Makes an authority in a folder: `ca.pem`, which every role gets, and `ca-key.pem`, which none does.
///
/// # Errors
///
/// [`ErrorCode::ConfigInvalid`] if there is one already, or the folder cannot be written.
pub fn init(folder: &Path) -> Result<(), Problem> {
    make_folder(folder)?;
    let (certificate, key) = (folder.join(AUTHORITY_FILE), folder.join(AUTHORITY_KEY_FILE));
    let pair = KeyPair::generate().map_err(|error| in_words(&key, &error))?;
    let mut params = params("Landfast cell authority", OffsetDateTime::now_utc(), AUTHORITY_KEPT);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let signed = params.self_signed(&pair).map_err(|error| in_words(&certificate, &error))?;
    write_new(&key, &pair.serialize_pem())?;
    write_new(&certificate, &signed.pem())
}

/// Issues a certificate for one machine's roles into a folder of its own, which goes to that machine as it is: `role.pem`,
/// `role-key.pem`, and the authority's `ca.pem`.
///
/// # Errors
///
/// [`ErrorCode::ConfigInvalid`] if there is no authority, the folder has one already, or cannot be written.
pub fn issue(authority: &Path, roles: &[Role], kept: Duration, folder: &Path) -> Result<(), Problem> {
    issue_at(OffsetDateTime::now_utc(), authority, roles, kept, folder)
}

fn issue_at(
    now: OffsetDateTime,
    authority: &Path,
    roles: &[Role],
    kept: Duration,
    folder: &Path,
) -> Result<(), Problem> {
    let (certificate, key) = (authority.join(AUTHORITY_FILE), authority.join(AUTHORITY_KEY_FILE));
    let certificate = fs::read_to_string(&certificate).map_err(|error| in_words(&certificate, &error))?;
    let pem = fs::read_to_string(&key).map_err(|error| in_words(&key, &error))?;
    let pair = KeyPair::from_pem(&pem).map_err(|error| in_words(&key, &error))?;
    let issuer = Issuer::from_ca_cert_pem(&certificate, pair).map_err(|error| in_words(authority, &error))?;

    let mine = KeyPair::generate().map_err(|error| in_words(folder, &error))?;
    let mut params = params("Landfast roles", now, kept);
    let name = |role: &Role| SanType::DnsName(role.name().try_into().expect("it is ASCII"));
    params.subject_alt_names = roles.iter().map(name).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = roles.iter().flat_map(usages).collect();
    let signed = params.signed_by(&mine, &issuer).map_err(|error| in_words(folder, &error))?;
    make_folder(folder)?;
    write_new(&folder.join(KEY_FILE), &mine.serialize_pem())?;
    write_new(&folder.join(CERTIFICATE_FILE), &signed.pem())?;
    write_new(&folder.join(AUTHORITY_FILE), &certificate)
}

/// Whether it is dialled, and whether it dials.
fn usages(role: &Role) -> Vec<ExtendedKeyUsagePurpose> {
    match role {
        Role::Node => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Role::Gateway => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Role::Api => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    }
}

fn params(name: &str, now: OffsetDateTime, kept: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (now - BEFORE, now + kept);
    params
}

fn make_folder(folder: &Path) -> Result<(), Problem> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| in_words(folder, &error))
}

/// Writes a file that only its owner reads, and never over another.
fn write_new(path: &PathBuf, text: &str) -> Result<(), Problem> {
    let written = File::options().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => invalid(format!("{} is there already; choose another folder.", path.display())),
        _ => in_words(path, &error),
    })
}

fn in_words(path: &Path, why: &dyn std::fmt::Display) -> Problem {
    invalid(format!("{}: {why}.", path.display()))
}

fn invalid(detail: String) -> Problem {
    Problem::new(ErrorCode::ConfigInvalid, detail)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use landfast_net::credential::{Credential, RELAYED};
    use landfast_net::secret::CellKey;
    use landfast_net::socket::Socket;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// An authority, and what its roles hold.
    struct Cell(TempDir);

    impl Cell {
        fn new() -> Self {
            let cell = Self(tempfile::tempdir().unwrap());
            init(&cell.folder("ca")).unwrap();
            cell
        }

        fn folder(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn credential(&self, roles: &[Role]) -> Credential {
            self.credential_from(OffsetDateTime::now_utc(), roles)
        }

        /// One that was issued then, for a day.
        fn credential_from(&self, then: OffsetDateTime, roles: &[Role]) -> Credential {
            let folder = self.folder(&format!("{roles:?} {then}"));
            issue_at(then, &self.folder("ca"), roles, DAY, &folder).unwrap();
            Credential::load(CellKey::generate(), &folder).unwrap()
        }
    }

    /// Lets one dial the other; what each of them has of it, and whether a word passes.
    async fn meet(dialler: &Credential, relay: &Credential) -> io::Result<(Socket, Socket)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let greeted = async { relay.accept(listener.accept().await?.0, RELAYED).await };
        let (mut near, mut far) = tokio::try_join!(dialler.connect(&address, Role::Node), greeted)?;
        near.write_all(b"word").await?;
        near.flush().await?;
        let mut heard = [0; 4];
        far.read_exact(&mut heard).await?;
        assert_eq!(&heard, b"word");
        Ok((near, far))
    }

    #[tokio::test]
    async fn gateways_and_api_servers_are_believed_by_nodes_and_by_nobody_else() {
        let cell = Cell::new();
        let [node, gateway, api] = Role::ALL.map(|role| cell.credential(&[role]));
        let all = cell.credential(&Role::ALL);
        for dialler in [&gateway, &api, &all] {
            for relay in [&node, &all] {
                let (near, _far) = meet(dialler, relay).await.unwrap();
                assert!(!near.is_plain());
            }
        }
        assert!(meet(&node, &node).await.is_err(), "a node dials no node");
        assert!(meet(&gateway, &api).await.is_err(), "what answers is no relay");
    }

    #[tokio::test]
    async fn who_is_of_another_cell_or_out_of_date_stays_outside() {
        let (cell, other) = (Cell::new(), Cell::new());
        let (node, gateway) = (cell.credential(&[Role::Node]), cell.credential(&[Role::Gateway]));
        assert!(meet(&other.credential(&[Role::Gateway]), &node).await.is_err());
        assert!(meet(&gateway, &other.credential(&[Role::Node])).await.is_err());
        for then in [OffsetDateTime::now_utc() - 2 * DAY, OffsetDateTime::now_utc() + 2 * DAY] {
            assert!(meet(&cell.credential_from(then, &[Role::Gateway]), &node).await.is_err(), "of {then}");
            assert!(meet(&gateway, &cell.credential_from(then, &[Role::Node])).await.is_err(), "of {then}");
        }
    }

    #[test]
    fn without_certificates_a_relay_listens_on_loopback_only() {
        let cell = Cell::new();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (plain, certified) = (Credential::plain(CellKey::generate()), cell.credential(&[Role::Node]));
        assert!(plain.check_listen(address("127.0.0.1:1")).is_ok() && plain.check_listen(address("[::1]:1")).is_ok());
        for outside in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1"] {
            let problem = plain.check_listen(address(outside)).unwrap_err();
            assert!(problem.to_string().contains("landfast ca issue"), "{problem}");
            assert!(certified.check_listen(address(outside)).is_ok());
        }
    }

    #[test]
    fn nothing_is_written_over_and_what_cannot_be_used_is_named() {
        let cell = Cell::new();
        assert!(init(&cell.folder("ca")).unwrap_err().to_string().contains("there already"));
        let folder = cell.folder("gateway");
        issue(&cell.folder("ca"), &[Role::Gateway], DAY, &folder).unwrap();
        assert!(issue(&cell.folder("ca"), &[Role::Gateway], DAY, &folder).is_err());
        assert!(issue(&cell.folder("none"), &[Role::Gateway], DAY, &cell.folder("x")).is_err());
        fs::write(folder.join(CERTIFICATE_FILE), "no certificate").unwrap();
        let problem = Credential::load(CellKey::generate(), &folder).unwrap_err();
        assert!(problem.to_string().contains(CERTIFICATE_FILE), "{problem}");
        let modes = [folder.join(KEY_FILE), cell.folder("ca").join(AUTHORITY_KEY_FILE)].map(|path| {
            use std::os::unix::fs::PermissionsExt as _;
            path.metadata().unwrap().permissions().mode() & 0o777
        });
        assert_eq!(modes, [0o600; 2]);
    }
}
