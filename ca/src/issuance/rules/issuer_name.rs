//! The issuer is, byte for byte, the subject of the authority's own certificate: verifiers chain by it.

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule = Rule { name: "issuer-name", source: "RFC 5280 §4.1.2.4, §6.1.3 (a)(4)", check };

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    if candidate.tbs.issuer.whole != candidate.issuer.subject() {
        return Err("is not the name of the authority that signs".to_owned());
    }
    Ok(())
}
