//! Why a token about a user is refused.

use std::time::Duration;

use crate::{
    jwt::{Algorithm, JwtError},
    user::{IssuerName, UserIdError},
};

/// Why a token is no user. Each reason has a code that never changes; no variant holds the token, a part of it that would let anybody use
/// it, or who the user is.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UserTokenError {
    /// What is wrong with any token.
    #[error("user's token: {0}")]
    Token(#[from] JwtError),
    /// Of nobody whose users are believed.
    #[error("user's token: no issuer with the URL `{}` is believed here; the URL must be the same byte for byte", .url.escape_default())]
    UnknownIssuer {
        /// Its `iss`, cut to 64 characters.
        url: String,
    },
    /// Signed by a key that the issuer is not known to have.
    #[error("user's token: the issuer `{issuer}` has no key `{}` that is used here", .key_id.escape_default())]
    UnknownKey {
        /// Whose.
        issuer: IssuerName,
        /// The `kid`, cut to 64 characters.
        key_id: String,
    },
    /// An algorithm that the issuer's settings do not have.
    #[error("user's token: {algorithm} is none of the algorithms of the issuer `{issuer}`")]
    AlgorithmNotOfIssuer {
        /// Whose.
        issuer: IssuerName,
        /// What the token says.
        algorithm: Algorithm,
    },
    /// Another algorithm than the one of its key.
    #[error("user's token: the key `{}` signs with {expected}, not with {algorithm}", .key_id.escape_default())]
    AlgorithmNotOfKey {
        /// The `kid`, cut to 64 characters.
        key_id: String,
        /// What the token says.
        algorithm: Algorithm,
        /// What its key is pinned to.
        expected: Algorithm,
    },
    /// Neither an ID token nor an access token.
    #[error("user's token: `{}` is neither an ID token nor an access token", .found.escape_default())]
    OtherKind {
        /// What it is, cut to 64 characters.
        found: String,
    },
    /// An ID token and an access token at once.
    #[error("user's token: it says that it is an ID token and that it is an access token")]
    TwoKinds,
    /// `scope` and `scp` differ.
    #[error("user's token: `scope` and `scp` do not say the same")]
    TwoScopes,
    /// Good only together with a proof that nobody here checks (RFC 8705, RFC 9449).
    #[error(
        "user's token: it is bound to a key (`cnf`), and such proofs are not checked here; have the issuer give bearer tokens to this client"
    )]
    BoundToKey,
    /// No user can be named so.
    #[error("user's token: {reason}")]
    Subject {
        /// The rule it breaks.
        reason: UserIdError,
    },
    /// About a client of the issuer's.
    #[error("user's token: it is about the client that asked for it, and about no user")]
    Client,
    /// An ID token for another client.
    #[error("user's token: it was made for `{}` (`azp`), which is none of the issuer's audiences here", .found.escape_default())]
    AuthorizedParty {
        /// `azp`, cut to 64 characters.
        found: String,
    },
    /// Longer than a day.
    #[error(
        "user's token: it lives {life:?}, at most {:?} are accepted; have the issuer give shorter ones",
        super::MOST_LIFETIME
    )]
    Lifetime {
        /// From `iat` to `exp`.
        life: Duration,
    },
    /// Roles that are no list of texts, or too many.
    #[error("user's token: the claim `{}` is not a list of at most {} texts with at most {} roles among them", .claim.escape_default(), super::MAX_ROLE_ENTRIES, crate::caller::Roles::MOST)]
    Roles {
        /// Its name, cut to 64 characters.
        claim: String,
    },
}

impl UserTokenError {
    /// A name for the reason that never changes, for records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Token(error) => of_token(error),
            Self::UnknownIssuer { .. } => "user-token-issuer",
            Self::UnknownKey { .. } => "user-token-key",
            Self::AlgorithmNotOfIssuer { .. } | Self::AlgorithmNotOfKey { .. } => "user-token-algorithm",
            Self::OtherKind { .. } | Self::TwoKinds => "user-token-type",
            Self::TwoScopes | Self::Roles { .. } => "user-token-claim",
            Self::BoundToKey => "user-token-bound-to-key",
            Self::Subject { .. } | Self::Client => "user-token-subject",
            Self::AuthorizedParty { .. } => "user-token-authorized-party",
            Self::Lifetime { .. } => "user-token-lifetime",
        }
    }

    /// Every code that [`UserTokenError::code`] gives.
    pub const CODES: &[&str] = &[
        "user-token-malformed",
        "user-token-type",
        "user-token-claim",
        "user-token-issuer",
        "user-token-key",
        "user-token-algorithm",
        "user-token-signature",
        "user-token-audience",
        "user-token-authorized-party",
        "user-token-subject",
        "user-token-bound-to-key",
        "user-token-expired",
        "user-token-not-yet-valid",
        "user-token-lifetime",
    ];
}

fn of_token(error: &JwtError) -> &'static str {
    match error {
        JwtError::Expired { .. } => "user-token-expired",
        JwtError::NotYetValid { .. } | JwtError::IssuedInFuture { .. } => "user-token-not-yet-valid",
        JwtError::Audience => "user-token-audience",
        JwtError::BadSignature => "user-token-signature",
        JwtError::Algorithm { .. } | JwtError::OtherAlgorithm { .. } => "user-token-algorithm",
        JwtError::Type { .. } => "user-token-type",
        JwtError::MissingClaim { .. } | JwtError::Claim { .. } | JwtError::TooManyAudiences { .. } => {
            "user-token-claim"
        }
        _ => "user-token-malformed",
    }
}
