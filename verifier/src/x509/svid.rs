//! One's own X.509-SVID.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::certificate::CertificateView;
use super::chain::{MAX_CERTIFICATES, MAX_CHAIN_BYTES, PresentedChain, chain_from_pem, split_der};
use super::error::VerifyError;
use super::peer::SerialNumber;
use super::profile::{self, ProfileError};
use crate::clock::Timestamp;
use crate::spiffe::SpiffeId;

/// One's own identity: a certificate chain and the private key of its leaf.
///
/// The leaf fits the profile and the key is its key; whether anybody's bundle vouches for it is not looked at. The key is
/// wiped from memory when the last copy goes; `Debug` does not show it.
#[derive(Clone)]
pub struct X509Svid {
    id: SpiffeId,
    not_before: Timestamp,
    not_after: Timestamp,
    serial: SerialNumber,
    spki_sha256: [u8; 32],
    private_key: Arc<Zeroizing<Vec<u8>>>,
    certified_key: Arc<CertifiedKey>,
    hint: Option<Arc<str>>,
}

/// Why a chain and a key are no SVID.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// No certificate.
    #[error("there is no certificate")]
    NoCertificate,
    /// More certificates or bytes than a peer would take.
    #[error("the chain is too long: {reason}")]
    TooLong {
        /// By how much.
        reason: VerifyError,
    },
    /// The bytes are not certificates in DER.
    #[error("the bytes from offset {at} are not a certificate in DER")]
    Der {
        /// Where it goes wrong.
        at: usize,
    },
    /// A broken PEM section.
    #[error("section {section} of the PEM text is broken")]
    Pem {
        /// Counted from 0.
        section: usize,
    },
    /// The leaf does not fit the profile.
    #[error("the leaf certificate is refused: {flaw}")]
    Leaf {
        /// The rule it breaks.
        flaw: ProfileError,
    },
    /// One of the other certificates cannot be an authority above the leaf.
    #[error("certificate {number} of the chain is refused: {flaw}")]
    Authority {
        /// Its place in the chain, the leaf being 1.
        number: usize,
        /// The rule it breaks.
        flaw: ProfileError,
    },
    /// No private key, several, or one that is no PKCS#8 key of a kind that TLS signs with.
    #[error("there is no usable private key; it must be one PKCS#8 key: EC P-256, P-384 or P-521, Ed25519, or RSA")]
    PrivateKey,
    /// The private key belongs to another certificate.
    #[error("the private key is not the key of the leaf certificate")]
    OtherKey,
}

impl SvidError {
    /// A name for the reason that never changes.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::TooLong { reason } => reason.code(),
            Self::Der { .. } => "bad-der",
            Self::Pem { .. } => "bad-pem",
            Self::Leaf { flaw } | Self::Authority { flaw, .. } => flaw.code(),
            Self::PrivateKey => "bad-private-key",
            Self::OtherKey => "key-is-not-the-certificates",
        }
    }

    /// Every code that [`SvidError::code`] gives, but for those of [`VerifyError::CODES`] and [`ProfileError::CODES`].
    pub const CODES: &[&str] = &["bad-der", "bad-pem", "bad-private-key", "key-is-not-the-certificates"];
}

