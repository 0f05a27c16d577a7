//! What the CA answers to a join, recovery or renewal, checked before it is believed.

use std::sync::Arc;

use bonafide_ca_api::{generated::node::NodeCredential, node_name_of};
use bonafide_verifier::{
    clock::Timestamp,
    spiffe::{BundleSet, SpiffeId, TrustBundle, TrustDomain},
    x509::{PresentedChain, X509Svid, verify},
};
use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::{node_state::key::NodeKey, node_status::describe_offset};

/// A node SVID and the bundle it verifies against.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) id: SpiffeId,
    /// DER, leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) bundle: Arc<TrustBundle>,
    /// The CA's clock.
    pub(crate) ca_ms: i64,
}

/// Why an answer is not a credential for this node.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("there is no credential in it")]
    Empty,
    #[error("the trust bundle: {0}")]
    Bundle(String),
    #[error("the certificate: {0}")]
    Certificate(String),
    #[error("the certificate does not verify now: {reason}{clock}")]
    Verify { reason: String, clock: String },
    #[error("it is for `{found}`, which is no node of `{trust_domain}`")]
    NotANode { found: String, trust_domain: TrustDomain },
    #[error("the trust bundle does not hold the root {root} that the invitation names")]
    RootMissing { root: String },
}

impl Credential {
    /// Checks an answer for the node of `key`.
    pub(super) fn check(
        answer: &NodeCredential,
        trust_domain: &TrustDomain,
        key: &NodeKey,
        at: Timestamp,
    ) -> Result<Self, CredentialError> {
        let bundle = TrustBundle::parse_spiffe_json(trust_domain.clone(), &answer.bundle)
            .map_err(|error| CredentialError::Bundle(error.to_string()))?;
        let bundle = Arc::new(bundle);
        let svid = svid(&answer.chain, key)?;
        let not_a_node =
            || CredentialError::NotANode { found: svid.id().to_string(), trust_domain: trust_domain.clone() };
        if svid.id().trust_domain() != trust_domain || node_name_of(svid.id()).is_none() {
            return Err(not_a_node());
        }
        let bundles = BundleSet::empty().with(Arc::clone(&bundle));
        let verified = PresentedChain::leaf_first(svid.chain()).and_then(|chain| verify(&chain, &bundles, at));
        let peer = verified.map_err(|error| {
            let offset = answer.now_ms.saturating_sub(at.unix_millis());
            let clock = if answer.now_ms > 0 && offset.unsigned_abs() >= 1000 {
                format!(" ({})", describe_offset(offset))
            } else {
                String::new()
            };
            CredentialError::Verify { reason: error.to_string(), clock }
        })?;
        if peer.id() != svid.id() {
            return Err(not_a_node());
        }
        Ok(Self { id: svid.id().clone(), chain: answer.chain.clone(), bundle, ca_ms: answer.now_ms })
    }

    /// The bundle must hold the root of the invitation: it is what this node will trust from now on.
    pub(super) fn check_root(&self, root_sha256: &[u8; 32]) -> Result<(), CredentialError> {
        match self.bundle.x509_authority(root_sha256) {
            Some(_) => Ok(()),
            None => Err(CredentialError::RootMissing { root: HEXLOWER.encode(root_sha256) }),
        }
    }
}

/// The SVID of a chain and its key.
pub(crate) fn svid(chain: &[Vec<u8>], key: &NodeKey) -> Result<X509Svid, CredentialError> {
    let chain: Vec<CertificateDer<'static>> = chain.iter().cloned().map(CertificateDer::from).collect();
    X509Svid::new(chain, Zeroizing::new(key.expose_secret().to_vec()))
        .map_err(|error| CredentialError::Certificate(error.to_string()))
}
