//! Labels of a node: what `--on LABEL=VALUE` looks at.

use std::collections::BTreeMap;
use std::collections::btree_map::Iter;
use std::fmt;

use crate::placement::check_label;

/// The labels of a node: at most 32, each key 1 to 63 bytes of `[a-zA-Z0-9._/-]` and each value 1 to 63 bytes
/// of `[a-zA-Z0-9._/:@-]`, both starting with a letter or digit. Given by the operator with the invitation; a node cannot
/// choose or change its own.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// How many labels a node can have.
    pub const MAX_COUNT: usize = 32;
    /// The longest key and the longest value, in bytes.
    pub const MAX_LENGTH: usize = 63;

    /// No labels.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks labels that came as pairs.
    ///
    /// # Errors
    /// [`LabelError`] for the first pair that breaks a rule, a key given twice, or too many.
    pub fn from_pairs<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self, LabelError>
    where
        K: Into<String>,
        V: Into<String>,
    {
        let mut labels = Self::new();
        for (key, value) in pairs {
            labels.insert(key, value)?;
        }
        Ok(labels)
    }

    /// Checks labels that came as `KEY=VALUE`, as on a command line.
    ///
    /// # Errors
    /// As [`Labels::from_pairs`], and for a text without `=`.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = &'a str>) -> Result<Self, LabelError> {
        let mut labels = Self::new();
        for pair in pairs {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| LabelError::NoEquals { text: pair.chars().take(Self::MAX_LENGTH).collect() })?;
            labels.insert(key, value)?;
        }
        Ok(labels)
    }

    /// The value of `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Key and value of each label, by key.
    pub fn iter(&self) -> Iter<'_, String, String> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) -> Result<(), LabelError> {
        let (key, value) = (key.into(), value.into());
        check_label(&key, &value)?;
        if self.0.len() == Self::MAX_COUNT && !self.0.contains_key(&key) {
            return Err(LabelError::TooMany { limit: Self::MAX_COUNT });
        }
        if let Some(first) = self.0.get(&key) {
            return Err(LabelError::Twice { first: first.clone(), key, second: value });
        }
        self.0.insert(key, value);
        Ok(())
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a String, &'a String);
    type IntoIter = Iter<'a, String, String>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl IntoIterator for Labels {
    type Item = (String, String);
    type IntoIter = std::collections::btree_map::IntoIter<String, String>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (key, value)) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            write!(f, "{key}={value}")?;
        }
        Ok(())
    }
}

/// Why labels are refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// Not `KEY=VALUE`.
    #[error("`{}` is not a label; write KEY=VALUE, for example `group=web`", text.escape_debug())]
    NoEquals {
        /// The start of what was given.
        text: String,
    },
    /// An empty key or value.
    #[error("a label has an empty {part}; write KEY=VALUE, for example `group=web`")]
    Empty {
        /// `key` or `value`.
        part: &'static str,
    },
    /// A key or value that is too long.
    #[error("a label's {part} is {length} bytes long, at most {limit} are allowed")]
    TooLong {
        /// `key` or `value`.
        part: &'static str,
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A byte that is not allowed there.
    #[error(
        "a label's {part} has `{}` at position {at}; it starts with a letter or digit and goes on with these and `.`, `_`, `/`, `-` \
         (a value also with `:` and `@`)", byte.escape_ascii()
    )]
    Byte {
        /// `key` or `value`.
        part: &'static str,
        /// The byte.
        byte: u8,
        /// Where, counted from 0.
        at: usize,
    },
    /// One key with two values.
    #[error("the label `{key}` is given twice, as `{first}` and as `{second}`")]
    Twice {
        /// The key.
        key: String,
        /// The first value.
        first: String,
        /// The second value.
        second: String,
    },
    /// More labels than a node can have.
    #[error("more than {limit} labels; a node can have {limit}")]
    TooMany {
        /// How many are allowed.
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_by_rule() {
        let long = "v".repeat(63);
        let at_limit = format!("k={long}");
        let above = format!("k={long}v");
        let cases: &[(&str, &[&str], Result<&str, LabelError>)] = &[
            ("none", &[], Ok("")),
            ("sorted", &["zone=b", "group=web"], Ok("group=web,zone=b")),
            ("kubernetes style key", &["app.example.org/tier=front"], Ok("app.example.org/tier=front")),
            ("T-08 value at the limit", &[&at_limit], Ok(&at_limit)),
            ("T-08 limit + 1", &[&above], Err(LabelError::TooLong { part: "value", length: 64, limit: 63 })),
            ("no equals sign", &["group"], Err(LabelError::NoEquals { text: "group".into() })),
            ("empty key", &["=web"], Err(LabelError::Empty { part: "key" })),
            ("empty value", &["group="], Err(LabelError::Empty { part: "value" })),
            ("second equals sign", &["a=b=c"], Err(LabelError::Byte { part: "value", byte: b'=', at: 1 })),
            ("space", &["a=b c"], Err(LabelError::Byte { part: "value", byte: b' ', at: 1 })),
            ("flag-like", &["-a=b"], Err(LabelError::Byte { part: "key", byte: b'-', at: 0 })),
            ("T-31 escape", &["a=\x1b[2J"], Err(LabelError::Byte { part: "value", byte: 0x1b, at: 0 })),
            (
                "key twice",
                &["a=b", "a=c"],
                Err(LabelError::Twice { key: "a".into(), first: "b".into(), second: "c".into() }),
            ),
        ];
        for (rule, input, expected) in cases {
            let labels = Labels::parse(input.iter().copied()).map(|labels| labels.to_string());
            assert_eq!(labels, expected.clone().map(str::to_owned), "{rule}: {input:?}");
        }
    }

    #[test]
    fn no_more_labels_than_allowed() {
        let pairs = |n: usize| (0..n).map(|n| (format!("k{n}"), "v"));
        assert_eq!(Labels::from_pairs(pairs(32)).map(|labels| labels.len()), Ok(32));
        assert_eq!(Labels::from_pairs(pairs(33)), Err(LabelError::TooMany { limit: 32 }));
    }
}
