//! The invitation: the one string by which a node joins. `bonafide-ca node invite` prints it,
//! `bonafide-agent run --join` takes it.
//!
//! `bonafide1_` and base64url, without padding, of
//!
//! | bytes | what |
//! | --- | --- |
//! | 3 | length of all that follows (big-endian), and these two bytes and `0xA5` xored: any one mistyped character shows |
//! | 8 | expiry, milliseconds since the Unix epoch, big-endian |
//! | 32 | SHA-256 of the root's certificate |
//! | 32 | the secret |
//! | 1 + n | trust domain |
//! | 1 | number of addresses, each 1 + n |
//! | 8 | the first bytes of SHA-256 over the prefix and all before: tells a mistyped invitation from an expired one |
//!
//! The whole string is a secret. No error of this file repeats any part of it.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use aws_lc_rs::rand;
use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_verifier::clock::Timestamp;
use bonafide_verifier::spiffe::TrustDomain;
use zeroize::Zeroizing;

use crate::ca_address::{CaAddress, CaAddressError};

/// What a node needs for its first contact with the CA: where it is, how to know it, and the secret that
/// the CA takes once. `Debug` hides the secret; there is no `Display`, since printing one is worth a name:
/// [`Invitation::expose_secret_string`].
#[derive(Debug)]
pub struct Invitation {
    addresses: Vec<CaAddress>,
    trust_domain: TrustDomain,
    root_sha256: [u8; 32],
    secret: InvitationSecret,
    expires_at: Timestamp,
}

impl Invitation {
    /// The most addresses that one invitation carries.
    pub const MAX_ADDRESSES: usize = 8;
    /// The longest text that [`Invitation::parse`] looks at, in bytes.
    pub const MAX_LENGTH: usize = 8 * 1024;

    /// An invitation from its parts.
    ///
    /// # Errors
    /// [`InvitationError::AddressCount`] without addresses or with more than [`Invitation::MAX_ADDRESSES`].
    pub fn new(
        addresses: Vec<CaAddress>,
        trust_domain: TrustDomain,
        root_sha256: [u8; 32],
        secret: InvitationSecret,
        expires_at: Timestamp,
    ) -> Result<Self, InvitationError> {
        if addresses.is_empty() || addresses.len() > Self::MAX_ADDRESSES {
            return Err(InvitationError::AddressCount { count: addresses.len(), limit: Self::MAX_ADDRESSES });
        }
        Ok(Self { addresses, trust_domain, root_sha256, secret, expires_at })
    }

    /// Reads an invitation. Blanks and line breaks anywhere and one pair of quotes around it do not matter: it may
    /// have gone through a terminal or a chat. Whether it has expired is not looked at; see [`Invitation::check_expiry`].
    ///
    /// # Errors
    /// [`InvitationError`]; none of them contains a part of the text.
    pub fn parse(text: &str) -> Result<Self, InvitationError> {
        if text.len() > Self::MAX_LENGTH {
            return Err(InvitationError::TooLong { length: text.len(), limit: Self::MAX_LENGTH });
        }
        let text = squeezed(text);
        let encoded = without_prefix(&text)?;
        let payload = decode(encoded)?;
        Self::from_payload(&payload)
    }

