//! Delegations: which keys of agents may sign transaction tokens at this moment, and for which services.
//!
//! A row stands for a statement that the token service has signed ([`crate::issuance::delegation`]). It is written with its record before
//! the statement leaves, is pushed to every node, and ends with its time, with its node, or as soon as a service that it names loses
//! part of what was delegated.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bonafide_ca_api::{NodeName, generated::node as wire, token_keys_digest};
use bonafide_verifier::clock::Timestamp;
use serde_json::json;

use super::{Change, Node, Position, Registry, Service, What};
use crate::{
    audit::{Kind, Record, Who},
    authority::{Authority, AuthorityKind, AuthorityState},
    store::{Abort, Tx, TxError, WriteError},
};

/// A delegation that holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Delegated {
    /// The `kid` of the agent's key.
    pub(crate) key_id: Arc<str>,
    pub(crate) node: NodeName,
    /// JWS compact serialization.
    pub(crate) statement: Arc<str>,
    /// The ids of the services that it names.
    pub(crate) services: Vec<Arc<str>>,
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
}

/// A delegation that is signed and not written yet.
#[derive(Clone, Debug)]
pub(crate) struct NewDelegation {
    pub(crate) delegated: Delegated,
    /// The services as they were when it was signed.
    pub(crate) services: Vec<Arc<Service>>,
    /// SHA-256 of what was signed, hex.
    pub(crate) signed: String,
    /// The `kid` of the token service's key.
    pub(crate) issuer: String,
}

/// Why a signed delegation was not written: the statement must not leave.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum DelegationRefusal {
    /// The node was removed meanwhile.
    #[error("the node `{node}` was removed")]
    NodeRemoved { node: NodeName },
    /// A service has changed meanwhile.
    #[error("what the node may hold has changed meanwhile; ask again")]
    Changed,
    /// The key has been delegated to before.
    #[error("this key has a delegation already; make a new one for each")]
    KeyUsed,
    /// As many as there may be.
    #[error("there are {limit} delegations, which is the limit; fewer nodes with edge services are needed")]
    TooMany { limit: u64 },
}

/// What verifies transaction tokens and users' tokens, as every node is told it.
#[derive(Debug, Default)]
pub(crate) struct TokenKeys {
    /// Those of the token service, by `kid`.
    pub(crate) service: Arc<Vec<wire::TokenServiceKey>>,
    /// By `kid`.
    pub(crate) delegations: Arc<BTreeMap<Arc<str>, Arc<Delegated>>>,
    /// By name.
    pub(crate) issuers: Arc<Vec<wire::UserIssuer>>,
    digest: OnceLock<[u8; 32]>,
}

impl TokenKeys {
    pub(super) fn new(authorities: &[Authority], delegations: impl IntoIterator<Item = Delegated>) -> Self {
        let by_key = |one: Delegated| (Arc::clone(&one.key_id), Arc::new(one));
        let delegations = Arc::new(delegations.into_iter().map(by_key).collect());
        Self { service: Arc::new(service_keys(authorities)), delegations, ..Self::default() }
    }

    pub(super) fn with_delegations(&self, added: Option<&Arc<Delegated>>, ended: &[Arc<str>]) -> Self {
        let mut delegations = BTreeMap::clone(&self.delegations);
        ended.iter().for_each(|key_id| drop(delegations.remove(key_id)));
        if let Some(added) = added {
            delegations.insert(Arc::clone(&added.key_id), Arc::clone(added));
        }
        let (service, issuers) = (Arc::clone(&self.service), Arc::clone(&self.issuers));
        Self { service, delegations: Arc::new(delegations), issuers, digest: OnceLock::new() }
    }

    pub(super) fn with_service(&self, service: Arc<Vec<wire::TokenServiceKey>>) -> Self {
        let (delegations, issuers) = (Arc::clone(&self.delegations), Arc::clone(&self.issuers));
        Self { service, delegations, issuers, digest: OnceLock::new() }
    }

