//! One encoding and no other: what our parser forgives, another verifier may not.

use x509_parser::asn1_rs::{Any, Class, FromDer, Tag};

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule = Rule { name: "der", source: "RFC 5280 §4.1, X.690 §8.1.2.5, §10.1, §11.1", check };

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    if candidate.bytes.first() != Some(&SEQUENCE) {
        return Err("the outermost element is no SEQUENCE".to_owned());
    }
    walk(candidate.bytes, Tagging::Explicit, MAX_DEPTH)?;
    candidate.tbs.extensions().iter().try_for_each(|extension| walk(extension.value, Tagging::Implicit, MAX_DEPTH))
}

/// What an element with a tag of its own holds.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Tagging {
    /// Another element: version and extensions.
    Explicit,
    /// Its content: names and key identifiers.
    Implicit,
}

/// Every element has the shortest length, and is constructed exactly if it holds others; what is TRUE is 0xff, and what is
/// FALSE is not written.
fn walk(mut der: &[u8], tagging: Tagging, depth: u8) -> Result<(), Finding> {
    while !der.is_empty() {
        let (rest, any) = Any::from_der(der).map_err(|_| "an element cannot be read".to_owned())?;
        let header = der.len() - rest.len() - any.data.len();
        if header != header_length(any.data.len()) {
            return Err("a length is longer than it need be".to_owned());
        }
        let (class, tag) = (any.header.class(), any.header.tag());
        let constructed = any.header.is_constructed();
        match class {
            Class::Universal => {
                if constructed != matches!(tag, Tag::Sequence | Tag::Set) {
                    return Err(format!("an element of type {tag} has the wrong form"));
                }
            }
            Class::ContextSpecific => {
                // Which they are, the rules that read them say.
                if constructed != (tagging == Tagging::Explicit) || tag.0 > 8 {
                    return Err(format!("the element [{}] has the wrong form", tag.0));
                }
            }
            Class::Application | Class::Private => {
                return Err("an element of a class that no certificate has".to_owned());
            }
        }
        if tag == Tag::Boolean && class == Class::Universal && any.data != [0xff] {
            return Err("a BOOLEAN is not TRUE".to_owned());
        }
        // Our parser takes any tag for that of an object identifier, which is what a SEQUENCE of a leaf begins with, if not
        // with a time or something that holds others.
        let begins_well = |first: &u8| matches!(first, 0x06 | 0x17 | 0x18 | 0x30 | 0x31 | 0x80..);
        if tagging == Tagging::Explicit && tag == Tag::Sequence && !any.data.first().is_none_or(begins_well) {
            return Err("a SEQUENCE begins with what none begins with".to_owned());
        }
        if constructed {
            let deeper = depth.checked_sub(1).ok_or_else(|| "elements lie too deep".to_owned())?;
            walk(any.data, tagging, deeper)?;
        }
        der = rest;
    }
    Ok(())
}

/// Bytes of tag and length before this many bytes of content.
fn header_length(content: usize) -> usize {
    match content {
        0..0x80 => 2,
        0x80..0x100 => 3,
        _ => 4,
    }
}

const SEQUENCE: u8 = 0x30;
/// A TBSCertificate is seven deep at most.
const MAX_DEPTH: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_41_one_encoding_and_no_other() {
        let long = |length: usize, prefix: &[u8]| [prefix, vec![0; length].as_slice()].concat();
        let cases: Vec<(&str, Vec<u8>, bool)> = vec![
            ("127 bytes", long(127, &[4, 0x7f]), true),
            ("127 bytes in the long form", long(127, &[4, 0x81, 0x7f]), false),
            ("128 bytes", long(128, &[4, 0x81, 0x80]), true),
            ("255 bytes", long(255, &[4, 0x81, 0xff]), true),
            ("255 bytes in three", long(255, &[4, 0x82, 0, 0xff]), false),
            ("256 bytes", long(256, &[4, 0x82, 1, 0]), true),
            ("indefinite length", vec![0x30, 0x80, 0, 0], false),
            ("cut", vec![4, 2, 0], false),
            ("TRUE", vec![1, 1, 0xff], true),
            ("another TRUE", vec![1, 1, 1], false),
            ("FALSE", vec![1, 1, 0], false),
            ("a primitive SEQUENCE", vec![0x10, 0], false),
            ("a constructed OCTET STRING", vec![0x24, 0], false),
            ("[APPLICATION 0]", vec![0x40, 0], false),
            ("[0], primitive", vec![0x80, 0], false),
            ("[16]", vec![0xb0, 0], false),
            ("seven deep", vec![0x30, 12, 0x30, 10, 0x30, 8, 0x30, 6, 0x30, 4, 0x30, 2, 0x30, 0], true),
            (
                "T-32 ten deep",
                vec![0x30, 18, 0x30, 16, 0x30, 14, 0x30, 12, 0x30, 10, 0x30, 8, 0x30, 6, 0x30, 4, 0x30, 2, 0x30, 0],
                false,
            ),
        ];
        for (what, der, accepted) in cases {
            assert_eq!(walk(&der, Tagging::Explicit, MAX_DEPTH).is_ok(), accepted, "{what}");
        }
        assert!(walk(&[0x86, 1, b'a'], Tagging::Implicit, MAX_DEPTH).is_ok());
        assert!(walk(&[0xa6, 0], Tagging::Implicit, MAX_DEPTH).is_err());
    }
}
