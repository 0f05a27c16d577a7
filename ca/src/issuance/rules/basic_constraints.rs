//! A leaf is no authority.

use super::{BASIC_CONSTRAINTS, Candidate, Finding, Rule};

pub(super) const RULE: Rule =
    Rule { name: "basic-constraints", source: "X509-SVID §4.1 (X509-16), RFC 5280 §4.2.1.9", check };

/// An empty SEQUENCE: cA is FALSE by default, and DER does not write defaults.
const NOT_AN_AUTHORITY: [u8; 2] = [0x30, 0x00];

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    if candidate.extension(BASIC_CONSTRAINTS)? != NOT_AN_AUTHORITY {
        return Err("says something else than cA = FALSE".to_owned());
    }
    Ok(())
}
