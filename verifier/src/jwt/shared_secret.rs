//! HS256 tokens under a secret that a caller and a service share.
//!
//! Whoever verifies one could forge it, and it says of itself who and what it is; so it counts for no more than its key record says.
//! Its claims are exactly `exp`, `aud`, `sub` and `roles`, and `jti` and `iat` if it likes.

use std::time::Duration;

use aws_lc_rs::rand;
use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    JwtError, LEEWAY,
    jws::{Compact, cut},
    token::Claims,
};
use crate::{
    caller::{RoleName, Roles},
    clock::Timestamp,
    key_records::Entry,
    shared_secret::SharedSecret,
    strict_json::Members as _,
};

/// The one algorithm.
pub(crate) const ALGORITHM: &str = "HS256";

const CLAIMS: [&str; 6] = ["exp", "aud", "sub", "roles", "jti", "iat"];

/// A token that its record's key has signed, for this service, and that is valid.
pub(crate) struct Verified<'r> {
    pub(crate) entry: Entry<'r, SharedSecret>,
    pub(crate) roles: Roles,
    pub(crate) token_id: Option<String>,
    pub(crate) expires_at: Timestamp,
    /// From when on the verdict is this one.
    pub(crate) from: Timestamp,
}

/// The signature first: what nobody has signed is not looked into.
pub(crate) fn verify<'r>(
    compact: &Compact<'_>,
    entry: Entry<'r, SharedSecret>,
    audiences: &[String],
    now: Timestamp,
) -> Result<Verified<'r>, JwtError> {
    let algorithm = compact.algorithm()?;
    if algorithm != ALGORITHM {
        return Err(JwtError::Algorithm { found: cut(algorithm) });
    }
    let token_type = compact.token_type()?;
    if !matches!(token_type, None | Some("JWT")) {
        return Err(JwtError::Type { found: cut(token_type.unwrap_or_default()) });
    }
    if !entry.keyed.secret.verifies(compact.signing_input(), &compact.signature()?) {
        return Err(JwtError::BadSignature);
    }
    let claims = compact.known_claims(CLAIMS)?;
    if let Some(claim) = &claims.other {
        return Err(JwtError::UnknownClaim { claim: cut(claim) });
    }
    let roles = roles(claims.member("roles"))?;
    let claims = Claims(&claims);
    let token_id = claims.text("jti")?.map(str::to_owned);
    let subject = claims.text("sub")?.ok_or(JwtError::MissingClaim { claim: "sub" })?;
    let audience = claims.audience()?;
    let expires_at = claims.date("exp")?.ok_or(JwtError::MissingClaim { claim: "exp" })?;
    let issued_at = claims.date("iat")?;
    let record = entry.record;
    if subject != &*record.subject {
        return Err(JwtError::OtherSubject);
    }
    if audiences.is_empty() {
        return Err(JwtError::NoOwnAudience);
    }
    let for_us =
        audiences.iter().any(|own| **own == *record.audience) && audience.iter().any(|name| **name == *record.audience);
    if !for_us {
        return Err(JwtError::Audience);
    }
    if record.has_expired(now) {
        return Err(JwtError::KeyExpired { expires_at: record.expires_at, now });
    }
    if now >= expires_at.saturating_add(LEEWAY) {
        return Err(JwtError::Expired { expires_at, now });
    }
    let most = record.most_lifetime;
    if expires_at.since(now) > most {
        return Err(JwtError::LivesTooLong { left: expires_at.since(now), most });
    }
    if let Some(issued_at) = issued_at.filter(|issued_at| now.saturating_add(LEEWAY) < *issued_at) {
        return Err(JwtError::IssuedInFuture { issued_at, now });
    }
    let issued = issued_at.map(|issued_at| issued_at.saturating_sub(LEEWAY));
    let from = issued.max(Some(expires_at.saturating_sub(most))).unwrap_or(now);
    Ok(Verified { entry, roles, token_id, expires_at, from })
}

/// All of them must be names of roles, each there once; what the record does not grant counts for nothing anyway.
fn roles(claim: Option<&Value>) -> Result<Roles, JwtError> {
    let wrong = || JwtError::Claim { claim: "roles", expected: "a list of at most 64 names of roles, each once" };
    let names = match claim {
        None => return Err(JwtError::MissingClaim { claim: "roles" }),
        Some(Value::Array(names)) if names.len() <= Roles::MOST => names,
        Some(_) => return Err(wrong()),
    };
    let role = |name: &Value| name.as_str().and_then(|name| RoleName::parse(name).ok()).ok_or_else(wrong);
    let roles: Roles = names.iter().map(role).collect::<Result<_, _>>()?;
    if roles.iter().count() == names.len() { Ok(roles) } else { Err(wrong()) }
}

/// What a caller says in a token that it mints.
#[derive(Clone, Debug)]
pub struct Claimed<'c> {
    /// The ID of the key: `kid`.
    pub key_id: &'c str,
    /// The subject of the key's record: `sub`.
    pub subject: &'c str,
    /// The service: `aud`.
    pub audience: &'c str,
    /// What it wants to act as: `roles`.
    pub roles: &'c Roles,
    /// How long it is good, at most what the record says: `exp`.
    pub lifetime: Duration,
}

/// Mints a token, good from `now`, with a random `jti`; none if there is no randomness.
#[must_use]
pub fn mint(secret: &SharedSecret, claimed: &Claimed<'_>, now: Timestamp) -> Option<Zeroizing<String>> {
    let mut id = [0_u8; 16];
    rand::fill(&mut id).ok()?;
    let encode = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
    let header = json!({ "alg": ALGORITHM, "kid": claimed.key_id, "typ": "JWT" });
    let claims = json!({
        "aud": claimed.audience,
        "exp": now.saturating_add(claimed.lifetime).unix_seconds(),
        "iat": now.unix_seconds(),
        "jti": encode(&id),
        "roles": claimed.roles.iter().map(RoleName::as_str).collect::<Vec<_>>(),
        "sub": claimed.subject,
    });
    let input = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let tag = encode(secret.sign(input.as_bytes()).as_ref());
    Some(Zeroizing::new(format!("{input}.{tag}")))
}
