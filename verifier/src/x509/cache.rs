//! Chains that were verified already.

use aws_lc_rs::digest::{Context, SHA256};
use quick_cache::sync::Cache;

use super::chain::PresentedChain;
use super::error::VerifyError;
use super::peer::VerifiedPeer;
use super::verify::verify;
use crate::clock::Timestamp;
use crate::spiffe::BundleSet;

/// Remembers what [`verify`] said of a chain, so that a peer seen before costs one hash instead of a path validation.
///
/// Bounded: at its capacity it drops what was not asked for. The key is SHA-256 of every presented byte and the generation
/// of the trust bundles, so that a change of a bundle forgets everything; a hit looks at the validity of the whole chain
/// again. Refusals are not remembered, nor what anybody expected the peer to be. With and without it the verdicts
/// are the same.
#[derive(Debug)]
pub struct VerifiedChains {
    chains: Cache<ChainKey, VerifiedPeer>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct ChainKey {
    sha256: [u8; 32],
    generation: u64,
}

impl VerifiedChains {
    /// For this many chains, about 300 bytes each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { chains: Cache::new(capacity.max(1)) }
    }

    /// As [`verify`]. `generation` names the value of `bundles`: whoever changes them must change it.
    ///
    /// # Errors
    /// As [`verify`].
    pub fn verify(
        &self,
        chain: &PresentedChain<'_>,
        generation: u64,
        bundles: &BundleSet,
        at: Timestamp,
    ) -> Result<VerifiedPeer, VerifyError> {
        chain.check_bounds()?;
        let key = ChainKey { sha256: hash(chain), generation };
        if let Some(peer) = self.chains.get(&key).filter(|peer| peer.is_valid_at(at)) {
            return Ok(peer);
        }
        let peer = verify(chain, bundles, at)?;
        self.chains.insert(key, peer.clone());
        Ok(peer)
    }

    /// How many chains are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chains.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Forgets all: when the bundles have changed, what is remembered is of no more use.
    pub fn clear(&self) {
        self.chains.clear();
    }
}

/// Each certificate with its length before it, so that no two chains run into the same bytes.
fn hash(chain: &PresentedChain<'_>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for certificate in chain.certificates() {
        context.update(&(certificate.len() as u64).to_be_bytes());
        context.update(certificate);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}
