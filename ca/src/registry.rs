//! Who may be what: nodes, invitations, services, and whose users are believed.
//!
//! Everything is read from an immutable [`Snapshot`] in memory. A mutation runs as one transaction of the
//! [store](crate::store), with its record; the new snapshot is published by the writer after the commit and before the
//! mutation returns, so that whoever asks next sees it, and the order of snapshots is the order of commits.

mod cow_map;
mod delegation;
mod error;
mod invitation;
mod invite;
mod issuer;
mod issuers;
mod membership;
mod mint_log;
mod node;
mod service;
mod services;
mod snapshot;
#[cfg(test)]
mod tests;
mod validate;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bonafide_ca_api::NodeName;
use bonafide_verifier::{
    clock::{Clock, Timestamp},
    spiffe::{TrustBundle, TrustDomain},
};
use data_encoding::HEXLOWER;
use serde_json::json;
use tokio::sync::{broadcast, watch};

pub(crate) use self::{
    delegation::{Delegated, DelegationRefusal, NewDelegation, TokenKeys},
    error::{InviteError, JoinRefusal, NodeError, RecoverRefusal, ServiceError},
    invitation::{Bound, Invitation},
    invite::NewInvitation,
    issuer::{HeldKeys, Issuer, KeySource},
    issuers::{IssuerError, MAX_ROOTS, NewIssuer, no_usable_key},
    membership::Joined,
    mint_log::{Mint, MintLog, Stretch},
    node::{KeyHash, KeyState, Node, PendingKey, RetiredKey, StaleAttempts},
    service::{Edge, Service},
    services::{NewService, ServiceUpdate},
    snapshot::{Change, Position, Snapshot, What},
    validate::dns_problem,
};
use crate::{
    audit::{Kind, Record, Who, sha256},
    store::{Store, StoreError, Tx, TxError, rows::Everything},
};

/// What the registry admits. All settable.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub(crate) struct Rules {
    /// Live nodes; more are refused.
    pub(crate) nodes: u64,
    /// Open invitations; more are refused.
    pub(crate) open_invitations: u64,
    /// Registered services; more are refused.
    pub(crate) services: u64,
    /// Delegations at once; more are refused. All of them fit into one update.
    pub(crate) delegations: u64,
    /// DNS names of one service.
    pub(crate) dns_names: usize,
    /// An invitation lives that long, unless told otherwise; at most `longest_invitation`.
    pub(crate) invitation_ttl: Duration,
    pub(crate) longest_invitation: Duration,
    /// The X.509-SVID and JWT-SVID lifetimes of a service that names none.
    pub(crate) x509_ttl: Duration,
    pub(crate) jwt_ttl: Duration,
    /// No leaf is shorter.
    pub(crate) shortest_leaf: Duration,
    /// A third of the issuing authority's life, and of the JWT authority's.
    pub(crate) longest_x509: Duration,
    pub(crate) longest_jwt: Duration,
    /// A node that was last seen longer ago than this joins anew.
    pub(crate) recovery: Duration,
    /// Older keys that are remembered of a node.
    pub(crate) retired_keys: u32,
    /// Refusals that are recorded of one invitation; more are only logged.
    pub(crate) recorded_refusals: u64,
    /// Refusals of older keys of one node are recorded at most this often; between, they are counted.
    pub(crate) stale_every: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            nodes: 100_000,
            open_invitations: 10_000,
            services: 50_000,
            delegations: 8_000,
            dns_names: 32,
            invitation_ttl: Duration::from_secs(600),
            longest_invitation: Duration::from_secs(7 * 86_400),
            x509_ttl: Duration::from_secs(3600),
            jwt_ttl: Duration::from_secs(300),
            shortest_leaf: Duration::from_secs(10),
            longest_x509: Duration::from_secs(7 * 86_400 / 3),
            longest_jwt: Duration::from_secs(7 * 86_400 / 3),
            recovery: Duration::from_secs(30 * 86_400),
            retired_keys: 128,
            recorded_refusals: 16,
            stale_every: Duration::from_secs(60),
        }
    }
}

