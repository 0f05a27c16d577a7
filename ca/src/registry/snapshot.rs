//! The registry as it stands after one commit: immutable, shared by all that read.

use std::{collections::BTreeMap, sync::Arc};

use bonafide_ca_api::{
    NodeName, Placement,
    generated::node::{TokenServiceKey, UserIssuer},
};
use bonafide_verifier::{
    spiffe::{TrustBundle, TrustDomain},
    user::IssuerName,
};

use super::{Delegated, Invitation, Issuer, KeyHash, KeyState, Node, Service, TokenKeys, cow_map::CowMap};
use crate::store::rows::Everything;

/// A place in the CA's history.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Position {
    pub(crate) epoch: Arc<str>,
    pub(crate) version: u64,
}

/// One committed change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Taken when nodes may see it.
    pub(crate) version: Option<u64>,
    pub(crate) what: What,
}

/// What changed.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A service was added (no `before`), changed, or removed (no `after`).
    Service {
        before: Option<Arc<Service>>,
        after: Option<Arc<Service>>,
    },
    /// An issuer of users was added, has other keys, or was removed (no `after`).
    Issuer {
        name: IssuerName,
        after: Option<Arc<Issuer>>,
    },
    /// The trust domain's own bundle.
    Bundle(Arc<TrustBundle>),
    /// A node joined; another one may have had its name until then.
    NodeJoined(Arc<Node>),
    /// Keys or refusals of a node changed.
    NodeChanged(Arc<Node>),
    NodeRemoved(Arc<Node>),
    /// The open invitation of a name is this one.
    InvitationOpen(Arc<Invitation>),
    /// The name has no open invitation any more.
    InvitationClosed(NodeName),
    /// The epoch is new.
    Epoch(Arc<str>),
    /// The keys of the token service.
    TokenServiceKeys(Arc<Vec<TokenServiceKey>>),
    /// The issuers of users, with their keys of this moment.
    UserIssuers(Arc<Vec<UserIssuer>>),
    /// A delegation came, or some ended, by `kid`.
    Delegations {
        added: Option<Arc<Delegated>>,
        ended: Vec<Arc<str>>,
    },
}

/// The registry and the bundle after one commit.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    generation: u64,
    trust_domain: TrustDomain,
    epoch: Arc<str>,
    version: u64,
    bundle: Arc<TrustBundle>,
    nodes: CowMap<NodeName, Arc<Node>>,
    /// Current and pending keys of all nodes.
    keys: CowMap<KeyHash, NodeName>,
    invitations: CowMap<NodeName, Arc<Invitation>>,
    services: CowMap<Arc<str>, Arc<Service>>,
    paths: CowMap<Arc<str>, Arc<str>>,
    /// The services of each placement, by id.
    placed: CowMap<Placement, Arc<ServicesById>>,
    token_keys: Arc<TokenKeys>,
    issuers: Arc<BTreeMap<IssuerName, Arc<Issuer>>>,
    /// The generation at which an issuer was changed last.
    issuers_generation: u64,
}

type ServicesById = BTreeMap<Arc<str>, Arc<Service>>;

impl Snapshot {
    pub(super) fn new(everything: Everything, bundle: Arc<TrustBundle>) -> Self {
        let trust_domain = everything.trust_domain;
        let mut snapshot = Self {
            generation: 1,
            trust_domain: trust_domain.name,
            epoch: trust_domain.epoch,
            version: trust_domain.version,
            bundle,
            nodes: CowMap::new(),
            keys: CowMap::new(),
            invitations: CowMap::new(),
            services: CowMap::new(),
            paths: CowMap::new(),
            placed: CowMap::new(),
            token_keys: Arc::new(TokenKeys::new(&everything.authorities, everything.delegations)),
            issuers: Arc::default(),
            issuers_generation: 1,
        };
        // Keys that are too old by now are withdrawn by who keeps them fresh.
        let told = everything.issuers.iter().map(|issuer| issuer.to_wire(issuer.updated_at)).collect();
        snapshot.token_keys = Arc::new(snapshot.token_keys.with_issuers(Arc::new(told)));
        let issuers = everything.issuers.into_iter().map(|issuer| (issuer.name().clone(), Arc::new(issuer)));
        snapshot.issuers = Arc::new(issuers.collect());
        for node in everything.nodes {
            snapshot.put_node(Arc::new(node));
        }
        for invitation in everything.invitations {
            snapshot.invitations.insert(invitation.node.clone(), Arc::new(invitation));
        }
        for service in everything.services {
            snapshot.put_service(Arc::new(service));
        }
        snapshot
    }

    /// The snapshot after these commits.
    pub(super) fn with(&self, changes: &[Change]) -> Self {
        let mut next = self.clone();
        next.generation += 1;
        for change in changes {
            next.apply(change);
        }
        next
    }

