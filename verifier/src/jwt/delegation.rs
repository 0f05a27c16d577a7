//! Delegations: statements of the token service by which the key of a node's agent may sign transaction tokens, for the edge services of
//! that node and within what the registry grants them.
//!
//! A delegation is carried beside the keys of the token service and never in a bundle: it says whose tokens count, and proves nobody.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    JwtError,
    jws::{Algorithm, Compact, ES256_SIGNATURE_TEXT, Jws, MAX_DEPTH, SigningInput, cut},
    token::Claims,
};
use crate::{
    clock::Timestamp,
    jwt::LEEWAY,
    spiffe::{Curve, JwtAuthority, PublicKey, SpiffeId, TrustDomain, jwk::Kind},
};

/// The one `typ`.
pub const TYPE: &str = "bonafide-delegation+jwt";
/// The longest time that one may last.
pub const MOST_LIFETIME: Duration = Duration::from_secs(3600);
/// The longest life that it may allow a token.
pub const MOST_TOKEN_LIFETIME: Duration = Duration::from_secs(300);
/// The most edges of one, and the most scopes and issuers of an edge.
pub const MOST_EDGES: usize = 64;

/// What an agent's key may sign. Only [`Delegation::verify`] makes one out of a statement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Delegation {
    /// The node's name.
    pub node: String,
    /// The agent's key, P-256; its `kid` is in every token that it signs.
    pub key: JwtAuthority,
    /// For whom.
    pub edges: Vec<DelegatedEdge>,
    /// No token lives longer.
    pub token_lifetime: Duration,
    /// `iat`, in whole seconds.
    pub issued_at: Timestamp,
    /// `exp`, in whole seconds. No token that it allows ends later.
    pub expires_at: Timestamp,
}

/// An edge service, and what its tokens may say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DelegatedEdge {
    /// The service: `req_wl`.
    pub id: SpiffeId,
    /// The words of its scopes.
    pub scopes: Vec<String>,
    /// The issuers of its users; none: it begins only transactions of its own.
    pub issuers: Vec<String>,
}

/// What a transaction token says, as far as a delegation limits it.
#[derive(Clone, Copy, Debug)]
pub struct Minted<'t> {
    /// `req_wl`.
    pub requester: &'t SpiffeId,
    /// `sub`.
    pub sub: &'t str,
    /// `scope`.
    pub scope: &'t str,
    /// `iat`.
    pub issued_at: Timestamp,
    /// `exp`.
    pub expires_at: Timestamp,
}

/// How a token goes beyond the delegation of the key that signed it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BeyondDelegation {
    /// The requester is no edge of the node.
    #[error("the key of node `{node}` may not sign for `{requester}`")]
    Requester {
        /// The node.
        node: String,
        /// `req_wl`.
        requester: SpiffeId,
    },
    /// A word that the edge has not been given.
    #[error("the scope `{}` is not delegated to `{requester}`", .scope.escape_default())]
    Scope {
        /// `req_wl`.
        requester: SpiffeId,
        /// The word, cut to 64 characters.
        scope: String,
    },
    /// A user of an issuer that the edge has not been given, or another service.
    #[error("`{requester}` may not speak for this subject: it is neither itself nor a user of one of its issuers")]
    Subject {
        /// `req_wl`.
        requester: SpiffeId,
    },
    /// It lives longer than it may.
    #[error("the token lives {life:?}, the delegation allows {most:?}")]
    Lifetime {
        /// `exp` minus `iat`.
        life: Duration,
        /// The most.
        most: Duration,
    },
    /// Issued before or valid after the time of the delegation.
    #[error("the token counts from {issued_at} to {expires_at}, the delegation of its key from {from} to {until}")]
    Time {
        /// `iat` of the token.
        issued_at: Timestamp,
        /// `exp` of the token.
        expires_at: Timestamp,
        /// `iat` of the delegation.
        from: Timestamp,
        /// `exp` of the delegation.
        until: Timestamp,
    },
}

mod claim {
    pub(super) const AUDIENCE: &str = "aud";
    pub(super) const NODE: &str = "node";
    pub(super) const KEY_ID: &str = "kid";
    pub(super) const KEY: &str = "jwk";
    pub(super) const EDGES: &str = "edges";
    pub(super) const TOKEN_LIFETIME: &str = "max_lifetime";
    pub(super) const ISSUED_AT: &str = "iat";
    pub(super) const EXPIRES_AT: &str = "exp";
}

