//! Tokens that were verified already.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use foldhash::quality::RandomState;
use quick_cache::{UnitWeighter, sync::Cache};

use crate::{caller::Caller, clock::Timestamp, key_records::Use};

/// Remembers what verification said of a token, so that one seen before costs a hash instead of a signature check.
///
/// Bounded: at its capacity it drops what was not asked for. The key is SHA-256 of the token and the versions of the bundles and
/// of the other keys, so that a change of any key forgets everything. Never past a token's end. Refusals are not remembered, so nobody's
/// refusal is ever another's (trap 17).
pub(super) struct VerifiedTokens {
    // The names are hashes already; this one spreads them, by a secret of the process.
    tokens: Cache<TokenName, VerifiedToken, UnitWeighter, RandomState>,
}

/// A token under one state of all keys.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct TokenName {
    sha256: [u8; 32],
    bundles: u64,
    keys: u64,
}

impl TokenName {
    pub(super) fn new(token: &str, bundles: u64, keys: u64) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self { sha256, bundles, keys }
    }

    /// The same token under the bundles with which it was verified in the end.
    pub(super) fn under_bundles(self, bundles: u64) -> Self {
        Self { bundles, ..self }
    }
}

/// A token that was found good.
#[derive(Clone)]
pub(super) struct VerifiedToken {
    pub(super) caller: Caller,
    /// The verdict holds from here...
    pub(super) from: Timestamp,
    /// ...until its `exp`, without leeway. Between that and the end of the leeway it is verified each time.
    pub(super) until: Timestamp,
    pub(super) used: Option<Arc<Use>>,
}

impl VerifiedTokens {
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let (bound, hasher, lifecycle) = (capacity as u64, RandomState::default(), Default::default());
        Self { tokens: Cache::with(capacity, bound, UnitWeighter, hasher, lifecycle) }
    }

    pub(super) fn find(&self, name: &TokenName, at: Timestamp) -> Option<VerifiedToken> {
        self.tokens.get(name).filter(|token| token.from <= at && at < token.until)
    }

    pub(super) fn remember(&self, name: TokenName, token: VerifiedToken) {
        self.tokens.insert(name, token);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }
}

impl fmt::Debug for VerifiedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedTokens").field("remembered", &self.tokens.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        caller::{Proof, ProofKind},
        spiffe::SpiffeId,
    };

    #[test]
    fn trap_17_it_is_bounded_and_keyed_with_the_versions_of_all_keys_and_the_time() {
        let at = Timestamp::from_unix_seconds;
        let id = SpiffeId::parse("spiffe://example.org/a").unwrap();
        let caller = Caller::new(id, Proof { kind: ProofKind::JwtSvid, key_id: "1".into() }, at(20));
        let token = || {
            let caller = caller.clone();
            VerifiedToken { caller, from: at(10), until: at(20), used: None }
        };
        let tokens = VerifiedTokens::new(8);
        let name = TokenName::new("t", 1, 1);
        tokens.remember(name, token());
        let found = |name: TokenName, seconds| tokens.find(&name, at(seconds)).is_some();
        assert!(found(name, 10) && found(name, 19));
        assert!(!found(name, 9) && !found(name, 20));
        for other in [name.under_bundles(2), TokenName::new("t", 1, 2), TokenName::new("u", 1, 1)] {
            assert!(!found(other, 15));
        }
        for number in 0..1000 {
            tokens.remember(TokenName::new(&number.to_string(), 1, 1), token());
        }
        assert!(tokens.len() <= 8, "{}", tokens.len());
    }
}
