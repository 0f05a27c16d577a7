//! An identity that its own program makes and renews.

use std::{
    fmt,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use super::{Identity, Shared, Snapshot};
use crate::{clock::Clock, spiffe::BundleSet, x509::X509Svid};

impl Identity {
    /// An identity that is empty until something is published.
    #[must_use]
    pub fn published(clock: Arc<dyn Clock>) -> (Self, Publisher) {
        let identity = Self::new(clock);
        let publisher = Publisher { shared: Arc::clone(&identity.shared) };
        (identity, publisher)
    }
}

/// The one that decides what an [`Identity`] is. Dropping it leaves the last snapshot in place.
pub struct Publisher {
    pub(super) shared: Arc<Shared>,
}

impl Publisher {
    /// Replaces the whole state; returns its generation. Without an SVID handshakes fail, and connections made with the
    /// last one are ended.
    pub fn publish(&self, svid: Option<X509Svid>, bundles: BundleSet) -> u64 {
        let generation = {
            let _one_at_a_time = self.shared.publishing.lock().unwrap_or_else(PoisonError::into_inner);
            let generation = self.shared.snapshot.load().generation + 1;
            self.shared.snapshot.store(Arc::new(Snapshot { generation, svid, bundles }));
            generation
        };
        // What was verified against the last bundles is of no more use.
        self.shared.chains.clear();
        self.shared.source.updates.fetch_add(1, Ordering::Relaxed);
        self.shared.waiters.wake_all();
        generation
    }

    /// What was published last.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn source(&self) -> &super::SourceLog {
        &self.shared.source
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("current", &*self.shared.snapshot.load()).finish()
    }
}
