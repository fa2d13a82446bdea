//! Access tokens: who may reach one instance, and for what.
//!
//! A token is checked by gateways on every request, so it carries its own proof: a JWT signed by the cell's Ed25519 key,
//! whose public half every gateway has from the store. Only that algorithm is accepted, whatever the token's header
//! says, and the verifier's clock is given to it, so that expiry is exact: no leeway.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{SigningKey, VerifyingKey};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use landfast_core::record::keys;
use landfast_core::{ErrorCode, InstanceId, TokenId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::records;
use crate::store::{Expect, Store, StoreError, Swap, WatchEvent};

/// The longest token that is looked at: ours are under 500 bytes, and base64 and JSON are read before the signature.
const TOKEN_MAX: usize = 4096;

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everything in the instance.
    All,
    /// Its processes: run, attach, signal, read their output.
    Process,
    /// Its browser: CDP, restart, flags, pictures of it.
    Browser,
    /// Its events: to read them, to say some, and what the browser is watched for.
    Telemetry,
    /// Its files: to read, write, move, remove and watch them.
    Files,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The token's id, by which it is revoked.
    pub jti: TokenId,
    /// The instance it is for.
    pub ins: InstanceId,
    /// What it allows there.
    pub scopes: Vec<Scope>,
    /// Unix time in seconds from which on it is not accepted.
    pub exp: u64,
    /// Unix time in seconds at which it was made.
    pub iat: u64,
}

impl Claims {
    /// Whether the token allows `scope`.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|&granted| granted == Scope::All || granted == scope)
    }
}

/// The cell's key that signs access tokens.
pub struct Signer {
    kid: String,
    public: VerifyingKey,
    encoding: EncodingKey,
}

/// A public key as the store knows it, at `token-keys/{kid}`.
#[derive(Serialize, Deserialize)]
struct PublishedKey {
    /// The 32 bytes of the Ed25519 public key, in base64url.
    ed25519: String,
}

impl Signer {
    /// Makes a new private key, as PKCS #8 in PEM.
    pub fn generate_pem() -> String {
        let mut seed = [0; 32];
        rand::fill(&mut seed);
        let pem =
            SigningKey::from_bytes(&seed).to_pkcs8_pem(LineEnding::LF).expect("every key of this kind has a PEM form");
        pem.to_string()
    }

    /// Reads a private key; `None` if the text is none of this kind.
    pub fn from_pem(pem: &str) -> Option<Self> {
        let key = SigningKey::from_pkcs8_pem(pem).ok()?;
        let encoding = EncodingKey::from_ed_der(key.to_pkcs8_der().ok()?.as_bytes());
        let public = key.verifying_key();
        Some(Self { kid: kid_of(&public), public, encoding })
    }

    /// Names the key in tokens and in the store.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Makes a token.
    pub fn sign(&self, claims: &Claims) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.encoding)
            .expect("claims have a JSON form, and the key is of its kind")
    }

    /// Makes the public key known to the cell's gateways. Does nothing if it is.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn publish(&self, store: &dyn Store) -> Result<(), StoreError> {
        let published = PublishedKey { ed25519: URL_SAFE_NO_PAD.encode(self.public.as_bytes()) };
        let key = format!("{}{}", keys::TOKEN_KEYS, self.kid);
        match store.put(&key, Expect::Absent, records::encode(&published)?, None).await? {
            Swap::Done(_) | Swap::Conflict(_) => Ok(()),
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.kid)
    }
}

/// Checks access tokens against the public keys of the cell.
#[derive(Clone, Default)]
pub struct Verifier {
    keys: BTreeMap<String, DecodingKey>,
}

