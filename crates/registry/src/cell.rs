//! The data directory: what makes the processes of one machine one cell.
//!
//! Every role opens it, in any order and often at the same moment, and the first one makes what is missing. A secret that
//! two processes made differently would split the cell, and one that others can read is none, so both are ruled out
//! here: a file appears whole under its name or not at all, and access by anybody else is refused with what to do.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfast_core::{ErrorCode, Problem};
use landfast_net::credential::Credential;
use landfast_net::secret::CellKey;
use rustix::fs::Access;

use crate::api_key::ApiKey;
use crate::store::embedded::EmbeddedStore;
use crate::store::etcd::EtcdStore;
use crate::store::told::Told;
use crate::store::{Store, StoreError};
use crate::token::Signer;

/// The embedded store, in the data directory.
const STORE_FILE: &str = "cell.db";
const KEY_FILE: &str = "cell.key";
const TOKEN_KEY_FILE: &str = "token-key.pem";
const API_KEY_FILE: &str = "api-key";

/// The folder of certificates that `landfast ca issue` has written; without it roles speak on loopback only.
const CREDENTIALS: &str = "tls";

/// The data directory and its secrets.
#[derive(Debug)]
pub struct Cell {
    /// Where it is.
    pub dir: PathBuf,
    credential: Credential,
    signer: Signer,
    api_key: ApiKey,
}

impl Cell {
    /// Opens a data directory, and makes whatever is missing of it.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`] with a sentence for the operator if the directory cannot be made or written, if others
    /// may read it or its secrets, or if a secret is damaged.
    pub fn open(dir: &Path) -> Result<Self, Problem> {
        open_dir(dir)?;
        let key = secret(dir, KEY_FILE, || CellKey::generate().to_hex(), CellKey::from_hex)?;
        let signer = secret(dir, TOKEN_KEY_FILE, Signer::generate_pem, Signer::from_pem)?;
        let api_key = secret(dir, API_KEY_FILE, || ApiKey::generate().to_text(), ApiKey::parse)?;
        let credential = Credential::load(key, &dir.join(CREDENTIALS))?;
        Ok(Self { dir: dir.to_owned(), credential, signer, api_key })
    }

    /// What a relay and nobody else accepts.
    pub fn key(&self) -> &CellKey {
        self.credential.key()
    }

    /// What the cell's roles show each other: without it a relay accepts nothing.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// What signs access tokens.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The first API key.
    pub fn api_key(&self) -> &ApiKey {
        &self.api_key
    }

    /// Opens the cell's store in the data directory. Blocks for the disk, at most some seconds.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn store(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(Told::new(EmbeddedStore::open(&self.dir.join(STORE_FILE))?)))
    }

    /// Opens the cell's store at an address; in the data directory if there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`] for an address that is none, or [`StoreError`]'s rows.
    pub fn store_at(&self, address: Option<&str>) -> Result<Arc<dyn Store>, Problem> {
        match address {
            Some(address) => Ok(Arc::new(Told::new(EtcdStore::new(address.parse()?)))),
            None => Ok(self.store()?),
        }
    }
}

fn open_dir(dir: &Path) -> Result<(), Problem> {
    let shown = dir.display();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| refusal(format!("The data directory {shown} cannot be made: {error}.")))?;
    check_private(dir, "The data directory", "700")?;
    rustix::fs::access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| refusal(format!("The data directory {shown} cannot be written: {error}.")))
}

/// Reads a secret, and makes it first if there is none.
fn secret<T>(
    dir: &Path,
    name: &str,
    make: impl FnOnce() -> String,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Problem> {
    let path = dir.join(name);
    let shown = path.display();
    let in_words = |error: io::Error| refusal(format!("The secret {shown} cannot be read or made: {error}."));
    if !path.try_exists().map_err(in_words)? {
        make_whole(dir, &path, &make()).map_err(in_words)?;
    }
    check_private(&path, "The secret", "600")?;
    let text = fs::read_to_string(&path).map_err(in_words)?;
    parse(text.trim()).ok_or_else(|| {
        refusal(format!("The secret {shown} is damaged. Restore it, or remove it to have a new one made."))
    })
}

/// Makes a file that appears under its name with all its content, unless another process has made it first.
fn make_whole(dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    writeln!(file, "{text}")?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => fs::File::open(dir)?.sync_all(),
        Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(refused) => Err(refused.error),
    }
}

