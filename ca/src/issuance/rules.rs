//! The profile of the leaves that this CA signs, one rule a file, each with its source.
//!
//! [`check`] runs every rule on the exact bytes that are about to be signed, against what was asked for and against the
//! certificate of the authority that will sign. The bytes are read here by another program (x509-parser) than the one
//! that wrote them (rcgen), so that a fault in either shows before there is a signature.

mod basic_constraints;
mod der;
mod dns_names;
mod encoding;
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

use bonafide_verifier::clock::Timestamp;
use x509_parser::{
    asn1_rs::Oid,
    certificate::{TbsCertificate, TbsCertificateParser},
    extensions::X509Extension,
    nom::Parser,
};

use super::{
    authority::IssuerFacts,
    request::{LeafRequest, Validity},
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
    tbs: TbsCertificate<'a>,
    request: &'a LeafRequest,
    validity: Validity,
    issuer: &'a IssuerFacts,
    at: Timestamp,
}

impl<'a> Candidate<'a> {
    /// The extension with this identifier, if there is exactly one.
    fn extension(&self, oid: &Oid<'_>) -> Result<&X509Extension<'a>, Finding> {
        match self.tbs.get_extension_unique(oid) {
            Ok(Some(extension)) => Ok(extension),
            Ok(None) => Err(format!("the extension {oid} is missing")),
            Err(_) => Err(format!("the extension {oid} stands there more than once")),
        }
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

/// Runs every rule on `bytes`, the DER of a TBSCertificate.
///
/// # Errors
/// The first rule that does not hold.
pub(super) fn check(
    bytes: &[u8],
    request: &LeafRequest,
    validity: Validity,
    issuer: &IssuerFacts,
    at: Timestamp,
) -> Result<(), RuleViolation> {
    let unreadable = |finding: &str| RuleViolation {
        rule: "readable",
        source_of_rule: "RFC 5280 §4.1",
        finding: finding.to_owned(),
    };
    let (rest, tbs) = TbsCertificateParser::new()
        .with_deep_parse_extensions(false)
        .parse(bytes)
        .map_err(|_| unreadable("the bytes are no TBSCertificate"))?;
    if !rest.is_empty() {
        return Err(unreadable("there are bytes behind the TBSCertificate"));
    }
    let candidate = Candidate { bytes, tbs, request, validity, issuer, at };
    for rule in RULES {
        (rule.check)(&candidate).map_err(|finding| RuleViolation {
            rule: rule.name,
            source_of_rule: rule.source,
            finding,
        })?;
    }
    Ok(())
}

/// Every rule, in the order in which they run.
pub(crate) static RULES: &[Rule] = &[
    size::RULE,
    der::RULE,
    encoding::RULE,
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
    verifier_profile::RULE,
];
