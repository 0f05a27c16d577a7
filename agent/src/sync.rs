//! Following the CA: its updates become this node's view, in order and whole, or are refused and alarmed.
//!
//! What is applied is on disk before it is acknowledged, so that a node never forgets how far it has come: a CA that has gone back
//! behind that is noticed after any restart. A new epoch (a CA that was restored) that takes services away is held until an
//! operator says `bonafide-agent accept-epoch EPOCH`; until then this node serves what it had.

pub(crate) mod session;
pub(crate) mod stored;
pub(crate) mod update;

use std::sync::Arc;

use bonafide_ca_api::{Reason, generated::node};
use bonafide_verifier::{clock::Clock, spiffe::TrustDomain};
use tracing::{debug, error, info};

use self::{
    stored::StoredSync,
    update::{Held, Verdict},
};
use crate::{
    health::{Health, Part, State},
    metrics::{ByOutcome, Metrics, Outcome},
    node_state::DataDir,
    node_status::{AcceptEpochError, NodeStatus},
    state_file::StateError,
    view::{View, ViewStore},
};

/// How far this node has followed its CA, and what keeps that.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) data: Arc<DataDir>,
    pub(crate) views: ViewStore,
    pub(crate) status: NodeStatus,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) memory: Memory,
}

/// What a node remembers of its CA beside the view.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Memory {
    /// The epoch that an operator has let in.
    pub(crate) accepted: Option<Arc<str>>,
    /// The epoch that waits for an operator.
    pub(crate) held: Option<Held>,
}

/// Reads what was last applied; without any, the empty view.
pub(crate) fn load(data: &DataDir, trust_domain: &TrustDomain) -> Result<(View, Memory), StateError> {
    match data.load_view()? {
        None => Ok((View::empty(trust_domain.clone()), Memory::default())),
        Some(body) => stored::decode(&body, trust_domain).map_err(|reason| data.view_damaged(reason)),
    }
}

impl Follower {
    /// What this node says first on a stream: where it stands and what it holds, so that the CA can tell the difference.
    pub(crate) fn hello(&self) -> node::Hello {
        let view = self.views.snapshot();
        node::Hello {
            applied: view
                .position()
                .map(|position| node::Position { epoch: position.epoch.to_string(), version: position.version }),
            held: view
                .services()
                .iter()
                .map(|service| node::HeldService { service_id: service.id.to_string(), version: service.version })
                .collect(),
            agent: Some(crate::ca_client::agent_info(self.clock.now())),
            takes_token_keys: true,
            token_keys_digest: view.token_keys().digest(),
            bundle_sequence: view.bundles().get(view.trust_domain()).and_then(|bundle| bundle.sequence()).unwrap_or(0),
        }
    }

    /// Takes an update: applies it, or refuses it whole. Not to be dropped before it returns.
    pub(crate) async fn take(&mut self, update: node::SyncResponse) -> node::Acknowledgement {
        self.status.measure_clock(update.now_ms, self.clock.now());
        let refused = match self.try_take(&update).await {
            Ok(()) => {
                self.metrics.sync_updates.get_or_create(&ByOutcome { outcome: Outcome::ok }).inc();
                String::new()
            }
            Err(reason) => {
                self.metrics.sync_updates.get_or_create(&ByOutcome { outcome: Outcome::refused }).inc();
                reason.code().to_owned()
            }
        };
        node::Acknowledgement { position: update.position, refused }
    }

    async fn try_take(&mut self, update: &node::SyncResponse) -> Result<(), Reason> {
        let view = self.views.snapshot();
        match update::judge(&view, self.memory.accepted.as_deref(), update) {
            Ok(Verdict::Apply(next)) => {
                let memory = Memory {
                    held: None,
                    accepted: self.memory.accepted.take().filter(|epoch| {
                        // Kept for as long as the accepted epoch is not the one applied.
                        next.position().is_some_and(|position| position.epoch != *epoch)
                    }),
                };
                if let Err(error) = self.store(&next, &memory).await {
                    error!(error = %error, "an update could not be written down, so it is not applied");
                    self.health.set(
                        Part::Sync,
                        State::Degraded,
                        format!("an update could not be written down: {error}"),
                    );
                    return Err(Reason::Internal);
                }
                self.memory = memory;
                self.status.set_held(None);
                self.publish(&view, next);
                Ok(())
            }
            Ok(Verdict::Hold(held)) => {
                let text = format!(
                    "the CA begins a new epoch `{}` that takes {} of this node's services away; if the CA was restored on purpose, \
                     run `bonafide-agent accept-epoch {}`; until then this node serves what it had",
                    held.epoch, held.services_removed, held.epoch
                );
                error!(epoch = %held.epoch, services_removed = held.services_removed, "{text}");
                self.health.set(Part::Sync, State::Degraded, text);
                self.status.set_held(Some(held.clone()));
                if self.memory.held.as_ref() != Some(&held) {
                    self.memory.held = Some(held);
                    if let Err(error) = self.store(&view, &self.memory).await {
                        error!(error = %error, "a held epoch could not be written down");
                    }
                }
                Err(Reason::EpochRemovesServices)
            }
            Err(refused) => {
                error!(reason = refused.reason().code(), error = %refused, "refused an update from the CA");
                self.health.set(Part::Sync, State::Degraded, format!("refused an update from the CA: {refused}"));
                Err(refused.reason())
            }
        }
    }

    /// An operator's word on a held epoch. The next hello brings what was held.
    pub(crate) async fn accept(&mut self, epoch: &str) -> Result<(), AcceptEpochError> {
        let held = self.memory.held.as_ref().ok_or(AcceptEpochError::NothingHeld)?;
        if &*held.epoch != epoch {
            return Err(AcceptEpochError::OtherEpoch { held: Arc::clone(&held.epoch) });
        }
        let memory = Memory { accepted: Some(Arc::clone(&held.epoch)), held: None };
        let view = self.views.snapshot();
        self.store(&view, &memory).await.map_err(|error| AcceptEpochError::NotWritten { reason: error.to_string() })?;
        self.memory = memory;
        self.status.set_held(None);
        info!(epoch, "an operator accepted the CA's new epoch");
        Ok(())
    }

    fn publish(&self, before: &View, next: View) {
        if let Some(position) = next.position() {
            let epoch_is_new = before.position().is_none_or(|before| before.epoch != position.epoch);
            // The first answer on each new stream says for the most part that nothing is new.
            if before.position() == Some(position) {
                debug!(version = position.version, "nothing new from the CA");
            } else {
                info!(
                epoch = %position.epoch,
                version = position.version,
                services = next.services().len(),
                epoch_is_new,
                "applied an update from the CA"
                );
            }
            self.metrics.registry_version.set(i64::try_from(position.version).unwrap_or(i64::MAX));
        }
        self.metrics.services.set(i64::try_from(next.services().len()).unwrap_or(i64::MAX));
        self.health.set(Part::Sync, State::Ready, "");
        self.views.publish(next);
    }

    async fn store(&self, view: &View, memory: &Memory) -> Result<(), StateError> {
        let body = StoredSync::new(view, memory).encode();
        let data = Arc::clone(&self.data);
        let written = tokio::task::spawn_blocking(move || data.store_view(&body)).await;
        written.unwrap_or_else(|panicked| {
            Err(StateError::Io {
                doing: "write",
                path: self.data.path().into(),
                source: std::io::Error::other(panicked),
            })
        })
    }
}

#[cfg(test)]
mod tests;
