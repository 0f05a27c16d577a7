//! Trust bundles as JSON: the SPIFFE bundle document and the JWK Set of the Workload API.

use std::collections::HashSet;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use serde_json::{Map, Value, json};

use super::error::{AuthorityError, BundleError};
use super::{JwtAuthority, MAX_BUNDLE_KEYS, TrustBundle, X509Authority, check_size};
use crate::spiffe::{PublicKey, TrustDomain};
use crate::strict_json;

/// Whose document it is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Keys {
    /// Every key says its `use`.
    OfSpiffeBundle,
    /// JWT keys, which need not.
    OfWorkloadApi,
}

const X509_SVID: &str = "x509-svid";
const JWT_SVID: &str = "jwt-svid";

/// Members of a JWK that hold something private (RFC 7518 §6; `priv` is that of the post-quantum key type `AKP`).
pub(crate) const PRIVATE_JWK_MEMBERS: &[&str] = &["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

/// An array of objects with arrays: 3. The rest is for members that others may define.
const MAX_DEPTH: usize = 16;

pub(super) fn read(trust_domain: TrustDomain, document: &[u8], keys: Keys) -> Result<TrustBundle, BundleError> {
    check_size(document)?;
    let document = strict_json::parse(document, MAX_DEPTH).map_err(|reason| BundleError::Json { reason })?;
    let entries = document.get("keys").and_then(Value::as_array).ok_or(BundleError::NoKeys)?;
    if entries.len() > MAX_BUNDLE_KEYS {
        return Err(BundleError::TooManyKeys { limit: MAX_BUNDLE_KEYS });
    }
    refuse_private_keys(entries)?;

    let mut bundle = TrustBundle::empty(trust_domain);
    bundle.sequence = match document.get("spiffe_sequence") {
        Some(value) => Some(value.as_u64().ok_or(BundleError::Sequence)?),
        None => None,
    };
    bundle.refresh_hint = match document.get("spiffe_refresh_hint") {
        Some(value) => {
            let seconds = value.as_u64().and_then(|seconds| u32::try_from(seconds).ok());
            Some(Duration::from_secs(seconds.ok_or(BundleError::RefreshHint)?.into()))
        }
        None => None,
    };
    let ambiguous = key_ids_used_twice(entries, keys);
    for (entry, value) in entries.iter().enumerate() {
        if let Err(reason) = read_key(&mut bundle, value, keys, &ambiguous) {
            bundle.skip(entry, reason);
        }
    }
    Ok(bundle)
}

/// Also in keys that would be skipped: whoever published them must hear of it.
fn refuse_private_keys(entries: &[Value]) -> Result<(), BundleError> {
    for (entry, value) in entries.iter().enumerate() {
        let members = value.as_object().into_iter().flat_map(Map::keys);
        if let Some(member) = members.into_iter().find(|member| PRIVATE_JWK_MEMBERS.contains(&member.as_str())) {
            return Err(BundleError::PrivateKey { entry, member: member.clone() });
        }
    }
    Ok(())
}

/// The `kid`s that stand at several JWT keys that are not one and the same. (JWT-SVID §6.1 leaves open what then is meant.)
fn key_ids_used_twice(entries: &[Value], keys: Keys) -> HashSet<String> {
    let mut seen: std::collections::HashMap<&str, &Value> = std::collections::HashMap::new();
    let mut twice = HashSet::new();
    for entry in entries.iter().filter(|entry| is_jwt_key(entry, keys)) {
        let Some(key_id) = entry.get("kid").and_then(Value::as_str) else { continue };
        if seen.insert(key_id, entry).is_some_and(|earlier| earlier != entry) {
            twice.insert(key_id.to_owned());
        }
    }
    twice
}

fn is_jwt_key(entry: &Value, keys: Keys) -> bool {
    match entry.get("use") {
        Some(value) => value == JWT_SVID,
        None => keys == Keys::OfWorkloadApi,
    }
}

fn read_key(
    bundle: &mut TrustBundle,
    value: &Value,
    keys: Keys,
    ambiguous: &HashSet<String>,
) -> Result<(), AuthorityError> {
    let jwk = value.as_object().ok_or(AuthorityError::NotAnObject)?;
    if is_jwt_key(value, keys) {
        let authority = read_jwt_key(jwk)?;
        if ambiguous.contains(authority.key_id()) {
            return Err(AuthorityError::DuplicateKeyId { key_id: authority.key_id().into() });
        }
        if bundle.jwt_authority(authority.key_id()).is_none() {
            bundle.jwt.push(authority);
        }
        return Ok(());
    }
    match jwk.get("use").and_then(Value::as_str) {
        Some(X509_SVID) if keys == Keys::OfSpiffeBundle => read_x509_key(bundle, jwk),
        found => Err(AuthorityError::Use { found: found.unwrap_or_default().chars().take(64).collect() }),
    }
}

fn read_jwt_key(jwk: &Map<String, Value>) -> Result<JwtAuthority, AuthorityError> {
    let key = PublicKey::from_jwk(jwk).map_err(|flaw| AuthorityError::Key { flaw })?;
    let key_id = jwk.get("kid").and_then(Value::as_str).ok_or(AuthorityError::NoKeyId)?;
    JwtAuthority::from_key(key_id, key)
}

/// Of several certificates the first counts (X509-43); a `kid` should not be there and is overlooked (X509-38).
fn read_x509_key(bundle: &mut TrustBundle, jwk: &Map<String, Value>) -> Result<(), AuthorityError> {
    let first = jwk.get("x5c").and_then(Value::as_array).and_then(|chain| chain.first());
    let encoded = first.ok_or(AuthorityError::NoCertificate)?.as_str().ok_or(AuthorityError::CertificateEncoding)?;
    let der = Base64::decode_vec(encoded).map_err(|_| AuthorityError::CertificateEncoding)?;
    let key = PublicKey::from_jwk(jwk).map_err(|flaw| AuthorityError::Key { flaw })?;
    let (authority, _) = X509Authority::read(&bundle.trust_domain, der.as_slice().to_vec().into())?;
    if *authority.public_key() != key {
        return Err(AuthorityError::OtherKey);
    }
    bundle.add_root(&der)
}

pub(super) fn write(bundle: &TrustBundle) -> String {
    let x509 = bundle.x509.iter().map(|authority| {
        let mut jwk = authority.public_key().to_jwk();
        jwk.insert("use".into(), X509_SVID.into());
        jwk.insert("x5c".into(), json!([Base64::encode_string(authority.der())]));
        Value::Object(jwk)
    });
    let mut document = Map::new();
    document.insert("keys".into(), x509.chain(bundle.jwt.iter().map(jwt_key)).collect());
    if let Some(sequence) = bundle.sequence {
        document.insert("spiffe_sequence".into(), sequence.into());
    }
    if let Some(hint) = bundle.refresh_hint {
        document.insert("spiffe_refresh_hint".into(), hint.as_secs().into());
    }
    Value::Object(document).to_string()
}

pub(super) fn write_jwks(bundle: &TrustBundle) -> String {
    json!({ "keys": bundle.jwt.iter().map(jwt_key).collect::<Vec<_>>() }).to_string()
}

fn jwt_key(authority: &JwtAuthority) -> Value {
    let mut jwk = authority.public_key().to_jwk();
    jwk.insert("use".into(), JWT_SVID.into());
    jwk.insert("kid".into(), authority.key_id().into());
    Value::Object(jwk)
}
