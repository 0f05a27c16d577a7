//! SPIFFE IDs, trust domains and trust bundles (SPIFFE-ID, SPIFFE Trust Domain and Bundle).

mod bundle;
mod bundle_set;
mod id;
pub(crate) mod jwk;
mod pattern;
mod trust_domain;

pub use crate::strict_json::JsonError;
#[cfg(feature = "jwt")]
pub(crate) use bundle::PRIVATE_JWK_MEMBERS;
pub(crate) use bundle::pem;
pub use bundle::{
    AuthorityError, BundleError, JwtAuthority, MAX_BUNDLE_BYTES, MAX_BUNDLE_KEYS, MAX_KEY_ID_BYTES, Skipped,
    TrustBundle, X509Authority,
};
pub use bundle_set::BundleSet;
pub(crate) use id::check as check_id;
pub use id::{RESERVED_SEGMENT, SpiffeId, SpiffeIdError};
pub use jwk::{Curve, PublicKey, PublicKeyError};
#[cfg(feature = "policy-file")]
pub(crate) use pattern::Segment;
pub(crate) use pattern::{Pattern, PatternError};
pub use trust_domain::{TrustDomain, TrustDomainError};
