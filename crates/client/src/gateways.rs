//! The gateways of a cell, and which of them is asked.
//!
//! Whatever is to be sent, a connection is made first; until it stands nothing has been sent, so the next gateway may be
//! tried without a doubt. The same holds when one answers that it takes nothing because it is shutting down. Everything
//! else may have been started, and is left to those who know whether it may run twice.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::Response;
use landfast_core::ErrorCode;
use landfast_core::origins::{Origins, Verdict, verdict};
use landfast_net::clock;
use landfast_net::socket::Socket;
use landfast_net::trust::Trust;

use crate::error::Error;
use crate::origin::{Call, Door, Open, Origin, Upload};

/// The most addresses of gateways that one client takes: a cell has a handful.
const ORIGINS_MAX: usize = 64;

/// The gateways of one cell. It holds no connection.
#[derive(Debug)]
pub(crate) struct Gateways {
    origins: Vec<Arc<Origin>>,
    trust: Option<Trust>,
    /// Never held across an await.
    known: Mutex<Known>,
}

/// How they have fared: those that were listed, and the addresses of those that are names.
#[derive(Debug, Default)]
struct Known {
    origins: Origins<usize>,
    addresses: Origins<SocketAddr>,
}

/// One try: from gateway to gateway until one takes what is to be sent, each at most once.
pub(crate) struct Walk<'g> {
    gateways: &'g Gateways,
    home: Option<Door>,
    origins: VecDeque<usize>,
    /// Addresses of the origin that is being tried.
    doors: VecDeque<Door>,
    /// Why those before did not take it.
    failures: Vec<Error>,
}

