//! The algorithm inside is the one that the authority's key signs with: ecdsa-with-SHA256, no parameters.

use x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA256;

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule = Rule { name: "signature-algorithm", source: "RFC 5280 §4.1.2.3, RFC 5758 §3.2", check };

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let algorithm = &candidate.tbs.signature;
    if algorithm.oid() != &OID_SIG_ECDSA_WITH_SHA256 {
        return Err(format!("{}, must be ecdsa-with-SHA256", algorithm.oid()));
    }
    if algorithm.parameters().is_some() {
        return Err("ecdsa-with-SHA256 has parameters".to_owned());
    }
    Ok(())
}
