//! SPIFFE IDs (SPIFFE-ID §2).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::trust_domain::{TrustDomain, TrustDomainError, check_name, name_byte_hint, show_byte};

/// The first path segment that belongs to Bonafide itself: `/bonafide/ca`, `/bonafide/node/NAME`.
pub const RESERVED_SEGMENT: &str = "bonafide";

const SCHEME: &str = "spiffe://";

/// A SPIFFE ID such as `spiffe://example.org/photo`, at most 2048 bytes (SPIFFE-ID §2; ID-01..19).
///
/// Always valid: [`SpiffeId::parse`] and [`SpiffeId::new`] are the only ways to get one. Nothing is normalised, so two
/// IDs are equal exactly if their bytes are. Cloning is cheap.
///
/// ```
/// use bonafide_verifier::spiffe::SpiffeId;
/// let id = SpiffeId::parse("spiffe://example.org/photo")?;
/// assert_eq!(id.trust_domain().as_str(), "example.org");
/// assert_eq!(id.path(), "/photo");
/// assert!(SpiffeId::parse("spiffe://example.org/").is_err());
/// # Ok::<(), bonafide_verifier::spiffe::SpiffeIdError>(())
/// ```
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeId {
    uri: Arc<str>,
    // INVARIANT: equal to what stands in `uri` between the scheme and the path.
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// The longest ID, in bytes, with its scheme (SPIFFE-ID §2.3; ID-16, ID-17).
    pub const MAX_LENGTH: usize = 2048;

    /// Reads a whole ID, `spiffe://example.org/photo`, or that of a trust domain itself, `spiffe://example.org`.
    ///
    /// # Errors
    /// The first rule that the text breaks; offsets count from the start of the text.
    pub fn parse(uri: &str) -> Result<Self, SpiffeIdError> {
        let (name, path) = split(uri)?;
        let trust_domain = TrustDomain::parse(name).map_err(SpiffeIdError::from_name)?;
        check_path(path, SCHEME.len() + name.len())?;
        Ok(Self { uri: Arc::from(uri), trust_domain })
    }

    /// Puts an ID together. `path` is empty, for the trust domain itself, or begins with a slash: `/photo`.
    ///
    /// # Errors
    /// The first rule that the path breaks; offsets count from the start of the whole ID.
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        if !path.is_empty() && !path.starts_with('/') {
            return Err(SpiffeIdError::NoLeadingSlash);
        }
        let start = SCHEME.len() + trust_domain.as_str().len();
        if start + path.len() > Self::MAX_LENGTH {
            return Err(SpiffeIdError::TooLong { length: start + path.len() });
        }
        check_path(path, start)?;
        let uri = format!("{SCHEME}{trust_domain}{path}");
        Ok(Self { uri: Arc::from(uri), trust_domain: trust_domain.clone() })
    }

    /// The ID of a trust domain itself, `spiffe://example.org`: what a signing certificate carries.
    #[must_use]
    pub fn of_trust_domain(trust_domain: &TrustDomain) -> Self {
        Self { uri: Arc::from(format!("{SCHEME}{trust_domain}")), trust_domain: trust_domain.clone() }
    }

    /// The trust domain that vouches for this ID.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// `/a/b`, or nothing for the ID of a trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.get(SCHEME.len() + self.trust_domain.as_str().len()..).unwrap_or_default()
    }

    /// The segments of the path: `a`, `b` for `/a/b`.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path().split('/').skip(1)
    }

    /// The whole ID, `spiffe://example.org/photo`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// Whether this ID is under `/bonafide`, which nobody can register and no wildcard matches.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.segments().next() == Some(RESERVED_SEGMENT)
    }
}

