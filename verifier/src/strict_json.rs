//! JSON as a stranger sends it: no member twice, bounded depth, nothing after the value.
//!
//! `serde_json` alone keeps the last of two members of one name, so that two readers of one document can see two
//! different values. Names are compared after their escapes are resolved: `"exp"` and `"\u0065xp"` are one name.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, map::Entry};

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

/// The same for an object that may have these members and no others, `None` if it is something else. No table is made.
pub(crate) fn parse_known<const N: usize>(
    bytes: &[u8],
    depth: usize,
    names: [&'static str; N],
) -> Result<Option<Known<N>>, JsonError> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return parse(bytes, depth).map(|_| None);
    }
    read(bytes, depth, |strict, input| input.deserialize_map(KnownVisitor { strict, names })).map(Some)
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

/// Members by name, in a table or not.
pub(crate) trait Members {
    /// The member of this name.
    fn member(&self, name: &str) -> Option<&Value>;
}

impl Members for Map<String, Value> {
    fn member(&self, name: &str) -> Option<&Value> {
        self.get(name)
    }
}

/// The members of an object that may have these and no others.
#[derive(Clone, Debug)]
pub(crate) struct Known<const N: usize> {
    names: [&'static str; N],
    values: [Option<Value>; N],
    /// The name of the first that it may not have.
    pub(crate) other: Option<String>,
}

impl<const N: usize> Members for Known<N> {
    fn member(&self, name: &str) -> Option<&Value> {
        self.names.iter().zip(&self.values).find(|(known, _)| **known == name).and_then(|(_, value)| value.as_ref())
    }
}

struct KnownVisitor<'r, const N: usize> {
    strict: Strict<'r>,
    names: [&'static str; N],
}

impl<'de, const N: usize> Visitor<'de> for KnownVisitor<'_, N> {
    type Value = Known<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Known<N>, A::Error> {
        let inside = self.strict.deeper()?;
        let mut known = Known { names: self.names, values: [const { None }; N], other: None };
        while let Some(name) = input.next_key_seed(NameOf(&self.names))? {
            let value = input.next_value_seed(inside)?;
            match name {
                Name::Known(place) => {
                    let slot = known.values.get_mut(place);
                    if slot.and_then(|slot| slot.replace(value)).is_some() {
                        let name = self.names.get(place).copied().unwrap_or_default();
                        return Err(self.strict.refuse(JsonError::duplicate(name)));
                    }
                }
                // Such an object is refused, whatever else it has twice.
                Name::Other(name) => drop(known.other.get_or_insert(name)),
            }
        }
        Ok(known)
    }
}

/// A member's name: which of those that are known, or another.
enum Name {
    Known(usize),
    Other(String),
}

struct NameOf<'n, const N: usize>(&'n [&'static str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for NameOf<'_, N> {
    type Value = Name;

    fn deserialize<D: de::Deserializer<'de>>(self, input: D) -> Result<Name, D::Error> {
        input.deserialize_str(self)
    }
}

impl<const N: usize> Visitor<'_> for NameOf<'_, N> {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        let known = self.0.iter().position(|known| *known == name);
        Ok(known.map_or_else(|| Name::Other(name.to_owned()), Name::Known))
    }
}

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

    #[test]
    fn what_is_taken_and_what_not() {
        let duplicate = |member: &str| Err(JsonError::DuplicateMember { member: member.into() });
        let cases: &[(&str, &[u8], Result<(), JsonError>)] = &[
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
        ];
        for (what, input, expected) in cases {
            assert_eq!(parse(input, 4).map(drop), *expected, "{what}");
            let known = parse_known(input, 4, ["a", "b", "exp", "x"]);
            assert_eq!(known.map(drop), *expected, "{what}, with members that are known");
        }
    }

    #[test]
    fn members_that_are_known_are_found_as_in_a_table() {
        let known = parse_known(br#" {"b":[1],"\u0061":"x","n":null}"#, 4, ["a", "b", "d", "n"]).unwrap().unwrap();
        let found = ["a", "b", "d", "n", "e"].map(|name| known.member(name).map(Value::to_string));
        let expected = [Some("\"x\""), Some("[1]"), None, Some("null"), None];
        assert_eq!(found, expected.map(|value| value.map(str::to_owned)));
        assert_eq!(known.other, None);
        let known = parse_known(br#"{"c":1,"a":1,"d":{},"c":1}"#, 4, ["a"]).unwrap().unwrap();
        assert_eq!(known.other.as_deref(), Some("c"));
        assert!(parse_known(b"[1]", 4, ["a"]).unwrap().is_none());
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
