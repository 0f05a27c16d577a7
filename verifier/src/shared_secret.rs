//! A secret that a caller and a service share, for HS256 tokens.

use std::fmt;

use aws_lc_rs::{constant_time, hmac, rand};
use base64ct::{Base64UrlUnpadded, Encoding};
use zeroize::Zeroizing;

/// At least 256 random bits. Its own copy is wiped on drop, and so is the one that AWS-LC prepares from it; `Debug` shows nothing.
#[derive(Clone)]
pub struct SharedSecret {
    bytes: Zeroizing<Vec<u8>>,
    #[cfg_attr(
        not(feature = "jwt"),
        allow(dead_code, reason = "made here so that what is made is checked; tokens use it")
    )]
    key: hmac::Key,
}

/// Why bytes are no secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SharedSecretError {
    /// Not base64url without padding.
    #[error("the secret is not base64url without padding")]
    Base64,
    /// Too short to resist guessing, or too long to be meant.
    #[error(
        "the secret has {bytes} bytes; {} to {} random ones are taken",
        SharedSecret::MIN_BYTES,
        SharedSecret::MAX_BYTES
    )]
    Length {
        /// Found.
        bytes: usize,
    },
    /// One byte repeated: no random secret.
    #[error("the secret is not random; let `bonafide-ca key create` make one")]
    NotRandom,
}

impl SharedSecret {
    /// 256 bits: as many as the hash has (RFC 7518 §3.2).
    pub const MIN_BYTES: usize = 32;
    /// The longest that is taken.
    pub const MAX_BYTES: usize = 256;

    /// Takes the bytes of a secret.
    ///
    /// # Errors
    /// When they are too few, too many, or all the same.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, SharedSecretError> {
        if !(Self::MIN_BYTES..=Self::MAX_BYTES).contains(&bytes.len()) {
            return Err(SharedSecretError::Length { bytes: bytes.len() });
        }
        if bytes.windows(2).all(|pair| matches!(pair, [one, other] if one == other)) {
            return Err(SharedSecretError::NotRandom);
        }
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes), bytes })
    }

    /// A new one of 256 bits; none if there is no randomness.
    #[must_use]
    pub fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new(vec![0; Self::MIN_BYTES]);
        rand::fill(&mut bytes).ok()?;
        Self::new(bytes).ok()
    }

    /// Reads what [`SharedSecret::expose_secret`] gives.
    ///
    /// # Errors
    /// When the text is not base64url, or holds no secret.
    pub fn parse(text: &str) -> Result<Self, SharedSecretError> {
        // Before it is decoded: its size is a stranger's.
        if text.len() > Self::MAX_BYTES * 2 {
            return Err(SharedSecretError::Length { bytes: text.len() / 4 * 3 });
        }
        let bytes = Base64UrlUnpadded::decode_vec(text).map_err(|_| SharedSecretError::Base64)?;
        Self::new(Zeroizing::new(bytes))
    }

    /// The secret in base64url, for the files of the two that share it.
    #[must_use]
    pub fn expose_secret(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64UrlUnpadded::encode_string(&self.bytes))
    }

    #[cfg(feature = "jwt")]
    pub(crate) fn sign(&self, input: &[u8]) -> hmac::Tag {
        hmac::sign(&self.key, input)
    }

    /// In constant time.
    #[cfg(feature = "jwt")]
    pub(crate) fn verifies(&self, input: &[u8], tag: &[u8]) -> bool {
        hmac::verify(&self.key, input, tag).is_ok()
    }
}

impl PartialEq for SharedSecret {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.bytes, &other.bytes).is_ok()
    }
}

impl Eq for SharedSecret {}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_secret_and_that_none_is_shown() {
        let of =
            |length: usize| SharedSecret::new(Zeroizing::new((0..length).map(|byte| byte as u8).collect())).map(drop);
        assert_eq!(of(0), Err(SharedSecretError::Length { bytes: 0 }));
        assert_eq!(of(31), Err(SharedSecretError::Length { bytes: 31 }));
        assert_eq!((of(32), of(256)), (Ok(()), Ok(())));
        assert_eq!(of(257), Err(SharedSecretError::Length { bytes: 257 }));
        let zeros = SharedSecret::new(Zeroizing::new(vec![0; 32]));
        assert_eq!(zeros.map(drop), Err(SharedSecretError::NotRandom));
        assert_eq!(SharedSecret::parse("a=").map(drop), Err(SharedSecretError::Base64));
        let secret = SharedSecret::generate().unwrap();
        let text = secret.expose_secret();
        assert!(SharedSecret::parse(&text).unwrap() == secret && secret != SharedSecret::generate().unwrap());
        assert_eq!(format!("{secret:?}"), "SharedSecret(..)");
    }
}