impl Delegation {
    /// What the token service signs with ES256, under its `kid`. It is read as a verifier reads it before it is given out.
    ///
    /// # Errors
    /// The claim that no verifier would take, or [`JwtError::TooLarge`]: more edges than fit into one statement.
    pub fn signing_input(&self, trust_domain: &TrustDomain, key_id: &str) -> Result<SigningInput, JwtError> {
        let edges: Vec<Value> = self
            .edges
            .iter()
            .map(|edge| json!({ "id": edge.id.as_str(), "scope": edge.scopes.join(" "), "issuers": edge.issuers }))
            .collect();
        let mut claims = Map::new();
        let mut set = |claim: &str, value: Value| claims.insert(claim.to_owned(), value);
        set(claim::AUDIENCE, trust_domain.as_str().into());
        set(claim::NODE, self.node.as_str().into());
        set(claim::KEY_ID, self.key.key_id().into());
        set(claim::KEY, Value::Object(self.key.public_key().to_jwk()));
        set(claim::EDGES, edges.into());
        set(claim::TOKEN_LIFETIME, self.token_lifetime.as_secs().into());
        set(claim::ISSUED_AT, self.issued_at.unix_seconds().into());
        set(claim::EXPIRES_AT, self.expires_at.unix_seconds().into());
        if read(&claims, trust_domain)? != *self {
            return Err(JwtError::Claim { claim: claim::EDGES, expected: "what was meant, in whole seconds" });
        }
        let input = SigningInput::typed(TYPE, Algorithm::Es256, key_id, &claims);
        let bytes = input.as_bytes().len() + ES256_SIGNATURE_TEXT;
        if bytes > super::MAX_TOKEN_BYTES { Err(JwtError::TooLarge { bytes }) } else { Ok(input) }
    }

    /// Reads a statement that one of the token service's keys has signed. Its times are left to [`Delegation::permits`]: one that has
    /// ended allows nothing new.
    ///
    /// # Errors
    /// The first reason found.
    pub fn verify(statement: &str, keys: &[JwtAuthority], trust_domain: &TrustDomain) -> Result<Self, JwtError> {
        let compact = Compact::parse(statement)?;
        let jws = Jws::read(&compact, |found| found == Some(TYPE))?;
        let key = keys.iter().find(|key| key.key_id() == jws.key_id);
        jws.verify(key.ok_or_else(|| JwtError::NoKey { key_id: cut(&jws.key_id) })?.public_key())?;
        read(&jws.payload, trust_domain)
    }

    /// Whether a token that its key has signed stays within it.
    ///
    /// # Errors
    /// The first way in which it does not.
    pub fn permits(&self, token: &Minted<'_>) -> Result<(), BeyondDelegation> {
        let requester = || token.requester.clone();
        let Some(edge) = self.edges.iter().find(|edge| edge.id == *token.requester) else {
            return Err(BeyondDelegation::Requester { node: self.node.clone(), requester: requester() });
        };
        let beyond = token.scope.split(' ').find(|word| !edge.scopes.iter().any(|scope| scope == word));
        if let Some(word) = beyond {
            return Err(BeyondDelegation::Scope { requester: requester(), scope: cut(word) });
        }
        let is_user = || {
            token.sub.split_once(':').is_some_and(|(issuer, subject)| {
                !subject.is_empty() && edge.issuers.iter().any(|allowed| allowed == issuer)
            })
        };
        if token.sub != token.requester.as_str() && !is_user() {
            return Err(BeyondDelegation::Subject { requester: requester() });
        }
        let life = token.expires_at.since(token.issued_at);
        if life > self.token_lifetime {
            return Err(BeyondDelegation::Lifetime { life, most: self.token_lifetime });
        }
        // The start is by two clocks; the end is the same number in both, so that no clock can stretch it.
        if token.issued_at.saturating_add(LEEWAY) < self.issued_at || token.expires_at > self.expires_at {
            return Err(BeyondDelegation::Time {
                issued_at: token.issued_at,
                expires_at: token.expires_at,
                from: self.issued_at,
                until: self.expires_at,
            });
        }
        Ok(())
    }
}

