//! The one reader of subject alternative names (RFC 5280 §4.2.1.6).
//!
//! It is strict where others skip: an entry that cannot be read is no entry less, but a reason to refuse the certificate
//! (T-45), or else two URIs could be counted as one.

use x509_parser::asn1_rs::{Class, Tag};

use super::der::{Elements, NotDer, only};

/// A name in a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum GeneralName<'a> {
    /// A URI: here stands the SPIFFE ID.
    Uri(&'a str),
    /// A DNS name.
    Dns(&'a str),
    /// An e-mail address.
    Email(&'a str),
    /// An address of 4 or 16 bytes.
    Ip(&'a [u8]),
    /// A distinguished name, DER.
    Directory(&'a [u8]),
    /// An object identifier, its content.
    RegisteredId(&'a [u8]),
    /// Something with a type of its own, DER.
    Other(&'a [u8]),
}

/// Why the extension cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SanFlaw {
    /// Not a SEQUENCE in DER, or bytes after it.
    #[error("the list is not DER")]
    NotDer,
    /// A list without entries.
    #[error("the list is empty")]
    Empty,
    /// An entry that is not DER, is cut short, or has a tag that no name has.
    #[error("entry {index} cannot be read")]
    Entry {
        /// Counted from 0.
        index: usize,
    },
    /// An entry that is no character string, or an empty one, where there must be one.
    #[error("entry {index} is empty or not printable ASCII")]
    Text {
        /// Counted from 0.
        index: usize,
    },
}

/// The subject alternative names of a certificate, all of them read and well-formed.
#[derive(Clone, Copy, Debug)]
pub struct SubjectAltName<'a> {
    critical: bool,
    // INVARIANT: every element of it is a name that `read` takes.
    content: &'a [u8],
    uris: usize,
    first_uri: Option<&'a str>,
}

impl<'a> SubjectAltName<'a> {
    /// Reads the value of the extension.
    pub(crate) fn parse(critical: bool, value: &'a [u8]) -> Result<Self, SanFlaw> {
        let content = only(Tag::Sequence, value).map_err(|NotDer| SanFlaw::NotDer)?;
        let mut names = Self { critical, content, uris: 0, first_uri: None };
        if content.is_empty() {
            return Err(SanFlaw::Empty);
        }
        for (index, element) in Elements::new(content).enumerate() {
            let element = element.map_err(|NotDer| SanFlaw::Entry { index })?;
            if let GeneralName::Uri(uri) = read(element).map_err(|flaw| flaw.at(index))? {
                names.uris += 1;
                names.first_uri.get_or_insert(uri);
            }
        }
        Ok(names)
    }

    /// Whether the extension is marked critical.
    #[must_use]
    pub fn critical(&self) -> bool {
        self.critical
    }

    /// How many URIs there are, of whatever scheme.
    #[must_use]
    pub fn uri_count(&self) -> usize {
        self.uris
    }

    /// The first URI.
    #[must_use]
    pub fn first_uri(&self) -> Option<&'a str> {
        self.first_uri
    }

    /// All names, in their order.
    pub fn names(&self) -> impl Iterator<Item = GeneralName<'a>> + use<'a> {
        Elements::new(self.content).filter_map(|element| read(element.ok()?).ok())
    }
}

enum Unreadable {
    Entry,
    Text,
}

impl Unreadable {
    fn at(self, index: usize) -> SanFlaw {
        match self {
            Self::Entry => SanFlaw::Entry { index },
            Self::Text => SanFlaw::Text { index },
        }
    }
}

fn read(element: super::der::Element<'_>) -> Result<GeneralName<'_>, Unreadable> {
    let content = element.content;
    if element.class != Class::ContextSpecific {
        return Err(Unreadable::Entry);
    }
    match (element.tag, element.constructed) {
        (0, true) => {
            // OtherName: a type, then a value in [0].
            let mut parts = Elements::new(content);
            let typed = matches!(parts.next(), Some(Ok(kind)) if kind.is(Tag::Oid) && !kind.content.is_empty());
            let valued = matches!(parts.next(), Some(Ok(value))
                if value.class == Class::ContextSpecific && value.tag == 0 && value.constructed);
            if typed && valued && parts.next().is_none() {
                Ok(GeneralName::Other(content))
            } else {
                Err(Unreadable::Entry)
            }
        }
        (1, false) => text(content).map(GeneralName::Email),
        (2, false) => text(content).map(GeneralName::Dns),
        (4, true) => match only(Tag::Sequence, content) {
            Ok(_) => Ok(GeneralName::Directory(content)),
            Err(NotDer) => Err(Unreadable::Entry),
        },
        (6, false) => text(content).map(GeneralName::Uri),
        (7, false) if matches!(content.len(), 4 | 16) => Ok(GeneralName::Ip(content)),
        (8, false) if !content.is_empty() => Ok(GeneralName::RegisteredId(content)),
        // x400Address and ediPartyName, which nobody uses, among them.
        _ => Err(Unreadable::Entry),
    }
}

/// An IA5String of which a person could say what it is.
fn text(content: &[u8]) -> Result<&str, Unreadable> {
    if content.is_empty() || !content.iter().all(|byte| matches!(byte, 0x20..0x7f)) {
        return Err(Unreadable::Text);
    }
    std::str::from_utf8(content).map_err(|_| Unreadable::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn san(entries: &[&[u8]]) -> Vec<u8> {
        let content = entries.concat();
        assert!(content.len() < 0x80);
        [&[0x30, content.len() as u8], content.as_slice()].concat()
    }

    const GOOD: &[u8] = b"\x86\x17spiffe://example.org/db";

    #[test]
    fn t_45_an_odd_entry_refuses_the_whole_list() {
        let entry = |index| Err(SanFlaw::Entry { index });
        let text = |index| Err(SanFlaw::Text { index });
        let cases: Vec<(&str, Vec<u8>, Result<usize, SanFlaw>)> = vec![
            ("one URI", san(&[GOOD]), Ok(1)),
            ("two URIs", san(&[GOOD, b"\x86\x01a"]), Ok(2)),
            ("URI and DNS", san(&[GOOD, b"\x82\x01a"]), Ok(1)),
            ("URI and e-mail", san(&[GOOD, b"\x81\x03a@b"]), Ok(1)),
            ("URI and IPv4", san(&[GOOD, b"\x87\x04\x7f\0\0\x01"]), Ok(1)),
            ("URI and directory name", san(&[GOOD, b"\xa4\x02\x30\0"]), Ok(1)),
            ("URI and other name", san(&[GOOD, b"\xa0\x07\x06\x01\x2a\xa0\x02\x05\0"]), Ok(1)),
            ("URI and registered ID", san(&[GOOD, b"\x88\x01\x2a"]), Ok(1)),
            ("URI with 0xFF", san(&[GOOD, b"\x86\x02a\xff"]), text(1)),
            ("URI of length 0", san(&[GOOD, b"\x86\x00"]), text(1)),
            ("URI with NUL", san(&[b"\x86\x02a\0", GOOD]), text(0)),
            ("DNS of length 0 (T-15)", san(&[GOOD, b"\x82\x00"]), text(1)),
            ("cut entry", san(&[GOOD, b"\x86\x05a"]), entry(1)),
            ("tag alone", san(&[GOOD, b"\x86"]), entry(1)),
            ("unknown tag", san(&[GOOD, b"\x89\x01a"]), entry(1)),
            ("tag of two bytes", san(&[GOOD, b"\x9f\x06\x01a"]), entry(1)),
            ("universal tag", san(&[GOOD, b"\x16\x01a"]), entry(1)),
            ("URI constructed", san(&[GOOD, b"\xa6\x03\x16\x01a"]), entry(1)),
            ("length too long for DER", san(&[GOOD, b"\x86\x81\x01a"]), entry(1)),
            ("IP of 5 bytes", san(&[GOOD, b"\x87\x05\0\0\0\0\0"]), entry(1)),
            ("other name without value", san(&[GOOD, b"\xa0\x03\x06\x01\x2a"]), entry(1)),
            ("directory name that is none", san(&[GOOD, b"\xa4\x02\x05\0"]), entry(1)),
            ("empty list (T-15)", san(&[]), Err(SanFlaw::Empty)),
            ("nothing", vec![], Err(SanFlaw::NotDer)),
            ("a SET", vec![0x31, 0x00], Err(SanFlaw::NotDer)),
            ("bytes after the list", [san(&[GOOD]), vec![0]].concat(), Err(SanFlaw::NotDer)),
        ];
        for (what, value, expected) in cases {
            let read = SubjectAltName::parse(false, &value);
            assert_eq!(read.as_ref().map(SubjectAltName::uri_count).map_err(|flaw| *flaw), expected, "{what}");
            if let Ok(names) = read {
                let uris = names.names().filter(|name| matches!(name, GeneralName::Uri(_))).count();
                assert_eq!(uris, names.uri_count(), "{what}: seen again");
            }
        }
    }
}
