//! Trust without an identity of one's own: a root known by its hash for the first contact, a stored bundle later.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::pki_types::CertificateDer;

use super::{PeerError, PeerSet, verifier::expect};
use crate::{
    clock::Timestamp,
    spiffe::{BundleSet, SpiffeId, TrustBundle, TrustDomain},
    x509::{Hex, PresentedChain, VerifiedPeer, sha256, verify},
};

/// A root known by its hash alone, as an invitation names it.
///
/// The server must present its chain with the root at the end, and be exactly `expected`: any service's chain ends in the
/// same root.
#[derive(Clone, Debug)]
pub struct PinnedRoot {
    /// Whose root it is.
    pub trust_domain: TrustDomain,
    /// SHA-256 of the root certificate's DER.
    pub root_sha256: [u8; 32],
    /// Who the server must be.
    pub expected: SpiffeId,
}

/// What a client without an identity of its own trusts.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// A root known by its hash: first contact.
    Pinned(PinnedRoot),
    /// Known bundles: a node whose SVID has expired.
    Bundles {
        /// The bundles.
        bundles: BundleSet,
        /// Who the server must be.
        expected: SpiffeId,
    },
}

pub(super) struct Trust {
    trust: ServerTrust,
    /// The pinned root's DER, once a server has shown it.
    root: OnceLock<Arc<[u8]>>,
}

impl Trust {
    pub(super) fn new(trust: ServerTrust) -> Self {
        Self { trust, root: OnceLock::new() }
    }

    pub(super) fn root_der(&self) -> Option<Arc<[u8]>> {
        self.root.get().cloned()
    }

    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        at: Timestamp,
    ) -> Result<VerifiedPeer, PeerError> {
        match &self.trust {
            ServerTrust::Pinned(pinned) => self.verify_pinned(pinned, leaf, intermediates, at),
            ServerTrust::Bundles { bundles, expected } => {
                let peer =
                    verify(&PresentedChain::new(leaf, intermediates), bundles, at).map_err(PeerError::Refused)?;
                expect(peer.id(), &PeerSet::id(expected.clone()))?;
                Ok(peer)
            }
        }
    }

    fn verify_pinned(
        &self,
        pinned: &PinnedRoot,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        at: Timestamp,
    ) -> Result<VerifiedPeer, PeerError> {
        let not_pinned = || PeerError::NotPinned { expected: Hex(&pinned.root_sha256).to_string() };
        let (root, between) = intermediates.split_last().ok_or_else(not_pinned)?;
        if sha256(root) != pinned.root_sha256 {
            return Err(not_pinned());
        }
        let bundle =
            TrustBundle::new(pinned.trust_domain.clone(), [root], [], None, None).map_err(PeerError::BadRoot)?;
        let bundles = BundleSet::empty().with(Arc::new(bundle));
        let peer = verify(&PresentedChain::new(leaf, between), &bundles, at).map_err(PeerError::Refused)?;
        expect(peer.id(), &PeerSet::id(pinned.expected.clone()))?;
        // Every chain that gets here shows the same bytes: their hash is the pinned one.
        self.root.get_or_init(|| Arc::from(root.as_ref()));
        Ok(peer)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trust.fmt(f)
    }
}
