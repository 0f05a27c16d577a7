//! Trust domain names (SPIFFE-ID §2.1).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A trust domain name such as `example.org`: 1 to 255 bytes of `[a-z0-9._-]` (SPIFFE-ID §2.1; ID-02, ID-05..07, ID-18).
///
/// Always valid: [`TrustDomain::parse`] is the only way to get one. Nothing is normalised on the way in: an upper-case
/// letter is refused, so that two names are equal exactly if their bytes are (ID-05 over ID-19). A name that looks
/// like an IPv4 address or a DNS name is a name like any other (ID-08). Cloning is cheap.
///
/// ```
/// use bonafide_verifier::spiffe::TrustDomain;
/// let domain = TrustDomain::parse("example.org")?;
/// assert_eq!(domain.as_str(), "example.org");
/// assert!(TrustDomain::parse("Example.org").is_err());
/// # Ok::<(), bonafide_verifier::spiffe::TrustDomainError>(())
/// ```
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The longest name, in bytes (SPIFFE-ID §2.3; ID-18).
    pub const MAX_LENGTH: usize = 255;

    /// Reads a name, `example.org`, without a scheme.
    ///
    /// # Errors
    /// The first rule that the name breaks, with the byte and its offset.
    pub fn parse(name: &str) -> Result<Self, TrustDomainError> {
        check_name(name)?;
        Ok(Self(Arc::from(name)))
    }

    /// The name, `example.org`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not the name of a trust domain.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustDomainError {
    /// Nothing at all (ID-02).
    #[error("the trust domain name is empty")]
    Empty,
    /// More than [`TrustDomain::MAX_LENGTH`] bytes (ID-18).
    #[error("the trust domain name has {length} bytes, at most {} are allowed", TrustDomain::MAX_LENGTH)]
    TooLong {
        /// Bytes found.
        length: usize,
    },
    /// A byte outside `[a-z0-9._-]` (ID-04..07).
    #[error("{} at offset {at} of the trust domain name: {}", show_byte(*byte), name_byte_hint(*byte))]
    Byte {
        /// The byte.
        byte: u8,
        /// Its offset in the name.
        at: usize,
    },
}

/// The rules of a name, without making one.
pub(super) fn check_name(name: &str) -> Result<(), TrustDomainError> {
    if name.is_empty() {
        return Err(TrustDomainError::Empty);
    }
    if name.len() > TrustDomain::MAX_LENGTH {
        return Err(TrustDomainError::TooLong { length: name.len() });
    }
    match name.bytes().position(|byte| !is_name_byte(byte)) {
        None => Ok(()),
        Some(at) => Err(TrustDomainError::Byte { byte: name.as_bytes().get(at).copied().unwrap_or_default(), at }),
    }
}

fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')
}

/// A byte as a person can read it in a terminal, whatever it is.
pub(super) fn show_byte(byte: u8) -> String {
    if byte.is_ascii_graphic() { format!("`{}`", char::from(byte)) } else { format!("byte 0x{byte:02x}") }
}

/// What the writer of a name probably meant by this byte.
pub(super) fn name_byte_hint(byte: u8) -> &'static str {
    match byte {
        b'A'..=b'Z' => "letters must be lower case",
        b'@' => "a user part is not allowed",
        b':' => "a port is not allowed, and a name stands without `spiffe://`",
        b'%' => "percent-encoding is not allowed",
        b'?' => "a query is not allowed",
        b'#' => "a fragment is not allowed",
        b'/' => "a name has no path",
        _ => "only `a-z`, `0-9`, `.`, `-` and `_` are allowed",
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// So that maps by trust domain can be asked with the text of one. Sound: equality and order are those of the text.
impl std::borrow::Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_domain_names_by_requirement() {
        let longest = "a".repeat(255);
        let too_long = "a".repeat(256);
        let far_too_long = "a".repeat(25_500);
        let cases: &[(&str, &str, Result<(), TrustDomainError>)] = &[
            ("ID-02 one byte", "a", Ok(())),
            ("ID-02 empty", "", Err(TrustDomainError::Empty)),
            ("ID-05 upper case", "eXample.org", Err(TrustDomainError::Byte { byte: b'X', at: 1 })),
            ("ID-06 every kind of byte", "az09.-_", Ok(())),
            ("ID-06 plus", "a+b", Err(TrustDomainError::Byte { byte: b'+', at: 1 })),
            ("ID-06 not ASCII", "ex\u{e4}mple", Err(TrustDomainError::Byte { byte: 0xc3, at: 2 })),
            ("ID-06 NUL", "a\0", Err(TrustDomainError::Byte { byte: 0, at: 1 })),
            ("ID-06 IPv6 cannot be written", "[::1]", Err(TrustDomainError::Byte { byte: b'[', at: 0 })),
            ("ID-04 user part", "me@example.org", Err(TrustDomainError::Byte { byte: b'@', at: 2 })),
            ("ID-04 port", "example.org:1", Err(TrustDomainError::Byte { byte: b':', at: 11 })),
            ("ID-07 percent", "a%2e", Err(TrustDomainError::Byte { byte: b'%', at: 1 })),
            ("ID-08 looks like an address", "10.0.0.1", Ok(())),
            ("ID-08 dots alone", "..", Ok(())),
            ("ID-18 at the limit", &longest, Ok(())),
            ("ID-18 one more", &too_long, Err(TrustDomainError::TooLong { length: 256 })),
            ("ID-18 a hundred times as long", &far_too_long, Err(TrustDomainError::TooLong { length: 25_500 })),
            ("ID-01 with its scheme", "spiffe://a", Err(TrustDomainError::Byte { byte: b':', at: 6 })),
            ("ID-10 with a path", "a/b", Err(TrustDomainError::Byte { byte: b'/', at: 1 })),
        ];
        for (requirement, input, expected) in cases {
            assert_eq!(TrustDomain::parse(input).map(drop), *expected, "{requirement}: {input}");
        }
    }

    #[test]
    fn the_texts_say_where_and_what_to_do() {
        assert_eq!(
            TrustDomain::parse("Example.org").unwrap_err().to_string(),
            "`E` at offset 0 of the trust domain name: letters must be lower case"
        );
        assert_eq!(
            TrustDomain::parse("a\u{1b}[2J").unwrap_err().to_string(),
            "byte 0x1b at offset 1 of the trust domain name: only `a-z`, `0-9`, `.`, `-` and `_` are allowed"
        );
        assert_eq!(
            TrustDomain::parse(&"a".repeat(256)).unwrap_err().to_string(),
            "the trust domain name has 256 bytes, at most 255 are allowed"
        );
    }
}
