//! Why no token is given.

use bonafide_verifier::{
    clock::Timestamp,
    jwt::{JwtError, user_token::UserTokenError},
    spiffe::TrustDomain,
    txn_tokens::TxnTokenError,
    user::IssuerName,
};

use super::SubjectTokenType;

/// Why a token is not exchanged. The text is for the operator's log; on the wire stands [`ExchangeError::oauth_code`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// A `subject_token_type` that is not taken.
    #[error("the subject token type `{}` is not taken; {} are", .found.escape_default(), SubjectTokenType::ALL.map(SubjectTokenType::word).join(", "))]
    UnsupportedTokenType {
        /// What was said, cut to 128 characters.
        found: String,
    },
    /// A token of one type shown as another.
    #[error("the subject token is said to be an `{said}` and is an `{found}`")]
    OtherType {
        /// The type by the request.
        said: &'static str,
        /// The type by the token.
        found: &'static str,
    },
    /// A user's token that does not count.
    #[error("the user's token is refused: {0}")]
    User(#[from] UserTokenError),
    /// A service's statement that does not count.
    #[error("the requester's statement about itself is refused: {0}")]
    SelfSigned(#[source] JwtError),
    /// A transaction token that does not count.
    #[error("the token to be replaced is refused: {0}")]
    Earlier(#[from] TxnTokenError),
    /// Over, if only just.
    #[error("the subject token expired at {expires_at}, now it is {now}; nothing is made of an expired one")]
    Expired {
        /// Its `exp`.
        expires_at: Timestamp,
        /// The time asked for.
        now: Timestamp,
    },
    /// Not for this trust domain.
    #[error("the `audience` of a transaction token is the trust domain, `{trust_domain}`")]
    Audience {
        /// The own one.
        trust_domain: TrustDomain,
    },
    /// No scope, or not one of words.
    #[error("the `scope` has 1 to {most} words with one blank between two")]
    Scope {
        /// The most words.
        most: usize,
    },
    /// One word, two times.
    #[error("the scope has `{}` twice", .word.escape_default())]
    WordTwice {
        /// The word, cut to 64 characters.
        word: String,
    },
    /// A word that the requester may not have.
    #[error("the requester may not have the scope `{}`; an edge is registered with `--edge-scope`, and the token policy must allow it", .word.escape_default())]
    NotGranted {
        /// The word, cut to 64 characters.
        word: String,
    },
    /// More than the subject token says.
    #[error("the scope `{}` is not in that of the subject token; an exchange never widens it", .word.escape_default())]
    Wider {
        /// The word, cut to 64 characters.
        word: String,
    },
    /// The subject token does not say, and nobody else does.
    #[error("the subject token says no scope, and the requester is not registered as an edge for `{}`; see `bonafide-ca service update --edge-scope`", .word.escape_default())]
    UnknownScope {
        /// The word, cut to 64 characters.
        word: String,
    },
    /// A user of somebody else.
    #[error(
        "the requester may not act for users of the issuer `{issuer}`; see `bonafide-ca service update --edge-issuer`"
    )]
    IssuerNotAllowed {
        /// The issuer.
        issuer: IssuerName,
    },
    /// The transaction of another service.
    #[error(
        "the subject is another service than the requester; only the token service of the CA can go on with its transaction"
    )]
    OtherService,
    /// A fact that the requester cannot set, or that the transaction has already with another value.
    #[error("the member `{}` of `{parameter}` is not the requester's to set, or stands in the token already with another value", .member.escape_default())]
    Fact {
        /// `request_details` or `request_context`.
        parameter: &'static str,
        /// The member, cut to 64 characters.
        member: String,
    },
    /// Less than a second.
    #[error("the token would end at {ends_at}, at once; the subject token has no life left")]
    NoLife {
        /// Its end.
        ends_at: Timestamp,
    },
    /// The chain is as long as it may be.
    #[error("the transaction's token was replaced as often as it may be")]
    TooManyReplacements,
}

impl ExchangeError {
    /// A name for the reason that never changes, for records and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedTokenType { .. } => "subject-token-type",
            Self::OtherType { .. } => "subject-token-other-type",
            Self::User(error) => error.code(),
            Self::SelfSigned(_) => "self-signed-refused",
            Self::Earlier(error) => error.code(),
            Self::Expired { .. } => "subject-token-expired",
            Self::Audience { .. } => "exchange-audience",
            Self::Scope { .. } | Self::WordTwice { .. } => "scope-malformed",
            Self::NotGranted { .. } => "scope-not-granted",
            Self::Wider { .. } => "scope-wider",
            Self::UnknownScope { .. } => "scope-unknown",
            Self::IssuerNotAllowed { .. } => "issuer-not-allowed",
            Self::OtherService => "subject-other-service",
            Self::Fact { .. } => "fact-not-allowed",
            Self::NoLife { .. } => "subject-token-no-life",
            Self::TooManyReplacements => "too-many-replacements",
        }
    }

    /// The codes of [`ExchangeError::code`] that are not those of users' and transaction tokens.
    pub const CODES: &[&str] = &[
        "subject-token-type",
        "subject-token-other-type",
        "self-signed-refused",
        "subject-token-expired",
        "exchange-audience",
        "scope-malformed",
        "scope-not-granted",
        "scope-wider",
        "scope-unknown",
        "issuer-not-allowed",
        "subject-other-service",
        "fact-not-allowed",
        "subject-token-no-life",
        "too-many-replacements",
    ];

    /// The `error` of an OAuth answer (RFC 6749 §5.2, RFC 8693 §2.2.2).
    #[must_use]
    pub fn oauth_code(&self) -> &'static str {
        match self {
            // RFC 8693 §2.2.2 has `invalid_request` for bad and for unacceptable subject tokens alike.
            Self::UnsupportedTokenType { .. }
            | Self::OtherType { .. }
            | Self::User(_)
            | Self::SelfSigned(_)
            | Self::Earlier(_)
            | Self::Expired { .. }
            | Self::IssuerNotAllowed { .. }
            | Self::OtherService
            | Self::Fact { .. }
            | Self::NoLife { .. }
            | Self::TooManyReplacements => "invalid_request",
            Self::Audience { .. } => "invalid_target",
            Self::Scope { .. }
            | Self::WordTwice { .. }
            | Self::NotGranted { .. }
            | Self::Wider { .. }
            | Self::UnknownScope { .. } => "invalid_scope",
        }
    }
}
