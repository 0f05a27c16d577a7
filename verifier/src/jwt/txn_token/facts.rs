//! The facts of a transaction, as a requester states them: the JSON objects that become `tctx` and `rctx`.

use serde_json::{Map, Value};

use crate::{spiffe::JsonError, strict_json};

/// The largest text: two of them fit into a token.
pub const MAX_FACTS_BYTES: usize = 2048;
/// How many objects and arrays may stand inside each other, the facts themselves included.
pub const MAX_FACTS_DEPTH: usize = 8;

/// Why a text states no facts.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FactsError {
    /// Too long.
    #[error("the facts have {bytes} bytes, at most {MAX_FACTS_BYTES} are taken")]
    TooLarge {
        /// Found.
        bytes: usize,
    },
    /// Not JSON, or a member twice, or nested too deeply.
    #[error("the facts are not acceptable JSON: {0}")]
    Json(#[from] JsonError),
    /// JSON, but no object.
    #[error("the facts are not a JSON object")]
    NotAnObject,
}

/// Reads what `request_details` or `request_context` states.
///
/// # Errors
/// When it is no object within the bounds.
pub fn read_facts(text: &str) -> Result<Map<String, Value>, FactsError> {
    if text.len() > MAX_FACTS_BYTES {
        return Err(FactsError::TooLarge { bytes: text.len() });
    }
    match strict_json::parse(text.as_bytes(), MAX_FACTS_DEPTH)? {
        Value::Object(facts) => Ok(facts),
        _ => Err(FactsError::NotAnObject),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_that_are_read_and_that_are_not() {
        let duplicate = FactsError::Json(JsonError::DuplicateMember { member: "a".into() });
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_FACTS_BYTES - 8));
        let longer = format!("{long} ");
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(7), "]".repeat(7));
        let deeper = format!("{{\"a\":{}1{}}}", "[".repeat(8), "]".repeat(8));
        for (what, text, expected) in [
            ("none", "{}", Ok(())),
            ("some", r#"{"a":1,"b":[true]}"#, Ok(())),
            ("as long as possible", &*long, Ok(())),
            ("longer", &*longer, Err(FactsError::TooLarge { bytes: MAX_FACTS_BYTES + 1 })),
            ("as deep as possible", &*deep, Ok(())),
            ("deeper", &*deeper, Err(FactsError::Json(JsonError::TooDeep { limit: MAX_FACTS_DEPTH }))),
            ("a list", "[]", Err(FactsError::NotAnObject)),
            ("T-10 a member twice", r#"{"a":1,"a":2}"#, Err(duplicate)),
            ("nothing", "", Err(FactsError::Json(JsonError::Syntax { line: 1, column: 0 }))),
        ] {
            assert_eq!(read_facts(text).map(drop), expected, "{what}");
        }
    }
}