    fn apply(&mut self, change: &Change) {
        if let Some(version) = change.version {
            self.version = self.version.max(version);
        }
        match &change.what {
            What::Service { before, after } => {
                if let Some(before) = before {
                    self.drop_service(before);
                }
                if let Some(after) = after {
                    self.put_service(after.clone());
                }
            }
            What::Issuer { name, after } => {
                let issuers = Arc::make_mut(&mut self.issuers);
                match after {
                    Some(issuer) => issuers.insert(name.clone(), issuer.clone()),
                    None => issuers.remove(name),
                };
                self.issuers_generation = self.generation;
            }
            What::Bundle(bundle) => self.bundle = bundle.clone(),
            What::NodeJoined(node) | What::NodeChanged(node) => self.put_node(node.clone()),
            What::NodeRemoved(node) => self.drop_node(&node.name),
            What::InvitationOpen(invitation) => {
                self.invitations.insert(invitation.node.clone(), invitation.clone());
            }
            What::InvitationClosed(node) => {
                self.invitations.remove(node);
            }
            What::Epoch(epoch) => self.epoch = epoch.clone(),
            What::TokenServiceKeys(keys) => {
                self.token_keys = Arc::new(self.token_keys.with_service(Arc::clone(keys)));
            }
            What::UserIssuers(issuers) => {
                self.token_keys = Arc::new(self.token_keys.with_issuers(Arc::clone(issuers)));
            }
            What::Delegations { added, ended } => {
                self.token_keys = Arc::new(self.token_keys.with_delegations(added.as_ref(), ended));
            }
        }
    }

    fn put_node(&mut self, node: Arc<Node>) {
        // The same node with another key: when it was last seen stands in memory first.
        if let Some(before) = self.nodes.get(&node.name)
            && before.joined_at == node.joined_at
        {
            node.seen(before.last_seen());
        }
        self.drop_node(&node.name);
        self.keys.insert(node.current_key, node.name.clone());
        if let Some(pending) = node.pending {
            self.keys.insert(pending.key, node.name.clone());
        }
        self.nodes.insert(node.name.clone(), node);
    }

    fn drop_node(&mut self, name: &NodeName) {
        if let Some(node) = self.nodes.remove(name) {
            self.keys.remove(&node.current_key);
            if let Some(pending) = node.pending {
                self.keys.remove(&pending.key);
            }
        }
    }

    fn put_service(&mut self, service: Arc<Service>) {
        self.paths.insert(service.path().into(), service.id.clone());
        for placement in &service.placements {
            let mut placed = self.placed.get(placement).cloned().unwrap_or_default();
            Arc::make_mut(&mut placed).insert(service.id.clone(), service.clone());
            self.placed.insert(placement.clone(), placed);
        }
        self.services.insert(service.id.clone(), service);
    }

    fn drop_service(&mut self, service: &Service) {
        self.paths.remove(service.path());
        for placement in &service.placements {
            let Some(mut placed) = self.placed.get(placement).cloned() else { continue };
            Arc::make_mut(&mut placed).remove(&service.id);
            if placed.is_empty() {
                self.placed.remove(placement);
            } else {
                self.placed.insert(placement.clone(), placed);
            }
        }
        self.services.remove(&service.id);
    }

    /// Grows with each snapshot of this process, also when the version does not.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The trust domain.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Where in the history this is.
    pub(crate) fn position(&self) -> Position {
        Position { epoch: self.epoch.clone(), version: self.version }
    }

    /// The epoch.
    pub(crate) fn epoch(&self) -> &Arc<str> {
        &self.epoch
    }

