//! Tokens that a service signs about itself, with the key of its SVID, to have a transaction of its own begun
//! (draft-ietf-oauth-transaction-tokens, `urn:ietf:params:oauth:token-type:self_signed`).
//!
//! Such a token names the service that signed it and nobody else: an edge's bare word is never a user.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Algorithm, JwtError, LEEWAY, SigningInput,
    jws::{Compact, Jws},
    token::Claims,
};
use crate::{
    clock::Timestamp,
    spiffe::{PublicKey, SpiffeId, TrustDomain},
};

/// The longest life that one may have.
pub const MOST_LIFETIME: Duration = Duration::from_secs(300);

/// What the signer of such a token says; for clients that sign.
///
/// The `kid` says nothing: the key is the one of the signer's SVID, whatever the token calls it.
#[must_use]
pub fn signing_input(
    algorithm: Algorithm,
    signer: &SpiffeId,
    trust_domain: &TrustDomain,
    issued_at: Timestamp,
    expires_at: Timestamp,
) -> SigningInput {
    let mut claims = Map::new();
    let mut set = |claim: &str, value: Value| claims.insert(claim.to_owned(), value);
    set("iss", signer.as_str().into());
    set("sub", signer.as_str().into());
    set("aud", trust_domain.as_str().into());
    set("iat", issued_at.unix_seconds().into());
    set("exp", expires_at.unix_seconds().into());
    SigningInput::new(algorithm, KEY_ID, &claims)
}

/// A token that its subject has signed. Only [`verify`] makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SelfSigned {
    issued_at: Timestamp,
    expires_at: Timestamp,
}

impl SelfSigned {
    /// `iat`.
    #[must_use]
    pub fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// `exp`.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

/// Whether `signer` has signed this about itself, for the token service of its trust domain, with one of these keys, which are those of
/// its SVIDs. The token is not expired by any leeway; its `iat` may be [`LEEWAY`] ahead.
///
/// # Errors
/// The first reason found.
pub fn verify(
    token: &str,
    signer: &SpiffeId,
    keys: &[PublicKey],
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<SelfSigned, JwtError> {
    let compact = Compact::parse(token)?;
    let jws = Jws::read(&compact, |found| matches!(found, None | Some("JWT")))?;
    // A service has one key, during a renewal two. One of the wrong kind says more than "bad signature".
    let mut refusal = JwtError::NoKey { key_id: super::cut(&jws.key_id) };
    if !keys.iter().any(|key| jws.verify(key).map_err(|error| refusal = error).is_ok()) {
        return Err(refusal);
    }
    let claims = Claims(&jws.payload);
    let text = |claim: &'static str| claims.text(claim)?.ok_or(JwtError::MissingClaim { claim });
    let date = |claim: &'static str| claims.date(claim)?.ok_or(JwtError::MissingClaim { claim });
    let (issuer, subject, audience) = (text("iss")?, text("sub")?, claims.audience()?);
    let (issued_at, expires_at, not_before) = (date("iat")?, date("exp")?, claims.date("nbf")?);
    if subject != signer.as_str() {
        return Err(JwtError::OtherSubject);
    }
    if issuer != signer.as_str() {
        return Err(JwtError::Issuer);
    }
    if audience.iter().map(String::as_str).ne([trust_domain.as_str()]) {
        return Err(JwtError::Audience);
    }
    let life = expires_at.since(issued_at);
    if life > MOST_LIFETIME {
        return Err(JwtError::LivesTooLong { left: life, most: MOST_LIFETIME });
    }
    if now >= expires_at {
        return Err(JwtError::Expired { expires_at, now });
    }
    if now.saturating_add(LEEWAY) < issued_at {
        return Err(JwtError::IssuedInFuture { issued_at, now });
    }
    if let Some(not_before) = not_before.filter(|not_before| now.saturating_add(LEEWAY) < *not_before) {
        return Err(JwtError::NotYetValid { not_before, now });
    }
    Ok(SelfSigned { issued_at, expires_at })
}

const KEY_ID: &str = "svid";

#[cfg(test)]
mod tests;
