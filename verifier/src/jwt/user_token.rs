//! Tokens about users: OpenID Connect ID tokens and OAuth access tokens (RFC 9068, and those without a type of their own that most providers
//! issue) of issuers that are believed.
//!
//! Neither proves a service, and no service's token proves a user: the issuer's URL and key choose the path, and no subject is a SPIFFE ID.
//!
//! What is taken, where the field differs:
//! - Header: `alg`, `kid`, and `typ` if there is one; `x5t` and `x5t#S256` may be there, since Entra, AD FS and Duende always send them, and are not
//!   looked at. Whatever else could change what is verified or by which key, `crit`, `jwk`, `jku`, `x5c`, a `nonce`, refuses the token.
//! - `typ` is `JWT`, or absent (Dex, Okta), or `at+jwt`. Transaction tokens, logout tokens, and all other types are refused.
//! - What says so is an access token: `at+jwt`, Keycloak's claim `typ: Bearer`, or a claim `scope` or `scp`. Everything else is an ID token, also the
//!   access tokens of Dex, which look like one. An ID token's scope is unknown, and unknown is not unlimited.
//! - Of several audiences one must be ours, and `azp` must say for whom the token was made. In an ID token that must be ours, too.
//! - Tokens that live longer than a day, that are bound to a key (`cnf`: nobody here checks the proof), or that are about an OAuth client rather
//!   than a user, are refused.

mod error;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use serde_json::{Map, Value};

pub use self::error::UserTokenError;
use super::{
    JwtError, LEEWAY,
    jws::{Compact, Jws, cut},
    token::Claims,
    user_issuers::{UserIssuer, UserIssuers},
};
use crate::{
    caller::{RoleName, Roles},
    clock::Timestamp,
    user::{IssuerName, UserId},
};

/// The longest life that one may have: Dex and Auth0 give a day.
pub const MOST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest scope.
pub const MAX_SCOPE_BYTES: usize = 2048;
/// The most entries in a claim for roles, whether or not they are names of roles.
pub const MAX_ROLE_ENTRIES: usize = 512;

/// What kind of token spoke about a user.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum UserTokenKind {
    /// An ID token, or one that says nothing else.
    IdToken,
    /// An access token.
    AccessToken,
}

impl UserTokenKind {
    /// The word for it in policies and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdToken => "id-token",
            Self::AccessToken => "user-access-token",
        }
    }
}

/// A user about whom an issuer has signed a token, for one of the audiences it is believed for, and that is valid. Only [`verify`] makes one.
/// Cloning is cheap; `Debug` shows the issuer and nothing of the person.
#[derive(Clone)]
pub struct VerifiedUser(Arc<Facts>);

struct Facts {
    user: UserId,
    roles: Roles,
    scope: Option<Box<str>>,
    kind: UserTokenKind,
    key_id: Box<str>,
    token_id: Option<Box<str>>,
    issued_at: Timestamp,
    valid_from: Timestamp,
    expires_at: Timestamp,
    claims: Map<String, Value>,
}

/// Turns a user's token into a user, or says why not. Pure: the keys are those given, nothing is fetched.
///
/// Clocks may be [`LEEWAY`] apart.
///
/// # Errors
/// The first reason found. [`UserTokenError::UnknownKey`] is the one after which a fresh look at the issuer's keys can help.
pub fn verify(token: &str, issuers: &UserIssuers, now: Timestamp) -> Result<VerifiedUser, UserTokenError> {
    verify_compact(&Compact::parse_tolerating(token)?, issuers, now)
}

/// The issuer that a token names, if it is believed at all. It says where to look for the key, and nothing else.
pub(crate) fn claimed_issuer<'i>(
    compact: &Compact<'_>,
    issuers: &'i UserIssuers,
) -> Result<Option<&'i UserIssuer>, JwtError> {
    if issuers.is_empty() {
        return Ok(None);
    }
    let claims = compact.claims()?;
    Ok(claims.get("iss").and_then(Value::as_str).and_then(|url| issuers.of_url(url)))
}

