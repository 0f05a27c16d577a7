//! How far a service has come: on how many live nodes it may be, and how many of these have said that they applied it.

use std::collections::HashMap;

use bonafide_ca_api::Placement;

use crate::node_api::Hub;
use crate::registry::{Node, Service, Snapshot};

/// What nodes have applied, by where they are: made once for a whole listing, so that its cost does not multiply nodes and
/// services.
pub(super) struct Rollout {
    /// The applied versions of the nodes of each placement that one word names, sorted; 0 for one that has applied nothing.
    applied: HashMap<Placement, Vec<u64>>,
    by_node: HashMap<String, u64>,
}

impl Rollout {
    /// Looks at every node once.
    pub(super) fn new(snapshot: &Snapshot, hub: &Hub) -> Self {
        let mut applied: HashMap<Placement, Vec<u64>> = HashMap::new();
        let mut by_node = HashMap::new();
        for node in snapshot.nodes() {
            let version = applied_version(snapshot, hub, node);
            by_node.insert(node.name.to_string(), version);
            applied.entry(Placement::Any).or_default().push(version);
            for (key, value) in &node.labels {
                let placement = Placement::Label { key: key.clone(), value: value.clone() };
                applied.entry(placement).or_default().push(version);
            }
        }
        applied.values_mut().for_each(|versions| versions.sort_unstable());
        Self { applied, by_node }
    }

    /// Nodes that may hold the service, and those among them that have applied it.
    pub(super) fn of(&self, snapshot: &Snapshot, service: &Service) -> (usize, usize) {
        if let [placement @ (Placement::Any | Placement::Label { .. })] = service.placements.as_slice() {
            let versions = self.applied.get(placement).map(Vec::as_slice).unwrap_or_default();
            let before = versions.partition_point(|version| *version < service.version);
            return (versions.len(), versions.len() - before);
        }
        let nodes = snapshot.nodes_of(service);
        let has_it = |node: &&&std::sync::Arc<Node>| {
            self.by_node.get(node.name.as_str()).is_some_and(|version| *version >= service.version)
        };
        (nodes.len(), nodes.iter().filter(has_it).count())
    }
}

/// The same for one service alone.
pub(super) fn of_one(snapshot: &Snapshot, hub: &Hub, service: &Service) -> (usize, usize) {
    let nodes = snapshot.nodes_of(service);
    let acknowledged = nodes.iter().filter(|node| applied_version(snapshot, hub, node) >= service.version).count();
    (nodes.len(), acknowledged)
}

/// 0 for a node that is not connected, or that is in another epoch.
fn applied_version(snapshot: &Snapshot, hub: &Hub, node: &Node) -> u64 {
    let applied = hub.status(&node.name).and_then(|stream| stream.applied);
    applied.filter(|applied| applied.epoch == snapshot.position().epoch).map_or(0, |applied| applied.version)
}
