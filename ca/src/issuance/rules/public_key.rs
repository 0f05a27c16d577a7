//! The key is the one that was asked for, in the encoding in which it was checked.

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule = Rule { name: "public-key", source: "RFC 5280 §4.1.2.7, RFC 5480 §2.1.1", check };

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    if candidate.tbs.public_key.whole != candidate.request.public_key().spki() {
        return Err("another key than the one that was asked for".to_owned());
    }
    Ok(())
}
