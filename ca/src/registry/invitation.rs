//! The single use of a name: who may become which node, and which key did first.

use bonafide_ca_api::{Labels, NodeName};
use bonafide_verifier::clock::Timestamp;

use super::KeyHash;

/// An invitation, without its secret: of that only the hash is in the database.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Invitation {
    /// For records.
    pub(crate) id: String,
    pub(crate) node: NodeName,
    pub(crate) labels: Labels,
    /// Whether the live node of that name is removed when the new one joins.
    pub(crate) replaces: bool,
    pub(crate) created_at: Timestamp,
    pub(crate) created_by: String,
    pub(crate) expires_at: Timestamp,
    /// The key that redeemed it.
    pub(crate) bound: Option<Bound>,
    /// Refusals of other keys.
    pub(crate) refusals: u64,
    /// The node synced once or was removed, or a newer invitation took its place.
    pub(crate) closed_at: Option<Timestamp>,
}

/// The first key that redeemed an invitation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Bound {
    pub(crate) key: KeyHash,
    pub(crate) at: Timestamp,
    pub(crate) from: String,
}
