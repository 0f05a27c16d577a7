//! Recover: a node that slept past the end of its SVID gets a new one for the key that it has.

use bonafide_ca_api::{
    Reason,
    generated::node::{RecoverRequest, RecoverResponse},
};
use tracing::{info, warn};

use super::{NodeApi, clocks, credential, peer::KeyCaller, refuse::Refused};
use crate::{
    issuance::KeyHash,
    metrics::{JoinKind, Outcome},
    registry::RecoverRefusal,
    store::WriteError,
};

/// Issues a node SVID for a key that is, or was pending as, a live node's. A pending one comes into use by that.
///
/// # Errors
/// No node has the key, it is an older one, the node was away for too long, or nothing could be issued.
pub(super) async fn recover(
    api: &NodeApi,
    caller: &KeyCaller,
    request: RecoverRequest,
) -> Result<RecoverResponse, Refused> {
    refuse_rate(api, caller)?;
    let at = api.issuer.time()?;
    let key = *caller.key();
    if !takes_node_share(api, key.hash())? {
        // A key that no node has costs no place in the queue of the one writer.
        let refusal = match api.registry.retired_key(key.hash().as_bytes()).await? {
            Some(old) => RecoverRefusal::Stale { node: old.node, retired_at: old.retired_at },
            None => RecoverRefusal::Unknown,
        };
        api.metrics.joined(JoinKind::Recover, Outcome::Refused);
        return Err(refuse(api, caller, refusal).await);
    }
    let node = match api.registry.recover(*key.hash().as_bytes(), caller.remote()).await {
        Ok(node) => node,
        Err(WriteError::Store(fault)) => {
            api.metrics.joined(JoinKind::Recover, Outcome::Failed);
            return Err(fault.into());
        }
        Err(WriteError::Refused(refused)) => {
            api.metrics.joined(JoinKind::Recover, Outcome::Refused);
            return Err(refuse(api, caller, refused).await);
        }
    };
    api.hub.end_other_keys(&node.name, key.hash());
    clocks::compare(request.agent.as_ref(), at, &node.name, &api.limits);
    let credential = credential::issue(api, &caller.who(), &node.name, key).await?;
    api.metrics.joined(JoinKind::Recover, Outcome::Done);
    info!(node = %node.name, peer = %caller.remote(), key = %key.hash(), "a node recovered");
    Ok(RecoverResponse { credential: Some(credential) })
}

async fn refuse(api: &NodeApi, caller: &KeyCaller, refusal: RecoverRefusal) -> Refused {
    let reason = match &refusal {
        RecoverRefusal::Unknown => Reason::KeyUnknown,
        RecoverRefusal::TooLate { .. } => Reason::RecoveryTooLate,
        RecoverRefusal::Stale { node, retired_at } => {
            return api.refuse_stale_key(node, caller.key().hash(), *retired_at, caller.remote()).await;
        }
    };
    warn!(peer = %caller.remote(), key = %caller.key().hash(), reason = reason.code(), error = %refusal,
          "refused a recovery");
    Refused::because(reason, refusal.to_string())
}

/// Takes a node SVID from the share of the node that has this key; false if none has.
pub(super) fn takes_node_share(api: &NodeApi, key: KeyHash) -> Result<bool, Refused> {
    let snapshot = api.registry.load();
    let Some((node, _)) = snapshot.node_by_key(key.as_bytes()) else { return Ok(false) };
    let taken = api.quota.node_svid(&node.name, api.clock.boot());
    if taken.granted == 0 { Err(super::over_node_quota(taken.retry_after)) } else { Ok(true) }
}

/// Takes one attempt from the share of the caller's address.
pub(super) fn refuse_rate(api: &NodeApi, caller: &KeyCaller) -> Result<(), Refused> {
    let taken = api.quota.join(caller.remote().ip(), api.clock.boot());
    if taken.granted == 1 {
        return Ok(());
    }
    Err(Refused::for_now(
        Reason::JoinRate,
        "too many joins and recoveries from this address; ask again later",
        taken.retry_after,
    ))
}