/// Why a text is not a SPIFFE ID.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// More than [`SpiffeId::MAX_LENGTH`] bytes (ID-16, ID-17).
    #[error("the SPIFFE ID has {length} bytes, at most {} are allowed", SpiffeId::MAX_LENGTH)]
    TooLong {
        /// Bytes found, or that there would be.
        length: usize,
    },
    /// The text does not begin with `spiffe://` in lower case (ID-01, ID-19).
    #[error("a SPIFFE ID begins with `spiffe://`, this text with `{found}`")]
    Scheme {
        /// How the text begins, escaped, at most 16 characters.
        found: String,
    },
    /// Nothing between `spiffe://` and the path (ID-02).
    #[error("the SPIFFE ID names no trust domain")]
    NoTrustDomain,
    /// The trust domain name is longer than 255 bytes (ID-18).
    #[error("the trust domain name has {length} bytes, at most {} are allowed", TrustDomain::MAX_LENGTH)]
    TrustDomainTooLong {
        /// Bytes found.
        length: usize,
    },
    /// A byte in the trust domain name that cannot be there (ID-03..07).
    #[error("{} at offset {at}, in the trust domain name: {}", show_byte(*byte), name_byte_hint(*byte))]
    TrustDomainByte {
        /// The byte.
        byte: u8,
        /// Its offset in the ID.
        at: usize,
    },
    /// Two slashes in a row (ID-11).
    #[error("empty path segment at offset {at}")]
    EmptySegment {
        /// Offset of the second slash in the ID.
        at: usize,
    },
    /// The ID ends in a slash (ID-13).
    #[error("the SPIFFE ID ends in `/`; leave the slash out")]
    TrailingSlash,
    /// `.` or `..` as a segment (ID-12).
    #[error("path segment `.` or `..` at offset {at}")]
    DotSegment {
        /// Offset of the segment in the ID.
        at: usize,
    },
    /// A byte in the path that cannot be there (ID-03, ID-10, ID-14).
    #[error("{} at offset {at}, in the path: {}", show_byte(*byte), path_byte_hint(*byte))]
    PathByte {
        /// The byte.
        byte: u8,
        /// Its offset in the ID.
        at: usize,
    },
    /// A path given to [`SpiffeId::new`] without its slash.
    #[error("a path begins with `/`")]
    NoLeadingSlash,
}

impl SpiffeIdError {
    fn from_name(error: TrustDomainError) -> Self {
        match error {
            TrustDomainError::Empty => Self::NoTrustDomain,
            TrustDomainError::TooLong { length } => Self::TrustDomainTooLong { length },
            TrustDomainError::Byte { byte, at } => Self::TrustDomainByte { byte, at: SCHEME.len() + at },
        }
    }
}

/// Checks the rules without making an ID: for certificate authorities, whose ID nobody keeps.
pub(crate) fn check(uri: &str) -> Result<(&str, &str), SpiffeIdError> {
    let (name, path) = split(uri)?;
    check_name(name).map_err(SpiffeIdError::from_name)?;
    check_path(path, SCHEME.len() + name.len())?;
    Ok((name, path))
}

/// Trust domain name and path, both unchecked.
fn split(uri: &str) -> Result<(&str, &str), SpiffeIdError> {
    if uri.len() > SpiffeId::MAX_LENGTH {
        return Err(SpiffeIdError::TooLong { length: uri.len() });
    }
    let Some(rest) = uri.strip_prefix(SCHEME) else {
        return Err(SpiffeIdError::Scheme { found: uri.chars().take(16).flat_map(char::escape_default).collect() });
    };
    Ok(rest.split_at(rest.find('/').unwrap_or(rest.len())))
}

