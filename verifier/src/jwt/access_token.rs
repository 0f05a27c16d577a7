//! Access tokens of the own token service (RFC 9068): `at+jwt`, with a service as its own client.
//!
//! Who calls is the client, a SPIFFE ID of the own trust domain. A token about somebody else is no proof of a caller.

mod mint;
#[cfg(test)]
mod tests;

pub use self::mint::AccessTokenClaims;
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
pub const TYPE: &str = "at+jwt";

/// The claims (RFC 9068 §2.2).
pub(crate) mod claim {
    pub(crate) const ISSUER: &str = "iss";
    pub(crate) const SUBJECT: &str = "sub";
    pub(crate) const CLIENT: &str = "client_id";
    pub(crate) const TOKEN_ID: &str = "jti";
    pub(crate) const AUDIENCE: &str = "aud";
    pub(crate) const SCOPE: &str = "scope";
    pub(crate) const ISSUED_AT: &str = "iat";
    pub(crate) const EXPIRES_AT: &str = "exp";
}

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
    let (name, subject, client) = (text(claim::ISSUER)?, text(claim::SUBJECT)?, text(claim::CLIENT)?);
    let token_id = text(claim::TOKEN_ID)?.to_owned();
    let audience = claims.audience()?;
    let date = |claim| claims.date(claim)?.ok_or(JwtError::MissingClaim { claim });
    let (expires_at, issued_at) = (date(claim::EXPIRES_AT)?, date(claim::ISSUED_AT)?);
    let not_before = claims.date("nbf")?;
    if name != issuer.name {
        return Err(JwtError::Issuer);
    }
    if subject != client {
        return Err(JwtError::OtherSubject);
    }
    let client = SpiffeId::parse(client).map_err(|error| JwtError::Subject { error })?;
    check_client(&client, issuer.trust_domain)?;
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

/// Services of the own trust domain are clients, and nobody else.
fn check_client(client: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), JwtError> {
    if client.path().is_empty() {
        return Err(JwtError::SubjectWithoutPath { id: client.clone() });
    }
    if client.trust_domain() != trust_domain || client.is_reserved() {
        return Err(JwtError::NoClient { id: client.clone() });
    }
    Ok(())
}
