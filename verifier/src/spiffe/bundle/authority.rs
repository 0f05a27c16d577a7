//! The keys in a trust bundle.

use rustls::pki_types::{CertificateDer, TrustAnchor};

use super::error::AuthorityError;
use crate::clock::Timestamp;
use crate::spiffe::jwk::Kind;
use crate::spiffe::{PublicKey, TrustDomain};
use crate::x509::CertificateView;
use crate::x509::profile::{self, ProfileError};

/// A root certificate of a trust domain.
#[derive(Clone, Debug)]
pub struct X509Authority {
    der: CertificateDer<'static>,
    sha256: [u8; 32],
    not_before: Timestamp,
    not_after: Timestamp,
    key_id: Option<Box<[u8]>>,
    path_length: Option<u32>,
    public_key: PublicKey,
}

impl X509Authority {
    /// Reads a root: it must be a signing certificate, strong, and of no other trust domain.
    pub(super) fn read(
        trust_domain: &TrustDomain,
        der: CertificateDer<'static>,
    ) -> Result<(Self, TrustAnchor<'static>), AuthorityError> {
        let unusable = |flaw| AuthorityError::Certificate { flaw };
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|_| unusable(ProfileError::Malformed { what: "the certificate" }))?
            .to_owned();
        let view = CertificateView::parse(&der).map_err(unusable)?;
        profile::anchor(&view, trust_domain).map_err(unusable)?;
        let public_key = PublicKey::from_spki(view.spki())
            .map_err(|flaw| AuthorityError::Certificate { flaw: ProfileError::PublicKey { flaw } })?;
        let authority = Self {
            sha256: crate::x509::sha256(&der),
            not_before: view.not_before(),
            not_after: view.not_after(),
            key_id: view.subject_key_id().map(Into::into),
            path_length: view.path_length(),
            public_key,
            der,
        };
        Ok((authority, anchor))
    }

    /// The certificate in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of the certificate: the name of this root.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// The first second in which it is valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last second in which it is valid.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether it is valid at this time.
    #[must_use]
    pub fn is_valid_at(&self, at: Timestamp) -> bool {
        crate::x509::is_within(self.not_before, self.not_after, at)
    }

    /// The identifier of its key.
    #[must_use]
    pub fn key_id(&self) -> Option<&[u8]> {
        self.key_id.as_deref()
    }

    /// How many intermediates may stand between it and a leaf, if it says so.
    #[must_use]
    pub fn path_length(&self) -> Option<u32> {
        self.path_length
    }

    /// Its key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}

/// A key that signs JWT-SVIDs, with the `kid` by which tokens name it (JWT-23).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JwtAuthority {
    key_id: Box<str>,
    public_key: PublicKey,
}

impl JwtAuthority {
    /// Takes a key given as SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// When the `kid` or the key cannot be used.
    pub fn new(key_id: &str, spki: &[u8]) -> Result<Self, AuthorityError> {
        let key = PublicKey::from_spki(spki).map_err(|flaw| AuthorityError::Key { flaw })?;
        Self::from_key(key_id, key)
    }

    pub(super) fn from_key(key_id: &str, public_key: PublicKey) -> Result<Self, AuthorityError> {
        if key_id.is_empty() || key_id.len() > super::MAX_KEY_ID_BYTES {
            return Err(AuthorityError::KeyIdLength { bytes: key_id.len() });
        }
        match public_key.kind() {
            Kind::Ec { .. } | Kind::Rsa { .. } => Ok(Self { key_id: key_id.into(), public_key }),
            Kind::Ed25519 { .. } => Err(AuthorityError::NotForJwt { kind: public_key.describe() }),
        }
    }

    /// The `kid`.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}
