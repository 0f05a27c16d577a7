//! What a start does with what it finds: the state on disk and the invitation it was given, if any.
//!
//! A second start with the same string or none goes on with what it has. Another trust domain or root is refused by name; a
//! newer invitation of the same CA waits until the CA refuses what this node has.

use bonafide_ca_api::Invitation;
use bonafide_verifier::spiffe::TrustDomain;
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use crate::node_state::{
    HeldKey, NodeState,
    key::{NodeKey, NodeKeyError},
};

/// Why a start cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// Neither state nor invitation.
    #[error(
        "this node has not joined a CA: run `bonafide-ca node invite NAME` where the CA runs, then start the agent with \
         `--join STRING` (or `--join-file FILE`)"
    )]
    NotJoined,
    /// An invitation to somewhere else.
    #[error(
        "this node is a member of `{joined}` (root {joined_root}), the invitation is for `{invited}` (root {invited_root}); \
         to join there, give the agent another `--data` directory, or stop it and remove `{data}`"
    )]
    Elsewhere { joined: TrustDomain, joined_root: String, invited: TrustDomain, invited_root: String, data: String },
    /// The stored invitation does not parse any more.
    #[error("the invitation kept in `{data}` cannot be read: {reason}; start the agent with a new one")]
    Kept { data: String, reason: String },
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] NodeKeyError),
}

/// What to go on with.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) state: NodeState,
    /// The state differs from what is on disk: write it before anything else.
    pub(crate) write: bool,
    /// For a node that has not joined: what it joins by. For one that has: a newer invitation, used only once the CA
    /// refuses what the node has.
    pub(crate) invitation: Option<Invitation>,
}

/// Decides. `data` is for messages.
pub(crate) fn plan(state: Option<NodeState>, given: Option<Invitation>, data: &str) -> Result<Plan, PlanError> {
    match (state, given) {
        (None, None) => Err(PlanError::NotJoined),
        (None, Some(invitation)) => begin(invitation),
        (Some(state), None) if state.has_joined() => Ok(Plan { state, write: false, invitation: None }),
        (Some(state), None) => {
            // Stopped in the middle of joining: the invitation was kept for this.
            let kept = state.invitation.as_ref().ok_or(PlanError::NotJoined)?;
            let invitation = Invitation::parse(kept)
                .map_err(|error| PlanError::Kept { data: data.to_owned(), reason: error.to_string() })?;
            Ok(Plan { state, write: false, invitation: Some(invitation) })
        }
        (Some(state), Some(invitation)) if state.has_joined() => go_on(state, invitation, data),
        (Some(state), Some(invitation)) => {
            // The same invitation keeps its key: the CA may have bound it already.
            let same = state
                .invitation
                .as_deref()
                .and_then(|kept| Invitation::parse(kept).ok())
                .is_some_and(|kept| kept.secret().hash() == invitation.secret().hash());
            if same { Ok(Plan { state, write: false, invitation: Some(invitation) }) } else { begin(invitation) }
        }
    }
}

/// A new node: its key is made here, and written before it is used.
pub(crate) fn begin(invitation: Invitation) -> Result<Plan, PlanError> {
    let state = NodeState {
        trust_domain: invitation.trust_domain().clone(),
        root_sha256: *invitation.root_sha256(),
        addresses: invitation.addresses().to_vec(),
        invitation: Some(Zeroizing::new(invitation.expose_secret_string().to_string())),
        redeemed: None,
        current: HeldKey::bare(NodeKey::generate()?),
        pending: None,
        replaced: None,
        bundle: None,
    };
    Ok(Plan { state, write: true, invitation: Some(invitation) })
}

