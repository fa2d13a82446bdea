//! How a verb reaches the cell: what was said, else what the data directory tells.

use std::io;
use std::path::{Path, PathBuf};

use landfast_client::Client;

use crate::args::Global;
use crate::failure::Failure;

/// Where `landfast up` writes its address, in the data directory.
const ADDRESS_FILE: &str = "address";

/// The first API key, in the data directory.
const API_KEY_FILE: &str = "api-key";

/// Where a gateway listens unless it is told otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:7070";

/// The data directory.
pub(crate) fn data_dir(global: &Global) -> PathBuf {
    let home = || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/var/lib"), PathBuf::from);
    said_dir(global).unwrap_or_else(|| home().join(".local/share/landfast"))
}

/// The data directory that was said. An empty variable says none.
pub(crate) fn said_dir(global: &Global) -> Option<PathBuf> {
    global.data.clone().filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// A client of the cell.
///
/// # Errors
///
/// No key was given, and none can be read.
pub(crate) fn client(global: &Global) -> Result<Client, Failure> {
    let dir = data_dir(global);
    let key = match said(global.api_key.as_ref()) {
        Some(key) => key,
        None => read_key(&dir.join(API_KEY_FILE))?,
    };
    Ok(Client::trusting(&url(global), key, authority(global).as_deref())?)
}

/// A client of the cell that has no key if none can be found: some things can be seen without one.
///
/// # Errors
///
/// The address is none.
pub(crate) fn client_or_stranger(global: &Global) -> Result<Client, Failure> {
    client(global).or_else(|_| Ok(Client::trusting(&url(global), "", authority(global).as_deref())?))
}

/// Who alone vouches for a cell with TLS. An empty variable names nobody.
pub(crate) fn authority(global: &Global) -> Option<PathBuf> {
    global.ca.clone().filter(|file| !file.is_empty()).map(PathBuf::from)
}

/// Where the cell is.
pub(crate) fn url(global: &Global) -> String {
    let recorded = || std::fs::read_to_string(data_dir(global).join(ADDRESS_FILE)).ok();
    let url = said(global.url.as_ref()).or_else(recorded).unwrap_or_else(|| DEFAULT_URL.to_owned());
    url.trim().to_owned()
}

/// Lets later commands find the cell without being told.
///
/// # Errors
///
/// The file cannot be written.
pub(crate) fn record_url(dir: &Path, url: &str) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    io::Write::write_all(&mut file, format!("{url}\n").as_bytes())?;
    file.persist(dir.join(ADDRESS_FILE)).map_err(|error| error.error)?;
    Ok(())
}

fn read_key(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    std::fs::read_to_string(path).map(|key| key.trim().to_owned()).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::usage(format!(
            "There is no API key: {shown} does not exist. Start a cell with `landfast up`, or give --api-key (or \
             LANDFAST_API_KEY) and --url."
        )),
        _ => Failure::usage(format!("The API key in {shown} cannot be read: {error}. Give one with --api-key.")),
    })
}

fn said(value: Option<&String>) -> Option<String> {
    value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(dir: &Path) -> Global {
        Global { data: Some(dir.into()), store: None, url: None, ca: None, api_key: None, no_color: true }
    }

    #[test]
    fn a_recorded_address_is_found_and_a_said_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let mut global = global(dir.path());
        assert_eq!(url(&global), DEFAULT_URL);
        record_url(dir.path(), "http://127.0.0.1:4").unwrap();
        assert_eq!(url(&global), "http://127.0.0.1:4");
        global.url = Some("http://10.0.0.1".to_owned());
        assert_eq!(url(&global), "http://10.0.0.1");
    }

    #[test]
    fn a_missing_key_says_how_to_come_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let failure = client(&global(dir.path())).unwrap_err();
        assert!(failure.code == 2 && failure.text.contains("landfast up") && failure.text.contains("--api-key"));
        std::fs::write(dir.path().join("api-key"), "lf_x\n").unwrap();
        assert!(client(&global(dir.path())).is_ok());
    }
}