impl Gateways {
    /// Reads a list of URLs, separated by commas. The authorities of TLS are the machine's, or those in a file.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`].
    pub(crate) fn parse(urls: &str, authority: Option<&Path>) -> Result<Self, Error> {
        let mut origins: Vec<Arc<Origin>> = Vec::new();
        for url in urls.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            let origin = Arc::new(Origin::parse(url)?);
            if !origins.contains(&origin) {
                origins.push(origin);
            }
        }
        if origins.is_empty() || origins.len() > ORIGINS_MAX {
            let what = format!(
                "{urls:?} names no gateway, or more than {ORIGINS_MAX}: give http://HOST:PORT, or several with commas."
            );
            return Err(Error::invalid(what));
        }
        let trust = match authority {
            Some(file) => Some(Trust::only(file).map_err(Error::Invalid)?),
            None if origins.iter().any(|origin| origin.is_encrypted()) => {
                Some(Trust::system().map_err(Error::Invalid)?)
            }
            None => None,
        };
        if let Some(origin) = origins.iter().find(|origin| origin.is_overheard()) {
            tracing::warn!(url = %origin, "keys and tokens go there in the clear; https:// would keep them");
        }
        Ok(Self { origins, trust, known: Mutex::default() })
    }

    /// All of them.
    pub(crate) fn origins(&self) -> &[Arc<Origin>] {
        &self.origins
    }

    /// Whose certificates are believed, if any are looked at.
    pub(crate) const fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    /// A try that begins at `home`, or where the last one was answered.
    pub(crate) fn walk(&self, home: Option<Door>) -> Walk<'_> {
        let listed: Vec<usize> = (0..self.origins.len()).collect();
        let index = home.as_ref().map(|home| home.index);
        let order = self.known().origins.order(&listed, index.as_ref(), rand::random(), clock::now());
        Walk { gateways: self, home, origins: order.into(), doors: VecDeque::new(), failures: Vec::new() }
    }

    /// Makes one call and reads its whole answer. It is sent to a second gateway only if the first took nothing.
    pub(crate) async fn call(&self, call: &Call, bearer: &str) -> Result<Response<Bytes>, Error> {
        let mut walk = self.walk(None);
        loop {
            let (socket, door) = walk.next().await?;
            let result = door.call(socket, call, bearer).await;
            if let Some(result) = walk.settle(&door, result) {
                return result;
            }
        }
    }

    /// Makes one call whose answer goes on, in the same way.
    pub(crate) async fn open(&self, call: &Call, bearer: &str) -> Result<Open, Error> {
        let mut walk = self.walk(None);
        loop {
            let (socket, door) = walk.next().await?;
            let result = door.open(socket, call, bearer).await;
            if let Some(result) = walk.settle(&door, result) {
                return result;
            }
        }
    }

    /// Makes one call whose body goes on. That can be sent once, so the first gateway that takes the connection has it.
    pub(crate) async fn stream(
        &self,
        call: &Call,
        bearer: &str,
        body: Upload,
        stalled: impl Future<Output = ()>,
    ) -> Result<Open, Error> {
        let mut walk = self.walk(None);
        let (socket, door) = walk.next().await?;
        let result = door.stream(socket, call, bearer, body, stalled).await;
        walk.settle(&door, result).unwrap_or_else(|| Err(walk.summary()))
    }

    /// Whether one of them has not failed lately: then nobody needs to wait for another who has.
    pub(crate) fn has_fresh(&self) -> bool {
        let (known, now) = (self.known(), clock::now());
        (0..self.origins.len()).any(|index| !known.origins.rests(&index, now))
    }

    /// This one may be at fault: others are tried before it.
    pub(crate) fn suspect(&self, door: &Door) {
        self.note(door, Verdict::Suspect);
    }

    fn note(&self, door: &Door, verdict: Verdict) {
        let now = clock::now();
        let known = &mut *self.known();
        if verdict == Verdict::Sound {
            known.addresses.handle_answer(&door.address);
            known.origins.handle_answer(&door.index);
            return;
        }
        let is_draining = verdict == Verdict::Next;
        known.addresses.handle_failure(&door.address, is_draining, rand::random(), now);
        if door.others.iter().all(|other| known.addresses.rests(other, now)) {
            known.origins.handle_failure(&door.index, is_draining, rand::random(), now);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What is kept is a memory of how things went: half of one is as good.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Walk<'_> {
    /// Connects to the next gateway that takes a connection.
    ///
    /// # Errors
    ///
    /// Why none does. Nothing was sent.
    pub(crate) async fn next(&mut self) -> Result<(Socket, Door), Error> {
        loop {
            if let Some(door) = self.doors.pop_front() {
                match door.connect(self.gateways.trust.as_ref()).await {
                    Ok(socket) => return Ok((socket, door)),
                    Err(error) => self.leave(&door, Verdict::Suspect, error),
                }
                continue;
            }
            let Some(index) = self.origins.pop_front() else { return Err(self.summary()) };
            self.approach(index).await;
        }
    }

    /// Judges what came of a connection; `None` if the gateway took nothing, so that the next one may be asked.
    pub(crate) fn settle<T>(&mut self, door: &Door, result: Result<T, Error>) -> Option<Result<T, Error>> {
        match result {
            Ok(value) => {
                self.gateways.note(door, Verdict::Sound);
                Some(Ok(value))
            }
            Err(error) => match judge(&error) {
                Verdict::Next => {
                    self.leave(door, Verdict::Next, error);
                    None
                }
                other => {
                    self.gateways.note(door, other);
                    Some(Err(error))
                }
            },
        }
    }

    /// Finds the addresses of a gateway.
    async fn approach(&mut self, index: usize) {
        let origin = Arc::clone(&self.gateways.origins[index]);
        match origin.addresses().await {
            Err(error) => {
                self.gateways.known().origins.handle_failure(&index, false, rand::random(), clock::now());
                self.failures.push(error);
            }
            Ok(found) => self.line_up(&origin, index, &found),
        }
    }

    fn line_up(&mut self, origin: &Arc<Origin>, index: usize, found: &[SocketAddr]) {
        let home = self.home.as_ref().map(|home| home.address);
        let order = self.gateways.known().addresses.order(found, home.as_ref(), rand::random(), clock::now());
        self.doors = order.iter().map(|&address| door(origin, index, address, found)).collect();
    }

    fn leave(&mut self, door: &Door, verdict: Verdict, error: Error) {
        tracing::debug!(%error, address = %door.address, "a gateway is left for the next");
        self.gateways.note(door, verdict);
        self.failures.push(error);
    }

    /// One failure for all: an answer before silence, and else every address with what was wrong there.
    fn summary(&mut self) -> Error {
        let failures = std::mem::take(&mut self.failures);
        let (mut addresses, mut reasons) = (Vec::new(), Vec::new());
        for failure in failures {
            match failure {
                Error::Unreachable { address, why } => {
                    push_new(&mut addresses, address);
                    push_new(&mut reasons, why);
                }
                answer => return answer,
            }
        }
        Error::Unreachable { address: addresses.join(", "), why: reasons.join("; ") }
    }
}

fn door(origin: &Arc<Origin>, index: usize, address: SocketAddr, found: &[SocketAddr]) -> Door {
    let others = found.iter().copied().filter(|&other| other != address).collect();
    Door { origin: Arc::clone(origin), index, address, others }
}

fn push_new(list: &mut Vec<String>, text: String) {
    if !list.contains(&text) {
        list.push(text);
    }
}

/// What a failure says of the gateway it was met at.
fn judge(error: &Error) -> Verdict {
    match error {
        Error::Refused(refusal) => match (refusal.code, refusal.status) {
            (Some(code), _) => verdict(code),
            // A proxy before the gateway, which did not reach it.
            (None, 502..=504) => Verdict::Suspect,
            (None, _) => Verdict::Sound,
        },
        Error::Unreachable { .. } | Error::Broken { .. } | Error::Protocol(_) => Verdict::Suspect,
        Error::Ended { code, .. } => code.map_or(Verdict::Sound, verdict),
        Error::Invalid(_) | Error::Local(_) => Verdict::Sound,
    }
}

/// The row by which a failed attempt is judged. A transport failure proves nothing about the instance.
pub(crate) fn cause(error: &Error) -> ErrorCode {
    match error {
        Error::Refused(refusal) => refusal.code.unwrap_or(match refusal.status {
            // What a proxy before the gateway says while the gateway is away.
            502..=504 => ErrorCode::NodeUnreachable,
            _ => ErrorCode::Internal,
        }),
        Error::Ended { code, .. } => code.unwrap_or(ErrorCode::Internal),
        Error::Unreachable { .. } | Error::Broken { .. } => ErrorCode::NodeUnreachable,
        Error::Protocol(_) => ErrorCode::LinkProtocol,
        Error::Invalid(problem) | Error::Local(problem) => problem.code,
    }
}

impl fmt::Display for Gateways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, origin) in self.origins.iter().enumerate() {
            write!(f, "{}{origin}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
