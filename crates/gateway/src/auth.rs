//! Who may reach an instance: access tokens are checked here and go no further.
//!
//! A check of an Ed25519 signature costs some fifty microseconds, more than the rest of a request, so a token that was
//! found good is remembered by its hash. What may change while it is remembered is asked each time: its end, its
//! revocation, and the keys of the cell.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, Uri};
use landfast_core::record::{RevokedToken, keys};
use landfast_core::{ErrorCode, InstanceId, Problem, TokenId};
use landfast_net::clock;
use landfast_registry::records;
use landfast_registry::store::WatchEvent;
use landfast_registry::token::{Claims, Scope, Verifier};
use sha2::{Digest, Sha256};
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

use crate::carrier;

/// The most tokens that are remembered: some 500 bytes each. Beyond it they are forgotten and checked again.
const REMEMBERED_MAX: usize = 16 * 1024;

/// The most texts in one request that are looked at as tokens: each may cost a signature check.
const CANDIDATES_MAX: usize = 8;

/// What a token was found to allow.
#[derive(Debug)]
pub(crate) struct Access {
    claims: Claims,
    revoked: Arc<CancellationToken>,
}

/// The tokens of a cell, as this gateway knows them.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    /// The registry's keys have arrived: only then is a token that none of them signed no token.
    loaded: SetOnce<()>,
    trusted: ArcSwap<Trusted>,
    revocations: Mutex<Revocations>,
}

/// The cell's keys, with the good tokens they vouch for, by hash: when the keys change, the tokens are checked anew.
#[derive(Debug, Default)]
struct Trusted {
    verifier: Verifier,
    remembered: papaya::HashMap<[u8; 32], Arc<Access>>,
}

/// Which tokens were revoked, and who wants to hear of it.
#[derive(Debug, Default)]
struct Revocations {
    /// Until when each would have been good, in Unix seconds. A registry that forgets takes no revocation back.
    revoked: HashMap<TokenId, u64>,
    /// The tokens in use.
    live: HashMap<TokenId, Weak<CancellationToken>>,
    sweep_at: usize,
}

impl Auth {
    /// Lets a request in and takes its tokens away.
    ///
    /// # Errors
    ///
    /// `auth.*`, `request.invalid` for too many tokens, or `registry.unavailable` while no key is known.
    pub(crate) fn admit(
        &self,
        headers: &mut HeaderMap,
        uri: &mut Uri,
        instance: InstanceId,
    ) -> Result<Arc<Access>, Problem> {
        let mut admitted = Err(ErrorCode::AuthMissing);
        let mut ours = Vec::new();
        for (count, token) in carrier::candidates(headers, uri).enumerate() {
            if count == CANDIDATES_MAX {
                let detail = format!("The request carries more than {CANDIDATES_MAX} tokens.");
                return Err(Problem::new(ErrorCode::RequestInvalid, detail));
            }
            let checked = self.check(token);
            if checked.as_ref().err() != Some(&ErrorCode::AuthInvalid) {
                ours.push(token.to_owned());
            }
            admitted = better(admitted, checked);
        }
        carrier::remove(headers, uri, |token| ours.iter().any(|our| our == token));
        let access = admitted?;
        if access.claims.ins != instance {
            return Err(Problem::new(ErrorCode::AuthForbidden, "The token is for another instance."));
        }
        Ok(access)
    }

    /// Takes tokens out of a request inside a request, whoever they are for: the outer one was let in.
    pub(crate) fn remove(&self, headers: &mut HeaderMap, uri: &mut Uri) {
        let tokens = carrier::candidates(headers, uri).take(CANDIDATES_MAX);
        let ours: Vec<_> = tokens.filter(|token| self.check(token).is_ok()).map(str::to_owned).collect();
        carrier::remove(headers, uri, |token| ours.iter().any(|our| our == token));
    }

    /// Follows a watch of [`keys::TOKEN_KEYS`].
    pub(crate) fn handle_keys(&self, event: &WatchEvent) {
        let mut verifier = self.trusted.load().verifier.clone();
        verifier.apply(event);
        self.trusted.store(Arc::new(Trusted { verifier, ..Trusted::default() }));
        // Set by the first event; the later ones find it so.
        let _ = self.loaded.set(());
    }