/// All of it is as it should be, or none is taken: what a later version adds, an earlier one would not obey.
fn read(payload: &Map<String, Value>, trust_domain: &TrustDomain) -> Result<Delegation, JwtError> {
    const KNOWN: [&str; 8] = [
        claim::AUDIENCE,
        claim::NODE,
        claim::KEY_ID,
        claim::KEY,
        claim::EDGES,
        claim::TOKEN_LIFETIME,
        claim::ISSUED_AT,
        claim::EXPIRES_AT,
    ];
    if let Some(unknown) = payload.keys().find(|claim| !KNOWN.contains(&claim.as_str())) {
        return Err(JwtError::UnknownClaim { claim: cut(unknown) });
    }
    let claims = Claims(payload);
    let text = |claim: &'static str| claims.text(claim)?.ok_or(JwtError::MissingClaim { claim });
    let date = |claim: &'static str| claims.date(claim)?.ok_or(JwtError::MissingClaim { claim });
    if claims.audience()?.iter().map(String::as_str).ne([trust_domain.as_str()]) {
        return Err(JwtError::Audience);
    }
    let node = text(claim::NODE)?;
    if node.is_empty() || node.len() > 63 {
        return Err(JwtError::Claim { claim: claim::NODE, expected: "the name of a node" });
    }
    let (issued_at, expires_at) = (date(claim::ISSUED_AT)?, date(claim::EXPIRES_AT)?);
    let life = expires_at.since(issued_at);
    if life > MOST_LIFETIME {
        return Err(JwtError::LivesTooLong { left: life, most: MOST_LIFETIME });
    }
    let token_lifetime = payload.get(claim::TOKEN_LIFETIME).and_then(Value::as_u64).map(Duration::from_secs);
    let token_lifetime = token_lifetime
        .filter(|life| !life.is_zero() && *life <= MOST_TOKEN_LIFETIME)
        .ok_or(JwtError::Claim { claim: claim::TOKEN_LIFETIME, expected: "a whole number of seconds from 1 to 300" })?;
    Ok(Delegation {
        node: node.to_owned(),
        key: key(payload, text(claim::KEY_ID)?)?,
        edges: edges(payload, trust_domain)?,
        token_lifetime,
        issued_at,
        expires_at,
    })
}

/// For fuzzing: claims as they stand in a statement whose signature was good.
pub(crate) fn read_json(claims: &[u8], trust_domain: &TrustDomain) -> Result<Delegation, JwtError> {
    let part = super::Part::Claims;
    match crate::strict_json::parse(claims, MAX_DEPTH) {
        Ok(Value::Object(claims)) => read(&claims, trust_domain),
        Ok(_) => Err(JwtError::NotAnObject { part }),
        Err(reason) => Err(JwtError::Json { part, reason }),
    }
}

fn key(payload: &Map<String, Value>, key_id: &str) -> Result<JwtAuthority, JwtError> {
    let wrong = || JwtError::Claim { claim: claim::KEY, expected: "a public key on P-256 as JWK" };
    let jwk = payload.get(claim::KEY).and_then(Value::as_object).ok_or_else(wrong)?;
    let key = PublicKey::from_jwk(jwk).map_err(|_| wrong())?;
    // No member more: a private one would be published to every node.
    if !matches!(key.kind(), Kind::Ec { curve: Curve::P256, .. }) || jwk.len() != key.to_jwk().len() {
        return Err(wrong());
    }
    JwtAuthority::new(key_id, key.spki())
        .map_err(|_| JwtError::Claim { claim: claim::KEY_ID, expected: "the ID of a key" })
}

fn edges(payload: &Map<String, Value>, trust_domain: &TrustDomain) -> Result<Vec<DelegatedEdge>, JwtError> {
    let wrong = || JwtError::Claim {
        claim: claim::EDGES,
        expected: "1 to 64 services of the trust domain, each once, with scopes and issuers",
    };
    let listed = payload.get(claim::EDGES).and_then(Value::as_array).ok_or_else(wrong)?;
    if listed.is_empty() || listed.len() > MOST_EDGES {
        return Err(wrong());
    }
    let mut edges: Vec<DelegatedEdge> = Vec::with_capacity(listed.len());
    for edge in listed {
        let edge = edge.as_object().filter(|edge| edge.len() == 3).ok_or_else(wrong)?;
        let text = |member: &str| edge.get(member).and_then(Value::as_str).ok_or_else(wrong);
        let id = SpiffeId::parse(text("id")?).map_err(|error| JwtError::Subject { error })?;
        if id.trust_domain() != trust_domain || id.path().is_empty() || id.is_reserved() {
            return Err(JwtError::NoClient { id });
        }
        let scopes: Vec<String> = text("scope")?.split(' ').map(str::to_owned).collect();
        let issuers = edge.get("issuers").and_then(Value::as_array).ok_or_else(wrong)?;
        let issuers: Vec<String> =
            issuers.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong)).collect::<Result<_, _>>()?;
        let is_word = |word: &String| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
        // A name with a colon, or that of our own scheme, would make one issuer's users another's, or services.
        let is_name = |name: &String| is_word(name) && !name.contains(':') && name != "spiffe";
        let bounded = scopes.len() <= MOST_EDGES && issuers.len() <= MOST_EDGES;
        let twice = edges.iter().any(|earlier| earlier.id == id);
        if !bounded || twice || !scopes.iter().all(is_word) || !issuers.iter().all(is_name) {
            return Err(wrong());
        }
        edges.push(DelegatedEdge { id, scopes, issuers });
    }
    Ok(edges)
}

#[cfg(test)]
mod tests;
