//! From the `Txn-Token` of a request to the one on whose behalf it is made.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use quick_cache::sync::Cache;

use crate::{
    authenticate::{Found, HeaderView},
    clock::Timestamp,
    jwt::{
        Compact, JwtError, MAX_TOKEN_BYTES, cut,
        delegation::{BeyondDelegation, Delegation, Minted},
        txn_token::{self, HEADER, Verified},
    },
    on_behalf_of::OnBehalfOf,
    spiffe::{JwtAuthority, TrustDomain},
};

/// Verifies the transaction tokens of one trust domain. Cheap to clone; clones are the same. CPU alone, never waits.
///
/// A request has none, or exactly one that is good; whatever else is refused. The keys are those of the token service and sign
/// nothing that proves a caller; with them may be those of agents, each of which counts for what its [`Delegation`] says and for nothing else.
/// Tokens seen before cost a hash: they are remembered until they expire, or their key is gone.
#[derive(Clone)]
pub struct TxnTokens(Arc<Shared>);

struct Shared {
    trust_domain: TrustDomain,
    keys: ArcSwap<Keys>,
    /// By the SHA-256 of the token.
    remembered: Cache<[u8; 32], Arc<Remembered>>,
    /// The `kid` in headers of tokens that were good, by their text. INVARIANT: nothing comes in here that was not signed.
    headers: Cache<Box<str>, Arc<str>>,
    finder: OnceLock<Arc<dyn FindTxnKey>>,
}

/// Looks up keys that are not known here. Whoever does it bounds how many at once, how long, and how often one is asked for again.
pub trait FindTxnKey: fmt::Debug + Send + Sync {
    /// Begins to look for a key; what comes of it is in [`TxnTokens`] when it is over. Nothing if it is not worth a look.
    fn find(&self, key_id: &str) -> Option<LookUp>;
}

/// A look that is under way.
pub type LookUp = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The keys of a moment, in the order of their IDs.
type Keys = Vec<Arc<TxnKey>>;

struct Remembered {
    verified: Verified,
    /// INVARIANT: the token counts for as long as this very key is among those of the moment.
    key: Arc<TxnKey>,
}

/// A key by which transaction tokens are verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TxnKey {
    /// One of the trust domain's token service.
    Service(JwtAuthority),
    /// One of a node's agent, for what the token service has delegated to it.
    Agent(Delegation),
}

impl TxnKey {
    /// The `kid` in its tokens.
    #[must_use]
    pub fn key_id(&self) -> &str {
        self.key().key_id()
    }

    fn key(&self) -> &JwtAuthority {
        match self {
            Self::Service(key) => key,
            Self::Agent(delegation) => &delegation.key,
        }
    }

