//! From the `Txn-Token` of a request to the one on whose behalf it is made.

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use quick_cache::sync::Cache;

use crate::{
    authenticate::{Found, HeaderView},
    clock::Timestamp,
    jwt::{
        Compact, JwtError, MAX_TOKEN_BYTES, cut,
        txn_token::{self, HEADER, Verified},
    },
    on_behalf_of::OnBehalfOf,
    spiffe::{JwtAuthority, TrustDomain},
};

/// Verifies the transaction tokens of one trust domain. Cheap to clone; clones are the same. CPU alone, never waits.
///
/// A request has none, or exactly one that is good; whatever else is refused. The keys are those of the token service and sign
/// nothing that proves a caller. Tokens seen before cost a hash: they are remembered under the keys of the day, until they expire.
#[derive(Clone)]
pub struct TxnTokens(Arc<Shared>);

struct Shared {
    trust_domain: TrustDomain,
    keys: ArcSwap<Keys>,
    remembered: Cache<Name, Arc<Verified>>,
}

/// The keys of a moment.
struct Keys {
    version: u64,
    keys: Vec<JwtAuthority>,
}

#[derive(Clone, Copy, Eq, Hash, PartialEq)]
struct Name {
    sha256: [u8; 32],
    keys: u64,
}

impl TxnTokens {
    /// So many tokens are remembered, up to about 20 KiB each for the largest, 2 KiB for usual ones.
    pub const REMEMBERED: usize = 4096;
    /// The most keys: those of the token service and of all agents that mint.
    pub const MOST_KEYS: usize = 100_000;

    /// For this trust domain, with these keys.
    ///
    /// # Errors
    /// When two keys have one `kid`, or there are more than [`TxnTokens::MOST_KEYS`].
    pub fn new(trust_domain: TrustDomain, keys: Vec<JwtAuthority>) -> Result<Self, TxnKeysError> {
        let keys = ArcSwap::from_pointee(Keys { version: 0, keys: checked(keys)? });
        Ok(Self(Arc::new(Shared { trust_domain, keys, remembered: Cache::new(Self::REMEMBERED) })))
    }

    /// Takes other keys from now on. What was verified under the earlier ones is verified again.
    ///
    /// # Errors
    /// As [`TxnTokens::new`]; the earlier ones stay.
    pub fn replace_keys(&self, keys: Vec<JwtAuthority>) -> Result<(), TxnKeysError> {
        let keys = checked(keys)?;
        self.0.keys.rcu(|earlier| Keys { version: earlier.version.wrapping_add(1), keys: keys.clone() });
        Ok(())
    }

    /// On whose behalf a request with these headers is made; none when it carries no token.
    ///
    /// # Errors
    /// When it carries a bad one, or more than one.
    pub fn find(&self, headers: &dyn HeaderView, at: Timestamp) -> Result<Option<OnBehalfOf>, TxnTokenError> {
        match headers.find(HEADER) {
            Found::Absent => Ok(None),
            Found::Several => Err(TxnTokenError::Several),
            Found::Once(value) => {
                let token = std::str::from_utf8(value).map_err(|_| TxnTokenError::NotText)?;
                Ok(Some(self.verify(token, at)?))
            }
        }
    }

    /// On whose behalf, by a token alone.
    ///
    /// # Errors
    /// When it is bad.
    pub fn verify(&self, token: &str, at: Timestamp) -> Result<OnBehalfOf, TxnTokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::TooLarge { bytes: token.len() }.into());
        }
        let keys = self.0.keys.load();
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let name = Name { sha256, keys: keys.version };
        if let Some(found) = self.0.remembered.get(&name).filter(|found| found.from <= at && at < found.until) {
            return Ok(found.user.clone());
        }
        let compact = Compact::parse(token)?;
        let key_id = compact.key_id()?.ok_or(JwtError::Header { member: "kid" })?;
        let place = keys.keys.binary_search_by(|key| key.key_id().cmp(key_id)).ok();
        let unknown = || JwtError::NoKey { key_id: cut(key_id) };
        let key = place.and_then(|place| keys.keys.get(place)).ok_or_else(unknown)?;
        let verified = txn_token::verify(token, &compact, key, &self.0.trust_domain, at)?;
        let user = verified.user.clone();
        self.0.remembered.insert(name, Arc::new(verified));
        Ok(user)
    }
}

