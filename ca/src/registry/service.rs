//! A registered identity: who may have it, where, and for how long at a time.

use std::{sync::Arc, time::Duration};

use bonafide_ca_api::{Labels, NodeName, Placement, Selector, SelectorKind};
use bonafide_verifier::{clock::Timestamp, spiffe::SpiffeId};

use super::Node;

/// A registered service. Shared between snapshots for as long as it does not change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Service {
    /// Opaque: the name in tombstones and issuance.
    pub(crate) id: Arc<str>,
    pub(crate) spiffe_id: SpiffeId,
    /// All must match. Sorted, without duplicates, at least one names a user.
    pub(crate) selectors: Vec<Selector>,
    /// Where it may run: one of them is enough. Sorted, without duplicates, never empty.
    pub(crate) placements: Vec<Placement>,
    pub(crate) x509_ttl: Duration,
    pub(crate) jwt_ttl: Duration,
    pub(crate) dns_names: Vec<String>,
    pub(crate) hint: String,
    /// What it may turn users' tokens into, if it is an edge.
    pub(crate) edge: Option<Edge>,
    /// Of its last change.
    pub(crate) version: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

/// The mark of an edge: a service that may have tokens of users exchanged for transaction tokens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Edge {
    /// What for. Sorted, without duplicates, never empty.
    pub(crate) scopes: Vec<String>,
    /// Whose users, by the names of their issuers. Sorted, without duplicates; empty: it starts only transactions of its own.
    pub(crate) issuers: Vec<String>,
}

impl Edge {
    /// Whether all that `other` may is in this one.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.scopes.iter().all(|scope| self.scopes.contains(scope))
            && other.issuers.iter().all(|issuer| self.issuers.contains(issuer))
    }
}

impl Service {
    /// The path of its SPIFFE ID, `/photo`.
    pub(crate) fn path(&self) -> &str {
        self.spiffe_id.path()
    }

    /// Whether that node may hold it.
    pub(crate) fn may_run_on(&self, node: &Node) -> bool {
        self.is_placed_on(&node.name, &node.labels)
    }

    pub(super) fn is_placed_on(&self, name: &NodeName, labels: &Labels) -> bool {
        self.placements.iter().any(|placement| placement.covers(name, labels))
    }

    /// Whether one process could be given both: unless the nodes or the facts exclude each other.
    pub(super) fn could_meet(&self, other: &Self) -> bool {
        let share_a_node =
            self.placements.iter().any(|ours| other.placements.iter().any(|theirs| could_share_a_node(ours, theirs)));
        share_a_node && could_match_together(&self.selectors, &other.selectors)
    }
}

/// A node can get any label when it joins anew, but has one value of each.
fn could_share_a_node(a: &Placement, b: &Placement) -> bool {
    match (a, b) {
        (Placement::Node(a), Placement::Node(b)) => a == b,
        (Placement::Label { key: a, value: x }, Placement::Label { key: b, value: y }) => a != b || x == y,
        (Placement::Any, _)
        | (_, Placement::Any)
        | (Placement::Node(_), Placement::Label { .. })
        | (Placement::Label { .. }, Placement::Node(_)) => true,
    }
}

/// A process has one of each fact, but for its supplementary groups.
fn could_match_together(a: &[Selector], b: &[Selector]) -> bool {
    a.iter().all(|a| {
        a.kind() == SelectorKind::UnixSupplementaryGid
            || b.iter().all(|b| b.kind() != a.kind() || b.value() == a.value())
    })
}
