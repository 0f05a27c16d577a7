//! Shared secrets at rest. A server needs their value, so they cannot be hashed as API keys are; in the file they are encrypted under a key
//! that lies in a file of its own. Whoever comes by the one alone (a backup, a diff, a screen) has no secret.

#[cfg(feature = "tokio")]
use std::path::Path;
use std::{fmt, sync::Arc};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, RandomizedNonceKey},
    rand,
};
use base64ct::{Base64UrlUnpadded, Encoding};
use zeroize::Zeroizing;

use crate::shared_secret::SharedSecret;

/// 256 random bits that shared secrets are encrypted with (AES-256-GCM). Wiped on drop; `Debug` shows nothing.
pub struct WrappingKey {
    bytes: Zeroizing<Vec<u8>>,
    cipher: RandomizedNonceKey,
}

/// A wrapping key, and the file it lies in as the file of records names it: a path from that file's folder.
#[derive(Clone, Debug)]
pub struct Wrapping {
    /// The path.
    pub file: Arc<str>,
    /// The key.
    pub key: Arc<WrappingKey>,
}

/// The member that names the file of the wrapping key.
pub(super) const MEMBER: &str = "wrapping-key";

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// More than the largest secret takes.
const MAX_TEXT: usize = 1024;

impl WrappingKey {
    /// A new one; none if there is no randomness.
    #[must_use]
    pub fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
        rand::fill(&mut bytes).ok()?;
        Self::new(bytes)
    }

    fn new(bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok()?;
        Some(Self { bytes, cipher })
    }

    /// Reads what [`WrappingKey::expose_secret`] gives, perhaps with a line's end behind it. None if it is no such key.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        if text.len() != KEY_BYTES.div_ceil(3) * 4 - 1 {
            return None;
        }
        Self::new(Zeroizing::new(Base64UrlUnpadded::decode_vec(text).ok()?))
    }

    /// The key in base64url, for its file.
    #[must_use]
    pub fn expose_secret(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64UrlUnpadded::encode_string(&self.bytes))
    }

    /// The secret of this key ID, wrapped: under another ID it does not open. None if there is no randomness.
    #[must_use]
    pub(super) fn wrap(&self, key_id: &str, secret: &SharedSecret) -> Option<String> {
        let mut sealed = Zeroizing::new(secret.expose_secret().as_bytes().to_vec());
        let nonce = self.cipher.seal_in_place_append_tag(Aad::from(key_id.as_bytes()), &mut *sealed).ok()?;
        Some(Base64UrlUnpadded::encode_string(&[nonce.as_ref().as_slice(), &sealed].concat()))
    }

    pub(super) fn unwrap(&self, key_id: &str, wrapped: &str) -> Option<SharedSecret> {
        if wrapped.len() > MAX_TEXT {
            return None;
        }
        let bytes = Base64UrlUnpadded::decode_vec(wrapped).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES)?;
        let nonce = aws_lc_rs::aead::Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let opened = self.cipher.open_in_place(nonce, Aad::from(key_id.as_bytes()), &mut sealed).ok()?;
        SharedSecret::parse(std::str::from_utf8(opened).ok()?).ok()
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappingKey(..)")
    }
}

#[cfg(feature = "tokio")]
impl Wrapping {
    /// The wrapping key of the file of records at `records`, whose text this is; none if it names none.
    ///
    /// # Errors
    /// When it names one that cannot be read, or that others have access to.
    pub fn of_file(records: &Path, text: &str) -> Result<Option<Self>, super::KeyFileError> {
        let Some(file) = Self::named_in(text) else { return Ok(None) };
        let path = records.parent().unwrap_or(Path::new("")).join(&file);
        let key = WrappingKey::parse(&super::read_key_file(&path)?);
        let key = key.ok_or(super::KeyFileError::NoWrappingKey { path })?;
        Ok(Some(Self { file: file.into(), key: Arc::new(key) }))
    }

    /// The path of the wrapping key that a file of records names, if it names one.
    fn named_in(text: &str) -> Option<String> {
        let file = toml::de::DeTable::parse(text.get(..super::MAX_FILE_BYTES).unwrap_or(text)).ok()?;
        file.get_ref().get(MEMBER)?.get_ref().as_str().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_opens_under_the_same_key_and_name_alone() {
        let (key, other) = (WrappingKey::generate().unwrap(), WrappingKey::generate().unwrap());
        let secret = SharedSecret::generate().unwrap();
        let wrapped = key.wrap("export.1", &secret).unwrap();
        assert!(key.unwrap("export.1", &wrapped) == Some(secret.clone()));
        assert_ne!(key.wrap("export.1", &secret).unwrap(), wrapped, "another nonce each time");
        assert!(!wrapped.contains(secret.expose_secret().as_str()));
        let again = WrappingKey::parse(&format!("{}\n", key.expose_secret().as_str())).unwrap();
        assert!(again.unwrap("export.1", &wrapped).is_some());
        for (key, key_id, wrapped) in [
            (&other, "export.1", wrapped.as_str()),
            (&key, "export.2", wrapped.as_str()),
            (&key, "export.1", &wrapped[1..]),
            (&key, "export.1", &format!("{wrapped}AAAA")),
            (&key, "export.1", &wrapped.replace(|byte: char| byte.is_ascii_digit(), "A")),
            (&key, "export.1", "AAAA"),
            (&key, "export.1", ""),
        ] {
            assert!(key.unwrap(key_id, wrapped).is_none() || wrapped.is_empty(), "{key_id} {wrapped}");
        }
        for text in ["", "AAAA", &"A".repeat(42), &"A".repeat(44), &"=".repeat(43)] {
            assert!(WrappingKey::parse(text).is_none(), "{text}");
        }
        assert_eq!(format!("{key:?}"), "WrappingKey(..)");
    }
}
