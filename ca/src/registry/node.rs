//! A machine with an agent, as the registry knows it.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use bonafide_ca_api::{Labels, NodeName};
use bonafide_verifier::clock::Timestamp;

/// SHA-256 of a key's SubjectPublicKeyInfo.
pub(crate) type KeyHash = [u8; 32];

/// A live node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) labels: Labels,
    pub(crate) joined_at: Timestamp,
    /// The key it uses.
    pub(crate) current_key: KeyHash,
    /// Its next key: certified, not yet used.
    pub(crate) pending: Option<PendingKey>,
    /// What is known of copies of its disk.
    pub(crate) stale: StaleAttempts,
    /// Shared by all snapshots: it moves without any of them changing.
    last_seen: Arc<AtomicI64>,
}

/// A key that was certified for a node and has not been used yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PendingKey {
    pub(crate) key: KeyHash,
    pub(crate) since: Timestamp,
}

/// Refusals of an older key of a node: a copy of its disk is in use.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct StaleAttempts {
    pub(crate) count: u64,
    pub(crate) last_at: Option<Timestamp>,
    pub(crate) last_from: Option<String>,
}

/// What a key is to its node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum KeyState {
    /// The key it uses.
    Current,
    /// Its next key, not yet used.
    Pending,
}

/// An older key of a live node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RetiredKey {
    pub(crate) node: NodeName,
    pub(crate) retired_at: Timestamp,
}

impl Node {
    pub(crate) fn new(
        name: NodeName,
        labels: Labels,
        joined_at: Timestamp,
        last_seen: Timestamp,
        current_key: KeyHash,
    ) -> Self {
        let last_seen = Arc::new(AtomicI64::new(last_seen.unix_millis()));
        Self { name, labels, joined_at, current_key, pending: None, stale: StaleAttempts::default(), last_seen }
    }

    /// When it was last heard of. Moves on while the value is held.
    pub(crate) fn last_seen(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.last_seen.load(Ordering::Acquire))
    }

    /// Notes that it was heard of; never goes back.
    pub(super) fn seen(&self, at: Timestamp) {
        self.last_seen.fetch_max(at.unix_millis(), Ordering::AcqRel);
    }

    /// What `key` is to it.
    pub(crate) fn key_state(&self, key: &KeyHash) -> Option<KeyState> {
        if self.current_key == *key {
            Some(KeyState::Current)
        } else if self.pending.is_some_and(|pending| pending.key == *key) {
            Some(KeyState::Pending)
        } else {
            None
        }
    }
}

/// Equal in all that a row holds.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        let facts = |node: &Self| {
            (node.name.clone(), node.labels.clone(), node.joined_at, node.current_key, node.pending, node.last_seen())
        };
        facts(self) == facts(other) && self.stale == other.stale
    }
}
