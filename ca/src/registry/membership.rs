//! A node's life after it joined: new keys, recovery, copies of its disk, removal.

use std::{net::SocketAddr, sync::Arc};

use bonafide_ca_api::NodeName;
use bonafide_verifier::clock::Timestamp;
use data_encoding::HEXLOWER;
use serde_json::json;

use super::{Change, KeyHash, KeyState, Node, NodeError, PendingKey, RecoverRefusal, Registry, StaleCount, What};
use crate::{
    audit::{Kind, Record, Who},
    store::{Abort, Tx, TxError, WriteError},
};

/// A node that joined.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    pub(crate) node: Arc<Node>,
    /// It had joined already and its answer was lost.
    pub(crate) retried: bool,
}

impl Registry {
    /// Makes `next` the pending key of a node that asks with its current key `used`. The same one may be asked for again.
    pub(crate) async fn set_pending(
        &self,
        name: NodeName,
        used: KeyHash,
        next: KeyHash,
    ) -> Result<Arc<Node>, WriteError<NodeError>> {
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let Some(mut node) = tx.node(&name)? else {
                    return Err(Abort::Refused(NodeError::Unknown { node: name }));
                };
                if node.current_key != used {
                    return Err(Abort::Refused(NodeError::NotItsKey { node: name }));
                }
                if node.current_key == next || registry.user_of_key(tx, &next, &name)?.is_some() {
                    return Err(Abort::Refused(NodeError::KeyNotNew { node: name }));
                }
                match node.pending {
                    Some(pending) if pending.key == next => {}
                    before => {
                        node.pending = Some(PendingKey { key: next, since: tx.at() });
                        tx.set_pending(&name, node.pending)?;
                        if let Some(before) = before {
                            // Certified and never used: if it turns up, it is from a copy.
                            tx.retire_key(&name, &before.key, registry.rules().retired_keys)?;
                        }
                    }
                }
                registry.changed(tx, node, Kind::NodeRenewed, &Who::Node(name), &next)
            })
            .await
    }

    /// Makes the pending key the current one, at its first use. The former one is refused from now on.
    pub(crate) async fn promote_pending(
        &self,
        name: NodeName,
        key: KeyHash,
    ) -> Result<Arc<Node>, WriteError<NodeError>> {
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let Some(node) = tx.node(&name)? else { return Err(Abort::Refused(NodeError::Unknown { node: name })) };
                match node.key_state(&key) {
                    // Two connections with the new key at the same time.
                    Some(KeyState::Current) => Ok(Arc::new(node)),
                    Some(KeyState::Pending) => {
                        let node = registry.promote(tx, node, &key)?;
                        registry.changed(tx, node, Kind::NodeKeyActivated, &Who::Node(name), &key)
                    }
                    None => Err(Abort::Refused(NodeError::NotItsKey { node: name })),
                }
            })
            .await
    }

    /// Lets a node that slept past its SVID's expiry come back with its key.
    pub(crate) async fn recover(
        &self,
        key: KeyHash,
        from: SocketAddr,
    ) -> Result<Arc<Node>, WriteError<RecoverRefusal>> {
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let found = match tx.node_of_key(&key)? {
                    Some(name) => tx.node(&name)?,
                    None => None,
                };
                let Some(node) = found else {
                    return Err(Abort::Refused(match tx.retired_key(&key)? {
                        Some(old) => RecoverRefusal::Stale { node: old.node, retired_at: old.retired_at },
                        None => RecoverRefusal::Unknown,
                    }));
                };
                let window = registry.rules().recovery;
                let last_seen = node.last_seen();
                if tx.at().since(last_seen) > window {
                    return Err(Abort::Refused(RecoverRefusal::TooLate { node: node.name, last_seen, window }));
                }
                let node = match node.key_state(&key) {
                    Some(KeyState::Pending) => registry.promote(tx, node, &key)?,
                    Some(KeyState::Current) | None => node,
                };
                registry.changed(tx, node, Kind::NodeRecovered, &Who::Key { key, from }, &key)
            })
            .await
    }

    /// Notes that an older key of a node was refused. Recorded at once for the first, then at most once a minute with how many
    /// there were, so that a copy cannot fill the disk.
    pub(crate) async fn record_stale(
        &self,
        name: NodeName,
        key: KeyHash,
        from: SocketAddr,
    ) -> Result<(), WriteError<std::convert::Infallible>> {
        let Some(count) = self.count_stale(&name) else { return Ok(()) };
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let from_text = from.to_string();
                tx.stale(&name, count, &from_text)?;
                let Some(node) = tx.node(&name)? else { return Ok(()) };
                let body = json!({ "node": name.as_str(), "key": HEXLOWER.encode(&key), "attempts": count });
                tx.record(&Record::change(Kind::NodeStaleKeyRefused, &Who::Key { key, from }, body))?;
                registry.publish_with(tx, Change { version: None, what: What::NodeChanged(Arc::new(node)) });
                Ok(())
            })
            .await
    }

    /// Notes when nodes were last heard of: at the ends of their streams. Not recorded, and no new snapshot.
    pub(crate) async fn mark_seen(
        &self,
        seen: Vec<(NodeName, Timestamp)>,
    ) -> Result<(), WriteError<std::convert::Infallible>> {
        if seen.is_empty() {
            return Ok(());
        }
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                for (name, at) in &seen {
                    tx.seen(name, *at)?;
                }
                tx.on_commit(move || {
                    let snapshot = registry.load();
                    for (name, at) in seen {
                        if let Some(node) = snapshot.node(&name) {
                            node.seen(at);
                        }
                    }
                });
                Ok(())
            })
            .await
    }

    /// Removes a node: its key is a stranger's from now on, and its open invitation is closed.
    pub(crate) async fn remove_node(&self, name: NodeName, who: Who) -> Result<(), WriteError<NodeError>> {
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let Some(node) = tx.node(&name)? else { return Err(Abort::Refused(NodeError::Unknown { node: name })) };
                registry.end_delegations_of(tx, &name, &who)?;
                tx.delete_node(&name)?;
                registry.close(tx, &name, &who, "its node was removed")?;
                let body = json!({ "node": name.as_str(), "key": HEXLOWER.encode(&node.current_key) });
                tx.record(&Record::change(Kind::NodeRemoved, &who, body))?;
                let node = Arc::new(node);
                registry.publish_with(tx, Change { version: None, what: What::NodeRemoved(node) });
                Ok(())
            })
            .await
    }

    fn promote(&self, tx: &mut Tx<'_>, mut node: Node, key: &KeyHash) -> Result<Node, TxError> {
        if tx.promote(&node.name, key)? {
            tx.retire_key(&node.name, &node.current_key, self.rules().retired_keys)?;
            node.current_key = *key;
            node.pending = None;
        }
        Ok(node)
    }

    /// Writes that a node was heard of and what changed, and publishes it.
    fn changed<E>(
        &self,
        tx: &mut Tx<'_>,
        node: Node,
        kind: Kind,
        who: &Who,
        key: &KeyHash,
    ) -> Result<Arc<Node>, Abort<E>> {
        tx.seen(&node.name, tx.at())?;
        node.seen(tx.at());
        let body = json!({ "node": node.name.as_str(), "key": HEXLOWER.encode(key) });
        tx.record(&Record::change(kind, who, body))?;
        let node = Arc::new(node);
        self.publish_with(tx, Change { version: None, what: What::NodeChanged(node.clone()) });
        Ok(node)
    }

    /// How many attempts to record now; none while the last record of this node is fresh.
    fn count_stale(&self, name: &NodeName) -> Option<u64> {
        let now = self.inner.clock.now();
        let every = self.rules().stale_every;
        let mut counts = self.inner.stale.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match counts.get_mut(name) {
            Some(count) if now.since(count.recorded_at) < every && now >= count.recorded_at => {
                count.since += 1;
                None
            }
            Some(count) => {
                let since = std::mem::take(&mut count.since) + 1;
                count.recorded_at = now;
                Some(since)
            }
            None => {
                // INVARIANT: bounded by the number of live nodes; names come from their rows.
                if counts.len() as u64 >= self.rules().nodes {
                    counts.clear();
                }
                counts.insert(name.clone(), StaleCount { recorded_at: now, since: 0 });
                Some(1)
            }
        }
    }
}
