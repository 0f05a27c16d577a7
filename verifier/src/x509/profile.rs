//! The X.509-SVID profile (X509-SVID §2 to §4): what a certificate must look like, whoever signed it.
//!
//! Two sets of rules over one parsed view. [`peer`] and [`signing`] are what a verifier demands of a certificate that a
//! stranger presents; [`issued_leaf`], [`issued_intermediate`] and [`issued_root`] are what our own CA demands of what it is about to sign or has
//! signed: these take nothing that the first refuse, and more besides.

use super::certificate::CertificateView;
use super::san::SanFlaw;
use crate::spiffe::{PublicKeyError, SpiffeId, SpiffeIdError, TrustDomain};

/// Why one certificate does not fit the profile. Each reason has a variant, and a code that never changes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// A part that cannot be read.
    #[error("{what} is not well-formed DER")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// Bytes behind the certificate.
    #[error("{count} bytes follow the certificate")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// Not version 3.
    #[error("the certificate has version {version}, only 3 is accepted")]
    Version {
        /// As people count: 1 to 3.
        version: u32,
    },
    /// Zero, negative, longer than 20 bytes or with a needless zero (RFC 5280 §4.1.2.2).
    #[error("the serial number {} is not a positive number of at most 20 bytes", hex(serial))]
    Serial {
        /// The first bytes of it, at most 24.
        serial: Vec<u8>,
    },
    /// The algorithm inside of what is signed is not the one outside.
    #[error("the signature algorithms inside and outside of the signed part differ")]
    SignatureAlgorithmMismatch,
    /// SHA-1, MD5, or an algorithm nobody here knows.
    #[error("the signature algorithm {oid} is not accepted")]
    SignatureAlgorithm {
        /// Its object identifier.
        oid: String,
    },
    /// The subject's key is weak, malformed or of an unknown kind.
    #[error("the public key is not accepted: {flaw}")]
    PublicKey {
        /// What is wrong with it.
        flaw: PublicKeyError,
    },
    /// A date in the wrong one of the two encodings (RFC 5280 §4.1.2.5).
    #[error("a date before 2050 must be a UTCTime, one from 2050 a GeneralizedTime, with seconds and in UTC")]
    TimeEncoding,
    /// It ends before it begins.
    #[error("it ends at {not_after}, before it begins at {not_before}")]
    Validity {
        /// Begin.
        not_before: crate::clock::Timestamp,
        /// End.
        not_after: crate::clock::Timestamp,
    },
    /// More extensions than any certificate needs.
    #[error("it has {count} extensions, at most {} are accepted", super::certificate::MAX_EXTENSIONS)]
    TooManyExtensions {
        /// Found.
        count: usize,
    },
    /// One extension twice (RFC 5280 §4.2).
    #[error("the extension {oid} stands twice")]
    DuplicateExtension {
        /// Its object identifier.
        oid: String,
    },
    /// A critical extension that nobody here understands (RFC 5280 §4.2).
    #[error("the critical extension {oid} is not understood")]
    UnknownCriticalExtension {
        /// Its object identifier.
        oid: String,
    },
    /// A subject alternative name that cannot be read (T-45).
    #[error("the subject alternative names are not acceptable: {flaw}")]
    SubjectAltName {
        /// What is wrong.
        flaw: SanFlaw,
    },
    /// No URI among the subject alternative names, or none of these at all (X509-01).
    #[error("it has no URI among its subject alternative names, so it names no SPIFFE ID")]
    NoUri,
    /// Several URIs, whatever their schemes (X509-02).
    #[error("it has {count} URIs among its subject alternative names, exactly one is accepted")]
    SeveralUris {
        /// Found.
        count: usize,
    },
    /// The URI is not a SPIFFE ID (X509-34).
    #[error("the URI `{}` is not a SPIFFE ID: {error}", uri.escape_default())]
    SpiffeId {
        /// The URI, cut to 256 characters.
        uri: String,
        /// The rule it breaks.
        error: SpiffeIdError,
    },
    /// A leaf that names a trust domain and nobody in it (X509-05, X509-35).
    #[error("`{id}` has no path, so it is nobody's identity")]
    NoPath {
        /// The SPIFFE ID.
        id: SpiffeId,
    },
    /// The subject is empty and the subject alternative names are not critical (X509-07).
    #[error("the subject is empty and the subject alternative names are not marked critical")]
    NamesNotCritical,
    /// A signing certificate where a leaf is due (X509-13, X509-16, X509-32).
    #[error("it is a signing certificate (cA is true) and identifies nobody")]
    SigningCertificate,
    /// No key usage (X509-18).
    #[error("it has no key usage")]
    NoKeyUsage,
    /// Key usage that is not critical (X509-19).
    #[error("the key usage is not marked critical")]
    KeyUsageNotCritical,
    /// A leaf without `digitalSignature` (X509-22).
    #[error("the key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// A usage that this kind of certificate must not have (X509-24, X509-25, X509-33, X509-45).
    #[error("the key usage has {usage}, which this certificate must not have")]
    ForbiddenKeyUsage {
        /// `keyCertSign`, `cRLSign`, ...
        usage: &'static str,
    },
    /// Extended key usage without one of `serverAuth` and `clientAuth` (X509-28).
    #[error("the extended key usage lacks {missing}")]
    ExtendedKeyUsage {
        /// The first that is missing.
        missing: &'static str,
    },
    /// A certificate that signs others and does not say so (X509-15).
    #[error("it signs another certificate but is no signing certificate (cA is false)")]
    NotSigningCertificate,
    /// A signing certificate without `keyCertSign` (X509-20).
    #[error("the key usage lacks keyCertSign")]
    NoKeyCertSign,
    /// A signing certificate whose SPIFFE ID has a path (X509-10).
    #[error("the signing certificate's SPIFFE ID `{id}` has a path")]
    SigningPath {
        /// The SPIFFE ID, cut to 256 characters.
        id: String,
    },
    /// A signing certificate of another trust domain (X509-11, X509-36).
    #[error("the signing certificate belongs to the trust domain `{found}`, not to `{expected}`")]
    ForeignAuthority {
        /// The trust domain in its SPIFFE ID.
        found: String,
        /// The trust domain of the leaf.
        expected: TrustDomain,
    },
    /// Name constraints on URIs, which path validation does not understand for SPIFFE IDs (X509-17, T-22).
    #[error("it constrains the URIs below it, which is not supported")]
    UriNameConstraints,
    /// What our CA adds to the rules for what it signs.
    #[error("it is not what our CA issues: {rule}")]
    House {
        /// The rule, in a few words.
        rule: &'static str,
    },
}