    /// Whether the registry's keys have been read once.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.initialized()
    }

    /// Waits until they have.
    pub(crate) async fn loaded(&self) {
        self.loaded.wait().await;
    }

    /// Follows a watch of [`keys::REVOKED`].
    pub(crate) fn handle_revoked(&self, event: &WatchEvent) {
        let now = unix_now();
        let mut revocations = self.revocations();
        match event {
            WatchEvent::Snapshot(listing) => {
                listing.entries.iter().for_each(|entry| revocations.revoke(&entry.key, &entry.value));
            }
            WatchEvent::Changes(changes) => {
                let written = changes.iter().filter_map(|change| Some((&change.key, change.value.as_ref()?)));
                written.for_each(|(key, value)| revocations.revoke(key, value));
            }
            WatchEvent::Resync => {}
        }
        revocations.revoked.retain(|_, expires_at| *expires_at > now);
    }

    fn check(&self, token: &str) -> Result<Arc<Access>, ErrorCode> {
        if !self.is_loaded() {
            return Err(ErrorCode::RegistryUnavailable);
        }
        let hash: [u8; 32] = Sha256::digest(token).into();
        let trusted = self.trusted.load();
        let remembered = trusted.remembered.pin().get(&hash).cloned();
        let access = match remembered {
            Some(access) if access.claims.exp <= unix_now() => {
                trusted.remembered.pin().remove(&hash);
                return Err(ErrorCode::AuthExpired);
            }
            Some(access) => access,
            None => {
                let claims = trusted.verifier.verify(token, unix_now())?;
                let revoked = self.revocations().signal(claims.jti);
                trusted.remember(hash, Access { claims, revoked })
            }
        };
        if access.revoked.is_cancelled() { Err(ErrorCode::AuthRevoked) } else { Ok(access) }
    }

    fn revocations(&self) -> std::sync::MutexGuard<'_, Revocations> {
        // Each change is one insertion: a panic elsewhere leaves nothing half done.
        self.revocations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trusted {
    fn remember(&self, hash: [u8; 32], access: Access) -> Arc<Access> {
        let access = Arc::new(access);
        let remembered = self.remembered.pin();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(hash, Arc::clone(&access));
        access
    }
}

impl Revocations {
    fn revoke(&mut self, key: &str, value: &[u8]) {
        let token = key.strip_prefix(keys::REVOKED).and_then(|text| text.parse().ok());
        let record = records::decode::<RevokedToken>(key, value);
        let (Some(token), Ok(record)) = (token, record) else {
            tracing::error!(key, "a revocation cannot be understood and is left out");
            return;
        };
        self.revoked.insert(token, record.expires_at);
        if let Some(signal) = self.live.get(&token).and_then(Weak::upgrade) {
            signal.cancel();
        }
    }

    /// What tells a token's holders that it was revoked; it has told already if it was.
    fn signal(&mut self, token: TokenId) -> Arc<CancellationToken> {
        if self.live.len() >= self.sweep_at {
            self.live.retain(|_, signal| signal.strong_count() > 0);
            self.sweep_at = 2 * self.live.len().max(64);
        }
        if let Some(signal) = self.live.get(&token).and_then(Weak::upgrade) {
            return signal;
        }
        let signal = Arc::new(CancellationToken::new());
        if self.revoked.contains_key(&token) {
            signal.cancel();
        }
        self.live.insert(token, Arc::downgrade(&signal));
        signal
    }
}

impl Access {
    /// Whether the token allows a path of the agent.
    ///
    /// # Errors
    ///
    /// `auth.forbidden`, naming the scope it would need.
    pub(crate) fn check_path(&self, path: &str) -> Result<(), Problem> {
        let (scope, name) = scope_of(path);
        if self.claims.allows(scope) {
            return Ok(());
        }
        Err(Problem::new(ErrorCode::AuthForbidden, format!("This path needs a token with the scope {name}.")))
    }

    /// Waits until the token is revoked or, if that counts, has expired.
    ///
    /// Cancel safe.
    pub(crate) async fn ended(&self, expiry_counts: bool) -> ErrorCode {
        let left = Duration::from_secs(self.claims.exp.saturating_sub(unix_now()));
        tokio::select! {
            () = self.revoked.cancelled() => ErrorCode::AuthRevoked,
            () = tokio::time::sleep(left), if expiry_counts => ErrorCode::AuthExpired,
        }
    }
}

/// The scope that a path of the agent needs. Links are open to all, since what they lead to is checked by itself.
fn scope_of(path: &str) -> (Scope, &'static str) {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    match first {
        "processes" | "exec" | "links" => (Scope::Process, "process"),
        _ => (Scope::All, "all"),
    }
}

/// The better of two results: a good token, else the refusal that says most.
fn better(a: Result<Arc<Access>, ErrorCode>, b: Result<Arc<Access>, ErrorCode>) -> Result<Arc<Access>, ErrorCode> {
    let says_little = |code: &ErrorCode| matches!(code, ErrorCode::AuthMissing | ErrorCode::AuthInvalid);
    match (a, b) {
        (Ok(access), _) | (Err(_), Ok(access)) => Ok(access),
        (Err(a), Err(b)) => Err(if says_little(&a) { b } else { a }),
    }
}

fn unix_now() -> u64 {
    clock::unix_millis() / 1000
}
