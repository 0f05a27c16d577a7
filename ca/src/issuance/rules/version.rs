//! Version 3.

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule = Rule { name: "version", source: "RFC 5280 §4.1.2.1", check };

/// INTEGER 2.
const V3: [u8; 3] = [0x02, 0x01, 0x02];

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    if candidate.tbs.version.content != V3 {
        return Err("says something else than v3".to_owned());
    }
    Ok(())
}
