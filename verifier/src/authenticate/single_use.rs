//! Which tokens were used, for a service that takes each once.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};

use super::error::AuthenticateError;
use crate::{
    caller::{Caller, CallerId},
    clock::Timestamp,
};

/// Remembers every token until it expires. Bounded: when it is full of tokens that are still good, the next is refused, since to
/// forget one would let it be used again. One caller can have a quarter of it.
pub(super) struct SingleUse {
    most: usize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The same entries as in `by_end`.
    tokens: HashMap<Token, Timestamp>,
    by_end: BTreeSet<(Timestamp, Token, Arc<CallerId>)>,
    of_caller: HashMap<Arc<CallerId>, usize>,
}

/// SHA-256 of the caller, the key and the token's ID.
type Token = [u8; 32];

#[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "only tokens have IDs"))]
impl SingleUse {
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), seen: Mutex::default() }
    }

    /// Takes the token that proved this caller, which is good until `until`.
    pub(super) fn take(&self, caller: &Caller, until: Timestamp, now: Timestamp) -> Result<(), AuthenticateError> {
        let id = caller.token_id().ok_or(AuthenticateError::NoTokenId)?;
        let token = name(caller, id);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget(now);
        if seen.tokens.contains_key(&token) {
            return Err(AuthenticateError::Replayed { token_id: id.chars().take(64).collect() });
        }
        let of_caller = seen.of_caller.get(caller.id()).copied().unwrap_or_default();
        if seen.tokens.len() >= self.most || of_caller >= self.most.div_ceil(4) {
            return Err(AuthenticateError::TooManyTokens { most: self.most });
        }
        let owner = match seen.of_caller.get_key_value(caller.id()) {
            Some((owner, _)) => Arc::clone(owner),
            None => Arc::new(caller.id().clone()),
        };
        *seen.of_caller.entry(Arc::clone(&owner)).or_default() += 1;
        seen.tokens.insert(token, until);
        seen.by_end.insert((until, token, owner));
        Ok(())
    }
}

impl Seen {
    /// Forgets what has expired: each token once, so what is taken pays for it.
    fn forget(&mut self, now: Timestamp) {
        while self.by_end.first().is_some_and(|(until, ..)| *until <= now) {
            let Some((_, token, owner)) = self.by_end.pop_first() else { return };
            self.tokens.remove(&token);
            if let Some(count) = self.of_caller.get_mut(&owner) {
                *count -= 1;
                if *count == 0 {
                    self.of_caller.remove(&owner);
                }
            }
        }
    }
}

/// Each part with its length before it, so that no two run into the same bytes.
fn name(caller: &Caller, id: &str) -> Token {
    let mut context = Context::new(&SHA256);
    for part in [caller.id().as_str(), caller.proof().kind.as_str(), id] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut name = [0; 32];
    name.copy_from_slice(context.finish().as_ref());
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        caller::{Proof, ProofKind},
        spiffe::SpiffeId,
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn caller(path: &str, token_id: &str) -> Caller {
        let id = SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap();
        Caller::new(id, Proof { kind: ProofKind::SharedSecret, key_id: "k.1".into() }, at(1000))
            .with_token_id(Some(token_id.into()))
    }

    #[test]
    fn each_token_once_until_it_expires_and_by_caller() {
        let seen = SingleUse::new(100);
        let replayed = Err(AuthenticateError::Replayed { token_id: "1".into() });
        assert_eq!(seen.take(&caller("/a", "1"), at(10), at(0)), Ok(()));
        assert_eq!(seen.take(&caller("/a", "1"), at(10), at(9)), replayed);
        assert_eq!(seen.take(&caller("/a", "2"), at(10), at(9)), Ok(()));
        assert_eq!(seen.take(&caller("/b", "1"), at(10), at(9)), Ok(()));
        // From here on the token itself is refused.
        assert_eq!(seen.take(&caller("/a", "1"), at(20), at(10)), Ok(()));
    }

    #[test]
    fn t_29_when_it_is_full_it_refuses_and_forgets_nothing() {
        let seen = SingleUse::new(8);
        let full = Err(AuthenticateError::TooManyTokens { most: 8 });
        for (path, id) in ["/a", "/b", "/c", "/d"].into_iter().flat_map(|path| [(path, "1"), (path, "2")]) {
            assert_eq!(seen.take(&caller(path, id), at(10), at(0)), Ok(()));
        }
        assert_eq!(seen.take(&caller("/e", "1"), at(10), at(0)), full);
        assert!(seen.take(&caller("/a", "1"), at(10), at(0)).is_err());
        assert_eq!(seen.take(&caller("/a", "3"), at(20), at(10)), Ok(()));
        assert_eq!(seen.take(&caller("/a", "4"), at(20), at(10)), Ok(()));
        // No more than a quarter for one caller.
        assert_eq!(seen.take(&caller("/a", "5"), at(20), at(10)), full);
        let seen = seen.seen.lock().unwrap();
        assert_eq!((seen.tokens.len(), seen.by_end.len(), seen.of_caller.len()), (2, 2, 1));
    }
}
