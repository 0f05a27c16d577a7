//! What a node holds of token keys, in a few bytes: so that it is sent all of them only where it has others.

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;

use crate::generated::node::TokenKeys;

/// SHA-256 over the whole, whatever the order in which it came.
#[must_use]
pub fn token_keys_digest(whole: &TokenKeys) -> [u8; 32] {
    let mut whole = whole.clone();
    whole.whole = true;
    whole.ended.clear();
    whole.delegations.sort_unstable();
    if let Some(service) = &mut whole.service {
        service.keys.sort_unstable_by(|one, other| one.key_id.cmp(&other.key_id));
    }
    if let Some(issuers) = &mut whole.issuers {
        issuers.issuers.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, &whole.encode_to_vec()).as_ref());
    hash
}
