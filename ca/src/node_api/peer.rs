//! Who calls: from what TLS proved to a caller of the node API, or a refusal.
//!
//! No message names a node or a key. A caller is what the client certificate of its connection proves at the moment of the
//! call: a node that was removed, or whose key is no longer the one in its row, is refused on the connections that it has
//! open, too.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bonafide_ca_api::{NodeName, Reason, ca_id, node_name_of};
use bonafide_verifier::{clock::Timestamp, spiffe::SpiffeId, tls::Peer};
use tracing::{info, warn};

use super::{
    NodeApi,
    refuse::Refused,
    rpc::{PeerKind, Rpc},
};
use crate::{
    audit::Who,
    issuance::{KeyHash, PublicKey},
    registry::{KeyState, Node, Snapshot},
};

/// An authenticated caller. Only [`NodeApi::authenticate`] makes one.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    Key(KeyCaller),
    Node(NodeCaller),
}

/// A peer that has proved the possession of a key that could be a node's, and nothing else.
#[derive(Clone, Debug)]
pub(super) struct KeyCaller {
    key: PublicKey,
    remote: SocketAddr,
}

impl KeyCaller {
    pub(super) fn key(&self) -> &PublicKey {
        &self.key
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// As records name it.
    pub(super) fn who(&self) -> Who {
        Who::Key { key: *self.key.hash().as_bytes(), from: self.remote }
    }
}

/// A live node, with the key in its row.
#[derive(Clone, Debug)]
pub(super) struct NodeCaller {
    node: Arc<Node>,
    key: KeyHash,
    remote: SocketAddr,
}

impl NodeCaller {
    /// The node as `snapshot` has it: since the call was let in its message may have taken its time, and the node been removed, or
    /// let in anew with other labels.
    ///
    /// # Errors
    /// The node was removed, or has another key.
    pub(super) fn node_in<'a>(&self, snapshot: &'a Snapshot) -> Result<&'a Arc<Node>, Refused> {
        snapshot
            .node(self.name())
            .filter(|node| node.key_state(self.key.as_bytes()).is_some())
            .ok_or_else(|| super::ended(super::hub::EndReason::Removed, self.name()))
    }

    pub(super) fn name(&self) -> &NodeName {
        &self.node.name
    }

    pub(super) fn key(&self) -> KeyHash {
        self.key
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// As records name it.
    pub(super) fn who(&self) -> Who {
        Who::Node(self.node.name.clone())
    }
}

impl NodeApi {
    /// Decides who calls `rpc`. A node's first call with its pending key makes that its key, before the call goes on.
    ///
    /// # Errors
    /// The peer is of the other kind, is no node of ours, was removed, or has an older key.
    pub(super) async fn authenticate(&self, rpc: Rpc, peer: &Peer, remote: SocketAddr) -> Result<Caller, Refused> {
        match (rpc.takes(), peer) {
            // The listener lets nobody in without a certificate; if it ever did, nothing here would be for them.
            (PeerKind::Key | PeerKind::Node, Peer::Anonymous) => Err(Refused::because(
                Reason::PeerKind,
                format!("{} is for keys and nodes that prove themselves", rpc.name()),
            )),
            (PeerKind::Key, Peer::Key(bare)) => {
                let key = PublicKey::parse(bare.spki_der())
                    .map_err(|flaw| Refused::because(Reason::KeyRefused, flaw.to_string()))?;
                Ok(Caller::Key(KeyCaller { key, remote }))
            }
            (PeerKind::Node, Peer::Svid(svid)) => {
                let caller = self.node_of(svid.id(), KeyHash(*svid.spki_sha256()), remote).await?;
                Ok(Caller::Node(caller))
            }
            (PeerKind::Key, Peer::Svid(_)) => Err(Refused::because(
                Reason::PeerKind,
                format!("{} is for a key without an identity; a node with an SVID renews it", rpc.name()),
            )),
            (PeerKind::Node, Peer::Key(_)) => Err(Refused::because(
                Reason::PeerKind,
                format!("{} is for nodes; a key without an identity may join or recover, nothing else", rpc.name()),
            )),
        }
    }

