//! Transaction tokens (draft-ietf-oauth-transaction-tokens): for whom a request is made, signed by the trust domain's token service.

mod facts;
mod mint;
mod requesters;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

pub use self::{
    facts::{FactsError, MAX_FACTS_BYTES, MAX_FACTS_DEPTH, read_facts},
    mint::TxnClaims,
    requesters::MOST_REQUESTERS,
};
use super::{
    JwtError, LEEWAY, is_scope,
    jws::{Compact, Jws},
    token::Claims,
};
use crate::{
    clock::Timestamp,
    on_behalf_of::{Facts, OnBehalfOf},
    spiffe::{JwtAuthority, SpiffeId, TrustDomain},
};

/// The one `typ`.
pub const TYPE: &str = "txntoken+jwt";
/// The header that carries one.
pub const HEADER: &str = "txn-token";
/// The longest life that one may have.
pub const MOST_LIFETIME: Duration = Duration::from_secs(600);

/// The claims, by the names that the draft has given them since 2026. One set is accepted: a token with earlier names (`azd`,
/// `purp`) lacks what is required.
pub mod claim {
    /// The user or workload, unique within the trust domain.
    pub const SUBJECT: &str = "sub";
    /// The trust domain.
    pub const AUDIENCE: &str = "aud";
    /// The transaction.
    pub const TRANSACTION: &str = "txn";
    /// What for.
    pub const SCOPE: &str = "scope";
    /// The workload that asked for the token: one string.
    pub const REQUESTER: &str = "req_wl";
    /// In a token that replaces another: who asked for this one, and nested in it who asked for the one before (RFC 8693 §4.1). The draft
    /// demands such a chain and leaves its form open.
    pub const ACTOR: &str = "act";
    /// Facts of the transaction.
    pub const TRANSACTION_CONTEXT: &str = "tctx";
    /// Where the request came from.
    pub const REQUESTER_CONTEXT: &str = "rctx";
    /// When it was issued.
    pub const ISSUED_AT: &str = "iat";
    /// When it ends.
    pub const EXPIRES_AT: &str = "exp";
}

/// The most bytes of a subject, a transaction's ID, and a scope.
const MOST_TEXT: [(&str, usize); 3] = [(claim::SUBJECT, 512), (claim::TRANSACTION, 128), (claim::SCOPE, 1024)];

/// A token that was found good, and from when on.
pub(crate) struct Verified {
    pub(crate) user: OnBehalfOf,
    pub(crate) from: Timestamp,
    /// Its `exp`, without leeway.
    pub(crate) until: Timestamp,
}

/// The signature first: what nobody has signed is not looked into.
pub(crate) fn verify(
    token: &str,
    compact: &Compact<'_>,
    key: &JwtAuthority,
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<Verified, JwtError> {
    let jws = Jws::read(compact, |found| found == Some(TYPE))?;
    jws.verify(key.public_key())?;
    let claims = read(&jws.payload, trust_domain)?;
    let (issued_at, expires_at) = (claims.issued_at, claims.expires_at);
    if now >= expires_at.saturating_add(LEEWAY) {
        return Err(JwtError::Expired { expires_at, now });
    }
    if now.saturating_add(LEEWAY) < issued_at {
        return Err(JwtError::IssuedInFuture { issued_at, now });
    }
    let not_before = Claims(&jws.payload).date("nbf")?;
    if let Some(not_before) = not_before.filter(|not_before| now.saturating_add(LEEWAY) < *not_before) {
        return Err(JwtError::NotYetValid { not_before, now });
    }
    let user = OnBehalfOf::new(Facts {
        sub: claims.sub.into(),
        txn: claims.txn.into(),
        scope: claims.scope.into(),
        requester: claims.requester,
        earlier_requesters: claims.earlier_requesters,
        tctx: claims.tctx,
        rctx: claims.rctx,
        issued_at,
        expires_at,
        valid_until: expires_at.saturating_add(LEEWAY),
        key_id: jws.key_id.as_str().into(),
        token: Zeroizing::new(token.to_owned()),
    });
    let from = not_before.map_or(issued_at, |not_before| not_before.max(issued_at)).saturating_sub(LEEWAY);
    Ok(Verified { user, from, until: expires_at })
}

/// All but the times, which are the receiver's to judge.
fn read(payload: &Map<String, Value>, trust_domain: &TrustDomain) -> Result<TxnClaims, JwtError> {
    let claims = Claims(payload);
    let required = |claim| claims.text(claim)?.ok_or(JwtError::MissingClaim { claim });
    let [sub, txn, scope] = [claim::SUBJECT, claim::TRANSACTION, claim::SCOPE].map(required);
    let (sub, txn, scope) = (sub?, txn?, scope?);
    let requester = SpiffeId::parse(required(claim::REQUESTER)?).map_err(|error| JwtError::Subject { error })?;
    let (tctx, rctx) = (object(payload, claim::TRANSACTION_CONTEXT)?, object(payload, claim::REQUESTER_CONTEXT)?);
    let audience = claims.audience()?;
    let date = |claim| claims.date(claim)?.ok_or(JwtError::MissingClaim { claim });
    let (issued_at, expires_at) = (date(claim::ISSUED_AT)?, date(claim::EXPIRES_AT)?);

    // Keys are known beforehand and the service has no name but the trust domain's; a token that names an issuer is another's.
    if claims.text("iss")?.is_some() {
        return Err(JwtError::Issuer);
    }
    // For the one trust domain and nobody else: a token for several could be shown in another one.
    if audience.iter().map(String::as_str).ne([trust_domain.as_str()]) {
        return Err(JwtError::Audience);
    }
    let earlier_requesters = requesters::read(payload, &requester)?;
    let claims = TxnClaims {
        sub: sub.to_owned(),
        txn: txn.to_owned(),
        scope: scope.to_owned(),
        requester,
        earlier_requesters,
        tctx,
        rctx,
        issued_at,
        expires_at,
    };
    check(&claims, trust_domain)?;
    Ok(claims)
}

/// What holds for the claims of each token, whoever mints and whoever receives it.
fn check(claims: &TxnClaims, trust_domain: &TrustDomain) -> Result<(), JwtError> {
    for ((claim, most), text) in MOST_TEXT.into_iter().zip([&claims.sub, &claims.txn, &claims.scope]) {
        // Visible, so that a record and a log show what there is.
        if !(1..=most).contains(&text.len()) || text.chars().any(char::is_control) {
            return Err(JwtError::Claim { claim, expected: "a text within its bounds, without control characters" });
        }
    }
    if !is_scope(&claims.scope) {
        return Err(JwtError::Claim { claim: claim::SCOPE, expected: "words with one blank between two" });
    }
    requesters::check(&claims.requester, &claims.earlier_requesters, trust_domain)?;
    let life = claims.expires_at.since(claims.issued_at);
    if life > MOST_LIFETIME {
        return Err(JwtError::LivesTooLong { left: life, most: MOST_LIFETIME });
    }
    Ok(())
}

fn object(claims: &Map<String, Value>, claim: &'static str) -> Result<Map<String, Value>, JwtError> {
    match claims.get(claim) {
        None => Ok(Map::new()),
        Some(Value::Object(members)) => Ok(members.clone()),
        Some(_) => Err(JwtError::Claim { claim, expected: "an object" }),
    }
}
