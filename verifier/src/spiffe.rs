//! SPIFFE IDs, trust domains and trust bundles (SPIFFE-ID, SPIFFE Trust Domain and Bundle).

mod id;
mod trust_domain;

pub use id::{RESERVED_SEGMENT, SpiffeId, SpiffeIdError};
pub use trust_domain::{TrustDomain, TrustDomainError};
