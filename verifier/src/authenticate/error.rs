//! Why a request's credentials are refused.

use std::time::Duration;

#[cfg(feature = "jwt")]
use crate::jwt::{JwtError, user_token::UserTokenError};
use crate::{api_key::ApiKeyError, caller::CallerId, clock::Timestamp, spiffe::SpiffeId};

/// Why a request has no caller although it carries credentials. For the operator's log: the caller is told the [`Refusal`] and no
/// more. No variant holds a secret, or a part of a token that would let anybody use it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// A header that carries a credential, more than once.
    #[error("the header `{name}` stands more than once in the request; send it once")]
    DuplicateHeader {
        /// Its name.
        name: String,
    },
    /// The value of `authorization` is not a scheme, one space and a credential, all of visible ASCII.
    #[error("the header `{name}` does not hold one credential: a scheme, one space and a token")]
    Header {
        /// Its name.
        name: String,
    },
    /// `Basic` and the like.
    #[error("the scheme in `authorization` is neither `Bearer` nor `ApiKey`")]
    Scheme,
    /// A kind of credential for which this server has no authenticator.
    #[error(
        "this server takes no {kind} in `authorization`; add its authenticator, or let the caller send another credential"
    )]
    KindNotTaken {
        /// Which kind.
        kind: &'static str,
    },
    /// The connection outlived the peer's certificate.
    #[error("the certificate of `{id}` is valid from {not_before} to {not_after}, and now is {now}")]
    CertificateExpired {
        /// Whose.
        id: SpiffeId,
        /// From when.
        not_before: Timestamp,
        /// Until when.
        not_after: Timestamp,
        /// The time of the request.
        now: Timestamp,
    },
    /// A bearer token of whatever kind.
    #[cfg(feature = "jwt")]
    #[error(transparent)]
    Token(#[from] JwtError),
    /// An API key.
    #[error(transparent)]
    ApiKey(#[from] ApiKeyError),
    /// One `kid` names a key record and a key of an authority: nobody can tell the kinds apart.
    #[error("`{}` names a key record and a key of an authority; make a new key record with `bonafide-ca key create --rotate`", .key_id.escape_default())]
    AmbiguousKey {
        /// The `kid`, cut to 64 characters.
        key_id: String,
    },
    /// Two credentials that name two callers.
    #[error("one credential says `{one}`, another `{other}`; a request has one caller")]
    CallersDisagree {
        /// The first.
        one: CallerId,
        /// The second.
        other: CallerId,
    },
    /// A user's token, at a server that takes them.
    #[cfg(feature = "jwt")]
    #[error(transparent)]
    UserToken(#[from] UserTokenError),
    /// Two credentials of users.
    #[error("the request is of a session and carries a user's token; a request has one user")]
    UsersDisagree,
    /// A session at a server that takes none: a mistake of the program.
    #[error(
        "the program has put a user's session before the authorization, and its authenticators take none; add `sessions()`"
    )]
    SessionNotTaken,
    /// The session is over.
    #[error("the session ended at {ended_at}, and now is {now}")]
    SessionEnded {
        /// When.
        ended_at: Timestamp,
        /// The time of the request.
        now: Timestamp,
    },
    /// Two credentials of one caller that prove as much: nobody can say whose roles count.
    #[error("two credentials of `{id}` prove equally much; send one")]
    CredentialsAlike {
        /// The caller.
        id: CallerId,
    },
    /// A proxy passed on a request without a caller's credential, or with two.
    #[error(
        "`{proxy}` passes on requests of others, and this one carries {count} credentials of a caller instead of 1"
    )]
    ViaCredentials {
        /// The proxy.
        proxy: SpiffeId,
        /// How many there are.
        count: usize,
    },
    /// This server takes each token once, and this one was shown before.
    #[error("the token with the ID `{}` was used before, and this service takes each once", .token_id.escape_default())]
    Replayed {
        /// Its `jti`, cut to 64 characters.
        token_id: String,
    },
    /// This server takes each token once, so a token needs an ID.
    #[error("the token has no `jti`, and this service takes each token once; let the caller mint one with it")]
    NoTokenId,
    /// More tokens are to be remembered than fit.
    #[error(
        "more single-use tokens are valid at once than the {most} that are remembered; shorten their lives or raise the bound"
    )]
    TooManyTokens {
        /// The bound.
        most: usize,
    },
    /// More credentials from one address than are checked.
    #[error("more credentials from one address than are checked; the next in {retry_after:?}")]
    AddressLimit {
        /// When to come back.
        retry_after: Duration,
    },
}

/// What the caller is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// 401, gRPC 16.
    Unauthenticated,
    /// 400, gRPC 3.
    Malformed,
    /// 429, gRPC 8.
    Limited {
        /// When to come back.
        retry_after: Duration,
    },
    /// 503, gRPC 14.
    Unavailable,
}

