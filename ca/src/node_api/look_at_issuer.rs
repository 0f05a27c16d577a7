//! A token of a user names a key that a node does not know: its issuer is asked once more, for all nodes together at most once a minute.

use bonafide_ca_api::{
    Reason,
    generated::node::{LookAtIssuerRequest, LookAtIssuerResponse},
};
use bonafide_verifier::user::IssuerName;

use super::{NodeApi, peer::NodeCaller, refuse::Refused};

/// Looks at an issuer's keys, unless that was done a moment ago. What is new of them goes to every node by its stream.
///
/// # Errors
/// The name is none of an issuer, or the node is none any more.
pub(super) async fn look(
    api: &NodeApi,
    caller: &NodeCaller,
    request: LookAtIssuerRequest,
) -> Result<LookAtIssuerResponse, Refused> {
    let snapshot = api.registry.load();
    caller.node_in(&snapshot)?;
    let name = IssuerName::parse(&request.issuer)
        .map_err(|error| Refused::because(Reason::InvalidMessage, format!("the name of an issuer: {error}")))?;
    // One that is not registered is no issuer: nothing is asked, and nothing kept of it.
    let looked = snapshot.issuer(&name).is_some() && api.issuers.look_again(&name).await;
    Ok(LookAtIssuerResponse { looked })
}
