//! JWT-SVIDs: the claims, and who is behind them.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use super::error::JwtError;
use super::jws::{Algorithm, Compact, Jws, cut};
use crate::clock::Timestamp;
use crate::spiffe::{BundleSet, SpiffeId, TrustDomain};
use crate::strict_json::Members;

/// The largest token that is looked at, in bytes (T-30).
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// The most audiences in a token. One is what is recommended (JWT-13).
pub const MAX_AUDIENCES: usize = 32;
/// How far two clocks may be apart: added to `exp`, taken off `nbf` and `iat`.
pub const LEEWAY: Duration = Duration::from_secs(30);
/// The largest number in a date: beyond 2^53 - 1, JSON readers no longer agree on what it is (RFC 8259 §6).
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

/// Turns a token into an identity, or says why not (JWT-SVID §4).
///
/// The key is the one with the token's `kid` in the bundle of the trust domain of `sub`, and no other (WAPI-31). One of
/// `audience`, the names by which this service goes, must be among those of the token, byte for byte (JWT-12, A-13).
/// Clocks may be [`LEEWAY`] apart.
///
/// A token can be shown to this service again by whoever has seen it (JWT-26): use it on encrypted connections only.
///
/// # Errors
/// The first reason found; see [`JwtError`].
pub fn verify(token: &str, audience: &[&str], bundles: &BundleSet, at: Timestamp) -> Result<VerifiedJwt, JwtError> {
    UnverifiedJwt::parse(token)?.verify(audience, bundles, at)
}

/// A token that is well-formed and that nobody vouches for yet. It says which key to look for, and nothing else that
/// may be acted upon.
#[derive(Clone)]
pub struct UnverifiedJwt<'t> {
    jws: Jws<'t>,
    subject: SpiffeId,
    audience: Vec<String>,
    expires_at: Timestamp,
    not_before: Option<Timestamp>,
    issued_at: Option<Timestamp>,
}

impl<'t> UnverifiedJwt<'t> {
    /// Reads a token: bounds, form, header and the types of the registered claims, in this order.
    ///
    /// # Errors
    /// The first reason found.
    pub fn parse(token: &'t str) -> Result<Self, JwtError> {
        Self::read(&Compact::parse(token)?)
    }

    pub(crate) fn read(compact: &Compact<'t>) -> Result<Self, JwtError> {
        let jws = Jws::read(compact, |found| matches!(found, None | Some("JWT" | "JOSE")))?;
        let claims = Claims(&jws.payload);
        claims.text("iss")?;
        claims.text("jti")?;
        let subject = claims.text("sub")?.ok_or(JwtError::MissingClaim { claim: "sub" })?;
        let subject = SpiffeId::parse(subject).map_err(|error| JwtError::Subject { error })?;
        if subject.path().is_empty() {
            return Err(JwtError::SubjectWithoutPath { id: subject });
        }
        Ok(Self {
            subject,
            audience: claims.audience()?,
            expires_at: claims.date("exp")?.ok_or(JwtError::MissingClaim { claim: "exp" })?,
            not_before: claims.date("nbf")?,
            issued_at: claims.date("iat")?,
            jws,
        })
    }

