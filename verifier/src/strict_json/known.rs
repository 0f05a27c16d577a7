//! Objects that may have these members and no others.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer as _, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::{JsonError, Strict, parse, read};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strict_json::tests::cases;

    #[test]
    fn what_is_taken_is_what_is_taken_without_names() {
        for (what, input, expected) in cases() {
            let known = parse_known(input, 4, ["a", "b", "exp", "x"]);
            assert_eq!(known.map(drop), expected, "{what}");
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
}
