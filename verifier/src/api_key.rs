//! API keys: `<key-id>.<secret>`, the weakest credential that a server can take.
//!
//! Who verifies keeps SHA-256 of the secret alone, which is enough for secrets of 256 random bits: there is nothing to guess. Rules
//! take an API key only where they say so, in a policy that accepts them until a date.

use std::fmt;

use aws_lc_rs::{
    constant_time,
    digest::{SHA256, digest},
    rand,
};
use base64ct::{Base64UrlUnpadded, Encoding};
use zeroize::Zeroizing;

use crate::clock::Timestamp;

/// Why an API key is refused. Holds no part of a secret.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiKeyError {
    /// Not `<key-id>.<secret>`.
    #[error("not an API key: one is a key ID, a dot and a secret of {} characters", SECRET_CHARACTERS)]
    Malformed,
    /// No record of an API key has this ID.
    #[error("no API key `{}` is known here; it may have been revoked", .key_id.escape_default())]
    Unknown {
        /// The ID, cut to 64 characters.
        key_id: String,
    },
    /// The secret is not the one of the record.
    #[error("the secret of the API key `{}` is wrong", .key_id.escape_default())]
    WrongSecret {
        /// The ID.
        key_id: String,
    },
    /// The record has ended.
    #[error("the API key `{}` ended at {expires_at}, now it is {now}; create a new one with `bonafide-ca key create`", .key_id.escape_default())]
    Expired {
        /// The ID.
        key_id: String,
        /// When it ended.
        expires_at: Timestamp,
        /// The time of the request.
        now: Timestamp,
    },
    /// The key is for another service.
    #[error("the API key `{}` is for another service than this", .key_id.escape_default())]
    Audience {
        /// The ID.
        key_id: String,
    },
}

impl ApiKeyError {
    /// A name for the reason that never changes.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "not-an-api-key",
            Self::Unknown { .. } => "unknown-api-key",
            Self::WrongSecret { .. } => "wrong-api-key-secret",
            Self::Expired { .. } => "api-key-expired",
            Self::Audience { .. } => "api-key-of-another-service",
        }
    }

    /// Every code that [`ApiKeyError::code`] gives.
    pub const CODES: &[&str] =
        &["not-an-api-key", "unknown-api-key", "wrong-api-key-secret", "api-key-expired", "api-key-of-another-service"];
}

/// Bytes of a secret that we make.
pub const SECRET_BYTES: usize = 32;
/// Characters of such a secret in base64url without padding.
pub const SECRET_CHARACTERS: usize = 43;
/// The longest ID of a key, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 64;

/// An API key as a caller presents it. Wiped on drop; `Debug` shows the ID alone.
pub struct ApiKey {
    key_id: String,
    secret: Zeroizing<String>,
}

impl ApiKey {
    /// Reads `<key-id>.<secret>`. The ID may hold dots, the secret not, so the last dot is the one between them.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, ApiKeyError> {
        let (key_id, secret) = split(text)?;
        Ok(Self { key_id: key_id.to_owned(), secret: Zeroizing::new(secret.to_owned()) })
    }

    /// A new secret of 256 random bits under this ID; none if the ID cannot stand in a key or there is no randomness.
    #[must_use]
    pub fn generate(key_id: &str) -> Option<Self> {
        if !is_key_id(key_id) {
            return None;
        }
        let mut secret = Zeroizing::new([0_u8; SECRET_BYTES]);
        rand::fill(secret.as_mut_slice()).ok()?;
        let secret = Zeroizing::new(Base64UrlUnpadded::encode_string(secret.as_slice()));
        Some(Self { key_id: key_id.to_owned(), secret })
    }

    /// Its ID, which is no secret.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The whole key, for the file that its owner gets.
    #[must_use]
    pub fn expose_secret(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}.{}", self.key_id, self.secret.as_str()))
    }

    /// What the verifier keeps.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.secret)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// The two parts of a key, checked for form and bounds.
pub(crate) fn split(text: &str) -> Result<(&str, &str), ApiKeyError> {
    let (key_id, secret) = text.rsplit_once('.').ok_or(ApiKeyError::Malformed)?;
    let of_alphabet = secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if is_key_id(key_id) && secret.len() == SECRET_CHARACTERS && of_alphabet {
        Ok((key_id, secret))
    } else {
        Err(ApiKeyError::Malformed)
    }
}

/// 1 to [`MAX_KEY_ID_BYTES`] of `[A-Za-z0-9._-]`: what stands in a header, in a file and on a command line as it is.
pub(crate) fn is_key_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= MAX_KEY_ID_BYTES && text.bytes().all(allowed)
}

/// SHA-256 of a secret's text. Compares in constant time.
#[derive(Clone)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// From the bytes that a record holds.
    #[must_use]
    pub const fn from_bytes(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    pub(crate) fn of(secret: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
        Self(hash)
    }

    /// The bytes, for a record.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn is_of(&self, secret: &str) -> bool {
        *self == Self::of(secret)
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for SecretHash {}

/// Of a good secret it says nothing, but a log has no use for it.
impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_made_are_read_back_and_show_nothing() {
        let key = ApiKey::generate("export.1").unwrap();
        let text = key.expose_secret();
        let again = ApiKey::parse(&text).unwrap();
        assert_eq!((again.key_id(), again.hash()), ("export.1", key.hash()));
        assert_ne!(key.hash(), ApiKey::generate("export.1").unwrap().hash());
        let (_, secret) = split(&text).unwrap();
        assert!(!format!("{key:?}{:?}", key.hash()).contains(secret));
        assert!(key.hash().is_of(secret) && !key.hash().is_of("other"));
    }

    #[test]
    fn what_is_no_api_key() {
        let secret = "s".repeat(SECRET_CHARACTERS);
        for (text, good) in [
            (format!("a.{secret}"), true),
            (format!("a.b.{secret}"), true),
            (format!("{}.{secret}", "a".repeat(64)), true),
            (format!("{}.{secret}", "a".repeat(65)), false),
            (format!(".{secret}"), false),
            (secret.clone(), false),
            (format!("a.{secret}s"), false),
            (format!("a.{}", &secret[1..]), false),
            (format!("a.{}+", &secret[1..]), false),
            (format!("a b.{secret}"), false),
            (format!("a.{secret}\n"), false),
            (String::new(), false),
            (".".repeat(1 << 20), false), // T-30
        ] {
            let found = ApiKey::parse(&text);
            assert_eq!(found.is_ok(), good, "{text:.80}");
            assert!(!found.is_err_and(|error| error.to_string().contains(&secret)));
        }
    }
}
