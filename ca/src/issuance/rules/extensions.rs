//! The extensions of a leaf: exactly six, each once, critical where it must be.

use super::{
    AUTHORITY_KEY_IDENTIFIER, BASIC_CONSTRAINTS, Candidate, EXTENDED_KEY_USAGE, Finding, KEY_USAGE, Rule,
    SUBJECT_ALTERNATIVE_NAME, SUBJECT_KEY_IDENTIFIER,
};

pub(super) const RULE: Rule =
    Rule { name: "extensions", source: "RFC 5280 §4.2; X509-SVID §4 (X509-07, X509-19)", check };

/// Each extension with its criticality. The subject alternative name is critical because the subject is empty.
static EXPECTED: [(&[u8], bool); 6] = [
    (AUTHORITY_KEY_IDENTIFIER, false),
    (SUBJECT_ALTERNATIVE_NAME, true),
    (KEY_USAGE, true),
    (EXTENDED_KEY_USAGE, false),
    (SUBJECT_KEY_IDENTIFIER, false),
    (BASIC_CONSTRAINTS, true),
];

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let present = &candidate.tbs.extensions;
    for (id, critical) in EXPECTED {
        let mut found = present.iter().filter(|extension| extension.id == id);
        match (found.next(), found.next()) {
            (None, _) => return Err(format!("the extension {id:02x?} is missing")),
            (Some(_), Some(_)) => return Err(format!("the extension {id:02x?} stands there more than once")),
            (Some(extension), None) if extension.critical != critical => {
                let (is, must) = if critical { ("is not", "must") } else { ("is", "must not") };
                return Err(format!("the extension {id:02x?} {is} critical, it {must} be"));
            }
            (Some(_), None) => {}
        }
    }
    // Each expected one is there exactly once, so more than that many means a foreign one.
    if present.len() != EXPECTED.len() {
        return Err(format!("{} extensions, must be {}", present.len(), EXPECTED.len()));
    }
    Ok(())
}