impl ProfileError {
    /// A name for the reason that never changes, for the wire, for logs and for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed-certificate",
            Self::TrailingBytes { .. } => "trailing-bytes",
            Self::Version { .. } => "wrong-version",
            Self::Serial { .. } => "bad-serial-number",
            Self::SignatureAlgorithmMismatch => "signature-algorithm-mismatch",
            Self::SignatureAlgorithm { .. } => "weak-signature-algorithm",
            Self::PublicKey { .. } => "bad-public-key",
            Self::TimeEncoding => "bad-time",
            Self::Validity { .. } => "validity-reversed",
            Self::TooManyExtensions { .. } => "too-many-extensions",
            Self::DuplicateExtension { .. } => "duplicate-extension",
            Self::UnknownCriticalExtension { .. } => "unknown-critical-extension",
            Self::SubjectAltName { .. } => "bad-subject-alt-name",
            Self::NoUri => "no-spiffe-id",
            Self::SeveralUris { .. } => "several-uris",
            Self::SpiffeId { .. } => "bad-spiffe-id",
            Self::NoPath { .. } => "spiffe-id-without-path",
            Self::NamesNotCritical => "subject-alt-name-not-critical",
            Self::SigningCertificate => "signing-certificate-as-peer",
            Self::NoKeyUsage => "no-key-usage",
            Self::KeyUsageNotCritical => "key-usage-not-critical",
            Self::NoDigitalSignature => "no-digital-signature",
            Self::ForbiddenKeyUsage { .. } => "forbidden-key-usage",
            Self::ExtendedKeyUsage { .. } => "extended-key-usage-incomplete",
            Self::NotSigningCertificate => "not-a-signing-certificate",
            Self::NoKeyCertSign => "no-key-cert-sign",
            Self::SigningPath { .. } => "signing-certificate-with-path",
            Self::ForeignAuthority { .. } => "foreign-authority",
            Self::UriNameConstraints => "uri-name-constraints",
            Self::House { .. } => "not-as-issued",
        }
    }

    /// Every code that [`ProfileError::code`] gives.
    pub const CODES: &[&str] = &[
        "malformed-certificate",
        "trailing-bytes",
        "wrong-version",
        "bad-serial-number",
        "signature-algorithm-mismatch",
        "weak-signature-algorithm",
        "bad-public-key",
        "bad-time",
        "validity-reversed",
        "too-many-extensions",
        "duplicate-extension",
        "unknown-critical-extension",
        "bad-subject-alt-name",
        "no-spiffe-id",
        "several-uris",
        "bad-spiffe-id",
        "spiffe-id-without-path",
        "subject-alt-name-not-critical",
        "signing-certificate-as-peer",
        "no-key-usage",
        "key-usage-not-critical",
        "no-digital-signature",
        "forbidden-key-usage",
        "extended-key-usage-incomplete",
        "not-a-signing-certificate",
        "no-key-cert-sign",
        "signing-certificate-with-path",
        "foreign-authority",
        "uri-name-constraints",
        "not-as-issued",
    ];
}

