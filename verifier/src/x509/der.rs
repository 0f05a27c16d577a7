//! Walking the contents of an extension: the parser of `x509-parser`, held to what DER allows.

use x509_parser::asn1_rs::{Any, Class, FromDer, Tag};

/// One DER element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element<'a> {
    pub(super) class: Class,
    pub(super) constructed: bool,
    pub(super) tag: u32,
    pub(super) content: &'a [u8],
}

impl Element<'_> {
    pub(super) fn is(&self, tag: Tag) -> bool {
        self.class == Class::Universal && self.tag == tag.0
    }
}

/// The elements one after the other; an error ends it.
#[derive(Clone, Debug)]
pub(super) struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    pub(super) fn new(content: &'a [u8]) -> Self {
        Self { rest: content }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, NotDer>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let element = element(self.rest);
        self.rest = element.as_ref().map_or(&[], |(_, rest)| rest);
        Some(element.map(|(element, _)| element))
    }
}

/// Exactly one element, of this universal tag, and nothing after it: its content.
pub(super) fn only(tag: Tag, der: &[u8]) -> Result<&[u8], NotDer> {
    match element(der)? {
        (element, []) if element.is(tag) => Ok(element.content),
        _ => Err(NotDer),
    }
}

/// The bytes are not DER, or not what is expected here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NotDer;

fn element(der: &[u8]) -> Result<(Element<'_>, &[u8]), NotDer> {
    let (rest, any) = Any::from_der(der).map_err(|_| NotDer)?;
    let header = der.len() - rest.len() - any.data.len();
    // asn1-rs takes a length in more bytes than it needs; DER does not (X.690 §10.1). A tag of more than one byte, which no
    // certificate has, is refused by the same comparison.
    if header != header_length(any.data.len()) {
        return Err(NotDer);
    }
    let element = Element {
        class: any.header.class(),
        constructed: any.header.is_constructed(),
        tag: any.header.tag().0,
        content: any.data,
    };
    Ok((element, rest))
}

/// Bytes of tag and length before this many bytes of content.
fn header_length(content: usize) -> usize {
    match content {
        0..0x80 => 2,
        0x80..0x100 => 3,
        0x100..0x1_0000 => 4,
        0x1_0000..0x100_0000 => 5,
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn der_only() {
        let long = |length: usize, prefix: &[u8]| [prefix, vec![0; length].as_slice()].concat();
        let cases: Vec<(&str, Vec<u8>, bool)> = vec![
            ("nothing within", vec![0x04, 0x00], true),
            ("127 bytes", long(127, &[0x04, 0x7f]), true),
            ("127 bytes in the long form", long(127, &[0x04, 0x81, 0x7f]), false),
            ("128 bytes", long(128, &[0x04, 0x81, 0x80]), true),
            ("255 bytes in three", long(255, &[0x04, 0x82, 0x00, 0xff]), false),
            ("256 bytes", long(256, &[0x04, 0x82, 0x01, 0x00]), true),
            ("65536 bytes", long(65536, &[0x04, 0x83, 0x01, 0x00, 0x00]), true),
            ("indefinite length", vec![0x24, 0x80, 0x00, 0x00], false),
            ("cut", vec![0x04, 0x02, 0x00], false),
            ("no length", vec![0x04], false),
            ("more behind it", vec![0x04, 0x00, 0x00], false),
            ("another tag", vec![0x05, 0x00], false),
        ];
        for (what, der, accepted) in cases {
            assert_eq!(only(Tag::OctetString, &der).is_ok(), accepted, "{what}");
        }
    }
}