impl X509Svid {
    /// Takes a chain, leaf first, and the leaf's private key in PKCS#8 DER.
    ///
    /// # Errors
    /// See [`SvidError`].
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        private_key: impl Into<Zeroizing<Vec<u8>>>,
    ) -> Result<Self, SvidError> {
        let private_key = private_key.into();
        let presented = PresentedChain::leaf_first(&chain).map_err(|_| SvidError::NoCertificate)?;
        presented.check_bounds().map_err(|reason| SvidError::TooLong { reason })?;
        let leaf = CertificateView::parse(presented.leaf).map_err(|flaw| SvidError::Leaf { flaw })?;
        let id = profile::peer(&leaf).map_err(|flaw| SvidError::Leaf { flaw })?;
        let mut not_after = leaf.not_after();
        for (index, certificate) in presented.intermediates.iter().enumerate() {
            let refuse = |flaw| SvidError::Authority { number: index + 2, flaw };
            let view = CertificateView::parse(certificate).map_err(refuse)?;
            profile::anchor(&view, id.trust_domain()).map_err(refuse)?;
            not_after = not_after.min(view.not_after());
        }
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(private_key.as_slice()));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|_| SvidError::PrivateKey)?;
        if key.public_key().ok_or(SvidError::PrivateKey)?.as_ref() != leaf.spki() {
            return Err(SvidError::OtherKey);
        }
        Ok(Self {
            not_before: leaf.not_before(),
            not_after,
            serial: SerialNumber::new(leaf.serial()),
            spki_sha256: super::sha256(leaf.spki()),
            id,
            private_key: Arc::new(private_key),
            certified_key: Arc::new(CertifiedKey::new(chain, key)),
            hint: None,
        })
    }

    /// Takes a chain in DER, one certificate behind the other, and a PKCS#8 key, as the Workload API carries them.
    ///
    /// # Errors
    /// See [`SvidError`].
    pub fn from_der(chain: &[u8], private_key: impl Into<Zeroizing<Vec<u8>>>) -> Result<Self, SvidError> {
        let private_key = private_key.into();
        let certificates = split_der(chain).map_err(|at| SvidError::Der { at })?;
        Self::new(certificates.into_iter().map(|der| der.to_vec().into()).collect(), private_key)
    }

    /// Takes a chain and a private key in PEM. The two texts may be one and the same.
    ///
    /// # Errors
    /// See [`SvidError`].
    pub fn from_pem(chain: &[u8], private_key: &[u8]) -> Result<Self, SvidError> {
        let chain = chain_from_pem(chain).map_err(|section| SvidError::Pem { section })?;
        let mut key = None;
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(private_key) {
            // Wrapped before anything is looked at, so that what is not taken is wiped too.
            let (kind, der) =
                section.map(|(kind, der)| (kind, Zeroizing::new(der))).map_err(|_| SvidError::PrivateKey)?;
            match kind {
                SectionKind::PrivateKey if key.is_none() => key = Some(der),
                SectionKind::PrivateKey => return Err(SvidError::PrivateKey),
                _ => {}
            }
        }
        Self::new(chain, key.ok_or(SvidError::PrivateKey)?)
    }

    /// The same with the operator's hint what it is for, as the Workload API carries it.
    #[must_use]
    pub fn with_hint(self, hint: &str) -> Self {
        Self { hint: (!hint.is_empty()).then(|| hint.into()), ..self }
    }

    /// Who one is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// From when on the leaf is valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Until when the whole chain is valid, as far as it is here.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The leaf's serial number.
    #[must_use]
    pub fn serial(&self) -> SerialNumber {
        self.serial
    }

    /// SHA-256 of the leaf's public key (SubjectPublicKeyInfo).
    #[must_use]
    pub fn spki_sha256(&self) -> &[u8; 32] {
        &self.spki_sha256
    }

    /// What it is for, in the operator's words.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The certificates in DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified_key.cert
    }

    /// The certificates in DER, leaf first, one behind the other.
    #[must_use]
    pub fn chain_der_concatenated(&self) -> Vec<u8> {
        self.chain().iter().flat_map(|certificate| certificate.as_ref()).copied().collect()
    }

    /// The certificates in PEM, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain().iter().map(|certificate| crate::spiffe::pem("CERTIFICATE", certificate)).collect()
    }

    /// The private key in PKCS#8 DER: the one way out.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8] {
        &self.private_key
    }

    /// The private key in PEM.
    #[must_use]
    pub fn expose_secret_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(crate::spiffe::pem("PRIVATE KEY", &self.private_key))
    }

    /// Chain and key as rustls wants them.
    #[must_use]
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified_key
    }
}

/// Without the key.
impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

// A chain that we present must be one that we would take.
const _: () = assert!(MAX_CERTIFICATES >= 3 && MAX_CHAIN_BYTES >= 3 * 2048);
