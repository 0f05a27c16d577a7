//! The extensions of a leaf: exactly six, each once, critical where it must be.

use x509_parser::{
    asn1_rs::Oid,
    oid_registry::{
        OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE,
        OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
    },
};

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule =
    Rule { name: "extensions", source: "RFC 5280 §4.2; X509-SVID §4 (X509-07, X509-19)", check };

/// Each extension with its criticality. The subject alternative name is critical because the subject is empty.
static EXPECTED: [(&Oid<'static>, bool); 6] = [
    (&OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, false),
    (&OID_X509_EXT_SUBJECT_ALT_NAME, true),
    (&OID_X509_EXT_KEY_USAGE, true),
    (&OID_X509_EXT_EXTENDED_KEY_USAGE, false),
    (&OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, false),
    (&OID_X509_EXT_BASIC_CONSTRAINTS, true),
];

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    for (oid, critical) in EXPECTED {
        let extension = candidate.extension(oid)?;
        if extension.critical != critical {
            let (is, must) = if critical { ("is not", "must") } else { ("is", "must not") };
            return Err(format!("the extension {oid} {is} critical, it {must} be"));
        }
    }
    // Each expected one is there exactly once, so more than that many means a foreign one.
    let present = candidate.tbs.extensions().len();
    if present != EXPECTED.len() {
        return Err(format!("{present} extensions, must be {}", EXPECTED.len()));
    }
    Ok(())
}
