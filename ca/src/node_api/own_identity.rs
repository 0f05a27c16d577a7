//! This CA process's own identity, `spiffe://TD/bonafide/ca`: issued by the same pipeline as every leaf, for a key that
//! never leaves the process, and renewed before it ends and whenever the authorities change.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bonafide_verifier::{
    clock::{Clock, Timestamp},
    identity::{Identity, Publisher},
    spiffe::BundleSet,
    x509::{SvidError, X509Svid},
};
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    audit::Who,
    issuance::{IssueError, Issuer, LeafRequest, OwnKey, OwnKeyError, Recipient},
    registry::Registry,
};

/// The identity as it stands, and the means to renew it.
pub(super) struct OwnIdentity {
    identity: Identity,
    publisher: Publisher,
    issuer: Issuer,
    registry: Registry,
    clock: Arc<dyn Clock>,
    lifetime: Duration,
    /// Under which those reach the CA who go by names: the clients of its token endpoint.
    dns_names: Vec<String>,
    state: Mutex<State>,
    /// The first attempt to issue it is over.
    tried: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    issued: Option<Issued>,
    /// Why it could not be renewed, if it could not.
    failing: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Issued {
    renew_at: Timestamp,
    not_after: Timestamp,
}

impl OwnIdentity {
    pub(super) fn new(
        issuer: Issuer,
        registry: Registry,
        clock: Arc<dyn Clock>,
        lifetime: Duration,
        dns_names: Vec<String>,
    ) -> Self {
        let (identity, publisher) = Identity::published(Arc::clone(&clock));
        let (state, tried) = (Mutex::default(), CancellationToken::new());
        Self { identity, publisher, issuer, registry, clock, lifetime, dns_names, state, tried }
    }

    /// Waits until there is something to present, or it is known that there is not. May be dropped.
    pub(super) async fn tried(&self) {
        self.tried.cancelled().await;
    }

    /// What the listener presents, and by which it verifies nodes.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the listener has something to present.
    ///
    /// # Errors
    /// Why not, for an operator.
    pub(super) fn ready(&self, at: Timestamp) -> Result<(), String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (&state.issued, &state.failing) {
            (Some(issued), _) if at < issued.not_after => Ok(()),
            (_, Some(failing)) => Err(format!("the CA has no certificate of its own: {failing}")),
            (Some(issued), None) => Err(format!("the CA's own certificate expired at {}", issued.not_after)),
            (None, None) => Err("the CA has not issued its own certificate yet".to_owned()),
        }
    }

    /// Keeps the identity valid until `stop`: issues at once, then at half of each lifetime and after every change of
    /// authorities or bundle. What cannot be renewed is tried again, and the old one serves until it ends.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        let mut changes = self.issuer.changes();
        let mut bundles = self.registry.subscribe();
        let mut retry = RETRY_FIRST;
        loop {
            changes.borrow_and_update();
            let wait_until = match self.renew().await {
                Ok(issued) => {
                    retry = RETRY_FIRST;
                    issued.renew_at
                }
                Err(fault) => {
                    warn!(error = %fault, retry_in_s = retry.as_secs(), "could not renew the CA's own certificate");
                    self.state.lock().unwrap_or_else(PoisonError::into_inner).failing = Some(fault.to_string());
                    let at = self.clock.now().saturating_add(retry);
                    retry = (retry * 2).min(RETRY_LONGEST);
                    at
                }
            };
            self.tried.cancel();
            let mut sequence = self.registry.load().bundle().sequence();
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.clock.sleep_until(wait_until) => break,
                    changed = changes.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    changed = bundles.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        // Most changes of the registry leave the bundle as it is.
                        let now = self.registry.load().bundle().sequence();
                        if now != sequence {
                            sequence = now;
                            self.publish_bundle();
                        }
                    }
                }
            }
        }
    }

    async fn renew(&self) -> Result<Issued, OwnIdentityError> {
        let key = OwnKey::generate()?;
        let request = LeafRequest::own(self.issuer.trust_domain(), self.dns_names.clone(), self.lifetime, &key);
        let recipient = Recipient { who: &Who::Ca, node: None };
        let issued = self.issuer.issue_one(recipient, request).await?;
        let validity = issued.validity();
        let authority = Arc::clone(issued.authority());
        // With the root: an agent that joins knows its hash and nothing else.
        let mut chain = vec![issued.into_certificate()];
        chain.extend(authority.signing().issuing.chain().iter().cloned());
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let svid = X509Svid::new(chain, key.into_secret())?;
        let bundle = Arc::clone(self.registry.load().bundle());
        self.publisher.publish(Some(svid), BundleSet::empty().with(bundle));
        let now = self.clock.now();
        let issued =
            Issued { renew_at: now.saturating_add(validity.not_after.since(now) / 2), not_after: validity.not_after };
        info!(not_after = %issued.not_after, "issued the CA's own certificate");
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State { issued: Some(issued), failing: None };
        Ok(issued)
    }

    /// Publishes the present bundle beside the SVID that is in use.
    fn publish_bundle(&self) {
        let bundle = Arc::clone(self.registry.load().bundle());
        let svid = self.identity.snapshot().svid().cloned();
        self.publisher.publish(svid, BundleSet::empty().with(bundle));
    }
}

/// Why the CA has no new certificate of its own.
#[derive(Debug, thiserror::Error)]
enum OwnIdentityError {
    #[error(transparent)]
    Key(#[from] OwnKeyError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("the CA's own certificate is not taken by the verifier: {0}")]
    Svid(#[from] SvidError),
}

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);
