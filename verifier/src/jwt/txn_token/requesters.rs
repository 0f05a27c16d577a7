//! The chain of those who asked for a transaction token and for the ones that it replaces.

use serde_json::{Map, Value};

use super::claim;
use crate::{
    jwt::JwtError,
    spiffe::{SpiffeId, TrustDomain},
};

/// The most requesters that one transaction's tokens may have had, the latest included: so often may a token be replaced.
pub const MOST_REQUESTERS: usize = 8;

/// Services of the own trust domain ask, and nobody else, and not more of them than there may be.
pub(super) fn check(requester: &SpiffeId, earlier: &[SpiffeId], trust_domain: &TrustDomain) -> Result<(), JwtError> {
    let is_service = |id: &&SpiffeId| id.trust_domain() == trust_domain && !id.path().is_empty() && !id.is_reserved();
    if let Some(id) = std::iter::once(requester).chain(earlier).find(|id| !is_service(id)) {
        return Err(JwtError::NoClient { id: id.clone() });
    }
    if earlier.len() < MOST_REQUESTERS { Ok(()) } else { Err(wrong()) }
}

fn wrong() -> JwtError {
    JwtError::Claim { claim: claim::ACTOR, expected: "the requester with those before it nested inside" }
}

/// `act`: the requester of this token, nested in it those before, the latest first. Absent from a token that replaces none.
pub(super) fn read(payload: &Map<String, Value>, requester: &SpiffeId) -> Result<Vec<SpiffeId>, JwtError> {
    let Some(mut actor) = payload.get(claim::ACTOR) else { return Ok(Vec::new()) };
    let mut requesters = Vec::new();
    loop {
        let members = actor.as_object().filter(|_| requesters.len() < MOST_REQUESTERS).ok_or_else(wrong)?;
        if members.keys().any(|member| !matches!(member.as_str(), "sub" | claim::ACTOR)) {
            return Err(wrong());
        }
        let id = members.get(claim::SUBJECT).and_then(Value::as_str).ok_or_else(wrong)?;
        let id = SpiffeId::parse(id).map_err(|_| wrong())?;
        requesters.push(id);
        match members.get(claim::ACTOR) {
            Some(before) => actor = before,
            None => break,
        }
    }
    // One alone would say that nothing was replaced, in a second way.
    if requesters.len() < 2 || requesters.first() != Some(requester) {
        return Err(wrong());
    }
    Ok(requesters.split_off(1))
}

/// The claim for this requester and those before it.
pub(super) fn write(requester: &SpiffeId, earlier: &[SpiffeId]) -> Option<Value> {
    if earlier.is_empty() {
        return None;
    }
    let nest = |inner: Option<Value>, id: &SpiffeId| {
        let mut members = Map::new();
        members.insert(claim::SUBJECT.to_owned(), id.as_str().into());
        if let Some(inner) = inner {
            members.insert(claim::ACTOR.to_owned(), inner);
        }
        Some(Value::Object(members))
    };
    nest(earlier.iter().rev().fold(None, nest), requester)
}