    /// The invitation as the one string. It is a secret: whoever has it can join as this node.
    #[must_use]
    pub fn expose_secret_string(&self) -> Zeroizing<String> {
        let mut payload = Zeroizing::new(Vec::with_capacity(MAX_PAYLOAD));
        payload.extend_from_slice(&[0; HEAD]);
        payload.extend_from_slice(&self.expires_at.unix_millis().to_be_bytes());
        payload.extend_from_slice(&self.root_sha256);
        payload.extend_from_slice(self.secret.expose_secret());
        push_short(&mut payload, self.trust_domain.as_str());
        payload.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        for address in &self.addresses {
            push_short(&mut payload, &address.to_string());
        }
        // INVARIANT: at most 8 addresses of at most 255 bytes, so the length fits in 16 bits.
        let length = u16::try_from(payload.len() - HEAD + CHECKSUM).unwrap_or(u16::MAX);
        if let Some(head) = payload.first_chunk_mut::<HEAD>() {
            *head = head_for(length);
        }
        let checksum = checksum_of(&payload);
        payload.extend_from_slice(&checksum);
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + payload.len() * 4 / 3 + 4));
        text.push_str(PREFIX);
        text.push_str(&Zeroizing::new(Base64UrlUnpadded::encode_string(&payload)));
        text
    }

    /// Where the CA answers, in the order to try.
    #[must_use]
    pub fn addresses(&self) -> &[CaAddress] {
        &self.addresses
    }

    /// The trust domain that is joined.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// SHA-256 of the root's certificate (DER): the CA's chain must end in it.
    #[must_use]
    pub fn root_sha256(&self) -> &[u8; 32] {
        &self.root_sha256
    }

    /// The secret that the CA takes once.
    #[must_use]
    pub fn secret(&self) -> &InvitationSecret {
        &self.secret
    }

    /// From then on the CA refuses it.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Whether it can still be used at `at`. The clock is the reader's; the CA decides by its own.
    ///
    /// # Errors
    /// [`InvitationError::Expired`].
    pub fn check_expiry(&self, at: Timestamp) -> Result<(), InvitationError> {
        if at >= self.expires_at {
            return Err(InvitationError::Expired { expired_at: self.expires_at });
        }
        Ok(())
    }

    /// What `payload` says, whose length and checksum are right.
    fn from_payload(payload: &[u8]) -> Result<Self, InvitationError> {
        let mut rest = Rest(payload);
        let expires_at = Timestamp::from_unix_millis(i64::from_be_bytes(*rest.array()?));
        let root_sha256 = *rest.array()?;
        let secret = InvitationSecret(Zeroizing::new(*rest.array::<SECRET>()?));
        let trust_domain = TrustDomain::parse(rest.short()?)
            .map_err(|error| InvitationError::TrustDomain { reason: error.to_string() })?;
        let [count] = *rest.array()?;
        let count = usize::from(count);
        if count == 0 || count > Self::MAX_ADDRESSES {
            return Err(InvitationError::AddressCount { count, limit: Self::MAX_ADDRESSES });
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            addresses.push(CaAddress::parse(rest.short()?)?);
        }
        if !rest.0.is_empty() {
            return Err(InvitationError::Malformed);
        }
        Self::new(addresses, trust_domain, root_sha256, secret, expires_at)
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// The secret of an invitation: 32 random bytes, wiped when dropped, never shown by `Debug`.
pub struct InvitationSecret(Zeroizing<[u8; SECRET]>);

impl InvitationSecret {
    /// A new secret from the system's random number generator.
    ///
    /// # Errors
    /// [`InvitationError::NoRandomness`] if it gives none.
    pub fn generate() -> Result<Self, InvitationError> {
        let mut bytes = Zeroizing::new([0; SECRET]);
        rand::fill(bytes.as_mut()).map_err(|_| InvitationError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// A secret that came over the wire. `None` if it does not have 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// SHA-256 of it: all that the CA keeps.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(&[self.0.as_ref()])
    }

    /// The bytes themselves, for the one message that carries them to the CA.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8; SECRET] {
        &self.0
    }
}

impl fmt::Debug for InvitationSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InvitationSecret(..)")
    }
}

/// Why a text is not a usable invitation. No variant holds a part of the text.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvitationError {
    /// No text at all.
    #[error("the invitation is empty; give the string that `bonafide-ca node invite NAME` printed")]
    Empty,
    /// Longer than any invitation.
    #[error("the invitation is {length} bytes long, at most {limit} are read; give the string alone")]
    TooLong {
        /// Bytes given.
        length: usize,
        /// Bytes looked at.
        limit: usize,
    },
    /// Does not start as one.
    #[error(
        "this is not an invitation: it does not start with `bonafide1_`; copy the whole string that `bonafide-ca node invite NAME` printed"
    )]
    NotAnInvitation,
    /// The case of its letters was changed.
    #[error("the invitation's upper and lower case letters were changed on the way; copy it again as it was printed")]
    CaseChanged,
    /// Made by another version.
    #[error("the invitation has version {version}, this program reads version 1; use programs of the same version")]
    Version {
        /// The version it names.
        version: u32,
    },
    /// The end is missing.
    #[error("the invitation is cut short: {missing} characters are missing at its end; copy the whole string")]
    Truncated {
        /// How many characters are missing.
        missing: usize,
    },
    /// More text after the end.
    #[error("{extra} characters stand after the invitation's end; give one invitation and nothing else")]
    Trailing {
        /// How many characters too many.
        extra: usize,
    },
    /// More than one.
    #[error("these are two invitations in one; give one of them")]
    Two,
    /// A character that no invitation has.
    #[error("the invitation has a character at position {at} that no invitation has; copy it again")]
    Character {
        /// Where, counted from 0 and without blanks.
        at: usize,
    },
    /// The checksum is wrong.
    #[error("the invitation was mistyped or changed on the way (its checksum does not match); copy it again")]
    Mistyped,
    /// The checksum is right, the content is not.
    #[error(
        "the invitation's content cannot be read though its checksum is right; create a new one with `bonafide-ca node invite`"
    )]
    Malformed,
    /// A trust domain that is none.
    #[error("the invitation names a trust domain that is not valid: {reason}")]
    TrustDomain {
        /// What is wrong with it.
        reason: String,
    },
    /// None or too many addresses.
    #[error("the invitation names {count} addresses of the CA; it must be 1 to {limit}")]
    AddressCount {
        /// How many it names.
        count: usize,
        /// How many there can be.
        limit: usize,
    },
    /// An address that cannot be one.
    #[error("the invitation names an address that cannot be reached: {0}")]
    Address(#[from] CaAddressError),
    /// Too late.
    #[error("the invitation expired at {expired_at}; create a new one with `bonafide-ca node invite`")]
    Expired {
        /// When.
        expired_at: Timestamp,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes for the invitation's secret")]
    NoRandomness,
}

/// What is left to read of a payload.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], InvitationError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(InvitationError::Malformed)?;
        self.0 = rest;
        Ok(array)
    }

    /// A text after one byte of length.
    fn short(&mut self) -> Result<&'a str, InvitationError> {
        let [length] = *self.array()?;
        let (text, rest) = self.0.split_at_checked(usize::from(length)).ok_or(InvitationError::Malformed)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| InvitationError::Malformed)
    }
}

