//! The hash chain and its signed heads: what exactly is hashed and signed.

use std::sync::Arc;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1, EcdsaKeyPair, UnparsedPublicKey},
};
use bonafide_verifier::clock::Timestamp;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::record::sha256;

/// Where a chain ends: what `audit verify` takes to notice a cut tail.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "HeadText", into = "HeadText")]
pub(crate) struct Head {
    pub(crate) chain: Arc<str>,
    pub(crate) seq: u64,
    pub(crate) hash: [u8; 32],
}

impl Head {
    /// What stands before the first record: binds the chain to its name, trust domain and root.
    pub(crate) fn origin(chain: &str, trust_domain: &str, root_hash: &[u8; 32]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        for part in [b"bonafide audit chain".as_slice(), chain.as_bytes(), trust_domain.as_bytes(), root_hash] {
            append(&mut bytes, part);
        }
        Self { chain: chain.into(), seq: 0, hash: sha256(&bytes) }
    }

    /// The head after one more record. `scratch` is emptied and used, so that a group allocates once.
    pub(crate) fn advance(&mut self, at: Timestamp, kind: &str, body: &str, scratch: &mut Vec<u8>) {
        self.seq += 1;
        scratch.clear();
        append(scratch, &self.hash);
        append(scratch, &self.seq.to_be_bytes());
        append(scratch, &at.unix_millis().to_be_bytes());
        append(scratch, kind.as_bytes());
        append(scratch, body.as_bytes());
        self.hash = sha256(scratch);
    }

    /// The bytes that an authority signs.
    pub(crate) fn to_be_signed(&self, at: Timestamp) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        append(&mut bytes, b"bonafide audit head");
        append(&mut bytes, self.chain.as_bytes());
        append(&mut bytes, &self.seq.to_be_bytes());
        append(&mut bytes, &at.unix_millis().to_be_bytes());
        append(&mut bytes, &self.hash);
        bytes
    }

    /// Whether `signature` over this head was made by the key `point` (uncompressed, as in a P-256 SubjectPublicKeyInfo).
    pub(crate) fn signed_by(&self, at: Timestamp, point: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(&self.to_be_signed(at), signature).is_ok()
    }
}

/// A head as it is exported: `{"chain":"ca-0123456789ab","seq":42,"hash":"…"}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadText {
    chain: String,
    seq: u64,
    hash: String,
}

impl From<Head> for HeadText {
    fn from(head: Head) -> Self {
        Self { chain: head.chain.to_string(), seq: head.seq, hash: HEXLOWER.encode(&head.hash) }
    }
}

impl TryFrom<HeadText> for Head {
    type Error = &'static str;
    fn try_from(text: HeadText) -> Result<Self, Self::Error> {
        let hash = HEXLOWER.decode(text.hash.as_bytes()).ok().and_then(|hash| hash.try_into().ok());
        let hash = hash.ok_or("`hash` takes 64 hexadecimal digits in lower case")?;
        Ok(Self { chain: text.chain.into(), seq: text.seq, hash })
    }
}

/// The key that signs heads: that of the current issuing authority.
#[derive(Clone)]
pub(crate) struct HeadSigner {
    /// The issuing authority's id.
    pub(crate) authority: Arc<str>,
    /// Its key.
    pub(crate) key: Arc<EcdsaKeyPair>,
}

impl HeadSigner {
    /// Signs `head`; none if the cryptographic library fails.
    pub(crate) fn sign(&self, head: &Head, at: Timestamp) -> Option<Vec<u8>> {
        let signature = self.key.sign(&SystemRandom::new(), &head.to_be_signed(at)).ok()?;
        Some(signature.as_ref().to_vec())
    }
}

impl std::fmt::Debug for HeadSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeadSigner").field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// A length before each part, so that no two lists of parts give the same bytes.
fn append(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
    bytes.extend_from_slice(part);
}
