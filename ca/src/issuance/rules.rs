//! The profile of the leaves that this CA signs, one rule a file, each with its source.
//!
//! [`check`] runs every rule on the exact bytes that are about to be signed, against what was asked for and against the
//! certificate of the authority that will sign. The bytes are framed by a strict reader and compared byte for byte wherever one
//! encoding is right; the last rule has the verifier read them with x509-parser. Neither is the program that wrote them (rcgen),
//! so that a fault in one of the three shows before there is a signature.

mod basic_constraints;
mod dns_names;
mod extended_key_usage;
mod extensions;
mod issuer_name;
mod key_identifiers;
mod key_usage;
mod public_key;
mod serial_number;
mod signature_algorithm;
mod size;
mod spiffe_id;
mod subject;
mod subject_alternative_name;
#[cfg(test)]
mod tests;
mod validity;
mod verifier_profile;
mod version;

use std::ops::Range;

use bonafide_verifier::clock::Timestamp;

use super::{
    authority::IssuerFacts,
    der::{self, BOOLEAN, Element, Elements, INTEGER, NotDer, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, UTC_TIME},
    request::{LeafRequest, SERIAL_LENGTH, Validity},
};

/// One rule of the profile.
pub(crate) struct Rule {
    /// Its name in errors and logs.
    pub(crate) name: &'static str,
    /// Where it comes from.
    pub(crate) source: &'static str,
    check: fn(&Candidate<'_>) -> Result<(), Finding>,
}

/// What a rule found wrong, in one line.
type Finding = String;

/// The to-be-signed bytes as they read, beside what they should say.
struct Candidate<'a> {
    bytes: &'a [u8],
    tbs: Tbs<'a>,
    request: &'a LeafRequest,
    validity: Validity,
    serial: &'a [u8],
    issuer: &'a IssuerFacts,
    at: Timestamp,
}

impl<'a> Candidate<'a> {
    /// The content of the extension with this identifier.
    fn extension(&self, id: &[u8]) -> Result<&'a [u8], Finding> {
        let found = self.tbs.extensions.iter().find(|extension| extension.id == id);
        found.map(|extension| extension.value).ok_or_else(|| format!("the extension {id:02x?} is missing"))
    }
}

/// The parts of a TBSCertificate of version 3 without unique identifiers (RFC 5280 §4.1).
struct Tbs<'a> {
    version: Element<'a>,
    serial: Element<'a>,
    signature: Element<'a>,
    issuer: Element<'a>,
    validity: Element<'a>,
    subject: Element<'a>,
    public_key: Element<'a>,
    extensions: Vec<Extension<'a>>,
}

/// An extension: its identifier without tag and length, and what stands in its OCTET STRING.
struct Extension<'a> {
    id: &'a [u8],
    critical: bool,
    value: &'a [u8],
}

impl<'a> Tbs<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, NotDer> {
        let mut parts = Elements::of(der::only(bytes, SEQUENCE)?.content);
        let (version, serial) = (parts.next_of(VERSION)?, parts.next_of(INTEGER)?);
        let (signature, issuer) = (parts.next_of(SEQUENCE)?, parts.next_of(SEQUENCE)?);
        let (validity, subject) = (parts.next_of(SEQUENCE)?, parts.next_of(SEQUENCE)?);
        let (public_key, extensions) = (parts.next_of(SEQUENCE)?, parts.next_of(EXTENSIONS)?);
        parts.end()?;
        let mut each = Elements::of(der::only(extensions.content, SEQUENCE)?.content);
        let mut extensions = Vec::with_capacity(MAX_EXTENSIONS);
        while !each.is_empty() && extensions.len() < MAX_EXTENSIONS {
            let mut parts = Elements::of(each.next_of(SEQUENCE)?.content);
            let id = parts.next_of(OBJECT_IDENTIFIER)?.content;
            let critical = match parts.next_if(BOOLEAN)? {
                None => false,
                // What is FALSE is not written, and TRUE is one byte (X.690 §11.1, §11.5).
                Some(Element { content: [0xff], .. }) => true,
                Some(_) => return Err(NotDer),
            };
            let value = parts.next_of(OCTET_STRING)?.content;
            parts.end()?;
            extensions.push(Extension { id, critical, value });
        }
        each.end()?;
        Ok(Self { version, serial, signature, issuer, validity, subject, public_key, extensions })
    }
}

