//! Version 3, and none of the fields that nobody uses.

use x509_parser::x509::X509Version;

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule = Rule { name: "version", source: "RFC 5280 §4.1.2.1, §4.1.2.8", check };

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let tbs = &candidate.tbs;
    if tbs.version != X509Version::V3 {
        return Err(format!("version {}, must be v3", tbs.version));
    }
    if tbs.issuer_uid.is_some() || tbs.subject_uid.is_some() {
        return Err("a unique identifier is present".to_owned());
    }
    Ok(())
}