/// In the order of their IDs.
fn checked(mut keys: Vec<JwtAuthority>) -> Result<Vec<JwtAuthority>, TxnKeysError> {
    if keys.len() > TxnTokens::MOST_KEYS {
        return Err(TxnKeysError::TooMany { count: keys.len() });
    }
    keys.sort_by(|one, other| one.key_id().cmp(other.key_id()));
    let twice = keys.windows(2).find_map(|pair| match pair {
        [one, other] if one.key_id() == other.key_id() => Some(cut(one.key_id())),
        _ => None,
    });
    match twice {
        Some(key_id) => Err(TxnKeysError::KeyIdTwice { key_id }),
        None => Ok(keys),
    }
}

impl fmt::Debug for TxnTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxnTokens")
            .field("trust_domain", &self.0.trust_domain)
            .field("keys", &self.0.keys.load().keys.len())
            .field("remembered", &self.0.remembered.len())
            .finish_non_exhaustive()
    }
}

/// Keys that cannot be used together.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TxnKeysError {
    /// One `kid` for two keys.
    #[error("`{}` names two keys for transaction tokens; each needs an ID of its own", .key_id.escape_default())]
    KeyIdTwice {
        /// The `kid`, cut to 64 characters.
        key_id: String,
    },
    /// More than are looked after.
    #[error("{count} keys for transaction tokens are more than {}", TxnTokens::MOST_KEYS)]
    TooMany {
        /// How many.
        count: usize,
    },
}

/// A transaction token that does not count. Whatever else the request carries, it is refused: a bad token is never taken for none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TxnTokenError {
    /// More than one header, of which two readers could take two different ones.
    #[error("the request has more than one `Txn-Token`")]
    Several,
    /// Not even text.
    #[error("the header `Txn-Token` is not text")]
    NotText,
    /// A token, and a bad one.
    #[error("transaction token: {0}")]
    Token(#[from] JwtError),
}

impl TxnTokenError {
    /// A name for the reason that never changes, for records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        let Self::Token(error) = self else {
            return if matches!(self, Self::Several) { "txn-token-twice" } else { "txn-token-malformed" };
        };
        match error {
            JwtError::Expired { .. } => "txn-token-expired",
            JwtError::NotYetValid { .. } | JwtError::IssuedInFuture { .. } => "txn-token-not-yet-valid",
            JwtError::Audience => "txn-token-audience",
            JwtError::Issuer | JwtError::NoClient { .. } => "txn-token-requester",
            JwtError::LivesTooLong { .. } => "txn-token-lifetime",
            JwtError::BadSignature | JwtError::OtherAlgorithm { .. } => "txn-token-signature",
            JwtError::NoKey { .. } => "txn-token-key",
            JwtError::Type { .. } => "txn-token-type",
            _ => "txn-token-malformed",
        }
    }

    /// Every code that [`TxnTokenError::code`] gives.
    pub const CODES: &[&str] = &[
        "txn-token-twice",
        "txn-token-malformed",
        "txn-token-expired",
        "txn-token-not-yet-valid",
        "txn-token-audience",
        "txn-token-requester",
        "txn-token-lifetime",
        "txn-token-signature",
        "txn-token-key",
        "txn-token-type",
    ];

    /// Whether it is a good token at the wrong place or time, so that the request is understood and may not go on. Else the request is
    /// malformed.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(
            self,
            Self::Token(
                JwtError::Expired { .. }
                    | JwtError::NotYetValid { .. }
                    | JwtError::IssuedInFuture { .. }
                    | JwtError::Audience
            )
        )
    }
}