    pub(super) fn with_issuers(&self, issuers: Arc<Vec<wire::UserIssuer>>) -> Self {
        let (service, delegations) = (Arc::clone(&self.service), Arc::clone(&self.delegations));
        Self { service, delegations, issuers, digest: OnceLock::new() }
    }

    /// All of it, as a message.
    pub(crate) fn whole(&self) -> wire::TokenKeys {
        wire::TokenKeys {
            whole: true,
            service: Some(wire::TokenServiceKeys { keys: Vec::clone(&self.service) }),
            delegations: self.delegations.values().map(|one| one.statement.to_string()).collect(),
            ended: Vec::new(),
            issuers: Some(wire::UserIssuers { issuers: Vec::clone(&self.issuers) }),
        }
    }

    /// Of the whole; worked out once.
    pub(crate) fn digest(&self) -> &[u8; 32] {
        self.digest.get_or_init(|| token_keys_digest(&self.whole()))
    }
}

/// The keys of the token authorities whose signatures count.
fn service_keys(authorities: &[Authority]) -> Vec<wire::TokenServiceKey> {
    let counts = |row: &&Authority| row.kind == AuthorityKind::Token && row.state() != AuthorityState::Withdrawn;
    let key =
        |row: &Authority| wire::TokenServiceKey { key_id: row.id.to_string(), public_key: row.public_key.to_vec() };
    let mut keys: Vec<_> = authorities.iter().filter(counts).map(key).collect();
    keys.sort_unstable_by(|one, other| one.key_id.cmp(&other.key_id));
    keys
}

impl Registry {
    /// Has nodes told of the token authorities in `rows`, in the transaction that changes one of them.
    pub(crate) fn publish_token_service_keys(&self, tx: &mut Tx<'_>, rows: &[Authority]) -> Result<(), TxError> {
        let keys = service_keys(rows);
        if *self.load().token_keys().service != keys {
            let version = tx.next_version()?;
            let what = What::TokenServiceKeys(Arc::new(keys));
            self.publish_with(tx, Change { version: Some(version), what });
        }
        Ok(())
    }

    /// Has nodes told of these issuers of users, in the transaction that changes one of them or its keys.
    pub(crate) fn publish_user_issuers(
        &self,
        tx: &mut Tx<'_>,
        mut issuers: Vec<wire::UserIssuer>,
    ) -> Result<(), TxError> {
        issuers.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        if *self.load().token_keys().issuers != issuers {
            let version = tx.next_version()?;
            let what = What::UserIssuers(Arc::new(issuers));
            self.publish_with(tx, Change { version: Some(version), what });
        }
        Ok(())
    }

