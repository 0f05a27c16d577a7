//! A leaf stays far below what a verifier accepts as a whole chain.

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule = Rule { name: "size", source: "security T-06: a chain is at most 16 KiB", check };

/// So that leaf, issuing authority and root together stay below the verifier's 16 KiB.
const MAX_BYTES: usize = 8 * 1024;

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let length = candidate.bytes.len();
    if length > MAX_BYTES {
        return Err(format!("{length} bytes, at most {MAX_BYTES} are allowed"));
    }
    Ok(())
}
