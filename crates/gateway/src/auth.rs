//! Who may reach an instance: access tokens are checked here and go no further.
//!
//! A check of an Ed25519 signature costs some fifty microseconds, more than the rest of a request, so a token that was
//! found good is remembered. What may change while it is remembered is asked each time: its end, its
//! revocation, and the keys of the cell.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use landfast_core::limit::Meter;
use landfast_core::reason::Cause;
use landfast_core::record::{RevokedToken, keys};
use landfast_core::{ErrorCode, InstanceId, Problem, TokenId};
use landfast_net::clock;
use landfast_net::head::Headers;
use landfast_net::relay::Target;
use landfast_registry::records;
use landfast_registry::store::WatchEvent;
use landfast_registry::token::{Claims, Scope, Verifier};
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

use crate::carrier;
use crate::counters::Counter;

/// The most tokens that are remembered: some 900 bytes each. Beyond it they are forgotten and checked again.
const REMEMBERED_MAX: usize = 16 * 1024;

/// The most texts in one request that are looked at as tokens: each may cost a signature check.
const CANDIDATES_MAX: usize = 8;

/// What a token was found to allow.
pub(crate) struct Access {
    token: Arc<[u8]>,
    claims: Claims,
    live: Arc<Live>,
}

/// A token in use.
#[derive(Debug, Default)]
struct Live {
    /// Tells its holders that it was revoked.
    revoked: CancellationToken,
    /// Counts what is let in with it.
    meter: Arc<Meter>,
}

/// The tokens of a cell, as this gateway knows them.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    /// The registry has said which keys there are.
    loaded: SetOnce<()>,
    trusted: ArcSwap<Trusted>,
    revocations: Mutex<Revocations>,
    /// Tokens whose signature was checked and found good. A good one is remembered, and not checked again.
    pub(crate) good: Counter,
    /// The others.
    pub(crate) bad: Counter,
}

/// The cell's keys, with the good tokens they vouch for: when the keys change, the tokens are checked anew.
#[derive(Debug, Default)]
struct Trusted {
    verifier: Verifier,
    /// The cell has made its first key: before that nobody can tell what is a token.
    has_keys: bool,
    remembered: papaya::HashMap<Arc<[u8]>, Arc<Access>, RandomState>,
}

/// Which tokens were revoked, and who wants to hear of it.
#[derive(Debug, Default)]
struct Revocations {
    /// A registry that forgets takes no revocation back.
    revoked: HashMap<TokenId, RevokedToken>,
    /// The tokens in use.
    live: HashMap<TokenId, Weak<Live>>,
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
        headers: &mut Headers,
        target: &mut String,
        instance: InstanceId,
    ) -> Result<Arc<Access>, Problem> {
        let mut admitted: Result<Arc<Access>, _> = Err(ErrorCode::AuthMissing);
        // Those of ours that are not the one that lets it in: seldom any.
        let mut others = Vec::new();
        for (count, token) in carrier::candidates(headers, target).enumerate() {
            if count == CANDIDATES_MAX {
                let detail = format!("The request carries more than {CANDIDATES_MAX} tokens.");
                return Err(Problem::new(ErrorCode::RequestInvalid, detail));
            }
            let checked = self.check(token);
            let lets_in = admitted.is_err() && checked.is_ok();
            if !lets_in && checked.as_ref().err() != Some(&ErrorCode::AuthInvalid) {
                others.push(token.to_vec());
            }
            admitted = better(admitted, checked);
        }
        let lets_in = |token: &[u8]| admitted.as_ref().is_ok_and(|access| *access.token == *token);
        carrier::remove(headers, target, |token| lets_in(token) || others.iter().any(|other| other == token));
        let access = admitted?;
        if access.claims.ins != instance {
            return Err(Problem::new(ErrorCode::AuthForbidden, "The token is for another instance."));
        }
        Ok(access)
    }

    /// Takes tokens out of a request inside a request, whoever they are for: the outer one was let in.
    pub(crate) fn remove(&self, headers: &mut Headers, target: &mut String) {
        let tokens = carrier::candidates(headers, target).take(CANDIDATES_MAX);
        let ours: Vec<_> = tokens.filter(|token| self.check(token).is_ok()).map(<[u8]>::to_vec).collect();
        carrier::remove(headers, target, |token| ours.iter().any(|our| our == token));
    }

    /// Follows a watch of [`keys::TOKEN_KEYS`].
    pub(crate) fn handle_keys(&self, event: &WatchEvent) {
        let before = self.trusted.load();
        let mut verifier = before.verifier.clone();
        verifier.apply(event);
        let has_keys = match event {
            WatchEvent::Snapshot(listing) => !listing.entries.is_empty(),
            WatchEvent::Changes(_) => true,
            WatchEvent::Resync | WatchEvent::Back => before.has_keys,
        };
        self.trusted.store(Arc::new(Trusted { verifier, has_keys, ..Trusted::default() }));
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
            WatchEvent::Resync | WatchEvent::Back => {}
        }
        revocations.revoked.retain(|_, token| !token.is_over(now));
    }

    fn check(&self, token: &[u8]) -> Result<Arc<Access>, ErrorCode> {
        let trusted = self.trusted.load();
        if !trusted.has_keys {
            return Err(ErrorCode::RegistryUnavailable);
        }
        let remembered = trusted.remembered.pin().get(token).cloned();
        let access = match remembered {
            Some(access) if access.claims.exp <= unix_now() => {
                trusted.remembered.pin().remove(token);
                return Err(ErrorCode::AuthExpired);
            }
            Some(access) => access,
            None => {
                let claims = self.verify(&trusted, token)?;
                let live = self.revocations().live(claims.jti);
                trusted.remember(Access { token: token.into(), claims, live })
            }
        };
        if access.live.revoked.is_cancelled() { Err(ErrorCode::AuthRevoked) } else { Ok(access) }
    }

    fn verify(&self, trusted: &Trusted, token: &[u8]) -> Result<Claims, ErrorCode> {
        let text = std::str::from_utf8(token).map_err(|_| ErrorCode::AuthInvalid);
        let verified = text.and_then(|text| trusted.verifier.verify(text, unix_now()));
        if verified.is_ok() {
            self.good.add(1);
        } else {
            self.bad.add(1);
        }
        verified
    }

    fn revocations(&self) -> std::sync::MutexGuard<'_, Revocations> {
        // Each change is one insertion: a panic elsewhere leaves nothing half done.
        self.revocations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trusted {
    fn remember(&self, access: Access) -> Arc<Access> {
        let access = Arc::new(access);
        let remembered = self.remembered.pin();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(Arc::clone(&access.token), Arc::clone(&access));
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
        self.revoked.insert(token, record);
        if let Some(live) = self.live.get(&token).and_then(Weak::upgrade) {
            live.revoked.cancel();
        }
    }

    /// What those who use a token share; it says so already if it was revoked.
    fn live(&mut self, token: TokenId) -> Arc<Live> {
        if self.live.len() >= self.sweep_at {
            self.live.retain(|_, live| live.strong_count() > 0);
            self.sweep_at = 2 * self.live.len().max(64);
        }
        if let Some(live) = self.live.get(&token).and_then(Weak::upgrade) {
            return live;
        }
        let live = Arc::new(Live::default());
        if self.revoked.contains_key(&token) {
            live.revoked.cancel();
        }
        self.live.insert(token, Arc::downgrade(&live));
        live
    }
}

