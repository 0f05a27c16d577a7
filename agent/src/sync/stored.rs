//! The body of the file `view`: the last applied state as the update that makes it, and what waits for an operator.

use bonafide_ca_api::generated::node;
use bonafide_verifier::spiffe::TrustDomain;
use prost::Message;

use super::{
    Memory,
    update::{self, Held, Verdict},
};
use crate::view::View;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredSync {
    /// Absent: nothing was applied yet.
    #[prost(message, optional, tag = "1")]
    whole: Option<node::SyncResponse>,
    #[prost(string, tag = "2")]
    accepted_epoch: String,
    #[prost(string, tag = "3")]
    held_epoch: String,
    #[prost(uint64, tag = "4")]
    held_services_removed: u64,
}

impl StoredSync {
    pub(crate) fn new(view: &View, memory: &Memory) -> Self {
        Self {
            whole: view.position().is_some().then(|| update::whole(view)),
            accepted_epoch: memory.accepted.as_deref().unwrap_or_default().to_owned(),
            held_epoch: memory.held.as_ref().map(|held| held.epoch.to_string()).unwrap_or_default(),
            held_services_removed: memory.held.as_ref().map_or(0, |held| held.services_removed as u64),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

/// The view and memory in these bytes, checked as an update from the wire is.
pub(crate) fn decode(body: &[u8], trust_domain: &TrustDomain) -> Result<(View, Memory), String> {
    let stored = StoredSync::decode(body).map_err(|error| format!("the content does not decode: {error}"))?;
    let empty = View::empty(trust_domain.clone());
    let view = match &stored.whole {
        None => empty,
        Some(whole) => match update::judge(&empty, None, whole).map_err(|error| error.to_string())? {
            Verdict::Apply(view) => view,
            Verdict::Hold(_) => return Err("it would have to be held".into()),
        },
    };
    let text = |text: &str| (!text.is_empty()).then(|| text.into());
    let memory = Memory {
        accepted: text(&stored.accepted_epoch),
        held: text(&stored.held_epoch).map(|epoch| Held {
            epoch,
            services_removed: usize::try_from(stored.held_services_removed).unwrap_or(usize::MAX),
        }),
    };
    Ok((view, memory))
}
