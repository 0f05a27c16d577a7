//! Why a chain is refused.

use std::fmt;

use super::profile::ProfileError;
use crate::clock::Timestamp;
use crate::spiffe::{SpiffeId, TrustDomain};

/// Which certificate of a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Link {
    /// The peer's own.
    Leaf,
    /// One of the others that the peer sent, counted from 1.
    Intermediate(usize),
    /// The root in the trust bundle.
    Root,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf => f.write_str("leaf certificate"),
            Self::Intermediate(number) => write!(f, "intermediate certificate {number}"),
            Self::Root => f.write_str("root certificate"),
        }
    }
}

/// Why a presented chain is not an identity. Each reason has a variant and a code that never changes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// An empty chain.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// More than [`super::MAX_CERTIFICATES`] (T-06).
    #[error("the peer presented {count} certificates, at most {} are accepted", super::MAX_CERTIFICATES)]
    TooManyCertificates {
        /// Presented.
        count: usize,
    },
    /// More than [`super::MAX_CHAIN_BYTES`] (T-06).
    #[error("the presented certificates have {bytes} bytes, at most {} are accepted", super::MAX_CHAIN_BYTES)]
    ChainTooLarge {
        /// Presented.
        bytes: usize,
    },
    /// More than [`super::MAX_LOOK_ALIKES`] intermediates with one subject (T-06).
    #[error(
        "{count} of the presented certificates have the same subject, at most {} are accepted",
        super::MAX_LOOK_ALIKES
    )]
    LookAlikes {
        /// Presented.
        count: usize,
    },
    /// A certificate that does not fit the profile.
    #[error("the {link} is refused: {flaw}")]
    Certificate {
        /// Which.
        link: Link,
        /// The rule it breaks.
        flaw: ProfileError,
    },
    /// A certificate that is not valid yet. Often a clock is wrong.
    #[error("the {link} is valid from {not_before}, now it is {now}")]
    NotYetValid {
        /// Which.
        link: Link,
        /// Its begin.
        not_before: Timestamp,
        /// The time asked for.
        now: Timestamp,
    },
    /// A certificate that is no longer valid.
    #[error("the {link} expired at {not_after}, now it is {now}")]
    Expired {
        /// Which.
        link: Link,
        /// Its end.
        not_after: Timestamp,
        /// The time asked for.
        now: Timestamp,
    },
    /// No bundle for the trust domain that the certificate names (X509-31).
    #[error("`{id}` is of the trust domain `{}`, for which there is no trust bundle", id.trust_domain())]
    UnknownTrustDomain {
        /// What the peer claims to be.
        id: SpiffeId,
    },
    /// A bundle without a root: the trust domain does no X.509-SVIDs, or has withdrawn all keys (X509-44, TDB-10).
    #[error("the trust bundle of `{trust_domain}` has no root certificate")]
    NoAuthorities {
        /// Whose bundle.
        trust_domain: TrustDomain,
    },
    /// The chain leads to no root of the trust domain (ID-20).
    #[error("no root in the trust bundle of `{trust_domain}` vouches for this chain")]
    UnknownAuthority {
        /// Whose bundle.
        trust_domain: TrustDomain,
    },
    /// The chain names the right authorities, but a signature is not theirs.
    #[error("a signature in the chain does not verify: it is forged, or of another authority of the same name")]
    BadSignature,
    /// More intermediates than an authority allows below it (RFC 5280 §4.2.1.9).
    #[error("there are more intermediates than the {link} allows")]
    PathTooLong {
        /// Whose `pathLenConstraint` it is, where that is known.
        link: Link,
    },
    /// A name that an authority's name constraints do not allow.
    #[error("a name in the chain is outside of what its authority may sign for")]
    NameConstraints,
    /// Path building would cost more than a stranger is worth (T-06).
    #[error("finding a path through the chain takes too many steps")]
    PathTooExpensive,
    /// What path validation says that none of the above fits.
    #[error("the chain does not validate: {detail}")]
    Path {
        /// In the words of the library.
        detail: String,
    },
}

impl VerifyError {
    /// A name for the reason that never changes, for the wire, for logs and for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::TooManyCertificates { .. } => "too-many-certificates",
            Self::ChainTooLarge { .. } => "chain-too-large",
            Self::LookAlikes { .. } => "look-alike-certificates",
            Self::Certificate { flaw, .. } => flaw.code(),
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::Expired { .. } => "expired",
            Self::UnknownTrustDomain { .. } => "unknown-trust-domain",
            Self::NoAuthorities { .. } => "no-authorities",
            Self::UnknownAuthority { .. } => "unknown-authority",
            Self::BadSignature => "bad-signature",
            Self::PathTooLong { .. } => "path-too-long",
            Self::NameConstraints => "name-constraints",
            Self::PathTooExpensive => "path-too-expensive",
            Self::Path { .. } => "invalid-path",
        }
    }

    /// Every code that [`VerifyError::code`] gives, but for those of [`ProfileError::CODES`].
    pub const CODES: &[&str] = &[
        "no-certificate",
        "too-many-certificates",
        "chain-too-large",
        "look-alike-certificates",
        "not-yet-valid",
        "expired",
        "unknown-trust-domain",
        "no-authorities",
        "unknown-authority",
        "bad-signature",
        "path-too-long",
        "name-constraints",
        "path-too-expensive",
        "invalid-path",
    ];
}