impl Access {
    /// Whether the token allows a place in its instance; `path` is the one there. Links are open to all, since what they
    /// lead to is checked by itself.
    ///
    /// # Errors
    ///
    /// `auth.forbidden`, naming the scope it would need.
    pub(crate) fn check(&self, target: Target, path: &str) -> Result<(), Problem> {
        let (scope, name) = match target {
            Target::Agent if first_segment(path) == "links" => return Ok(()),
            Target::Agent => scope_of(path),
            Target::Port(_) | Target::Service(_) => (Scope::All, "all"),
        };
        if self.claims.allows(scope) {
            return Ok(());
        }
        Err(Problem::new(ErrorCode::AuthForbidden, format!("This path needs a token with the scope {name}.")))
    }

    /// What counts who is let in with it.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.live.meter
    }

    /// Waits until the token is revoked or, if that counts, has expired.
    ///
    /// Cancel safe.
    pub(crate) async fn ended(&self, expiry_counts: bool) -> Cause {
        let left = Duration::from_secs(self.claims.exp.saturating_sub(unix_now()));
        tokio::select! {
            () = self.live.revoked.cancelled() => Cause::TokenRevoked,
            () = tokio::time::sleep(left), if expiry_counts => Cause::TokenExpired,
        }
    }
}

/// The scope that a path of the agent needs.
fn scope_of(path: &str) -> (Scope, &'static str) {
    match first_segment(path) {
        "processes" | "exec" => (Scope::Process, "process"),
        "" | "browser" | "cdp" | "devtools" | "json" => (Scope::Browser, "browser"),
        "telemetry" => (Scope::Telemetry, "telemetry"),
        "files" => (Scope::Files, "files"),
        _ => (Scope::All, "all"),
    }
}

fn first_segment(path: &str) -> &str {
    path.trim_start_matches('/').split(['/', '?']).next().unwrap_or("")
}

/// The better of two results: a good token, else the refusal that says most.
fn better(a: Result<Arc<Access>, ErrorCode>, b: Result<Arc<Access>, ErrorCode>) -> Result<Arc<Access>, ErrorCode> {
    let says_little = |code: &ErrorCode| matches!(code, ErrorCode::AuthMissing | ErrorCode::AuthInvalid);
    match (a, b) {
        (Ok(access), _) | (Err(_), Ok(access)) => Ok(access),
        (Err(a), Err(b)) => Err(if says_little(&a) { b } else { a }),
    }
}

