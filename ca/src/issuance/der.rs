//! A reader of DER that takes one encoding and no other: what the parsers of others forgive, it does not.
//!
//! It frames elements, nothing more: the rules compare what is in them byte for byte, and the reading again after the signature
//! does the same. Nothing is written with it.

/// One element.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Element<'a> {
    /// Class, form and number, in the one byte that every tag of a certificate fits into.
    pub(super) tag: u8,
    /// What is in it.
    pub(super) content: &'a [u8],
    /// All of it.
    pub(super) whole: &'a [u8],
}

/// The bytes are not the one encoding of anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NotDer;

/// Takes elements off the front of some bytes.
#[derive(Clone, Debug)]
pub(super) struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    /// Of these bytes, one element behind the other.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next one, whatever it is.
    pub(super) fn next(&mut self) -> Result<Element<'a>, NotDer> {
        let (element, rest) = split(self.rest)?;
        self.rest = rest;
        Ok(element)
    }

    /// The next one, which has this tag.
    pub(super) fn next_of(&mut self, tag: u8) -> Result<Element<'a>, NotDer> {
        let element = self.next()?;
        if element.tag == tag { Ok(element) } else { Err(NotDer) }
    }

    /// The next one, if it has this tag; else it stays.
    pub(super) fn next_if(&mut self, tag: u8) -> Result<Option<Element<'a>>, NotDer> {
        if self.rest.first() == Some(&tag) { self.next().map(Some) } else { Ok(None) }
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing must be left.
    pub(super) fn end(self) -> Result<(), NotDer> {
        if self.is_empty() { Ok(()) } else { Err(NotDer) }
    }
}

/// The only element of these bytes, which has this tag.
pub(super) fn only(bytes: &[u8], tag: u8) -> Result<Element<'_>, NotDer> {
    let mut elements = Elements::of(bytes);
    let element = elements.next_of(tag)?;
    elements.end()?;
    Ok(element)
}

/// Tag, length in as few bytes as it needs (X.690 §10.1), content.
fn split(bytes: &[u8]) -> Result<(Element<'_>, &[u8]), NotDer> {
    let (header, length) = match bytes {
        [tag, ..] if tag & LONG_TAG == LONG_TAG => return Err(NotDer),
        [_, length @ 0..=0x7f, ..] => (2, usize::from(*length)),
        [_, 0x81, length @ 0x80..=0xff, ..] => (3, usize::from(*length)),
        [_, 0x82, high @ 1..=0xff, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        _ => return Err(NotDer),
    };
    let (whole, rest) = bytes.split_at_checked(header + length).ok_or(NotDer)?;
    let (content, tag) = (whole.get(header..).ok_or(NotDer)?, *whole.first().ok_or(NotDer)?);
    Ok((Element { tag, content, whole }, rest))
}

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
/// The number stands in the bytes that follow: no certificate has such a tag.
const LONG_TAG: u8 = 0x1f;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_41_one_encoding_and_no_other() {
        let long = |length: usize, prefix: &[u8]| [prefix, vec![0; length].as_slice()].concat();
        let cases: Vec<(&str, Vec<u8>, bool)> = vec![
            ("nothing within", vec![4, 0], true),
            ("127 bytes", long(127, &[4, 0x7f]), true),
            ("127 bytes in the long form", long(127, &[4, 0x81, 0x7f]), false),
            ("128 bytes", long(128, &[4, 0x81, 0x80]), true),
            ("255 bytes", long(255, &[4, 0x81, 0xff]), true),
            ("255 bytes in three", long(255, &[4, 0x82, 0, 0xff]), false),
            ("256 bytes", long(256, &[4, 0x82, 1, 0]), true),
            ("65,535 bytes", long(65_535, &[4, 0x82, 0xff, 0xff]), true),
            ("65,536 bytes: no certificate is so long", long(65_536, &[4, 0x83, 1, 0, 0]), false),
            ("a length of 2^64 - 1", vec![4, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], false),
            ("indefinite length", vec![0x24, 0x80, 0, 0], false),
            ("a long tag", vec![0x1f, 0x20, 0], false),
            ("another tag", vec![5, 0], false),
            ("a constructed one", vec![0x24, 0], false),
            ("cut", vec![4, 2, 0], false),
            ("cut in its length", vec![4, 0x82, 1], false),
            ("no length", vec![4], false),
            ("nothing", vec![], false),
            ("more behind it", vec![4, 0, 0], false),
        ];
        for (what, bytes, accepted) in cases {
            assert_eq!(only(&bytes, OCTET_STRING).is_ok(), accepted, "{what}");
        }
    }

    proptest::proptest! {
        /// What was read is what stands there, and nothing is read beyond the end.
        #[test]
        fn elements_put_together_are_the_bytes(bytes: Vec<u8>) {
            let mut elements = Elements::of(&bytes);
            let mut read = Vec::new();
            while let Ok(element) = elements.next() {
                proptest::prop_assert!(element.whole.ends_with(element.content));
                read.extend_from_slice(element.whole);
            }
            proptest::prop_assert!(bytes.starts_with(&read));
        }
    }
}
