//! How far a file's content has come: which version it is of, and where it goes on.
//!
//! Connections come and go; what the next one brings is of the same version, or all that came is void.

use http::header::{self, HeaderMap, HeaderName};
use landfast_core::{ErrorCode, Problem};

use crate::error::{Error, Refusal};

/// How often a content is begun anew: a file that is another one at each of so many cuts is written all the time.
const RESTARTS: u32 = 8;

/// The bookkeeping of a file, or of its bytes from one to before another, over any number of answers.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    from: u64,
    to: Option<u64>,
    at: u64,
    /// A name of the version that no other one has, if it has one.
    version: Option<String>,
    restarts: u32,
}

impl Progress {
    /// Nothing has come yet.
    pub(crate) const fn new(from: u64, to: Option<u64>) -> Self {
        Self { from, to, at: from, version: None, restarts: RESTARTS }
    }

    /// The offset of the next byte; it goes back when what came is void.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// What the next request says.
    pub(crate) fn headers(&self) -> Vec<(HeaderName, String)> {
        let mut headers = Vec::new();
        if self.at > 0 || self.to.is_some() {
            let last = self.to.map_or_else(String::new, |to| to.saturating_sub(1).to_string());
            headers.push((header::RANGE, format!("bytes={}-{last}", self.at)));
        }
        if let Some(version) = self.version.as_ref().filter(|_| self.at > self.from) {
            headers.push((header::IF_RANGE, version.clone()));
        }
        headers
    }

    /// Takes the head of an answer, and says whether its body goes on at `at`; if not, ask anew.
    ///
    /// # Errors
    ///
    /// `file.changed` if it is of another version and nothing may be begun anew, and [`Error::Protocol`] for what was not
    /// asked for.
    pub(crate) fn begin(&mut self, status: u16, headers: &HeaderMap, may_restart: bool) -> Result<bool, Error> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // Strong, by RFC 9110, section 8.8.1.
        let version = Some(text(header::ETAG)).filter(|etag| etag.starts_with('"')).map(str::to_owned);
        if self.at > self.from && (status != 206 || version != self.version) {
            self.void(changed(), may_restart)?;
            if self.from > 0 || self.to.is_some() || status != 200 {
                return Ok(false);
            }
        }
        let first = text(header::CONTENT_RANGE).strip_prefix("bytes ").and_then(|range| range.split('-').next());
        if status == 206 && first.and_then(|first| first.parse().ok()) != Some(self.at) {
            let first = first.unwrap_or("no offset");
            return Err(Error::Protocol(format!("the content begins at {first}, and not at {}", self.at)));
        }
        self.version = version;
        Ok(true)
    }

    /// Takes so many bytes of the body.
    pub(crate) const fn take(&mut self, bytes: usize) {
        self.at += bytes as u64;
    }

    /// Takes that the connection is gone.
    ///
    /// # Errors
    ///
    /// The failure, if what came cannot be gone on with and nothing may be begun anew.
    pub(crate) fn lose(&mut self, failure: Error, may_restart: bool) -> Result<(), Error> {
        if self.at > self.from && self.version.is_none() { self.void(failure, may_restart) } else { Ok(()) }
    }

    fn void(&mut self, failure: Error, may_restart: bool) -> Result<(), Error> {
        if self.restarts == 0 || !may_restart {
            return Err(failure);
        }
        self.restarts -= 1;
        self.at = self.from;
        Ok(())
    }
}

fn changed() -> Error {
    let problem = Problem::new(ErrorCode::FileChanged, "It was replaced while it was read.");
    Error::Refused(Box::new(Refusal {
        code: Some(problem.code),
        status: problem.code.status_or_500(),
        detail: problem.detail,
        advice: problem.code.advice().to_owned(),
        request_id: None,
        retry_after: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(etag: &str, range: &str) -> HeaderMap {
        let pairs = [(header::ETAG, etag), (header::CONTENT_RANGE, range)];
        pairs.into_iter().map(|(name, value)| (name, value.parse().unwrap())).collect()
    }

    #[test]
    fn a_file_that_is_another_one_at_every_cut_is_given_up() {
        let mut progress = Progress::new(0, None);
        let mut begun = 0;
        let failure = loop {
            match progress.begin(200, &head(&format!("\"v{begun}\""), ""), true) {
                Ok(is_wanted) => assert!(is_wanted && progress.at() == 0),
                Err(failure) => break failure,
            }
            begun += 1;
            progress.take(3);
            progress.lose(Error::Protocol(String::new()), true).unwrap();
        };
        assert_eq!((begun, failure.code()), (RESTARTS + 1, Some(ErrorCode::FileChanged)));
    }

    #[test]
    fn a_content_is_asked_for_by_its_version_only_once_there_is_something_of_it() {
        let mut progress = Progress::new(2, Some(8));
        assert!(progress.begin(206, &head("\"v1\"", "bytes 2-7/10"), false).unwrap());
        assert_eq!(progress.headers(), [(header::RANGE, "bytes=2-7".to_owned())]);
        progress.take(3);
        let wanted = [(header::RANGE, "bytes=5-7".to_owned()), (header::IF_RANGE, "\"v1\"".to_owned())];
        assert_eq!(progress.headers(), wanted);
    }
}
