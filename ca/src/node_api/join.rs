//! Join: a machine redeems an invitation for its key.
//!
//! The registry binds the invitation to the first key in one conditional statement; that key may ask again until its node
//! has synced once, no other key ever succeeds.

use bonafide_ca_api::{
    InvitationSecret, Reason,
    generated::node::{JoinRequest, JoinResponse},
};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{
    NodeApi, clocks, credential,
    peer::KeyCaller,
    recover::{refuse_rate, takes_node_share},
    refuse::Refused,
};
use crate::{
    metrics::{JoinKind, Outcome},
    registry::JoinRefusal,
    store::WriteError,
};

/// Redeems an invitation.
///
/// # Errors
/// The invitation is unknown, over, or another key's; the key is not a node's to use; nothing could be issued.
pub(super) async fn join(api: &NodeApi, caller: &KeyCaller, request: JoinRequest) -> Result<JoinResponse, Refused> {
    refuse_rate(api, caller)?;
    // Nothing is bound while nothing can be signed.
    let at = api.issuer.time()?;
    let given = Zeroizing::new(request.secret);
    let Some(secret) = InvitationSecret::from_slice(&given) else {
        return Err(Refused::because(Reason::InvitationUnknown, JoinRefusal::Unknown.to_string()));
    };
    let key = *caller.key();
    if api.authorities.is_authority_key(key.hash().as_bytes()) {
        return Err(Refused::because(Reason::KeyRefused, "this is the key of an authority"));
    }
    // A key that is a node's asks again for an answer that it lost: each gets the node an SVID more.
    takes_node_share(api, key.hash())?;
    // Found by its hash: no comparison of the secret itself tells by its time how much of it was right.
    let joined = match api.registry.join(secret.hash(), *key.hash().as_bytes(), caller.remote()).await {
        Ok(joined) => joined,
        Err(WriteError::Store(fault)) => {
            api.metrics.joined(JoinKind::Join, Outcome::Failed);
            return Err(fault.into());
        }
        Err(WriteError::Refused(refused)) => {
            api.metrics.joined(JoinKind::Join, Outcome::Refused);
            let refused = Refused::because(reason_of(&refused), refused.to_string());
            warn!(peer = %caller.remote(), key = %key.hash(), reason = refused.reason.code(), error = refused.message,
                  "refused a join");
            return Err(refused);
        }
    };
    let node = &joined.node;
    clocks::compare(request.agent.as_ref(), at, &node.name, &api.limits);
    let credential = credential::issue(api, &caller.who(), &node.name, key).await?;
    api.metrics.joined(JoinKind::Join, Outcome::Done);
    info!(node = %node.name, peer = %caller.remote(), key = %key.hash(), retried = joined.retried, "a node joined");
    Ok(JoinResponse { credential: Some(credential) })
}

fn reason_of(refusal: &JoinRefusal) -> Reason {
    match refusal {
        JoinRefusal::Unknown => Reason::InvitationUnknown,
        JoinRefusal::Expired { .. } => Reason::InvitationExpired,
        JoinRefusal::Bound { .. } => Reason::InvitationUsed,
        JoinRefusal::Closed { .. } | JoinRefusal::NameLive { .. } => Reason::InvitationClosed,
        JoinRefusal::KeyInUse { .. } => Reason::KeyRefused,
        JoinRefusal::TooManyNodes { .. } => Reason::Overloaded,
    }
}