/// What a verifier demands of the leaf that a peer presents; gives the SPIFFE ID that it names, which nobody vouches for
/// yet.
///
/// Key usage must be there, critical, with `digitalSignature`, although §5.2 of the specification asks a verifier for
/// less; basic constraints may be missing.
///
/// # Errors
/// The first rule that is broken.
pub fn peer(view: &CertificateView<'_>) -> Result<SpiffeId, ProfileError> {
    presented(view)?;
    if view.is_ca() {
        return Err(ProfileError::SigningCertificate);
    }
    let usage = view.extensions.key_usage.ok_or(ProfileError::NoKeyUsage)?;
    if !usage.critical {
        return Err(ProfileError::KeyUsageNotCritical);
    }
    if usage.key_cert_sign {
        return Err(ProfileError::ForbiddenKeyUsage { usage: "keyCertSign" });
    }
    if usage.crl_sign {
        return Err(ProfileError::ForbiddenKeyUsage { usage: "cRLSign" });
    }
    if !usage.digital_signature {
        return Err(ProfileError::NoDigitalSignature);
    }
    extended_key_usage(view)?;
    let names = view.extensions.names.ok_or(ProfileError::NoUri)?;
    if is_empty_name(view.subject) && !names.critical() {
        return Err(ProfileError::NamesNotCritical);
    }
    let uri = match (names.first_uri(), names.uri_count()) {
        (Some(uri), 1) => uri,
        (None, _) => return Err(ProfileError::NoUri),
        (Some(_), count) => return Err(ProfileError::SeveralUris { count }),
    };
    let id = SpiffeId::parse(uri).map_err(|error| ProfileError::SpiffeId { uri: cut(uri), error })?;
    if id.path().is_empty() { Err(ProfileError::NoPath { id }) } else { Ok(id) }
}

/// What a verifier demands of an intermediate in a peer's path.
///
/// A SPIFFE ID is not required of it, but one that is there must be that of the trust domain itself; the slash at its
/// end that an example of the specification has is overlooked.
///
/// # Errors
/// The first rule that is broken.
pub fn signing(view: &CertificateView<'_>, trust_domain: &TrustDomain) -> Result<(), ProfileError> {
    presented(view)?;
    if !view.is_ca() {
        return Err(ProfileError::NotSigningCertificate);
    }
    if !view.extensions.key_usage.ok_or(ProfileError::NoKeyUsage)?.key_cert_sign {
        return Err(ProfileError::NoKeyCertSign);
    }
    if view.extensions.extended_key_usage.is_some_and(|usage| !usage.any) {
        extended_key_usage(view)?;
    }
    authority_name(view, trust_domain)?;
    no_uri_constraints(view)
}

