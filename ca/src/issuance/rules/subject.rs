//! The subject is empty: the SPIFFE ID is the only name.

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule = Rule { name: "subject", source: "X509-SVID §3.1 (X509-06), RFC 5280 §4.1.2.6", check };

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    if !candidate.tbs.subject.content.is_empty() {
        return Err("is not empty".to_owned());
    }
    Ok(())
}
