//! The private key of this CA process's own leaf: made in memory, never stored, gone with the process.

use std::fmt;

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use zeroize::Zeroizing;

use super::public_key::PublicKey;

/// A P-256 key pair of this process. Only [`OwnKey::generate`] makes one, and only with one can a leaf for
/// `spiffe://TD/bonafide/ca` be asked for.
pub(crate) struct OwnKey {
    pub(super) public_key: PublicKey,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl OwnKey {
    /// A new key pair.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(crate) fn generate() -> Result<Self, OwnKeyError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| OwnKeyError)?;
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).map_err(|_| OwnKeyError)?;
        let spki = pair.public_key().as_der().map_err(|_| OwnKeyError)?;
        Ok(Self {
            public_key: PublicKey::parse(spki.as_ref()).map_err(|_| OwnKeyError)?,
            pkcs8: Zeroizing::new(pkcs8.as_ref().to_vec()),
        })
    }

    /// The private key, PKCS#8 DER.
    pub(crate) fn into_secret(self) -> Zeroizing<Vec<u8>> {
        self.pkcs8
    }
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnKey({})", self.public_key.hash())
    }
}

/// No key could be made: the system gives no randomness.
#[derive(Debug, thiserror::Error)]
#[error("no key pair could be made for this CA's own certificate; does the system give random numbers?")]
pub(crate) struct OwnKeyError;
