//! A node's SVID with all that comes with it: what join, recovery and renewal answer.

use bonafide_ca_api::{NodeName, generated::node::NodeCredential, node_id};

use super::{NodeApi, refuse::Refused};
use crate::{
    audit::Who,
    issuance::{LeafRequest, PublicKey, Recipient},
};

/// Issues the SVID of a node for a key that the registry has as its current or pending one.
///
/// # Errors
/// Nothing could be issued, or the node was removed meanwhile.
pub(super) async fn issue(
    api: &NodeApi,
    who: &Who,
    node: &NodeName,
    key: PublicKey,
) -> Result<NodeCredential, Refused> {
    let request = LeafRequest::node(api.issuer.trust_domain(), node, api.lifetimes.node, key);
    let recipient = Recipient { who, node: Some(node) };
    let issued = api.issuer.issue_one(recipient, request).await?;
    // From the moment of its removal a node gets nothing, not even what was being signed.
    let snapshot = api.registry.load();
    let still = snapshot.node(node).is_some_and(|node| node.key_state(key.hash().as_bytes()).is_some());
    if !still {
        return Err(super::ended(super::hub::EndReason::Removed, node));
    }
    api.note_issued(crate::audit::SvidKind::Node, 1);
    let issuing = issued.authority().facts().certificate().to_vec();
    Ok(NodeCredential {
        spiffe_id: node_id(api.issuer.trust_domain(), node).as_str().to_owned(),
        chain: vec![issued.into_certificate(), issuing],
        bundle: snapshot.bundle().to_spiffe_json().into_bytes(),
        now_ms: api.clock.now().unix_millis(),
    })
}
