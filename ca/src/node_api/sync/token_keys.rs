//! What a node must be told of token keys to have those of the registry.

use std::sync::Arc;

use bonafide_ca_api::generated::node::{self as wire, Hello};

use crate::registry::TokenKeys;

/// What a node has of them, as far as this stream knows.
#[derive(Debug)]
pub(super) enum HeldKeys {
    /// It is an older agent, which is told nothing of them.
    Never,
    /// As it said, before the first update: by the digest; empty for none.
    Told(Vec<u8>),
    /// As they were sent.
    Sent(Arc<TokenKeys>),
}

impl HeldKeys {
    pub(super) fn of_hello(hello: &Hello) -> Self {
        if hello.takes_token_keys { Self::Told(hello.token_keys_digest.clone()) } else { Self::Never }
    }

    /// What brings the node to `now`, and counts as held from here on; nothing if it is there.
    pub(super) fn advance(&mut self, now: &Arc<TokenKeys>) -> Option<wire::TokenKeys> {
        let told = match self {
            Self::Never => return None,
            Self::Told(digest) if digest == now.digest() => None,
            Self::Told(_) => Some(now.whole()),
            Self::Sent(before) if Arc::ptr_eq(before, now) => None,
            Self::Sent(before) => difference(before, now),
        };
        *self = Self::Sent(Arc::clone(now));
        told
    }
}

fn difference(before: &TokenKeys, now: &TokenKeys) -> Option<wire::TokenKeys> {
    let new = |(key_id, one): &(&Arc<str>, &Arc<_>)| before.delegations.get(*key_id).is_none_or(|held| held != *one);
    let change = wire::TokenKeys {
        whole: false,
        service: (before.service != now.service).then(|| wire::TokenServiceKeys { keys: Vec::clone(&now.service) }),
        delegations: now.delegations.iter().filter(new).map(|(_, one)| one.statement.to_string()).collect(),
        ended: before
            .delegations
            .keys()
            .filter(|key_id| !now.delegations.contains_key(*key_id))
            .map(ToString::to_string)
            .collect(),
        issuers: (before.issuers != now.issuers).then(|| wire::UserIssuers { issuers: Vec::clone(&now.issuers) }),
    };
    (change != wire::TokenKeys::default()).then_some(change)
}
