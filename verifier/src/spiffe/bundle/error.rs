//! Why a bundle, or one key of it, is not taken.

use crate::spiffe::PublicKeyError;
use crate::strict_json::JsonError;
use crate::x509::profile::ProfileError;

/// Why a trust bundle cannot be read as a whole.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// More bytes than [`super::MAX_BUNDLE_BYTES`].
    #[error("the trust bundle has {bytes} bytes, at most {} are accepted", super::MAX_BUNDLE_BYTES)]
    TooLarge {
        /// Found.
        bytes: usize,
    },
    /// Not JSON, or a member twice, or nested too deeply.
    #[error("the trust bundle is not acceptable JSON: {reason}")]
    Json {
        /// What is wrong.
        reason: JsonError,
    },
    /// Not an object with an array `keys` (TDB-08).
    #[error("the trust bundle is not an object with an array `keys`")]
    NoKeys,
    /// More keys than [`super::MAX_BUNDLE_KEYS`].
    #[error("the trust bundle has more than {limit} keys")]
    TooManyKeys {
        /// The bound.
        limit: usize,
    },
    /// A private key in what everybody may read. Whoever published it must replace that key.
    #[error(
        "entry {entry} of the trust bundle holds a private key (`{}`): refused as a whole; that key is no longer \
         secret, replace it", member.escape_default()
    )]
    PrivateKey {
        /// Counted from 0.
        entry: usize,
        /// The member, or the label of the PEM section.
        member: String,
    },
    /// `spiffe_sequence` that is no integer from 0 to 2^64 - 1 (TDB-06).
    #[error("`spiffe_sequence` is not an integer from 0 to {}", u64::MAX)]
    Sequence,
    /// `spiffe_refresh_hint` that is no integer from 0 to 2^32 - 1 (TDB-07).
    #[error("`spiffe_refresh_hint` is not an integer number of seconds from 0 to {}", u32::MAX)]
    RefreshHint,
    /// PEM without a certificate.
    #[error("there is no certificate in the PEM text")]
    NoCertificates,
    /// A broken PEM section.
    #[error("section {section} of the PEM text is broken")]
    Pem {
        /// Counted from 0.
        section: usize,
    },
    /// Bytes that are not certificates in DER.
    #[error("the bytes from offset {at} are not a certificate in DER")]
    Der {
        /// Where it goes wrong.
        at: usize,
    },
    /// An authority given by the program itself that cannot be used.
    #[error("authority {entry} cannot be used: {reason}")]
    Authority {
        /// Counted from 0, for each kind on its own.
        entry: usize,
        /// What is wrong.
        reason: AuthorityError,
    },
}

impl BundleError {
    /// A name for the reason that never changes.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "bundle-too-large",
            Self::Json { .. } => "bundle-not-json",
            Self::NoKeys => "bundle-without-keys",
            Self::TooManyKeys { .. } => "bundle-with-too-many-keys",
            Self::PrivateKey { .. } => "bundle-with-private-key",
            Self::Sequence => "bad-spiffe-sequence",
            Self::RefreshHint => "bad-spiffe-refresh-hint",
            Self::NoCertificates => "no-certificates",
            Self::Pem { .. } => "bad-pem",
            Self::Der { .. } => "bad-der",
            Self::Authority { reason, .. } => reason.code(),
        }
    }

    /// Every code that [`BundleError::code`] gives, but for those of [`AuthorityError::CODES`].
    pub const CODES: &[&str] = &[
        "bundle-too-large",
        "bundle-not-json",
        "bundle-without-keys",
        "bundle-with-too-many-keys",
        "bundle-with-private-key",
        "bad-spiffe-sequence",
        "bad-spiffe-refresh-hint",
        "no-certificates",
        "bad-pem",
        "bad-der",
    ];
}

/// A key that stood in a document and is not used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Skipped {
    /// Its place, counted from 0.
    pub entry: usize,
    /// Why it is not used.
    pub reason: AuthorityError,
}

/// Why one key cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// Not a JSON object.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// Neither `x509-svid` nor `jwt-svid`, in exactly these letters (TDB-09, TDB-12).
    #[error("its `use` is `{}`", found.escape_default())]
    Use {
        /// What it is, cut to 64 characters; empty when there is none.
        found: String,
    },
    /// An X.509 key without a certificate (X509-42).
    #[error("it has no certificate in `x5c`")]
    NoCertificate,
    /// `x5c` is not base64 in the standard alphabet, with padding (X509-39).
    #[error("its `x5c` is not base64 (the standard alphabet, with padding)")]
    CertificateEncoding,
    /// Something else than a certificate in a PEM file.
    #[error("it is not a certificate")]
    NotACertificate,
    /// The certificate cannot be a root of this trust domain.
    #[error("its certificate cannot be used: {flaw}")]
    Certificate {
        /// Why.
        flaw: ProfileError,
    },
    /// The key parameters are not those of the certificate (RFC 7517 §4.7).
    #[error("its key parameters are not those of the certificate in `x5c`")]
    OtherKey,
    /// A JWT key without `kid` (JWT-23).
    #[error("it has no `kid`")]
    NoKeyId,
    /// A `kid` that is empty or longer than [`super::MAX_KEY_ID_BYTES`].
    #[error("its `kid` has {bytes} bytes, 1 to {} are accepted", super::MAX_KEY_ID_BYTES)]
    KeyIdLength {
        /// Found.
        bytes: usize,
    },
    /// Several JWT keys with one `kid`: none of them is used, since nobody can say which is meant.
    #[error("another key has the same `kid` `{}`", key_id.escape_default())]
    DuplicateKeyId {
        /// The `kid`.
        key_id: String,
    },
    /// The key is weak, malformed or of an unknown kind.
    #[error("its key cannot be used: {flaw}")]
    Key {
        /// Why.
        flaw: PublicKeyError,
    },
    /// A key that no algorithm of JWT-SVID takes: Ed25519.
    #[error("a JWT-SVID cannot be signed with a key of the type {kind}")]
    NotForJwt {
        /// What it is.
        kind: String,
    },
}

impl AuthorityError {
    /// A name for the reason that never changes.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAnObject => "key-not-an-object",
            Self::Use { .. } => "key-of-unknown-use",
            Self::NoCertificate => "key-without-certificate",
            Self::CertificateEncoding => "key-with-bad-certificate-encoding",
            Self::NotACertificate => "not-a-certificate",
            Self::Certificate { flaw } => flaw.code(),
            Self::OtherKey => "key-is-not-the-certificates",
            Self::NoKeyId => "key-without-id",
            Self::KeyIdLength { .. } => "key-id-length",
            Self::DuplicateKeyId { .. } => "duplicate-key-id",
            Self::Key { .. } => "bad-public-key",
            Self::NotForJwt { .. } => "key-not-for-jwt",
        }
    }

    /// Every code that [`AuthorityError::code`] gives, but for those of [`ProfileError::CODES`].
    pub const CODES: &[&str] = &[
        "key-not-an-object",
        "key-of-unknown-use",
        "key-without-certificate",
        "key-with-bad-certificate-encoding",
        "not-a-certificate",
        "key-is-not-the-certificates",
        "key-without-id",
        "key-id-length",
        "duplicate-key-id",
        "bad-public-key",
        "key-not-for-jwt",
    ];
}
