//! The subject is empty: the SPIFFE ID is the only name.

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule = Rule { name: "subject", source: "X509-SVID §3.1 (X509-06), RFC 5280 §4.1.2.6", check };

/// An empty SEQUENCE.
const EMPTY_NAME: [u8; 2] = [0x30, 0x00];

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    if candidate.tbs.subject.as_raw() != EMPTY_NAME {
        return Err(format!("`{}`, must be empty", candidate.tbs.subject));
    }
    Ok(())
}