/// A leaf that was about to be signed broke a rule of the profile. It is the CA's fault, never the asker's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the certificate that was about to be signed breaks the rule `{rule}` ({source_of_rule}): {finding}")]
pub(crate) struct RuleViolation {
    /// The rule's name.
    pub(crate) rule: &'static str,
    /// The rule's source.
    pub(crate) source_of_rule: &'static str,
    /// What was found.
    pub(crate) finding: String,
}

/// Runs every rule on `bytes`, the DER of a TBSCertificate that was asked for with this serial number, which its record names.
///
/// # Errors
/// The first rule that does not hold.
pub(super) fn check(
    bytes: &[u8],
    request: &LeafRequest,
    validity: Validity,
    serial: &[u8; SERIAL_LENGTH],
    issuer: &IssuerFacts,
    at: Timestamp,
) -> Result<(), RuleViolation> {
    let tbs = Tbs::read(bytes).map_err(|NotDer| RuleViolation {
        rule: "readable",
        source_of_rule: "RFC 5280 §4.1, §4.1.2.8, X.690 §10.1, §11.1",
        finding: "the bytes are not the one encoding of a TBSCertificate of a leaf".to_owned(),
    })?;
    let candidate = Candidate { bytes, tbs, request, validity, serial, issuer, at };
    for rule in RULES {
        (rule.check)(&candidate).map_err(|finding| RuleViolation {
            rule: rule.name,
            source_of_rule: rule.source,
            finding,
        })?;
    }
    Ok(())
}

/// Has the verifier read the bytes: it would take such a leaf. Done where the bytes come from rcgen; what a
/// [frame](super::frame) makes of them differs in values that the other rules compare byte for byte.
///
/// # Errors
/// What the verifier would say.
pub(super) fn check_as_verifier(bytes: &[u8], request: &LeafRequest) -> Result<(), RuleViolation> {
    verifier_profile::check(bytes, request).map_err(|finding| RuleViolation {
        rule: verifier_profile::NAME,
        source_of_rule: verifier_profile::SOURCE,
        finding,
    })
}

/// Where in the to-be-signed bytes of a leaf those values stand that differ from one leaf of an identity to the next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Places {
    pub(super) serial: Range<usize>,
    pub(super) not_before: Range<usize>,
    pub(super) not_after: Range<usize>,
    /// The whole SubjectPublicKeyInfo.
    pub(super) public_key: Range<usize>,
    pub(super) subject_key_id: Range<usize>,
}

impl Places {
    /// `None` if the bytes are no leaf.
    pub(super) fn find(bytes: &[u8]) -> Option<Self> {
        let tbs = Tbs::read(bytes).ok()?;
        let mut times = Elements::of(tbs.validity.content);
        let subject_key_id = tbs.extensions.iter().find(|extension| extension.id == SUBJECT_KEY_IDENTIFIER)?;
        // Each is a part of `bytes`, so that their addresses tell where.
        let place = |part: &[u8]| {
            let start = part.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
            Some(start..start + part.len())
        };
        Some(Self {
            serial: place(tbs.serial.content)?,
            not_before: place(times.next_of(UTC_TIME).ok()?.content)?,
            not_after: place(times.next_of(UTC_TIME).ok()?.content)?,
            public_key: place(tbs.public_key.whole)?,
            subject_key_id: place(der::only(subject_key_id.value, OCTET_STRING).ok()?.content)?,
        })
    }
}

/// Every rule, in the order in which they run.
pub(crate) static RULES: &[Rule] = &[
    size::RULE,
    version::RULE,
    serial_number::RULE,
    signature_algorithm::RULE,
    issuer_name::RULE,
    validity::RULE,
    subject::RULE,
    public_key::RULE,
    extensions::RULE,
    basic_constraints::RULE,
    key_usage::RULE,
    extended_key_usage::RULE,
    subject_alternative_name::RULE,
    spiffe_id::RULE,
    dns_names::RULE,
    key_identifiers::RULE,
];

/// [0], which holds the version.
const VERSION: u8 = 0xa0;
/// [3], which holds the extensions.
const EXTENSIONS: u8 = 0xa3;
/// More than a leaf has: the rest need not be read to refuse it.
const MAX_EXTENSIONS: usize = 16;

// Identifiers of extensions: 2.5.29 and a number (RFC 5280 §4.2.1).
const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 14];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 17];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 35];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
