//! The body of a request to the token endpoint: `application/x-www-form-urlencoded` (RFC 6749 appendix B), read without pity.
//!
//! A parameter stands once (RFC 6749 §3.2) and is text; one without a value counts as absent, one that nobody knows is ignored. Two readers of
//! one body never see two values.

use std::collections::BTreeMap;

/// The largest body. A subject token has at most 8 KiB, an assertion as well.
pub(crate) const MAX_BODY: usize = 64 * 1024;
/// The most parameters in one.
const MOST_PARAMETERS: usize = 64;
/// The most bytes of a name.
const MAX_NAME: usize = 128;

/// Parameters by name. `Debug` shows names alone: values are tokens.
pub(crate) struct Form(BTreeMap<String, String>);

/// Why a body is no form.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FormError {
    #[error("the body has {bytes} bytes, at most {MAX_BODY} are read")]
    TooLarge { bytes: usize },
    #[error("byte 0x{byte:02x} at offset {at} does not stand in a form")]
    Byte { byte: u8, at: usize },
    #[error("the `%` at offset {at} is not followed by two hexadecimal digits")]
    Escape { at: usize },
    #[error("a parameter is not UTF-8")]
    NotText,
    #[error("more than {MOST_PARAMETERS} parameters")]
    TooMany,
    #[error("a parameter's name has {bytes} bytes, at most {MAX_NAME} are read")]
    Name { bytes: usize },
    #[error("the parameter `{}` stands twice", name.escape_debug())]
    Twice { name: String },
}

impl Form {
    /// Reads a body.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, FormError> {
        if body.len() > MAX_BODY {
            return Err(FormError::TooLarge { bytes: body.len() });
        }
        if let Some((at, byte)) = body.iter().enumerate().find(|(_, byte)| !matches!(byte, b'!'..=b'~')) {
            return Err(FormError::Byte { byte: *byte, at });
        }
        let is_hex = |at: usize| body.get(at).is_some_and(u8::is_ascii_hexdigit);
        let mut escapes = body.iter().enumerate().filter(|(_, byte)| **byte == b'%');
        if let Some((at, _)) = escapes.find(|(at, _)| !is_hex(at + 1) || !is_hex(at + 2)) {
            return Err(FormError::Escape { at });
        }
        let mut form = BTreeMap::new();
        for (count, (name, value)) in form_urlencoded::parse(body).enumerate() {
            if count == MOST_PARAMETERS {
                return Err(FormError::TooMany);
            }
            // What the decoder puts in the place of bytes that are no text.
            if name.contains('\u{fffd}') || value.contains('\u{fffd}') {
                return Err(FormError::NotText);
            }
            if name.len() > MAX_NAME {
                return Err(FormError::Name { bytes: name.len() });
            }
            if form.contains_key(&*name) {
                return Err(FormError::Twice { name: name.into_owned() });
            }
            form.insert(name.into_owned(), value.into_owned());
        }
        Ok(Self(form))
    }

    /// A parameter's value; an empty one is none.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Property: nothing panics, and what is read is what the same parameters, written anew, say.
pub(crate) fn check_form(body: &[u8]) {
    let Ok(form) = Form::parse(body) else { return };
    let written = form_urlencoded::Serializer::new(String::new()).extend_pairs(&form.0).finish();
    match Form::parse(written.as_bytes()) {
        Ok(again) => assert_eq!(again.0, form.0),
        // Escapes take more room than what they stand for.
        Err(error) => assert!(matches!(error, FormError::TooLarge { .. }), "{error}"),
    }
    assert!(form.0.len() <= MOST_PARAMETERS);
    assert!(!format!("{form:?}").contains('='), "no value is shown");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_that_are_read_and_that_are_not() {
        let many = |count: usize| (0..count).map(|at| format!("p{at}=1")).collect::<Vec<_>>().join("&");
        let (most, more) = (many(64), many(65));
        let long = format!("{}=1", "n".repeat(MAX_NAME + 1));
        let large = format!("a={}", "x".repeat(MAX_BODY));
        type Case<'a> = (&'a str, &'a [u8], Result<Option<&'a str>, FormError>);
        let cases: Vec<Case<'_>> = vec![
            ("plain", b"a=1&b=2", Ok(Some("1"))),
            ("escaped", b"a=%31%20+x", Ok(Some("1  x"))),
            ("an escaped name", b"%61=1", Ok(Some("1"))),
            ("an equals sign in a value", b"a=b=c", Ok(Some("b=c"))),
            ("no value", b"a=", Ok(None)),
            ("no value, no sign", b"a", Ok(None)),
            ("nothing", b"", Ok(None)),
            ("empty parts", b"&&a=1&", Ok(Some("1"))),
            ("as many as possible", most.as_bytes(), Ok(None)),
            ("one more", more.as_bytes(), Err(FormError::TooMany)),
            ("twice", b"a=1&a=1", Err(FormError::Twice { name: "a".into() })),
            ("twice, once escaped", b"a=1&%61=2", Err(FormError::Twice { name: "a".into() })),
            ("twice, once without value", b"a=1&a", Err(FormError::Twice { name: "a".into() })),
            ("a blank", b"a=1 2", Err(FormError::Byte { byte: b' ', at: 3 })),
            ("two lines", b"a=1\r\nb=2", Err(FormError::Byte { byte: b'\r', at: 3 })),
            ("not ASCII", "a=ä".as_bytes(), Err(FormError::Byte { byte: 0xc3, at: 2 })),
            ("half an escape", b"a=%4", Err(FormError::Escape { at: 2 })),
            ("no escape", b"a=%zz", Err(FormError::Escape { at: 2 })),
            ("escaped bytes that are no text", b"a=%ff", Err(FormError::NotText)),
            ("a long name", long.as_bytes(), Err(FormError::Name { bytes: 129 })),
            ("too large", large.as_bytes(), Err(FormError::TooLarge { bytes: MAX_BODY + 2 })),
        ];
        for (what, body, expected) in cases {
            let found = Form::parse(body);
            assert_eq!(found.as_ref().map(|form| form.get("a")).map_err(Clone::clone), expected, "{what}");
            check_form(body);
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 10_000, ..Default::default() })]

        #[test]
        fn any_body(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            check_form(&body);
        }

        #[test]
        fn bodies_that_look_like_forms(body in "([a-c%0-9f+=&]{1,3}){0,30}") {
            check_form(body.as_bytes());
        }
    }
}