    async fn node_of(&self, id: &SpiffeId, key: KeyHash, remote: SocketAddr) -> Result<NodeCaller, Refused> {
        let name = self.node_name(id)?;
        let snapshot = self.registry.load();
        let Some(node) = snapshot.node(&name) else {
            return Err(Refused::because(
                Reason::NodeRemoved,
                format!(
                    "the node `{name}` was removed; to have it back run `bonafide-ca node invite {name}` and start the agent \
                     with the invitation"
                ),
            ));
        };
        match node.key_state(key.as_bytes()) {
            Some(KeyState::Current) => Ok(NodeCaller { node: Arc::clone(node), key, remote }),
            Some(KeyState::Pending) => {
                let node = self.promote(&name, key).await?;
                Ok(NodeCaller { node, key, remote })
            }
            None => Err(self.refuse_foreign_key(node, key, remote).await),
        }
    }

    /// The node whose SVID this is, if it is one of ours.
    fn node_name(&self, id: &SpiffeId) -> Result<NodeName, Refused> {
        let not_a_node = |message: String| Err(Refused::because(Reason::PeerKind, message));
        if id.trust_domain() != self.issuer.trust_domain() {
            return not_a_node(format!(
                "`{id}` is of another trust domain; nodes of `{}` call here",
                self.issuer.trust_domain()
            ));
        }
        match node_name_of(id) {
            Some(name) => Ok(name),
            None if *id == ca_id(self.issuer.trust_domain()) => not_a_node(format!("`{id}` is the CA itself")),
            None => not_a_node(format!("`{id}` is no node; workloads ask their node's agent")),
        }
    }

    /// Makes the pending key the node's key. From now on its older one is refused.
    async fn promote(&self, name: &NodeName, key: KeyHash) -> Result<Arc<Node>, Refused> {
        let node = self.registry.promote_pending(name.clone(), key.0).await.map_err(Refused::from)?;
        info!(node = %name, key = %key, "a node uses its next key");
        self.hub.end_other_keys(name, key);
        Ok(node)
    }

    /// A key that is neither the current nor the pending one of the node.
    async fn refuse_foreign_key(&self, node: &Node, key: KeyHash, remote: SocketAddr) -> Refused {
        let name = &node.name;
        match self.registry.retired_key(&key.0).await {
            Err(fault) => fault.into(),
            Ok(Some(retired)) if retired.node == *name => {
                self.refuse_stale_key(name, key, retired.retired_at, remote).await
            }
            Ok(_) => {
                warn!(node = %name, peer = %remote, key = %key, reason = Reason::KeyUnknown.code(),
                      "refused a key that is not the node's");
                Refused::because(
                    Reason::KeyUnknown,
                    format!(
                        "this key is not the node `{name}`'s, which was replaced since; run `bonafide-ca node invite {name} \
                         --replace` if this machine should be it again"
                    ),
                )
            }
        }
    }

    /// An older key of a node means that a copy of its state is in use, which is recorded with its address. It does not
    /// stop the holder of the current key.
    pub(super) async fn refuse_stale_key(
        &self,
        name: &NodeName,
        key: KeyHash,
        retired_at: Timestamp,
        remote: SocketAddr,
    ) -> Refused {
        // A call that was on its way while the node's own next key came into use is no sign of a copy.
        let crossed = self.clock.now().since(retired_at) < CROSSING;
        if !crossed {
            warn!(node = %name, peer = %remote, key = %key, reason = Reason::KeyStale.code(),
                  "refused an older key of a node: a copy of its state is in use");
            if let Err(fault) = self.registry.record_stale(name.clone(), key.0, remote).await {
                return fault.into();
            }
        }
        Refused::because(
            Reason::KeyStale,
            format!(
                "this key of the node `{name}` was replaced at {retired_at}: this is a copy of its state, or one restored from \
                 a backup; stop it, or, if this is the right machine, run `bonafide-ca node invite {name} --replace`"
            ),
        )
    }
}

/// How long after a node's key was replaced calls with the older one are taken for late ones of the same agent.
const CROSSING: Duration = Duration::from_secs(60);
