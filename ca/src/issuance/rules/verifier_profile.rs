//! Our own verifier would take it: the CA issues nothing that its users' servers then refuse.

use bonafide_verifier::x509::{CertificateView, profile};

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule = Rule {
    name: "verifier-profile",
    source: "X509-SVID §5 (X509-30..36), by `bonafide_verifier::x509::profile`",
    check,
};

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let view = CertificateView::parse_to_be_signed(candidate.bytes).map_err(|flaw| flaw.to_string())?;
    let id = profile::issued_leaf(&view).map_err(|flaw| flaw.to_string())?;
    if id != *candidate.request.spiffe_id() {
        return Err(format!("the verifier reads `{id}`"));
    }
    Ok(())
}