pub(crate) fn verify_compact(
    compact: &Compact<'_>,
    issuers: &UserIssuers,
    now: Timestamp,
) -> Result<VerifiedUser, UserTokenError> {
    let jws = Jws::read(compact, |found| matches!(found, None | Some("JWT")) || is_access_token_type(found))?;
    let claims = Claims(&jws.payload);
    let text = |claim: &'static str| claims.text(claim)?.ok_or(JwtError::MissingClaim { claim });

    // Whose it is, by which key and which algorithm; from here on it is the issuer who speaks.
    let url = text("iss")?;
    let issuer = issuers.of_url(url).ok_or_else(|| UserTokenError::UnknownIssuer { url: cut(url) })?;
    let name = || issuer.name().clone();
    if !issuer.settings().algorithms.contains(&jws.algorithm) {
        return Err(UserTokenError::AlgorithmNotOfIssuer { issuer: name(), algorithm: jws.algorithm });
    }
    let unknown = || UserTokenError::UnknownKey { issuer: name(), key_id: cut(&jws.key_id) };
    let key = issuer.key(&jws.key_id).ok_or_else(unknown)?;
    if key.algorithm != jws.algorithm {
        let (algorithm, expected) = (jws.algorithm, key.algorithm);
        return Err(UserTokenError::AlgorithmNotOfKey { key_id: cut(&jws.key_id), algorithm, expected });
    }
    jws.verify(&key.key)?;

    let kind = kind(&claims, compact.token_type()?)?;
    let user = user(&claims, issuer.name(), text("sub")?)?;
    let audience = claims.audience()?;
    let (issued_at, expires_at) = (date(&claims, "iat")?, date(&claims, "exp")?);
    let not_before = claims.date("nbf")?;
    let token_id = claims.text("jti")?.map(Into::into);
    let scope = scope(&claims, kind)?;
    let roles = roles(&jws.payload, issuer)?;

    is_for_us(&claims, kind, &audience, &issuer.settings().audiences)?;
    is_valid_at(now, issued_at, not_before, expires_at)?;
    let valid_from = not_before.map_or(issued_at, |not_before| not_before.max(issued_at)).saturating_sub(LEEWAY);
    let key_id = jws.key_id.into();
    let claims = jws.payload;
    let facts = Facts { user, roles, scope, kind, key_id, token_id, issued_at, valid_from, expires_at, claims };
    Ok(VerifiedUser(Arc::new(facts)))
}

/// RFC 9068 §4 takes both.
fn is_access_token_type(found: Option<&str>) -> bool {
    matches!(found, Some("at+jwt" | "application/at+jwt"))
}

/// What says nothing is an ID token, which has the least to say. What says two things is neither.
fn kind(claims: &Claims<'_>, token_type: Option<&str>) -> Result<UserTokenKind, UserTokenError> {
    let has = |claim| claims.0.contains_key(claim);
    // A security event, such as a logout token (RFC 8417): about a user, and no proof of one.
    if has("events") {
        return Err(UserTokenError::OtherKind { found: "a security event".into() });
    }
    if has("cnf") {
        return Err(UserTokenError::BoundToKey);
    }
    let by_type = is_access_token_type(token_type);
    let by_claim = match claims.text("typ")? {
        Some("ID") => Some(UserTokenKind::IdToken),
        Some("Bearer") => Some(UserTokenKind::AccessToken),
        // Keycloak's others: Refresh, Offline, Logout, Action tokens.
        Some(found) => return Err(UserTokenError::OtherKind { found: cut(found) }),
        None => None,
    };
    // Hashes of what was handed out beside it: no access token has those.
    let is_id = by_claim == Some(UserTokenKind::IdToken) || has("at_hash") || has("c_hash");
    let is_access = by_type || by_claim == Some(UserTokenKind::AccessToken) || has("scope") || has("scp");
    match (is_id, is_access) {
        (true, true) => Err(UserTokenError::TwoKinds),
        (_, false) => Ok(UserTokenKind::IdToken),
        (false, true) => Ok(UserTokenKind::AccessToken),
    }
}

fn user(claims: &Claims<'_>, issuer: &IssuerName, subject: &str) -> Result<UserId, UserTokenError> {
    let user = UserId::new(issuer.clone(), subject).map_err(|reason| UserTokenError::Subject { reason })?;
    // RFC 9068 §5: a client that came with its own credentials is its own subject.
    for claim in ["client_id", "azp"] {
        if claims.text(claim)? == Some(subject) {
            return Err(UserTokenError::Client);
        }
    }
    Ok(user)
}

fn is_for_us(
    claims: &Claims<'_>,
    kind: UserTokenKind,
    audience: &[String],
    ours: &[String],
) -> Result<(), UserTokenError> {
    let is_ours = |name: &str| ours.iter().any(|own| own == name);
    if !audience.iter().any(|name| is_ours(name)) {
        return Err(JwtError::Audience.into());
    }
    let party = claims.text("azp")?;
    match (party, kind) {
        // OpenID Connect Core §3.1.3.7: an ID token is for the client that asked for it.
        (Some(party), UserTokenKind::IdToken) if !is_ours(party) => {
            Err(UserTokenError::AuthorizedParty { found: cut(party) })
        }
        (None, UserTokenKind::AccessToken) if claims.text("client_id")?.is_some() => Ok(()),
        (None, _) if audience.len() > 1 => Err(JwtError::MissingClaim { claim: "azp" }.into()),
        (None | Some(_), _) => Ok(()),
    }
}

fn is_valid_at(
    now: Timestamp,
    issued_at: Timestamp,
    not_before: Option<Timestamp>,
    expires_at: Timestamp,
) -> Result<(), UserTokenError> {
    if expires_at <= issued_at {
        return Err(JwtError::Claim { claim: "exp", expected: "later than `iat`" }.into());
    }
    let life = expires_at.since(issued_at);
    if life > MOST_LIFETIME {
        return Err(UserTokenError::Lifetime { life });
    }
    if now >= expires_at.saturating_add(LEEWAY) {
        return Err(JwtError::Expired { expires_at, now }.into());
    }
    if now.saturating_add(LEEWAY) < issued_at {
        return Err(JwtError::IssuedInFuture { issued_at, now }.into());
    }
    match not_before.filter(|not_before| now.saturating_add(LEEWAY) < *not_before) {
        Some(not_before) => Err(JwtError::NotYetValid { not_before, now }.into()),
        None => Ok(()),
    }
}

