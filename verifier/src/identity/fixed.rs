//! Identities that never change.

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

    /// No SVID, and always these bundles: for a caller without a certificate, whose
    /// [anonymous](crate::tls::Connector::anonymous) connections verify their server with them.
    #[must_use]
    pub fn bundles_only(bundles: BundleSet, clock: Arc<dyn Clock>) -> Self {
        let (identity, publisher) = Self::published(clock);
        publisher.publish(None, bundles);
        identity
    }
}
