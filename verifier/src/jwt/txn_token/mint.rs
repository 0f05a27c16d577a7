//! What the token service and the agents sign.

use std::fmt;

use serde_json::{Map, Value};

use super::{TYPE, claim, read, requesters};
use crate::{
    clock::Timestamp,
    jwt::{
        Algorithm, JwtError, MAX_TOKEN_BYTES, SigningInput,
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
        let mut claims = Map::new();
        let mut set = |claim: &str, value: Value| claims.insert(claim.to_owned(), value);
        set(claim::SUBJECT, self.sub.as_str().into());
        set(claim::AUDIENCE, trust_domain.as_str().into());
        set(claim::TRANSACTION, self.txn.as_str().into());
        set(claim::SCOPE, self.scope.as_str().into());
        set(claim::REQUESTER, self.requester.as_str().into());
        set(claim::ISSUED_AT, self.issued_at.unix_seconds().into());
        set(claim::EXPIRES_AT, self.expires_at.unix_seconds().into());
        if let Some(chain) = requesters::write(&self.requester, &self.earlier_requesters) {
            set(claim::ACTOR, chain);
        }
        for (claim, facts) in [(claim::TRANSACTION_CONTEXT, &self.tctx), (claim::REQUESTER_CONTEXT, &self.rctx)] {
            if facts.values().any(|value| is_deeper(value, MAX_DEPTH - 2)) {
                return Err(JwtError::Claim { claim, expected: "nested less deeply" });
            }
            if !facts.is_empty() {
                set(claim, Value::Object(facts.clone()));
            }
        }
        read(&claims, trust_domain)?;
        if self.expires_at <= self.issued_at {
            return Err(JwtError::Claim { claim: claim::EXPIRES_AT, expected: "after it is issued" });
        }
        let input = SigningInput::typed(TYPE, Algorithm::Es256, key_id, &claims);
        let bytes = input.as_bytes().len() + ES256_SIGNATURE_TEXT;
        if bytes > MAX_TOKEN_BYTES { Err(JwtError::TooLarge { bytes }) } else { Ok(input) }
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