fn date(claims: &Claims<'_>, claim: &'static str) -> Result<Timestamp, JwtError> {
    claims.date(claim)?.ok_or(JwtError::MissingClaim { claim })
}

/// `scope` (RFC 9068), or `scp`, a text or a list, as Entra, Okta and Hydra have it. Words once each, in their order.
fn scope(claims: &Claims<'_>, kind: UserTokenKind) -> Result<Option<Box<str>>, UserTokenError> {
    let listed = |claim: &'static str| -> Result<Option<Vec<&str>>, JwtError> {
        let wrong = || JwtError::Claim { claim, expected: "words with one blank between two, within their bounds" };
        let words: Vec<&str> = match claims.0.get(claim) {
            None => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => Vec::new(),
            Some(Value::String(text)) => text.split(' ').collect(),
            Some(Value::Array(words)) if claim == "scp" => {
                words.iter().map(|word| word.as_str().ok_or_else(wrong)).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(wrong()),
        };
        let bytes: usize = words.iter().map(|word| word.len() + 1).sum();
        if bytes > MAX_SCOPE_BYTES + 1 || !words.iter().all(|word| is_scope_word(word)) {
            return Err(wrong());
        }
        Ok(Some(words))
    };
    let words = match (listed("scope")?, listed("scp")?) {
        (Some(one), Some(other)) if !one.iter().all(|word| other.contains(word)) || one.len() != other.len() => {
            return Err(UserTokenError::TwoScopes);
        }
        (Some(words), _) | (None, Some(words)) => words,
        (None, None) => return Ok(None),
    };
    match kind {
        UserTokenKind::AccessToken => Ok(Some(words.join(" ").into())),
        UserTokenKind::IdToken => Ok(None),
    }
}

/// RFC 6749 §3.3.
fn is_scope_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~'))
}

/// What can stand in a policy as a role; a provider's other groups, which cannot, are no roles here.
fn roles(claims: &Map<String, Value>, issuer: &UserIssuer) -> Result<Roles, UserTokenError> {
    let Some(claim) = issuer.settings().roles_claim.as_deref() else { return Ok(Roles::default()) };
    let found = match claim.strip_prefix('/') {
        None => claims.get(claim),
        Some(pointer) => {
            let mut steps = pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~"));
            let first = steps.next().and_then(|step| claims.get(&step));
            steps.fold(first, |value, step| value.and_then(Value::as_object).and_then(|object| object.get(&step)))
        }
    };
    let wrong = || UserTokenError::Roles { claim: cut(claim) };
    let names: Vec<&str> = match found {
        None => return Ok(Roles::default()),
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) if names.len() > MAX_ROLE_ENTRIES => return Err(wrong()),
        Some(Value::Array(names)) => {
            names.iter().map(|name| name.as_str().ok_or_else(wrong)).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(wrong()),
    };
    let roles: Roles = names.into_iter().filter_map(|name| RoleName::parse(name).ok()).collect();
    // To leave some out could leave out the one that a deny rule looks for.
    if roles.iter().count() > Roles::MOST { Err(wrong()) } else { Ok(roles) }
}

impl VerifiedUser {
    /// Who.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.0.user
    }

    /// Whose word it is.
    #[must_use]
    pub fn issuer(&self) -> &IssuerName {
        self.0.user.issuer()
    }

    /// The issuer's own word for the user.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.0.user.subject()
    }

    /// The roles that the issuer says they have.
    #[must_use]
    pub fn roles(&self) -> &Roles {
        &self.0.roles
    }

    /// What for, as words with one blank between, if the token says so. None is unknown, which is not unlimited.
    #[must_use]
    pub fn scope(&self) -> Option<&str> {
        self.0.scope.as_deref()
    }

    /// The kind of the token.
    #[must_use]
    pub fn kind(&self) -> UserTokenKind {
        self.0.kind
    }

    /// The key that signed it.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.0.key_id
    }

    /// `jti`, if it has one.
    #[must_use]
    pub fn token_id(&self) -> Option<&str> {
        self.0.token_id.as_deref()
    }

    /// `iat`.
    #[must_use]
    pub fn issued_at(&self) -> Timestamp {
        self.0.issued_at
    }

    /// From when on it counts, leeway included.
    #[must_use]
    pub fn valid_from(&self) -> Timestamp {
        self.0.valid_from
    }

    /// `exp`, without leeway.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.0.expires_at
    }

    /// All claims: a `nonce` to compare, a name to greet with. They mean what the issuer means by them, and most are personal.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.0.claims
    }
}

impl fmt::Debug for VerifiedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedUser")
            .field("issuer", self.issuer())
            .field("kind", &self.0.kind)
            .field("expires_at", &self.0.expires_at)
            .finish_non_exhaustive()
    }
}
