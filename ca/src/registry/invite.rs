//! Invitations: made by an administrator, redeemed by one key, closed when its node has synced.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bonafide_ca_api::{Labels, NodeName};
use data_encoding::HEXLOWER;
use serde_json::json;

use super::{Bound, Change, Invitation, InviteError, JoinRefusal, Joined, KeyHash, Node, Registry, What};
use crate::{
    audit::{Kind, Record, Who},
    store::{Abort, Tx, TxError, WriteError},
};

/// What an administrator asks for.
#[derive(Clone, Debug)]
pub(crate) struct NewInvitation {
    pub(crate) node: NodeName,
    pub(crate) labels: Labels,
    /// None: the default.
    pub(crate) ttl: Option<Duration>,
    /// The name may be live: its present node is removed when the new one joins.
    pub(crate) replace: bool,
}

impl Registry {
    /// Makes an invitation for the holder of the secret with this hash. An open one of the same name gives way.
    pub(crate) async fn invite(
        &self,
        new: NewInvitation,
        secret_hash: [u8; 32],
        who: Who,
    ) -> Result<Arc<Invitation>, WriteError<InviteError>> {
        let rules = self.rules();
        let ttl = new.ttl.unwrap_or(rules.invitation_ttl);
        let (shortest, longest) = (SHORTEST, rules.longest_invitation);
        if ttl < shortest || ttl > longest {
            return Err(WriteError::Refused(InviteError::Lifetime { ttl, shortest, longest }));
        }
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let rules = registry.rules();
                if let Some(live) = tx.node(&new.node)?
                    && !new.replace
                {
                    return Err(Abort::Refused(InviteError::Live { node: live.name, joined_at: live.joined_at }));
                }
                registry.prune(tx)?;
                registry.close(tx, &new.node, &who, "replaced by a newer invitation")?;
                if tx.count_open_invitations()? >= rules.open_invitations {
                    return Err(Abort::Refused(InviteError::TooMany { limit: rules.open_invitations }));
                }
                let invitation = Invitation {
                    id: uuid::Uuid::now_v7().to_string(),
                    node: new.node,
                    labels: new.labels,
                    replaces: new.replace,
                    created_at: tx.at(),
                    created_by: who.to_string(),
                    expires_at: tx.at().saturating_add(ttl),
                    bound: None,
                    refusals: 0,
                    closed_at: None,
                };
                tx.insert_invitation(&invitation, &secret_hash)?;
                let body = json!({
                    "node": invitation.node.as_str(), "invitation": invitation.id, "replaces": invitation.replaces,
                    "labels": invitation.labels.to_string(), "expires_at": invitation.expires_at.unix_millis(),
                });
                tx.record(&Record::change(Kind::InvitationCreated, &who, body))?;
                let invitation = Arc::new(invitation);
                let change = Change { version: None, what: What::InvitationOpen(invitation.clone()) };
                registry.publish_with(tx, change);
                Ok(invitation)
            })
            .await
    }

    /// Redeems an invitation for `key`. The first key wins; the same key may come again until its node has synced or the
    /// invitation has expired.
    pub(crate) async fn join(
        &self,
        secret_hash: [u8; 32],
        key: KeyHash,
        from: SocketAddr,
    ) -> Result<Joined, WriteError<JoinRefusal>> {
        let registry = self.clone();
        let outcome = self
            .inner
            .store
            .write(move |tx| {
                let who = Who::Key { key, from };
                let Some(invitation) = tx.invitation_by_secret(&secret_hash)? else {
                    return Err(Abort::Refused(JoinRefusal::Unknown));
                };
                if let Some(node) = registry.user_of_key(tx, &key, &invitation.node)? {
                    return Err(Abort::Refused(JoinRefusal::KeyInUse { node }));
                }
                let from = from.to_string();
                if !tx.bind_invitation(&secret_hash, &key, &from)? {
                    return registry.refuse(tx, &invitation, &key, &who).map(Err).map_err(Abort::from);
                }
                let bound = Bound { key, at: tx.at(), from };
                registry.admit(tx, invitation, bound, &who).map(Ok)
            })
            .await;
        match outcome {
            Ok(Ok(joined)) => Ok(joined),
            Ok(Err(refusal)) => Err(WriteError::Refused(refusal)),
            Err(error) => Err(error),
        }
    }

    /// Closes the invitations of nodes that have synced. Names without an open one are passed over.
    pub(crate) async fn close_invitations(
        &self,
        nodes: Vec<NodeName>,
    ) -> Result<(), WriteError<std::convert::Infallible>> {
        // Nearly always there is nothing to do: a node syncs at every start.
        let snapshot = self.load();
        let nodes: Vec<_> = nodes.into_iter().filter(|node| snapshot.invitation(node).is_some()).collect();
        if nodes.is_empty() {
            return Ok(());
        }
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                for node in &nodes {
                    let bound = tx.open_invitation(node)?.is_some_and(|invitation| invitation.bound.is_some());
                    // One that nobody has redeemed is for the successor of this node.
                    if bound {
                        registry.close(tx, node, &Who::Node(node.clone()), "its node has synced")?;
                    }
                }
                Ok(())
            })
            .await
    }

    /// Takes back the open invitation of a name that nobody has, by an administrator's word; false if there is none.
    pub(crate) async fn revoke_invitation(
        &self,
        node: NodeName,
        who: Who,
    ) -> Result<bool, WriteError<std::convert::Infallible>> {
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let open = tx.open_invitation(&node)?.is_some();
                registry.close(tx, &node, &who, "revoked")?;
                Ok(open)
            })
            .await
    }

    /// Closes the open invitation of that name, if there is one.
    pub(super) fn close(&self, tx: &mut Tx<'_>, node: &NodeName, who: &Who, reason: &str) -> Result<(), TxError> {
        let Some(id) = tx.close_invitation(node)? else { return Ok(()) };
        let body = json!({ "node": node.as_str(), "invitation": id, "reason": reason });
        tx.record(&Record::change(Kind::InvitationClosed, who, body))?;
        self.publish_with(tx, Change { version: None, what: What::InvitationClosed(node.clone()) });
        Ok(())
    }

    /// The node that uses or used this key, unless it is `node` with its present key.
    pub(super) fn user_of_key(&self, tx: &Tx<'_>, key: &KeyHash, node: &NodeName) -> Result<Option<NodeName>, TxError> {
        match tx.node_of_key(key)? {
            Some(user) if user != *node => Ok(Some(user)),
            Some(_) => Ok(None),
            None => Ok(tx.retired_key(key)?.map(|retired| retired.node)),
        }
    }

    /// The invitation is bound to the key; makes the node, unless a lost answer is asked for again.
    fn admit(
        &self,
        tx: &mut Tx<'_>,
        mut invitation: Invitation,
        bound: Bound,
        who: &Who,
    ) -> Result<Joined, Abort<JoinRefusal>> {
        let name = invitation.node.clone();
        let live = tx.node(&name)?;
        let first = invitation.bound.is_none();
        if let Some(node) = &live
            && !first
            && node.key_state(&bound.key).is_some()
        {
            let body = json!({ "node": name.as_str(), "invitation": invitation.id });
            tx.record(&Record::change(Kind::InvitationRetried, who, body))?;
            return Ok(Joined { node: Arc::new(node.clone()), retried: true });
        }
        if live.is_some() && !invitation.replaces {
            return Err(Abort::Refused(JoinRefusal::NameLive { node: name }));
        }
        let limit = self.rules().nodes;
        if live.is_none() && tx.count_nodes()? >= limit {
            return Err(Abort::Refused(JoinRefusal::TooManyNodes { limit }));
        }
        if let Some(old) = &live {
            self.end_delegations_of(tx, &old.name, who)?;
            tx.delete_node(&old.name)?;
            let body = json!({ "node": name.as_str(), "key": HEXLOWER.encode(&old.current_key), "reason": "replaced" });
            tx.record(&Record::change(Kind::NodeRemoved, who, body))?;
        }
        let node = Arc::new(Node::new(name, invitation.labels.clone(), tx.at(), tx.at(), bound.key));
        tx.insert_node(&node)?;
        let body = json!({ "node": node.name.as_str(), "invitation": invitation.id });
        tx.record(&Record::change(Kind::InvitationBound, who, body))?;
        let body = json!({
            "node": node.name.as_str(), "key": HEXLOWER.encode(&node.current_key), "labels": node.labels.to_string(),
            "invited_by": invitation.created_by,
        });
        tx.record(&Record::change(Kind::NodeJoined, who, body))?;
        invitation.bound = Some(bound);
        self.publish_with(tx, Change { version: None, what: What::InvitationOpen(Arc::new(invitation)) });
        let what = What::NodeJoined(node.clone());
        self.publish_with(tx, Change { version: None, what });
        Ok(Joined { node, retried: false })
    }

    /// Says why the conditional statement changed nothing, and records the attempt of another key.
    fn refuse(
        &self,
        tx: &mut Tx<'_>,
        invitation: &Invitation,
        key: &KeyHash,
        who: &Who,
    ) -> Result<JoinRefusal, TxError> {
        let node = invitation.node.clone();
        let refusal = match (&invitation.bound, invitation.closed_at) {
            (Some(bound), _) if bound.key != *key => {
                JoinRefusal::Bound { node, at: bound.at, from: bound.from.clone() }
            }
            (_, Some(at)) => JoinRefusal::Closed { node, at },
            (_, None) => JoinRefusal::Expired { node, expired_at: invitation.expires_at },
        };
        if invitation.refusals < self.rules().recorded_refusals {
            tx.refused_invitation(&invitation.id)?;
            let body = json!({
                "node": invitation.node.as_str(), "invitation": invitation.id, "refusal": refusal.to_string(),
            });
            tx.record(&Record::change(Kind::InvitationRefused, who, body))?;
            if invitation.closed_at.is_none() {
                let refused = Invitation { refusals: invitation.refusals + 1, ..invitation.clone() };
                self.publish_with(tx, Change { version: None, what: What::InvitationOpen(Arc::new(refused)) });
            }
        }
        Ok(refusal)
    }

    /// Forgets invitations that nobody can ask about any more.
    fn prune(&self, tx: &mut Tx<'_>) -> Result<(), TxError> {
        let before = tx.at().saturating_sub(REMEMBERED);
        for node in tx.prune_invitations(before)? {
            if let Ok(node) = NodeName::parse(&node) {
                self.publish_with(tx, Change { version: None, what: What::InvitationClosed(node) });
            }
        }
        Ok(())
    }
}

/// An expired invitation is remembered, so that whoever comes too late is told when it was used and from where.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);
const SHORTEST: Duration = Duration::from_secs(1);