fn check_private(path: &Path, what: &str, mode: &str) -> Result<(), Problem> {
    let shown = path.display();
    let found = fs::metadata(path).map_err(|error| refusal(format!("{what} {shown} cannot be read: {error}.")))?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(refusal(format!("{what} {shown} belongs to another user. Run as its owner, or choose another.")));
    }
    if found.mode() & 0o077 != 0 {
        return Err(refusal(format!("{what} {shown} is open to other users. Run: chmod {mode} {shown}")));
    }
    Ok(())
}

/// A refusal to start. Its detail names paths, because it is read by the operator who gave them.
fn refusal(detail: String) -> Problem {
    Problem::new(ErrorCode::ConfigInvalid, detail)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Barrier;

    use super::*;

    /// A directory that only its owner may use, as `mkdir` does not make it.
    fn private_dir() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_cell_that_is_opened_again_is_the_same() {
        let dir = private_dir();
        let (first, again) = (Cell::open(dir.path()).unwrap(), Cell::open(dir.path()).unwrap());
        assert_eq!(first.key(), again.key());
        assert_eq!(first.signer().kid(), again.signer().kid());
        assert_eq!(first.api_key().to_text(), again.api_key().to_text());
    }

    #[test]
    fn many_who_open_a_new_cell_at_once_get_the_same_secrets() {
        let dir = private_dir();
        let start = Barrier::new(8);
        let keys: Vec<_> = std::thread::scope(|scope| {
            let open = || {
                start.wait();
                Cell::open(&dir.path().join("new")).unwrap()
            };
            let openers: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            openers.into_iter().map(|opener| opener.join().unwrap()).collect()
        });
        for cell in &keys {
            assert_eq!(cell.key(), keys[0].key());
            assert_eq!(cell.signer().kid(), keys[0].signer().kid());
            assert_eq!(cell.api_key().to_text(), keys[0].api_key().to_text());
        }
    }

    #[test]
    fn everything_made_is_for_the_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        Cell::open(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [API_KEY_FILE, KEY_FILE, TOKEN_KEY_FILE]);
        for name in names {
            assert_eq!(fs::metadata(dir.join(&name)).unwrap().mode() & 0o777, 0o600, "{name:?}");
        }
    }

    #[test]
    fn access_by_others_is_refused_with_what_to_do() {
        let dir = private_dir();
        Cell::open(dir.path()).unwrap();
        set_mode(dir.path(), 0o755);
        let problem = Cell::open(dir.path()).unwrap_err();
        assert!(problem.code == ErrorCode::ConfigInvalid && problem.detail.contains("chmod 700"), "{problem}");
        set_mode(dir.path(), 0o700);
        set_mode(&dir.path().join(KEY_FILE), 0o640);
        let problem = Cell::open(dir.path()).unwrap_err();
        assert!(problem.detail.contains("chmod 600"), "{problem}");
    }

    #[test]
    fn a_place_where_nothing_can_be_written_is_refused() {
        for dir in ["/proc/landfast", "/dev/null/landfast"] {
            let problem = Cell::open(dir.as_ref()).unwrap_err();
            assert!(problem.code == ErrorCode::ConfigInvalid && problem.detail.contains(dir), "{problem}");
        }
    }

    #[test]
    fn a_damaged_secret_is_refused_and_not_replaced() {
        for name in [KEY_FILE, TOKEN_KEY_FILE, API_KEY_FILE] {
            let dir = private_dir();
            Cell::open(dir.path()).unwrap();
            fs::write(dir.path().join(name), "half").unwrap();
            let problem = Cell::open(dir.path()).unwrap_err();
            assert!(problem.detail.contains("damaged") && problem.detail.contains(name), "{problem}");
            assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), "half");
        }
    }
}