    /// The trust domain in whose bundle the key must be.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        self.subject.trust_domain()
    }

    /// The `kid` of that key.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.jws.key_id
    }

    /// The algorithm that the token says it is signed with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.jws.algorithm
    }

    /// What the token says, whoever wrote it. To show to a person, or to the one who was just given the token by
    /// somebody trusted; never to decide about a caller.
    #[must_use]
    pub fn unverified_claims(&self) -> &Map<String, Value> {
        &self.jws.payload
    }

    /// `exp`, whoever wrote it: for the holder of a token, who wants to know when to ask for the next.
    #[must_use]
    pub fn unverified_expiry(&self) -> Timestamp {
        self.expires_at
    }

    /// From when on it is valid as far as `nbf` and `iat` say, with leeway.
    pub(crate) fn valid_from(&self) -> Timestamp {
        let from = self.not_before.max(self.issued_at);
        from.map_or(Timestamp::from_unix_seconds(0), |from| from.saturating_sub(LEEWAY))
    }

    /// As [`verify`].
    ///
    /// # Errors
    /// As [`verify`].
    pub fn verify(self, audience: &[&str], bundles: &BundleSet, now: Timestamp) -> Result<VerifiedJwt, JwtError> {
        let Some(bundle) = bundles.get(self.trust_domain()) else {
            return Err(JwtError::UnknownTrustDomain { id: self.subject });
        };
        let trust_domain = || self.trust_domain().clone();
        if bundle.jwt_authorities().is_empty() {
            return Err(JwtError::NoAuthorities { trust_domain: trust_domain() });
        }
        let authority = bundle
            .jwt_authority(self.key_id())
            .ok_or_else(|| JwtError::UnknownKey { key_id: cut(self.key_id()), trust_domain: trust_domain() })?;
        self.jws.verify(authority.public_key())?;
        if audience.is_empty() {
            return Err(JwtError::NoOwnAudience);
        }
        if !self.audience.iter().any(|name| audience.contains(&name.as_str())) {
            return Err(JwtError::Audience);
        }
        if now >= self.expires_at.saturating_add(LEEWAY) {
            return Err(JwtError::Expired { expires_at: self.expires_at, now });
        }
        if let Some(not_before) = self.not_before.filter(|not_before| now.saturating_add(LEEWAY) < *not_before) {
            return Err(JwtError::NotYetValid { not_before, now });
        }
        if let Some(issued_at) = self.issued_at.filter(|issued_at| now.saturating_add(LEEWAY) < *issued_at) {
            return Err(JwtError::IssuedInFuture { issued_at, now });
        }
        Ok(VerifiedJwt {
            id: self.subject,
            audience: self.audience,
            expires_at: self.expires_at,
            issued_at: self.issued_at,
            key_id: self.jws.key_id,
            claims: self.jws.payload,
        })
    }
}

/// Without the signature, which would make it a credential in a log.
impl fmt::Debug for UnverifiedJwt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnverifiedJwt")
            .field("claimed_subject", &self.subject)
            .field("key_id", &self.jws.key_id)
            .finish_non_exhaustive()
    }
}

/// A token that a key of the subject's trust domain has signed, for this service, and that is valid. Only [`verify`] makes
/// one.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedJwt {
    id: SpiffeId,
    audience: Vec<String>,
    expires_at: Timestamp,
    issued_at: Option<Timestamp>,
    key_id: String,
    claims: Map<String, Value>,
}

impl VerifiedJwt {
    /// Who the bearer is: `sub`.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Whom the token is for: `aud`.
    #[must_use]
    pub fn audience(&self) -> &[String] {
        &self.audience
    }

    /// Until when: `exp`.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Since when: `iat`.
    #[must_use]
    pub fn issued_at(&self) -> Option<Timestamp> {
        self.issued_at
    }

    /// The key that signed it.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// All claims. Those that SPIFFE does not define mean what the trust domain of [`VerifiedJwt::id`] means by them, and no
    /// other (ID-28).
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
}

/// Registered claims, read without pity: one of the wrong type is an error, not an absence (T-10).
pub(super) struct Claims<'c, M = Map<String, Value>>(pub(super) &'c M);

impl<'c, M: Members> Claims<'c, M> {
    pub(super) fn text(&self, claim: &'static str) -> Result<Option<&'c str>, JwtError> {
        match self.0.member(claim) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(JwtError::Claim { claim, expected: "a string" }),
        }
    }

    /// Seconds since 1970, whole and not before it.
    pub(super) fn date(&self, claim: &'static str) -> Result<Option<Timestamp>, JwtError> {
        let Some(value) = self.0.member(claim) else { return Ok(None) };
        value
            .as_u64()
            .filter(|seconds| *seconds <= MAX_NUMBER)
            .and_then(|seconds| i64::try_from(seconds).ok())
            .map(|seconds| Some(Timestamp::from_unix_seconds(seconds)))
            .ok_or(JwtError::Claim { claim, expected: "a whole number of seconds from 0 to 2^53 - 1" })
    }

    /// A text or a list of texts, none of them empty.
    pub(super) fn audience(&self) -> Result<Vec<String>, JwtError> {
        let wrong = || JwtError::Claim { claim: "aud", expected: "a string or a list of strings, none of them empty" };
        let named = |value: &Value| value.as_str().filter(|name| !name.is_empty()).map(str::to_owned).ok_or_else(wrong);
        match self.0.member("aud") {
            None => Err(JwtError::MissingClaim { claim: "aud" }),
            Some(Value::Array(names)) if names.is_empty() => Err(JwtError::MissingClaim { claim: "aud" }),
            Some(Value::Array(names)) if names.len() > MAX_AUDIENCES => {
                Err(JwtError::TooManyAudiences { count: names.len() })
            }
            Some(Value::Array(names)) => names.iter().map(named).collect(),
            Some(value) => Ok(vec![named(value)?]),
        }
    }
}
