//! JSON as a stranger sends it: no member twice, bounded depth, nothing after the value.
//!
//! `serde_json` alone keeps the last of two members of one name, so that two readers of one document can see two
//! different values. Names are compared after their escapes are resolved: `"exp"` and `"\u0065xp"` are one name.

#[cfg(feature = "jwt")]
mod known;

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, map::Entry};

#[cfg(feature = "jwt")]
pub(crate) use self::known::{Known, Members, parse_known};

/// Why bytes are not JSON that we take.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Not JSON at all, a number too large, something after the value.
    #[error("not valid JSON at line {line}, column {column}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1; 0 at the very start.
        column: usize,
    },
    /// One object has a member twice.
    #[error("the member `{}` stands twice in one object", member.escape_default())]
    DuplicateMember {
        /// Its name, cut to 64 characters.
        member: String,
    },
    /// Objects and arrays nested more deeply than allowed.
    #[error("nested more than {limit} deep")]
    TooDeep {
        /// The bound.
        limit: usize,
    },
}

/// Reads one JSON value with at most `depth` objects and arrays inside each other. The caller bounds the size.
pub(crate) fn parse(bytes: &[u8], depth: usize) -> Result<Value, JsonError> {
    read(bytes, depth, |strict, input| strict.deserialize(input))
}

fn read<'b, T>(
    bytes: &'b [u8],
    depth: usize,
    value: impl FnOnce(Strict<'_>, &mut Input<'b>) -> serde_json::Result<T>,
) -> Result<T, JsonError> {
    let reason = RefCell::new(None);
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let value = value(Strict { depth, limit: depth, reason: &reason }, &mut input)
        .and_then(|value| input.end().map(|()| value));
    value.map_err(|error| match reason.take() {
        Some(reason) => reason,
        None => JsonError::Syntax { line: error.line(), column: error.column() },
    })
}

type Input<'b> = serde_json::Deserializer<serde_json::de::SliceRead<'b>>;

impl JsonError {
    fn duplicate(member: &str) -> Self {
        Self::DuplicateMember { member: member.chars().take(64).collect() }
    }
}

/// One value, `depth` levels above the bound. What is wrong beyond syntax goes to `reason`, which serde cannot carry.
#[derive(Clone, Copy)]
struct Strict<'r> {
    depth: usize,
    limit: usize,
    reason: &'r RefCell<Option<JsonError>>,
}

impl Strict<'_> {
    fn refuse<E: de::Error>(self, reason: JsonError) -> E {
        *self.reason.borrow_mut() = Some(reason);
        E::custom("refused")
    }

    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { depth, ..self }),
            None => Err(self.refuse(JsonError::TooDeep { limit: self.limit })),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = input.next_element_seed(inside)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut members = Map::new();
        while let Some(name) = input.next_key::<String>()? {
            match members.entry(name) {
                Entry::Vacant(free) => free.insert(input.next_value_seed(inside)?),
                Entry::Occupied(taken) => return Err(self.refuse(JsonError::duplicate(taken.key()))),
            };
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case = (&'static str, &'static [u8], Result<(), JsonError>);

    pub(super) fn cases() -> Vec<Case> {
        let duplicate = |member: &str| Err(JsonError::DuplicateMember { member: member.into() });
        vec![
            ("plain", br#"{"a":[1,-2,3.5,true,null,"x"],"b":{"a":1}}"#, Ok(())),
            ("one name twice", br#"{"a":1,"a":1}"#, duplicate("a")),
            ("one name twice, escaped", br#"{"exp":1,"\u0065xp":2}"#, duplicate("exp")),
            ("one name twice, within", br#"{"x":[{"a":1,"a":2}]}"#, duplicate("a")),
            ("as deep as allowed", br#"[[[[]]]]"#, Ok(())),
            ("one deeper", br#"[[[[[]]]]]"#, Err(JsonError::TooDeep { limit: 4 })),
            ("T-10 1e400", br#"{"a":1e400}"#, Err(JsonError::Syntax { line: 1, column: 10 })),
            ("byte order mark", b"\xef\xbb\xbf{}", Err(JsonError::Syntax { line: 1, column: 1 })),
            ("nothing", b"", Err(JsonError::Syntax { line: 1, column: 0 })),
            ("more after it", b"{} {}", Err(JsonError::Syntax { line: 1, column: 4 })),
            ("single quotes", b"{'a':1}", Err(JsonError::Syntax { line: 1, column: 2 })),
            ("comma at the end", b"[1,]", Err(JsonError::Syntax { line: 1, column: 4 })),
            ("lone surrogate", br#"["\ud800"]"#, Err(JsonError::Syntax { line: 1, column: 9 })),
            ("not UTF-8", b"[\"\xff\"]", Err(JsonError::Syntax { line: 1, column: 3 })),
        ]
    }

    #[test]
    fn what_is_taken_and_what_not() {
        for (what, input, expected) in cases() {
            assert_eq!(parse(input, 4).map(drop), expected, "{what}");
        }
    }

    #[test]
    fn t_32_a_hundred_thousand_deep_is_refused_and_nothing_overflows() {
        let deep = "[".repeat(100_000);
        assert_eq!(parse(deep.as_bytes(), 16), Err(JsonError::TooDeep { limit: 16 }));
    }

    #[test]
    fn integers_stay_integers() {
        let value = parse(b"[18446744073709551615,18446744073709551616,-1,1.0]", 4).unwrap();
        let kinds: Vec<_> = value.as_array().unwrap().iter().map(Value::is_u64).collect();
        assert_eq!(kinds, [true, false, false, false]);
    }
}
