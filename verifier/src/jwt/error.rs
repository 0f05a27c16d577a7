//! Why a token is refused.

use std::fmt;
use std::time::Duration;

use super::jws::Algorithm;
use crate::clock::Timestamp;
use crate::spiffe::{JsonError, SpiffeId, SpiffeIdError, TrustDomain};

/// A part of a compact JWS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// The first.
    Header,
    /// The second.
    Claims,
    /// The third.
    Signature,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Claims => "claims",
            Self::Signature => "signature",
        })
    }
}

/// Why a token is not an identity. Each reason has a variant and a code that never changes; no variant holds the
/// token or a part of it that would let anybody use it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// More than [`super::MAX_TOKEN_BYTES`] (T-30).
    #[error("the token has {bytes} bytes, at most {} are accepted", super::MAX_TOKEN_BYTES)]
    TooLarge {
        /// Found.
        bytes: usize,
    },
    /// A byte that neither base64url nor the dots between the parts have; also a token in JSON (JWT-01).
    #[error("byte 0x{byte:02x} at offset {at} cannot stand in a token")]
    Byte {
        /// The byte.
        byte: u8,
        /// Its offset.
        at: usize,
    },
    /// Not three parts: five are an encrypted token (JWT-01, JWT-03).
    #[error("the token has {count} parts, a signed one has 3")]
    Parts {
        /// Found.
        count: usize,
    },
    /// A part with impossible length or bits left over.
    #[error("the {part} is not base64url without padding")]
    Base64 {
        /// Which.
        part: Part,
    },
    /// Not JSON, or a member twice, or nested too deeply.
    #[error("the {part} is not acceptable JSON: {reason}")]
    Json {
        /// Which.
        part: Part,
        /// What is wrong.
        reason: JsonError,
    },
    /// JSON, but no object.
    #[error("the {part} is not a JSON object")]
    NotAnObject {
        /// Which.
        part: Part,
    },
    /// A header beside `alg`, `kid` and `typ`: `crit`, `jku`, `jwk`, `x5c`, ... (JWT-02, A-11).
    #[error("the header has the member `{}`; only `alg`, `kid` and `typ` are accepted", member.escape_default())]
    HeaderMember {
        /// Its name, cut to 64 characters.
        member: String,
    },
    /// A header that must be there and is not, or is no text.
    #[error("the header's `{member}` is missing or not a string")]
    Header {
        /// Its name.
        member: &'static str,
    },
    /// None of the nine algorithms (JWT-05, JWT-18).
    #[error("the algorithm `{}` is not accepted", found.escape_default())]
    Algorithm {
        /// What it says, cut to 64 characters.
        found: String,
    },
    /// Neither `JWT` nor `JOSE` (JWT-07): a token of another kind.
    #[error("the type `{}` is not that of a JWT-SVID", found.escape_default())]
    Type {
        /// What it says, cut to 64 characters.
        found: String,
    },
    /// A claim that must be there (JWT-11, JWT-16).
    #[error("the claim `{claim}` is missing")]
    MissingClaim {
        /// Its name.
        claim: &'static str,
    },
    /// A claim of the wrong type: a wrong type is not an absent claim (T-10).
    #[error("the claim `{claim}` is not {expected}")]
    Claim {
        /// Its name.
        claim: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// `sub` is not a SPIFFE ID (JWT-09).
    #[error("the claim `sub` is not a SPIFFE ID: {error}")]
    Subject {
        /// The rule it breaks.
        error: SpiffeIdError,
    },
    /// `sub` is a trust domain and nobody in it.
    #[error("the subject `{id}` has no path, so it is nobody's identity")]
    SubjectWithoutPath {
        /// The subject.
        id: SpiffeId,
    },
    /// More than [`super::MAX_AUDIENCES`].
    #[error("the token has {count} audiences, at most {} are accepted", super::MAX_AUDIENCES)]
    TooManyAudiences {
        /// Found.
        count: usize,
    },
    /// No bundle for the trust domain of `sub` (WAPI-31).
    #[error("`{id}` is of the trust domain `{}`, for which there is no trust bundle", id.trust_domain())]
    UnknownTrustDomain {
        /// Whom the token claims to be about.
        id: SpiffeId,
    },
    /// A bundle without JWT keys: the trust domain does no JWT-SVIDs (JWT-25).
    #[error("the trust bundle of `{trust_domain}` has no key for JWT-SVIDs")]
    NoAuthorities {
        /// Whose bundle.
        trust_domain: TrustDomain,
    },
    /// No key with this `kid` in the bundle of the subject's trust domain.
    #[error("no key `{}` for JWT-SVIDs is in the trust bundle of `{trust_domain}`", key_id.escape_default())]
    UnknownKey {
        /// The `kid`, cut to 64 characters.
        key_id: String,
        /// Whose bundle.
        trust_domain: TrustDomain,
    },
    /// Nothing that signs tokens for this service has this `kid`.
    #[error("no key `{}` for tokens is known here; it may have been revoked", key_id.escape_default())]
    NoKey {
        /// The `kid`, cut to 64 characters.
        key_id: String,
    },
    /// The record of the key has ended.
    #[error("the token's key ended at {expires_at}, now it is {now}; create a new one with `bonafide-ca key create`")]
    KeyExpired {
        /// When it ended.
        expires_at: Timestamp,
        /// The time asked for.
        now: Timestamp,
    },
    /// A claim that tokens of this kind do not have: what it means could be a restriction.
    #[error("the claim `{}` is not one that a token of this kind has", claim.escape_default())]
    UnknownClaim {
        /// Its name, cut to 64 characters.
        claim: String,
    },
    /// `sub` is not whom the key, or the client, is for.
    #[error("the claim `sub` names somebody else than the one to whom the token was given")]
    OtherSubject,
    /// `iss` is not the own token service; in a transaction token, any.
    #[error("the claim `iss` does not name the own token service")]
    Issuer,
    /// A client of an access token, or who asked for a transaction token, that is nobody who could call.
    #[error("`{id}` is no service of the own trust domain")]
    NoClient {
        /// What the token says.
        id: SpiffeId,
    },
    /// More left to live than such a token may have.
    #[error("the token has {left:?} left to live, its key allows {most:?}; mint shorter ones")]
    LivesTooLong {
        /// What it has left.
        left: Duration,
        /// The bound.
        most: Duration,
    },
    /// The key with this `kid` does not sign with this algorithm.
    #[error("the key is {key}, which does not sign with {algorithm}")]
    OtherAlgorithm {
        /// What the token says.
        algorithm: Algorithm,
        /// What the key is.
        key: String,
    },
    /// The signature is not that of the key.
    #[error("the signature does not verify")]
    BadSignature,
    /// None of the audiences that the verifier goes by (JWT-12).
    #[error("the token is for other audiences than this service's")]
    Audience,
    /// The verifier named no audience of its own: nothing can be accepted (JWT-20).
    #[error("this service has named no audience of its own, so it cannot accept a JWT-SVID")]
    NoOwnAudience,
    /// `exp` has passed, leeway included (JWT-16, JWT-19).
    #[error("the token expired at {expires_at}, now it is {now}")]
    Expired {
        /// `exp`.
        expires_at: Timestamp,
        /// The time asked for.
        now: Timestamp,
    },
    /// `nbf` is to come, leeway included. Often a clock is wrong.
    #[error("the token is valid from {not_before}, now it is {now}")]
    NotYetValid {
        /// `nbf`.
        not_before: Timestamp,
        /// The time asked for.
        now: Timestamp,
    },
    /// `iat` is to come, leeway included. Often a clock is wrong.
    #[error("the token was issued at {issued_at}, which is in the future: now it is {now}")]
    IssuedInFuture {
        /// `iat`.
        issued_at: Timestamp,
        /// The time asked for.
        now: Timestamp,
    },
}