    /// The version.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The trust domain's own bundle as of this version.
    pub(crate) fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }

    /// What verifies transaction tokens.
    pub(crate) fn token_keys(&self) -> &Arc<TokenKeys> {
        &self.token_keys
    }

    /// The live node of that name.
    pub(crate) fn node(&self, name: &NodeName) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// The node that has this key, and what the key is to it. Older keys: [`super::Registry::retired_key`].
    pub(crate) fn node_by_key(&self, key: &KeyHash) -> Option<(&Arc<Node>, KeyState)> {
        let node = self.nodes.get(self.keys.get(key)?)?;
        Some((node, node.key_state(key)?))
    }

    /// All live nodes, by name.
    pub(crate) fn nodes(&self) -> Vec<&Arc<Node>> {
        let mut nodes: Vec<_> = self.nodes.values().collect();
        nodes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    /// How many nodes there are.
    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The open invitation of that name; it may have expired.
    pub(crate) fn invitation(&self, name: &NodeName) -> Option<&Arc<Invitation>> {
        self.invitations.get(name)
    }

    /// All open invitations, by name; some may have expired.
    pub(crate) fn invitations(&self) -> Vec<&Arc<Invitation>> {
        let mut invitations: Vec<_> = self.invitations.values().collect();
        invitations.sort_unstable_by(|a, b| a.node.cmp(&b.node));
        invitations
    }

    /// The service with that id.
    pub(crate) fn service(&self, id: &str) -> Option<&Arc<Service>> {
        self.services.get(id)
    }

    /// The service with that path, `/photo`.
    pub(crate) fn service_by_path(&self, path: &str) -> Option<&Arc<Service>> {
        self.services.get(self.paths.get(path)?)
    }

    /// All services, by path.
    pub(crate) fn services(&self) -> Vec<&Arc<Service>> {
        let mut services: Vec<_> = self.services.values().collect();
        services.sort_unstable_by(|a, b| a.path().cmp(b.path()));
        services
    }

    /// How many services there are.
    pub(crate) fn service_count(&self) -> usize {
        self.services.len()
    }

    /// All issuers of users, by name.
    pub(crate) fn issuers(&self) -> impl Iterator<Item = &Arc<Issuer>> {
        self.issuers.values()
    }

    /// The issuer of that name.
    pub(crate) fn issuer(&self, name: &IssuerName) -> Option<&Arc<Issuer>> {
        self.issuers.get(name)
    }

    /// At another generation they may have been others.
    pub(crate) fn issuers_generation(&self) -> u64 {
        self.issuers_generation
    }

    /// What that node may hold, each once, by id.
    pub(crate) fn services_of(&self, node: &Node) -> Vec<&Arc<Service>> {
        let by_name = std::iter::once(Placement::Node(node.name.clone()));
        let by_label =
            node.labels.iter().map(|(key, value)| Placement::Label { key: key.clone(), value: value.clone() });
        let mut services: Vec<_> = std::iter::once(Placement::Any)
            .chain(by_name)
            .chain(by_label)
            .filter_map(|placement| self.placed.get(&placement))
            .flat_map(|placed| placed.values())
            .collect();
        services.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        services.dedup_by(|a, b| a.id == b.id);
        services
    }

    /// The live nodes that may hold that service, by name.
    pub(crate) fn nodes_of(&self, service: &Service) -> Vec<&Arc<Node>> {
        let mut nodes: Vec<_> = match service.placements.as_slice() {
            // Often just one node is named: no need to look at all of them.
            [Placement::Node(name)] => self.nodes.get(name).into_iter().collect(),
            _ => self.nodes.values().filter(|node| service.may_run_on(node)).collect(),
        };
        nodes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    /// The same as what is in the database, for tests: what differs, in one line.
    #[cfg(test)]
    pub(crate) fn difference(&self, everything: &Everything) -> Option<String> {
        let other = Self::new(
            Everything {
                trust_domain: everything.trust_domain.clone(),
                nodes: everything.nodes.clone(),
                invitations: everything.invitations.clone(),
                services: everything.services.clone(),
                authorities: Vec::new(),
                delegations: everything.delegations.clone(),
                issuers: everything.issuers.clone(),
            },
            self.bundle.clone(),
        );
        if self.position() != other.position() {
            return Some(format!("position {:?} is {:?} in the database", self.position(), other.position()));
        }
        if self.nodes() != other.nodes() {
            return Some(format!("nodes {:?} are {:?} in the database", self.nodes(), other.nodes()));
        }
        if self.invitations() != other.invitations() {
            return Some(format!("invitations {:?} are {:?}", self.invitations(), other.invitations()));
        }
        if self.services() != other.services() {
            return Some(format!("services {:?} are {:?}", self.services(), other.services()));
        }
        if self.token_keys.delegations != other.token_keys.delegations {
            let (ours, theirs) = (&self.token_keys.delegations, &other.token_keys.delegations);
            return Some(format!("delegations {ours:?} are {theirs:?} in the database"));
        }
        if self.issuers != other.issuers {
            return Some(format!("issuers {:?} are {:?}", self.issuers, other.issuers));
        }
        let keys = |snapshot: &Self| snapshot.keys.len();
        if keys(self) != keys(&other) {
            return Some(format!("{} keys are {} in the database", keys(self), keys(&other)));
        }
        for node in self.nodes() {
            let ids = |snapshot: &Self| -> Vec<Arc<str>> {
                snapshot.services_of(node).iter().map(|service| service.id.clone()).collect()
            };
            let slow: Vec<Arc<str>> = {
                let mut held: Vec<_> = everything
                    .services
                    .iter()
                    .filter(|service| service.may_run_on(node))
                    .map(|service| service.id.clone())
                    .collect();
                held.sort_unstable();
                held
            };
            if ids(self) != slow || ids(&other) != slow {
                return Some(format!("services of {} are {:?}, expected {slow:?}", node.name, ids(self)));
            }
        }
        None
    }
}