impl fmt::Debug for Access {
    /// Without the token, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("claims", &self.claims).field("live", &self.live).finish_non_exhaustive()
    }
}

fn unix_now() -> u64 {
    clock::unix_millis() / 1000
}

#[cfg(test)]
mod tests {
    use landfast_net::random;
    use landfast_registry::store::embedded::EmbeddedStore;
    use landfast_registry::store::{Change, Entry, Listing, Store};
    use landfast_registry::token::Signer;

    use super::*;

    struct Setting {
        auth: Auth,
        signer: Signer,
        instance: InstanceId,
    }

    impl Setting {
        /// An `Auth` that knows the cell's one key.
        async fn new() -> Self {
            let signer = Signer::from_pem(&Signer::generate_pem()).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let store = EmbeddedStore::open(&dir.path().join("cell.db")).unwrap();
            signer.publish(&store).await.unwrap();
            let auth = Auth::default();
            auth.handle_keys(&WatchEvent::Snapshot(store.list(keys::TOKEN_KEYS).await.unwrap()));
            Self { auth, signer, instance: random::instance_id() }
        }

        fn token(&self) -> (TokenId, String) {
            let (jti, now) = (random::token_id(), unix_now());
            let claims = Claims { jti, ins: self.instance, scopes: vec![Scope::All], exp: now + 60, iat: now };
            (jti, self.signer.sign(&claims))
        }

        fn admit(&self, token: &str) -> Result<Arc<Access>, ErrorCode> {
            let mut headers = Headers::new();
            headers.push("authorization", format!("Bearer {token}"));
            let admitted = self.auth.admit(&mut headers, &mut "/".into(), self.instance);
            admitted.map_err(|problem| problem.code)
        }
    }

    fn revocations(tokens: &[TokenId], expires_at: u64) -> WatchEvent {
        let value = records::encode(&RevokedToken { expires_at }).unwrap();
        let entry = |&token| Entry { key: keys::revoked(token), value: value.clone(), revision: 1 };
        WatchEvent::Snapshot(Listing { entries: tokens.iter().map(entry).collect(), revision: 1 })
    }

    #[tokio::test]
    async fn before_the_cell_has_a_key_nobody_is_called_a_forger() {
        let setting = Setting { auth: Auth::default(), ..Setting::new().await };
        assert_eq!(setting.admit(&setting.token().1).unwrap_err(), ErrorCode::RegistryUnavailable);
        setting.auth.handle_keys(&WatchEvent::Snapshot(Listing::default()));
        assert_eq!(setting.admit(&setting.token().1).unwrap_err(), ErrorCode::RegistryUnavailable);
    }

    #[tokio::test]
    async fn a_revocation_reaches_tokens_in_use_and_is_not_taken_back_by_a_registry_that_forgot() {
        let setting = Setting::new().await;
        let ((used_id, used), (unused_id, unused)) = (setting.token(), setting.token());
        let access = setting.admit(&used).unwrap();
        setting.auth.handle_revoked(&revocations(&[used_id, unused_id], unix_now() + 60));
        assert_eq!(access.ended(false).await, Cause::TokenRevoked);
        setting.auth.handle_revoked(&revocations(&[], 0));
        for token in [used, unused] {
            assert_eq!(setting.admit(&token).unwrap_err(), ErrorCode::AuthRevoked);
        }
    }

    #[tokio::test]
    async fn a_revocation_is_kept_for_a_week_beyond_its_token() {
        let setting = Setting::new().await;
        for (ago, kept) in [(1, 1), (8 * 24 * 60 * 60, 0)] {
            setting.auth.handle_revoked(&revocations(&[random::token_id()], unix_now() - ago));
            assert_eq!(setting.auth.revocations().revoked.len(), kept);
            setting.auth.revocations().revoked.clear();
        }
    }

    #[tokio::test]
    async fn a_key_that_is_taken_back_takes_what_it_vouched_for_along() {
        let setting = Setting::new().await;
        let token = setting.token().1;
        assert!(setting.admit(&token).is_ok());
        let gone = Change { key: format!("{}{}", keys::TOKEN_KEYS, setting.signer.kid()), value: None, revision: 9 };
        setting.auth.handle_keys(&WatchEvent::Changes(vec![gone]));
        assert_eq!(setting.admit(&token).unwrap_err(), ErrorCode::AuthInvalid);
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded_and_forgotten_with_its_last_holder() {
        let setting = Setting::new().await;
        let (claims, live) = (setting.token(), Arc::default());
        let access = setting.admit(&claims.1).unwrap();
        let trusted = setting.auth.trusted.load();
        for number in 0..REMEMBERED_MAX + 10 {
            let token = number.to_string().as_bytes().into();
            trusted.remember(Access { token, claims: access.claims.clone(), live: Arc::clone(&live) });
        }
        assert!(trusted.remembered.len() <= REMEMBERED_MAX);
        for _ in 0..1000 {
            setting.auth.revocations().live(random::token_id());
        }
        assert!(setting.auth.revocations().live.len() <= 2 * 64);
    }
}
