//! What the CA told this node of token keys: by what transaction tokens and the tokens of users are verified.
//!
//! Kept as it came, so that CA and node can tell by a digest whether they have the same. Each delegation is verified before it is kept.

use std::{collections::BTreeMap, sync::Arc};

use bonafide_ca_api::{generated::node, token_keys_digest};
use bonafide_verifier::{
    jwt::delegation::Delegation,
    spiffe::{JwtAuthority, TrustDomain},
    txn_tokens::TxnKey,
};
use tracing::warn;

/// A delegation with the statement that makes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HeldDelegation {
    pub(crate) statement: String,
    pub(crate) delegation: Delegation,
}

/// The keys of a view. Never changed after they were made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TokenKeys {
    service: Vec<JwtAuthority>,
    /// By `kid`.
    delegations: BTreeMap<Box<str>, Arc<HeldDelegation>>,
    issuers: Vec<node::UserIssuer>,
}

impl TokenKeys {
    /// Those of the token service.
    pub(crate) fn service(&self) -> &[JwtAuthority] {
        &self.service
    }

    /// Those of agents, in the order of their `kid`.
    pub(crate) fn delegations(&self) -> impl Iterator<Item = &Arc<HeldDelegation>> {
        self.delegations.values()
    }

    /// The agent's key of this `kid`.
    pub(crate) fn delegation(&self, key_id: &str) -> Option<&Arc<HeldDelegation>> {
        self.delegations.get(key_id)
    }

    /// The issuers of users, as they came.
    pub(crate) fn issuers(&self) -> &[node::UserIssuer] {
        &self.issuers
    }

    /// All by which transaction tokens are verified.
    pub(crate) fn txn_keys(&self) -> Vec<TxnKey> {
        let agents = self.delegations.values().map(|held| TxnKey::Agent(held.delegation.clone()));
        self.service.iter().cloned().map(TxnKey::Service).chain(agents).collect()
    }

    /// What a change makes of these.
    ///
    /// # Errors
    /// When a key of the token service cannot be read, or there is more than a node takes.
    pub(crate) fn with(&self, change: &node::TokenKeys, trust_domain: &TrustDomain) -> Result<Self, String> {
        let mut next = if change.whole { Self::default() } else { self.clone() };
        if let Some(sent) = &change.service {
            let key = |key: &node::TokenServiceKey| JwtAuthority::new(&key.key_id, &key.public_key);
            let keys: Result<Vec<_>, _> = sent.keys.iter().map(key).collect();
            next.service = keys.map_err(|error| format!("a key of the token service: {error}"))?;
        }
        if let Some(sent) = &change.issuers {
            next.issuers.clone_from(&sent.issuers);
        }
        for key_id in &change.ended {
            next.delegations.remove(key_id.as_str());
        }
        for statement in &change.delegations {
            let delegation = match Delegation::verify(statement, &next.service, trust_domain) {
                Ok(delegation) => delegation,
                // One that nobody can verify by allows nothing; the others are good all the same.
                Err(error) => {
                    warn!(error = %error, "the CA sent a delegation that cannot be used; tokens signed under it are refused here");
                    continue;
                }
            };
            let key_id = delegation.key.key_id();
            if next.service.iter().any(|key| key.key_id() == key_id) {
                warn!(
                    key_id,
                    "the CA sent a delegation whose key has the name of a key of the token service; it is not taken"
                );
                continue;
            }
            let held = HeldDelegation { statement: statement.clone(), delegation };
            let key_id: Box<str> = held.delegation.key.key_id().into();
            next.delegations.insert(key_id, Arc::new(held));
        }
        let counts = [next.service.len(), next.issuers.len(), next.delegations.len()];
        if counts.iter().zip([SERVICE_KEYS, ISSUERS, DELEGATIONS]).any(|(count, limit)| *count > limit) {
            return Err(format!("{counts:?} token keys, issuers and delegations are more than a node takes"));
        }
        Ok(next)
    }

    /// All of it, as a message.
    pub(crate) fn whole(&self) -> node::TokenKeys {
        let key = |key: &JwtAuthority| node::TokenServiceKey {
            key_id: key.key_id().to_owned(),
            public_key: key.public_key().spki().to_vec(),
        };
        node::TokenKeys {
            whole: true,
            service: Some(node::TokenServiceKeys { keys: self.service.iter().map(key).collect() }),
            delegations: self.delegations.values().map(|held| held.statement.clone()).collect(),
            ended: Vec::new(),
            issuers: Some(node::UserIssuers { issuers: self.issuers.clone() }),
        }
    }

    /// By which the CA sees whether this node has what it has.
    pub(crate) fn digest(&self) -> Vec<u8> {
        token_keys_digest(&self.whole()).to_vec()
    }
}

const SERVICE_KEYS: usize = 64;
const ISSUERS: usize = 256;
const DELEGATIONS: usize = 50_000;