impl AuthenticateError {
    /// What the caller is told: the same for everything that is wrong with a credential.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::DuplicateHeader { .. } => Refusal::Malformed,
            Self::AddressLimit { retry_after } => Refusal::Limited { retry_after: *retry_after },
            Self::TooManyTokens { .. } => Refusal::Unavailable,
            #[cfg(feature = "jwt")]
            Self::Token(_) | Self::UserToken(_) => Refusal::Unauthenticated,
            Self::Header { .. }
            | Self::Scheme
            | Self::KindNotTaken { .. }
            | Self::CertificateExpired { .. }
            | Self::ApiKey(_)
            | Self::AmbiguousKey { .. }
            | Self::CallersDisagree { .. }
            | Self::CredentialsAlike { .. }
            | Self::UsersDisagree
            | Self::SessionNotTaken
            | Self::SessionEnded { .. }
            | Self::ViaCredentials { .. }
            | Self::Replayed { .. }
            | Self::NoTokenId => Refusal::Unauthenticated,
        }
    }

    /// A name for the reason that never changes, for logs, metrics and programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::DuplicateHeader { .. } => "duplicate-credential-header",
            Self::Header { .. } => "bad-credential-header",
            Self::Scheme => "unknown-credential-scheme",
            Self::KindNotTaken { .. } => "credential-kind-not-taken",
            Self::CertificateExpired { .. } => "certificate-expired",
            #[cfg(feature = "jwt")]
            Self::Token(error) => error.code(),
            #[cfg(feature = "jwt")]
            Self::UserToken(error) => error.code(),
            Self::UsersDisagree => "users-disagree",
            Self::SessionNotTaken => "session-not-taken",
            Self::SessionEnded { .. } => "session-ended",
            Self::ApiKey(error) => error.code(),
            Self::AmbiguousKey { .. } => "ambiguous-key",
            Self::CallersDisagree { .. } => "callers-disagree",
            Self::CredentialsAlike { .. } => "credentials-alike",
            Self::ViaCredentials { .. } => "via-without-one-credential",
            Self::Replayed { .. } => "token-replayed",
            Self::NoTokenId => "token-without-id",
            Self::TooManyTokens { .. } => "too-many-single-use-tokens",
            Self::AddressLimit { .. } => "address-limit",
        }
    }

    /// Every code that [`AuthenticateError::code`] gives beside those of [`crate::jwt::JwtError`], [`crate::jwt::user_token::UserTokenError`] and [`ApiKeyError`].
    pub const CODES: &[&str] = &[
        "duplicate-credential-header",
        "bad-credential-header",
        "unknown-credential-scheme",
        "credential-kind-not-taken",
        "certificate-expired",
        "ambiguous-key",
        "callers-disagree",
        "users-disagree",
        "session-not-taken",
        "session-ended",
        "credentials-alike",
        "via-without-one-credential",
        "token-replayed",
        "token-without-id",
        "too-many-single-use-tokens",
        "address-limit",
    ];
}

/// Why authenticators cannot be put together.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticatorsError {
    /// Nothing can prove a caller.
    #[error("no kind of credential is taken, so nobody could call; add an authenticator, such as `x509()`")]
    None,
    /// Tokens and keys are for a service that has a name.
    #[error("{kind} are taken, but this service has no audience of its own; name it with `audience`")]
    NoAudience {
        /// Which kind.
        kind: &'static str,
    },
    /// An audience that no token could name.
    #[error("an audience has {bytes} bytes; 1 to {most} are possible")]
    Audience {
        /// Its length.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// A proxy proves itself by its certificate.
    #[error("proxies are named, but X.509-SVIDs are not taken, so none could prove itself; add `x509()`")]
    ViaWithoutX509,
    /// A proxy passes on bearer credentials.
    #[error("proxies are named, but no credential is taken that they could pass on; add `jwt_svids()` or key records")]
    ViaWithoutBearer,
    /// A header that cannot carry an API key.
    #[error("`{}` cannot carry an API key; name a header of lower-case letters, digits and `-` that has no meaning of its own", .name.escape_default())]
    ApiKeyHeader {
        /// Its name, cut to 64 characters.
        name: String,
    },
    /// A header for API keys, and no key.
    #[error("a header for API keys is named, but there are no key records; add `key_records`")]
    HeaderWithoutRecords,
    /// Records for the owners of another trust domain.
    #[error("the key records are of the trust domain `{records}`, this service is of `{own}`")]
    TrustDomain {
        /// That of the records.
        records: String,
        /// That of the service.
        own: String,
    },
    /// The own token service among the issuers of users: its tokens are about services.
    #[cfg(feature = "jwt")]
    #[error(
        "the issuer of users `{name}` has the URL of the own token service, whose tokens are about services; remove one of the two"
    )]
    UserIssuerIsOwn {
        /// The issuer's name.
        name: crate::user::IssuerName,
    },
    /// An issuer or a key of access tokens that names nothing.
    #[error("the issuer of access tokens has {bytes} bytes; 1 to {most} are possible")]
    Issuer {
        /// Its length.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// One `kid` twice: kinds of tokens are told apart by it.
    #[error("`{}` names {one} and {other}; each key needs an ID of its own", .key_id.escape_default())]
    KeyIdTwice {
        /// The `kid`, cut to 64 characters.
        key_id: String,
        /// What it names.
        one: &'static str,
        /// What else it names.
        other: &'static str,
    },
}
