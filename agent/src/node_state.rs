//! What a node keeps on disk: who it is, and how far it has followed its CA.
//!
//! Two files in `--data`, beside the lock:
//!
//! - `node`: trust domain and root hash it joined, addresses of the CA, the current and the pending node key with
//!   their SVIDs, the trust bundle. One file, so that each step of a join, renewal or recovery is one rename:
//!   a kill at any moment leaves the state before the step or after it, and both go on by themselves.
//! - `view`: the services and bundles as last applied, their position, an epoch that is held or was accepted. No
//!   secret is in it. After a restart the agent says its position and gets the difference, and
//!   refuses a CA that has gone back behind it.
//!
//! A key is written and synced here before it is used or sent.

pub(crate) mod key;
pub(crate) mod stored;

use std::path::Path;

use bonafide_ca_api::CaAddress;
use bonafide_verifier::spiffe::TrustDomain;
use zeroize::Zeroizing;

use self::key::NodeKey;
use crate::state_file::{DirLock, Kind, StateDir, StateError};

/// The open data directory of one agent.
#[derive(Debug)]
pub(crate) struct DataDir {
    dir: StateDir,
    _lock: DirLock,
}

/// Who this node is.
#[derive(Debug)]
pub(crate) struct NodeState {
    /// The trust domain it joined, or is joining.
    pub(crate) trust_domain: TrustDomain,
    /// SHA-256 of the root it was invited by.
    pub(crate) root_sha256: [u8; 32],
    /// Where the CA is, in the order to try.
    pub(crate) addresses: Vec<CaAddress>,
    /// The invitation's text, until the node has joined: a restart in the middle goes on with it.
    pub(crate) invitation: Option<Zeroizing<String>>,
    /// SHA-256 of the invitation that was last redeemed, so that giving it again is told from giving a new one.
    pub(crate) redeemed: Option<[u8; 32]>,
    /// The key in use.
    pub(crate) current: HeldKey,
    /// The next key: made for a renewal, in use once the CA has certified it.
    pub(crate) pending: Option<HeldKey>,
    /// SHA-256 of the key before the current one: what was kept in memory under it is still this node's.
    pub(crate) replaced: Option<[u8; 32]>,
    /// The trust domain's bundle in SPIFFE JSON, as of the last credential.
    pub(crate) bundle: Option<Vec<u8>>,
}

/// A key and what certifies it.
#[derive(Debug)]
pub(crate) struct HeldKey {
    pub(crate) key: NodeKey,
    /// DER, leaf first; empty until the CA has certified the key.
    pub(crate) chain: Vec<Vec<u8>>,
}

impl HeldKey {
    pub(crate) fn bare(key: NodeKey) -> Self {
        Self { key, chain: Vec::new() }
    }
}

impl NodeState {
    /// Has the CA ever certified a key of this node?
    pub(crate) fn has_joined(&self) -> bool {
        !self.current.chain.is_empty()
    }
}

impl DataDir {
    /// Opens the directory for this process alone.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let dir = StateDir::open_or_create(path)?;
        let lock = dir.lock()?;
        Ok(Self { dir, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Who this node is, if it has begun to join.
    pub(crate) fn load_node(&self) -> Result<Option<NodeState>, StateError> {
        let Some(whole) = self.dir.read(NODE, NODE_KIND.file_limit())? else { return Ok(None) };
        let path = self.dir.path_of(NODE);
        let body = NODE_KIND.open(&path, &whole)?;
        stored::decode_node(body).map(Some).map_err(|reason| damaged(&path, &whole, body, reason, &NODE_KIND))
    }

    /// Who a node is, as the file's content.
    pub(crate) fn node_file(state: &NodeState) -> Zeroizing<Vec<u8>> {
        NODE_KIND.enclose(&stored::encode_node(state))
    }

    /// Writes that content; durable when it returns.
    pub(crate) fn write_node_file(&self, content: &[u8]) -> Result<(), StateError> {
        self.dir.write(NODE, content)
    }

    /// Writes who this node is; durable when it returns.
    #[cfg(test)]
    pub(crate) fn store_node(&self, state: &NodeState) -> Result<(), StateError> {
        self.write_node_file(&Self::node_file(state))
    }

    /// What was last applied, as the bytes that [`DataDir::store_view`] was given.
    pub(crate) fn load_view(&self) -> Result<Option<Vec<u8>>, StateError> {
        let Some(whole) = self.dir.read(VIEW, VIEW_KIND.file_limit())? else { return Ok(None) };
        Ok(Some(VIEW_KIND.open(&self.dir.path_of(VIEW), &whole)?.to_vec()))
    }

    /// The error for a view that is whole but says something impossible.
    pub(crate) fn view_damaged(&self, reason: String) -> StateError {
        StateError::Damaged { path: self.dir.path_of(VIEW), offset: 0, reason, remedy: VIEW_KIND.remedy }
    }

    /// Writes what was applied; durable when it returns.
    pub(crate) fn store_view(&self, body: &[u8]) -> Result<(), StateError> {
        self.dir.write(VIEW, &VIEW_KIND.enclose(body))
    }

    /// Forgets everything: the node was removed. The keys go first.
    pub(crate) fn forget_node(&self) -> Result<(), StateError> {
        self.dir.remove(NODE)?;
        self.dir.remove(VIEW)
    }
}

fn damaged(path: &Path, whole: &[u8], body: &[u8], reason: String, kind: &Kind) -> StateError {
    StateError::Damaged { path: path.to_path_buf(), offset: whole.len() - body.len(), reason, remedy: kind.remedy }
}

/// Does the directory hold a node that has joined? For `doctor`, without the lock.
pub(crate) fn peek_node(path: &Path) -> Result<Option<NodeState>, StateError> {
    let dir = StateDir::open_existing(path)?;
    let Some(whole) = dir.read(NODE, NODE_KIND.file_limit())? else { return Ok(None) };
    let path = dir.path_of(NODE);
    let body = NODE_KIND.open(&path, &whole)?;
    stored::decode_node(body).map(Some).map_err(|reason| damaged(&path, &whole, body, reason, &NODE_KIND))
}

const NODE: &str = "node";
const VIEW: &str = "view";

const NODE_KIND: Kind = Kind {
    word: "node",
    version: 1,
    limit: 4 << 20,
    remedy: "restore it from a copy made while the agent was stopped, or remove it and join again with a new \
             invitation (`bonafide-ca node invite NAME --replace`)",
};

const VIEW_KIND: Kind =
    Kind { word: "view", version: 1, limit: 128 << 20, remedy: "remove it: the agent gets it again from its CA" };

#[cfg(test)]
mod tests;
