//! New authorities: their keys, and the certificates of root and issuing authority (X509-09..15, X509-18..21, X509-41).
//!
//! Each has a subject of its own, named after its key, so that path building never has to choose among equals (T-44).

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use bonafide_verifier::{
    clock::Timestamp,
    spiffe::{SpiffeId, TrustDomain},
    x509::{CertificateView, profile},
};
use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{
    Authority, AuthorityKind,
    signing::{AuthorityKey, Root, SigningError},
};

/// Why an authority could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CertificateError {
    /// No key, or no signature.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// No random number.
    #[error("the system gave no random number")]
    Random,
    /// The time cannot stand in a certificate.
    #[error("{at} cannot stand in a certificate; check the clock")]
    Time { at: Timestamp },
    /// The certificate writer refused.
    #[error("the {kind} certificate could not be made: {detail}")]
    Build { kind: &'static str, detail: String },
    /// It breaks a rule of our own profile.
    #[error("the {kind} certificate breaks its profile: {detail}")]
    Profile { kind: &'static str, detail: String },
}

/// An authority that is not written yet.
#[derive(Debug)]
pub(crate) struct NewAuthority {
    pub(crate) row: Authority,
    pub(crate) key: AuthorityKey,
    /// For the key file.
    pub(crate) pkcs8: Zeroizing<Vec<u8>>,
}

/// A root that signs from now on.
pub(crate) fn new_root(
    trust_domain: &TrustDomain,
    at: Timestamp,
    life: Duration,
) -> Result<NewAuthority, CertificateError> {
    let kind = AuthorityKind::Root;
    let (key, pkcs8) = AuthorityKey::generate(kind)?;
    let key_id = key_id(&key);
    let validity = Validity::new(at, at, life);
    let mut params = params(trust_domain, kind, &key_id, validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&Key(&key)).map_err(|error| build_error(kind, &error))?;
    let certificate: Arc<[u8]> = certificate.der().as_ref().into();
    let view = CertificateView::parse(&certificate).map_err(|error| profile_error(kind, &error))?;
    profile::issued_root(&view, trust_domain).map_err(|error| profile_error(kind, &error))?;
    let mut row = row(kind, HEXLOWER.encode(&key_id).into(), Some(certificate), &key, at, validity);
    row.activated_at = Some(at);
    Ok(NewAuthority { row, key, pkcs8 })
}

/// An issuing authority below `root`, made at `at`, to be used from `active_from` on.
pub(crate) fn new_issuing(
    trust_domain: &TrustDomain,
    root: &Root,
    at: Timestamp,
    active_from: Timestamp,
    life: Duration,
) -> Result<NewAuthority, CertificateError> {
    let kind = AuthorityKind::Issuing;
    let (key, pkcs8) = AuthorityKey::generate(kind)?;
    let key_id = key_id(&key);
    let mut validity = Validity::new(at, active_from, life);
    validity.not_after = validity.not_after.min(root.not_after());
    let mut params = params(trust_domain, kind, &key_id, validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(&root.certificate().into(), Key(root.key()))
        .map_err(|error| build_error(kind, &error))?;
    let certificate = params.signed_by(&Key(&key), &issuer).map_err(|error| build_error(kind, &error))?;
    let certificate: Arc<[u8]> = certificate.der().as_ref().into();
    let view = CertificateView::parse(&certificate).map_err(|error| profile_error(kind, &error))?;
    profile::issued_intermediate(&view, trust_domain).map_err(|error| profile_error(kind, &error))?;
    let row = row(kind, HEXLOWER.encode(&key_id).into(), Some(certificate), &key, at, validity);
    Ok(NewAuthority { row: Authority { active_from, ..row }, key, pkcs8 })
}

/// A JWT authority, published at `at`, to be used from `active_from` on.
pub(crate) fn new_jwt(at: Timestamp, active_from: Timestamp, life: Duration) -> Result<NewAuthority, CertificateError> {
    bare_key(AuthorityKind::Jwt, at, active_from, life)
}

/// A token authority, published at `at`, to be used from `active_from` on.
pub(crate) fn new_token(
    at: Timestamp,
    active_from: Timestamp,
    life: Duration,
) -> Result<NewAuthority, CertificateError> {
    bare_key(AuthorityKind::Token, at, active_from, life)
}

fn bare_key(
    kind: AuthorityKind,
    at: Timestamp,
    active_from: Timestamp,
    life: Duration,
) -> Result<NewAuthority, CertificateError> {
    let (key, pkcs8) = AuthorityKey::generate(kind)?;
    let id = HEXLOWER.encode(&key_id(&key)).into();
    let row = row(kind, id, None, &key, at, Validity { not_before: at, ..Validity::new(at, active_from, life) });
    Ok(NewAuthority { row: Authority { active_from, ..row }, key, pkcs8 })
}

#[derive(Clone, Copy)]
struct Validity {
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Validity {
    /// Whole seconds, as certificates have them; begins a little earlier, for those whose clocks are behind.
    fn new(at: Timestamp, active_from: Timestamp, life: Duration) -> Self {
        let seconds = |at: Timestamp| Timestamp::from_unix_seconds(at.unix_seconds());
        let backdated = (life / 10).min(Duration::from_secs(300));
        Self { not_before: seconds(at.saturating_sub(backdated)), not_after: seconds(active_from.saturating_add(life)) }
    }
}

fn row(
    kind: AuthorityKind,
    id: Arc<str>,
    certificate: Option<Arc<[u8]>>,
    key: &AuthorityKey,
    at: Timestamp,
    validity: Validity,
) -> Authority {
    Authority {
        id,
        kind,
        certificate,
        public_key: key.public_key().clone(),
        not_before: validity.not_before,
        not_after: validity.not_after,
        published_at: at,
        active_from: at,
        activated_at: None,
        retired_at: None,
        withdraw_at: None,
        withdrawn_at: None,
    }
}

fn params(
    trust_domain: &TrustDomain,
    kind: AuthorityKind,
    key_id: &[u8],
    validity: Validity,
) -> Result<CertificateParams, CertificateError> {
    let uri = SpiffeId::of_trust_domain(trust_domain);
    let uri = uri.as_str().try_into().map_err(|error| build_error(kind, &error))?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Bonafide");
    let short_id = HEXLOWER.encode(key_id.get(..8).unwrap_or(key_id));
    name.push(DnType::CommonName, format!("Bonafide {} authority {short_id}", kind.as_str()));
    let mut params = CertificateParams::default();
    params.not_before = date(validity.not_before)?;
    params.not_after = date(validity.not_after)?;
    params.serial_number = Some(serial()?);
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.distinguished_name = name;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id.to_vec());
    Ok(params)
}

/// RFC 7093 §2, method 1: the first 160 bits of SHA-256 of the public key's bits.
fn key_id(key: &AuthorityKey) -> Vec<u8> {
    digest(&SHA256, key.point()).as_ref().iter().take(20).copied().collect()
}

/// 127 random bits: positive, and never twice.
fn serial() -> Result<SerialNumber, CertificateError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| CertificateError::Random)?;
    // The first bit is the sign; the second, always set, fixes the length.
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn date(at: Timestamp) -> Result<OffsetDateTime, CertificateError> {
    OffsetDateTime::from_unix_timestamp(at.unix_seconds())
        .ok()
        .filter(|date| (1950..=9999).contains(&date.year()))
        .ok_or(CertificateError::Time { at })
}

fn build_error(kind: AuthorityKind, error: &dyn std::fmt::Display) -> CertificateError {
    CertificateError::Build { kind: kind.as_str(), detail: error.to_string() }
}

fn profile_error(kind: AuthorityKind, error: &dyn std::fmt::Display) -> CertificateError {
    CertificateError::Profile { kind: kind.as_str(), detail: error.to_string() }
}

/// A key as rcgen wants it.
struct Key<'a>(&'a AuthorityKey);

impl PublicKeyData for Key<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Key<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
