//! Which transaction token somebody gets for the token that they have (RFC 8693 in the profile of
//! draft-ietf-oauth-transaction-tokens). The rules alone: the CA's token endpoint and the agents of edges ask here, sign and record.
//!
//! First [`Subject::verify`] turns the subject token into who it is about. Whoever decides by policy decides then, knowing its kind and its
//! issuer. Then [`exchange`] says what the new token may say:
//! - Its scope is never wider than that of the subject token. Where the subject token says none (an ID token, an access token without
//!   `scope`, a service's own statement) the scope is unknown, and unknown is not unlimited: then it is at most what the requester is
//!   registered for as an edge, and nothing without such a registration.
//! - It ends with the subject token, or earlier, and begins with no expired one: not even by the leeway of clocks.
//! - One that replaces a transaction token has the same `txn`, `sub` and `aud`, every fact of the earlier one, and the chain of those who
//!   asked. It may say less in its scope and more in its facts.
//! - A service's own statement is about that service alone.

mod error;
mod subject;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bonafide_verifier::{
    clock::Timestamp,
    jwt::{
        is_scope,
        txn_token::{MOST_LIFETIME, MOST_REQUESTERS, TxnClaims},
    },
    spiffe::{SpiffeId, TrustDomain},
};
use serde_json::{Map, Value};

pub use self::{
    error::ExchangeError,
    subject::{Believed, Requester, Subject, SubjectTokenType},
};

/// `grant_type` of an exchange (RFC 8693 §2.1).
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// `requested_token_type` and `issued_token_type` of a transaction token.
pub const TXN_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:txn_token";

/// The most words that one request may ask for.
pub const MOST_WORDS: usize = 32;
/// The member of `rctx` that says how the subject was proved, and that no requester can set.
pub const AUTHENTICATED: &str = "authn";

/// What a requester asks for.
#[derive(Clone, Debug)]
pub struct Wanted<'w> {
    /// `audience`: the trust domain.
    pub audience: &'w str,
    /// `scope`: words with one blank between.
    pub scope: &'w str,
    /// `request_details`: becomes `tctx`.
    pub details: Map<String, Value>,
    /// `request_context`: becomes `rctx`, with how the subject was proved.
    pub context: Map<String, Value>,
}

/// What a requester may get.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'g> {
    /// Words that it may have at all.
    pub words: &'g [String],
    /// Words that it is registered for as an edge: the bound where the subject token's scope is unknown.
    pub registered: &'g [String],
    /// Whose users it may act for.
    pub subjects: Subjects<'g>,
    /// The longest life of the token; never more than [`MOST_LIFETIME`].
    pub most_lifetime: Duration,
}

/// Whose users somebody may act for.
#[derive(Clone, Copy, Debug)]
pub enum Subjects<'g> {
    /// Those of the issuers with these names, and itself: what agents have by their delegation.
    OfIssuers(&'g [String]),
    /// A policy has been asked, with the subject's issuer, and has allowed it: what the CA does.
    AllowedByPolicy,
}