    /// Writes a signed delegation with its record and publishes it; gives the position that carries it. Those of the node that are
    /// older than its last few end, and so do all whose time is over.
    pub(crate) async fn add_delegation(
        &self,
        new: NewDelegation,
        who: Who,
    ) -> Result<Position, WriteError<DelegationRefusal>> {
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let delegated = Arc::new(new.delegated);
                let name = delegated.node.clone();
                let Some(node) = tx.node(&name)? else {
                    return Err(Abort::Refused(DelegationRefusal::NodeRemoved { node: name }));
                };
                for service in &new.services {
                    let now = tx.service(service.path(), registry.trust_domain())?;
                    if now.as_ref() != Some(&**service) || !service.may_run_on(&node) {
                        return Err(Abort::Refused(DelegationRefusal::Changed));
                    }
                }
                let mut held = tx.delegations()?;
                if held.iter().any(|one| one.key_id == delegated.key_id) {
                    return Err(Abort::Refused(DelegationRefusal::KeyUsed));
                }
                let at = tx.at();
                held.sort_unstable_by_key(|one| std::cmp::Reverse(one.issued_at));
                let mut of_node = 0;
                let mut ended = Vec::new();
                for one in &held {
                    of_node += usize::from(one.node == name);
                    if one.node == name && of_node >= KEPT_OF_A_NODE {
                        registry.end(tx, one, &who, "replaced")?;
                        ended.push(Arc::clone(&one.key_id));
                    } else if one.expires_at < at {
                        tx.delete_delegation(&one.key_id)?;
                        ended.push(Arc::clone(&one.key_id));
                    }
                }
                let limit = registry.rules().delegations;
                if (held.len() - ended.len()) as u64 >= limit {
                    return Err(Abort::Refused(DelegationRefusal::TooMany { limit }));
                }
                tx.insert_delegation(&delegated)?;
                let edges: Vec<_> = new
                    .services
                    .iter()
                    .map(|service| {
                        let edge = service.edge.as_ref();
                        json!({
                            "id": service.spiffe_id.as_str(),
                            "scope": edge.map(|edge| edge.scopes.join(" ")),
                            "issuers": edge.map(|edge| edge.issuers.clone()),
                        })
                    })
                    .collect();
                let body = json!({
                    "node": delegated.node.as_str(), "key_id": &*delegated.key_id, "edges": edges, "tbs": new.signed,
                    "issuer": new.issuer, "not_before": delegated.issued_at.unix_millis(),
                    "not_after": delegated.expires_at.unix_millis(),
                });
                tx.record(&Record::change(Kind::DelegationIssued, &who, body))?;
                let version = tx.next_version()?;
                let what = What::Delegations { added: Some(delegated), ended };
                registry.publish_with(tx, Change { version: Some(version), what });
                Ok(Position { epoch: registry.load().epoch().clone(), version })
            })
            .await
    }

    /// Ends what is delegated to a node, in the transaction that takes its name from it.
    pub(super) fn end_delegations_of(&self, tx: &mut Tx<'_>, name: &NodeName, who: &Who) -> Result<(), TxError> {
        self.end_where(tx, who, "node removed", |one| one.node == *name)
    }

    /// Ends what names a service that has lost part of what was delegated for it, in the transaction that changes it.
    pub(super) fn end_uncovered(
        &self,
        tx: &mut Tx<'_>,
        before: &Service,
        after: Option<&Service>,
        who: &Who,
    ) -> Result<(), TxError> {
        let Some(edge) = &before.edge else { return Ok(()) };
        let still_covered = after
            .and_then(|after| Some((after, after.edge.as_ref()?)))
            .filter(|(_, now)| now.covers(edge))
            .map(|(after, _)| after);
        let mut lost = Vec::new();
        for one in tx.delegations()?.into_iter().filter(|one| one.services.contains(&before.id)) {
            let covers = match still_covered {
                Some(after) => tx.node(&one.node)?.is_some_and(|node: Node| after.may_run_on(&node)),
                None => false,
            };
            if !covers {
                lost.push(one.key_id);
            }
        }
        self.end_where(tx, who, "edge changed", |one| lost.contains(&one.key_id))
    }

    fn end_where(
        &self,
        tx: &mut Tx<'_>,
        who: &Who,
        why: &'static str,
        which: impl Fn(&Delegated) -> bool,
    ) -> Result<(), TxError> {
        let mut ended = Vec::new();
        for one in tx.delegations()?.iter().filter(|one| which(one)) {
            self.end(tx, one, who, why)?;
            ended.push(Arc::clone(&one.key_id));
        }
        if !ended.is_empty() {
            let version = tx.next_version()?;
            self.publish_with(tx, Change { version: Some(version), what: What::Delegations { added: None, ended } });
        }
        Ok(())
    }

    fn end(&self, tx: &mut Tx<'_>, one: &Delegated, who: &Who, why: &'static str) -> Result<(), TxError> {
        tx.delete_delegation(&one.key_id)?;
        let body = json!({ "node": one.node.as_str(), "key_id": &*one.key_id, "reason": why });
        tx.record(&Record::change(Kind::DelegationEnded, who, body))
    }
}

/// Delegations of one node at once, the newest included: after a restart an agent has a new key, and what it signed with the earlier one
/// stays good for some minutes.
const KEPT_OF_A_NODE: usize = 4;
