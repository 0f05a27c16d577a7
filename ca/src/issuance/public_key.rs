//! The public keys that this CA certifies: P-256, in exactly one encoding.
//!
//! A key arrives as SubjectPublicKeyInfo DER, from a message or from a client certificate. It is the only thing in a
//! certificate that the asker chooses, so it is read strictly: the one DER encoding of an uncompressed P-256 point
//! (RFC 5480 §2), and the point must lie on the curve.

use std::fmt;

use aws_lc_rs::{
    digest,
    signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey},
};
use data_encoding::HEXLOWER;

/// SHA-256 of a SubjectPublicKeyInfo: how the registry and the audit log name a key.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct KeyHash(pub(crate) [u8; 32]);

impl KeyHash {
    /// The hash of `spki`, whatever kind of key it is.
    pub(crate) fn of(spki: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, spki).as_ref());
        Self(hash)
    }

    /// As bytes, for a database.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({self})")
    }
}

/// A P-256 public key whose point lies on the curve. [`PublicKey::parse`] is the only way to get one.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) struct PublicKey {
    spki: [u8; SPKI_LENGTH],
    hash: KeyHash,
}

impl PublicKey {
    /// Reads SubjectPublicKeyInfo DER.
    ///
    /// # Errors
    /// Every encoding but the canonical one of a P-256 key with an uncompressed point, and every point off the curve.
    pub(crate) fn parse(spki: &[u8]) -> Result<Self, PublicKeyError> {
        let bytes: [u8; SPKI_LENGTH] = spki.try_into().map_err(|_| PublicKeyError::Length { found: spki.len() })?;
        let (header, point) = bytes.split_at(SPKI_HEADER.len());
        if header != SPKI_HEADER {
            return Err(PublicKeyError::NotP256);
        }
        if point.first() != Some(&UNCOMPRESSED) {
            return Err(PublicKeyError::PointFormat);
        }
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).map_err(|_| PublicKeyError::NotOnCurve)?;
        Ok(Self { spki: bytes, hash: KeyHash::of(&bytes) })
    }

    /// The SubjectPublicKeyInfo, DER.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The uncompressed point, the contents of the BIT STRING.
    pub(crate) fn point(&self) -> &[u8] {
        self.spki.split_at(SPKI_HEADER.len()).1
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub(crate) fn hash(&self) -> KeyHash {
        self.hash
    }

    pub(super) fn hash_ref(&self) -> &KeyHash {
        &self.hash
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.hash)
    }
}

/// Why a public key is not certified.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PublicKeyError {
    #[error("the public key is {found} bytes long; a P-256 SubjectPublicKeyInfo in DER has {SPKI_LENGTH}")]
    Length { found: usize },
    #[error("the public key is not a P-256 key in its DER form (id-ecPublicKey with the named curve prime256v1)")]
    NotP256,
    #[error("the public key's point is not uncompressed (its first byte must be 0x04)")]
    PointFormat,
    #[error("the public key's point does not lie on the curve P-256")]
    NotOnCurve,
}

/// SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING of 65 bytes } up to the bits (RFC 5480 §2).
const SPKI_HEADER: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const SPKI_LENGTH: usize = SPKI_HEADER.len() + 65;
const UNCOMPRESSED: u8 = 0x04;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{KeyPair, PublicKeyData};

    use super::*;

    fn good() -> Vec<u8> {
        KeyPair::generate().unwrap().subject_public_key_info()
    }

    #[test]
    fn a_generated_key_parses_and_prints_as_its_hash_only() {
        let spki = good();
        let key = PublicKey::parse(&spki).unwrap();
        assert_eq!(key.spki(), spki);
        assert_eq!(key.point().len(), 65);
        assert_eq!(format!("{key:?}"), format!("PublicKey({})", KeyHash::of(&spki)));
    }

    #[test]
    fn keys_that_are_not_certified() {
        let changed = |at: usize, to: u8| {
            let mut spki = good();
            spki[at] = to;
            spki
        };
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut trailing = good();
        trailing.push(0);
        let mut compressed = good();
        compressed.truncate(SPKI_HEADER.len() + 33);
        compressed[SPKI_HEADER.len()] = 0x02;
        // BER: a length in the long form, which DER forbids for less than 128 bytes.
        let mut long_form = vec![0x30, 0x81, 0x59];
        long_form.extend_from_slice(&good()[2..]);
        let mut zero = good();
        zero[SPKI_HEADER.len() + 1..].fill(0);
        let mut hybrid = good();
        hybrid[SPKI_HEADER.len()] = 0x06;
        let cases: Vec<(&str, Vec<u8>, PublicKeyError)> = vec![
            ("empty", vec![], PublicKeyError::Length { found: 0 }),
            ("P-384", p384.subject_public_key_info(), PublicKeyError::Length { found: 120 }),
            ("Ed25519", ed25519.subject_public_key_info(), PublicKeyError::Length { found: 44 }),
            ("trailing byte", trailing, PublicKeyError::Length { found: 92 }),
            ("64 KiB", vec![0x30; 65536], PublicKeyError::Length { found: 65536 }),
            ("compressed point", compressed, PublicKeyError::Length { found: 59 }),
            ("length in long form", long_form, PublicKeyError::Length { found: 92 }),
            ("another curve's OID", changed(22, 0x08), PublicKeyError::NotP256),
            ("ecDH instead of ecPublicKey", changed(12, 0x03), PublicKeyError::NotP256),
            ("unused bits", changed(25, 0x01), PublicKeyError::NotP256),
            ("hybrid point", hybrid, PublicKeyError::PointFormat),
            ("all zero", zero, PublicKeyError::NotOnCurve),
            (
                "y moved off the curve",
                {
                    let mut spki = good();
                    spki[90] ^= 1;
                    spki
                },
                PublicKeyError::NotOnCurve,
            ),
        ];
        for (flaw, spki, expected) in cases {
            assert_eq!(PublicKey::parse(&spki).map(|_| ()), Err(expected), "{flaw}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_is_the_one_encoding(spki in proptest::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(key) = PublicKey::parse(&spki) {
                prop_assert_eq!(key.spki(), &spki[..]);
            }
        }
    }
}
