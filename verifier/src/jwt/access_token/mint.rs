//! What the token service signs.

use serde_json::{Map, Value};

use super::{TYPE, check_client, claim};
use crate::{
    clock::Timestamp,
    jwt::{Algorithm, JwtError, MAX_AUDIENCES, MAX_TOKEN_BYTES, SigningInput, is_scope, jws::ES256_SIGNATURE_TEXT},
    spiffe::{SpiffeId, TrustDomain},
};

/// What an access token says, for the token service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AccessTokenClaims {
    /// `iss`: the token service, as verifiers are told it.
    pub issuer: String,
    /// `sub` and `client_id`: who may call with it.
    pub client: SpiffeId,
    /// `aud`: whom it may call; at least one, at most [`MAX_AUDIENCES`], none empty.
    pub audience: Vec<String>,
    /// `scope`: words with one blank between; none is left out.
    pub scope: Option<String>,
    /// `jti`.
    pub token_id: String,
    /// `iat`, in whole seconds.
    pub issued_at: Timestamp,
    /// `exp`, in whole seconds.
    pub expires_at: Timestamp,
}

impl AccessTokenClaims {
    /// What to sign with ES256, under this `kid`.
    ///
    /// # Errors
    /// The claim that no verifier would take, or [`JwtError::TooLarge`].
    pub fn signing_input(&self, trust_domain: &TrustDomain, key_id: &str) -> Result<SigningInput, JwtError> {
        check_client(&self.client, trust_domain)?;
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            return Err(JwtError::MissingClaim { claim: claim::AUDIENCE });
        }
        if self.audience.len() > MAX_AUDIENCES {
            return Err(JwtError::TooManyAudiences { count: self.audience.len() });
        }
        for (claim, text) in [(claim::ISSUER, &self.issuer), (claim::TOKEN_ID, &self.token_id)] {
            if text.is_empty() {
                return Err(JwtError::MissingClaim { claim });
            }
        }
        if self.scope.as_deref().is_some_and(|scope| !is_scope(scope)) {
            return Err(JwtError::Claim { claim: claim::SCOPE, expected: "words with one blank between two" });
        }
        if self.expires_at <= self.issued_at {
            return Err(JwtError::Claim { claim: claim::EXPIRES_AT, expected: "after it is issued" });
        }
        let mut claims = Map::new();
        let mut set = |claim: &str, value: Value| claims.insert(claim.to_owned(), value);
        set(claim::ISSUER, self.issuer.as_str().into());
        set(claim::SUBJECT, self.client.as_str().into());
        set(claim::CLIENT, self.client.as_str().into());
        set(claim::TOKEN_ID, self.token_id.as_str().into());
        set(claim::AUDIENCE, self.audience.clone().into());
        set(claim::ISSUED_AT, self.issued_at.unix_seconds().into());
        set(claim::EXPIRES_AT, self.expires_at.unix_seconds().into());
        if let Some(scope) = &self.scope {
            set(claim::SCOPE, scope.as_str().into());
        }
        let input = SigningInput::typed(TYPE, Algorithm::Es256, key_id, &claims);
        let bytes = input.as_bytes().len() + ES256_SIGNATURE_TEXT;
        if bytes > MAX_TOKEN_BYTES { Err(JwtError::TooLarge { bytes }) } else { Ok(input) }
    }
}
