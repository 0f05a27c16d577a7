//! What the token service and the agents sign.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::{TYPE, check, claim, requesters};
use crate::{
    clock::Timestamp,
    jwt::{
        Algorithm, JwtError, MAX_TOKEN_BYTES, Part, SigningInput,
        jws::{ES256_SIGNATURE_TEXT, MAX_DEPTH},
    },
    spiffe::{SpiffeId, TrustDomain},
};

/// What a transaction token says, for those who mint. `Debug` says nothing of the user.
#[derive(Clone, PartialEq)]
pub struct TxnClaims {
    /// `sub`: who, unique within the trust domain; 1 to 512 bytes.
    pub sub: String,
    /// `txn`: the transaction; 1 to 128 bytes.
    pub txn: String,
    /// `scope`: what for; words with one blank between, 1 to 1024 bytes.
    pub scope: String,
    /// `req_wl`: who asked for this token.
    pub requester: SpiffeId,
    /// Who asked for the tokens that this one replaces, the latest first; with the requester at most [`super::MOST_REQUESTERS`].
    pub earlier_requesters: Vec<SpiffeId>,
    /// `tctx`; left out when it is empty.
    pub tctx: Map<String, Value>,
    /// `rctx`; left out when it is empty.
    pub rctx: Map<String, Value>,
    /// `iat`, in whole seconds.
    pub issued_at: Timestamp,
    /// `exp`, in whole seconds; at most [`super::MOST_LIFETIME`] later.
    pub expires_at: Timestamp,
}

impl TxnClaims {
    /// What to sign with ES256, under this `kid`. What is written here passes what receivers check.
    ///
    /// # Errors
    /// The claim that no receiver would take, or [`JwtError::TooLarge`].
    pub fn signing_input(&self, trust_domain: &TrustDomain, key_id: &str) -> Result<SigningInput, JwtError> {
        check(self, trust_domain)?;
        for (claim, facts) in [(claim::TRANSACTION_CONTEXT, &self.tctx), (claim::REQUESTER_CONTEXT, &self.rctx)] {
            if facts.values().any(|value| is_deeper(value, MAX_DEPTH - 2)) {
                return Err(JwtError::Claim { claim, expected: "nested less deeply" });
            }
        }
        if self.expires_at <= self.issued_at {
            return Err(JwtError::Claim { claim: claim::EXPIRES_AT, expected: "after it is issued" });
        }
        let said = Said { claims: self, trust_domain };
        // Members have texts as names: nothing here fails.
        let said = serde_json::to_string(&said).map_err(|_| JwtError::NotAnObject { part: Part::Claims })?;
        let input = SigningInput::of_text(TYPE, Algorithm::Es256, key_id, &said);
        let bytes = input.as_bytes().len() + ES256_SIGNATURE_TEXT;
        if bytes > MAX_TOKEN_BYTES { Err(JwtError::TooLarge { bytes }) } else { Ok(input) }
    }
}

/// The claims as they stand in the token.
struct Said<'s> {
    claims: &'s TxnClaims,
    trust_domain: &'s TrustDomain,
}

impl Serialize for Said<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let claims = self.claims;
        let mut said = serializer.serialize_map(None)?;
        said.serialize_entry(claim::AUDIENCE, self.trust_domain.as_str())?;
        said.serialize_entry(claim::SUBJECT, &claims.sub)?;
        said.serialize_entry(claim::TRANSACTION, &claims.txn)?;
        said.serialize_entry(claim::SCOPE, &claims.scope)?;
        said.serialize_entry(claim::REQUESTER, claims.requester.as_str())?;
        if let Some(chain) = requesters::write(&claims.requester, &claims.earlier_requesters) {
            said.serialize_entry(claim::ACTOR, &chain)?;
        }
        for (claim, facts) in [(claim::TRANSACTION_CONTEXT, &claims.tctx), (claim::REQUESTER_CONTEXT, &claims.rctx)] {
            if !facts.is_empty() {
                said.serialize_entry(claim, facts)?;
            }
        }
        said.serialize_entry(claim::ISSUED_AT, &claims.issued_at.unix_seconds())?;
        said.serialize_entry(claim::EXPIRES_AT, &claims.expires_at.unix_seconds())?;
        said.end()
    }
}

impl fmt::Debug for TxnClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxnClaims").field("txn", &self.txn).field("scope", &self.scope).finish_non_exhaustive()
    }
}

fn is_deeper(value: &Value, most: usize) -> bool {
    let deeper = |value: &Value| most.checked_sub(1).is_none_or(|most| is_deeper(value, most));
    match value {
        Value::Array(items) => items.iter().any(deeper) || most == 0,
        Value::Object(members) => members.values().any(deeper) || most == 0,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
