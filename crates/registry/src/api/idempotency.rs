//! `Idempotency-Key`: a create that is sent twice makes one instance.
//!
//! What is kept is not the answer but the claim: the id of the instance that this key makes, written before the instance.
//! Whoever comes with the same key and the same request makes or finds that very instance, whether the first attempt was
//! answered, is still under way, or died halfway. So the answer is always the instance as it is now.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use landfast_core::id::KeyId;
use landfast_core::record::keys;
use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::{clock, random};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::input::invalid;
use super::refusal::Refusal;
use crate::records;
use crate::store::{Entry, Expect, Store, StoreError, Swap};

const HEADER: &str = "idempotency-key";

/// The longest key: a UUID has 36 characters, and some clients put a path before it.
const KEY_MAX: usize = 255;

/// How long a claim is kept. An instance's tombstone is kept as long, from its end on, so a claim never outlives it.
pub(crate) const KEPT_MILLIS: u64 = 24 * 60 * 60 * 1000;

/// Attempts to claim; each failure means that another request claimed or a claim was swept in between.
const ATTEMPTS: u32 = 4;

/// What the store keeps of a key.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// SHA-256 of the request, in base64url.
    request: String,
    /// The instance that this key makes.
    instance: InstanceId,
    /// Unix time in milliseconds.
    claimed_at: u64,
}

impl Claim {
    /// Whether the claim has had its time.
    pub(crate) fn is_over(&self, unix_millis: u64) -> bool {
        self.claimed_at + KEPT_MILLIS <= unix_millis
    }
}

/// The id of the instance that a request makes: a new one, or that of the first request with this key.
///
/// # Errors
///
/// [`ErrorCode::RequestKeyReused`] if the first request with this key was another one; [`ErrorCode::RequestInvalid`] if
/// the key is no key; or the store's error.
pub(super) async fn claim(
    store: &dyn Store,
    caller: KeyId,
    headers: &HeaderMap,
    request: &impl Serialize,
) -> Result<InstanceId, Refusal> {
    let Some(given) = key_of(headers)? else { return Ok(random::instance_id()) };
    // Hashed, because a key is any text; together with the caller, because callers do not know each other's keys.
    let key = format!("{}{}", keys::IDEMPOTENCY, hash(format!("{caller} {given}").as_bytes()));
    let request = hash(&records::encode(request)?);
    for _ in 0..ATTEMPTS {
        let found = store.get(&key).await?;
        if let Some(claim) = valid(found.as_ref())? {
            return if claim.request == request { Ok(claim.instance) } else { Err(ErrorCode::RequestKeyReused.into()) };
        }
        let claim =
            Claim { request: request.clone(), instance: random::instance_id(), claimed_at: clock::unix_millis() };
        let expect = found.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
        match store.put(&key, expect, records::encode(&claim)?, None).await? {
            Swap::Done(_) => return Ok(claim.instance),
            Swap::Conflict(_) => {}
        }
    }
    Err(ErrorCode::RequestConflict.into())
}

fn valid(found: Option<&Entry>) -> Result<Option<Claim>, StoreError> {
    let claim: Option<Claim> = found.map(|entry| records::decode(&entry.key, &entry.value)).transpose()?;
    Ok(claim.filter(|claim| !claim.is_over(clock::unix_millis())))
}

fn key_of(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut given = headers.get_all(HEADER).iter();
    let (Some(key), None) = (given.next(), given.next()) else {
        return if headers.contains_key(HEADER) {
            Err(invalid("Idempotency-Key stands more than once."))
        } else {
            Ok(None)
        };
    };
    match key.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= KEY_MAX => Ok(Some(key)),
        Ok(_) | Err(_) => Err(invalid(format!("Idempotency-Key is not 1 to {KEY_MAX} characters of ASCII."))),
    }
}

fn hash(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(bytes))
}