/// `path` is empty or begins with a slash; `start` is its offset in the ID.
fn check_path(path: &str, start: usize) -> Result<(), SpiffeIdError> {
    let Some(segments) = path.strip_prefix('/') else {
        return Ok(());
    };
    let mut at = start + 1;
    let mut rest = segments.split('/').peekable();
    while let Some(segment) = rest.next() {
        match segment {
            "" if rest.peek().is_none() => return Err(SpiffeIdError::TrailingSlash),
            "" => return Err(SpiffeIdError::EmptySegment { at }),
            "." | ".." => return Err(SpiffeIdError::DotSegment { at }),
            _ => {}
        }
        if let Some((offset, byte)) = segment.bytes().enumerate().find(|(_, byte)| !is_path_byte(*byte)) {
            return Err(SpiffeIdError::PathByte { byte, at: at + offset });
        }
        at += segment.len() + 1;
    }
    Ok(())
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

fn path_byte_hint(byte: u8) -> &'static str {
    match byte {
        b'%' => "percent-encoding is not allowed",
        b'?' => "a query is not allowed",
        b'#' => "a fragment is not allowed",
        _ => "only `a-z`, `A-Z`, `0-9`, `.`, `-` and `_` are allowed",
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.uri)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        Self::parse(uri)
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.uri
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of_length(length: usize) -> String {
        let mut uri = String::from("spiffe://example.org/");
        uri.push_str(&"a".repeat(length - uri.len()));
        uri
    }

    #[test]
    fn spiffe_ids_by_requirement() {
        let scheme = |found: &str| Err(SpiffeIdError::Scheme { found: found.into() });
        let name_byte = |byte, at| Err(SpiffeIdError::TrustDomainByte { byte, at });
        let path_byte = |byte, at| Err(SpiffeIdError::PathByte { byte, at });
        let longest_name = format!("spiffe://{}/a", "a".repeat(255));
        let name_too_long = format!("spiffe://{}/a", "a".repeat(256));
        let (longest, too_long, far_too_long) = (id_of_length(2048), id_of_length(2049), id_of_length(204_800));
        let cases: &[(&str, &str, Result<(), SpiffeIdError>)] = &[
            ("ID-01 plain", "spiffe://example.org/photo", Ok(())),
            ("ID-01 other scheme", "https://example.org/photo", scheme("https://example.")),
            ("ID-01 no slashes", "spiffe:example.org/photo", scheme("spiffe:example.o")),
            ("ID-01 one slash", "spiffe:/example.org", scheme("spiffe:/example.")),
            ("ID-01 empty", "", scheme("")),
            ("ID-01 blank before", " spiffe://example.org", scheme(" spiffe://exampl")),
            ("ID-01 escape before", "\u{1b}[2J", scheme("\\u{1b}[2J")),
            ("ID-19 scheme in upper case", "SPIFFE://example.org/photo", scheme("SPIFFE://example")),
            ("ID-02 no trust domain", "spiffe:///photo", Err(SpiffeIdError::NoTrustDomain)),
            ("ID-02 scheme alone", "spiffe://", Err(SpiffeIdError::NoTrustDomain)),
            ("ID-03 query in the name", "spiffe://example.org?a=b", name_byte(b'?', 20)),
            ("ID-03 query in the path", "spiffe://example.org/a?b", path_byte(b'?', 22)),
            ("ID-03 fragment in the name", "spiffe://example.org#a", name_byte(b'#', 20)),
            ("ID-03 fragment in the path", "spiffe://example.org/a#b", path_byte(b'#', 22)),
            ("ID-04 user part", "spiffe://me@example.org/a", name_byte(b'@', 11)),
            ("ID-04 port", "spiffe://example.org:443/a", name_byte(b':', 20)),
            ("ID-05 upper-case name", "spiffe://example.Org/a", name_byte(b'O', 17)),
            ("ID-06 every kind of byte", "spiffe://a.z-0_9/a", Ok(())),
            ("ID-06 not ASCII", "spiffe://ex\u{e4}mple/a", name_byte(0xc3, 11)),
            ("ID-07 percent in the name", "spiffe://ex%61mple/a", name_byte(b'%', 11)),
            ("ID-08 looks like an address", "spiffe://10.0.0.1/db", Ok(())),
            ("ID-08 IPv6 cannot be written", "spiffe://[::1]/db", name_byte(b'[', 9)),
            ("ID-10 percent in path", "spiffe://example.org/a%20b", path_byte(b'%', 22)),
            ("ID-10 encoded dots", "spiffe://example.org/%2e%2e/b", path_byte(b'%', 21)),
            ("ID-11 empty segment", "spiffe://example.org/a//b", Err(SpiffeIdError::EmptySegment { at: 23 })),
            ("ID-11 empty first segment", "spiffe://example.org//b", Err(SpiffeIdError::EmptySegment { at: 21 })),
            ("ID-12 dot", "spiffe://example.org/a/./b", Err(SpiffeIdError::DotSegment { at: 23 })),
            ("ID-12 two dots", "spiffe://example.org/..", Err(SpiffeIdError::DotSegment { at: 21 })),
            ("ID-12 three dots are a name", "spiffe://example.org/...", Ok(())),
            ("ID-12 a dot within is fine", "spiffe://example.org/.a", Ok(())),
            ("ID-13 trailing slash", "spiffe://example.org/", Err(SpiffeIdError::TrailingSlash)),
            ("ID-13 trailing slash after a path", "spiffe://example.org/a/", Err(SpiffeIdError::TrailingSlash)),
            ("ID-13 the trust domain itself", "spiffe://example.org", Ok(())),
            ("ID-14 every kind of byte", "spiffe://example.org/aZ0.-_/b", Ok(())),
            ("ID-14 blank", "spiffe://example.org/a b", path_byte(b' ', 22)),
            ("ID-14 not ASCII", "spiffe://example.org/\u{f6}", path_byte(0xc3, 21)),
            ("ID-14 NUL", "spiffe://example.org/a\0", path_byte(0, 22)),
            ("ID-14 line feed", "spiffe://example.org/a\n", path_byte(b'\n', 22)),
            ("ID-14 tilde", "spiffe://example.org/~a", path_byte(b'~', 21)),
            ("ID-16 at the limit", &longest, Ok(())),
            ("ID-16 one more", &too_long, Err(SpiffeIdError::TooLong { length: 2049 })),
            ("ID-16 a hundred times as long", &far_too_long, Err(SpiffeIdError::TooLong { length: 204_800 })),
            ("ID-18 name at the limit", &longest_name, Ok(())),
            ("ID-18 name one more", &name_too_long, Err(SpiffeIdError::TrustDomainTooLong { length: 256 })),
        ];
        for (requirement, input, expected) in cases {
            assert_eq!(SpiffeId::parse(input).map(drop), *expected, "{requirement}: {input}");
            assert_eq!(check(input).map(drop), *expected, "{requirement}: {input}, checked only");
        }
    }

    #[test]
    fn id_19_paths_compare_by_case() {
        let lower = SpiffeId::parse("spiffe://example.org/a").unwrap();
        let upper = SpiffeId::parse("spiffe://example.org/A").unwrap();
        assert_ne!(lower, upper);
    }

    #[test]
    fn id_17_nothing_longer_is_made() {
        let domain = TrustDomain::parse("example.org").unwrap();
        let fits = format!("/{}", "a".repeat(2048 - 21));
        assert_eq!(SpiffeId::new(&domain, &fits).unwrap().as_str().len(), 2048);
        let too_long = format!("/{}", "a".repeat(2048 - 20));
        assert_eq!(SpiffeId::new(&domain, &too_long), Err(SpiffeIdError::TooLong { length: 2049 }));
    }

    #[test]
    fn parts_of_an_id() {
        let domain = TrustDomain::parse("example.org").unwrap();
        let id = SpiffeId::new(&domain, "/a/b").unwrap();
        assert_eq!(id, SpiffeId::parse("spiffe://example.org/a/b").unwrap());
        assert_eq!((id.path(), id.segments().collect::<Vec<_>>()), ("/a/b", vec!["a", "b"]));
        let own = SpiffeId::new(&domain, "").unwrap();
        assert_eq!(own, SpiffeId::of_trust_domain(&domain));
        assert_eq!((own.path(), own.segments().count()), ("", 0));
        assert_eq!(SpiffeId::new(&domain, "a"), Err(SpiffeIdError::NoLeadingSlash));
        assert_eq!(SpiffeId::new(&domain, "/"), Err(SpiffeIdError::TrailingSlash));
        assert_eq!(SpiffeId::new(&domain, "//"), Err(SpiffeIdError::EmptySegment { at: 21 }));
    }

    #[test]
    fn reserved_is_the_whole_first_segment() {
        let reserved = |uri: &str| SpiffeId::parse(uri).unwrap().is_reserved();
        assert!(reserved("spiffe://example.org/bonafide"));
        assert!(reserved("spiffe://example.org/bonafide/node/a"));
        assert!(!reserved("spiffe://example.org/bonafide-photos"));
        assert!(!reserved("spiffe://example.org/a/bonafide"));
        assert!(!reserved("spiffe://bonafide"));
    }

    #[test]
    fn the_texts_say_where_and_what_to_do() {
        let text = |uri: &str| SpiffeId::parse(uri).unwrap_err().to_string();
        assert_eq!(
            text("spiffe://example.org/a%20b"),
            "`%` at offset 22, in the path: percent-encoding is not allowed"
        );
        assert_eq!(
            text("SPIFFE://example.org/a"),
            "a SPIFFE ID begins with `spiffe://`, this text with `SPIFFE://example`"
        );
        assert_eq!(text("spiffe://example.org/"), "the SPIFFE ID ends in `/`; leave the slash out");
    }
}
