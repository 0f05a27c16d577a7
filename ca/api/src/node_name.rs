//! The name of a node, the last segment of `spiffe://TD/bonafide/node/NAME`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A node's name such as `web-1`: 1 to 63 bytes, `[a-z0-9]` first, then `[a-z0-9.-]`, and neither `any`
/// (which stands for every node in `--on any`) nor `bonafide`. So it is always a valid path segment of a
/// SPIFFE ID (ID-11, ID-12, ID-14). Cloning is cheap.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The longest name, in bytes.
    pub const MAX_LENGTH: usize = 63;

    /// Takes `text` as a node's name.
    ///
    /// # Errors
    /// [`NodeNameError`] says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, NodeNameError> {
        if text.is_empty() {
            return Err(NodeNameError::Empty);
        }
        if text.len() > Self::MAX_LENGTH {
            return Err(NodeNameError::TooLong { length: text.len(), limit: Self::MAX_LENGTH });
        }
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' => {}
                b'.' | b'-' if at > 0 => {}
                b'.' | b'-' => return Err(NodeNameError::Start { byte }),
                byte => return Err(NodeNameError::Byte { byte, at }),
            }
        }
        if RESERVED.contains(&text) {
            return Err(NodeNameError::Reserved { name: text.to_owned() });
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for NodeName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = NodeNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Why a text is not a node's name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeNameError {
    /// No text at all.
    #[error("a node name is empty; give 1 to 63 characters of a-z, 0-9, `.` and `-`")]
    Empty,
    /// More bytes than fit.
    #[error("a node name is {length} bytes long, at most {limit} are allowed")]
    TooLong {
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Starts with a dot or a dash.
    #[error("a node name starts with `{}`; it must start with a-z or 0-9", byte.escape_ascii())]
    Start {
        /// The first byte.
        byte: u8,
    },
    /// A byte that no name has.
    #[error("a node name has `{}` at position {at}; allowed are a-z (lower case), 0-9, `.` and `-`", byte.escape_ascii())]
    Byte {
        /// The byte.
        byte: u8,
        /// Where, counted from 0.
        at: usize,
    },
    /// A word that means something else.
    #[error("`{name}` cannot be a node's name: the word is reserved; choose another")]
    Reserved {
        /// The word.
        name: String,
    },
}

/// `any` would be read as every node in `--on any`; `bonafide` is the reserved path segment.
const RESERVED: [&str; 2] = ["any", crate::identity::RESERVED_SEGMENT];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_rule() {
        let long = "a".repeat(63);
        let too_long = "a".repeat(64);
        let far_too_long = "a".repeat(6300);
        let cases: &[(&str, &str, Result<(), NodeNameError>)] = &[
            ("plain", "web-1", Ok(())),
            ("one byte", "a", Ok(())),
            ("digit first", "1.example.org", Ok(())),
            ("T-08 at the limit", &long, Ok(())),
            ("T-08 limit + 1", &too_long, Err(NodeNameError::TooLong { length: 64, limit: 63 })),
            ("T-08 100 x limit", &far_too_long, Err(NodeNameError::TooLong { length: 6300, limit: 63 })),
            ("empty", "", Err(NodeNameError::Empty)),
            ("ID-12 dot segment", ".", Err(NodeNameError::Start { byte: b'.' })),
            ("ID-12 dot dot segment", "..", Err(NodeNameError::Start { byte: b'.' })),
            ("dash first (a flag)", "-rf", Err(NodeNameError::Start { byte: b'-' })),
            ("ID-11 slash", "a/b", Err(NodeNameError::Byte { byte: b'/', at: 1 })),
            ("upper case", "Web", Err(NodeNameError::Byte { byte: b'W', at: 0 })),
            ("underscore", "a_b", Err(NodeNameError::Byte { byte: b'_', at: 1 })),
            ("ID-10 percent", "a%2e", Err(NodeNameError::Byte { byte: b'%', at: 1 })),
            ("equals sign (a label)", "a=b", Err(NodeNameError::Byte { byte: b'=', at: 1 })),
            ("T-31 escape", "a\x1b[2J", Err(NodeNameError::Byte { byte: 0x1b, at: 1 })),
            ("not ASCII", "ü", Err(NodeNameError::Byte { byte: 0xc3, at: 0 })),
            ("reserved", "any", Err(NodeNameError::Reserved { name: "any".into() })),
            ("reserved", "bonafide", Err(NodeNameError::Reserved { name: "bonafide".into() })),
            ("not reserved", "anybody", Ok(())),
        ];
        for (rule, input, expected) in cases {
            assert_eq!(NodeName::parse(input).map(drop), *expected, "{rule}: {input:?}");
        }
    }

    #[test]
    fn texts_escape_what_was_given() {
        let error = NodeName::parse("a\x1b").unwrap_err().to_string();
        assert_eq!(error, "a node name has `\\x1b` at position 1; allowed are a-z (lower case), 0-9, `.` and `-`");
    }
}