impl Verifier {
    /// Reads the public keys from the store as they are now.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let mut verifier = Self::default();
        verifier.apply(&WatchEvent::Snapshot(store.list(keys::TOKEN_KEYS).await?));
        Ok(verifier)
    }

    /// Follows a watch of [`keys::TOKEN_KEYS`]. A key that cannot be understood is left out and logged.
    pub fn apply(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Snapshot(listing) => {
                self.keys.clear();
                for entry in &listing.entries {
                    self.set(&entry.key, Some(&entry.value));
                }
            }
            WatchEvent::Changes(changes) => {
                for change in changes {
                    self.set(&change.key, change.value.as_deref());
                }
            }
            WatchEvent::Resync | WatchEvent::Back => {}
        }
    }

    /// Checks a token: that it is ours, and that `now_unix` (seconds) is before its end. Whether it was revoked, and
    /// whether it is for the instance at hand, is the caller's to check.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::AuthInvalid`] or [`ErrorCode::AuthExpired`].
    pub fn verify(&self, token: &str, now_unix: u64) -> Result<Claims, ErrorCode> {
        if token.len() > TOKEN_MAX {
            return Err(ErrorCode::AuthInvalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| ErrorCode::AuthInvalid)?;
        let key = header.kid.and_then(|kid| self.keys.get(&kid)).ok_or(ErrorCode::AuthInvalid)?;
        let decoded = jsonwebtoken::decode::<Claims>(token, key, &signature_only());
        let claims = decoded.map_err(|_| ErrorCode::AuthInvalid)?.claims;
        if claims.exp <= now_unix { Err(ErrorCode::AuthExpired) } else { Ok(claims) }
    }

    fn set(&mut self, store_key: &str, value: Option<&[u8]>) {
        let kid = store_key.strip_prefix(keys::TOKEN_KEYS).unwrap_or(store_key).to_owned();
        match value.map(read_public) {
            Some(Some(key)) => {
                self.keys.insert(kid, key);
            }
            Some(None) => tracing::error!(key = store_key, "a token key cannot be understood and is left out"),
            None => {
                self.keys.remove(&kid);
            }
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Verifier").field(&self.keys.keys()).finish()
    }
}

/// Only the algorithm and the signature are left to the library: it would take the time from its own clock.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

fn read_public(value: &[u8]) -> Option<DecodingKey> {
    let published: PublishedKey = serde_json::from_slice(value).ok()?;
    let bytes: [u8; 32] = URL_SAFE_NO_PAD.decode(published.ed25519).ok()?.try_into().ok()?;
    let key = VerifyingKey::from_bytes(&bytes).ok().filter(|key| !key.is_weak())?;
    Some(DecodingKey::from_ed_der(key.as_bytes()))
}

/// The first 72 bits of the key's hash, in base64url: enough to tell a cell's few keys apart.
fn kid_of(key: &VerifyingKey) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(key.as_bytes())[..9])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Listing;
    use crate::store::embedded::EmbeddedStore;

    const NOW: u64 = 1_800_000_000;

    fn signer() -> Signer {
        Signer::from_pem(&Signer::generate_pem()).unwrap()
    }

    async fn verifier_of(signer: &Signer) -> Verifier {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&dir.path().join("cell.db")).unwrap();
        signer.publish(&store).await.unwrap();
        Verifier::load(&store).await.unwrap()
    }

    fn claims() -> Claims {
        let (jti, ins) = (TokenId::new(1, 2), InstanceId::new(3, 4));
        Claims { jti, ins, scopes: vec![Scope::Process], exp: NOW + 60, iat: NOW }
    }

    /// A token with any header and claims, signed by any key.
    fn forged(header: &serde_json::Value, claims: &serde_json::Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[tokio::test]
    async fn a_token_says_what_was_signed() {
        let signer = signer();
        let token = signer.sign(&claims());
        assert_eq!(verifier_of(&signer).await.verify(&token, NOW), Ok(claims()));
    }

    #[tokio::test]
    async fn a_token_ends_at_its_second_without_leeway() {
        let signer = signer();
        let (verifier, token) = (verifier_of(&signer).await, signer.sign(&claims()));
        assert!(verifier.verify(&token, NOW + 59).is_ok());
        assert_eq!(verifier.verify(&token, NOW + 60), Err(ErrorCode::AuthExpired));
    }

    #[tokio::test]
    async fn a_token_of_another_cell_is_refused_even_under_our_key_id() {
        let (ours, theirs) = (signer(), signer());
        let verifier = verifier_of(&ours).await;
        assert_eq!(verifier.verify(&theirs.sign(&claims()), NOW), Err(ErrorCode::AuthInvalid));
        let renamed = Signer { kid: ours.kid.clone(), ..theirs };
        assert_eq!(verifier.verify(&renamed.sign(&claims()), NOW), Err(ErrorCode::AuthInvalid));
    }

    #[tokio::test]
    async fn a_changed_token_is_refused() {
        let signer = signer();
        let (verifier, token) = (verifier_of(&signer).await, signer.sign(&claims()));
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(verifier.verify(&changed, NOW).is_err(), "byte {at}");
        }
    }

    #[tokio::test]
    async fn no_other_algorithm_is_accepted() {
        use jsonwebtoken::crypto::sign;
        let signer = signer();
        let verifier = verifier_of(&signer).await;
        let claims = serde_json::to_value(claims()).unwrap();
        let header = |alg: &str| serde_json::json!({"alg": alg, "typ": "JWT", "kid": signer.kid()});
        // The classic: our public key, which everybody may know, as the secret of a symmetric algorithm.
        let public = EncodingKey::from_secret(signer.public.as_bytes());
        let hmac = forged(&header("HS256"), &claims, |message| {
            let signature = sign(message, &public, Algorithm::HS256).unwrap();
            URL_SAFE_NO_PAD.decode(signature).unwrap()
        });
        assert_eq!(verifier.verify(&hmac, NOW), Err(ErrorCode::AuthInvalid));
        for alg in ["none", "None", "ES256", "HS512"] {
            let unsigned = forged(&header(alg), &claims, |_| Vec::new());
            assert_eq!(verifier.verify(&unsigned, NOW), Err(ErrorCode::AuthInvalid), "{alg}");
        }
        let honest = forged(&header("EdDSA"), &claims, |message| {
            let signature = sign(message, &signer.encoding, Algorithm::EdDSA).unwrap();
            URL_SAFE_NO_PAD.decode(signature).unwrap()
        });
        assert!(
            verifier.verify(&honest, NOW).is_ok(),
            "the forger of this test makes tokens that are right but for that"
        );
    }

    #[tokio::test]
    async fn a_token_without_a_claim_is_refused() {
        let signer = signer();
        let verifier = verifier_of(&signer).await;
        let whole = serde_json::to_value(claims()).unwrap();
        for name in ["jti", "ins", "scopes", "exp", "iat"] {
            let mut part = whole.clone();
            part.as_object_mut().unwrap().remove(name);
            let header = Header { kid: Some(signer.kid.clone()), ..Header::new(Algorithm::EdDSA) };
            let token = jsonwebtoken::encode(&header, &part, &signer.encoding).unwrap();
            assert_eq!(verifier.verify(&token, NOW), Err(ErrorCode::AuthInvalid), "{name}");
        }
    }

    #[tokio::test]
    async fn no_text_is_a_token_by_accident() {
        let verifier = verifier_of(&signer()).await;
        for text in ["", ".", "..", "a.b.c", &"x".repeat(TOKEN_MAX + 1), "eyJhbGciOiJub25lIn0.e30."] {
            assert_eq!(verifier.verify(text, NOW), Err(ErrorCode::AuthInvalid), "{text:.20}");
        }
    }

    #[tokio::test]
    async fn a_key_that_was_taken_back_signs_no_more() {
        let signer = signer();
        let mut verifier = verifier_of(&signer).await;
        verifier.apply(&WatchEvent::Snapshot(Listing::default()));
        assert_eq!(verifier.verify(&signer.sign(&claims()), NOW), Err(ErrorCode::AuthInvalid));
    }

    #[test]
    fn the_scope_for_all_includes_the_others() {
        let only = |scopes| Claims { scopes, ..claims() };
        assert!(only(vec![Scope::All]).allows(Scope::Process));
        assert!(!only(vec![Scope::Process]).allows(Scope::All));
        assert!(!only(Vec::new()).allows(Scope::Process));
    }
}
