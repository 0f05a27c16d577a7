//! Our own verifier would take it: the CA issues nothing that its users' servers then refuse.

use bonafide_verifier::x509::{CertificateView, profile};

use super::{Finding, LeafRequest};

pub(super) const NAME: &str = "verifier-profile";
pub(super) const SOURCE: &str = "X509-SVID §5 (X509-30..36), by `bonafide_verifier::x509::profile`";

pub(super) fn check(bytes: &[u8], request: &LeafRequest) -> Result<(), Finding> {
    let view = CertificateView::parse_to_be_signed(bytes).map_err(|flaw| flaw.to_string())?;
    let id = profile::issued_leaf(&view).map_err(|flaw| flaw.to_string())?;
    if id != *request.spiffe_id() {
        return Err(format!("the verifier reads `{id}`"));
    }
    Ok(())
}
