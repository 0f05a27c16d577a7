//! The SPIFFE ID lies in this trust domain, has a path, and the reserved segment stays ours.

use bonafide_verifier::spiffe::SpiffeId;

use super::{Candidate, Finding, Rule};
use crate::audit::SvidKind;

pub(super) const RULE: Rule = Rule {
    name: "spiffe-id",
    source: "SPIFFE-ID §2 (ID-17, ID-20), X509-SVID §3.1 (X509-05); `/bonafide` is reserved",
    check,
};

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let id = candidate.request.spiffe_id();
    // What was asked for is valid by its type. It is read again from its text, because that text is what gets signed.
    if SpiffeId::parse(id.as_str()).ok().as_ref() != Some(id) {
        return Err(format!("`{id}` is no SPIFFE ID"));
    }
    if id.trust_domain() != candidate.issuer.trust_domain() {
        return Err(format!("`{id}` is not in the trust domain `{}`", candidate.issuer.trust_domain()));
    }
    if id.path().is_empty() {
        return Err(format!("`{id}` has no path"));
    }
    let fits = match candidate.request.kind() {
        SvidKind::Service => !id.is_reserved(),
        SvidKind::Node => {
            let name = id.path().strip_prefix(NODE_PREFIX);
            name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
        }
        SvidKind::Ca => id.path() == OWN_PATH,
    };
    if !fits {
        return Err(format!("`{id}` is not for this kind of leaf ({:?})", candidate.request.kind()));
    }
    Ok(())
}

const NODE_PREFIX: &str = "/bonafide/node/";
const OWN_PATH: &str = "/bonafide/ca";