/// What makes a certificate usable as a root in a trust bundle. The operator chose it, so its own signature, serial number
/// and dates are not judged here; its dates are, at each verification.
pub(crate) fn anchor(view: &CertificateView<'_>, trust_domain: &TrustDomain) -> Result<(), ProfileError> {
    if !view.is_ca() {
        return Err(ProfileError::NotSigningCertificate);
    }
    if view.extensions.key_usage.is_some_and(|usage| !usage.key_cert_sign) {
        return Err(ProfileError::NoKeyCertSign);
    }
    if let Err(flaw) = &view.key {
        return Err(ProfileError::PublicKey { flaw: flaw.clone() });
    }
    known_critical(view)?;
    authority_name(view, trust_domain)?;
    no_uri_constraints(view)
}

/// What our CA demands of a leaf before it signs it, and of what came out: all that [`peer`] does, and the rest of what a
/// CA must do.
///
/// # Errors
/// The first rule that is broken.
pub fn issued_leaf(view: &CertificateView<'_>) -> Result<SpiffeId, ProfileError> {
    let id = peer(view)?;
    let usage = view.extensions.key_usage.ok_or(ProfileError::NoKeyUsage)?;
    // X509-23 allows both for RSA; we issue neither.
    house(
        !usage.key_encipherment && !usage.key_agreement && !usage.other,
        "a leaf's key usage is digitalSignature alone",
    )?;
    house(view.extensions.extended_key_usage.is_some_and(|usage| !usage.any && !usage.other), EKU_RULE)?;
    house(
        view.extensions.basic_constraints.is_some_and(|c| c.path_length.is_none()),
        "a leaf says that it is no authority",
    )?;
    house(view.extensions.name_constraints.is_none(), "a leaf has no name constraints")?;
    issued(view)?;
    house(view.authority_key_id().is_some(), "a leaf names the key that signs it")?;
    Ok(id)
}

const EKU_RULE: &str = "a leaf's extended key usage is serverAuth and clientAuth";

/// What our CA demands of an issuing authority below a root of its own.
///
/// # Errors
/// The first rule that is broken.
pub fn issued_intermediate(view: &CertificateView<'_>, trust_domain: &TrustDomain) -> Result<(), ProfileError> {
    issued_authority(view, trust_domain)?;
    house(view.path_length() == Some(0), "an issuing authority has no authority below it (pathLen 0)")?;
    house(view.issuer != view.subject, "an issuing authority is not signed by itself")?;
    house(view.authority_key_id().is_some(), "an issuing authority names the key that signs it")
}

/// What our CA demands of its root.
///
/// # Errors
/// The first rule that is broken.
pub fn issued_root(view: &CertificateView<'_>, trust_domain: &TrustDomain) -> Result<(), ProfileError> {
    issued_authority(view, trust_domain)?;
    house(view.issuer == view.subject, "a root is signed by itself")
}

fn issued_authority(view: &CertificateView<'_>, trust_domain: &TrustDomain) -> Result<(), ProfileError> {
    signing(view, trust_domain)?;
    let constraints = view.extensions.basic_constraints.ok_or(ProfileError::NotSigningCertificate)?;
    house(constraints.critical, "an authority's basic constraints are critical")?;
    let usage = view.extensions.key_usage.ok_or(ProfileError::NoKeyUsage)?;
    if !usage.critical {
        return Err(ProfileError::KeyUsageNotCritical);
    }
    for (set, usage) in [
        (usage.digital_signature, "digitalSignature"),
        (usage.key_encipherment, "keyEncipherment"),
        (usage.key_agreement, "keyAgreement"),
        (usage.other, "a usage that only leaves have"),
    ] {
        if set {
            return Err(ProfileError::ForbiddenKeyUsage { usage });
        }
    }
    house(view.extensions.names.is_some_and(|names| names.uri_count() == 1), "an authority has a SPIFFE ID")?;
    house(!is_empty_name(view.subject), "an authority has a subject")?;
    house(view.subject_key_id().is_some(), "an authority names its own key")?;
    house(view.extensions.extended_key_usage.is_none(), "an authority has no extended key usage")?;
    house(view.extensions.name_constraints.is_none(), "an authority has no name constraints")?;
    issued(view)
}

fn issued(view: &CertificateView<'_>) -> Result<(), ProfileError> {
    house(!is_empty_name(view.issuer), "the issuer has a name")?;
    house(view.extensions.unknown == 0, "there are no extensions beside those of the profile")
}