impl JwtError {
    /// A name for the reason that never changes, for the wire, for logs and for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "token-too-large",
            Self::Byte { .. } | Self::Parts { .. } => "not-a-compact-token",
            Self::Base64 { .. } => "bad-base64url",
            Self::Json { .. } | Self::NotAnObject { .. } => "bad-token-json",
            Self::HeaderMember { .. } => "unknown-token-header",
            Self::Header { .. } => "bad-token-header",
            Self::Algorithm { .. } => "algorithm-not-accepted",
            Self::Type { .. } => "wrong-token-type",
            Self::MissingClaim { .. } => "missing-claim",
            Self::Claim { .. } => "bad-claim",
            Self::Subject { .. } => "bad-spiffe-id",
            Self::SubjectWithoutPath { .. } => "spiffe-id-without-path",
            Self::TooManyAudiences { .. } => "too-many-audiences",
            Self::UnknownTrustDomain { .. } => "unknown-trust-domain",
            Self::NoAuthorities { .. } => "no-authorities",
            Self::UnknownKey { .. } | Self::NoKey { .. } => "unknown-key",
            Self::KeyExpired { .. } => "key-expired",
            Self::UnknownClaim { .. } => "unknown-claim",
            Self::OtherSubject => "other-subject",
            Self::Issuer => "other-issuer",
            Self::NoClient { .. } => "no-client",
            Self::LivesTooLong { .. } => "lives-too-long",
            Self::OtherAlgorithm { .. } => "algorithm-not-of-the-key",
            Self::BadSignature => "bad-signature",
            Self::Audience => "wrong-audience",
            Self::NoOwnAudience => "no-own-audience",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::IssuedInFuture { .. } => "issued-in-future",
        }
    }

    /// Every code that [`JwtError::code`] gives.
    pub const CODES: &[&str] = &[
        "token-too-large",
        "not-a-compact-token",
        "bad-base64url",
        "bad-token-json",
        "unknown-token-header",
        "bad-token-header",
        "algorithm-not-accepted",
        "wrong-token-type",
        "missing-claim",
        "bad-claim",
        "bad-spiffe-id",
        "spiffe-id-without-path",
        "too-many-audiences",
        "unknown-trust-domain",
        "no-authorities",
        "unknown-key",
        "key-expired",
        "unknown-claim",
        "other-subject",
        "other-issuer",
        "no-client",
        "lives-too-long",
        "algorithm-not-of-the-key",
        "bad-signature",
        "wrong-audience",
        "no-own-audience",
        "expired",
        "not-yet-valid",
        "issued-in-future",
    ];
}
