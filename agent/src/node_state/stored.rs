//! The body of the file `node`: protobuf, checked as strictly as what comes from a wire.

use bonafide_ca_api::CaAddress;
use bonafide_verifier::spiffe::TrustDomain;
use prost::Message;
use zeroize::Zeroizing;

use super::{HeldKey, NodeState, key::NodeKey};

#[derive(Clone, PartialEq, prost::Message)]
struct StoredNode {
    #[prost(string, tag = "1")]
    trust_domain: String,
    #[prost(bytes = "vec", tag = "2")]
    root_sha256: Vec<u8>,
    #[prost(string, repeated, tag = "3")]
    addresses: Vec<String>,
    #[prost(string, tag = "4")]
    invitation: String,
    #[prost(bytes = "vec", tag = "5")]
    redeemed: Vec<u8>,
    #[prost(message, optional, tag = "6")]
    current: Option<StoredKey>,
    #[prost(message, optional, tag = "7")]
    pending: Option<StoredKey>,
    #[prost(bytes = "vec", tag = "8")]
    bundle: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    replaced: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredKey {
    #[prost(bytes = "vec", tag = "1")]
    pkcs8: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    chain: Vec<Vec<u8>>,
}

impl Drop for StoredKeyGuard<'_> {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.0.invitation.zeroize();
        for key in [&mut self.0.current, &mut self.0.pending].into_iter().flatten() {
            key.pkcs8.zeroize();
        }
    }
}

/// Wipes the copies of the secrets in a message.
struct StoredKeyGuard<'a>(&'a mut StoredNode);

/// The bytes of a state.
pub(crate) fn encode_node(state: &NodeState) -> Zeroizing<Vec<u8>> {
    let key = |held: &HeldKey| StoredKey { pkcs8: held.key.expose_secret().to_vec(), chain: held.chain.clone() };
    let mut stored = StoredNode {
        trust_domain: state.trust_domain.as_str().to_owned(),
        root_sha256: state.root_sha256.to_vec(),
        addresses: state.addresses.iter().map(ToString::to_string).collect(),
        invitation: state.invitation.as_deref().cloned().unwrap_or_default(),
        redeemed: state.redeemed.map(|hash| hash.to_vec()).unwrap_or_default(),
        current: Some(key(&state.current)),
        pending: state.pending.as_ref().map(key),
        bundle: state.bundle.clone().unwrap_or_default(),
        replaced: state.replaced.map(|hash| hash.to_vec()).unwrap_or_default(),
    };
    let bytes = Zeroizing::new(stored.encode_to_vec());
    drop(StoredKeyGuard(&mut stored));
    bytes
}

/// The state in these bytes, or why there is none.
pub(crate) fn decode_node(body: &[u8]) -> Result<NodeState, String> {
    let mut stored = StoredNode::decode(body).map_err(|error| format!("the content does not decode: {error}"))?;
    let guard = StoredKeyGuard(&mut stored);
    let stored = &*guard.0;
    let trust_domain =
        TrustDomain::parse(&stored.trust_domain).map_err(|error| format!("its trust domain: {error}"))?;
    let hash = |name: &str, bytes: &[u8]| {
        <[u8; 32]>::try_from(bytes).map_err(|_| format!("its {name} has {} bytes, not 32", bytes.len()))
    };
    let optional_hash = |name: &str, bytes: &[u8]| match bytes {
        [] => Ok(None),
        bytes => hash(name, bytes).map(Some),
    };
    let held = |name: &str, key: &StoredKey| {
        let node_key = NodeKey::from_pkcs8(&key.pkcs8).map_err(|error| format!("its {name} key: {error}"))?;
        Ok::<_, String>(HeldKey { key: node_key, chain: key.chain.clone() })
    };
    Ok(NodeState {
        trust_domain,
        root_sha256: hash("root hash", &stored.root_sha256)?,
        addresses: stored
            .addresses
            .iter()
            .map(|address| CaAddress::parse(address).map_err(|error| format!("its CA addresses: {error}")))
            .collect::<Result<_, _>>()?,
        invitation: (!stored.invitation.is_empty()).then(|| Zeroizing::new(stored.invitation.clone())),
        redeemed: optional_hash("hash of the invitation", &stored.redeemed)?,
        replaced: optional_hash("hash of the key before", &stored.replaced)?,
        current: held("current", stored.current.as_ref().ok_or("it has no current key")?)?,
        pending: stored.pending.as_ref().map(|key| held("pending", key)).transpose()?,
        bundle: (!stored.bundle.is_empty()).then(|| stored.bundle.clone()),
    })
}
