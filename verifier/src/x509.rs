//! X.509-SVIDs: parsing and verification (X509-SVID, RFC 5280).
//!
//! [`verify`] is a pure function of what a peer presented, the trust bundles and a time. [`VerifiedChains`] remembers what
//! it said; [`X509Svid`] is one's own SVID with its key; [`profile`] has the rules one by one, for a CA.

mod cache;
mod certificate;
mod chain;
mod der;
mod error;
mod peer;
pub mod profile;
mod san;
mod svid;
mod verify;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

use std::fmt;

pub use cache::VerifiedChains;
pub use certificate::{CertificateView, MAX_EXTENSIONS};
pub use chain::{MAX_CERTIFICATES, MAX_CHAIN_BYTES, MAX_LOOK_ALIKES, PresentedChain, chain_from_pem, split_der};
pub use error::{Link, VerifyError};
pub use peer::{SerialNumber, VerifiedPeer};
pub use profile::ProfileError;
pub use san::{GeneralName, SanFlaw, SubjectAltName};
pub use svid::{SvidError, X509Svid};
pub use verify::verify;

use crate::clock::Timestamp;

/// SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}

/// Both ends belong to a validity, whole seconds (RFC 5280 §4.1.2.5). There is no leeway.
pub(crate) fn is_within(not_before: Timestamp, not_after: Timestamp, at: Timestamp) -> bool {
    (not_before.unix_seconds()..=not_after.unix_seconds()).contains(&at.unix_seconds())
}

/// Bytes in lower-case hexadecimal.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