    fn permits(&self, user: &OnBehalfOf) -> Result<(), BeyondDelegation> {
        match self {
            Self::Service(_) => Ok(()),
            Self::Agent(delegation) => delegation.permits(&Minted {
                requester: user.requester(),
                sub: user.sub(),
                scope: user.scope(),
                issued_at: user.issued_at(),
                expires_at: user.expires_at(),
            }),
        }
    }
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
        let keys =
            ArcSwap::from_pointee(checked(keys.into_iter().map(|key| Arc::new(TxnKey::Service(key))).collect())?);
        Ok(Self(Arc::new(Shared {
            trust_domain,
            keys,
            remembered: Cache::new(Self::REMEMBERED),
            headers: Cache::new(HEADERS),
            finder: OnceLock::new(),
        })))
    }

    /// For this trust domain, without keys: no token is good until [`TxnTokens::replace`].
    #[must_use]
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self(Arc::new(Shared {
            trust_domain,
            keys: ArcSwap::default(),
            remembered: Cache::new(Self::REMEMBERED),
            headers: Cache::new(HEADERS),
            finder: OnceLock::new(),
        }))
    }

    /// Takes other keys from now on, all of them the token service's. What was verified by one that is gone is verified again.
    ///
    /// # Errors
    /// As [`TxnTokens::new`]; the earlier ones stay.
    pub fn replace_keys(&self, keys: Vec<JwtAuthority>) -> Result<(), TxnKeysError> {
        self.replace(keys.into_iter().map(TxnKey::Service).collect())
    }

    /// The same with keys of agents among them.
    ///
    /// # Errors
    /// As [`TxnTokens::new`]; the earlier ones stay.
    pub fn replace(&self, keys: Vec<TxnKey>) -> Result<(), TxnKeysError> {
        let earlier = self.0.keys.load();
        let same =
            |key: TxnKey| find(&earlier, key.key_id()).filter(|held| ***held == key).cloned().unwrap_or(Arc::new(key));
        let keys = Arc::new(checked(keys.into_iter().map(same).collect())?);
        self.0.keys.store(keys);
        Ok(())
    }

    /// Has keys that are not known looked up from now on. The first one stays.
    pub fn look_up_with(&self, finder: Arc<dyn FindTxnKey>) {
        let _ = self.0.finder.set(finder);
    }

    /// To be waited for before a request with these headers is decided, if its token has a key that is not known and may be somewhere. The
    /// authorization layer does.
    #[must_use]
    pub fn look_up(&self, headers: &dyn HeaderView) -> Option<LookUp> {
        self.0.finder.get()?;
        let Found::Once(value) = headers.find(HEADER) else { return None };
        self.look_up_key_of(std::str::from_utf8(value).ok()?)
    }

    /// The same for a token alone.
    #[must_use]
    pub fn look_up_key_of(&self, token: &str) -> Option<LookUp> {
        let finder = self.0.finder.get()?;
        if self.is_of_known_key(token) {
            return None;
        }
        let compact = Compact::parse(token).ok()?;
        let key_id = compact.key_id().ok()??;
        if compact.token_type().ok()? != Some(txn_token::TYPE) || self.knows(key_id) {
            None
        } else {
            finder.find(key_id)
        }
    }

    /// Whether a token has the same header as one that was good, and its key is still there. So costs the next request of anybody whose token
    /// is of that key no more here than a look at a cache.
    fn is_of_known_key(&self, token: &str) -> bool {
        let header = token.split('.').next().unwrap_or_default();
        self.0.headers.get(header).is_some_and(|key_id| self.knows(&key_id))
    }

    /// Whether a token of this `kid` can be verified.
    #[must_use]
    pub fn knows(&self, key_id: &str) -> bool {
        find(&self.0.keys.load(), key_id).is_some()
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
        let (keys, name) = (self.0.keys.load(), name(token));
        if let Some(found) = self.remembered(&name, &keys)
            && found.verified.from <= at
            && at < found.verified.until
        {
            return Ok(found.verified.user.clone());
        }
        let compact = Compact::parse(token)?;
        let key_id = compact.key_id()?.ok_or(JwtError::Header { member: "kid" })?;
        let key = find(&keys, key_id).ok_or_else(|| JwtError::NoKey { key_id: cut(key_id) })?;
        let verified = txn_token::verify(token, &compact, key.key(), &self.0.trust_domain, at)?;
        key.permits(&verified.user)?;
        let user = verified.user.clone();
        if !self.is_of_known_key(token) {
            let header = token.split('.').next().unwrap_or_default();
            self.0.headers.insert(header.into(), key_id.into());
        }
        self.0.remembered.insert(name, Arc::new(Remembered { verified, key: Arc::clone(key) }));
        Ok(user)
    }

    /// A token that was verified before by a key that is still there.
    fn remembered(&self, name: &[u8; 32], keys: &Keys) -> Option<Arc<Remembered>> {
        let found = self.0.remembered.get(name)?;
        let holds = find(keys, found.verified.user.key_id()).is_some_and(|key| Arc::ptr_eq(key, &found.key));
        holds.then_some(found)
    }
}

/// Under which a token is remembered.
fn name(token: &str) -> [u8; 32] {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    sha256
}

fn find<'k>(keys: &'k Keys, key_id: &str) -> Option<&'k Arc<TxnKey>> {
    let place = keys.binary_search_by(|key| key.key_id().cmp(key_id)).ok()?;
    keys.get(place)
}

/// In the order of their IDs.
fn checked(mut keys: Keys) -> Result<Keys, TxnKeysError> {
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

/// So many headers are remembered: one for each key that is in use, some hundred bytes each.
const HEADERS: usize = 1024;

impl fmt::Debug for TxnTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxnTokens")
            .field("trust_domain", &self.0.trust_domain)
            .field("keys", &self.0.keys.load().len())
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
    /// A token of an agent that says more than was delegated to its key.
    #[error("transaction token: {0}")]
    Delegation(#[from] BeyondDelegation),
}

impl TxnTokenError {
    /// A name for the reason that never changes, for records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        let error = match self {
            Self::Several => return "txn-token-twice",
            Self::NotText => return "txn-token-malformed",
            Self::Delegation(_) => return "txn-token-delegation",
            Self::Token(error) => error,
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
        "txn-token-delegation",
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
