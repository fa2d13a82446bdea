//! The sessions that end here: found by id when a link comes back, and gone without a trace when they end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use landfast_core::{ErrorCode, Problem, SessionId};
use landfast_net::far::{Commands, Handle, handle};
use landfast_net::link::{ResumeRequest, Secret};
use landfast_net::random;
use tokio::time::timeout;

/// How long a session's task may take to answer: it never waits for anything but its own far end's next poll.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// The live sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    by_id: Mutex<HashMap<SessionId, Entry>>,
    limit: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    secret: Secret,
    handle: Handle,
}

/// A session's place in the table, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Place {
    sessions: Arc<Sessions>,
    pub(crate) id: SessionId,
    pub(crate) secret: Secret,
}

/// A resume that the session's task has agreed to.
#[derive(Debug)]
pub(crate) struct Resumed {
    /// Gives the task its link.
    pub(crate) handle: Handle,
    /// How many bytes the session has received.
    pub(crate) received: u64,
}

impl Sessions {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { by_id: Mutex::new(HashMap::new()), limit })
    }

    /// Makes a place for a new session.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::LimitSessions`].
    pub(crate) fn open(self: &Arc<Self>) -> Result<(Place, Commands), Problem> {
        let mut table = self.table();
        if table.len() >= self.limit {
            let detail = format!("The instance has {} open sessions.", self.limit);
            return Err(Problem::new(ErrorCode::LimitSessions, detail));
        }
        let (id, secret) = (random::session_id(), Secret::generate());
        let (handle, commands) = handle();
        table.insert(id, Entry { secret: secret.clone(), handle });
        drop(table);
        Ok((Place { sessions: self.clone(), id, secret }, commands))
    }

    /// Announces a further link to a session.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::SessionUnknown`], [`ErrorCode::SessionForbidden`], [`ErrorCode::SessionSuperseded`],
    /// [`ErrorCode::LinkProtocol`].
    pub(crate) async fn resume(&self, request: &ResumeRequest) -> Result<Resumed, Problem> {
        let entry = self.table().get(&request.session).cloned().ok_or(ErrorCode::SessionUnknown)?;
        if entry.secret != request.secret {
            return Err(ErrorCode::SessionForbidden.into());
        }
        let prepared = timeout(ANSWER_DEADLINE, entry.handle.prepare(request.link, request.received)).await;
        let received = prepared.unwrap_or(Err(ErrorCode::Internal))?;
        Ok(Resumed { handle: entry.handle, received })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<SessionId, Entry>> {
        self.by_id.lock().expect("nobody panics while holding the sessions")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.table().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_session_is_gone() {
        let sessions = Sessions::new(2);
        let first = sessions.open().unwrap();
        let _second = sessions.open().unwrap();
        assert_eq!(sessions.open().unwrap_err().code, ErrorCode::LimitSessions);
        drop(first);
        assert_eq!(sessions.count(), 1);
        assert!(sessions.open().is_ok());
    }

    #[tokio::test]
    async fn a_session_is_resumed_only_by_its_secret() {
        let sessions = Sessions::new(2);
        let (place, commands) = sessions.open().unwrap();
        let request = |session, secret| ResumeRequest { session, secret, link: 2, received: 0 };
        let refused = |request| {
            let sessions = sessions.clone();
            async move { sessions.resume(&request).await.unwrap_err().code }
        };
        assert_eq!(refused(request(place.id, Secret::generate())).await, ErrorCode::SessionForbidden);
        assert_eq!(refused(request(random::session_id(), place.secret.clone())).await, ErrorCode::SessionUnknown);
        // Its task has just ended.
        drop(commands);
        assert_eq!(refused(request(place.id, place.secret.clone())).await, ErrorCode::SessionUnknown);
    }
}
