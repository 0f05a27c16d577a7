//! A delegation for the edge services that a node may hold: by the registry alone, written down before it leaves, and given out when the
//! nodes that are connected can verify by it.

use std::sync::Arc;

use bonafide_ca_api::{
    Reason,
    generated::node::{DelegateRequest, DelegateResponse},
};
use tracing::info;

use super::{NodeApi, hub::Applied, issue, peer::NodeCaller, refuse::Refused};
use crate::{
    issuance::PublicKey,
    registry::{DelegationRefusal, Node, Service, Snapshot},
    store::WriteError,
};

/// Delegates to the key in the request.
///
/// # Errors
/// The node may hold no edge, the key is not a new one, it asks too often, or nothing could be written.
pub(super) async fn delegate(
    api: &NodeApi,
    caller: &NodeCaller,
    request: DelegateRequest,
) -> Result<DelegateResponse, Refused> {
    let snapshot = api.registry.load();
    let node = caller.node_in(&snapshot)?;
    let edges = edges_of(&snapshot, node)?;
    let key =
        PublicKey::parse(&request.public_key).map_err(|flaw| Refused::because(Reason::KeyInvalid, flaw.to_string()))?;
    if issue::reserved(api, &snapshot, key.hash()) {
        return Err(Refused::because(
            Reason::KeyReserved,
            "this is the key of an authority or of a node; make a new one for each delegation",
        ));
    }
    let taken = api.quota.delegation(caller.name(), api.clock.boot());
    if taken.granted == 0 {
        return Err(Refused::for_now(
            Reason::Quota,
            "this node asks for delegations too often; is its agent in a loop?",
            taken.retry_after,
        ));
    }
    let new = api.issuer.sign_delegation(caller.name(), &key, edges)?;
    let (key_id, statement) = (Arc::clone(&new.delegated.key_id), Arc::clone(&new.delegated.statement));
    let position = match api.registry.add_delegation(new, caller.who()).await {
        Ok(position) => position,
        Err(WriteError::Refused(refusal)) => return Err(refused(&refusal)),
        Err(WriteError::Store(fault)) => return Err(fault.into()),
    };
    let applied = Applied { epoch: position.epoch, version: position.version };
    tokio::select! {
        () = api.hub.applied_everywhere(&applied) => {}
        () = api.clock.sleep_for(api.limits.rollout) => {
            info!(node = %caller.name(), key_id = %key_id, "not every connected node has said that it has a new delegation; giving it out all the same");
        }
        () = api.stopping.cancelled() => return Err(super::stopping()),
    }
    // It may have ended while the others were told.
    let now = api.registry.load();
    caller.node_in(&now)?;
    if !now.token_keys().delegations.contains_key(&key_id) {
        return Err(refused(&DelegationRefusal::Changed));
    }
    api.metrics.delegated();
    info!(node = %caller.name(), key_id = %key_id, "delegated transaction tokens to a node");
    Ok(DelegateResponse { delegation: statement.to_string(), now_ms: api.clock.now().unix_millis() })
}

/// The edges among the services that the node may hold.
fn edges_of(snapshot: &Snapshot, node: &Node) -> Result<Vec<Arc<Service>>, Refused> {
    let edges: Vec<_> =
        snapshot.services_of(node).into_iter().filter(|service| service.edge.is_some()).cloned().collect();
    if edges.is_empty() {
        return Err(Refused::because(
            Reason::NotAnEdge,
            format!(
                "no service that `{}` may hold is an edge; `bonafide-ca service update PATH --edge-scope WORD` makes one",
                node.name
            ),
        ));
    }
    Ok(edges)
}

fn refused(refusal: &DelegationRefusal) -> Refused {
    let text = refusal.to_string();
    match refusal {
        DelegationRefusal::NodeRemoved { .. } => Refused::because(Reason::NodeRemoved, text),
        DelegationRefusal::Changed => Refused::for_now(Reason::RegistryChanged, text, CHANGED_RETRY),
        DelegationRefusal::KeyUsed => Refused::because(Reason::KeyReserved, text),
        DelegationRefusal::TooMany { .. } => Refused::for_now(Reason::RegistryFull, text, FULL_RETRY),
    }
}

const CHANGED_RETRY: std::time::Duration = std::time::Duration::from_millis(100);
const FULL_RETRY: std::time::Duration = std::time::Duration::from_secs(60);
