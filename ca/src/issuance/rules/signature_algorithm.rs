//! The algorithm inside is the one that the authority's key signs with: ecdsa-with-SHA256, no parameters.

use super::{Candidate, Finding, Rule};
use crate::issuance::sign::ECDSA_WITH_SHA256;

pub(super) const RULE: Rule = Rule { name: "signature-algorithm", source: "RFC 5280 §4.1.2.3, RFC 5758 §3.2", check };

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    if candidate.tbs.signature.whole != ECDSA_WITH_SHA256 {
        return Err("says something else than ecdsa-with-SHA256".to_owned());
    }
    Ok(())
}