fn go_on(mut state: NodeState, invitation: Invitation, data: &str) -> Result<Plan, PlanError> {
    if state.trust_domain != *invitation.trust_domain() || state.root_sha256 != *invitation.root_sha256() {
        return Err(PlanError::Elsewhere {
            joined: state.trust_domain,
            joined_root: HEXLOWER.encode(&state.root_sha256),
            invited: invitation.trust_domain().clone(),
            invited_root: HEXLOWER.encode(invitation.root_sha256()),
            data: data.to_owned(),
        });
    }
    // Where the CA is now is best known by the newest word on it.
    let mut addresses = invitation.addresses().to_vec();
    for known in &state.addresses {
        if !addresses.contains(known) && addresses.len() < ADDRESSES {
            addresses.push(known.clone());
        }
    }
    let write = addresses != state.addresses;
    state.addresses = addresses;
    let newer = state.redeemed != Some(invitation.secret().hash());
    Ok(Plan { state, write, invitation: newer.then_some(invitation) })
}

const ADDRESSES: usize = 16;

#[cfg(test)]
mod tests {
    use bonafide_ca_api::{CaAddress, InvitationSecret};
    use bonafide_verifier::clock::Timestamp;

    use super::*;

    fn invitation(trust_domain: &str, root: u8, secret: u8, address: &str) -> Invitation {
        Invitation::new(
            vec![CaAddress::parse(address).unwrap()],
            TrustDomain::parse(trust_domain).unwrap(),
            [root; 32],
            InvitationSecret::from_slice(&[secret; 32]).unwrap(),
            Timestamp::from_unix_seconds(2_000_000_000),
        )
        .unwrap()
    }

    fn joined(secret: u8) -> NodeState {
        let mut state = begin(invitation("example.org", 1, secret, "a:1")).unwrap().state;
        state.redeemed = Some(InvitationSecret::from_slice(&[secret; 32]).unwrap().hash());
        state.invitation = None;
        state.current.chain = vec![vec![1]];
        state
    }

    #[test]
    fn a_node_that_never_joined_needs_an_invitation() {
        assert!(plan(None, None, "d").unwrap_err().to_string().contains("bonafide-ca node invite"));
        let begun = plan(None, Some(invitation("example.org", 1, 1, "a:1")), "d").unwrap();
        assert!(begun.write && begun.invitation.is_some() && !begun.state.has_joined());
        // Killed here; the next start may come without the string.
        let fingerprint = begun.state.current.key.fingerprint();
        let again = plan(Some(begun.state), None, "d").unwrap();
        assert!(!again.write && again.state.current.key.fingerprint() == fingerprint);
        assert_eq!(
            again.invitation.as_ref().unwrap().secret().hash(),
            InvitationSecret::from_slice(&[1; 32]).unwrap().hash()
        );
        // The same string keeps the key, which the CA may have bound; another begins anew.
        let same = plan(Some(again.state), Some(invitation("example.org", 1, 1, "a:1")), "d").unwrap();
        assert_eq!(same.state.current.key.fingerprint(), fingerprint);
        let other = plan(Some(same.state), Some(invitation("other.org", 2, 2, "b:1")), "d").unwrap();
        assert!(other.write && other.state.current.key.fingerprint() != fingerprint);
        assert_eq!(other.state.trust_domain.as_str(), "other.org");
    }

    #[test]
    fn a_member_goes_on_with_what_it_has() {
        let none = plan(Some(joined(1)), None, "d").unwrap();
        assert!(!none.write && none.invitation.is_none());
        let same = plan(Some(joined(1)), Some(invitation("example.org", 1, 1, "a:1")), "d").unwrap();
        assert!(!same.write && same.invitation.is_none(), "the same string again is no new invitation");
        let newer = plan(Some(joined(1)), Some(invitation("example.org", 1, 2, "b:1")), "d").unwrap();
        assert!(newer.invitation.is_some() && newer.state.has_joined(), "kept for when the CA refuses");
        let addresses: Vec<String> = newer.state.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["b:1", "a:1"], "the newest word on where the CA is comes first");
        assert!(newer.write);
    }

    #[test]
    fn another_trust_domain_or_root_is_refused_by_name() {
        for other in [invitation("other.org", 1, 2, "a:1"), invitation("example.org", 9, 2, "a:1")] {
            let error = plan(Some(joined(1)), Some(other), "/var/lib/bonafide/agent").unwrap_err().to_string();
            assert!(error.contains("this node is a member of `example.org` (root 0101"), "{error}");
            assert!(error.contains("remove `/var/lib/bonafide/agent`"), "{error}");
        }
    }
}
