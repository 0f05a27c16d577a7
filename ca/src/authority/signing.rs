//! What issuance signs with: keys that are loaded, with the certificates and times that belong to them.

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use bonafide_verifier::clock::Timestamp;
use zeroize::Zeroizing;

use super::{Authority, AuthorityError, AuthorityKind, sha256};
use crate::audit::HeadSigner;

/// Why nothing was signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the cryptographic library failed to sign")]
pub(crate) struct SigningError;

/// A private key of an authority, loaded. Shared, never copied; AWS-LC wipes its memory when the last user drops it.
#[derive(Clone)]
pub(crate) struct AuthorityKey {
    pair: Arc<EcdsaKeyPair>,
    public_key: Arc<[u8]>,
}

impl fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorityKey(..)")
    }
}

impl AuthorityKey {
    /// A new P-256 key; its PKCS#8 form is for the key file.
    pub(super) fn generate(kind: AuthorityKind) -> Result<(Self, Zeroizing<Vec<u8>>), SigningError> {
        let document = EcdsaKeyPair::generate_pkcs8(algorithm(kind), &SystemRandom::new()).map_err(|_| SigningError)?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        let key = Self::from_pkcs8(kind, &pkcs8).map_err(|_| SigningError)?;
        Ok((key, pkcs8))
    }

    /// Reads PKCS#8 DER.
    pub(super) fn from_pkcs8(kind: AuthorityKind, pkcs8: &[u8]) -> Result<Self, String> {
        let pair = EcdsaKeyPair::from_pkcs8(algorithm(kind), pkcs8).map_err(|error| error.to_string())?;
        let public_key = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).map_err(|error| error.to_string())?;
        let public_key = public_key.as_ref().into();
        Ok(Self { pair: Arc::new(pair), public_key })
    }

    /// SubjectPublicKeyInfo DER.
    pub(crate) fn public_key(&self) -> &Arc<[u8]> {
        &self.public_key
    }

    /// The uncompressed point.
    pub(crate) fn point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// ECDSA with SHA-256: DER for certificates and heads, `r || s` for JWT.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| SigningError)?;
        Ok(signature.as_ref().to_vec())
    }
}

fn algorithm(kind: AuthorityKind) -> &'static aws_lc_rs::signature::EcdsaSigningAlgorithm {
    match kind {
        AuthorityKind::Root | AuthorityKind::Issuing => &ECDSA_P256_SHA256_ASN1_SIGNING,
        AuthorityKind::Jwt | AuthorityKind::Token => &ECDSA_P256_SHA256_FIXED_SIGNING,
    }
}

/// Everything that signs at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Signing {
    pub(crate) issuing: Arc<Issuing>,
    pub(crate) jwt: Arc<JwtAuthority>,
    /// Signs no SVID.
    pub(crate) token: Arc<JwtAuthority>,
    pub(crate) root: Arc<Root>,
}

/// The root: signs issuing authorities and nothing else.
#[derive(Debug)]
pub(crate) struct Root {
    certificate: Arc<[u8]>,
    hash: [u8; 32],
    not_after: Timestamp,
    key: AuthorityKey,
}

impl Root {
    pub(crate) fn new(row: &Authority, key: AuthorityKey) -> Result<Self, AuthorityError> {
        let certificate = certificate_of(row)?;
        Ok(Self { hash: sha256(&certificate), certificate, not_after: row.not_after, key })
    }

    /// DER.
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// SHA-256 of the certificate: what invitations and `--expect-root` name.
    pub(crate) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// When it ends.
    pub(crate) fn not_after(&self) -> Timestamp {
        self.not_after
    }

    pub(super) fn key(&self) -> &AuthorityKey {
        &self.key
    }
}

/// The authority that signs X.509-SVIDs and the heads of the audit log.
#[derive(Debug)]
pub(crate) struct Issuing {
    id: Arc<str>,
    chain: Vec<Vec<u8>>,
    not_after: Timestamp,
    key: AuthorityKey,
}

impl Issuing {
    pub(crate) fn new(row: &Authority, key: AuthorityKey, root: &Root) -> Result<Self, AuthorityError> {
        let certificate = certificate_of(row)?;
        Ok(Self {
            id: row.id.clone(),
            chain: vec![certificate.to_vec(), root.certificate().to_vec()],
            not_after: row.not_after,
            key,
        })
    }

    /// For records: hex of the subject key identifier.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// DER.
    pub(crate) fn certificate(&self) -> &[u8] {
        self.chain.first().map_or(&[], Vec::as_slice)
    }

    /// DER of this certificate, then of the root.
    pub(crate) fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// Nothing it signs ends later.
    pub(crate) fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// ECDSA P-256 with SHA-256, DER.
    pub(crate) fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, SigningError> {
        self.key.sign(to_be_signed)
    }

    /// Signs heads with its key.
    pub(crate) fn head_signer(&self) -> HeadSigner {
        HeadSigner { authority: self.id.clone(), key: self.key.pair.clone() }
    }
}

/// An authority that signs tokens with ES256: JWT-SVIDs, or those of the token service.
#[derive(Debug)]
pub(crate) struct JwtAuthority {
    id: Arc<str>,
    not_after: Timestamp,
    life: Duration,
    key: AuthorityKey,
}

impl JwtAuthority {
    pub(super) fn new(row: &Authority, key: AuthorityKey) -> Self {
        Self { id: row.id.clone(), not_after: row.not_after, life: row.life(), key }
    }

    /// The `kid`.
    pub(crate) fn kid(&self) -> &str {
        &self.id
    }

    /// Nothing it signs expires later.
    pub(crate) fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// No token lives longer: it is withdrawn that long after its last use.
    pub(crate) fn longest_token(&self) -> Duration {
        self.life / 3
    }

    /// ES256: the 64 bytes `r || s`.
    pub(crate) fn sign(&self, signing_input: &[u8]) -> Result<Vec<u8>, SigningError> {
        self.key.sign(signing_input)
    }
}

fn certificate_of(row: &Authority) -> Result<Arc<[u8]>, AuthorityError> {
    row.certificate.clone().ok_or_else(|| AuthorityError::Missing {
        kind: row.kind.as_str(),
        problem: format!("`{}` has no certificate", row.id),
    })
}