/// Writes a text after one byte of length.
// INVARIANT: a trust domain and an address have at most 255 bytes.
fn push_short(payload: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    payload.push(length);
    payload.extend(bytes.iter().take(usize::from(length)));
}

/// `text` without blanks, and without one pair of quotes around it.
fn squeezed(text: &str) -> Zeroizing<String> {
    let mut squeezed = Zeroizing::new(String::with_capacity(text.len()));
    squeezed.extend(text.chars().filter(|c| !c.is_whitespace()));
    for (open, close) in QUOTES {
        if let Some(inner) = squeezed.strip_prefix(open).and_then(|rest| rest.strip_suffix(close)) {
            return Zeroizing::new(inner.to_owned());
        }
    }
    squeezed
}

fn without_prefix(text: &str) -> Result<&str, InvitationError> {
    if text.is_empty() {
        return Err(InvitationError::Empty);
    }
    if let Some(encoded) = text.strip_prefix(PREFIX) {
        if encoded.contains(PREFIX) {
            return Err(InvitationError::Two);
        }
        return Ok(encoded);
    }
    if PREFIX.starts_with(text) {
        return Err(InvitationError::Truncated { missing: PREFIX.len() - text.len() + SHORTEST });
    }
    let lower = Zeroizing::new(text.chars().take(PREFIX.len()).collect::<String>().to_ascii_lowercase());
    if lower.as_str() == PREFIX {
        return Err(InvitationError::CaseChanged);
    }
    if let Some((version, _)) = text.strip_prefix(NAME).and_then(|rest| rest.split_once('_'))
        && version.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(version) = version.parse()
    {
        return Err(InvitationError::Version { version });
    }
    Err(InvitationError::NotAnInvitation)
}

/// The payload between length and checksum.
fn decode(encoded: &str) -> Result<Zeroizing<Vec<u8>>, InvitationError> {
    if let Some(at) = encoded.bytes().position(|byte| !(byte.is_ascii_alphanumeric() || b"-_".contains(&byte))) {
        return Err(InvitationError::Character { at: PREFIX.len() + at });
    }
    // Four characters are the three bytes of the head.
    let Some((head, _)) = encoded.split_at_checked(4) else {
        return Err(InvitationError::Truncated { missing: SHORTEST - encoded.len() });
    };
    let mut bytes = [0; HEAD];
    Base64UrlUnpadded::decode(head, &mut bytes).map_err(|_| InvitationError::Mistyped)?;
    let [high, low, _] = bytes;
    let length = u16::from_be_bytes([high, low]);
    if bytes != head_for(length) || usize::from(length) < CHECKSUM {
        return Err(InvitationError::Mistyped);
    }
    let characters = ((HEAD + usize::from(length)) * 4).div_ceil(3);
    if encoded.len() < characters {
        return Err(InvitationError::Truncated { missing: characters - encoded.len() });
    }
    if encoded.len() > characters {
        return Err(InvitationError::Trailing { extra: encoded.len() - characters });
    }
    let whole = Zeroizing::new(Base64UrlUnpadded::decode_vec(encoded).map_err(|_| InvitationError::Mistyped)?);
    let (body, checksum) = whole.split_last_chunk::<CHECKSUM>().ok_or(InvitationError::Mistyped)?;
    if checksum_of(body) != *checksum {
        return Err(InvitationError::Mistyped);
    }
    Ok(Zeroizing::new(body.get(HEAD..).unwrap_or_default().to_vec()))
}

/// The length, and a byte that changes with any one base64 character of it.
fn head_for(length: u16) -> [u8; HEAD] {
    let [high, low] = length.to_be_bytes();
    [high, low, high ^ low ^ 0xA5]
}

fn checksum_of(body: &[u8]) -> [u8; CHECKSUM] {
    let hash = sha256(&[PREFIX.as_bytes(), body]);
    let mut checksum = [0; CHECKSUM];
    for (to, from) in checksum.iter_mut().zip(hash) {
        *to = from;
    }
    checksum
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    hash
}

const NAME: &str = "bonafide";
const PREFIX: &str = "bonafide1_";
const HEAD: usize = 3;
const SECRET: usize = 32;
const CHECKSUM: usize = 8;
/// Characters after the prefix of the shortest invitation: a trust domain of one byte and one address of three.
const SHORTEST: usize = (HEAD + 8 + 32 + SECRET + 2 + 1 + 4 + CHECKSUM) * 4 / 3;
const MAX_PAYLOAD: usize = HEAD + 8 + 32 + SECRET + 256 + 1 + Invitation::MAX_ADDRESSES * 256 + CHECKSUM;
const QUOTES: [(char, char); 5] =
    [('"', '"'), ('\'', '\''), ('`', '`'), ('\u{201c}', '\u{201d}'), ('\u{2018}', '\u{2019}')];

#[cfg(test)]
mod tests;
