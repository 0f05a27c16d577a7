//! The node's key: made here, never leaves this machine, and is on disk before anything is signed with it.

use std::fmt;

use zeroize::Zeroizing;

/// A P-256 key pair. Wiped on drop, neither printed nor cloned.
pub(crate) struct NodeKey {
    pkcs8: Zeroizing<Vec<u8>>,
    spki: Vec<u8>,
}

/// Why bytes are no node key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeKeyError {
    #[error("no P-256 key in PKCS#8: {0}")]
    Parse(rcgen::Error),
    #[error("a key could not be made: {0}")]
    Generate(rcgen::Error),
    #[error("a certificate for the node key could not be made: {0}")]
    Certify(rcgen::Error),
}

impl NodeKey {
    /// Makes a new key.
    pub(crate) fn generate() -> Result<Self, NodeKeyError> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(NodeKeyError::Generate)?;
        Ok(Self::from_pair(&pair))
    }

    /// Takes a key from its PKCS#8 bytes.
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, NodeKeyError> {
        Ok(Self::from_pair(&pair(pkcs8)?))
    }

    fn from_pair(pair: &rcgen::KeyPair) -> Self {
        use rcgen::PublicKeyData;
        Self { pkcs8: Zeroizing::new(pair.serialize_der()), spki: pair.subject_public_key_info() }
    }

    /// The public key, SubjectPublicKeyInfo DER.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the public key: by it the CA and this agent's state name the key.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.spki)
    }

    /// The private key, PKCS#8 DER.
    pub(crate) fn expose_secret(&self) -> &[u8] {
        &self.pkcs8
    }

    /// A self-signed certificate of this key: it proves the possession of the key and nothing else.
    pub(crate) fn self_signed(&self) -> Result<Vec<u8>, NodeKeyError> {
        let pair = pair(&self.pkcs8)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "bonafide node key");
        // The times prove nothing and are not looked at: the key is what counts, and clocks may differ.
        params.not_before = time::macros::datetime!(2020-01-01 0:00 UTC);
        params.not_after = time::macros::datetime!(9999-12-31 23:59:59 UTC);
        let certificate = params.self_signed(&pair).map_err(NodeKeyError::Certify)?;
        Ok(certificate.der().to_vec())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", data_encoding::HEXLOWER.encode(&self.fingerprint()))
    }
}

fn pair(pkcs8: &[u8]) -> Result<rcgen::KeyPair, NodeKeyError> {
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(pkcs8);
    rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).map_err(NodeKeyError::Parse)
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_bytes_and_is_not_printed() {
        let key = NodeKey::generate().unwrap();
        let again = NodeKey::from_pkcs8(key.expose_secret()).unwrap();
        assert_eq!(again.spki(), key.spki());
        let printed = format!("{key:?}");
        let secret = data_encoding::HEXLOWER.encode(&key.expose_secret()[40..]);
        assert!(printed.starts_with("NodeKey(") && !printed.contains(&secret[..16]), "{printed}");
        let certificate = key.self_signed().unwrap();
        assert!(certificate.windows(key.spki().len()).any(|window| window == key.spki()));
        assert!(NodeKey::from_pkcs8(b"no key").is_err());
    }
}
