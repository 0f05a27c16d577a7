//! Where a service may run: the words after `--on`.

use std::fmt;
use std::str::FromStr;

use crate::labels::{LabelError, Labels};
use crate::node_name::{NodeName, NodeNameError};

/// Nodes that may hold a service. There is no default: a node can give away what it may hold, so where is said.
///
/// Written as `web-1` (a node), `group=web` (every node with that label) or `any` (every node).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Placement {
    /// The node of that name.
    Node(NodeName),
    /// Every node with that label.
    Label {
        /// The label's key.
        key: String,
        /// Its value, compared whole.
        value: String,
    },
    /// Every node.
    Any,
}

impl Placement {
    /// How many placements a service can have.
    pub const MAX_COUNT: usize = 64;

    /// Reads `any`, `LABEL=VALUE` or the name of a node.
    ///
    /// # Errors
    /// [`PlacementError`] says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, PlacementError> {
        if text == "any" {
            return Ok(Self::Any);
        }
        match text.split_once('=') {
            Some((key, value)) => {
                check_label(key, value)?;
                Ok(Self::Label { key: key.to_owned(), value: value.to_owned() })
            }
            None => Ok(Self::Node(NodeName::parse(text)?)),
        }
    }

    /// Whether the node of that name and these labels is one of them.
    #[must_use]
    pub fn covers(&self, name: &NodeName, labels: &Labels) -> bool {
        match self {
            Self::Node(node) => node == name,
            Self::Label { key, value } => labels.value(key) == Some(value),
            Self::Any => true,
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "{name}"),
            Self::Label { key, value } => write!(f, "{key}={value}"),
            Self::Any => f.write_str("any"),
        }
    }
}

impl FromStr for Placement {
    type Err = PlacementError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Why a text does not say where.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// Not the name of a node.
    #[error("`--on` takes a node's name, LABEL=VALUE or `any`: {0}")]
    Node(#[from] NodeNameError),
    /// Not a label.
    #[error("`--on` takes a node's name, LABEL=VALUE or `any`: {0}")]
    Label(#[from] LabelError),
}

/// The rules of one label; [`Labels`] and [`Placement`] share them.
pub(crate) fn check_label(key: &str, value: &str) -> Result<(), LabelError> {
    for (part, text, extra) in [("key", key, &b"._/-"[..]), ("value", value, &b"._/-:@"[..])] {
        if text.is_empty() {
            return Err(LabelError::Empty { part });
        }
        if text.len() > Labels::MAX_LENGTH {
            return Err(LabelError::TooLong { part, length: text.len(), limit: Labels::MAX_LENGTH });
        }
        for (at, byte) in text.bytes().enumerate() {
            if !(byte.is_ascii_alphanumeric() || at > 0 && extra.contains(&byte)) {
                return Err(LabelError::Byte { part, byte, at });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placements_by_rule() {
        let cases: &[(&str, &str, Result<(), PlacementError>)] = &[
            ("every node", "any", Ok(())),
            ("a node", "web-1", Ok(())),
            ("a label", "group=web", Ok(())),
            ("empty", "", Err(PlacementError::Node(NodeNameError::Empty))),
            ("wildcard", "*", Err(PlacementError::Node(NodeNameError::Byte { byte: b'*', at: 0 }))),
            ("upper case any", "ANY", Err(PlacementError::Node(NodeNameError::Byte { byte: b'A', at: 0 }))),
            ("empty value", "group=", Err(PlacementError::Label(LabelError::Empty { part: "value" }))),
        ];
        for (rule, input, expected) in cases {
            let placement = Placement::parse(input);
            if let Ok(placement) = &placement {
                assert_eq!(placement.to_string(), *input, "{rule}: prints what it parsed");
            }
            assert_eq!(placement.map(drop), *expected, "{rule}: {input:?}");
        }
    }

    #[test]
    fn covers_exactly_what_it_names() {
        let labels = Labels::parse(["group=web"]).unwrap();
        let name = NodeName::parse("web-1").unwrap();
        for (text, expected) in [
            ("any", true),
            ("web-1", true),
            ("web-10", false),
            ("group=web", true),
            ("group=we", false),
            ("group=webs", false),
            ("zone=web", false),
        ] {
            assert_eq!(Placement::parse(text).unwrap().covers(&name, &labels), expected, "{text}");
        }
    }
}