/// The registry of one trust domain. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    trust_domain: TrustDomain,
    store: Store,
    rules: Rules,
    clock: Arc<dyn Clock>,
    snapshot: ArcSwap<Snapshot>,
    /// Committed, not yet in the snapshot: one group of the writer becomes one snapshot.
    committed: Mutex<Vec<Change>>,
    generations: watch::Sender<u64>,
    changes: broadcast::Sender<Arc<Change>>,
    /// Refusals of older keys since the last record of each node.
    stale: Mutex<HashMap<NodeName, StaleCount>>,
}

#[derive(Clone, Copy, Debug)]
struct StaleCount {
    recorded_at: Timestamp,
    since: u64,
}

impl Registry {
    /// Takes over what was read from the database, and every later commit. Call once per store.
    pub(crate) fn new(
        store: Store,
        everything: Everything,
        bundle: Arc<TrustBundle>,
        rules: Rules,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let trust_domain = everything.trust_domain.name.clone();
        let snapshot = Snapshot::new(everything, bundle);
        let (generations, _) = watch::channel(snapshot.generation());
        let (changes, _) = broadcast::channel(CHANGES_KEPT);
        let inner = Arc::new(Inner {
            trust_domain,
            store: store.clone(),
            rules,
            clock,
            snapshot: ArcSwap::from_pointee(snapshot),
            committed: Mutex::new(Vec::new()),
            generations,
            changes,
            stale: Mutex::new(HashMap::new()),
        });
        let publisher = Arc::downgrade(&inner);
        store.after_commit(Box::new(move || {
            if let Some(inner) = publisher.upgrade() {
                inner.publish();
            }
        }));
        Self { inner }
    }

    /// The present state.
    pub(crate) fn load(&self) -> Arc<Snapshot> {
        self.inner.snapshot.load_full()
    }

    /// Tells the generation of the newest snapshot.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.generations.subscribe()
    }

    /// Tells each change, after its snapshot was published. Who falls behind by more than 4,096 is told so, and looks at the
    /// snapshot.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Arc<Change>> {
        self.inner.changes.subscribe()
    }

    /// What it admits.
    pub(crate) fn rules(&self) -> &Rules {
        &self.inner.rules
    }

    /// The trust domain.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.inner.trust_domain
    }

    /// Whose older key it is; asked for a key that no live node has.
    pub(crate) async fn retired_key(&self, key: &KeyHash) -> Result<Option<RetiredKey>, StoreError> {
        let key = *key;
        self.inner.store.read(move |reader| reader.retired_key(&key)).await
    }

    /// Makes a change part of the snapshot that follows this transaction.
    pub(crate) fn publish_with(&self, tx: &mut Tx<'_>, change: Change) {
        let inner = self.inner.clone();
        tx.on_commit(move || inner.committed.lock().unwrap_or_else(PoisonError::into_inner).push(change));
    }

    /// Publishes a new bundle with the transaction that changes it, and records that: takes the next sequence and the next
    /// version, since nodes see it. `bundle` builds it from that sequence.
    pub(crate) fn publish_bundle(
        &self,
        tx: &mut Tx<'_>,
        who: &Who,
        bundle: impl FnOnce(u64, &mut Tx<'_>) -> Result<Arc<TrustBundle>, TxError>,
    ) -> Result<(), TxError> {
        let sequence = tx.next_bundle_sequence()?;
        let version = tx.next_version()?;
        let bundle = bundle(sequence, tx)?;
        let body = json!({
            "trust_domain": bundle.trust_domain().as_str(), "sequence": sequence,
            "sha256": HEXLOWER.encode(&sha256(bundle.to_spiffe_json().as_bytes())),
        });
        tx.record(&Record::change(Kind::BundleChanged, who, body))?;
        self.publish_with(tx, Change { version: Some(version), what: What::Bundle(bundle) });
        Ok(())
    }
}

impl Inner {
    fn publish(&self) {
        let committed = std::mem::take(&mut *self.committed.lock().unwrap_or_else(PoisonError::into_inner));
        if committed.is_empty() {
            return;
        }
        let snapshot = self.snapshot.load().with(&committed);
        let generation = snapshot.generation();
        self.snapshot.store(Arc::new(snapshot));
        for change in committed {
            // Nobody listens: nothing to tell.
            let _ = self.changes.send(Arc::new(change));
        }
        self.generations.send_replace(generation);
    }
}

const CHANGES_KEPT: usize = 4096;
