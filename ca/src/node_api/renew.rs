//! Renew: a node has its next key certified. The key stays pending until the node first uses it, so that a lost reply or a
//! crash never locks a node out.

use bonafide_ca_api::{
    Reason,
    generated::node::{RenewRequest, RenewResponse},
};
use tracing::info;

use super::{NodeApi, clocks, credential, peer::NodeCaller, refuse::Refused};
use crate::{
    issuance::PublicKey,
    metrics::{JoinKind, Outcome},
};

/// Issues a node SVID for the node's next key. The same key may be asked for again; another one takes the place of a
/// pending one.
///
/// # Errors
/// The key is no P-256 key, or an authority's, or was ever a node's; nothing could be issued.
pub(super) async fn renew(api: &NodeApi, caller: &NodeCaller, request: RenewRequest) -> Result<RenewResponse, Refused> {
    let renewed = certify(api, caller, request).await;
    let outcome = match &renewed {
        Ok(_) => Outcome::Done,
        Err(refused) if refused.reason == Reason::Internal => Outcome::Failed,
        Err(_) => Outcome::Refused,
    };
    api.metrics.joined(JoinKind::Renew, outcome);
    renewed
}

async fn certify(api: &NodeApi, caller: &NodeCaller, request: RenewRequest) -> Result<RenewResponse, Refused> {
    let at = api.issuer.time()?;
    let next =
        PublicKey::parse(&request.public_key).map_err(|flaw| Refused::because(Reason::KeyRefused, flaw.to_string()))?;
    if api.authorities.is_authority_key(next.hash().as_bytes()) {
        return Err(Refused::because(Reason::KeyRefused, "this is the key of an authority"));
    }
    let taken = api.quota.node_svid(caller.name(), api.clock.boot());
    if taken.granted == 0 {
        return Err(super::over_node_quota(taken.retry_after));
    }
    clocks::compare(request.agent.as_ref(), at, caller.name(), &api.limits);
    let node =
        api.registry.set_pending(caller.name().clone(), caller.key().0, next.hash().0).await.map_err(Refused::from)?;
    let credential = credential::issue(api, &caller.who(), &node.name, next).await?;
    info!(node = %node.name, peer = %caller.remote(), key = %next.hash(), "certified a node's next key");
    Ok(RenewResponse { credential: Some(credential) })
}