/// The token to sign.
///
/// `new_txn` is the ID of a transaction that begins; one that goes on keeps its own.
///
/// # Errors
/// The first rule that the request breaks.
pub fn exchange(
    requester: &SpiffeId,
    subject: &Subject,
    wanted: Wanted<'_>,
    grant: &Grant<'_>,
    trust_domain: &TrustDomain,
    new_txn: &str,
    now: Timestamp,
) -> Result<TxnClaims, ExchangeError> {
    if wanted.audience != trust_domain.as_str() {
        return Err(ExchangeError::Audience { trust_domain: trust_domain.clone() });
    }
    subject.check_not_expired(now)?;
    check_subject(requester, subject, grant.subjects)?;
    check_scope(subject, wanted.scope, grant)?;
    if wanted.context.contains_key(AUTHENTICATED) {
        return Err(ExchangeError::Fact { parameter: "request_context", member: AUTHENTICATED.to_owned() });
    }
    let issued_at = Timestamp::from_unix_seconds(now.unix_seconds());
    let life = grant.most_lifetime.min(MOST_LIFETIME);
    let expires_at = issued_at.saturating_add(life).min(subject.expires_at());
    let expires_at = Timestamp::from_unix_seconds(expires_at.unix_seconds());
    if expires_at <= issued_at {
        return Err(ExchangeError::NoLife { ends_at: expires_at });
    }
    let scope = wanted.scope.to_owned();
    let claims = match subject.earlier() {
        None => {
            let mut rctx = wanted.context;
            rctx.insert(AUTHENTICATED.to_owned(), subject.kind().word().into());
            TxnClaims {
                sub: subject.sub().to_owned(),
                txn: new_txn.to_owned(),
                scope,
                requester: requester.clone(),
                earlier_requesters: Vec::new(),
                tctx: wanted.details,
                rctx,
                issued_at,
                expires_at,
            }
        }
        Some(earlier) => {
            let mut earlier_requesters = vec![earlier.requester().clone()];
            earlier_requesters.extend_from_slice(earlier.earlier_requesters());
            if earlier_requesters.len() >= MOST_REQUESTERS {
                return Err(ExchangeError::TooManyReplacements);
            }
            TxnClaims {
                sub: earlier.sub().to_owned(),
                txn: earlier.txn().to_owned(),
                scope,
                requester: requester.clone(),
                earlier_requesters,
                tctx: more(earlier.tctx(), wanted.details, "request_details")?,
                rctx: more(earlier.rctx(), wanted.context, "request_context")?,
                issued_at,
                expires_at,
            }
        }
    };
    Ok(claims)
}

/// Facts of a transaction are never changed, only added to.
fn more(
    earlier: &Map<String, Value>,
    added: Map<String, Value>,
    parameter: &'static str,
) -> Result<Map<String, Value>, ExchangeError> {
    let mut facts = earlier.clone();
    for (member, value) in added {
        if facts.get(&member).is_some_and(|found| *found != value) {
            return Err(ExchangeError::Fact { parameter, member: member.chars().take(64).collect() });
        }
        facts.insert(member, value);
    }
    Ok(facts)
}

fn check_subject(requester: &SpiffeId, subject: &Subject, allowed: Subjects<'_>) -> Result<(), ExchangeError> {
    let Subjects::OfIssuers(issuers) = allowed else { return Ok(()) };
    match subject.issuer() {
        Some(issuer) if issuers.iter().any(|allowed| allowed == issuer.as_str()) => Ok(()),
        Some(issuer) => Err(ExchangeError::IssuerNotAllowed { issuer }),
        None if subject.sub() == requester.as_str() => Ok(()),
        None => Err(ExchangeError::OtherService),
    }
}

fn check_scope(subject: &Subject, wanted: &str, grant: &Grant<'_>) -> Result<(), ExchangeError> {
    let words: Vec<&str> = wanted.split(' ').collect();
    if !is_scope(wanted) || words.len() > MOST_WORDS {
        return Err(ExchangeError::Scope { most: MOST_WORDS });
    }
    let has = |words: &[String], word: &str| words.iter().any(|granted| granted == word);
    let cut = |word: &str| word.chars().take(64).collect::<String>();
    for (at, word) in words.iter().enumerate() {
        if words.iter().take(at).any(|earlier| earlier == word) {
            return Err(ExchangeError::WordTwice { word: cut(word) });
        }
        if !has(grant.words, word) {
            return Err(ExchangeError::NotGranted { word: cut(word) });
        }
        match subject.scope() {
            Some(scope) if !scope.split(' ').any(|known| known == *word) => {
                return Err(ExchangeError::Wider { word: cut(word) });
            }
            Some(_) => {}
            None if !has(grant.registered, word) => return Err(ExchangeError::UnknownScope { word: cut(word) }),
            None => {}
        }
    }
    Ok(())
}
