//! An identity that never changes.

use std::sync::Arc;

use super::Identity;
use crate::{clock::Clock, spiffe::BundleSet, x509::X509Svid};

impl Identity {
    /// Always this SVID and these bundles: for tests and tools. Nothing renews it, so it is of use until the SVID expires.
    #[must_use]
    pub fn fixed(svid: X509Svid, bundles: BundleSet, clock: Arc<dyn Clock>) -> Self {
        let (identity, publisher) = Self::published(clock);
        publisher.publish(Some(svid), bundles);
        identity
    }
}
