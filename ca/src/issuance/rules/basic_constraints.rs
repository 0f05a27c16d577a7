//! A leaf is no authority.

use x509_parser::oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS;

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule =
    Rule { name: "basic-constraints", source: "X509-SVID §4.1 (X509-16), RFC 5280 §4.2.1.9", check };

/// An empty SEQUENCE: cA is FALSE by default, and DER does not write defaults.
const NOT_AN_AUTHORITY: [u8; 2] = [0x30, 0x00];

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    if candidate.extension(&OID_X509_EXT_BASIC_CONSTRAINTS)?.value != NOT_AN_AUTHORITY {
        return Err("says something else than cA = FALSE".to_owned());
    }
    Ok(())
}
