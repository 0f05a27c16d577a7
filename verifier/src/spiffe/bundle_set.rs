//! All trust bundles that a verifier holds, by trust domain.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{TrustBundle, TrustDomain};

/// The trust bundles of one moment, at most one a trust domain. An SVID is verified with the bundle of the trust domain
/// in its SPIFFE ID and no other (ID-20, TDB-02). Immutable; cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct BundleSet(Arc<BTreeMap<TrustDomain, Arc<TrustBundle>>>);

impl BundleSet {
    /// A set without any bundle: nothing verifies against it.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The bundle of a trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.0.get(trust_domain)
    }

    /// This set with one bundle added, or replaced where the trust domain had one.
    #[must_use]
    pub fn with(&self, bundle: Arc<TrustBundle>) -> Self {
        let mut bundles = (*self.0).clone();
        bundles.insert(bundle.trust_domain().clone(), bundle);
        Self(Arc::new(bundles))
    }

    /// This set without the bundle of a trust domain.
    #[must_use]
    pub fn without(&self, trust_domain: &TrustDomain) -> Self {
        let mut bundles = (*self.0).clone();
        bundles.remove(trust_domain);
        Self(Arc::new(bundles))
    }

    /// The bundles, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        self.0.values()
    }

    /// How many trust domains have a bundle here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Of two bundles of one trust domain the later counts.
impl FromIterator<Arc<TrustBundle>> for BundleSet {
    fn from_iter<I: IntoIterator<Item = Arc<TrustBundle>>>(bundles: I) -> Self {
        Self(Arc::new(bundles.into_iter().map(|bundle| (bundle.trust_domain().clone(), bundle)).collect()))
    }
}

impl From<TrustBundle> for BundleSet {
    fn from(bundle: TrustBundle) -> Self {
        std::iter::once(Arc::new(bundle)).collect()
    }
}
