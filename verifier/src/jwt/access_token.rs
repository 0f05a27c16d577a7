//! Access tokens of the own token service (RFC 9068): `at+jwt`, with a service as its own client.
//!
//! Who calls is the client, a SPIFFE ID of the own trust domain. A token about somebody else is no proof of a caller.

use super::{
    JwtError, LEEWAY,
    jws::{Compact, Jws},
    token::Claims,
};
use crate::{
    clock::Timestamp,
    spiffe::{JwtAuthority, SpiffeId, TrustDomain},
};

/// The one `typ`.
pub(crate) const TYPE: &str = "at+jwt";

/// Whose tokens are taken, and the key that this one names.
pub(crate) struct Issuer<'i> {
    pub(crate) name: &'i str,
    pub(crate) trust_domain: &'i TrustDomain,
    pub(crate) key: &'i JwtAuthority,
}

/// A token that the token service has signed, for this service, and that is valid.
pub(crate) struct Verified {
    pub(crate) client: SpiffeId,
    pub(crate) token_id: String,
    pub(crate) expires_at: Timestamp,
    /// From when on the verdict is this one.
    pub(crate) from: Timestamp,
}

pub(crate) fn verify(
    compact: &Compact<'_>,
    issuer: &Issuer<'_>,
    audiences: &[String],
    now: Timestamp,
) -> Result<Verified, JwtError> {
    let jws = Jws::read(compact, |found| found == Some(TYPE))?;
    jws.verify(issuer.key.public_key())?;
    let claims = Claims(&jws.payload);
    let text = |claim: &'static str| claims.text(claim)?.ok_or(JwtError::MissingClaim { claim });
    // All that RFC 9068 §2.2 requires.
    let (name, subject, client) = (text("iss")?, text("sub")?, text("client_id")?);
    let token_id = text("jti")?.to_owned();
    let audience = claims.audience()?;
    let expires_at = claims.date("exp")?.ok_or(JwtError::MissingClaim { claim: "exp" })?;
    let issued_at = claims.date("iat")?.ok_or(JwtError::MissingClaim { claim: "iat" })?;
    let not_before = claims.date("nbf")?;
    if name != issuer.name {
        return Err(JwtError::Issuer);
    }
    if subject != client {
        return Err(JwtError::OtherSubject);
    }
    let client = SpiffeId::parse(client).map_err(|error| JwtError::Subject { error })?;
    if client.path().is_empty() {
        return Err(JwtError::SubjectWithoutPath { id: client });
    }
    if client.trust_domain() != issuer.trust_domain || client.is_reserved() {
        return Err(JwtError::NoClient { id: client });
    }
    if audiences.is_empty() {
        return Err(JwtError::NoOwnAudience);
    }
    if !audience.iter().any(|name| audiences.contains(name)) {
        return Err(JwtError::Audience);
    }
    if now >= expires_at.saturating_add(LEEWAY) {
        return Err(JwtError::Expired { expires_at, now });
    }
    if now.saturating_add(LEEWAY) < issued_at {
        return Err(JwtError::IssuedInFuture { issued_at, now });
    }
    if let Some(not_before) = not_before.filter(|not_before| now.saturating_add(LEEWAY) < *not_before) {
        return Err(JwtError::NotYetValid { not_before, now });
    }
    let from = not_before.map_or(issued_at, |not_before| not_before.max(issued_at)).saturating_sub(LEEWAY);
    Ok(Verified { client, token_id, expires_at, from })
}
