//! Keys without an identity: how a node that has no SVID yet, or no more, proves that it holds its node key.
//!
//! Such a key comes in a self-signed certificate that names nobody. It says only: whoever sends this holds the key.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use std::sync::Arc;
use x509_parser::{
    oid_registry::OID_SIG_ECDSA_WITH_SHA256,
    prelude::{FromDer, X509Certificate},
};

use crate::{
    spiffe::{Curve, PublicKey, jwk::Kind},
    x509::{Hex, sha256},
};

/// A key that the peer proved to hold, by the signature in the handshake.
#[derive(Clone)]
pub struct BareKey {
    spki_der: Arc<[u8]>,
    spki_sha256: [u8; 32],
}

impl BareKey {
    /// The largest certificate taken, in bytes.
    pub const MAX_CERTIFICATE: usize = 2048;

    /// The public key as `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// SHA-256 of that.
    #[must_use]
    pub fn spki_sha256(&self) -> &[u8; 32] {
        &self.spki_sha256
    }

    /// Reads a key's certificate. `None` when it is none of these at all: it has a subject alternative name, or came with other
    /// certificates, and so is to be judged as an SVID.
    pub(crate) fn of_presented(
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<Result<Self, BareKeyError>> {
        if !intermediates.is_empty() || leaf.len() > Self::MAX_CERTIFICATE {
            return None;
        }
        let (rest, certificate) = X509Certificate::from_der(leaf).ok()?;
        let names = certificate.subject_alternative_name();
        (rest.is_empty() && matches!(names, Ok(None))).then(|| Self::judge(&certificate))
    }

    fn judge(certificate: &X509Certificate<'_>) -> Result<Self, BareKeyError> {
        if certificate.subject().as_raw() != certificate.issuer().as_raw() {
            return Err(BareKeyError::NotSelfSigned);
        }
        let spki = certificate.public_key();
        // Strict about how it is written: the key is known by a hash of these bytes, and shall not have two. This also refuses a
        // point that is compressed, or not on the curve.
        match PublicKey::from_spki(spki.raw) {
            Ok(key) if matches!(key.kind(), Kind::Ec { curve: Curve::P256, .. }) => {}
            _ => return Err(BareKeyError::NotP256),
        }
        if certificate.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
            return Err(BareKeyError::NotSelfSigned);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, spki.subject_public_key.as_ref())
            .verify(certificate.tbs_certificate.as_ref(), certificate.signature_value.as_ref())
            .map_err(|_| BareKeyError::NotSelfSigned)?;
        Ok(Self { spki_der: Arc::from(spki.raw), spki_sha256: sha256(spki.raw) })
    }
}

impl fmt::Debug for BareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BareKey({})", Hex(&self.spki_sha256))
    }
}

/// Why a certificate without an identity does not even prove a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BareKeyError {
    /// Signed by another key, or not as ECDSA with SHA-256.
    #[error("the certificate has no SPIFFE ID and is not signed with its own key")]
    NotSelfSigned,
    /// Another kind of key, or one whose point is compressed.
    #[error("the certificate has no SPIFFE ID and its key is not an uncompressed point on P-256")]
    NotP256,
}

/// An own key in its certificate, to be presented where keys without an identity are taken.
#[derive(Clone)]
pub struct KeyCredential {
    certified: Arc<CertifiedKey>,
}

impl KeyCredential {
    /// From a self-signed certificate without subject alternative name and the P-256 key it is for, as PKCS#8.
    ///
    /// # Errors
    /// When the certificate would not be taken, or is not for the key.
    pub fn new(certificate_der: Vec<u8>, private_key_pkcs8: &[u8]) -> Result<Self, KeyCredentialError> {
        let certificate = CertificateDer::from(certificate_der);
        BareKey::of_presented(&certificate, &[]).ok_or(KeyCredentialError::Certificate)??;
        let provider: CryptoProvider = super::provider();
        let key = PrivateKeyDer::Pkcs8(private_key_pkcs8.to_vec().into());
        let key = provider.key_provider.load_private_key(key).map_err(KeyCredentialError::Key)?;
        let certified = CertifiedKey::new(vec![certificate], key);
        certified.keys_match().map_err(KeyCredentialError::Key)?;
        Ok(Self { certified: Arc::new(certified) })
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for KeyCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyCredential(..)")
    }
}

/// Why a key cannot be presented.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyCredentialError {
    /// Not the kind of certificate that is taken.
    #[error(
        "the key's certificate must be one DER certificate of at most {} bytes without subject alternative name",
        BareKey::MAX_CERTIFICATE
    )]
    Certificate,
    /// A certificate that proves no key.
    #[error(transparent)]
    Unusable(#[from] BareKeyError),
    /// A key that is no PKCS#8, or not the certificate's.
    #[error("the private key cannot be used: {0}")]
    Key(rustls::Error),
}
