//! digitalSignature, and nothing else.

use super::{Candidate, Finding, KEY_USAGE, Rule};

pub(super) const RULE: Rule =
    Rule {
        name: "key-usage", source: "X509-SVID §4.3 (X509-18, X509-22, X509-24, X509-25), RFC 5280 §4.2.1.3", check
    };

/// BIT STRING with the first bit alone, seven bits unused.
const DIGITAL_SIGNATURE: [u8; 4] = [0x03, 0x02, 0x07, 0x80];

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    if candidate.extension(KEY_USAGE)? != DIGITAL_SIGNATURE {
        return Err("says something else than digitalSignature alone".to_owned());
    }
    Ok(())
}