fn house(holds: bool, rule: &'static str) -> Result<(), ProfileError> {
    if holds { Ok(()) } else { Err(ProfileError::House { rule }) }
}

/// Rules for every certificate that comes from somewhere else.
fn presented(view: &CertificateView<'_>) -> Result<(), ProfileError> {
    if view.version != 3 {
        return Err(ProfileError::Version { version: view.version });
    }
    if !is_positive_serial(view.serial) {
        return Err(ProfileError::Serial { serial: view.serial.iter().take(24).copied().collect() });
    }
    if !ACCEPTED_SIGNATURES.contains(&view.signature_algorithm.as_bytes()) {
        return Err(ProfileError::SignatureAlgorithm { oid: view.signature_algorithm.to_id_string() });
    }
    if let Err(flaw) = &view.key {
        return Err(ProfileError::PublicKey { flaw: flaw.clone() });
    }
    if !view.times_well_encoded {
        return Err(ProfileError::TimeEncoding);
    }
    if view.not_before > view.not_after {
        return Err(ProfileError::Validity { not_before: view.not_before, not_after: view.not_after });
    }
    known_critical(view)
}

fn known_critical(view: &CertificateView<'_>) -> Result<(), ProfileError> {
    match &view.extensions.unknown_critical {
        Some(oid) => Err(ProfileError::UnknownCriticalExtension { oid: oid.clone() }),
        None => Ok(()),
    }
}

fn extended_key_usage(view: &CertificateView<'_>) -> Result<(), ProfileError> {
    match view.extensions.extended_key_usage {
        Some(usage) if !usage.server_auth => Err(ProfileError::ExtendedKeyUsage { missing: "serverAuth" }),
        Some(usage) if !usage.client_auth => Err(ProfileError::ExtendedKeyUsage { missing: "clientAuth" }),
        _ => Ok(()),
    }
}

/// An authority's SPIFFE ID, where it has one, is that of the trust domain.
fn authority_name(view: &CertificateView<'_>, trust_domain: &TrustDomain) -> Result<(), ProfileError> {
    let Some(names) = view.extensions.names else { return Ok(()) };
    if names.uri_count() > 1 {
        return Err(ProfileError::SeveralUris { count: names.uri_count() });
    }
    // A URI of another scheme says nothing about trust domains.
    let Some(uri) = names.first_uri().filter(|uri| has_spiffe_scheme(uri)) else { return Ok(()) };
    let (domain, path) = crate::spiffe::check_id(uri.strip_suffix('/').unwrap_or(uri))
        .map_err(|error| ProfileError::SpiffeId { uri: cut(uri), error })?;
    if domain != trust_domain.as_str() {
        return Err(ProfileError::ForeignAuthority { found: domain.into(), expected: trust_domain.clone() });
    }
    if path.is_empty() { Ok(()) } else { Err(ProfileError::SigningPath { id: cut(uri) }) }
}

fn has_spiffe_scheme(uri: &str) -> bool {
    uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
}

fn no_uri_constraints(view: &CertificateView<'_>) -> Result<(), ProfileError> {
    match view.extensions.name_constraints {
        Some(constraints) if constraints.uri => Err(ProfileError::UriNameConstraints),
        _ => Ok(()),
    }
}

fn is_positive_serial(serial: &[u8]) -> bool {
    match serial {
        [] | [0] | [0x80..=0xff, ..] | [0, 0..0x80, ..] => false,
        _ => serial.len() <= 20,
    }
}

fn is_empty_name(name: &[u8]) -> bool {
    name == [0x30, 0]
}

fn cut(uri: &str) -> String {
    uri.chars().take(256).collect()
}

fn hex(bytes: &[u8]) -> String {
    super::Hex(bytes).to_string()
}

/// The signature algorithms that path validation is set up for; with RSASSA-PSS it also looks at the parameters.
const ACCEPTED_SIGNATURES: &[&[u8]] = &[
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02], // ecdsa-with-SHA256
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03], // ecdsa-with-SHA384
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04], // ecdsa-with-SHA512
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b], // sha256WithRSAEncryption
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c], // sha384WithRSAEncryption
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d], // sha512WithRSAEncryption
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a], // RSASSA-PSS
    &[0x2b, 0x65, 0x70],                               // Ed25519
];
